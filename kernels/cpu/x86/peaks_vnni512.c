/* The int8 limit with AVX-512 VNNI: 64 multiply-adds an instruction. */
#include <immintrin.h>

#include "kernels/cpu/peaks.h"

#ifndef __AVX512VNNI__
#error "build this file with -mavx512f -mavx512vnni"
#endif

/* Single instructions on named accumulators: see peaks_avx2.c. */
#define EACH8(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7)
#define EACH12(F) EACH8(F) F(8) F(9) F(10) F(11)
#define EACH16(F) EACH12(F) F(12) F(13) F(14) F(15)
#define DECLARE(i) __m512i x##i = _mm512_set1_epi32(i);
#define STEP(i) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(x##i) : "v"(a), "v"(b));
#define SUM(i) s = _mm512_add_epi32(s, x##i);

#define DPBUSD_LOOP(name, EACH)                                                                    \
    static float name(int64_t iters) {                                                             \
        const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);                           \
        EACH(DECLARE)                                                                              \
        do {                                                                                       \
            EACH(STEP)                                                                             \
        } while (--iters > 0);                                                                     \
        __m512i s = _mm512_setzero_si512();                                                        \
        EACH(SUM)                                                                                  \
        return (float)_mm_cvtsi128_si32(_mm512_castsi512_si128(s));                                \
    }

DPBUSD_LOOP(dpbusd_zmm_x12, EACH12)
DPBUSD_LOOP(dpbusd_zmm_x16, EACH16)

const kn_peak_set kn_peaks_vnni512 = {
    .int8 = {{"dpbusd zmm x12", 2.0 * 64 * 12, dpbusd_zmm_x12},
             {"dpbusd zmm x16", 2.0 * 64 * 16, dpbusd_zmm_x16}},
};
