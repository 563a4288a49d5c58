/* The packer's body on AVX2. */
#if !defined(__AVX2__)
#error "compile with AVX2"
#endif
#define TNL_TILE_FN kn_q_tile_avx2
#include "kernels/quant_tile_tmpl.c"
