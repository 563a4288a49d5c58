/* Dot products on AVX2. */
#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "compile with AVX2, FMA and F16C"
#endif
#include "kernels/cpu/x86/v16_avx2.h"

#include "kernels/cpu/x86/linear_tmpl.c"
#include "kernels/cpu/x86/dsp_x86.h"

void kn_dsp_linear_avx2(kn_dsp *d) {
    fill_linear(d);
}
