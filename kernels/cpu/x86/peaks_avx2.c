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

#define LOAD(q) _mm256_load_si256((const __m256i *)(q))

/* `streams` runs of n / streams bytes side by side, each prefetched `ahead` bytes before it is read
 * (0: left to the processor), by which hint. */
#define READ_LOOP(name, streams, ahead, hint)                                                      \
    static uint64_t name(const void *p, size_t n) {                                                \
        const char *c = p;                                                                         \
        const size_t run = n / (streams);                                                          \
        __m256i x0 = _mm256_setzero_si256(), x1 = x0, x2 = x0, x3 = x0;                            \
        for (size_t at = 0; at < run; at += 128)                                                   \
            for (size_t s = 0; s < (streams); s++) {                                               \
                const char *q = c + s * run + at;                                                  \
                for (size_t i = 0; (ahead) && i < 128; i += 64)                                    \
                    _mm_prefetch(q + (ahead) + i, hint);                                           \
                x0 = _mm256_xor_si256(x0, LOAD(q));                                                \
                x1 = _mm256_xor_si256(x1, LOAD(q + 32));                                           \
                x2 = _mm256_xor_si256(x2, LOAD(q + 64));                                           \
                x3 = _mm256_xor_si256(x3, LOAD(q + 96));                                           \
            }                                                                                      \
        x0 = _mm256_xor_si256(_mm256_xor_si256(x0, x1), _mm256_xor_si256(x2, x3));                 \
        return (uint64_t)_mm256_extract_epi64(x0, 0);                                              \
    }

READ_LOOP(read_plain, 1, 0, _MM_HINT_T0)
READ_LOOP(read_1k, 1, 1024, _MM_HINT_T0)
READ_LOOP(read_4k, 1, 4096, _MM_HINT_T0)
READ_LOOP(read_nta, 1, 2048, _MM_HINT_NTA)
READ_LOOP(read_two_1k, 2, 1024, _MM_HINT_T0)

const kn_peak_set kn_peaks_avx2 = {
    .read = {{"ymm", read_plain},
             {"ymm, 1 KiB ahead", read_1k},
             {"ymm, 4 KiB ahead", read_4k},
             {"ymm, 2 KiB ahead, once", read_nta},
             {"ymm, 2 streams, 1 KiB ahead", read_two_1k}},
    .fp32 = {{"fma ymm x8", 2.0 * 8 * 8, fma_ymm_x8},
             {"fma ymm x10", 2.0 * 8 * 10, fma_ymm_x10},
             {"fma ymm x12", 2.0 * 8 * 12, fma_ymm_x12}},
    .int8 = {{"maddubs ymm x8", 2.0 * 32 * 8, maddubs_ymm_x8}},
};
