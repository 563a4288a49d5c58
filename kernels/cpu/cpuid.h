/* What the processor has and the operating system saves. */
#ifndef TNL_KERNELS_CPU_CPUID_H
#define TNL_KERNELS_CPU_CPUID_H

enum {
    KN_CPUID_AVX2 = 1,   /* AVX2, FMA, F16C, and ymm state */
    KN_CPUID_AVX512 = 2, /* F, BW, DQ, VL, and zmm and mask state */
    KN_CPUID_AVX512VNNI = 4,
    KN_CPUID_AVXVNNI = 8, /* on top of KN_CPUID_AVX2: the 256-bit instructions with VEX encoding */
};

/* The set of KN_CPUID_*; 0 on other architectures. */
unsigned kn_cpuid_flags(void);

#endif
