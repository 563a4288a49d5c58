/* Tensor names to roles: presence and shape of everything first, so that a wrong folder fails at
 * once, then one pass over the values that finds NaN and infinity and converts where asked. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/half.h"
#include "kernels/base/log.h"
#include "model/arch.h"
#include "model/weights_memory.h"

enum { CHUNK = 8 << 20 }; /* bytes between two calls of progress */

typedef struct binder {
    mdl_weights *w;
    const mdl_spec *spec;
    const mdl_tensors *t;
    mdl_weight_mode mode;
    bool *used;                   /* [tensors] */
    bool head_bound;              /* the file has a head and we take it */
    bool head_ignored;            /* the file has one that differs, and we do not */
    const mdl_tensor_view *other; /* a matrix whose dtype is not torch_dtype; NULL: none */
    mdl_progress_fn progress;
    void *progress_ctx;
    uint64_t done, total;
    tnl_error *err;
} binder;

/* ---- names and shapes ---- */

/* The pattern with its %d replaced by the layer. */
static void role_name(char out[128], const mdl_role_row *row, int layer) {
    const char *at = strstr(row->pattern, "%d");
    if (at)
        snprintf(out, 128, "%.*s%d%s", (int)(at - row->pattern), row->pattern, layer, at + 2);
    else
        snprintf(out, 128, "%s", row->pattern);
}

static void shape_text(char out[160], int rank, const int64_t *dims) {
    size_t n = (size_t)snprintf(out, 160, "[");
    for (int i = 0; i < rank && n < 140; i++)
        n += (size_t)snprintf(out + n, 160 - n, "%s%lld", i ? ", " : "", (long long)dims[i]);
    snprintf(out + n, 160 - n, "]");
}

static const char *files_label(const mdl_tensors *t) {
    int64_t n = mdl_tensors_count(t);
    if (n == 0)
        return "the weights";
    const char *first = mdl_tensors_at(t, 0)->file, *last = mdl_tensors_at(t, n - 1)->file;
    return strcmp(first, last) == 0 ? first : "all shards";
}

/* The tensor of a role, its shape checked. A head that is not there is the embedding: *out NULL. */
static tnl_status find_role(binder *b, const mdl_role_row *row, int layer,
                            const mdl_tensor_view **out) {
    char name[128], want[160], have[160];
    int64_t dims[3];
    int rank = mdl_role_dims(row, b->spec, layer, dims);
    role_name(name, row, layer);
    shape_text(want, rank, dims);
    const mdl_tensor_view *v = mdl_tensors_find(b->t, name);
    *out = v;
    if (!v && row->role == MDL_R_HEAD)
        return TNL_OK;
    if (!v)
        return tnl_fail(b->err, TNL_E_DATA, "%s: tensor \"%s\": missing, expected shape %s",
                        files_label(b->t), name, want);
    if (v->rank != rank || memcmp(v->dims, dims, (size_t)rank * sizeof *dims) != 0) {
        shape_text(have, v->rank, v->dims);
        return tnl_fail(b->err, TNL_E_DATA,
                        "%s: tensor \"%s\": found shape %s, expected %s by config.json", v->file,
                        name, have, want);
    }
    b->used[v - mdl_tensors_at(b->t, 0)] = true;
    return TNL_OK;
}

static tnl_status check_role(void *ctx, const mdl_role_row *row, int layer) {
    binder *b = ctx;
    const mdl_tensor_view *v;
    TNL_TRY(find_role(b, row, layer, &v));
    if (!v)
        return TNL_OK;
    if (row->role == MDL_R_HEAD)
        b->head_bound = true;
    if (b->spec->has_torch_dtype && v->dtype != b->spec->torch_dtype && row->matrix && !b->other)
        b->other = v;
    b->total += v->bytes;
    return TNL_OK;
}

/* A tied model may still carry a head: normally the embedding again. One that differs is not used,
 * as in the published code, unless config.json itself says tied: then the folder contradicts
 * itself. */
static tnl_status check_tied_head(binder *b) {
    const mdl_tensor_view *head = mdl_tensors_find(b->t, "lm_head.weight");
    const mdl_tensor_view *embed = mdl_tensors_find(b->t, "model.embed_tokens.weight");
    if (!head || !b->spec->tied || !embed)
        return TNL_OK;
    b->used[head - mdl_tensors_at(b->t, 0)] = true;
    b->head_ignored =
        head->dtype != embed->dtype || head->bytes != embed->bytes ||
        (head->data != embed->data && memcmp(head->data, embed->data, head->bytes) != 0);
    if (b->head_ignored && b->spec->tie_stated)
        return tnl_fail(b->err, TNL_E_DATA,
                        "%s: tensor \"lm_head.weight\": found other values than in the embedding, "
                        "expected the same since tie_word_embeddings is true",
                        head->file);
    return TNL_OK;
}

static bool ignorable(const char *name) {
    static const char tail[] = "decoder.version";
    size_t n = strlen(name), t = sizeof tail - 1;
    return n >= t && strcmp(name + n - t, tail) == 0;
}

/* After success only: a refusal is one line. */
static void report(const binder *b) {
    if (b->head_ignored)
        tnl_log(TNL_LOG_WARN,
                "lm_head.weight differs from the embedding, but tie_word_embeddings is absent: the "
                "embedding is used");
    if (!b->spec->tied && !b->head_bound)
        tnl_log(TNL_LOG_WARN, "%s: lm_head.weight is missing, the embedding is used",
                files_label(b->t));
    if (b->other)
        tnl_log(TNL_LOG_WARN, "%s: tensor \"%s\" is %s, but torch_dtype says %s: the tensor wins",
                b->other->file, b->other->name, kn_dtypes[b->other->dtype].name,
                kn_dtypes[b->spec->torch_dtype].name);
}

static void report_extra(const binder *b) {
    int64_t extra = 0, first = -1;
    for (int64_t i = 0; i < mdl_tensors_count(b->t); i++) {
        if (b->used[i] || ignorable(mdl_tensors_at(b->t, i)->name))
            continue;
        if (extra++ == 0)
            first = i;
    }
    if (extra)
        tnl_log(TNL_LOG_WARN, "%s: %lld tensors are not used, the first is \"%s\"",
                mdl_tensors_at(b->t, first)->file, (long long)extra,
                mdl_tensors_at(b->t, first)->name);
}

/* ---- values ---- */

/* A value is not finite when all exponent bits are set; as integers these are the largest, so a
 * running maximum finds them, and compilers turn it into vector instructions. */
static bool finite16(const void *p, size_t n, int16_t mask) {
    const int16_t *x = p;
    int16_t top = 0;
    for (size_t i = 0; i < n; i++) {
        int16_t e = (int16_t)(x[i] & mask);
        top = e > top ? e : top;
    }
    return top != mask;
}

static bool finite32(const void *p, size_t n) {
    const int32_t *x = p;
    int32_t top = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t e = x[i] & 0x7F800000;
        top = e > top ? e : top;
    }
    return top != 0x7F800000;
}

static bool all_finite(const void *p, size_t n, kn_dtype t) {
    if (t == KN_F32)
        return finite32(p, n);
    return finite16(p, n, t == KN_F16 ? 0x7C00 : 0x7F80);
}

static tnl_status nonfinite(const binder *b, const mdl_tensor_view *v, uint64_t at, const void *p,
                            size_t n) {
    size_t elem = (size_t)kn_dtypes[v->dtype].elem_bytes, i = 0;
    while (i + 1 < n && all_finite((const char *)p + i * elem, 1, v->dtype))
        i++;
    float f;
    kn_dtype_to_f32(&f, (const char *)p + i * elem, v->dtype, 1);
    return tnl_fail(b->err, TNL_E_NONFINITE,
                    "%s: tensor \"%s\": found %s at element %llu, expected finite values", v->file,
                    v->name,
                    f != f  ? "NaN"
                    : f > 0 ? "infinity"
                            : "-infinity",
                    (unsigned long long)(at + i));
}

static void to_bf16(uint16_t *dst, const void *src, kn_dtype t, size_t n) {
    if (t == KN_F32) {
        const float *x = src;
        for (size_t i = 0; i < n; i++)
            dst[i] = tnl_bf16_from_f32(x[i]);
        return;
    }
    const uint16_t *x = src;
    for (size_t i = 0; i < n; i++)
        dst[i] = tnl_bf16_from_f32(tnl_f32_from_f16(x[i]));
}

/* Scan a tensor and, when dst is not NULL, convert it to `to` on the way. */
static tnl_status pass_over(binder *b, const mdl_tensor_view *v, void *dst, kn_dtype to) {
    size_t elem = (size_t)kn_dtypes[v->dtype].elem_bytes, out = (size_t)kn_dtypes[to].elem_bytes;
    uint64_t n = v->bytes / elem;
    const char *src = v->data;
    for (uint64_t at = 0; at < n;) {
        size_t part = n - at < CHUNK / elem ? (size_t)(n - at) : CHUNK / elem;
        const char *p = src + at * elem;
        char *q = dst ? (char *)dst + at * out : NULL;
        if (!all_finite(p, part, v->dtype))
            return nonfinite(b, v, at, p, part);
        if (q && to == KN_F32)
            kn_dtype_to_f32((float *)q, p, v->dtype, part);
        if (q && to == KN_BF16) {
            to_bf16((uint16_t *)q, p, v->dtype, part);
            if (!all_finite(q, part, KN_BF16)) /* rounded up beyond the largest bf16 */
                return tnl_fail(b->err, TNL_E_NONFINITE,
                                "%s: tensor \"%s\": a value overflows bf16: load it as f32",
                                v->file, v->name);
        }
        at += part;
        b->done += part * elem;
        if (b->progress)
            b->progress(b->progress_ctx, b->done, b->total);
    }
    return TNL_OK;
}

/* ---- loading ---- */

static kn_dtype kept_as(mdl_weight_mode mode, kn_dtype stored) {
    return mode == MDL_W_F32 ? KN_F32 : mode == MDL_W_BF16 ? KN_BF16 : stored;
}

static tnl_status load_matrix(binder *b, const mdl_tensor_view *v, kn_tensor *out) {
    kn_dtype to = kept_as(b->mode, v->dtype);
    void *copy = NULL;
    uint64_t bytes;
    if (to != v->dtype) {
        if (!kn_dtype_matrix_bytes(&bytes, to, (uint64_t)v->dims[0], (uint64_t)v->dims[1]) ||
            !(copy = mdl_weights_alloc(b->w, bytes)))
            return tnl_fail(b->err, TNL_E_NOMEM, "%s: tensor \"%s\": no memory for a copy in %s",
                            v->file, v->name, kn_dtypes[to].name);
    }
    *out = (kn_tensor){
        .data = copy ? copy : v->data, .dtype = to, .rows = v->dims[0], .cols = v->dims[1]};
    return pass_over(b, v, copy, to);
}

static tnl_status load_vector(binder *b, const mdl_tensor_view *v, const float **out) {
    uint64_t n = v->bytes / (uint64_t)kn_dtypes[v->dtype].elem_bytes;
    float *copy = mdl_weights_alloc(b->w, n * sizeof *copy);
    if (!copy)
        return tnl_fail(b->err, TNL_E_NOMEM, "%s: tensor \"%s\": no memory for a copy in f32",
                        v->file, v->name);
    *out = copy;
    return pass_over(b, v, copy, KN_F32);
}

static tnl_status load_role(void *ctx, const mdl_role_row *row, int layer) {
    binder *b = ctx;
    const mdl_tensor_view *v;
    mdl_layer_weights *lw = mdl_weights_of(b->w, layer);
    TNL_TRY(find_role(b, row, layer, &v));
    if (!v)
        return TNL_OK;
    return row->matrix ? load_matrix(b, v, &lw->m[row->role])
                       : load_vector(b, v, &lw->v[row->role]);
}

static tnl_status bind(binder *b) {
    TNL_TRY(mdl_weights_begin(b->w, b->spec, b->err));
    b->used = calloc((size_t)mdl_tensors_count(b->t) + 1, sizeof *b->used);
    if (!b->used)
        return tnl_fail(b->err, TNL_E_NOMEM, "no memory to bind the weights");
    TNL_TRY(mdl_weights_each_role(b->spec, check_role, b));
    TNL_TRY(check_tied_head(b));
    TNL_TRY(mdl_weights_each_role(b->spec, load_role, b));
    if (!b->head_bound)
        b->w->global.m[MDL_R_HEAD] = b->w->global.m[MDL_R_EMBED];
    mdl_weights_count(b->w, b->spec);
    report(b);
    report_extra(b);
    return TNL_OK;
}

tnl_status mdl_weights_bind(mdl_weights *out, const mdl_spec *spec, const mdl_tensors *t,
                            mdl_weight_mode mode, mdl_progress_fn progress, void *progress_ctx,
                            tnl_error *err) {
    binder b = {.w = out,
                .spec = spec,
                .t = t,
                .mode = mode,
                .progress = progress,
                .progress_ctx = progress_ctx,
                .err = err};
    tnl_status s = bind(&b);
    free(b.used);
    if (s != TNL_OK)
        mdl_weights_clear(out, spec);
    return s;
}
