/* Opening a tokenizer (read, scan, probe, load), the table of pieces and whole-text decoding. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tokenizer/tok_impl.h"
#include "tokenizer/tok_probe.h"

/* ---- reading the file ---- */

static tnl_status read_all(int fd, uint8_t *buf, size_t n, tnl_error *err) {
    size_t done = 0;
    while (done < n) {
        ssize_t r = read(fd, buf + done, n - done);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return tnl_fail(err, TNL_E_IO, "%s", strerror(errno));
        if (r == 0)
            return tnl_fail(err, TNL_E_IO, "ends at byte %zu of %zu", done, n);
        done += (size_t)r;
    }
    return TNL_OK;
}

static tnl_status read_fd(int fd, uint8_t **out, size_t *n, tnl_error *err) {
    struct stat sb;
    if (fstat(fd, &sb) != 0)
        return tnl_fail(err, TNL_E_IO, "%s", strerror(errno));
    if (!S_ISREG(sb.st_mode))
        return tnl_fail(err, TNL_E_DATA, "not a regular file");
    if (sb.st_size < 1 || sb.st_size > TOK_MAX_FILE_BYTES)
        return tnl_fail(err, TNL_E_DATA, "%lld bytes, expected 1 to %d", (long long)sb.st_size,
                        TOK_MAX_FILE_BYTES);
    *n = (size_t)sb.st_size;
    uint8_t *buf = malloc(*n);
    if (!buf)
        return tnl_fail(err, TNL_E_NOMEM, "no memory for %zu bytes", *n);
    tnl_status st = read_all(fd, buf, *n, err);
    if (st == TNL_OK)
        *out = buf;
    else
        free(buf);
    return st;
}

static tnl_status read_file(const char *path, uint8_t **out, size_t *n, tnl_error *err) {
    /* O_NONBLOCK: a FIFO in place of the file must not hang the start. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return tnl_fail(err, TNL_E_NO_INPUT, "%s", strerror(errno));
    tnl_status st = read_fd(fd, out, n, err);
    close(fd);
    return st;
}

/* ---- the table of pieces ---- */

/* Write the bytes that a row contributes to a text; returns their number. */
static size_t piece_bytes(const tok_proto *p, const tok_row *row, char *out) {
    size_t w = 0;
    if (row->type == TOK_CONTROL)
        return 0;
    if (row->type == TOK_BYTE) {
        out[0] = (char)row->byte;
        return 1;
    }
    if (row->type == TOK_UNKNOWN) {
        memcpy(out, p->unk_surface.s, p->unk_surface.n);
        return p->unk_surface.n;
    }
    for (size_t i = 0; i < row->n;) {
        if (row->n - i >= sizeof tok_space_mark &&
            !memcmp(row->text + i, tok_space_mark, sizeof tok_space_mark)) {
            out[w++] = ' ';
            i += sizeof tok_space_mark;
        } else {
            out[w++] = row->text[i++];
        }
    }
    return w;
}

static size_t pool_bytes(const tok_proto *p) {
    size_t n = p->unk_surface.n;
    for (size_t i = 0; i < p->n_rows; i++)
        n += 2 * (size_t)p->rows[i].n + 1;
    return n;
}

static tnl_status build_table(tok_model *t, const tok_proto *p, tnl_error *err) {
    t->entries = calloc(p->n_rows, sizeof *t->entries);
    t->pool = malloc(pool_bytes(p));
    if (!t->entries || !t->pool)
        return tnl_fail(err, TNL_E_NOMEM, "no memory for a table of %zu pieces", p->n_rows);
    char *w = t->pool;
    for (size_t i = 0; i < p->n_rows; i++) {
        const tok_row *row = &p->rows[i];
        tok_entry *e = &t->entries[i];
        e->name = w;
        memcpy(w, row->text, row->n);
        w[row->n] = '\0';
        w += row->n + 1;
        e->bytes = w;
        e->n_bytes = (uint16_t)piece_bytes(p, row, w);
        w += e->n_bytes;
        e->type = row->type;
        bool spelled = row->type != TOK_CONTROL && row->type != TOK_UNKNOWN;
        e->space_mark = spelled && row->n >= sizeof tok_space_mark &&
                        memcmp(row->text, tok_space_mark, sizeof tok_space_mark) == 0;
    }
    return TNL_OK;
}

static void copy_settings(tok_model *t, const tok_proto *p) {
    t->vocab = (int32_t)p->n_rows;
    t->unk = p->unk;
    t->bos = p->bos;
    t->eos = p->eos;
    t->dummy_prefix = p->add_dummy_prefix;
    t->strip_first = p->add_dummy_prefix || p->remove_extra_whitespaces;
    t->strip_runs = p->remove_extra_whitespaces;
    t->splits = tok_can_split(p);
}

/* ---- open, close ---- */

/* A text that meets many pieces: the first ones, then some from all over the vocabulary. */
enum { SAMPLE_BYTES = 64 * 1024 };

static size_t make_sample(const tok_proto *p, char *out) {
    size_t n = 0, stride = p->n_rows / 8192 + 1;
    for (size_t i = 0; i < p->n_rows; i += i < 1024 ? 1 : stride) {
        const tok_row *r = &p->rows[i];
        if (r->n > SAMPLE_BYTES - n)
            break;
        memcpy(out + n, r->text, r->n);
        n += r->n;
    }
    return n;
}

static tnl_status probe(const tok_proto *p, const uint8_t *bytes, size_t n, tnl_error *err) {
    char *sample = malloc(SAMPLE_BYTES);
    if (!sample)
        return tnl_fail(err, TNL_E_NOMEM, "no memory for a sample text");
    tnl_status st = tok_probe(bytes, n, sample, make_sample(p, sample), err);
    free(sample);
    return st;
}

static tnl_status build(tok_model *t, const uint8_t *bytes, size_t n, bool tried, tnl_error *err) {
    tok_proto p;
    TNL_TRY(tok_proto_scan(&p, bytes, n, err));
    tnl_status st;
    if ((st = tried ? TNL_OK : probe(&p, bytes, n, err)) == TNL_OK &&
        (st = tok_spm_open(&t->spm, bytes, n, err)) == TNL_OK)
        st = build_table(t, &p, err);
    copy_settings(t, &p);
    tok_proto_free(&p);
    return st;
}

static tnl_status open_path(tok_model **out, const char *path, bool tried, tnl_error *err) {
    uint8_t *bytes = NULL;
    size_t n = 0;
    tok_model *t = NULL;
    tnl_status st;
    if ((st = read_file(path, &bytes, &n, err)) != TNL_OK)
        goto fail;
    t = calloc(1, sizeof *t);
    if (!t) {
        st = tnl_fail(err, TNL_E_NOMEM, "no memory");
        goto fail;
    }
    if ((st = build(t, bytes, n, tried, err)) != TNL_OK)
        goto fail;
    free(bytes);
    *out = t;
    return TNL_OK;
fail:
    free(bytes);
    tok_close(t);
    return st;
}

static tnl_status open_folder(tok_model **out, const char *dir, bool tried, tnl_error *err) {
    *out = NULL;
    size_t cap = strlen(dir) + sizeof "/tokenizer.model";
    char *path = malloc(cap);
    if (!path)
        return tnl_fail(err, TNL_E_NOMEM, "no memory for a path of %zu bytes", cap);
    snprintf(path, cap, "%s/tokenizer.model", dir);
    tnl_error inner = {TNL_OK, ""};
    tnl_status st = open_path(out, path, tried, &inner);
    if (st != TNL_OK)
        tnl_fail(err, st, "%s: %s", path, inner.msg);
    free(path);
    return st;
}

tnl_status tok_open(tok_model **out, const char *dir, tnl_error *err) {
    return open_folder(out, dir, false, err);
}

tnl_status tok_open_tried(tok_model **out, const char *dir, tnl_error *err) {
    return open_folder(out, dir, true, err);
}

void tok_close(tok_model *t) {
    if (!t)
        return;
    tok_spm_close(t->spm);
    free(t->entries);
    free(t->pool);
    free(t);
}

/* ---- queries ---- */

int32_t tok_vocab(const tok_model *t) {
    return t->vocab;
}

int32_t tok_unk(const tok_model *t) {
    return t->unk;
}

int32_t tok_bos(const tok_model *t) {
    return t->bos;
}

int32_t tok_eos(const tok_model *t) {
    return t->eos;
}

bool tok_dummy_prefix(const tok_model *t) {
    return t->dummy_prefix;
}

static const tok_entry *entry(const tok_model *t, int32_t id) {
    return id >= 0 && id < t->vocab ? &t->entries[id] : NULL;
}

const char *tok_piece(const tok_model *t, int32_t id, size_t *n) {
    const tok_entry *e = entry(t, id);
    *n = e ? e->n_bytes : 0;
    return e ? e->bytes : "";
}

const char *tok_piece_name(const tok_model *t, int32_t id) {
    const tok_entry *e = entry(t, id);
    return e ? e->name : NULL;
}

/* ---- texts ---- */

/* Room for the text of ids: a byte may become U+FFFD (3 bytes), other pieces stay as they are. */
static tnl_status decoded_bound(const tok_model *t, const int32_t *ids, size_t n_ids, size_t *bound,
                                tnl_error *err) {
    size_t n = 1;
    for (size_t i = 0; i < n_ids; i++) {
        const tok_entry *e = entry(t, ids[i]);
        if (!e)
            return tnl_fail(err, TNL_E_USAGE, "token %zu: id %d, the vocabulary has 0 to %d", i,
                            (int)ids[i], (int)t->vocab - 1);
        size_t room = e->n_bytes > 3 ? e->n_bytes : 3;
        if (n > SIZE_MAX - room)
            return tnl_fail(err, TNL_E_LIMIT, "%zu tokens are too many to decode", n_ids);
        n += room;
    }
    *bound = n;
    return TNL_OK;
}

tnl_status tok_decode(const tok_model *t, const int32_t *ids, size_t n_ids, char **text, size_t *n,
                      tnl_error *err) {
    size_t bound = 0;
    TNL_TRY(decoded_bound(t, ids, n_ids, &bound, err));
    char *out = malloc(bound), part[TOK_STREAM_MAX];
    if (!out)
        return tnl_fail(err, TNL_E_NOMEM, "no memory for a text of %zu bytes", bound);
    tok_stream s;
    tok_stream_init(&s, t, false);
    size_t w = 0;
    for (size_t i = 0; i < n_ids; i++) {
        size_t got = tok_stream_push(&s, ids[i], part, sizeof part);
        memcpy(out + w, part, got);
        w += got;
    }
    size_t got = tok_stream_finish(&s, part, sizeof part);
    memcpy(out + w, part, got);
    w += got;
    out[w] = '\0';
    *text = out;
    *n = w;
    return TNL_OK;
}
