/* The scan of a ModelProto: wire format, then pieces one by one, then what holds between pieces.
 *
 * Field numbers are those of sentencepiece_model.proto. Fields we do not know are stepped over if
 * well-formed; the library ignores them as well. A field given twice counts as its last
 * occurrence, as in any protobuf reader. */
#include "tokenizer/tok_proto.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/utf8.h"

/* ---- wire format ---- */

enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

typedef struct reader {
    const uint8_t *p, *end;
    const uint8_t *start; /* of the file, for positions in messages */
} reader;

typedef struct field {
    uint32_t number;
    int wire;
    uint64_t value; /* varint, fixed */
    tok_span bytes; /* WIRE_BYTES */
    size_t at;      /* position of the field in the file */
} field;

static size_t left(const reader *r) {
    return (size_t)(r->end - r->p);
}

static bool read_varint(reader *r, uint64_t *out) {
    uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (r->p == r->end)
            return false;
        uint8_t b = *r->p++;
        if (shift == 63 && b > 1)
            return false;
        v |= (uint64_t)(b & 0x7F) << shift;
        if (!(b & 0x80)) {
            *out = v;
            return true;
        }
    }
    return false;
}

static bool read_fixed(reader *r, size_t n, uint64_t *out) {
    if (left(r) < n)
        return false;
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++)
        v |= (uint64_t)r->p[i] << (8 * i);
    r->p += n;
    *out = v;
    return true;
}

static bool read_value(reader *r, field *f) {
    switch (f->wire) {
    case WIRE_VARINT:
        return read_varint(r, &f->value);
    case WIRE_FIXED64:
        return read_fixed(r, 8, &f->value);
    case WIRE_FIXED32:
        return read_fixed(r, 4, &f->value);
    case WIRE_BYTES:
        if (!read_varint(r, &f->value) || f->value > left(r))
            return false;
        f->bytes = (tok_span){(const char *)r->p, (size_t)f->value};
        r->p += f->value;
        return true;
    default:
        return false; /* groups and reserved types */
    }
}

/* The next field, or the end of the message (r->p == r->end must be tested first). */
static tnl_status next_field(reader *r, field *f, tnl_error *err) {
    memset(f, 0, sizeof *f);
    f->at = (size_t)(r->p - r->start);
    uint64_t tag;
    if (!read_varint(r, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1FFFFFFF)
        return tnl_fail(err, TNL_E_DATA, "byte %zu: not a field tag", f->at);
    f->number = (uint32_t)(tag >> 3);
    f->wire = (int)(tag & 7);
    if (!read_value(r, f))
        return tnl_fail(err, TNL_E_DATA, "byte %zu: field %u (wire type %d) is cut or malformed",
                        f->at, f->number, f->wire);
    return TNL_OK;
}

static tnl_status want_wire(const field *f, int wire, tnl_error *err) {
    if (f->wire == wire)
        return TNL_OK;
    return tnl_fail(err, TNL_E_DATA, "byte %zu: field %u has wire type %d, expected %d", f->at,
                    f->number, f->wire, wire);
}

static reader sub_reader(const reader *r, const field *f) {
    const uint8_t *p = (const uint8_t *)f->bytes.s;
    return (reader){p, p + f->bytes.n, r->start};
}

/* ---- the scan's working state ---- */

typedef struct scan {
    tok_proto *out;
    size_t cap;
    tok_span bos_name, eos_name, pad_name;
    bool suffix_spaces;
    size_t n_bytes, n_unk;
} scan;

static tok_span span_of(const char *s) {
    return (tok_span){s, strlen(s)};
}

static void set_defaults(scan *s) {
    *s->out = (tok_proto){.model_type = 1,
                          .add_dummy_prefix = true,
                          .remove_extra_whitespaces = true,
                          .escape_whitespaces = true,
                          .unk = -1,
                          .bos = -1,
                          .eos = -1,
                          .pad = -1,
                          .unk_surface = span_of(" \xE2\x81\x87 ")};
    s->bos_name = span_of("<s>");
    s->eos_name = span_of("</s>");
    s->pad_name = span_of("<pad>");
}

/* ---- pieces ---- */

static tnl_status read_piece(reader r, tok_row *row, uint64_t *type, tok_span *text,
                             tnl_error *err) {
    *type = TOK_NORMAL;
    *text = (tok_span){"", 0};
    while (r.p != r.end) {
        field f;
        TNL_TRY(next_field(&r, &f, err));
        if (f.number == 1) {
            TNL_TRY(want_wire(&f, WIRE_BYTES, err));
            *text = f.bytes;
        } else if (f.number == 2) {
            TNL_TRY(want_wire(&f, WIRE_FIXED32, err));
            uint32_t bits = (uint32_t)f.value;
            memcpy(&row->score, &bits, sizeof bits);
        } else if (f.number == 3) {
            TNL_TRY(want_wire(&f, WIRE_VARINT, err));
            *type = f.value;
        }
    }
    return TNL_OK;
}

/* "<0xHH>", upper case, as the library spells byte pieces. */
static bool byte_spelling(tok_span t, uint8_t *value) {
    static const char digits[] = "0123456789ABCDEF";
    if (t.n != 6 || memcmp(t.s, "<0x", 3) != 0 || t.s[5] != '>' || !t.s[3] || !t.s[4])
        return false;
    const char *hi = strchr(digits, t.s[3]), *lo = strchr(digits, t.s[4]);
    if (!hi || !lo)
        return false;
    *value = (uint8_t)((hi - digits) << 4 | (lo - digits));
    return true;
}

/* Beyond this a sum of scores over a long text would lose its order in float. */
static const float max_score = 1e9f;

static tnl_status check_piece(size_t id, tok_row *row, uint64_t type, tok_span t, tnl_error *err) {
    if (t.n == 0 || t.n > TOK_MAX_PIECE_BYTES)
        return tnl_fail(err, TNL_E_DATA, "piece %zu has %zu bytes, expected 1 to %d", id, t.n,
                        TOK_MAX_PIECE_BYTES);
    if (memchr(t.s, 0, t.n))
        return tnl_fail(err, TNL_E_DATA, "piece %zu contains a NUL byte", id);
    if (!tnl_utf8_valid(t.s, t.n))
        return tnl_fail(err, TNL_E_DATA, "piece %zu is not UTF-8", id);
    if (type == TOK_CONTROL && tnl_utf8_char_len(t.s, t.n) == (int)t.n)
        return tnl_fail(err, TNL_E_UNSUPPORTED,
                        "piece %zu is a control piece of one character, which texts may contain",
                        id);
    if (type < TOK_NORMAL || type > TOK_BYTE)
        return tnl_fail(err, TNL_E_DATA, "piece %zu has type %llu, expected 1 to 6", id,
                        (unsigned long long)type);
    if (!isfinite(row->score) || fabsf(row->score) > max_score)
        return tnl_fail(err, TNL_E_DATA, "piece %zu has score %g, expected a finite number", id,
                        (double)row->score);
    if (type == TOK_BYTE && !byte_spelling(t, &row->byte))
        return tnl_fail(err, TNL_E_DATA, "piece %zu is a byte spelled \"%.*s\", expected <0xHH>",
                        id, (int)t.n, t.s);
    row->text = t.s;
    row->n = (uint16_t)t.n;
    row->type = (uint8_t)type;
    return TNL_OK;
}

static tnl_status push_row(scan *s, tok_row row, tnl_error *err) {
    tok_proto *p = s->out;
    if (p->n_rows == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 1024; /* at most 2^20 rows: no overflow */
        tok_row *rows = realloc(p->rows, cap * sizeof *rows);
        if (!rows)
            return tnl_fail(err, TNL_E_NOMEM, "no memory for %zu pieces", cap);
        p->rows = rows;
        s->cap = cap;
    }
    p->rows[p->n_rows++] = row;
    return TNL_OK;
}

static tnl_status scan_piece(scan *s, reader r, tnl_error *err) {
    tok_proto *p = s->out;
    size_t id = p->n_rows;
    tok_row row = {0};
    uint64_t type;
    tok_span text;
    if (id == TOK_MAX_PIECES)
        return tnl_fail(err, TNL_E_DATA, "more than %d pieces", TOK_MAX_PIECES);
    TNL_TRY(read_piece(r, &row, &type, &text, err));
    TNL_TRY(check_piece(id, &row, type, text, err));
    if (row.type == TOK_BYTE)
        s->n_bytes++;
    if (row.type == TOK_UNKNOWN) {
        s->n_unk++;
        p->unk = (int32_t)id;
    }
    return push_row(s, row, err);
}

/* ---- the other messages ---- */

static tnl_status scan_trainer(scan *s, reader r, tnl_error *err) {
    tok_proto *p = s->out;
    while (r.p != r.end) {
        field f;
        TNL_TRY(next_field(&r, &f, err));
        bool is_text = f.number >= 44 && f.number <= 48;
        if (is_text || f.number == 3 || f.number == 24 || f.number == 35)
            TNL_TRY(want_wire(&f, is_text ? WIRE_BYTES : WIRE_VARINT, err));
        switch (f.number) {
        case 3:
            p->model_type = f.value == 1 || f.value == 2 ? (int)f.value : 0;
            break;
        case 24:
            s->suffix_spaces = f.value != 0;
            break;
        case 35:
            p->byte_fallback = f.value != 0;
            break;
        case 44:
            p->unk_surface = f.bytes;
            break;
        case 46:
            s->bos_name = f.bytes;
            break;
        case 47:
            s->eos_name = f.bytes;
            break;
        case 48:
            s->pad_name = f.bytes;
            break;
        default:
            break;
        }
    }
    return TNL_OK;
}

static tnl_status scan_normalizer(scan *s, reader r, tnl_error *err) {
    tok_proto *p = s->out;
    while (r.p != r.end) {
        field f;
        TNL_TRY(next_field(&r, &f, err));
        if (f.number >= 2 && f.number <= 5)
            TNL_TRY(want_wire(&f, f.number == 2 ? WIRE_BYTES : WIRE_VARINT, err));
        switch (f.number) {
        case 2:
            p->charsmap = f.bytes;
            break;
        case 3:
            p->add_dummy_prefix = f.value != 0;
            break;
        case 4:
            p->remove_extra_whitespaces = f.value != 0;
            break;
        case 5:
            p->escape_whitespaces = f.value != 0;
            break;
        default:
            break;
        }
    }
    return TNL_OK;
}

/* Rules applied after decoding: no known model has them, and our decoder does not apply them. */
static tnl_status scan_denormalizer(reader r, tnl_error *err) {
    while (r.p != r.end) {
        field f;
        TNL_TRY(next_field(&r, &f, err));
        if (f.number == 2 && (f.wire != WIRE_BYTES || f.bytes.n != 0))
            return tnl_fail(err, TNL_E_UNSUPPORTED, "denormaliser rules are not supported");
    }
    return TNL_OK;
}

static tnl_status scan_top(scan *s, reader r, tnl_error *err) {
    while (r.p != r.end) {
        field f;
        TNL_TRY(next_field(&r, &f, err));
        if (f.number > 5)
            continue;
        TNL_TRY(want_wire(&f, WIRE_BYTES, err));
        reader sub = sub_reader(&r, &f);
        switch (f.number) {
        case 1:
            TNL_TRY(scan_piece(s, sub, err));
            break;
        case 2:
            TNL_TRY(scan_trainer(s, sub, err));
            break;
        case 3:
            TNL_TRY(scan_normalizer(s, sub, err));
            break;
        case 5:
            TNL_TRY(scan_denormalizer(sub, err));
            break;
        default: /* 4: texts the library checks itself with, under the probe's limits */
            break;
        }
    }
    return TNL_OK;
}

/* ---- what holds between pieces ---- */

static tnl_status check_totals(const scan *s, tnl_error *err) {
    const tok_proto *p = s->out;
    if (p->n_rows == 0)
        return tnl_fail(err, TNL_E_DATA, "no pieces");
    if (s->n_unk != 1)
        return tnl_fail(err, TNL_E_DATA, "%zu pieces of type unknown, expected exactly 1",
                        s->n_unk);
    if (s->n_bytes != (p->byte_fallback ? 256 : 0))
        return tnl_fail(err, TNL_E_DATA, "%zu byte pieces with byte fallback %s, expected %d",
                        s->n_bytes, p->byte_fallback ? "on" : "off", p->byte_fallback ? 256 : 0);
    if (p->model_type == 0)
        return tnl_fail(err, TNL_E_UNSUPPORTED, "model type is neither unigram nor BPE");
    if (s->suffix_spaces)
        return tnl_fail(err, TNL_E_UNSUPPORTED, "spaces marked behind words are not supported");
    tok_span u = p->unk_surface;
    if (u.n > TOK_MAX_PIECE_BYTES || memchr(u.s, 0, u.n) || !tnl_utf8_valid(u.s, u.n))
        return tnl_fail(err, TNL_E_DATA, "unk_surface: expected at most %d bytes of UTF-8",
                        TOK_MAX_PIECE_BYTES);
    return TNL_OK;
}

static int by_text(const void *a, const void *b) {
    const tok_row *x = *(const tok_row *const *)a, *y = *(const tok_row *const *)b;
    int c = memcmp(x->text, y->text, x->n < y->n ? x->n : y->n);
    return c ? c : (x->n > y->n) - (x->n < y->n);
}

static bool is_prefix(const tok_row *a, const tok_row *b) {
    return a->n <= b->n && memcmp(a->text, b->text, a->n) == 0;
}

/* In sorted order the prefixes of a piece are a stack: those that do not fit are left behind. */
static tnl_status check_nesting(const tok_row *const *sorted, size_t n, const tok_row *rows,
                                tnl_error *err) {
    const tok_row *open[TOK_MAX_NESTED];
    size_t depth = 0;
    for (size_t i = 0; i < n; i++) {
        if (sorted[i]->type != TOK_USER)
            continue;
        while (depth > 0 && !is_prefix(open[depth - 1], sorted[i]))
            depth--;
        if (depth == TOK_MAX_NESTED)
            return tnl_fail(err, TNL_E_DATA,
                            "user-defined piece %zu begins with more than %d others",
                            (size_t)(sorted[i] - rows), TOK_MAX_NESTED - 1);
        open[depth++] = sorted[i];
    }
    return TNL_OK;
}

static tnl_status check_distinct(const tok_row *const *sorted, size_t n, const tok_row *rows,
                                 tnl_error *err) {
    for (size_t i = 1; i < n; i++) {
        if (by_text(&sorted[i - 1], &sorted[i]) == 0)
            return tnl_fail(err, TNL_E_DATA, "pieces %zu and %zu are the same text",
                            (size_t)(sorted[i - 1] - rows), (size_t)(sorted[i] - rows));
    }
    return TNL_OK;
}

static tnl_status check_order(const tok_proto *p, tnl_error *err) {
    const tok_row **sorted = malloc(p->n_rows * sizeof *sorted);
    if (!sorted)
        return tnl_fail(err, TNL_E_NOMEM, "no memory to sort %zu pieces", p->n_rows);
    for (size_t i = 0; i < p->n_rows; i++)
        sorted[i] = &p->rows[i];
    qsort(sorted, p->n_rows, sizeof *sorted, by_text);
    tnl_status st = check_distinct(sorted, p->n_rows, p->rows, err);
    if (st == TNL_OK)
        st = check_nesting(sorted, p->n_rows, p->rows, err);
    free(sorted);
    return st;
}

/* Special ids go by name, and only control pieces count: the library's rule. */
static int32_t control_id(const tok_proto *p, tok_span name) {
    for (size_t i = 0; i < p->n_rows; i++) {
        const tok_row *r = &p->rows[i];
        if (r->type == TOK_CONTROL && r->n == name.n && memcmp(r->text, name.s, name.n) == 0)
            return (int32_t)i;
    }
    return -1;
}

tnl_status tok_proto_scan(tok_proto *out, const uint8_t *bytes, size_t n, tnl_error *err) {
    scan s = {.out = out};
    set_defaults(&s);
    tnl_status st;
    if (n == 0 || n > TOK_MAX_FILE_BYTES)
        return tnl_fail(err, TNL_E_DATA, "%zu bytes, expected 1 to %d", n, TOK_MAX_FILE_BYTES);
    if ((st = scan_top(&s, (reader){bytes, bytes + n, bytes}, err)) != TNL_OK ||
        (st = check_totals(&s, err)) != TNL_OK || (st = check_order(out, err)) != TNL_OK ||
        (st = tok_charsmap_check(out->charsmap, err)) != TNL_OK) {
        tok_proto_free(out);
        return st;
    }
    out->bos = control_id(out, s.bos_name);
    out->eos = control_id(out, s.eos_name);
    out->pad = control_id(out, s.pad_name);
    return TNL_OK;
}

void tok_proto_free(tok_proto *p) {
    free(p->rows);
    memset(p, 0, sizeof *p);
}
