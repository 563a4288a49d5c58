/* Products on a CUDA device: kn_linear of kernels.h with every pointer in device memory. One order
 * of sums for any number of rows: of bf16 weights each output adds up groups of 128 inputs,
 * ascending, each group summed by tensor cores; of packed weights the groups are exact integers, so
 * that q8 and q4 give the very bits of the CPU. */
#ifndef TNL_CUDA_LINEAR_H
#define TNL_CUDA_LINEAR_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/cuda/linattn_cuda.h"
#include "kernels/kernels.h"

void kn_cuda_linear(const kn_linear *p, kn_cuda_stream stream);

#ifdef __cplusplus
}
#endif

#endif
