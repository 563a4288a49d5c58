/* The row passes for any processor, and the choice among those compiled for more. */
#include "kernels/cpu/cpuid.h"
#include "server/engine/sampling/rowmath_tmpl.c"

const eng_rowmath eng_rowmath_generic = ROWMATH_TABLE("generic");

#ifdef HAVE_AVX2
extern const eng_rowmath eng_rowmath_avx2;
#endif
#ifdef HAVE_AVX512
extern const eng_rowmath eng_rowmath_avx512;
#endif

const eng_rowmath *eng_rowmath_at(int i) {
    const eng_rowmath *has[3] = {&eng_rowmath_generic};
    int n = 1;
#ifdef HAVE_AVX2
    if (kn_cpuid_flags() & KN_CPUID_AVX2)
        has[n++] = &eng_rowmath_avx2;
#endif
#ifdef HAVE_AVX512
    if (kn_cpuid_flags() & KN_CPUID_AVX512)
        has[n++] = &eng_rowmath_avx512;
#endif
    return i < n ? has[i] : NULL;
}

const eng_rowmath *eng_rowmath_best(void) {
    int i = 0;
    while (eng_rowmath_at(i + 1))
        i++;
    return eng_rowmath_at(i);
}

float eng_exp(float x) {
    return exp_nonpositive(x);
}

/* x = 2^e m with m in [1/sqrt 2, sqrt 2); ln m = 2 artanh s, s = (m - 1) / (m + 1), |s| < 0.172,
 * by its series to s^21. */
double eng_log(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint64_t at_half = bits - 0x3FE6A09E667F3BCDu; /* bits of 1/sqrt 2 */
    int64_t e = (int64_t)at_half >> 52;
    bits -= (uint64_t)e << 52;
    double m, sum = 0;
    memcpy(&m, &bits, sizeof m);
    double s = (m - 1) / (m + 1), s2 = s * s;
    for (int k = 21; k > 1; k -= 2)
        sum = (sum + 1.0 / k) * s2;
    return (double)e * 0.693147180559945286 + (2 * s * sum + 2 * s);
}
