/* safetensors: 8 bytes of length, a JSON header, then the tensors' bytes without gaps.
 *
 * Format: https://github.com/huggingface/safetensors ("Format"). Every rule is enforced: the
 * header's ranges must cover the rest of the file exactly once. The header is scanned strictly,
 * then read by a cursor, because offsets beyond 2^53 would not survive a parser's doubles. */
#include <stdlib.h>
#include <string.h>

#include "kernels/base/checked.h"
#include "kernels/base/json_scan.h"
#include "model/tensor_dir.h"

static const tnl_json_limits header_limits = {.max_bytes = MDL_MAX_HEADER,
                                              .max_values = MDL_MAX_HEADER / 2,
                                              .max_depth = 4,
                                              .max_keys = MDL_MAX_HEADER / 8};

typedef struct header {
    mdl_tensors *t;
    int file;
    const char *name;    /* of the file */
    uint64_t data, size; /* where the data begins, and how much there is */
    tnl_error *err;
    mdl_tensor_found *found;
    size_t n, cap;
} header;

static tnl_status bad(const header *h, json_str tensor, const char *what, const json_cursor *c,
                      const char *expected) {
    char shown[48];
    mdl_json_show(c, shown, sizeof shown);
    return tnl_fail(h->err, TNL_E_DATA, "%s: tensor \"%.*s\": %s: found %s, expected %s", h->name,
                    (int)(tensor.n < 200 ? tensor.n : 200), tensor.s, what, shown, expected);
}

static tnl_status read_shape(header *h, json_cursor *c, json_str name, mdl_tensor_found *f) {
    bool first = true;
    json_cursor start = *c;
    if (!mdl_json_open(c, '['))
        return bad(h, name, "shape", c, "a list of at most 8 whole numbers");
    for (f->rank = 0; mdl_json_next_item(c, &first); f->rank++) {
        if (f->rank == MDL_MAX_RANK)
            return bad(h, name, "shape", &start, "at most 8 dimensions");
        if (!mdl_json_u64(c, &f->dims[f->rank]))
            return bad(h, name, "shape", c, "a whole number below 2^64");
    }
    return TNL_OK;
}

static tnl_status read_offsets(header *h, json_cursor *c, json_str name, mdl_tensor_found *f) {
    uint64_t v[2];
    int n = 0;
    bool first = true;
    json_cursor start = *c;
    if (!mdl_json_open(c, '['))
        return bad(h, name, "data_offsets", c, "a list of two whole numbers");
    for (; mdl_json_next_item(c, &first); n++) {
        if (n == 2)
            return bad(h, name, "data_offsets", &start, "two whole numbers");
        if (!mdl_json_u64(c, &v[n]))
            return bad(h, name, "data_offsets", c, "a whole number below 2^64");
    }
    if (n != 2)
        return bad(h, name, "data_offsets", &start, "two whole numbers");
    if (v[0] > v[1] || v[1] > h->size)
        return tnl_fail(h->err, TNL_E_DATA,
                        "%s: tensor \"%.*s\": data_offsets: found %llu..%llu, expected a range in "
                        "0..%llu, the data of the file",
                        h->name, (int)(name.n < 200 ? name.n : 200), name.s,
                        (unsigned long long)v[0], (unsigned long long)v[1],
                        (unsigned long long)h->size);
    f->offset = h->data + v[0]; /* both are within the file */
    f->bytes = v[1] - v[0];
    return TNL_OK;
}

static tnl_status read_dtype(header *h, json_cursor *c, json_str name, mdl_tensor_found *f) {
    json_cursor start = *c;
    json_str word;
    if (!mdl_json_string(c, &word))
        return bad(h, name, "dtype", &start, "a text");
    if (mdl_dtype_by_st(&f->dtype, word) ||
        (mdl_json_str_is(word, "U8") && mdl_dtype_by_suffix(&f->dtype, name)))
        return TNL_OK;
    return bad(h, name, "dtype", &start,
               "\"F32\", \"F16\" or \"BF16\", or \"U8\" for a name that ends with .q8, .q4 or .f8");
}

static tnl_status read_tensor(header *h, json_cursor *c, json_str name, mdl_tensor_found *f) {
    enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4 };
    int seen = 0;
    bool first = true;
    json_str key;
    *f = (mdl_tensor_found){.name = name};
    if (!mdl_json_open(c, '{'))
        return bad(h, name, "entry", c, "an object");
    while (mdl_json_next_member(c, &first, &key)) {
        if (mdl_json_str_is(key, "dtype")) {
            TNL_TRY(read_dtype(h, c, name, f));
            seen |= DTYPE;
        } else if (mdl_json_str_is(key, "shape")) {
            TNL_TRY(read_shape(h, c, name, f));
            seen |= SHAPE;
        } else if (mdl_json_str_is(key, "data_offsets")) {
            TNL_TRY(read_offsets(h, c, name, f));
            seen |= OFFSETS;
        } else {
            return tnl_fail(h->err, TNL_E_DATA, "%s: tensor \"%.*s\": unknown key \"%.*s\"",
                            h->name, (int)(name.n < 200 ? name.n : 200), name.s,
                            (int)(key.n < 60 ? key.n : 60), key.s);
        }
    }
    const char *missing = !(seen & DTYPE)     ? "dtype"
                          : !(seen & SHAPE)   ? "shape"
                          : !(seen & OFFSETS) ? "data_offsets"
                                              : NULL;
    if (missing)
        return tnl_fail(h->err, TNL_E_DATA, "%s: tensor \"%.*s\": %s: missing", h->name,
                        (int)(name.n < 200 ? name.n : 200), name.s, missing);
    return TNL_OK;
}

static tnl_status read_metadata(header *h, json_cursor *c) {
    bool first = true;
    json_str key, value;
    if (!mdl_json_open(c, '{'))
        return tnl_fail(h->err, TNL_E_DATA, "%s: __metadata__: expected an object", h->name);
    while (mdl_json_next_member(c, &first, &key))
        if (!mdl_json_string(c, &value))
            return tnl_fail(h->err, TNL_E_DATA,
                            "%s: __metadata__: \"%.*s\": expected a text in quotes", h->name,
                            (int)(key.n < 60 ? key.n : 60), key.s);
    return TNL_OK;
}

static tnl_status keep(header *h, const mdl_tensor_found *f) {
    if (h->n == h->cap) {
        size_t cap = h->cap ? 2 * h->cap : 64;
        mdl_tensor_found *more = realloc(h->found, cap * sizeof *more);
        if (!more)
            return tnl_fail(h->err, TNL_E_NOMEM, "%s: no memory for its directory", h->name);
        h->found = more;
        h->cap = cap;
    }
    h->found[h->n++] = *f;
    return TNL_OK;
}

static tnl_status read_entries(header *h, json_cursor *c) {
    bool first = true;
    json_str name;
    mdl_json_open(c, '{');
    while (mdl_json_next_member(c, &first, &name)) {
        mdl_tensor_found f;
        if (mdl_json_str_is(name, "__metadata__")) {
            TNL_TRY(read_metadata(h, c));
            continue;
        }
        TNL_TRY(read_tensor(h, c, name, &f));
        TNL_TRY(keep(h, &f));
    }
    for (; c->at < c->end; c->at++)
        if (*c->at != ' ')
            return tnl_fail(h->err, TNL_E_DATA, "%s: header: only spaces may follow the object",
                            h->name);
    return TNL_OK;
}

static int by_offset(const void *a, const void *b) {
    const mdl_tensor_found *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* No overlap, no hole, and the last tensor ends where the file does. */
static tnl_status check_cover(header *h) {
    uint64_t at = h->data, end = h->data + h->size;
    if (h->n)
        qsort(h->found, h->n, sizeof *h->found, by_offset);
    for (size_t i = 0; i < h->n; i++) {
        const mdl_tensor_found *f = &h->found[i];
        if (f->offset != at)
            return tnl_fail(
                h->err, TNL_E_DATA, "%s: tensor \"%.*s\": %s: found begin %llu, expected %llu",
                h->name, (int)(f->name.n < 200 ? f->name.n : 200), f->name.s,
                f->offset < at ? "overlaps another tensor" : "a hole before it",
                (unsigned long long)(f->offset - h->data), (unsigned long long)(at - h->data));
        at += f->bytes;
    }
    if (at != end)
        return tnl_fail(h->err, TNL_E_DATA,
                        "%s: tensors end at byte %llu of the data, expected %llu, its size",
                        h->name, (unsigned long long)(at - h->data), (unsigned long long)h->size);
    return TNL_OK;
}

static tnl_status read_header(header *h, const char *text, size_t n) {
    tnl_error why;
    if (n == 0 || text[0] != '{')
        return tnl_fail(h->err, TNL_E_DATA, "%s: header: expected '{' as its first byte", h->name);
    tnl_status s = tnl_json_check(text, n, &header_limits, NULL, &why);
    if (s != TNL_OK)
        return tnl_fail(h->err, s, "%s: header: %s", h->name, why.msg);
    json_cursor c = {text, text + n};
    TNL_TRY(read_entries(h, &c));
    TNL_TRY(check_cover(h));
    for (size_t i = 0; i < h->n; i++)
        TNL_TRY(mdl_dir_add(h->t, h->file, &h->found[i], h->err));
    return TNL_OK;
}

static uint64_t le64(const unsigned char *p) {
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

tnl_status mdl_safetensors_read(mdl_tensors *t, int file, tnl_error *err) {
    const mdl_map *map = &t->files[file].map;
    const char *name = t->files[file].name;
    if (map->size < 8)
        return tnl_fail(err, TNL_E_DATA, "%s: found %llu bytes, expected at least 8", name,
                        (unsigned long long)map->size);
    uint64_t n = le64(map->data);
    if (n > map->size - 8)
        return tnl_fail(err, TNL_E_DATA, "%s: header length: found %llu, expected at most %llu",
                        name, (unsigned long long)n, (unsigned long long)(map->size - 8));
    if (n > MDL_MAX_HEADER)
        return tnl_fail(err, TNL_E_LIMIT, "%s: header length: found %llu, expected at most %d",
                        name, (unsigned long long)n, MDL_MAX_HEADER);
    header h = {
        .t = t, .file = file, .name = name, .err = err, .data = 8 + n, .size = map->size - 8 - n};
    tnl_status s = read_header(&h, (const char *)map->data + 8, (size_t)n);
    free(h.found);
    return s;
}
