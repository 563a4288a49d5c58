/* The directory: which files a folder has, their tensors by name, and the shards' index. */
#include "model/tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/base/checked.h"
#include "kernels/base/json_scan.h"
#include "kernels/base/log.h"
#include "kernels/base/utf8.h"
#include "model/tensor_dir.h"

/* ---- formats ---- */

bool mdl_dtype_by_st(kn_dtype *out, json_str name) {
    for (int i = 0; i < KN_DTYPE_COUNT; i++)
        if (kn_dtypes[i].st_name && mdl_json_str_is(name, kn_dtypes[i].st_name)) {
            *out = (kn_dtype)i;
            return true;
        }
    return false;
}

bool mdl_dtype_by_suffix(kn_dtype *out, json_str name) {
    for (int i = KN_PLAIN_COUNT; i < KN_DTYPE_COUNT; i++) {
        size_t n = strlen(kn_dtypes[i].name);
        if (name.n > n && name.s[name.n - n - 1] == '.' &&
            memcmp(name.s + name.n - n, kn_dtypes[i].name, n) == 0) {
            *out = (kn_dtype)i;
            return true;
        }
    }
    return false;
}

/* Bytes of an element as stored: packed matrices are bytes. */
static unsigned stored_bytes(kn_dtype t) {
    return t < KN_PLAIN_COUNT ? (unsigned)kn_dtypes[t].elem_bytes : 1;
}

bool mdl_dtype_by_storage(kn_dtype *out, const char *name, size_t n) {
    for (int i = 0; i < KN_DTYPE_COUNT; i++) {
        const char *storage = kn_dtypes[i].torch_storage;
        if (storage && strlen(storage) == n && memcmp(storage, name, n) == 0) {
            *out = (kn_dtype)i;
            return true;
        }
    }
    return false;
}

bool mdl_shape_bytes(uint64_t *out, kn_dtype dtype, int rank, const uint64_t *dims) {
    uint64_t bytes = stored_bytes(dtype);
    bool empty = false;
    for (int i = 0; i < rank; i++) {
        if (dims[i] > INT64_MAX || !tnl_mul_u64(&bytes, bytes, dims[i] ? dims[i] : 1))
            return false;
        empty |= dims[i] == 0;
    }
    *out = empty ? 0 : bytes;
    return true;
}

/* ---- names ---- */

static uint64_t hash_name(const char *s, size_t n) {
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * UINT64_C(0x100000001b3);
    return h ^ h >> 29;
}

/* The slot of this name, or the empty one where it belongs. */
static uint32_t *slot_of(const mdl_tensors *t, const char *s, size_t n) {
    size_t mask = t->table_size - 1, at = (size_t)hash_name(s, n) & mask;
    for (;; at = (at + 1) & mask) {
        uint32_t index = t->table[at];
        if (!index)
            return &t->table[at];
        const char *have = t->views[index - 1].name;
        if (strncmp(have, s, n) == 0 && have[n] == 0)
            return &t->table[at];
    }
}

static bool grow(mdl_tensors *t) {
    int64_t cap = t->cap ? 2 * t->cap : 64;
    mdl_tensor_view *views =
        cap < UINT32_MAX / 4 ? realloc(t->views, (size_t)cap * sizeof *views) : NULL;
    if (!views)
        return false;
    t->views = views;
    uint32_t *table = calloc((size_t)cap * 2, sizeof *table);
    if (!table)
        return false;
    free(t->table);
    t->table = table;
    t->table_size = (size_t)cap * 2;
    t->cap = cap;
    for (int64_t i = 0; i < t->count; i++)
        *slot_of(t, t->views[i].name, strlen(t->views[i].name)) = (uint32_t)i + 1;
    return true;
}

static bool good_name(json_str name) {
    if (name.n == 0 || name.n > MDL_MAX_NAME || name.escaped)
        return false;
    for (size_t i = 0; i < name.n; i++)
        if ((unsigned char)name.s[i] < 0x20 || name.s[i] == 0x7F)
            return false;
    return tnl_utf8_valid(name.s, name.n);
}

/* ---- adding ---- */

/* Aligned to its element, or a copy that is: the kernels load whole elements, and of packed tiles
 * whole lines. */
static const void *aligned_data(mdl_tensors *t, const unsigned char *p, uint64_t bytes,
                                kn_dtype dt) {
    if ((uintptr_t)p % (dt < KN_PLAIN_COUNT ? stored_bytes(dt) : 64) == 0 || bytes == 0)
        return p;
    void **copies = realloc(t->copies, (size_t)(t->n_copies + 1) * sizeof *copies);
    if (!copies)
        return NULL;
    t->copies = copies;
    void *copy = NULL;
    if (posix_memalign(&copy, 64, (size_t)bytes) != 0)
        return NULL;
    memcpy(copy, p, (size_t)bytes);
    t->copies[t->n_copies++] = copy;
    return copy;
}

static tnl_status check_found(const mdl_tensors *t, int file, const mdl_tensor_found *f,
                              tnl_error *err) {
    const char *name = t->files[file].name;
    int shown = (int)(f->name.n < 200 ? f->name.n : 200);
    uint64_t bytes, end;
    if (!good_name(f->name))
        return tnl_fail(err, TNL_E_DATA,
                        "%s: tensor name \"%.*s\": found %zu bytes, expected 1 to %d of UTF-8 "
                        "without escapes or control characters",
                        name, shown, f->name.s, f->name.n, MDL_MAX_NAME);
    if (!mdl_shape_bytes(&bytes, f->dtype, f->rank, f->dims))
        return tnl_fail(err, TNL_E_DATA, "%s: tensor \"%.*s\": shape: its size overflows", name,
                        shown, f->name.s);
    if (bytes != f->bytes)
        return tnl_fail(err, TNL_E_DATA,
                        "%s: tensor \"%.*s\": found %llu bytes of data, expected %llu by its shape "
                        "and dtype",
                        name, shown, f->name.s, (unsigned long long)f->bytes,
                        (unsigned long long)bytes);
    if (!tnl_add_u64(&end, f->offset, f->bytes) || end > t->files[file].map.size)
        return tnl_fail(err, TNL_E_DATA, "%s: tensor \"%.*s\": its data ends beyond the file", name,
                        shown, f->name.s);
    return TNL_OK;
}

tnl_status mdl_dir_add(mdl_tensors *t, int file, const mdl_tensor_found *f, tnl_error *err) {
    TNL_TRY(check_found(t, file, f, err));
    const mdl_tensor_file *in = &t->files[file];
    if (t->count == t->cap && !grow(t))
        return tnl_fail(err, TNL_E_NOMEM, "%s: no memory for its directory", in->name);
    uint32_t *slot = slot_of(t, f->name.s, f->name.n);
    if (*slot)
        return tnl_fail(err, TNL_E_DATA, "%s: tensor \"%.*s\": found again, first in %s", in->name,
                        (int)f->name.n, f->name.s, t->views[*slot - 1].file);
    char *name = strndup(f->name.s, f->name.n);
    const void *data = name ? aligned_data(t, in->map.data + f->offset, f->bytes, f->dtype) : NULL;
    if (!data) {
        free(name);
        return tnl_fail(err, TNL_E_NOMEM, "%s: no memory for tensor \"%.*s\"", in->name,
                        (int)f->name.n, f->name.s);
    }
    mdl_tensor_view *v = &t->views[t->count++];
    *v = (mdl_tensor_view){.name = name,
                           .file = in->name,
                           .data = data,
                           .bytes = f->bytes,
                           .file_offset = f->offset,
                           .dtype = f->dtype,
                           .rank = f->rank};
    for (int i = 0; i < f->rank; i++)
        v->dims[i] = (int64_t)f->dims[i];
    *slot = (uint32_t)t->count;
    return TNL_OK;
}

/* ---- files ---- */

typedef tnl_status (*read_fn)(mdl_tensors *t, int file, tnl_error *err);

static tnl_status add_file(mdl_tensors *t, const char *dir, const char *name, size_t n,
                           mdl_load_mode mode, read_fn read, tnl_error *err) {
    mdl_tensor_file *files = realloc(t->files, (size_t)(t->n_files + 1) * sizeof *files);
    if (!files)
        return tnl_fail(err, TNL_E_NOMEM, "%.*s: no memory to read it", (int)n, name);
    t->files = files;
    mdl_tensor_file *f = &files[t->n_files];
    *f = (mdl_tensor_file){.name = strndup(name, n)};
    char *path = f->name ? mdl_file_path(dir, f->name) : NULL;
    if (!path) {
        free(f->name);
        return tnl_fail(err, TNL_E_NOMEM, "%.*s: no memory to read it", (int)n, name);
    }
    t->n_files++;
    tnl_status s = mdl_map_open(&f->map, path, mode, err);
    free(path);
    return s == TNL_OK ? read(t, t->n_files - 1, err) : s;
}

/* ---- the index of shards ---- */

typedef struct shard_index {
    const char *file; /* name of the index */
    json_cursor map;  /* stands at the value of weight_map */
    uint64_t total;
    bool has_total;
} shard_index;

/* A plain name inside the folder; an index must not lead anywhere else. */
static bool plain_name(const shard_index *x, json_str s) {
    if (s.n == 0 || s.n > 255 || s.escaped || s.s[0] == '.' || mdl_json_str_is(s, x->file))
        return false;
    for (size_t i = 0; i < s.n; i++)
        if (s.s[i] == '/' || (unsigned char)s.s[i] < 0x20)
            return false;
    return true;
}

static int file_index(const mdl_tensors *t, json_str name) {
    for (int i = t->n_files - 1; i >= 0; i--)
        if (mdl_json_str_is(name, t->files[i].name))
            return i;
    return -1;
}

static tnl_status read_shards(mdl_tensors *t, const shard_index *x, const char *dir,
                              mdl_load_mode mode, read_fn read, tnl_error *err) {
    json_cursor c = x->map;
    json_str tensor, file;
    bool first = true;
    if (!mdl_json_open(&c, '{'))
        return tnl_fail(err, TNL_E_DATA, "%s: weight_map: expected an object", x->file);
    while (mdl_json_next_member(&c, &first, &tensor)) {
        json_cursor at = c;
        char shown[48];
        if (!mdl_json_string(&c, &file) || !plain_name(x, file)) {
            mdl_json_show(&at, shown, sizeof shown);
            return tnl_fail(err, TNL_E_DATA,
                            "%s: weight_map \"%.*s\": found %s, expected the name of a file in the "
                            "same folder",
                            x->file, (int)(tensor.n < 200 ? tensor.n : 200), tensor.s, shown);
        }
        if (file_index(t, file) >= 0)
            continue;
        if (t->n_files == MDL_MAX_SHARDS)
            return tnl_fail(err, TNL_E_LIMIT, "%s: weight_map: more than %d files", x->file,
                            MDL_MAX_SHARDS);
        TNL_TRY(add_file(t, dir, file.s, file.n, mode, read, err));
    }
    return TNL_OK;
}

/* Every entry of the map is a tensor of that shard. */
static tnl_status verify_shards(const mdl_tensors *t, const shard_index *x, tnl_error *err) {
    json_cursor c = x->map;
    json_str tensor, file;
    bool first = true;
    mdl_json_open(&c, '{');
    while (mdl_json_next_member(&c, &first, &tensor) && mdl_json_string(&c, &file)) {
        uint32_t index = t->count ? *slot_of(t, tensor.s, tensor.n) : 0;
        const mdl_tensor_view *v = index ? &t->views[index - 1] : NULL;
        if (!v || !mdl_json_str_is(file, v->file))
            return tnl_fail(err, TNL_E_DATA, "%s: tensor \"%.*s\": found in %s, expected in %.*s",
                            x->file, (int)(tensor.n < 150 ? tensor.n : 150), tensor.s,
                            v ? v->file : "no shard", (int)file.n, file.s);
    }
    uint64_t total = 0;
    for (int64_t i = 0; i < t->count; i++)
        total += t->views[i].bytes;
    if (x->has_total && x->total != total)
        tnl_log(TNL_LOG_WARN, "%s: total_size: found %llu, but the tensors have %llu bytes",
                x->file, (unsigned long long)x->total, (unsigned long long)total);
    return TNL_OK;
}

static tnl_status read_index(shard_index *x, const char *text, size_t n, tnl_error *err) {
    static const tnl_json_limits limits = {
        .max_bytes = MDL_MAX_HEADER, .max_values = 1 << 20, .max_depth = 8, .max_keys = 1 << 20};
    tnl_error why;
    tnl_status s = tnl_json_check(text, n, &limits, NULL, &why);
    if (s != TNL_OK)
        return tnl_fail(err, s, "%s: %s", x->file, why.msg);
    json_cursor c = {text, text + n};
    json_str key;
    bool first = true, inner = true;
    if (!mdl_json_open(&c, '{'))
        return tnl_fail(err, TNL_E_DATA, "%s: expected an object", x->file);
    while (mdl_json_next_member(&c, &first, &key)) {
        json_cursor meta = c;
        if (mdl_json_str_is(key, "weight_map"))
            x->map = c;
        if (mdl_json_str_is(key, "metadata") && mdl_json_open(&meta, '{'))
            while (mdl_json_next_member(&meta, &inner, &key)) {
                if (mdl_json_str_is(key, "total_size"))
                    x->has_total = mdl_json_u64(&meta, &x->total);
                mdl_json_skip(&meta);
            }
        mdl_json_skip(&c);
    }
    if (!x->map.at)
        return tnl_fail(err, TNL_E_DATA, "%s: weight_map: missing", x->file);
    return TNL_OK;
}

static tnl_status open_sharded(mdl_tensors *t, const char *dir, const char *name,
                               mdl_load_mode mode, read_fn read, tnl_error *err) {
    shard_index x = {.file = name};
    char *text = NULL, *path = mdl_file_path(dir, name);
    size_t n = 0;
    tnl_status s = path ? mdl_file_text(&text, &n, path, MDL_MAX_HEADER, err)
                        : tnl_fail(err, TNL_E_NOMEM, "%s: no memory to read it", name);
    if (s == TNL_OK)
        s = read_index(&x, text, n, err);
    if (s == TNL_OK)
        s = read_shards(t, &x, dir, mode, read, err);
    if (s == TNL_OK)
        s = verify_shards(t, &x, err);
    free(text);
    free(path);
    return s;
}

/* ---- the folder ---- */

static const struct {
    const char *name;
    bool index;
    read_fn read;
} candidates[] = {
    {"model.safetensors.index.json", true, mdl_safetensors_read},
    {"model.safetensors", false, mdl_safetensors_read},
    {"pytorch_model.bin.index.json", true, mdl_torch_zip_read},
    {"pytorch_model.bin", false, mdl_torch_zip_read},
};

static tnl_status open_folder(mdl_tensors *t, const char *dir, mdl_load_mode mode, tnl_error *err) {
    for (size_t i = 0; i < sizeof candidates / sizeof candidates[0]; i++) {
        const char *name = candidates[i].name;
        if (!mdl_file_exists(dir, name))
            continue;
        if (candidates[i].index)
            return open_sharded(t, dir, name, mode, candidates[i].read, err);
        return add_file(t, dir, name, strlen(name), mode, candidates[i].read, err);
    }
    return tnl_fail(err, TNL_E_NO_INPUT,
                    "%s: found no weights, expected model.safetensors or pytorch_model.bin, or the "
                    "index.json of their shards",
                    dir);
}

tnl_status mdl_tensors_open(mdl_tensors **out, const char *dir, mdl_load_mode mode,
                            tnl_error *err) {
    *out = NULL;
    mdl_tensors *t = calloc(1, sizeof *t);
    if (!t)
        return tnl_fail(err, TNL_E_NOMEM, "%s: no memory for its directory", dir);
    tnl_status s = open_folder(t, dir, mode, err);
    if (s == TNL_OK)
        *out = t;
    else
        mdl_tensors_close(t);
    return s;
}

void mdl_tensors_close(mdl_tensors *t) {
    if (!t)
        return;
    for (int64_t i = 0; i < t->count; i++)
        free((void *)(uintptr_t)t->views[i].name);
    for (int64_t i = 0; i < t->n_copies; i++)
        free(t->copies[i]);
    for (int i = 0; i < t->n_files; i++) {
        mdl_map_close(&t->files[i].map);
        free(t->files[i].name);
    }
    free(t->files);
    free(t->views);
    free(t->table);
    free(t->copies);
    free(t);
}

/* ---- questions ---- */

int64_t mdl_tensors_count(const mdl_tensors *t) {
    return t->count;
}

const mdl_tensor_view *mdl_tensors_at(const mdl_tensors *t, int64_t i) {
    return i >= 0 && i < t->count ? &t->views[i] : NULL;
}

const mdl_tensor_view *mdl_tensors_find(const mdl_tensors *t, const char *name) {
    uint32_t index = t->count ? *slot_of(t, name, strlen(name)) : 0;
    return index ? &t->views[index - 1] : NULL;
}

uint64_t mdl_tensors_file_bytes(const mdl_tensors *t) {
    uint64_t sum = 0;
    for (int i = 0; i < t->n_files; i++)
        sum += t->files[i].map.size;
    return sum;
}

void mdl_tensors_release(const mdl_tensors *t, const void *p, uint64_t bytes) {
    uintptr_t begin = (uintptr_t)p, end = begin + bytes, page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; bytes >= 16 * page && i < t->n_files; i++) {
        const mdl_map *m = &t->files[i].map;
        if (!m->of_file || begin < (uintptr_t)m->data || end > (uintptr_t)m->data + m->size)
            continue;
        begin = begin / page * page; /* a neighbour's page is read again if need be */
        madvise((void *)begin, end - begin, MADV_DONTNEED);
        return;
    }
}

const char *mdl_tensors_file_of(const mdl_tensors *t, const void *p) {
    for (int i = 0; i < t->n_files; i++) {
        const mdl_map *m = &t->files[i].map;
        uintptr_t at = (uintptr_t)p, from = (uintptr_t)m->data;
        if (m->data && at >= from && at - from < m->size)
            return t->files[i].name;
    }
    return NULL;
}
