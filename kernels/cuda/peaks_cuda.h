/* What a CUDA device can do at most, for benchmarks. */
#ifndef TNL_CUDA_PEAKS_H
#define TNL_CUDA_PEAKS_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/cuda/linattn_cuda.h"

/* Products of bf16 fragments and nothing else: `steps` rounds by each warp of `blocks` blocks.
 * sink: a float of device memory that keeps them from being left out. */
void kn_cuda_mma_rate(float *sink, int blocks, int steps, kn_cuda_stream stream);
/* Operations (two a multiply-add) of one such launch. */
double kn_cuda_mma_ops(int blocks, int steps);

#ifdef __cplusplus
}
#endif

#endif
