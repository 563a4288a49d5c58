/* Sixteen f32 lanes on AVX2: two registers. Same names and same results as v16_avx512.h. */
#ifndef TNL_KERNELS_CPU_V16_AVX2_H
#define TNL_KERNELS_CPU_V16_AVX2_H
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define V16_FN static inline __attribute__((always_inline))

typedef struct v16 {
    __m256 lo, hi;
} v16;
typedef v16 v16m; /* all bits of a chosen lane set */

#define V16_PARTS 2 /* dot_many sums eight lanes at a time: sixteen take too many registers */
#define V16_MANY_ROWS 6
#define V16_MANY_OUTS 2
#define V16_FEW_OUTS(rows) ((rows) == 1 ? 4 : (rows) == 2 ? 2 : 1)
#define V16_FEW_OUTS_F8(rows) V16_FEW_OUTS(rows)
#define V16_OUTER_ROWS 4
#define V16_OUTER_COLS 1
#define V16_OUTER_WIDE 4

#define V16_EACH1(f, a) ((v16){f((a).lo), f((a).hi)})
#define V16_EACH2(f, a, b) ((v16){f((a).lo, (b).lo), f((a).hi, (b).hi)})
#define V16_EACH3(f, a, b, c) ((v16){f((a).lo, (b).lo, (c).lo), f((a).hi, (b).hi, (c).hi)})

V16_FN v16 v16_zero(void) {
    return (v16){_mm256_setzero_ps(), _mm256_setzero_ps()};
}
V16_FN v16 v16_set(float f) {
    return (v16){_mm256_set1_ps(f), _mm256_set1_ps(f)};
}
V16_FN v16 v16_load(const float *p) {
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
V16_FN void v16_store(float *p, v16 a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
V16_FN __m256i v16_first8(int64_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}
V16_FN v16 v16_loadn(const float *p, int64_t n) {
    return (v16){_mm256_maskload_ps(p, v16_first8(n)),
                 n > 8 ? _mm256_maskload_ps(p + 8, v16_first8(n - 8)) : _mm256_setzero_ps()};
}
V16_FN void v16_storen(float *p, v16 a, int64_t n) {
    _mm256_maskstore_ps(p, v16_first8(n), a.lo);
    if (n > 8)
        _mm256_maskstore_ps(p + 8, v16_first8(n - 8), a.hi);
}

V16_FN __m256 v8_from_bf16(__m128i h) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
V16_FN v16 v16_load_f32(const void *p) {
    return v16_load(p);
}
V16_FN v16 v16_load_bf16(const void *p) {
    const __m128i *h = p;
    return (v16){v8_from_bf16(_mm_loadu_si128(h)), v8_from_bf16(_mm_loadu_si128(h + 1))};
}
V16_FN v16 v16_load_f16(const void *p) {
    const __m128i *h = p;
    return (v16){_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1))};
}
/* e4m3 as f16 with the same bits, 1/256 of its value: the conversion takes subnormals at full
 * speed, and the multiply-adders, which are what dot_many waits for, have no part in it. */
V16_FN __m256 v8_load_f8(const void *p) {
    __m128i c = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)p));
    return _mm256_cvtph_ps(_mm_and_si128(_mm_slli_epi16(c, 7), _mm_set1_epi16((short)0xBF80)));
}
V16_FN v16 v16_load_f8(const void *p) {
    return (v16){v8_load_f8(p), v8_load_f8((const char *)p + 8)};
}
/* Half of the lanes; the other half is not used. */
V16_FN v16 v16_load_part(const float *p, const int part) {
    __m256 x = _mm256_loadu_ps(p + 8 * part);
    __asm__("" : "+x"(x)); /* one load: gcc 12 would repeat it in every fma */
    return (v16){x, x};
}
V16_FN v16 v16_load_part_f32(const void *p, const int part) {
    return v16_load_part(p, part);
}
V16_FN v16 v16_load_part_bf16(const void *p, const int part) {
    __m256 x = v8_from_bf16(_mm_loadu_si128((const __m128i *)p + part));
    return (v16){x, x};
}
V16_FN v16 v16_load_part_f16(const void *p, const int part) {
    __m256 x = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + part));
    return (v16){x, x};
}
V16_FN v16 v16_load_part_f8(const void *p, const int part) {
    __m256 x = v8_load_f8((const char *)p + 8 * part);
    return (v16){x, x};
}
V16_FN v16 v16_fma_part(v16 a, v16 b, v16 c, const int part) {
    if (part == 0)
        return (v16){_mm256_fmadd_ps(a.lo, b.lo, c.lo), c.hi};
    return (v16){c.lo, _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
V16_FN v16 v16_loadn_f32(const void *p, int64_t n) {
    return v16_loadn(p, n);
}
V16_FN v16 v16_loadn_bf16(const void *p, int64_t n) {
    uint16_t h[16] = {0};
    memcpy(h, p, (size_t)n * sizeof *h);
    return v16_load_bf16(h);
}
V16_FN v16 v16_loadn_f16(const void *p, int64_t n) {
    uint16_t h[16] = {0};
    memcpy(h, p, (size_t)n * sizeof *h);
    return v16_load_f16(h);
}

V16_FN v16 v16_add(v16 a, v16 b) {
    return V16_EACH2(_mm256_add_ps, a, b);
}
V16_FN v16 v16_sub(v16 a, v16 b) {
    return V16_EACH2(_mm256_sub_ps, a, b);
}
V16_FN v16 v16_mul(v16 a, v16 b) {
    return V16_EACH2(_mm256_mul_ps, a, b);
}
V16_FN v16 v16_div(v16 a, v16 b) {
    return V16_EACH2(_mm256_div_ps, a, b);
}
V16_FN v16 v16_fma(v16 a, v16 b, v16 c) {
    return V16_EACH3(_mm256_fmadd_ps, a, b, c);
}
V16_FN v16 v16_fnma(v16 a, v16 b, v16 c) {
    return V16_EACH3(_mm256_fnmadd_ps, a, b, c);
}
V16_FN v16 v16_max(v16 a, v16 b) {
    return V16_EACH2(_mm256_max_ps, a, b);
}
V16_FN v16 v16_min(v16 a, v16 b) {
    return V16_EACH2(_mm256_min_ps, a, b);
}
V16_FN __m256 v8_round(__m256 a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
V16_FN v16 v16_round(v16 a) {
    return V16_EACH1(v8_round, a);
}
V16_FN __m256 v8_abs(__m256 a) {
    return _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF)));
}
V16_FN v16 v16_abs(v16 a) {
    return V16_EACH1(v8_abs, a);
}
V16_FN __m256 v8_pow2(__m256 n) {
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}
V16_FN v16 v16_pow2(v16 n) {
    return V16_EACH1(v8_pow2, n);
}

V16_FN v16m v16_lt(v16 a, v16 b) {
    return (v16m){_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)};
}
V16_FN v16m v16_eq(v16 a, v16 b) {
    return (v16m){_mm256_cmp_ps(a.lo, b.lo, _CMP_EQ_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_EQ_OQ)};
}
V16_FN v16m v16_or(v16m a, v16m b) {
    return V16_EACH2(_mm256_or_ps, a, b);
}
V16_FN bool v16_any(v16m m) {
    return _mm256_movemask_ps(_mm256_or_ps(m.lo, m.hi)) != 0;
}
V16_FN v16 v16_select(v16m m, v16 a, v16 b) {
    return (v16){_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)};
}

V16_FN __m128 v16_quarter(v16 a) {
    __m256 s = _mm256_add_ps(a.lo, a.hi);
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}
V16_FN float v16_sum(v16 a) {
    __m128 q = v16_quarter(a);
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
V16_FN __m128 v16_sum4(v16 a, v16 b, v16 c, v16 d) {
    __m128 a4 = v16_quarter(a), b4 = v16_quarter(b), c4 = v16_quarter(c), d4 = v16_quarter(d);
    __m128 ac = _mm_add_ps(_mm_shuffle_ps(a4, b4, 0x44), _mm_shuffle_ps(a4, b4, 0xEE));
    __m128 bd = _mm_add_ps(_mm_shuffle_ps(c4, d4, 0x44), _mm_shuffle_ps(c4, d4, 0xEE));
    return _mm_add_ps(_mm_shuffle_ps(ac, bd, 0x88), _mm_shuffle_ps(ac, bd, 0xDD));
}
V16_FN void v16_sum_4x4(float *y, int64_t ldy, const v16 *a) {
    for (int r = 0; r < 4; r++)
        _mm_storeu_ps(y + r * ldy, v16_sum4(a[4 * r], a[4 * r + 1], a[4 * r + 2], a[4 * r + 3]));
}
V16_FN float v16_top(v16 a) {
    __m256 m = _mm256_max_ps(a.lo, a.hi);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

typedef __m256d vd;
#define V16_VDS 4
V16_FN vd vd_set(double f) {
    return _mm256_set1_pd(f);
}
V16_FN vd vd_add(vd a, vd b) {
    return _mm256_add_pd(a, b);
}
V16_FN vd vd_mul(vd a, vd b) {
    return _mm256_mul_pd(a, b);
}
V16_FN vd vd_fma(vd a, vd b, vd c) {
    return _mm256_fmadd_pd(a, b, c);
}
V16_FN vd vd_fms(vd a, vd b, vd c) {
    return _mm256_fmsub_pd(a, b, c);
}
V16_FN vd vd_fnma(vd a, vd b, vd c) {
    return _mm256_fnmadd_pd(a, b, c);
}
V16_FN vd vd_round(vd a) {
    return _mm256_round_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
V16_FN vd vd_floor(vd a) {
    return _mm256_floor_pd(a);
}
V16_FN void v16_widen(vd out[V16_VDS], v16 a) {
    out[0] = _mm256_cvtps_pd(_mm256_castps256_ps128(a.lo));
    out[1] = _mm256_cvtps_pd(_mm256_extractf128_ps(a.lo, 1));
    out[2] = _mm256_cvtps_pd(_mm256_castps256_ps128(a.hi));
    out[3] = _mm256_cvtps_pd(_mm256_extractf128_ps(a.hi, 1));
}
V16_FN v16 v16_narrow(const vd in[V16_VDS]) {
    return (v16){_mm256_set_m128(_mm256_cvtpd_ps(in[1]), _mm256_cvtpd_ps(in[0])),
                 _mm256_set_m128(_mm256_cvtpd_ps(in[3]), _mm256_cvtpd_ps(in[2]))};
}

#endif
#endif
