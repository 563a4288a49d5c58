/* Row operations on a CUDA device: those of kn_ops beside products and attention, with every
 * pointer in device memory. Each output is a function of its own row. */
#ifndef TNL_CUDA_ROWS_H
#define TNL_CUDA_ROWS_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/cuda/linattn_cuda.h"
#include "kernels/kernels.h"

/* As kn_ops.embed; the table's struct is the host's, its data the device's. */
void kn_cuda_embed(float *x, int64_t ldx, const kn_tensor *table, const int32_t *ids, int64_t n,
                   float scale, kn_cuda_stream stream);

/* As kn_ops.lrpe; the phase is formed and reduced in double. */
void kn_cuda_lrpe(float *y, int64_t ldy, const float *x, int64_t ldx, const float *theta,
                  const int64_t *pos, int64_t n, int H, int dh, kn_cuda_stream stream);

/* ok[n] = every element of row n is finite. */
void kn_cuda_finite_rows(bool *ok, const float *x, int64_t ldx, int64_t n, int64_t dim,
                         kn_cuda_stream stream);

/* y[i] = x[rows[i]], i < n: the rows whose logits are wanted. */
void kn_cuda_gather_rows(float *y, int64_t ldy, const float *x, int64_t ldx, const int64_t *rows,
                         int64_t n, int64_t dim, kn_cuda_stream stream);

#ifdef __cplusplus
}
#endif

#endif
