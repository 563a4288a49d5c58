/* Packed products on 256-bit registers: what the bodies with and without VNNI share before their
 * own steps; qdot_ymm_tmpl.c is what they share after them. A register holds four inputs of eight
 * outputs; a tile of registers is R rows x V registers of one group, small enough that its sums
 * stay in the 16 registers. */
#ifndef TNL_KERNELS_CPU_QDOT_YMM_H
#define TNL_KERNELS_CPU_QDOT_YMM_H
#if defined(__AVX2__) && defined(__FMA__)

#include "kernels/cpu/x86/qdot_groups.h"

enum {
    Q4_ROWS = 3,   /* of one of q4, which has sums of runs besides */
    Q4_FEW = 4,    /* rows up to which q4 is multiplied as it is stored */
    VECS = 8,      /* registers that hold one input's 64 outputs */
    AHEAD = 12288, /* bytes between a load of weights and what is asked of memory then: more than a
                      group, because most tiles take a group in several passes */
    RUNS = KN_Q_GROUP / KN_Q4_RUN,
};

FN __m256i load_y(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

/* Four bytes in every lane. */
FN __m256i four_bytes(const void *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    return _mm256_set1_epi32(four);
}

/* Ask memory for a step's share of what comes next. While the weights stream, that is the same
 * lines of the codes further on; later, as many bytes a step as fetch a group during a few passes.
 */
FN void ask_ahead(const group_args *g, int64_t s, int k, const int V, const int stream) {
    const char *ahead = (const char *)g->ahead;
    if (!stream) {
        if (k == 0)
            _mm_prefetch(ahead + s * 64, _MM_HINT_T0);
    } else if (V > 1 || k % 2 == 0) {
#pragma GCC unroll 4
        for (int line = 0; line < (V + 1) / 2; line++)
            _mm_prefetch(ahead + s * STEP + 32 * k + 64 * line, _MM_HINT_T0);
    }
}

/* y = fma(dot, d s, y) for registers k..k+V of R rows. */
FN void finish_tile(__m256i acc[ROWS][VECS], const group_args *g, int k, const int R, const int V) {
    const float *s = g->s; /* locals: a store to y could change *g */
    const int64_t groups = g->groups;
    const unsigned char *scales = g->scales + 16 * k;
    float *to = g->y + 8 * k;
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
        __m256i h = _mm256_cvtepu16_epi32(_mm_load_si128((const __m128i *)(scales + 16 * v)));
        __m256 d = _mm256_castsi256_ps(_mm256_slli_epi32(h, 16));
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            float *y = to + r * KN_Q_OUTS + 8 * v;
            __m256 f = _mm256_mul_ps(d, _mm256_set1_ps(s[r * groups]));
            _mm256_store_ps(y,
                            _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[r][v]), f, _mm256_load_ps(y)));
        }
    }
}

/* -128 times the sum of the inputs: codes are weight + 128. */
FN void begin_tile(__m256i acc[ROWS][VECS], const group_args *g, const int R, const int V) {
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
        __m256i start = _mm256_set1_epi32(-128 * g->sum[r * g->groups]);
#pragma GCC unroll 8
        for (int v = 0; v < V; v++)
            acc[r][v] = start;
    }
}

#endif
#endif
