/* Packing: rows of f32, f16 or bf16 to the tiles of quant.h, with a search for good scales.
 *
 * q8  d = max|x| / 127, rounded to bf16 before the codes are computed; a code is the nearest.
 * q4  least squares in two steps. A run of 16 tries a row of scales, each with its codes, and keeps
 *     the one whose best multiple leaves the smallest squared error. Then the group tries values of
 *     d for which the runs' scales are near whole multiples, in -8..7, of d (as bf16, of either
 *     sign); each run tries the two multiples beside its own and rounds its codes anew. The group
 *     keeps the d with the smallest squared error.
 *
 * f8  some scales from max|x| / 448 to twice that; the row keeps the one with the smallest squared
 *     error. A code is the nearest.
 *
 * What a group (of f8: a row) becomes depends on its own values alone: not on threads, tiles or
 * instruction set. Values must be finite and less than 2^127 in magnitude. A group whose values are
 * all below 2^-100 becomes zero. */
#ifndef TNL_QUANT_PACK_H
#define TNL_QUANT_PACK_H

#include "kernels/base/threads.h"
#include "kernels/quant.h"

/* Pack rows [first, first + n) of a row-major matrix of a plain type into tiles; first is a
 * multiple of KN_Q_OUTS, and so is n unless these are the last rows. `src` and `dst` stand at the
 * first of these rows and its tile. dst needs no alignment. Work is shared out over the pool (NULL:
 * none). */
void kn_q_pack(tnl_pool *pool, void *dst, kn_dtype to, const void *src, kn_dtype from, int64_t n,
               int64_t cols);

/* Set the filling of a tile to zero weights: outputs from `outs` on, inputs from cols on. */
void kn_q_clear_filling(void *tile, kn_dtype t, int64_t outs, int64_t cols);

/* True if all weights of n_tiles tiles are finite: scales of q8 and q4 are, those of f8 are in the
 * range that quant.h says and no code is NaN. Else *bad is the first tile that has another. */
bool kn_q_tiles_finite(tnl_pool *pool, const void *tiles, kn_dtype t, int64_t n_tiles, int64_t cols,
                       int64_t *bad);

#endif
