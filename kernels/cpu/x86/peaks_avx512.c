/* Machine limits with 512-bit registers. */
#include <immintrin.h>

#include "kernels/cpu/peaks.h"

#if !defined __AVX512F__ || !defined __AVX512BW__
#error "build this file with -mavx512f -mavx512bw"
#endif

/* Single instructions on named accumulators: see peaks_avx2.c. */
#define EACH8(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7)
#define EACH10(F) EACH8(F) F(8) F(9)
#define EACH12(F) EACH10(F) F(10) F(11)

#define DECLARE(i) __m512 x##i = _mm512_set1_ps((float)(i + 2));
#define STEP(i) __asm__ volatile("vfmadd213ps %2, %1, %0" : "+v"(x##i) : "v"(m), "v"(c));
#define SUM(i) s = _mm512_add_ps(s, x##i);

/* x = x m + c converges to 1: no overflow, no denormals. */
#define FMA_LOOP(name, EACH)                                                                       \
    static float name(int64_t iters) {                                                             \
        const __m512 m = _mm512_set1_ps(0.999F), c = _mm512_set1_ps(0.001F);                       \
        EACH(DECLARE)                                                                              \
        do {                                                                                       \
            EACH(STEP)                                                                             \
        } while (--iters > 0);                                                                     \
        __m512 s = _mm512_setzero_ps();                                                            \
        EACH(SUM)                                                                                  \
        return _mm512_cvtss_f32(s);                                                                \
    }

FMA_LOOP(fma_zmm_x8, EACH8)
FMA_LOOP(fma_zmm_x10, EACH10)
FMA_LOOP(fma_zmm_x12, EACH12)

/* u8 x s8 pairs to s16, pairs of those to s32, accumulate: what AVX2 has for int8. */
#define DECLARE_I(i) __m512i x##i = _mm512_set1_epi32(i);
#define STEP_I(i)                                                                                  \
    __asm__ volatile("vpmaddubsw %3, %2, %1\n\t"                                                   \
                     "vpmaddwd %4, %1, %1\n\t"                                                     \
                     "vpaddd %1, %0, %0"                                                           \
                     : "+v"(x##i), "=&v"(t)                                                        \
                     : "v"(a), "v"(b), "v"(ones));
#define SUM_I(i) s = _mm512_add_epi32(s, x##i);

static float maddubs_zmm_x12(int64_t iters) {
    const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
    const __m512i ones = _mm512_set1_epi16(1);
    __m512i t;
    EACH12(DECLARE_I)
    do {
        EACH12(STEP_I)
    } while (--iters > 0);
    __m512i s = _mm512_setzero_si512();
    EACH12(SUM_I)
    return (float)_mm_cvtsi128_si32(_mm512_castsi512_si128(s));
}

#define LOAD(i) x##i = _mm512_xor_si512(x##i, _mm512_load_si512(p + at + 64 * i));
#define PREFETCH(i) _mm_prefetch(p + at + ahead + 64 * i, _MM_HINT_T0);

static inline __attribute__((always_inline)) uint64_t read_zmm(const char *p, size_t n,
                                                               size_t ahead) {
    EACH8(DECLARE_I)
    for (size_t at = 0; at < n; at += 512) {
        if (ahead) {
            EACH8(PREFETCH)
        }
        EACH8(LOAD)
    }
    __m512i s = _mm512_setzero_si512();
    EACH8(SUM_I)
    return (uint64_t)_mm_cvtsi128_si64(_mm512_castsi512_si128(s));
}

static uint64_t read_plain(const void *p, size_t n) {
    return read_zmm(p, n, 0);
}

static uint64_t read_ahead_1k(const void *p, size_t n) {
    return read_zmm(p, n, 1024);
}

static uint64_t read_ahead_4k(const void *p, size_t n) {
    return read_zmm(p, n, 4096);
}

const kn_peak_set kn_peaks_avx512 = {
    .read = {{"zmm", read_plain},
             {"zmm, 1 KiB ahead", read_ahead_1k},
             {"zmm, 4 KiB ahead", read_ahead_4k}},
    .fp32 = {{"fma zmm x8", 2.0 * 16 * 8, fma_zmm_x8},
             {"fma zmm x10", 2.0 * 16 * 10, fma_zmm_x10},
             {"fma zmm x12", 2.0 * 16 * 12, fma_zmm_x12}},
    .int8 = {{"maddubs zmm x12", 2.0 * 64 * 12, maddubs_zmm_x12}},
};
