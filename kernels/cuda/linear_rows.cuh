/* The input rows of a product, norm(x) . mul: in f32, rounded to bf16, or quantised as quant.h
 * says. One order of operations, for a block of ROW_THREADS, whoever wants the row. */
#ifndef TNL_CUDA_LINEAR_ROWS_CUH
#define TNL_CUDA_LINEAR_ROWS_CUH

#include "kernels/cuda/linear_common.cuh"

/* What norm(x) . mul is made from: a = (x - mean) f. */
struct row_norm {
    float mean, f;
};

KN_DEVICE row_norm measure_row(const kn_linear &p, const float *x, int64_t cols, float *parts) {
    row_norm n = {0, 1};
    if (p.norm.kind == KN_NORM_NONE)
        return n;
    float sum = 0;
    if (p.norm.kind == KN_NORM_LAYER) {
        for (int64_t i = threadIdx.x; i < cols; i += ROW_THREADS)
            sum += x[i];
        n.mean = kn_block_sum(sum, parts) / (float)cols;
        sum = 0;
    }
    for (int64_t i = threadIdx.x; i < cols; i += ROW_THREADS)
        sum = fmaf(x[i] - n.mean, x[i] - n.mean, sum);
    n.f = 1 / sqrtf(kn_block_sum(sum, parts) / (float)cols + p.norm.eps);
    return n;
}

KN_DEVICE float row_value(const kn_linear &p, row_norm n, int64_t row, int64_t i) {
    float a = p.x[row * p.ldx + i];
    if (p.norm.kind != KN_NORM_NONE)
        a = (a - n.mean) * n.f;
    if (p.norm.kind == KN_NORM_LAYER)
        a = a * p.norm.w[i] + p.norm.b[i];
    return p.mul ? a * p.mul[row * p.ldmul + i] : a;
}

/* One group of a row, by one warp: four inputs a lane. See kn_qrows. */
KN_DEVICE void quantise_group(const kn_linear_args &x, row_norm n, int64_t row, int64_t group) {
    const int64_t cols = x.w.cols, lane = threadIdx.x % 32, at = group * KN_Q_GROUP + lane * 4;
    float a[4];
    uint32_t top = 0; /* as integers magnitudes are ordered, and NaN and infinity are largest */
    for (int i = 0; i < 4; i++) {
        a[i] = at + i < cols ? row_value(x.p, n, row, at + i) : 0.0f;
        const uint32_t bits = kn_bits_of_float(a[i]) & 0x7FFFFFFFu;
        top = bits > top ? bits : top;
    }
    for (int apart = 16; apart > 0; apart /= 2) {
        const uint32_t other = kn_shfl_xor_bits(top, apart);
        top = other > top ? other : top;
    }
    const float most = kn_float_of_bits(top), factor = 127 / most;
    const bool none = top >= 0x7F800000u || most < 0x1p-100f;
    uint32_t codes = 0;
    int32_t sum = 0;
    for (int i = 0; i < 4 && !none; i++) {
        const int32_t code = (int32_t)rintf(a[i] * factor);
        codes |= ((uint32_t)code & 0xFFu) << 8 * i;
        sum += code;
    }
    for (int apart = 16; apart > 0; apart /= 2)
        sum += (int32_t)kn_shfl_xor_bits((uint32_t)sum, apart);
    if (at < x.q.ldq)
        *(uint32_t *)(x.q.q + row * x.q.ldq + at) = codes;
    if (lane == 0) {
        x.q.sum[row * x.groups + group] = sum;
        x.q.scale[row * x.groups + group] = top >= 0x7F800000u ? kn_float_of_bits(0x7FC00000u)
                                            : none             ? 0
                                                               : most / 127;
    }
}

#endif
