/* The row passes compiled for AVX-512. No fused multiply-add: the bits are those of every
 * processor. */
#ifndef __AVX512VL__
#error "compile this file with its instruction set's flags"
#endif
#include "server/engine/sampling/rowmath_tmpl.c"

extern const eng_rowmath eng_rowmath_avx512;
const eng_rowmath eng_rowmath_avx512 = ROWMATH_TABLE("avx512");
