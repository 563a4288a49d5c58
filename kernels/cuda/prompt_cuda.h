/* Products of a step: rows of whole slices by cuBLASLt on tensor cores where the weights are bf16
 * or f8, all other rows by kn_cuda_linear. f8 weights are multiplied as they are, on devices that
 * can (compute capability 8.9), with rows rounded to e4m3, each by a scale of its own; the scales
 * come in afterwards. Weights with a scale for each group of inputs (q8, q4) are kn_cuda_linear's
 * for all rows: the library cannot apply such scales.
 *
 * The bytes of a row of a whole slice do not depend on how many slices there are nor on where it
 * lies among them. The library does not promise that, so it is tried out: for a shape (type,
 * outputs, inputs) that is met for the first time, with numbers drawn by us, an algorithm is taken
 * only if every slice of every number of slices comes out with the same bits. After that, slices of
 * all sequences are multiplied together, in tiles as large as their sums may be. For fewer slices
 * an algorithm of its own is taken where the library lists one that has these bits as well. What is
 * taken depends on the shape, the device and the library's version alone, and stays.
 *
 * Without the library, or where no algorithm passes, kn_cuda_linear does all rows from the start,
 * and a line in the log says so. A library that fails later fails the step. */
#ifndef TNL_CUDA_PROMPT_H
#define TNL_CUDA_PROMPT_H

#include "kernels/cuda/prompt_rows.h"
#include "kernels/cuda/runtime_cuda.h"
#include "kernels/kernels.h"

enum { KN_CUDA_TILE_SLICES = 32 }; /* in one product, at most */

/* Rows [first, first + n) of whole slices, n a multiple of KN_CUDA_SLICE_ROWS. */
typedef struct kn_cuda_run {
    int64_t first, n;
} kn_cuda_run;

typedef struct kn_cuda_prompts kn_cuda_prompts;

/* Looks for the library. The device outlives what is opened. */
tnl_status kn_cuda_prompts_open(kn_cuda_prompts **out, kn_cuda_device *device, tnl_error *err);
/* NULL allowed. Everything launched has been waited for. */
void kn_cuda_prompts_close(kn_cuda_prompts *c);

/* p, all pointers the device's. Runs ascend; rows in none of them are kn_cuda_linear's. Launched,
 * not waited for; but the first product of a shape, for which an algorithm is chosen and memory
 * allocated, waits for the device: not while launches are recorded. */
tnl_status kn_cuda_prompts_linear(kn_cuda_prompts *c, const kn_linear *p, const kn_cuda_run *runs,
                                  int64_t n_runs, tnl_error *err);

#endif
