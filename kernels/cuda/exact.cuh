/* Arithmetic that is rounded as it is written: nvcc would join a product and a sum into one
 * operation with one rounding, and the host does not. And counters in shared memory, which any
 * number of threads may add to: of whole numbers, so that their order does not matter. */
#ifndef TNL_CUDA_EXACT_CUH
#define TNL_CUDA_EXACT_CUH

#include "kernels/cuda/device.cuh"

#ifdef KN_DEVICE_EMULATION /* compiled with -ffp-contract=off; threads take turns */

template <typename T> KN_DEVICE T kn_add(T a, T b) {
    return a + b;
}

template <typename T> KN_DEVICE T kn_sub(T a, T b) {
    return a - b;
}

template <typename T> KN_DEVICE T kn_mul(T a, T b) {
    return a * b;
}

template <typename T> KN_DEVICE T kn_div(T a, T b) {
    return a / b;
}

/* Returns what was there. */
KN_DEVICE uint32_t kn_shared_add(uint32_t *at, uint32_t x) {
    const uint32_t was = *at;
    *at += x;
    return was;
}

#else

KN_DEVICE float kn_add(float a, float b) {
    return __fadd_rn(a, b);
}

KN_DEVICE float kn_sub(float a, float b) {
    return __fsub_rn(a, b);
}

KN_DEVICE float kn_mul(float a, float b) {
    return __fmul_rn(a, b);
}

KN_DEVICE float kn_div(float a, float b) {
    return __fdiv_rn(a, b);
}

KN_DEVICE double kn_add(double a, double b) {
    return __dadd_rn(a, b);
}

KN_DEVICE double kn_sub(double a, double b) {
    return __dsub_rn(a, b);
}

KN_DEVICE double kn_mul(double a, double b) {
    return __dmul_rn(a, b);
}

KN_DEVICE double kn_div(double a, double b) {
    return __ddiv_rn(a, b);
}

KN_DEVICE uint32_t kn_shared_add(uint32_t *at, uint32_t x) {
    return atomicAdd(at, x);
}

#endif

#endif
