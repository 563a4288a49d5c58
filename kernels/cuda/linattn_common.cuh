/* What both ways through Lightning Attention share: where a head's state lies, how rows of either
 * element type are read, how a full block folds into S. */
#ifndef TNL_CUDA_LINATTN_COMMON_CUH
#define TNL_CUDA_LINATTN_COMMON_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/linattn_cuda.h"

/* One head of one segment's state. */
struct kn_head_state {
    float *S, *K, *V; /* [Dk][Dv], pending [B][Dk] and [B][Dv] */
};

KN_DEVICE kn_head_state kn_head_state_at(const kn_cuda_linattn &a, const kn_linattn_seg &seg,
                                         int head) {
    const size_t Dk = (size_t)a.d.Dk, Dv = (size_t)a.d.Dv, B = KN_CUDA_BLOCK;
    kn_head_state h;
    h.S = seg.state + a.state_offset + (size_t)head * (Dk * Dv + B * (Dk + Dv));
    h.K = h.S + Dk * Dv;
    h.V = h.K + B * Dk;
    return h;
}

/* A matrix of rows of f32 or bf16. */
struct kn_rows {
    const void *p;
    int64_t ld;
    bool bf16;
};

KN_DEVICE kn_rows kn_rows_at(const void *p, int64_t ld, kn_dtype dtype, int64_t column) {
    kn_rows r;
    r.bf16 = dtype == KN_BF16;
    r.p = (const char *)p + column * (r.bf16 ? 2 : 4);
    r.ld = ld;
    return r;
}

KN_DEVICE float kn_rows_get(const kn_rows &r, int64_t row, int col) {
    const int64_t at = row * r.ld + col;
    return r.bf16 ? kn_to_float(((const kn_bf16 *)r.p)[at]) : ((const float *)r.p)[at];
}

KN_DEVICE void kn_rows_put(void *p, bool bf16, int64_t at, float x) {
    if (bf16)
        kn_store((kn_bf16 *)p + at, x);
    else
        kn_store((float *)p + at, x);
}

/* S after a block: decayed, plus the block's own sum. A slow head adds its small loss (see
 * kernels.h); less is expm1(-s n), pow is exp(-s n). */
KN_DEVICE float kn_fold(float S, float sum, float pow, float less) {
    return less >= -0.5f ? S + fmaf(S, less, sum) : fmaf(S, pow, sum);
}

#endif
