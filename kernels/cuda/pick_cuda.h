/* Sampling on the device: rows of logits to tokens, so that a step brings back ids and not rows.
 * One launch for all rows, a block of threads for each; no memory but the block's own. */
#ifndef TNL_CUDA_PICK_H
#define TNL_CUDA_PICK_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/cuda/linattn_cuda.h"
#include "kernels/pick.h"

/* out[i] = what how[i] says of row i [dim] of x, i < n, dim <= KN_PICK_MOST. All in device memory.
 * A result is a function of its own row and how. */
void kn_cuda_pick(kn_picked *out, const float *x, int64_t ldx, int64_t n, int64_t dim,
                  const kn_pick_how *how, kn_cuda_stream stream);

#ifdef __cplusplus
}
#endif

#endif
