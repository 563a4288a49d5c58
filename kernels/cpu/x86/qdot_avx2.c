/* Packed products on AVX2 (quant.h has the layout, dsp.h the contract). vpmaddubsw would do, but
 * sums of two products of bytes do not fit its 16 bits (2 x 255 x 127); so codes of q8 are taken
 * apart into even and odd inputs of 16 bits and multiplied by inputs of 16 bits, which is exact.
 * Codes of q4 are small enough: four steps of them fit 16 bits. */
#if !defined(__AVX2__) || !defined(__FMA__)
#error "compile with AVX2 and FMA"
#endif
#include <math.h>

#include "kernels/cpu/x86/qdot_ymm.h"

/* A group's inputs as 16 bits, of each four in the order 0 2 1 3. */
typedef int16_t wide_rows[ROWS][KN_Q_GROUP];

FN void widen_rows(wide_rows x, const group_args *g, const int R) {
    const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    for (int r = 0; r < R; r++)
        for (int64_t i = 0; i < 4 * g->steps; i += 16) {
            __m128i b = _mm_loadu_si128((const __m128i *)(g->q + r * g->ldq + i));
            _mm256_store_si256((__m256i *)(x[r] + i),
                               _mm256_cvtepi8_epi16(_mm_shuffle_epi8(b, order)));
        }
}

/* Keeps a sum where it is: gcc 12 would add the products to each other first and run out of
 * registers. */
FN __m256i in_order(__m256i sum) {
    __asm__("" : "+x"(sum));
    return sum;
}

FN void half_step(__m256i acc[ROWS][VECS], const __m256i w[VECS], wide_rows x, int64_t at,
                  const int R, const int V) {
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
        __m256i two = four_bytes(x[r] + at);
#pragma GCC unroll 8
        for (int v = 0; v < V; v++)
            acc[r][v] = in_order(_mm256_add_epi32(acc[r][v], _mm256_madd_epi16(w[v], two)));
    }
}

FN void tile_q8(const group_args *g, wide_rows x, int k, const int R, const int V,
                const int stream) {
    const __m256i low = _mm256_set1_epi16(0x00FF);
    const unsigned char *codes = g->codes + 32 * k;
    __m256i acc[ROWS][VECS];
    begin_tile(acc, g, R, V);
    for (int64_t s = 0; s < g->steps; s++) {
        __m256i w[VECS];
        ask_ahead(g, s, k, V, stream);
#pragma GCC unroll 8
        for (int v = 0; v < V; v++)
            w[v] = _mm256_and_si256(load_y(codes + s * STEP + 32 * v), low);
        half_step(acc, w, x, 4 * s, R, V);
#pragma GCC unroll 8
        for (int v = 0; v < V; v++)
            w[v] = _mm256_srli_epi16(load_y(codes + s * STEP + 32 * v), 8);
        half_step(acc, w, x, 4 * s + 2, R, V);
    }
    finish_tile(acc, g, k, R, V);
}

FN void rows_q8(const group_args *g, const int R, const int stream) {
    const int V = R == 1 ? 8 : R <= 3 ? 4 : 2;
    _Alignas(32) wide_rows x;
    widen_rows(x, g, R);
    for (int k = 0; k < VECS; k += V)
        tile_q8(g, x, k, R, V, stream);
}

/* Two sums of 16 bits an output: at most 8 x 15 x 127 and what they start at. */
FN __m256i run_dot(__m256i t, __m256i w, __m256i x) {
    return in_order(_mm256_add_epi16(t, _mm256_maddubs_epi16(w, x)));
}

FN __m256i run_add(__m256i acc, __m256i t, __m256i sub) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(t, sub));
}

/* In the first of an output's two sums; |8 x 16 x 127| more fit. */
FN int32_t run_start(int32_t sum) {
    return sum & 0xFFFF;
}

FN __m256i factor_bytes(void) {
    return _mm256_setr_epi8(-1, 0, -1, 0, -1, 1, -1, 1, -1, 2, -1, 2, -1, 3, -1, 3, -1, 4, -1, 4,
                            -1, 5, -1, 5, -1, 6, -1, 6, -1, 7, -1, 7);
}

#include "kernels/cpu/x86/qdot_ymm_tmpl.c"

/* ---- q4 for many rows: the half-bytes taken apart once a group ---- */

FN void rows_q4_again(const group_args *g, const int R) {
    rows_q4_as(g, R, 1);
}
ROW_SWITCH_3(rows_q4_again)

static void group_q4_many(const group_args *g, int64_t rows) {
    _Alignas(64) unsigned char codes[KN_Q_GROUP * KN_Q_OUTS];
    const __m256i low = _mm256_set1_epi8(15);
    for (int64_t p = 0; p < g->steps / 2; p++)
        for (int k = 0; k < VECS; k++) {
            if (k % 2 == 0)
                _mm_prefetch((const char *)g->ahead + p * STEP + 32 * k, _MM_HINT_T0);
            __m256i two = load_y(g->codes + p * STEP + 32 * k);
            unsigned char *to = codes + 2 * p * STEP + 32 * k;
            _mm256_store_si256((__m256i *)to, _mm256_and_si256(two, low));
            _mm256_store_si256((__m256i *)(to + STEP),
                               _mm256_and_si256(_mm256_srli_epi16(two, 4), low));
        }
    group_args h = *g;
    h.codes = codes;
    h.ahead = codes; /* memory has been asked */
    rest_of_rows(h, 0, rows, Q4_ROWS, rows_q4_again_some);
}

/* ---- activations ---- */

/* Eight inputs at i of n: zeros beyond. */
FN __m256 inputs8(const float *x, int64_t i, int64_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    int64_t left = n - i;
    if (left >= 8)
        return _mm256_loadu_ps(x + i);
    if (left <= 0)
        return _mm256_setzero_ps();
    return _mm256_maskload_ps(x + i, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)left), lane));
}

/* Largest magnitude of n floats, as bits: infinity and NaN are largest. */
FN uint32_t top_of(const float *x, int64_t n, int64_t padded) {
    const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
    __m256i top = _mm256_setzero_si256();
    for (int64_t i = 0; i < padded; i += 8)
        top = _mm256_max_epu32(top,
                               _mm256_and_si256(_mm256_castps_si256(inputs8(x, i, n)), magnitude));
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4E));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xB1));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

/* Thirty-two rounded inputs as bytes; adds them to *total. */
FN __m256i bytes32(const float *x, int64_t i, int64_t n, __m256 f, __m256i *total) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        v[j] = _mm256_cvtps_epi32(_mm256_mul_ps(inputs8(x, i + 8 * j, n), f));
        *total = _mm256_add_epi32(*total, v[j]);
    }
    __m256i b = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    return _mm256_permutevar8x32_epi32(b, order);
}

/* q [padded] of one group; returns the scale. */
FN float quant_group(int8_t *q, int32_t *sum, const float *x, int64_t n, int64_t padded) {
    uint32_t bits = top_of(x, n, padded);
    float m;
    memcpy(&m, &bits, sizeof m);
    *sum = 0;
    if (bits >= 0x7F800000u || m < 0x1p-100f) {
        memset(q, 0, (size_t)padded);
        return bits >= 0x7F800000u ? (float)NAN : 0;
    }
    __m256 f = _mm256_set1_ps(127 / m);
    __m256i total = _mm256_setzero_si256();
    for (int64_t i = 0; i < padded; i += 32)
        _mm256_storeu_si256((__m256i *)(q + i), bytes32(x, i, n, f, &total));
    __m128i t = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4E));
    *sum = _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xB1)));
    return m / 127;
}

static void quant_row(int8_t *q, float *scale, int32_t *sum, const float *x, int64_t n) {
    quant_groups(q, scale, sum, x, n, quant_group);
}

void kn_dsp_qdot_avx2(kn_dsp *d) {
    d->quant_row = quant_row;
    d->qdot[KN_Q8] = qdot_q8;
    d->qdot[KN_Q4] = qdot_q4;
}
