/* A checkpoint of torch.save, read in place: a zip archive whose entries are stored, not packed.
 *
 *   <prefix>/data.pkl     the dict of tensors as a pickle (pickle.c)
 *   <prefix>/data/<key>   the bytes of one storage
 *   <prefix>/byteorder    "little", in newer archives
 *
 * The central directory at the end of the file is the truth; local headers only say where an
 * entry's bytes begin. Zip64 fields are read, since torch always writes them. Source: APPNOTE.TXT,
 * PKWARE (sections 4.3 and 4.5). */
#include <stdlib.h>
#include <string.h>

#include "kernels/base/checked.h"
#include "model/pickle.h"
#include "model/tensor_dir.h"

enum {
    END_SIZE = 22,
    END64_SIZE = 56,
    LOCATOR_SIZE = 20,
    CENTRAL_SIZE = 46,
    LOCAL_SIZE = 30,
    MAX_PICKLE = 4 << 20,
    MAX_DIRECTORY = 64 << 20,
};

static const uint32_t SIG_END = 0x06054b50, SIG_END64 = 0x06064b50, SIG_LOCATOR = 0x07064b50,
                      SIG_CENTRAL = 0x02014b50, SIG_LOCAL = 0x04034b50;

typedef struct entry {
    const char *name; /* in the central directory, not NUL-terminated */
    size_t name_len;
    uint64_t offset, size; /* of its bytes in the file */
} entry;

typedef struct archive {
    mdl_tensors *t;
    int file;
    const char *name;
    const unsigned char *p; /* the whole file */
    uint64_t size;
    uint64_t dir, dir_size, n; /* central directory, entries */
    entry *entries;            /* [n], sorted by name */
    const char *prefix;        /* with the slash behind it */
    size_t prefix_len;
    tnl_error *err;
} archive;

static uint64_t le(const unsigned char *p, int n) {
    uint64_t v = 0;
    for (int i = n - 1; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

static tnl_status bad(const archive *a, const char *what) {
    return tnl_fail(a->err, TNL_E_DATA, "%s: zip archive: %s", a->name, what);
}

static bool inside(const archive *a, uint64_t at, uint64_t n) {
    return at <= a->size && n <= a->size - at;
}

/* ---- the directory ---- */

/* The record stands at the end, before a comment of at most 65,535 bytes. */
static tnl_status find_end(const archive *a, uint64_t *at) {
    if (a->size >= 2 && a->p[0] == 0x80 && a->p[1] <= 5)
        return tnl_fail(
            a->err, TNL_E_UNSUPPORTED,
            "%s: found a checkpoint of torch before 1.6, expected a zip archive: save it "
            "again with a newer torch",
            a->name);
    for (uint64_t back = END_SIZE; back <= a->size && back <= END_SIZE + 65535; back++) {
        const unsigned char *p = a->p + a->size - back;
        if (le(p, 4) == SIG_END && le(p + 20, 2) == back - END_SIZE) {
            *at = a->size - back;
            return TNL_OK;
        }
    }
    return bad(a, "no end record: the file is cut or not an archive of torch.save");
}

/* Counts and offsets of the end record; its 64-bit form where a field does not fit. */
static tnl_status read_end(archive *a) {
    uint64_t end = 0;
    TNL_TRY(find_end(a, &end));
    const unsigned char *p = a->p + end;
    a->n = le(p + 10, 2);
    a->dir_size = le(p + 12, 4);
    a->dir = le(p + 16, 4);
    bool wide = a->n == 0xFFFF || a->dir_size == 0xFFFFFFFF || a->dir == 0xFFFFFFFF;
    if (wide) {
        if (end < LOCATOR_SIZE || le(p - LOCATOR_SIZE, 4) != SIG_LOCATOR)
            return bad(a, "the zip64 locator is missing");
        uint64_t at = le(p - LOCATOR_SIZE + 8, 8);
        if (!inside(a, at, END64_SIZE) || le(a->p + at, 4) != SIG_END64)
            return bad(a, "the zip64 end record is missing");
        end = at;
        p = a->p + at;
        a->n = le(p + 32, 8);
        a->dir_size = le(p + 40, 8);
        a->dir = le(p + 48, 8);
    }
    if (a->dir > end || a->dir_size > end - a->dir)
        return bad(a, "the central directory lies outside the file");
    if (a->dir_size > MAX_DIRECTORY || a->n > a->dir_size / CENTRAL_SIZE)
        return bad(a, "the central directory has more entries than its size allows");
    return TNL_OK;
}

/* Replace the fields that say "see zip64" by those of the extra field with tag 1. */
static tnl_status widen(const archive *a, const unsigned char *extra, uint64_t n,
                        uint64_t *const field[3]) {
    while (n >= 4) {
        uint64_t tag = le(extra, 2), len = le(extra + 2, 2);
        if (len > n - 4)
            return bad(a, "an extra field is longer than its entry");
        const unsigned char *p = extra + 4;
        for (int i = 0; tag == 1 && i < 3; i++) {
            if (*field[i] != 0xFFFFFFFF)
                continue;
            if (len < 8)
                return bad(a, "a zip64 field is missing");
            *field[i] = le(p, 8);
            p += 8;
            len -= 8;
        }
        uint64_t whole = 4 + le(extra + 2, 2);
        extra += whole;
        n -= whole;
    }
    return TNL_OK;
}

/* Where the bytes of an entry begin, by its local header. */
static tnl_status locate(const archive *a, entry *e, uint64_t local) {
    if (!inside(a, local, LOCAL_SIZE) || le(a->p + local, 4) != SIG_LOCAL)
        return bad(a, "a local header is missing");
    uint64_t name_len = le(a->p + local + 26, 2);
    uint64_t at = local + LOCAL_SIZE + name_len + le(a->p + local + 28, 2);
    if (at > a->dir || e->size > a->dir - at)
        return bad(a, "an entry lies outside the file");
    if (name_len != e->name_len || memcmp(a->p + local + LOCAL_SIZE, e->name, e->name_len) != 0)
        return bad(a, "a local header has another name than the central directory");
    e->offset = at;
    return TNL_OK;
}

static tnl_status read_entry(const archive *a, entry *e, uint64_t *at) {
    uint64_t end = a->dir + a->dir_size;
    const unsigned char *p = a->p + *at;
    if (end - *at < CENTRAL_SIZE || le(p, 4) != SIG_CENTRAL)
        return bad(a, "the central directory is cut");
    uint64_t name_len = le(p + 28, 2), extra_len = le(p + 30, 2);
    uint64_t whole = CENTRAL_SIZE + name_len + extra_len + le(p + 32, 2);
    if (whole > end - *at)
        return bad(a, "the central directory is cut");
    uint64_t size = le(p + 24, 4), packed = le(p + 20, 4), local = le(p + 42, 4);
    uint64_t *const wide[3] = {&size, &packed, &local};
    TNL_TRY(widen(a, p + CENTRAL_SIZE + name_len, extra_len, wide));
    *e =
        (entry){.name = (const char *)p + CENTRAL_SIZE, .name_len = (size_t)name_len, .size = size};
    if (le(p + 10, 2) != 0 || packed != size)
        return bad(a, "an entry is compressed, expected stored entries only");
    if (le(p + 8, 2) & 1)
        return bad(a, "an entry is encrypted");
    *at += whole;
    return locate(a, e, local);
}

static int by_name(const void *x, const void *y) {
    const entry *a = x, *b = y;
    size_t n = a->name_len < b->name_len ? a->name_len : b->name_len;
    int order = memcmp(a->name, b->name, n);
    return order ? order : (a->name_len > b->name_len) - (a->name_len < b->name_len);
}

static tnl_status read_directory(archive *a) {
    a->entries = calloc(a->n ? (size_t)a->n : 1, sizeof *a->entries);
    if (!a->entries)
        return tnl_fail(a->err, TNL_E_NOMEM, "%s: no memory for its directory", a->name);
    uint64_t at = a->dir;
    for (uint64_t i = 0; i < a->n; i++)
        TNL_TRY(read_entry(a, &a->entries[i], &at));
    qsort(a->entries, (size_t)a->n, sizeof *a->entries, by_name);
    for (uint64_t i = 1; i < a->n; i++)
        if (by_name(&a->entries[i - 1], &a->entries[i]) == 0)
            return bad(a, "two entries have the same name");
    return TNL_OK;
}

/* ---- entries by name ---- */

/* prefix + folder + key; NULL when there is none. */
static const entry *find(const archive *a, const char *folder, const char *key, size_t key_len) {
    char name[512];
    size_t folder_len = strlen(folder), n = a->prefix_len + folder_len + key_len;
    if (n > sizeof name)
        return NULL;
    memcpy(name, a->prefix, a->prefix_len);
    memcpy(name + a->prefix_len, folder, folder_len);
    memcpy(name + a->prefix_len + folder_len, key, key_len);
    entry want = {.name = name, .name_len = n};
    return bsearch(&want, a->entries, (size_t)a->n, sizeof want, by_name);
}

static bool ends_with(const entry *e, const char *text) {
    size_t n = strlen(text);
    return e->name_len >= n && memcmp(e->name + e->name_len - n, text, n) == 0;
}

/* One entry is called <prefix>/data.pkl, and the prefix is a plain name. */
static tnl_status find_prefix(archive *a, const entry **pickle) {
    *pickle = NULL;
    for (uint64_t i = 0; i < a->n; i++) {
        const entry *e = &a->entries[i];
        size_t prefix_len = e->name_len - strlen("data.pkl"); /* meaningful after ends_with */
        if (!ends_with(e, "/data.pkl") || memchr(e->name, '/', prefix_len - 1))
            continue;
        if (*pickle)
            return bad(a, "more than one data.pkl");
        *pickle = e;
        a->prefix = e->name;
        a->prefix_len = prefix_len;
    }
    if (!*pickle)
        return bad(a, "no data.pkl: not an archive of torch.save");
    const entry *order = find(a, "", "byteorder", 9);
    if (order && (order->size != 6 || memcmp(a->p + order->offset, "little", 6) != 0))
        return tnl_fail(a->err, TNL_E_UNSUPPORTED,
                        "%s: byteorder: found \"%.*s\", expected \"little\"", a->name,
                        (int)(order->size < 16 ? order->size : 16),
                        (const char *)a->p + order->offset);
    if ((*pickle)->size > MAX_PICKLE)
        return tnl_fail(a->err, TNL_E_LIMIT, "%s: data.pkl: found %llu bytes, expected at most %d",
                        a->name, (unsigned long long)(*pickle)->size, MAX_PICKLE);
    return TNL_OK;
}

/* ---- tensors ---- */

/* Row-major without gaps. The stride of a dimension of one element has no meaning. */
static bool contiguous(const mdl_pickled_tensor *p) {
    uint64_t step = 1;
    for (int i = p->rank - 1; i >= 0; i--) {
        if (p->dims[i] == 0)
            return true;
        if (p->dims[i] != 1 && p->strides[i] != step)
            return false;
        if (!tnl_mul_u64(&step, step, p->dims[i]))
            return false;
    }
    return true;
}

static tnl_status add_tensor(void *ctx, const mdl_pickled_tensor *p, tnl_error *err) {
    archive *a = ctx;
    int shown = (int)(p->name_len < 200 ? p->name_len : 200);
    const entry *e = find(a, "data/", p->storage, p->storage_len);
    uint64_t elem = (uint64_t)kn_dtypes[p->dtype].elem_bytes, want, skip, end;
    if (!e)
        return tnl_fail(err, TNL_E_DATA, "%s: tensor \"%.*s\": its storage data/%.*s is missing",
                        a->name, shown, p->name, (int)(p->storage_len < 60 ? p->storage_len : 60),
                        p->storage);
    if (!tnl_mul_u64(&want, p->storage_elems, elem) || want != e->size)
        return tnl_fail(
            err, TNL_E_DATA,
            "%s: tensor \"%.*s\": found %llu bytes of storage, expected %llu elements of "
            "%s",
            a->name, shown, p->name, (unsigned long long)e->size,
            (unsigned long long)p->storage_elems, kn_dtypes[p->dtype].name);
    if (!contiguous(p))
        return tnl_fail(err, TNL_E_UNSUPPORTED,
                        "%s: tensor \"%.*s\": found strides with gaps or transposed, expected "
                        "row-major",
                        a->name, shown, p->name);
    mdl_tensor_found f = {
        .name = {p->name, p->name_len, false}, .dtype = p->dtype, .rank = p->rank};
    memcpy(f.dims, p->dims, sizeof f.dims);
    if (!mdl_shape_bytes(&f.bytes, f.dtype, f.rank, f.dims) ||
        !tnl_mul_u64(&skip, p->offset, elem) || !tnl_add_u64(&end, skip, f.bytes) || end > e->size)
        return tnl_fail(err, TNL_E_DATA,
                        "%s: tensor \"%.*s\": offset %llu and shape end beyond its storage of %llu "
                        "bytes",
                        a->name, shown, p->name, (unsigned long long)p->offset,
                        (unsigned long long)e->size);
    f.offset = e->offset + skip;
    return mdl_dir_add(a->t, a->file, &f, err);
}

static tnl_status read_archive(archive *a) {
    const entry *pickle;
    TNL_TRY(read_end(a));
    TNL_TRY(read_directory(a));
    TNL_TRY(find_prefix(a, &pickle));
    return mdl_pickle_tensors(a->p + pickle->offset, (size_t)pickle->size, a->name, add_tensor, a,
                              a->err);
}

tnl_status mdl_torch_zip_read(mdl_tensors *t, int file, tnl_error *err) {
    const mdl_tensor_file *f = &t->files[file];
    archive a = {
        .t = t, .file = file, .name = f->name, .p = f->map.data, .size = f->map.size, .err = err};
    tnl_status s = read_archive(&a);
    free(a.entries);
    return s;
}
