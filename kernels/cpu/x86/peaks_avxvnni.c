/* The int8 limit with the 256-bit VNNI instructions of processors without AVX-512. */
#include <immintrin.h>

#include "kernels/cpu/peaks.h"

#ifndef __AVXVNNI__
#error "build this file with -mavx2 -mavxvnni"
#endif

/* Single instructions on named accumulators: see peaks_avx2.c. */
#define EACH8(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7)
#define EACH12(F) EACH8(F) F(8) F(9) F(10) F(11)
#define DECLARE(i) __m256i x##i = _mm256_set1_epi32(i);
#define STEP(i) __asm__ volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(x##i) : "x"(a), "x"(b));
#define SUM(i) s = _mm256_add_epi32(s, x##i);

static float dpbusd_ymm_x12(int64_t iters) {
    const __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-5);
    EACH12(DECLARE)
    do {
        EACH12(STEP)
    } while (--iters > 0);
    __m256i s = _mm256_setzero_si256();
    EACH12(SUM)
    return (float)_mm256_cvtsi256_si32(s);
}

const kn_peak_set kn_peaks_avxvnni = {
    .int8 = {{"dpbusd ymm x12", 2.0 * 32 * 12, dpbusd_ymm_x12}},
};
