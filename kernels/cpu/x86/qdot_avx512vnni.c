/* Packed products on AVX-512 VNNI (quant.h has the layout, dsp.h the contract). A register tile is
 * 6 rows x 64 outputs: 24 accumulators of 16 int32, four registers of weights, and one input of
 * four bytes broadcast at a time. Groups are the outer loop: 8 KiB of weights stay in the
 * first-level cache while the rows pass, and a row's 64 sums in memory are touched once a group.
 *
 * vpdpbusd multiplies unsigned by signed bytes: codes are weight + 128, and accumulators start at
 * -128 times the sum of the inputs. */
#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VNNI__)
#error "compile with AVX-512 F, BW and VNNI"
#endif
#include <math.h>

#include "kernels/cpu/x86/qdot_groups.h"

enum {
    VECS = 4, /* registers that hold the 64 outputs */
    /* Bytes between a load of weights and what is asked of memory then, measured. */
    AHEAD_Q8 = 4096,
    AHEAD_Q4 = 8192,
    SPREAD_ROWS = 3 * ROWS,
    RUN_PAIRS = 2, /* pairs of steps in a run of q4 */
};

/* acc += w . x in bytes. The instruction itself, because gcc 12 copies every accumulator around its
 * intrinsic: a third of the speed. */
FN __m512i dot4(__m512i acc, __m512i w, __m512i x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x));
    return acc;
}

FN __m512i input4(const int8_t *q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm512_set1_epi32(four);
}

FN __m512 scale_of(const unsigned char *scales, int k) {
    __m256i h = _mm256_load_si256((const __m256i *)(scales + 32 * k));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

FN void begin_rows(__m512i acc[ROWS][VECS], const group_args *g, const int R) {
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
        __m512i start = _mm512_set1_epi32(-128 * g->sum[r * g->groups]);
#pragma GCC unroll 4
        for (int k = 0; k < VECS; k++)
            acc[r][k] = start;
    }
}

FN void finish_rows(__m512i acc[ROWS][VECS], const group_args *g, const int R) {
    const unsigned char *scales = g->scales; /* locals: a store to y could change *g */
    const float *s = g->s;
    const int64_t groups = g->groups;
    float *to = g->y;
#pragma GCC unroll 4
    for (int k = 0; k < VECS; k++) {
        __m512 d = scale_of(scales, k);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            float *y = to + r * KN_Q_OUTS + 16 * k;
            __m512 f = _mm512_mul_ps(d, _mm512_set1_ps(s[r * groups]));
            _mm512_store_ps(y,
                            _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[r][k]), f, _mm512_load_ps(y)));
        }
    }
}

/* `lines` cache lines of what `ahead` points at are asked for in each step. */
FN void rows_q8_ahead(const group_args *g, const int R, const int lines) {
    __m512i acc[ROWS][VECS];
    begin_rows(acc, g, R);
    for (int64_t s = 0; s < g->steps; s++) {
        const unsigned char *w = g->codes + s * STEP, *ahead = g->ahead + s * 64 * lines;
        __m512i wk[VECS];
#pragma GCC unroll 4
        for (int k = 0; k < VECS; k++) {
            if (k < lines)
                _mm_prefetch((const char *)ahead + 64 * k, _MM_HINT_T0);
            wk[k] = _mm512_load_si512(w + 64 * k);
        }
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            __m512i x = input4(g->q + r * g->ldq + 4 * s);
#pragma GCC unroll 4
            for (int k = 0; k < VECS; k++)
                acc[r][k] = dot4(acc[r][k], wk[k], x);
        }
    }
    finish_rows(acc, g, R);
}

/* The first rows of a block: weights stream from memory. */
FN void rows_q8(const group_args *g, const int R) {
    rows_q8_ahead(g, R, VECS);
}

/* The weights are in the first-level cache already; the next group is fetched meanwhile. */
FN void rows_q8_again(const group_args *g, const int R) {
    rows_q8_ahead(g, R, 1);
}

/* ---- q4: codes to weights + 128 ---- */

/* A run's factors of 16 outputs: in both halves of each 32 bits, and what makes 128 of code 8 in
 * each byte. */
typedef struct run_factors {
    __m512i sub, offset;
} run_factors;

FN run_factors factors_of(const unsigned char *subs, int k, const int odd) {
    const __m512i halves = _mm512_set4_epi32(0x0D0C0D0C, 0x09080908, 0x05040504, 0x01000100);
    const __m512i bytes = _mm512_set4_epi32(0x0C0C0C0C, 0x08080808, 0x04040404, 0);
    __m512i two = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)(subs + 16 * k)));
    __m512i sub = _mm512_srai_epi32(_mm512_slli_epi32(two, odd ? 24 : 28), 28);
    __m512i offset = _mm512_sub_epi32(_mm512_set1_epi32(128), _mm512_slli_epi32(sub, 3));
    return (run_factors){_mm512_shuffle_epi8(sub, halves), _mm512_shuffle_epi8(offset, bytes)};
}

/* Codes in the low halves of bytes (the high ones are ignored) -> codes * sub + offset, modulo 256.
 * Even and odd bytes are multiplied as 16-bit numbers; the odd ones stay where they are. */
FN __m512i expand(__m512i codes, run_factors f) {
    __m512i even = _mm512_mullo_epi16(_mm512_and_si512(codes, _mm512_set1_epi16(0x000F)), f.sub);
    __m512i odd = _mm512_mullo_epi16(_mm512_and_si512(codes, _mm512_set1_epi16(0x0F00)), f.sub);
    __m512i both = _mm512_ternarylogic_epi32(_mm512_set1_epi16(0x00FF), even, odd, 0xCA);
    return _mm512_add_epi8(both, f.offset);
}

/* One run of 16 inputs: two pairs of steps, expanded in registers. */
FN void run_q4(__m512i acc[ROWS][VECS], const group_args *g, int64_t run, const int odd,
               const int R) {
    const unsigned char *subs = g->subs + run / 2 * KN_Q_OUTS;
    const unsigned char *pairs = g->codes + run * RUN_PAIRS * STEP;
    const unsigned char *ahead = g->ahead + run * RUN_PAIRS * STEP;
    const int8_t *q = g->q + run * KN_Q4_RUN;
#pragma GCC unroll 4
    for (int k = 0; k < VECS; k++) {
        run_factors f = factors_of(subs, k, odd);
#pragma GCC unroll 2
        for (int p = 0; p < RUN_PAIRS; p++) {
            _mm_prefetch((const char *)ahead + p * STEP + 64 * k, _MM_HINT_T0);
            __m512i two = _mm512_load_si512(pairs + p * STEP + 64 * k);
            __m512i lo = expand(two, f), hi = expand(_mm512_srli_epi16(two, 4), f);
#pragma GCC unroll 6
            for (int r = 0; r < R; r++) {
                const int8_t *x = q + r * g->ldq + 8 * p;
                acc[r][k] = dot4(acc[r][k], lo, input4(x));
                acc[r][k] = dot4(acc[r][k], hi, input4(x + 4));
            }
        }
    }
}

FN void rows_q4_expanded(const group_args *g, const int R) {
    __m512i acc[ROWS][VECS];
    begin_rows(acc, g, R);
    for (int64_t run = 0; run < g->steps / 4; run += 2) {
        run_q4(acc, g, run, 0, R);
        run_q4(acc, g, run + 1, 1, R);
    }
    finish_rows(acc, g, R);
}

/* ---- q4, one or two rows: codes as they are, the factor applied to the sum of each run ---- */

/* -8 times the sum of each run of inputs: what code 8 stands for. */
FN void run_starts(int32_t *starts, const int8_t *q, int64_t steps) {
    for (int64_t i = 0; i < steps; i += 16) {
        int64_t left = 4 * (steps - i);
        __mmask64 m = left >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << left) - 1;
        __m512i s = dot4(_mm512_setzero_si512(), _mm512_set1_epi8(8),
                         _mm512_maskz_loadu_epi8(m, q + 4 * i));
        s = _mm512_add_epi32(s, _mm512_shuffle_epi32(s, _MM_PERM_CDAB));
        s = _mm512_add_epi32(s, _mm512_shuffle_epi32(s, _MM_PERM_BADC));
        s = _mm512_sub_epi32(_mm512_setzero_si512(), s);
        _mm512_storeu_si512(starts + i, s); /* four times each */
    }
}

/* acc += sum * factor; the sum of a run is at most 16 * 8 * 127 and fits the low 16 bits, of the
 * factor the high ones are zero. */
FN __m512i add_run(__m512i acc, __m512i sum, __m512i factor) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(sum), "v"(factor));
    return acc;
}

FN __m512i factor16(const unsigned char *subs, int k, const int odd) {
    __m512i two = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)(subs + 16 * k)));
    return _mm512_srai_epi16(_mm512_slli_epi16(two, odd ? 8 : 12), 12);
}

FN void run_q4_direct(__m512i acc[ROWS][VECS], const group_args *g, int64_t run, const int odd,
                      int32_t (*starts)[KN_Q_GROUP / 4], const int R) {
    const unsigned char *subs = g->subs + run / 2 * KN_Q_OUTS;
    const unsigned char *pairs = g->codes + run * RUN_PAIRS * STEP;
    const unsigned char *ahead = g->ahead + run * RUN_PAIRS * STEP;
    const __m512i low = _mm512_set1_epi8(0x0F);
    __m512i x[2][4], start[2];
#pragma GCC unroll 2
    for (int r = 0; r < R; r++) {
        start[r] = _mm512_set1_epi32(starts[r][4 * run]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            x[r][i] = input4(g->q + r * g->ldq + run * KN_Q4_RUN + 4 * i);
    }
    __m512i sum[2][VECS];
#pragma GCC unroll 2
    for (int p = 0; p < RUN_PAIRS; p++) { /* codes in the order of addresses */
#pragma GCC unroll 4
        for (int k = 0; k < VECS; k++) {
            _mm_prefetch((const char *)ahead + p * STEP + 64 * k, _MM_HINT_T0);
            __m512i two = _mm512_load_si512(pairs + p * STEP + 64 * k);
            __m512i lo = _mm512_and_si512(two, low);
            __m512i hi = _mm512_and_si512(_mm512_srli_epi16(two, 4), low);
#pragma GCC unroll 2
            for (int r = 0; r < R; r++) {
                __m512i s = dot4(p == 0 ? start[r] : sum[r][k], lo, x[r][2 * p]);
                sum[r][k] = dot4(s, hi, x[r][2 * p + 1]);
            }
        }
    }
#pragma GCC unroll 4
    for (int k = 0; k < VECS; k++) {
        __m512i factor = factor16(subs, k, odd);
#pragma GCC unroll 2
        for (int r = 0; r < R; r++)
            acc[r][k] = add_run(acc[r][k], sum[r][k], factor);
    }
}

FN void rows_q4_direct(const group_args *g, const int R) {
    __m512i acc[ROWS][VECS];
    _Alignas(64) int32_t starts[2][KN_Q_GROUP / 4];
#pragma GCC unroll 2
    for (int r = 0; r < R; r++) {
        run_starts(starts[r], g->q + r * g->ldq, g->steps);
#pragma GCC unroll 4
        for (int k = 0; k < VECS; k++)
            acc[r][k] = _mm512_setzero_si512();
    }
    for (int64_t run = 0; run < g->steps / 4; run += 2) {
        run_q4_direct(acc, g, run, 0, starts, R);
        run_q4_direct(acc, g, run + 1, 1, starts, R);
    }
    finish_rows(acc, g, R);
}

FN void rows_q4(const group_args *g, const int R) {
    if (R <= 2)
        rows_q4_direct(g, R);
    else
        rows_q4_expanded(g, R);
}

/* A whole group as q8 codes, for when many rows follow: it stays in the first-level cache. */
static void expand_group(unsigned char *out, const group_args *g) {
    for (int64_t run = 0; run < g->steps / 4; run++) {
        const unsigned char *pairs = g->codes + run * RUN_PAIRS * STEP;
        for (int k = 0; k < VECS; k++) {
            run_factors f = run % 2 ? factors_of(g->subs + run / 2 * KN_Q_OUTS, k, 1)
                                    : factors_of(g->subs + run / 2 * KN_Q_OUTS, k, 0);
#pragma GCC unroll 2
            for (int p = 0; p < RUN_PAIRS; p++) {
                __m512i two = _mm512_load_si512(pairs + p * STEP + 64 * k);
                unsigned char *to = out + (run * 4 + 2 * p) * STEP + 64 * k;
                _mm512_store_si512(to, expand(two, f));
                _mm512_store_si512(to + STEP, expand(_mm512_srli_epi16(two, 4), f));
            }
        }
    }
}

/* ---- rows of a block, groups of a tile ---- */

ROW_SWITCH(rows_q8)
ROW_SWITCH(rows_q8_again)
ROW_SWITCH(rows_q4)

/* The rows from `done` on; the next group is fetched from `end` meanwhile. */
static void rest_q8(group_args g, int64_t done, int64_t rows, const unsigned char *end) {
    g.ahead = end;
    rest_of_rows(g, done, rows, ROWS, rows_q8_again_some);
}

/* With enough passes the weights of the next group arrive during all of them, line by line; with
 * fewer the first pass must ask for more than it can use at once. */
static void group_q8(const group_args *g, int64_t rows) {
    if (rows > SPREAD_ROWS) {
        rest_q8(*g, 0, rows, g->codes + g->steps * STEP);
        return;
    }
    rows_q8_some(g, rows);
    rest_q8(*g, ROWS, rows, g->codes + g->steps * STEP);
}

static void group_q4(const group_args *g, int64_t rows) {
    _Alignas(64) unsigned char codes[KN_Q_GROUP * KN_Q_OUTS];
    if (rows <= ROWS) {
        rows_q4_some(g, rows);
        return;
    }
    expand_group(codes, g);
    group_args h = *g;
    h.codes = codes;
    rest_q8(h, 0, rows, g->codes + g->steps * STEP / 2);
}

static void qdot_q8(float *y, const kn_qrows *x, int64_t row0, int64_t rows, const void *tile,
                    int64_t cols) {
    qdot(y, x, row0, rows, tile, cols, KN_Q8, AHEAD_Q8, group_q8);
}

static void qdot_q4(float *y, const kn_qrows *x, int64_t row0, int64_t rows, const void *tile,
                    int64_t cols) {
    qdot(y, x, row0, rows, tile, cols, KN_Q4, AHEAD_Q4, group_q4);
}

/* ---- activations ---- */

/* Sixteen inputs at i of n: zeros beyond. */
FN __m512 inputs16(const float *x, int64_t i, int64_t n) {
    int64_t left = n - i;
    __mmask16 m = left >= 16 ? (__mmask16)0xFFFF : left > 0 ? (__mmask16)((1u << left) - 1) : 0;
    return _mm512_maskz_loadu_ps(m, x + i);
}

/* q [n rounded up to KN_Q_UNIT] of one group; returns the scale. */
FN float quant_group(int8_t *q, int32_t *sum, const float *x, int64_t n, int64_t padded) {
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    __m512i top = _mm512_setzero_si512(), total = top;
    for (int64_t i = 0; i < padded; i += 16)
        top = _mm512_max_epu32(top,
                               _mm512_and_si512(_mm512_castps_si512(inputs16(x, i, n)), magnitude));
    uint32_t bits = _mm512_reduce_max_epu32(top);
    float m;
    memcpy(&m, &bits, sizeof m);
    *sum = 0;
    if (bits >= 0x7F800000u || m < 0x1p-100f) {
        memset(q, 0, (size_t)padded);
        return bits >= 0x7F800000u ? (float)NAN : 0;
    }
    __m512 f = _mm512_set1_ps(127 / m);
    for (int64_t i = 0; i < padded; i += 16) {
        __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(inputs16(x, i, n), f));
        total = _mm512_add_epi32(total, v);
        _mm_storeu_si128((__m128i *)(q + i), _mm512_cvtsepi32_epi8(v));
    }
    *sum = _mm512_reduce_add_epi32(total);
    return m / 127;
}

static void quant_row(int8_t *q, float *scale, int32_t *sum, const float *x, int64_t n) {
    quant_groups(q, scale, sum, x, n, quant_group);
}

void kn_dsp_fill_avx512vnni(kn_dsp *d) {
    d->quant_row = quant_row;
    d->qdot[KN_Q8] = qdot_q8;
    d->qdot[KN_Q4] = qdot_q4;
}
