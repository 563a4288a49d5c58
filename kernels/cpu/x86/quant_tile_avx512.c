/* The packer's body on AVX-512. */
#if !defined(__AVX512F__)
#error "compile with AVX-512"
#endif
#define TNL_TILE_FN kn_q_tile_avx512
#include "kernels/quant_tile_tmpl.c"
