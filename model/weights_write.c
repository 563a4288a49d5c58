/* The plan comes first: every tensor's name, type, size and file follow from the roles, so a file's
 * header is complete before its first tensor is looked at. */
#include "model/weights_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/quant.h"
#include "model/arch.h"
#include "model/file.h"
#include "model/weights_find.h"

enum { PIECE = 8 << 20, LINE = 64, FILE_NAME = 64, MAX_FILES = 1000 };

typedef struct entry {
    char name[MDL_ROLE_NAME];
    const mdl_tensor_view *view; /* the source, or NULL and */
    const void *data;            /* the bytes themselves */
    kn_dtype to;
    int rank;
    int64_t dims[3];        /* as the model means it */
    uint64_t bytes, offset; /* of what is written */
    int file;
    size_t order; /* in the walk over roles */
} entry;

typedef struct writer {
    const mdl_write *p;
    mdl_finder find;
    mdl_pass pass;
    entry *entries;
    size_t n, cap;
    int files;
    uint64_t file_bytes; /* planned so far for the last file */
    int fd;
    char file[FILE_NAME]; /* its name */
    tnl_error *err;
} writer;

/* ---- the plan ---- */

static bool grow(writer *w) {
    if (w->n < w->cap)
        return true;
    size_t cap = w->cap ? 2 * w->cap : 64;
    entry *more = realloc(w->entries, cap * sizeof *more);
    if (!more)
        return false;
    w->entries = more;
    w->cap = cap;
    return true;
}

/* Where the values of a role come from, and the type they are written in. A head may have neither
 * view nor data: it is the embedding. */
static tnl_status source_of(writer *w, entry *e, const mdl_role_row *row, int layer) {
    if (w->p->tensors) {
        TNL_TRY(mdl_find_role(&w->find, row, layer, &e->view));
        if (e->view)
            e->to = row->matrix
                        ? mdl_packed_type(w->p->type, e->view->dtype, e->dims[0], e->dims[1])
                        : e->view->dtype;
        return TNL_OK;
    }
    const mdl_layer_weights *lw =
        layer < 0 ? &w->p->weights->global : &w->p->weights->layers[layer];
    e->data = row->matrix ? lw->m[row->role].data : lw->v[row->role];
    e->to = row->matrix ? lw->m[row->role].dtype : KN_F32;
    return TNL_OK;
}

static tnl_status plan_role(void *ctx, const mdl_role_row *row, int layer) {
    writer *w = ctx;
    entry e = {.rank = mdl_role_dims(row, w->p->spec, layer, e.dims)};
    uint64_t rows = 1, cols = 1;
    TNL_TRY(source_of(w, &e, row, layer));
    if (!e.view && !e.data)
        return TNL_OK;
    mdl_role_name(e.name, row, layer, e.to);
    for (int i = 0; i < e.rank; i++) /* a vector is one row */
        *(row->matrix && i == 0 ? &rows : &cols) *= (uint64_t)e.dims[i];
    if (!kn_dtype_matrix_bytes(&e.bytes, e.to, rows, cols))
        return tnl_fail(w->err, TNL_E_LIMIT, "%s: its size overflows", e.name);
    if (w->files == 0 || w->file_bytes + e.bytes > w->p->shard_bytes) {
        w->files++;
        w->file_bytes = 0;
    }
    w->file_bytes += e.bytes;
    w->pass.total += e.view ? e.view->bytes : e.bytes;
    e.file = w->files - 1;
    if (!grow(w))
        return tnl_fail(w->err, TNL_E_NOMEM, "no memory for a list of tensors");
    e.order = w->n;
    w->entries[w->n++] = e;
    return TNL_OK;
}

/* Packed tensors first, then f32, then the halves: so every offset is aligned to its element, the
 * packed ones to 64 bytes, without a gap. */
static int class_of(kn_dtype t) {
    return t >= KN_PLAIN_COUNT ? 0 : t == KN_F32 ? 1 : 2;
}

static int by_place(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    if (class_of(x->to) != class_of(y->to))
        return class_of(x->to) - class_of(y->to);
    return x->order < y->order ? -1 : x->order > y->order;
}

static void set_offsets(writer *w) {
    uint64_t at = 0;
    qsort(w->entries, w->n, sizeof *w->entries, by_place);
    for (size_t i = 0; i < w->n; i++) {
        if (i > 0 && w->entries[i].file != w->entries[i - 1].file)
            at = 0;
        w->entries[i].offset = at;
        at += w->entries[i].bytes;
    }
}

/* ---- texts ---- */

typedef struct text {
    char *s;
    size_t n, cap;
    bool failed;
} text;

static void put(text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put(text *t, const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (t->cap - t->n < 512) {
        size_t cap = 2 * t->cap + 4096;
        char *more = t->failed ? NULL : realloc(t->s, cap);
        t->failed |= !more;
        t->s = more ? more : t->s;
        t->cap = more ? cap : t->cap;
    }
    if (!t->failed) {
        int n = vsnprintf(t->s + t->n, t->cap - t->n, format, args);
        t->failed |= n < 0 || (size_t)n >= t->cap - t->n;
        t->n += t->failed ? 0 : (size_t)n;
    }
    va_end(args);
}

static void put_entry(text *t, const entry *e) {
    int64_t dims[3] = {e->dims[0], e->dims[1], e->dims[2]};
    const bool packed = e->to >= KN_PLAIN_COUNT;
    if (packed) {
        dims[0] = (dims[0] + KN_Q_OUTS - 1) / KN_Q_OUTS;
        dims[1] = kn_q_tile_bytes(e->to, e->dims[1]);
    }
    put(t, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", e->name,
        packed ? "U8" : kn_dtypes[e->to].st_name);
    for (int i = 0; i < e->rank; i++)
        put(t, "%s%lld", i ? "," : "", (long long)dims[i]);
    put(t, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)e->offset,
        (unsigned long long)(e->offset + e->bytes));
}

static void file_name(char out[FILE_NAME], int file, int files) {
    if (files == 1)
        snprintf(out, FILE_NAME, "model.safetensors");
    else
        snprintf(out, FILE_NAME, "model-%05d-of-%05d.safetensors", file + 1, files);
}

/* ---- files ---- */

static tnl_status open_new(int *fd, const char *dir, const char *name, tnl_error *err) {
    char *path = mdl_file_path(dir, name);
    if (!path)
        return tnl_fail(err, TNL_E_NOMEM, "%s: no memory to write it", name);
    *fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    tnl_status s =
        *fd >= 0 ? TNL_OK : tnl_fail(err, TNL_E_IO, "%s: cannot create: %s", path, strerror(errno));
    free(path);
    return s;
}

static tnl_status write_all(int fd, const char *name, const void *p, uint64_t n, tnl_error *err) {
    const char *at = p;
    while (n > 0) {
        ssize_t put_bytes = write(fd, at, n < PIECE ? (size_t)n : PIECE);
        if (put_bytes < 0 && errno == EINTR)
            continue;
        if (put_bytes <= 0)
            return tnl_fail(err, TNL_E_IO, "%s: cannot write: %s", name,
                            put_bytes < 0 ? strerror(errno) : "no space");
        at += put_bytes;
        n -= (uint64_t)put_bytes;
    }
    return TNL_OK;
}

/* To the disk, then closed; also after a failure. */
static tnl_status finish_file(int *fd, const char *name, tnl_status s, tnl_error *err) {
    if (s == TNL_OK && fsync(*fd) != 0)
        s = tnl_fail(err, TNL_E_IO, "%s: cannot write: %s", name, strerror(errno));
    if (close(*fd) != 0 && s == TNL_OK)
        s = tnl_fail(err, TNL_E_IO, "%s: cannot write: %s", name, strerror(errno));
    *fd = -1;
    return s;
}

tnl_status mdl_write_file(const char *dir, const char *name, const void *data, size_t n,
                          tnl_error *err) {
    int fd;
    TNL_TRY(open_new(&fd, dir, name, err));
    return finish_file(&fd, name, write_all(fd, name, data, n, err), err);
}

static tnl_status write_header(writer *w, int file) {
    text t = {0};
    put(&t, "{\"__metadata__\":{\"format\":\"pt\",\"quantized\":\"%s\"}",
        kn_dtypes[w->p->type].name);
    for (size_t i = 0; i < w->n; i++)
        if (w->entries[i].file == file)
            put_entry(&t, &w->entries[i]);
    put(&t, "}");
    while (!t.failed && (t.n + 8) % LINE)
        put(&t, " ");
    unsigned char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)t.n >> 8 * i);
    tnl_status s = t.failed ? tnl_fail(w->err, TNL_E_NOMEM, "%s: no memory for its header", w->file)
                            : write_all(w->fd, w->file, length, sizeof length, w->err);
    if (s == TNL_OK)
        s = write_all(w->fd, w->file, t.s, t.n, w->err);
    free(t.s);
    return s;
}

/* ---- tensors ---- */

static tnl_status check_stop(const writer *w) {
    return w->p->stop && *w->p->stop ? tnl_fail(w->err, TNL_E_CANCELLED, "interrupted") : TNL_OK;
}

static tnl_status write_data(writer *w, const entry *e) {
    for (uint64_t at = 0; at < e->bytes;) {
        uint64_t n = e->bytes - at < PIECE ? e->bytes - at : PIECE;
        TNL_TRY(check_stop(w));
        TNL_TRY(write_all(w->fd, w->file, (const char *)e->data + at, n, w->err));
        at += n;
        w->pass.done += n;
        if (w->p->progress)
            w->p->progress(w->p->progress_ctx, w->pass.done, w->pass.total);
    }
    return TNL_OK;
}

/* Rows [at, at + n) through the buffer when they change, else from where they lie. */
static tnl_status write_rows(writer *w, const entry *e, int64_t at, int64_t n, void *buffer) {
    const int64_t cols = mdl_view_cols(e->view);
    const char *rows =
        (const char *)e->view->data + at * cols * kn_dtypes[e->view->dtype].elem_bytes;
    uint64_t bytes = 0;
    kn_dtype_matrix_bytes(&bytes, e->to, (uint64_t)n, (uint64_t)cols);
    TNL_TRY(check_stop(w));
    TNL_TRY(mdl_pass_rows(&w->pass, e->view, at, n, buffer, e->to));
    TNL_TRY(write_all(w->fd, w->file, buffer ? buffer : rows, bytes, w->err));
    if (!buffer)
        mdl_tensors_release(w->p->tensors, rows, bytes);
    return TNL_OK;
}

static tnl_status write_view(writer *w, const entry *e) {
    const int64_t rows = mdl_view_rows(e->view), part = mdl_pass_part(e->view);
    uint64_t bytes = 0;
    void *buffer = NULL;
    if (e->to != e->view->dtype) {
        kn_dtype_matrix_bytes(&bytes, e->to, (uint64_t)(rows < part ? rows : part),
                              (uint64_t)mdl_view_cols(e->view));
        buffer = malloc((size_t)bytes);
        if (!buffer)
            return tnl_fail(w->err, TNL_E_NOMEM, "%s: no memory to write it", e->name);
    }
    tnl_status s = TNL_OK;
    for (int64_t at = 0; s == TNL_OK && at < rows; at += part)
        s = write_rows(w, e, at, rows - at < part ? rows - at : part, buffer);
    free(buffer);
    return s;
}

static tnl_status write_tensors(writer *w, int file) {
    TNL_TRY(write_header(w, file));
    for (size_t i = 0; i < w->n; i++)
        if (w->entries[i].file == file)
            TNL_TRY(w->entries[i].view ? write_view(w, &w->entries[i])
                                       : write_data(w, &w->entries[i]));
    return TNL_OK;
}

static tnl_status write_index(writer *w) {
    static const char name[] = "model.safetensors.index.json";
    text t = {0};
    uint64_t total = 0;
    for (size_t i = 0; i < w->n; i++)
        total += w->entries[i].bytes;
    put(&t, "{\n  \"metadata\": {\n    \"total_size\": %llu\n  },\n  \"weight_map\": {",
        (unsigned long long)total);
    for (size_t i = 0; i < w->n; i++) {
        char file[FILE_NAME];
        file_name(file, w->entries[i].file, w->files);
        put(&t, "%s\n    \"%s\": \"%s\"", i ? "," : "", w->entries[i].name, file);
    }
    put(&t, "\n  }\n}\n");
    tnl_status s = t.failed ? tnl_fail(w->err, TNL_E_NOMEM, "%s: no memory to write it", name)
                            : mdl_write_file(w->p->dir, name, t.s, t.n, w->err);
    free(t.s);
    return s;
}

/* ---- all of it ---- */

static tnl_status write_model(writer *w) {
    if (w->p->tensors)
        TNL_TRY(mdl_finder_check(&w->find));
    TNL_TRY(mdl_weights_each_role(w->p->spec, plan_role, w));
    if (w->files > MAX_FILES)
        return tnl_fail(w->err, TNL_E_LIMIT, "shards: found %d files, expected at most %d",
                        w->files, MAX_FILES);
    set_offsets(w);
    TNL_TRY(tnl_pool_open(&w->pass.pool, w->p->threads ? w->p->threads : tnl_cpu_count(), w->err));
    for (int file = 0; file < w->files; file++) {
        file_name(w->file, file, w->files);
        TNL_TRY(open_new(&w->fd, w->p->dir, w->file, w->err));
        TNL_TRY(finish_file(&w->fd, w->file, write_tensors(w, file), w->err));
    }
    if (w->files > 1)
        TNL_TRY(write_index(w));
    if (w->p->tensors)
        mdl_finder_report(&w->find);
    return TNL_OK;
}

tnl_status mdl_weights_write(mdl_written *out, const mdl_write *p, tnl_error *err) {
    writer w = {
        .p = p,
        .find = {.spec = p->spec, .t = p->tensors, .err = err},
        .pass = {.t = p->tensors,
                 .progress = p->progress,
                 .progress_ctx = p->progress_ctx,
                 .err = err},
        .fd = -1,
        .err = err,
    };
    *out = (mdl_written){0};
    tnl_status s = write_model(&w);
    out->files = w.files;
    for (size_t i = 0; i < w.n; i++)
        out->bytes += w.entries[i].bytes;
    mdl_finder_clear(&w.find);
    tnl_pool_close(w.pass.pool);
    free(w.entries);
    return s;
}
