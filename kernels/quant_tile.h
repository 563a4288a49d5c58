/* The body of the packer (quant_tile_tmpl.c) for each vector width. Private to the packer. */
#ifndef TNL_QUANT_TILE_H
#define TNL_QUANT_TILE_H

#include "kernels/dtype.h"

/* Outputs [0, outs) of src, row-major with `cols` inputs of type `from`, to one tile. */
typedef void (*kn_q_tile_fn)(unsigned char *tile, kn_dtype to, const char *src, kn_dtype from,
                             int64_t outs, int64_t cols);

void kn_q_tile_base(unsigned char *tile, kn_dtype to, const char *src, kn_dtype from, int64_t outs,
                    int64_t cols);
void kn_q_tile_avx2(unsigned char *tile, kn_dtype to, const char *src, kn_dtype from, int64_t outs,
                    int64_t cols);
void kn_q_tile_avx512(unsigned char *tile, kn_dtype to, const char *src, kn_dtype from,
                      int64_t outs, int64_t cols);

#endif
