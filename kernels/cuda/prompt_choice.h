/* Which algorithms of cuBLASLt multiply a shape, so that a slice's bits are the same whatever is
 * multiplied with it: see prompt_cuda.h. */
#ifndef TNL_CUDA_PROMPT_CHOICE_H
#define TNL_CUDA_PROMPT_CHOICE_H

#include "kernels/cuda/blaslt_cuda.h"
#include "kernels/cuda/prompt_cuda.h"

typedef struct kn_cuda_choice {
    kn_lt_product *product;                /* NULL: the library does not multiply this shape */
    int64_t slices;                        /* at most, in one product */
    kn_lt_algo algos[KN_CUDA_TILE_SLICES]; /* [n - 1] of n slices */
} kn_cuda_choice;

/* Tries the library's algorithms for shape->rows rows, whole slices, and for all fewer slices.
 * sums: [rows][ldy] on the device. Allocates there while it works, and waits. A shape that none
 * fits is no failure, but a line in the log. */
tnl_status kn_cuda_choose(kn_cuda_choice *c, const kn_lt_api *api, const kn_lt_shape *shape,
                          float *sums, kn_cuda_device *device, tnl_error *err);

#endif
