/* Parts of the x86 rungs that live in files of their own. */
#ifndef TNL_KERNELS_CPU_DSP_X86_H
#define TNL_KERNELS_CPU_DSP_X86_H

#include "kernels/cpu/dsp.h"

void kn_dsp_linear_avx2(kn_dsp *d);
void kn_dsp_qdot_avx2(kn_dsp *d);
void kn_dsp_linear_avx512(kn_dsp *d);

#endif
