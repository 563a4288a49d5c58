/* The rate of the matrix instruction that the kernels here are built from (mma.sync, 16 x 8 x 16).
 * Devices of compute capability 9.0 have another one beside it, which is faster. */
#include "kernels/cuda/peaks_cuda.h"

#include "kernels/cuda/device.cuh"

enum { PEAK_THREADS = 256, CHAINS = 8 };

static __global__ void __launch_bounds__(PEAK_THREADS) mma_rate(float *sink, int steps) {
    kn_depend();
    const uint32_t a[4] = {threadIdx.x, 0x3F803F80u, 0, threadIdx.x}, b[2] = {0x3F803F80u, 0};
    float d[CHAINS][4] = {};
    for (int i = 0; i < steps; i++) {
        KN_UNROLL
        for (int c = 0; c < CHAINS; c++)
            kn_mma_bf16(d[c], a, b);
    }
    float sum = 0;
    KN_UNROLL
    for (int c = 0; c < CHAINS; c++)
        sum += d[c][0] + d[c][1] + d[c][2] + d[c][3];
    if (sum == -1.0f) /* never, which the compiler cannot know */
        *sink = sum;
}

void kn_cuda_mma_rate(float *sink, int blocks, int steps, kn_cuda_stream stream) {
    kn_launch(mma_rate, dim3((unsigned)blocks), dim3(PEAK_THREADS), 0, (cudaStream_t)stream, sink,
              steps);
}

double kn_cuda_mma_ops(int blocks, int steps) {
    return 2.0 * 16 * 8 * 16 * CHAINS * (PEAK_THREADS / 32) * (double)blocks * (double)steps;
}
