/* The input rows of a product, norm(x) . mul: in f32, rounded to bf16, or quantised as quant.h
 * says. One order of operations, for a block of ROW_THREADS, whoever wants the row and wherever it
 * goes. */
#ifndef TNL_CUDA_LINEAR_ROWS_CUH
#define TNL_CUDA_LINEAR_ROWS_CUH

#include "kernels/cuda/linear_common.cuh"

/* Where rows go, in global or shared memory: one of plain, half and q. */
struct kn_row_room {
    float *plain;
    uint16_t *half;
    int8_t *q;
    float *scale; /* of q, as in kn_qrows */
    int32_t *sum;
    int64_t ld, filled; /* elements between rows; those that a row has with its filling */
};

/* What norm(x) . mul is made from: a = (x - mean) f. */
struct row_norm {
    float mean, f;
};

enum { ROW_BATCH = 8 }; /* elements that a thread asks for at once */

/* Sum of x, or of (x - mean)^2, over what this thread has of a row. */
template <bool SQUARES> KN_DEVICE float kn_row_sum(const float *x, int64_t cols, float mean) {
    float sum = 0;
    for (int64_t i = threadIdx.x; i < cols; i += ROW_BATCH * ROW_THREADS) {
        float v[ROW_BATCH];
        KN_UNROLL
        for (int j = 0; j < ROW_BATCH; j++)
            v[j] = i + j * ROW_THREADS < cols ? x[i + j * ROW_THREADS] : mean;
        KN_UNROLL
        for (int j = 0; j < ROW_BATCH; j++)
            sum = SQUARES ? fmaf(v[j] - mean, v[j] - mean, sum) : sum + v[j];
    }
    return sum;
}

KN_DEVICE row_norm measure_row(const kn_linear &p, const float *x, int64_t cols, float *parts) {
    row_norm n = {0, 1};
    if (p.norm.kind == KN_NORM_NONE)
        return n;
    if (p.norm.kind == KN_NORM_LAYER)
        n.mean = kn_block_sum(kn_row_sum<false>(x, cols, 0), parts) / (float)cols;
    const float squares = kn_block_sum(kn_row_sum<true>(x, cols, n.mean), parts);
    n.f = 1 / sqrtf(squares / (float)cols + p.norm.eps);
    return n;
}

KN_DEVICE float row_value(const kn_linear &p, row_norm n, int64_t row, int64_t i) {
    float a = p.x[row * p.ldx + i];
    if (p.norm.kind != KN_NORM_NONE)
        a = (a - n.mean) * n.f;
    if (p.norm.kind == KN_NORM_LAYER)
        a = kn_add(a * p.norm.w[i], p.norm.b[i]);
    return p.mul ? a * p.mul[row * p.ldmul + i] : a;
}

/* The same of elements i, i + step, .., all asked for at once; zeros beyond the row. */
template <int N>
KN_DEVICE void row_values(float a[N], const kn_linear &p, row_norm n, int64_t row, int64_t i,
                          int step, int64_t cols) {
    int64_t at[N];
    KN_UNROLL
    for (int j = 0; j < N; j++) {
        at[j] = i + j * step < cols ? i + j * step : cols - 1;
        a[j] = p.x[row * p.ldx + at[j]];
    }
    if (p.norm.kind != KN_NORM_NONE) {
        KN_UNROLL
        for (int j = 0; j < N; j++)
            a[j] = (a[j] - n.mean) * n.f;
    }
    if (p.norm.kind == KN_NORM_LAYER) {
        KN_UNROLL
        for (int j = 0; j < N; j++)
            a[j] = kn_add(a[j] * p.norm.w[at[j]], p.norm.b[at[j]]);
    }
    if (p.mul) {
        KN_UNROLL
        for (int j = 0; j < N; j++)
            a[j] *= p.mul[row * p.ldmul + at[j]];
    }
    KN_UNROLL
    for (int j = 0; j < N; j++)
        a[j] = i + j * step < cols ? a[j] : 0.0f;
}

/* The largest of a warp's magnitudes, as bits: as integers they are ordered, and NaN and infinity
 * are largest. */
KN_DEVICE uint32_t kn_warp_top(uint32_t top) {
    for (int apart = 16; apart > 0; apart /= 2) {
        const uint32_t other = kn_shfl_xor_bits(top, apart);
        top = other > top ? other : top;
    }
    return top;
}

/* One group of a row, by one warp: four inputs a lane. See kn_qrows. */
KN_DEVICE void kn_quantise_group(const kn_linear_args &x, const kn_row_room &to, const float a[4],
                                 int64_t row, int64_t group) {
    const int64_t lane = threadIdx.x % 32, at = group * KN_Q_GROUP + lane * 4;
    uint32_t top = 0;
    KN_UNROLL
    for (int i = 0; i < 4; i++) {
        const uint32_t bits = kn_bits_of_float(a[i]) & 0x7FFFFFFFu;
        top = bits > top ? bits : top;
    }
    top = kn_warp_top(top);
    const float most = kn_float_of_bits(top), factor = 127 / most;
    const bool none = top >= 0x7F800000u || most < 0x1p-100f;
    uint32_t codes = 0;
    int32_t sum = 0;
    KN_UNROLL
    for (int i = 0; i < 4; i++) {
        const int32_t code = none ? 0 : (int32_t)rintf(a[i] * factor);
        codes |= ((uint32_t)code & 0xFFu) << 8 * i;
        sum += code;
    }
    for (int apart = 16; apart > 0; apart /= 2)
        sum += (int32_t)kn_shfl_xor_bits((uint32_t)sum, apart);
    if (at < to.filled)
        *(uint32_t *)(to.q + row * to.ld + at) = codes;
    if (lane == 0) {
        to.sum[row * x.groups + group] = sum;
        to.scale[row * x.groups + group] = top >= 0x7F800000u ? kn_float_of_bits(0x7FC00000u)
                                           : none             ? 0
                                                              : most / 127;
    }
}

/* Two groups of a warp at once, so that one is on its way while the other is quantised. */
KN_DEVICE void quantise_row(const kn_linear_args &x, const kn_row_room &to, row_norm n,
                            int64_t row) {
    const int64_t lane_at = threadIdx.x % 32 * 4, cols = x.w.cols;
    for (int64_t g = threadIdx.x / 32; g < x.groups; g += 2 * ROW_WARPS) {
        const int64_t next = g + ROW_WARPS;
        float a[4], b[4];
        row_values<4>(a, x.p, n, row, g * KN_Q_GROUP + lane_at, 1, cols);
        row_values<4>(b, x.p, n, row, next * KN_Q_GROUP + lane_at, 1, cols);
        kn_quantise_group(x, to, a, row, g);
        if (next < x.groups)
            kn_quantise_group(x, to, b, row, next);
    }
}

/* Row `row`, by the whole block. parts: shared, ROW_WARPS floats. */
KN_DEVICE void kn_make_row(const kn_linear_args &x, const kn_row_room &to, int64_t row,
                           float *parts) {
    const int64_t cols = x.w.cols;
    const row_norm n = measure_row(x.p, x.p.x + row * x.p.ldx, cols, parts);
    if (to.q) {
        quantise_row(x, to, n, row);
        return;
    }
    for (int64_t i = threadIdx.x; i < to.filled; i += ROW_BATCH * ROW_THREADS) {
        float a[ROW_BATCH];
        row_values<ROW_BATCH>(a, x.p, n, row, i, ROW_THREADS, cols);
        KN_UNROLL
        for (int j = 0; j < ROW_BATCH; j++) {
            const int64_t at = i + j * ROW_THREADS;
            if (at >= to.filled)
                break;
            if (to.half)
                to.half[row * to.ld + at] = kn_to_bf16(a[j]).bits;
            else
                to.plain[row * to.ld + at] = a[j];
        }
    }
}

#endif
