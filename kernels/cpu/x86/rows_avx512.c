/* Row functions, outer products and the whole AVX-512 rung. */
#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) ||                   \
    !defined(__AVX512VL__)
#error "compile with AVX-512 F, BW, DQ and VL"
#endif
#include "kernels/cpu/x86/v16_avx512.h"

#include "kernels/cpu/x86/outer_tmpl.c"
#include "kernels/cpu/x86/rows_tmpl.c"
#include "kernels/cpu/x86/dsp_x86.h"

void kn_dsp_fill_avx512(kn_dsp *d) {
    fill_rows(d);
    d->outer = outer_rows;
    kn_dsp_linear_avx512(d);
}
