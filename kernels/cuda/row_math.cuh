/* Sums over the threads of a block, activations, plain weights: what row operations share. */
#ifndef TNL_CUDA_ROW_MATH_CUH
#define TNL_CUDA_ROW_MATH_CUH

#include "kernels/cuda/device.cuh"

extern "C" {
#include "kernels/kernels.h"
}

enum { ROW_THREADS = 256, ROW_WARPS = ROW_THREADS / 32 };

/* The sum of x over a block of ROW_THREADS, in one order; every thread gets it. parts: shared,
 * ROW_WARPS floats. */
KN_DEVICE float kn_block_sum(float x, float *parts) {
    for (int apart = 16; apart > 0; apart /= 2)
        x += kn_shfl_xor(x, apart);
    kn_sync_block(); /* an earlier sum has been read */
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = x;
    kn_sync_block();
    float sum = 0;
    for (int i = 0; i < ROW_WARPS; i++)
        sum += parts[i];
    return sum;
}

/* Every activation but KN_ACT_EXP, which needs its group. */
KN_DEVICE float kn_activate(kn_act act, float x) {
    switch (act) {
    case KN_ACT_GELU:
        return x * 0.5f * erfcf(-0.70710678118654752f * x);
    case KN_ACT_RELU:
        return x < 0 ? 0 : x;
    case KN_ACT_ELU:
        return x > 0 ? x : expm1f(x);
    case KN_ACT_SIGMOID:
        return 1 / (1 + expf(-x));
    case KN_ACT_LEAK:
        return x < 0 ? 0.01f * x : x;
    case KN_ACT_1PELU:
        return x > 0 ? 1 + x : expf(x);
    case KN_ACT_2PELU:
        return x > 0 ? 2 + x : 1 + expf(x);
    case KN_ACT_SILU:
        return x / (1 + expf(-x));
    case KN_ACT_SINE:
        return sinf(x);
    default:
        return x;
    }
}

/* Element `at` of a plain matrix. */
KN_DEVICE float kn_plain_weight(const kn_tensor &w, int64_t at) {
    if (w.dtype == KN_F32)
        return ((const float *)w.data)[at];
    if (w.dtype == KN_BF16)
        return kn_to_float(((const kn_bf16 *)w.data)[at]);
    /* f16: move exponent and mantissa into place; the factor corrects the bias, subnormals too */
    const uint32_t h = ((const uint16_t *)w.data)[at], bits = (h & 0x7FFFu) << 13;
    const float x = (h & 0x7C00u) == 0x7C00u ? kn_float_of_bits(bits | 0x7F800000u)
                                             : kn_float_of_bits(bits) * 0x1p112f;
    return h & 0x8000u ? -x : x;
}

#endif
