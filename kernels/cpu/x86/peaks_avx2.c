/* Machine limits with 256-bit registers. */
#include <immintrin.h>

#include "kernels/cpu/peaks.h"

#if !defined __AVX2__ || !defined __FMA__
#error "build this file with -mavx2 -mfma"
#endif

/* The arithmetic is written as single instructions on named accumulators: a compiler that sees
 * through intrinsics may hoist the products, merge equal chains, or (GCC 12 did) spill. */
#define EACH8(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7)
#define EACH10(F) EACH8(F) F(8) F(9)
#define EACH12(F) EACH10(F) F(10) F(11)

#define DECLARE(i) __m256 x##i = _mm256_set1_ps((float)(i + 2));
#define STEP(i) __asm__ volatile("vfmadd213ps %2, %1, %0" : "+x"(x##i) : "x"(m), "x"(c));
#define SUM(i) s = _mm256_add_ps(s, x##i);

/* x = x m + c converges to 1: no overflow, no denormals. */
#define FMA_LOOP(name, EACH)                                                                       \
    static float name(int64_t iters) {                                                             \
        const __m256 m = _mm256_set1_ps(0.999F), c = _mm256_set1_ps(0.001F);                       \
        EACH(DECLARE)                                                                              \
        do {                                                                                       \
            EACH(STEP)                                                                             \
        } while (--iters > 0);                                                                     \
        __m256 s = _mm256_setzero_ps();                                                            \
        EACH(SUM)                                                                                  \
        return _mm256_cvtss_f32(s);                                                                \
    }

FMA_LOOP(fma_ymm_x8, EACH8)
FMA_LOOP(fma_ymm_x10, EACH10)
FMA_LOOP(fma_ymm_x12, EACH12)

/* u8 x s8 pairs to s16, pairs of those to s32, accumulate: what AVX2 has for int8. */
#define DECLARE_I(i) __m256i x##i = _mm256_set1_epi32(i);
#define STEP_I(i)                                                                                  \
    __asm__ volatile("vpmaddubsw %3, %2, %1\n\t"                                                   \
                     "vpmaddwd %4, %1, %1\n\t"                                                     \
                     "vpaddd %1, %0, %0"                                                           \
                     : "+x"(x##i), "=&x"(t)                                                        \
                     : "x"(a), "x"(b), "x"(ones));
#define SUM_I(i) s = _mm256_add_epi32(s, x##i);

static float maddubs_ymm_x8(int64_t iters) {
    const __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-5);
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i t;
    EACH8(DECLARE_I)
    do {
        EACH8(STEP_I)
    } while (--iters > 0);
    __m256i s = _mm256_setzero_si256();
    EACH8(SUM_I)
    return (float)_mm256_cvtsi256_si32(s);
}

#define LOAD(i)                                                                                    \
    x##i = _mm256_xor_si256(x##i, _mm256_load_si256((const __m256i *)(p + at) + i));

static inline __attribute__((always_inline)) uint64_t read_ymm(const char *p, size_t n,
                                                               size_t ahead) {
    EACH8(DECLARE_I)
    for (size_t at = 0; at < n; at += 256) {
        if (ahead) {
            _mm_prefetch(p + at + ahead, _MM_HINT_T0);
            _mm_prefetch(p + at + ahead + 64, _MM_HINT_T0);
            _mm_prefetch(p + at + ahead + 128, _MM_HINT_T0);
            _mm_prefetch(p + at + ahead + 192, _MM_HINT_T0);
        }
        EACH8(LOAD)
    }
    __m256i s = _mm256_setzero_si256();
    EACH8(SUM_I)
    return (uint64_t)_mm256_extract_epi64(s, 0);
}

static uint64_t read_plain(const void *p, size_t n) {
    return read_ymm(p, n, 0);
}

static uint64_t read_ahead_1k(const void *p, size_t n) {
    return read_ymm(p, n, 1024);
}

static uint64_t read_ahead_4k(const void *p, size_t n) {
    return read_ymm(p, n, 4096);
}

const kn_peak_set kn_peaks_avx2 = {
    .read = {{"ymm", read_plain},
             {"ymm, 1 KiB ahead", read_ahead_1k},
             {"ymm, 4 KiB ahead", read_ahead_4k}},
    .fp32 = {{"fma ymm x8", 2.0 * 8 * 8, fma_ymm_x8},
             {"fma ymm x10", 2.0 * 8 * 10, fma_ymm_x10},
             {"fma ymm x12", 2.0 * 8 * 12, fma_ymm_x12}},
    .int8 = {{"maddubs ymm x8", 2.0 * 32 * 8, maddubs_ymm_x8}},
};
