/* The row passes compiled for AVX2. No fused multiply-add: the bits are those of every processor.
 */
#ifndef __AVX2__
#error "compile this file with its instruction set's flags"
#endif
#include "server/engine/sampling/rowmath_tmpl.c"

extern const eng_rowmath eng_rowmath_avx2;
const eng_rowmath eng_rowmath_avx2 = ROWMATH_TABLE("avx2");
