/* Passes over one row of logits. Reductions run in LANES independent accumulators that are
 * combined in one order, so compilers may vectorise them and the result does not depend on
 * whether they did. */
#ifndef TNL_SERVER_ENGINE_ROWMATH_H
#define TNL_SERVER_ENGINE_ROWMATH_H

#include <stdbool.h>
#include <stdint.h>

enum { ENG_ROW_BLOCK = 512 }; /* elements per partial sum */

/* exp(x) for x <= 0, relative error below 2e-7; exactly 0 below -87 and for -infinity. */
float eng_exp(float x);

/* Largest of n >= 1 elements, none of them a NaN. */
float eng_row_max(const float *x, int64_t n);
bool eng_row_finite(const float *x, int64_t n);

/* block[i] = sum over the i-th ENG_ROW_BLOCK elements of eng_exp((x - max) * inv_t), i <
 * ceil(n / ENG_ROW_BLOCK); returns the sum of all. */
double eng_row_exp_sums(double *block, const float *x, int64_t n, float max, float inv_t);

/* Lowest index of the largest element. */
int64_t eng_row_argmax(const float *x, int64_t n);

#endif
