/* Dot products on AVX-512. */
#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) ||                   \
    !defined(__AVX512VL__)
#error "compile with AVX-512 F, BW, DQ and VL"
#endif
#include "kernels/cpu/x86/v16_avx512.h"

#include "kernels/cpu/x86/linear_tmpl.c"
#include "kernels/cpu/x86/dsp_x86.h"

void kn_dsp_linear_avx512(kn_dsp *d) {
    fill_linear(d);
}
