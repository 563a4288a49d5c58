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

/* The same, to try a way that it would not choose. All ways give the same bits. */
typedef enum kn_cuda_way {
    KN_CUDA_ANY_WAY,
    KN_CUDA_ROWS_FIRST, /* input rows in a launch of their own */
    KN_CUDA_IN_ONE,     /* every block makes them, where that is possible */
} kn_cuda_way;

void kn_cuda_linear_by(const kn_linear *p, kn_cuda_way way, kn_cuda_stream stream);

/* ---- around products that others make ---- */

/* Elements between rows of bf16: a multiple of 16 bytes, filled up with zeros. */
static inline int64_t kn_cuda_linear_lda(int64_t cols) {
    return (cols + 7) / 8 * 8;
}

/* p->work = norm(x) . mul in bf16, [n][kn_cuda_linear_lda(w->cols)]. Reads nothing of the weights
 * but their shape. */
void kn_cuda_linear_rows(const kn_linear *p, kn_cuda_stream stream);

/* y from the finished sums W a, [n][ld], and W2 a where there is a w2: bias, activation, GLU,
 * residual. sums may be y where y is stored and ld is ldy. */
void kn_cuda_linear_finish(const kn_linear *p, const float *sums, const float *sums2, int64_t ld,
                           kn_cuda_stream stream);

#ifdef __cplusplus
}
#endif

#endif
