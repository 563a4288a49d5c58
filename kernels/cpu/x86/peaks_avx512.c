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

/* `streams` runs of n / streams bytes side by side, each prefetched `ahead` bytes before it is read
 * (0: left to the processor), by which hint. */
#define READ_LOOP(name, streams, ahead, hint)                                                      \
    static uint64_t name(const void *p, size_t n) {                                                \
        const char *c = p;                                                                         \
        const size_t run = n / (streams);                                                          \
        __m512i x0 = _mm512_setzero_si512(), x1 = x0, x2 = x0, x3 = x0;                            \
        for (size_t at = 0; at < run; at += 256)                                                   \
            for (size_t s = 0; s < (streams); s++) {                                               \
                const char *q = c + s * run + at;                                                  \
                for (size_t i = 0; (ahead) && i < 256; i += 64)                                    \
                    _mm_prefetch(q + (ahead) + i, hint);                                           \
                x0 = _mm512_xor_si512(x0, _mm512_load_si512(q));                                   \
                x1 = _mm512_xor_si512(x1, _mm512_load_si512(q + 64));                              \
                x2 = _mm512_xor_si512(x2, _mm512_load_si512(q + 128));                             \
                x3 = _mm512_xor_si512(x3, _mm512_load_si512(q + 192));                             \
            }                                                                                      \
        x0 = _mm512_xor_si512(_mm512_xor_si512(x0, x1), _mm512_xor_si512(x2, x3));                 \
        return (uint64_t)_mm_cvtsi128_si64(_mm512_castsi512_si128(x0));                            \
    }

READ_LOOP(read_plain, 1, 0, _MM_HINT_T0)
READ_LOOP(read_1k, 1, 1024, _MM_HINT_T0)
READ_LOOP(read_4k, 1, 4096, _MM_HINT_T0)
READ_LOOP(read_8k, 1, 8192, _MM_HINT_T0)
READ_LOOP(read_nta, 1, 2048, _MM_HINT_NTA)
READ_LOOP(read_two, 2, 0, _MM_HINT_T0)
READ_LOOP(read_two_1k, 2, 1024, _MM_HINT_T0)
READ_LOOP(read_four_1k, 4, 1024, _MM_HINT_T0)

const kn_peak_set kn_peaks_avx512 = {
    .read = {{"zmm", read_plain},
             {"zmm, 1 KiB ahead", read_1k},
             {"zmm, 4 KiB ahead", read_4k},
             {"zmm, 8 KiB ahead", read_8k},
             {"zmm, 2 KiB ahead, once", read_nta},
             {"zmm, 2 streams", read_two},
             {"zmm, 2 streams, 1 KiB ahead", read_two_1k},
             {"zmm, 4 streams, 1 KiB ahead", read_four_1k}},
    .fp32 = {{"fma zmm x8", 2.0 * 16 * 8, fma_zmm_x8},
             {"fma zmm x10", 2.0 * 16 * 10, fma_zmm_x10},
             {"fma zmm x12", 2.0 * 16 * 12, fma_zmm_x12}},
    .int8 = {{"maddubs zmm x12", 2.0 * 64 * 12, maddubs_zmm_x12}},
};
