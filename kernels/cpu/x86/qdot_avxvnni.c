/* Packed products on AVX-VNNI, the integer dot instructions of processors without AVX-512 (quant.h
 * has the layout, dsp.h the contract). Six rows by two registers of weights fill the registers with
 * sums; groups are the outer loop, so that their 8 KiB stay in the first-level cache. */
#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__AVXVNNI__)
#error "compile with AVX2, FMA and AVX-VNNI"
#endif
#include "kernels/cpu/x86/qdot_ymm.h"

/* acc += w . x in bytes, w unsigned. The instruction itself: gcc 12 copies accumulators around its
 * intrinsic. */
FN __m256i dot4(__m256i acc, __m256i w, __m256i x) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(w), "x"(x));
    return acc;
}

FN void tile_q8(const group_args *g, int k, const int R, const int V, const int stream) {
    const unsigned char *codes = g->codes + 32 * k;
    const int8_t *q = g->q;
    const int64_t ldq = g->ldq;
    __m256i acc[ROWS][VECS];
    begin_tile(acc, g, R, V);
    for (int64_t s = 0; s < g->steps; s++) {
        __m256i w[VECS];
        ask_ahead(g, s, k, V, stream);
#pragma GCC unroll 8
        for (int v = 0; v < V; v++)
            w[v] = load_y(codes + s * STEP + 32 * v);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            __m256i x = four_bytes(q + r * ldq + 4 * s);
#pragma GCC unroll 8
            for (int v = 0; v < V; v++)
                acc[r][v] = dot4(acc[r][v], w[v], x);
        }
    }
    finish_tile(acc, g, k, R, V);
}

FN void rows_q8(const group_args *g, const int R, const int stream) {
    const int V = R == 1 ? 8 : R <= 3 ? 4 : 2;
    for (int k = 0; k < VECS; k += V)
        tile_q8(g, k, R, V, stream);
}

FN __m256i run_dot(__m256i t, __m256i w, __m256i x) {
    return dot4(t, w, x);
}

/* A run's sum fits 16 bits: its low half times the factor, its high half times nothing. */
FN __m256i run_add(__m256i acc, __m256i t, __m256i sub) {
    __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(acc) : "x"(t), "x"(sub));
    return acc;
}

FN int32_t run_start(int32_t sum) {
    return sum;
}

FN __m256i factor_bytes(void) {
    return _mm256_setr_epi8(-1, 0, -1, -1, -1, 1, -1, -1, -1, 2, -1, -1, -1, 3, -1, -1, -1, 4, -1,
                            -1, -1, 5, -1, -1, -1, 6, -1, -1, -1, 7, -1, -1);
}

#include "kernels/cpu/x86/qdot_ymm_tmpl.c"

/* ---- q4 for many rows: expanded to q8 codes once a group ---- */

/* Codes in the low halves of bytes times sub, plus 128 - 8 sub, modulo 256. Even and odd bytes are
 * multiplied as 16-bit numbers; sub stands in both halves of every 32 bits. */
FN __m256i expand(__m256i codes, __m256i sub, __m256i offset) {
    const __m256i even = _mm256_set1_epi16(0x000F), odd = _mm256_set1_epi16(0x0F00);
    __m256i a = _mm256_mullo_epi16(_mm256_and_si256(codes, even), sub);
    __m256i b = _mm256_mullo_epi16(_mm256_and_si256(codes, odd), sub);
    return _mm256_add_epi8(_mm256_blendv_epi8(b, a, _mm256_set1_epi16(0x00FF)), offset);
}

FN void expand_run(unsigned char *out, const group_args *g, int64_t run, const int odd) {
    const unsigned char *pairs = g->codes + run * 2 * STEP, *ahead = g->ahead + run * 2 * STEP;
    const unsigned char *subs = g->subs + run / 2 * KN_Q_OUTS;
    const __m256i twice = _mm256_setr_epi8(0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13, 0, 1,
                                           0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13);
    const __m256i bytes = _mm256_set1_epi16(0x00FF);
    for (int k = 0; k < VECS; k++) {
        __m256i sub = _mm256_shuffle_epi8(factors_of(subs + 8 * k, odd), twice);
        __m256i offset = _mm256_sub_epi16(_mm256_set1_epi16(128), _mm256_slli_epi16(sub, 3));
        offset = _mm256_or_si256(_mm256_and_si256(offset, bytes), _mm256_slli_epi16(offset, 8));
#pragma GCC unroll 2
        for (int p = 0; p < 2; p++) {
            if (k % 2 == 0)
                _mm_prefetch((const char *)ahead + p * STEP + 32 * k, _MM_HINT_T0);
            __m256i two = load_y(pairs + p * STEP + 32 * k);
            unsigned char *to = out + 2 * p * STEP + 32 * k;
            _mm256_store_si256((__m256i *)to, expand(two, sub, offset));
            _mm256_store_si256((__m256i *)(to + STEP),
                               expand(_mm256_srli_epi16(two, 4), sub, offset));
        }
    }
}

static void group_q4_many(const group_args *g, int64_t rows) {
    _Alignas(64) unsigned char codes[KN_Q_GROUP * KN_Q_OUTS];
    for (int64_t run = 0; run < g->steps / 4; run += 2) {
        expand_run(codes + run * 4 * STEP, g, run, 0);
        expand_run(codes + run * 4 * STEP + 4 * STEP, g, run + 1, 1);
    }
    group_args h = *g;
    h.codes = codes;
    h.ahead = codes; /* memory has been asked */
    rest_of_rows(h, 0, rows, ROWS, rows_q8_again_some);
}

void kn_dsp_fill_avxvnni(kn_dsp *d) {
    d->qdot[KN_Q8] = qdot_q8;
    d->qdot[KN_Q4] = qdot_q4;
}
