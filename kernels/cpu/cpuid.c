/* cpuid and xgetbv: an instruction set counts only if the system saves its registers. */
#include "kernels/cpu/cpuid.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>

static unsigned xcr0(void) {
    unsigned lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo;
}

unsigned kn_cpuid_flags(void) {
    unsigned a, b, c, d, flags = 0;
    const unsigned osxsave = 1u << 27, avx = 1u << 28, fma = 1u << 12, f16c = 1u << 29;
    const unsigned need1 = osxsave | avx | fma | f16c;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & need1) != need1)
        return 0;
    unsigned state = xcr0();
    if ((state & 0x06u) != 0x06u || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    const unsigned last_sub = a, avx2 = 1u << 5;
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F DQ BW VL */
    if (b & avx2)
        flags |= KN_CPUID_AVX2;
    if ((b & avx512) == avx512 && (state & 0xE6u) == 0xE6u)
        flags |= KN_CPUID_AVX512;
    if ((flags & KN_CPUID_AVX512) && (c & 1u << 11))
        flags |= KN_CPUID_AVX512VNNI;
    if (!(flags & KN_CPUID_AVX2) || last_sub < 1 || !__get_cpuid_count(7, 1, &a, &b, &c, &d))
        return flags;
    if (a & 1u << 4)
        flags |= KN_CPUID_AVXVNNI;
    return flags;
}
#else
unsigned kn_cpuid_flags(void) {
    return 0;
}
#endif
