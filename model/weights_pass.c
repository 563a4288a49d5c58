/* Passes over tensors' values: NaN and infinity are found, and values converted where asked, part
 * by part, so that a source is never in memory as a whole. */
#include <string.h>

#include "kernels/base/half.h"
#include "kernels/quant_pack.h"
#include "model/weights_find.h"

enum { PART = 8 << 20 }; /* bytes between two calls of progress */

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

static tnl_status nonfinite(const mdl_pass *p, const mdl_tensor_view *v, uint64_t at, const void *x,
                            size_t n) {
    size_t elem = (size_t)kn_dtypes[v->dtype].elem_bytes, i = 0;
    while (i + 1 < n && all_finite((const char *)x + i * elem, 1, v->dtype))
        i++;
    float f;
    kn_dtype_to_f32(&f, (const char *)x + i * elem, v->dtype, 1);
    return tnl_fail(p->err, TNL_E_NONFINITE,
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

int64_t mdl_view_rows(const mdl_tensor_view *v) {
    return v->rank == 2 ? v->dims[0] : 1;
}

int64_t mdl_view_cols(const mdl_tensor_view *v) {
    return (int64_t)(v->bytes / (uint64_t)kn_dtypes[v->dtype].elem_bytes) / mdl_view_rows(v);
}

int64_t mdl_pass_part(const mdl_tensor_view *v) {
    int64_t row_bytes = mdl_view_cols(v) * kn_dtypes[v->dtype].elem_bytes;
    return (PART / row_bytes / KN_Q_OUTS + 1) * KN_Q_OUTS;
}

kn_dtype mdl_packed_type(kn_dtype type, kn_dtype stored, int64_t rows, int64_t cols) {
    uint64_t packed, plain;
    bool smaller = kn_dtype_matrix_bytes(&packed, type, (uint64_t)rows, (uint64_t)cols) &&
                   kn_dtype_matrix_bytes(&plain, KN_BF16, (uint64_t)rows, (uint64_t)cols) &&
                   packed < plain;
    return smaller ? type : stored;
}

/* ---- conversion ---- */

static tnl_status overflow(const mdl_pass *p, const mdl_tensor_view *v, kn_dtype to) {
    return tnl_fail(p->err, TNL_E_NONFINITE,
                    "%s: tensor \"%s\": a value overflows %s: load it as f32", v->file, v->name,
                    kn_dtypes[to].name);
}

/* Exponents of the packed types leave out the largest binade: a value in it, 2^127 and above. f16
 * has none. */
static bool fits_packed(const void *x, size_t n, kn_dtype t) {
    int32_t top = 0;
    for (size_t i = 0; t == KN_F32 && i < n; i++) {
        int32_t e = ((const int32_t *)x)[i] & 0x7F800000;
        top = e > top ? e : top;
    }
    for (size_t i = 0; t == KN_BF16 && i < n; i++) {
        int32_t e = (((const uint16_t *)x)[i] & 0x7F80) << 16;
        top = e > top ? e : top;
    }
    return top < 0x7F000000;
}

/* n whole rows at x to `to`. */
static tnl_status convert(mdl_pass *p, const mdl_tensor_view *v, const void *x, int64_t rows,
                          void *dst, kn_dtype to) {
    int64_t cols = mdl_view_cols(v);
    size_t n = (size_t)(rows * cols);
    if (to >= KN_PLAIN_COUNT) {
        if (!fits_packed(x, n, v->dtype))
            return overflow(p, v, to);
        kn_q_pack(p->pool, dst, to, x, v->dtype, rows, cols);
    } else if (to == v->dtype) {
        memcpy(dst, x, n * (size_t)kn_dtypes[to].elem_bytes);
    } else if (to == KN_F32) {
        kn_dtype_to_f32(dst, x, v->dtype, n);
    } else {
        to_bf16(dst, x, v->dtype, n);
        if (!all_finite(dst, n, KN_BF16)) /* rounded up beyond the largest bf16 */
            return overflow(p, v, to);
    }
    return TNL_OK;
}

tnl_status mdl_pass_rows(mdl_pass *p, const mdl_tensor_view *v, int64_t first, int64_t n, void *dst,
                         kn_dtype to) {
    int64_t cols = mdl_view_cols(v);
    uint64_t row_bytes = (uint64_t)(cols * kn_dtypes[v->dtype].elem_bytes);
    const char *x = (const char *)v->data + (uint64_t)first * row_bytes;
    if (!all_finite(x, (size_t)(n * cols), v->dtype))
        return nonfinite(p, v, (uint64_t)(first * cols), x, (size_t)(n * cols));
    if (dst) {
        TNL_TRY(convert(p, v, x, n, dst, to));
        mdl_tensors_release(p->t, x, (uint64_t)n * row_bytes);
    }
    p->done += (uint64_t)n * row_bytes;
    if (p->progress)
        p->progress(p->progress_ctx, p->done, p->total);
    return TNL_OK;
}

tnl_status mdl_pass_all(mdl_pass *p, const mdl_tensor_view *v, void *dst, kn_dtype to) {
    const int64_t rows = mdl_view_rows(v), part = mdl_pass_part(v);
    const uint64_t cols = (uint64_t)mdl_view_cols(v);
    for (int64_t at = 0; at < rows; at += part) {
        uint64_t before = 0;
        if (dst && !kn_dtype_matrix_bytes(&before, to, (uint64_t)at, cols))
            return tnl_fail(p->err, TNL_E_LIMIT, "%s: tensor \"%s\": its size overflows", v->file,
                            v->name);
        TNL_TRY(mdl_pass_rows(p, v, at, rows - at < part ? rows - at : part,
                              dst ? (char *)dst + before : NULL, to));
    }
    return TNL_OK;
}

/* ---- packed tensors ---- */

tnl_status mdl_pass_packed(mdl_pass *p, const mdl_tensor_view *v, int64_t cols) {
    int64_t bad;
    if (!kn_q_tiles_finite(p->pool, v->data, v->dtype, v->dims[0], cols, &bad))
        return tnl_fail(p->err, TNL_E_NONFINITE, "%s: tensor \"%s\": found %s in tile %lld",
                        v->file, v->name,
                        v->dtype == KN_F8 ? "a NaN or a scale that is not above 0 and at most 2^119"
                                          : "a scale that is not finite",
                        (long long)bad);
    p->done += v->bytes;
    if (p->progress)
        p->progress(p->progress_ctx, p->done, p->total);
    return TNL_OK;
}
