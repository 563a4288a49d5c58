/* Sixteen f32 lanes on AVX-512: one register. Same names and same results as v16_avx2.h; the
 * *_tmpl.c bodies are compiled once over each. */
#ifndef TNL_KERNELS_CPU_V16_AVX512_H
#define TNL_KERNELS_CPU_V16_AVX512_H
#ifdef __AVX512F__

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

#define V16_FN static inline __attribute__((always_inline))

typedef __m512 v16;
typedef __mmask16 v16m;

/* Register tiles that fit: see linear_tmpl.c and outer_tmpl.c. */
#define V16_PARTS 1
#define V16_MANY_ROWS 6
#define V16_MANY_OUTS 4
#define V16_FEW_OUTS(rows) ((rows) <= 2 ? 1 : 4)
#define V16_FEW_OUTS_F8(rows) 4 /* a step is 16 bytes: one output would wait for its sum */
#define V16_OUTER_ROWS 8
#define V16_OUTER_COLS 2
#define V16_OUTER_WIDE 8

V16_FN v16 v16_zero(void) {
    return _mm512_setzero_ps();
}
V16_FN v16 v16_set(float f) {
    return _mm512_set1_ps(f);
}
V16_FN v16 v16_load(const float *p) {
    return _mm512_loadu_ps(p);
}
V16_FN void v16_store(float *p, v16 a) {
    _mm512_storeu_ps(p, a);
}
V16_FN __mmask16 v16_first(int64_t n) {
    return (__mmask16)((1u << n) - 1);
}
/* The first n (0..16) elements, zero beyond; nothing else is touched. */
V16_FN v16 v16_loadn(const float *p, int64_t n) {
    return _mm512_maskz_loadu_ps(v16_first(n), p);
}
V16_FN void v16_storen(float *p, v16 a, int64_t n) {
    _mm512_mask_storeu_ps(p, v16_first(n), a);
}

V16_FN v16 v16_from_bf16(__m256i h) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
V16_FN v16 v16_load_f32(const void *p) {
    return _mm512_loadu_ps(p);
}
V16_FN v16 v16_load_bf16(const void *p) {
    return v16_from_bf16(_mm256_loadu_si256((const __m256i *)p));
}
V16_FN v16 v16_load_f16(const void *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
/* e4m3 as f16 with the same bits, 1/256 of its value: the conversion takes subnormals at full
 * speed, and the multiply-adders, which are what dot_many waits for, have no part in it. */
V16_FN v16 v16_load_f8(const void *p) {
    __m256i c = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
    c = _mm256_and_si256(_mm256_slli_epi16(c, 7), _mm256_set1_epi16((short)0xBF80));
    return _mm512_cvtph_ps(c);
}
#define v16_load_part(p, part) v16_load(p)
#define v16_load_part_f32(p, part) v16_load_f32(p)
#define v16_load_part_bf16(p, part) v16_load_bf16(p)
#define v16_load_part_f16(p, part) v16_load_f16(p)
#define v16_load_part_f8(p, part) v16_load_f8(p)
#define v16_fma_part(a, b, c, part) v16_fma(a, b, c)
V16_FN v16 v16_loadn_f32(const void *p, int64_t n) {
    return _mm512_maskz_loadu_ps(v16_first(n), p);
}
V16_FN v16 v16_loadn_bf16(const void *p, int64_t n) {
    return v16_from_bf16(_mm256_maskz_loadu_epi16(v16_first(n), p));
}
V16_FN v16 v16_loadn_f16(const void *p, int64_t n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(v16_first(n), p));
}

V16_FN v16 v16_add(v16 a, v16 b) {
    return _mm512_add_ps(a, b);
}
V16_FN v16 v16_sub(v16 a, v16 b) {
    return _mm512_sub_ps(a, b);
}
V16_FN v16 v16_mul(v16 a, v16 b) {
    return _mm512_mul_ps(a, b);
}
V16_FN v16 v16_div(v16 a, v16 b) {
    return _mm512_div_ps(a, b);
}
/* a b + c and c - a b, rounded once */
V16_FN v16 v16_fma(v16 a, v16 b, v16 c) {
    return _mm512_fmadd_ps(a, b, c);
}
V16_FN v16 v16_fnma(v16 a, v16 b, v16 c) {
    return _mm512_fnmadd_ps(a, b, c);
}
/* Where one is NaN: b. */
V16_FN v16 v16_max(v16 a, v16 b) {
    return _mm512_max_ps(a, b);
}
V16_FN v16 v16_min(v16 a, v16 b) {
    return _mm512_min_ps(a, b);
}
V16_FN v16 v16_round(v16 a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
V16_FN v16 v16_abs(v16 a) {
    return _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7FFFFFFF)));
}
/* 2^n for integer n in -126..127 */
V16_FN v16 v16_pow2(v16 n) {
    __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(e, 23));
}

V16_FN v16m v16_lt(v16 a, v16 b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
V16_FN v16m v16_eq(v16 a, v16 b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
V16_FN v16m v16_or(v16m a, v16m b) {
    return (v16m)(a | b);
}
V16_FN bool v16_any(v16m m) {
    return m != 0;
}
/* m ? a : b */
V16_FN v16 v16_select(v16m m, v16 a, v16 b) {
    return _mm512_mask_blend_ps(m, b, a);
}

/* The reduction tree 16 -> 8 -> 4 -> 2 -> 1 of dsp.h, for one vector and for four. */
V16_FN __m128 v16_quarter(v16 a) {
    __m256 lo = _mm512_castps512_ps256(a);
    __m256 hi = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));
    __m256 s = _mm256_add_ps(lo, hi);
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}
V16_FN float v16_sum(v16 a) {
    __m128 q = v16_quarter(a);
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
V16_FN __m128 v16_sum4(v16 a, v16 b, v16 c, v16 d) {
    v16 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
    v16 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xEE));
    v16 q = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
    __m128 a4 = _mm512_castps512_ps128(q), b4 = _mm512_extractf32x4_ps(q, 1);
    __m128 c4 = _mm512_extractf32x4_ps(q, 2), d4 = _mm512_extractf32x4_ps(q, 3);
    __m128 ac = _mm_add_ps(_mm_shuffle_ps(a4, b4, 0x44), _mm_shuffle_ps(a4, b4, 0xEE));
    __m128 bd = _mm_add_ps(_mm_shuffle_ps(c4, d4, 0x44), _mm_shuffle_ps(c4, d4, 0xEE));
    return _mm_add_ps(_mm_shuffle_ps(ac, bd, 0x88), _mm_shuffle_ps(ac, bd, 0xDD));
}
/* Sixteen sums at once, four to a row of y: y[r][0..4) from a[4 r .. 4 r + 4). */
V16_FN void v16_sum_4x4(float *y, int64_t ldy, const v16 *a) {
    v16 q[4], t[2];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* quarter sums of a[i], a[i+4], a[i+8], a[i+12] */
        v16 p = a[i], r = a[i + 4], s = a[i + 8], u = a[i + 12];
        v16 pr = _mm512_add_ps(_mm512_shuffle_f32x4(p, r, 0x44), _mm512_shuffle_f32x4(p, r, 0xEE));
        v16 su = _mm512_add_ps(_mm512_shuffle_f32x4(s, u, 0x44), _mm512_shuffle_f32x4(s, u, 0xEE));
        q[i] =
            _mm512_add_ps(_mm512_shuffle_f32x4(pr, su, 0x88), _mm512_shuffle_f32x4(pr, su, 0xDD));
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        t[i] = _mm512_add_ps(_mm512_shuffle_ps(q[2 * i], q[2 * i + 1], 0x44),
                             _mm512_shuffle_ps(q[2 * i], q[2 * i + 1], 0xEE));
    v16 s = _mm512_add_ps(_mm512_shuffle_ps(t[0], t[1], 0x88), _mm512_shuffle_ps(t[0], t[1], 0xDD));
    _mm_storeu_ps(y, _mm512_castps512_ps128(s));
    _mm_storeu_ps(y + ldy, _mm512_extractf32x4_ps(s, 1));
    _mm_storeu_ps(y + 2 * ldy, _mm512_extractf32x4_ps(s, 2));
    _mm_storeu_ps(y + 3 * ldy, _mm512_extractf32x4_ps(s, 3));
}
V16_FN float v16_top(v16 a) {
    return _mm512_reduce_max_ps(a);
}

/* Doubles, for phases: a v16 is V16_VDS pieces. */
typedef __m512d vd;
#define V16_VDS 2
V16_FN vd vd_set(double f) {
    return _mm512_set1_pd(f);
}
V16_FN vd vd_add(vd a, vd b) {
    return _mm512_add_pd(a, b);
}
V16_FN vd vd_mul(vd a, vd b) {
    return _mm512_mul_pd(a, b);
}
V16_FN vd vd_fma(vd a, vd b, vd c) {
    return _mm512_fmadd_pd(a, b, c);
}
V16_FN vd vd_fms(vd a, vd b, vd c) {
    return _mm512_fmsub_pd(a, b, c);
}
V16_FN vd vd_fnma(vd a, vd b, vd c) {
    return _mm512_fnmadd_pd(a, b, c);
}
V16_FN vd vd_round(vd a) {
    return _mm512_roundscale_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
V16_FN vd vd_floor(vd a) {
    return _mm512_roundscale_pd(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
V16_FN void v16_widen(vd out[V16_VDS], v16 a) {
    out[0] = _mm512_cvtps_pd(_mm512_castps512_ps256(a));
    out[1] = _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1)));
}
V16_FN v16 v16_narrow(const vd in[V16_VDS]) {
    __m512d lo = _mm512_castpd256_pd512(_mm256_castps_pd(_mm512_cvtpd_ps(in[0])));
    return _mm512_castpd_ps(_mm512_insertf64x4(lo, _mm256_castps_pd(_mm512_cvtpd_ps(in[1])), 1));
}

#endif
#endif
