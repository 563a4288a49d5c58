/* Row functions, outer products and the whole AVX2 rung. */
#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "compile with AVX2, FMA and F16C"
#endif
#include "kernels/cpu/x86/v16_avx2.h"

#include "kernels/cpu/x86/outer_tmpl.c"
#include "kernels/cpu/x86/rows_tmpl.c"
#include "kernels/cpu/x86/dsp_x86.h"

void kn_dsp_fill_avx2(kn_dsp *d) {
    fill_rows(d);
    d->outer = outer_rows;
    kn_dsp_linear_avx2(d);
    kn_dsp_qdot_avx2(d);
}
