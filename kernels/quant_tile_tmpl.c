/* Packs one tile: included with TNL_TILE_FN set, and compiled once for each vector width. In q8 and
 * q4 every lane of a vector is an output, so a loop over inputs is the scalar definition LANES
 * times over, and all widths give the same bytes. Values are first brought to 1 <= max|x| < 2 by a
 * power of two, which is exact and keeps every square in range. */
#include <string.h>

#include "kernels/base/half.h"
#include "kernels/quant_pack.h"
#include "kernels/quant_tile.h"

#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX2__)
#define WIDTH 32
#else
#define WIDTH 16
#endif
#if defined(__SSE2__)
#include <immintrin.h>
#endif

enum { LANES = WIDTH / 4, RUN = KN_Q4_RUN, RUNS = KN_Q_GROUP / KN_Q4_RUN };
enum { TINY = 27 }; /* biased exponent of 2^-100 */

typedef float vec __attribute__((vector_size(WIDTH)));
typedef int32_t ivec __attribute__((vector_size(WIDTH)));
typedef uint32_t uvec __attribute__((vector_size(WIDTH)));

/* A group of 128 inputs, or what is left, of LANES outputs. */
typedef struct lanes {
    vec x[KN_Q_GROUP];   /* values times 2^(127 - exponent), at the end their codes */
    int exponent[LANES]; /* biased, of the largest magnitude; 0: all is zero */
    int inputs;          /* a multiple of KN_Q_UNIT */
} lanes;

/* ---- vectors ---- */

static inline vec pick(ivec mask, vec a, vec b) {
    return (vec)((mask & (ivec)a) | (~mask & (ivec)b));
}

static inline vec vmax(vec a, vec b) {
#if defined(__AVX512F__)
    return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
    return _mm256_max_ps(a, b);
#elif defined(__SSE2__)
    return _mm_max_ps(a, b);
#else
    return pick(a > b, a, b);
#endif
}

static inline vec vmin(vec a, vec b) {
#if defined(__AVX512F__)
    return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
    return _mm256_min_ps(a, b);
#elif defined(__SSE2__)
    return _mm_min_ps(a, b);
#else
    return pick(a < b, a, b);
#endif
}

static inline vec vabs(vec a) {
    return (vec)((ivec)a & 0x7FFFFFFF);
}

/* Nearest whole number, ties to even, for |a| < 2^22: the sum has no room for a fraction. */
static inline vec whole(vec a) {
    return (a + 0x1.8p23f) - 0x1.8p23f;
}

/* The code of a q4 weight, the nearest of -8..7. */
static inline vec code4(vec x, vec inv) {
    return whole(vmin(vmax(x * inv, (vec){0} - 8.0f), (vec){0} + 7.0f));
}

/* 1 / a, and 0 for 0. */
static inline vec inverse(vec a) {
    ivec zero = a == 0.0f;
    return pick(zero, (vec){0}, 1.0f / pick(zero, (vec){0} + 1.0f, a));
}

/* Whole numbers to two's complement. */
static inline uvec bits(vec a) {
    return (uvec) __builtin_convertvector(a, ivec);
}

/* Rounded to bf16, ties to even; finite values. */
static inline vec as_bf16(vec a) {
    ivec b = (ivec)a;
    return (vec)((b + 0x7FFF + ((b >> 16) & 1)) & ~0xFFFF);
}

/* ---- reading ---- */

static int top_exponent(const float *x, int64_t n) {
    uint32_t top = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = tnl_bits_from_f32(x[i]) & 0x7FFFFFFF;
        top = bits > top ? bits : top;
    }
    return (int)(top >> 23) < TINY ? 0 : (int)(top >> 23);
}

/* Inputs [at, at + n) of the first `outs` outputs of src; zero beyond them. */
static void read_lanes(lanes *g, const char *src, kn_dtype from, int64_t outs, int64_t cols,
                       int64_t at, int64_t n) {
    const int64_t elem = kn_dtypes[from].elem_bytes;
    float(*x)[LANES] = (float(*)[LANES])g->x, row[KN_Q_GROUP];
    g->inputs = (int)kn_q_padded(n);
    if (outs < LANES || n < g->inputs)
        memset(g->x, 0, sizeof g->x);
    for (int64_t o = 0; o < LANES; o++) {
        g->exponent[o] = 0;
        if (o >= outs)
            continue;
        kn_dtype_to_f32(row, src + (o * cols + at) * elem, from, (size_t)n);
        int e = g->exponent[o] = top_exponent(row, n);
        float up = e ? tnl_f32_from_bits((uint32_t)(254 - e) << 23) : 0.0f;
        for (int64_t i = 0; i < n; i++)
            x[i][o] = row[i] * up;
    }
}

/* ---- writing ---- */

/* The scale of output o0 and those after it, brought back to the values' own power of two. */
static void write_scales(unsigned char *group, int o0, const lanes *g, vec d) {
    float v[LANES];
    memcpy(v, &d, sizeof v);
    for (int o = 0; o < LANES; o++) {
        uint16_t h = (uint16_t)(tnl_bits_from_f32(v[o]) >> 16);
        h = g->exponent[o] && v[o] != 0 ? (uint16_t)(h + (g->exponent[o] - 127) * 128) : 0;
        group[2 * (o0 + o)] = (unsigned char)(h & 0xFF);
        group[2 * (o0 + o) + 1] = (unsigned char)(h >> 8);
    }
}

/* Four codes of an output are four bytes side by side: one 32-bit word of its lane. */
static void write_codes8(unsigned char *codes, int o0, const lanes *g) {
    for (int i = 0; i < g->inputs; i += 4) {
        uvec w = {0};
        for (int k = 3; k >= 0; k--)
            w = w << 8 | bits(g->x[i + k] + 128.0f);
        memcpy(codes + i / 4 * 256 + 4 * o0, &w, sizeof w);
    }
}

static void write_codes4(unsigned char *codes, int o0, const lanes *g) {
    for (int i = 0; i < g->inputs; i += 8) {
        uvec w = {0};
        for (int k = 3; k >= 0; k--)
            w = w << 8 | bits(g->x[i + k] + 8.0f) | bits(g->x[i + 4 + k] + 8.0f) << 4;
        memcpy(codes + i / 8 * 256 + 4 * o0, &w, sizeof w);
    }
}

static void write_subs(unsigned char *subs, int o0, const vec *sub, int runs) {
    for (int r = 0; r < runs; r += 2) {
        uvec two = (bits(sub[r]) & 15) | (bits(sub[r + 1]) & 15) << 4;
        uint32_t v[LANES];
        memcpy(v, &two, sizeof v);
        for (int o = 0; o < LANES; o++)
            subs[r / 2 * KN_Q_OUTS + o0 + o] = (unsigned char)v[o];
    }
}

/* ---- q8 ---- */

static void pack_q8(unsigned char *group, int o0, lanes *g) {
    vec top = {0};
    for (int i = 0; i < g->inputs; i++)
        top = vmax(top, vabs(g->x[i]));
    vec d = as_bf16(top / 127.0f), inv = inverse(d);
    for (int i = 0; i < g->inputs; i++)
        g->x[i] = whole(vmin(vmax(g->x[i] * inv, (vec){0} - 127.0f), (vec){0} + 127.0f));
    write_scales(group, o0, g, d);
    write_codes8(group + KN_Q_SCALES, o0, g);
}

/* ---- q4 ---- */

/* With the codes c nearest to x inv: a = sum x c, b = sum c c. A scale v then leaves the error
 * sum x x - v (2 a - v b); the best is v = a / b. */
static inline void fit(vec *a, vec *b, const vec *x, vec inv) {
    vec s = {0}, t = {0};
    for (int i = 0; i < RUN; i++) {
        vec c = code4(x[i], inv);
        s += x[i] * c;
        t += c * c;
    }
    *a = s;
    *b = t;
}

/* Where a trial puts the largest value of a run, in steps of its scale. */
static const float places[] = {-8.6f, -8.0f, -7.5f, -7.0f, -6.5f, -6.0f, -5.5f,
                               -5.0f, 7.6f,  7.0f,  6.5f,  6.0f,  5.5f,  5.0f};
enum { N_PLACES = sizeof places / sizeof places[0] };

/* The scale of a run by itself. */
static vec best_scale(const vec *x) {
    vec high = {0}, low = {0}, scale = {0}, best = {0};
    for (int i = 0; i < RUN; i++) {
        high = vmax(high, x[i]);
        low = vmin(low, x[i]);
    }
    vec top = pick(high >= -low, high, low);
    vec inv_top = inverse(pick(vabs(top) > 0x1p-60f, top, (vec){0}));
    for (int k = 0; k < N_PLACES; k++) {
        vec a, b;
        fit(&a, &b, x, places[k] * inv_top);
        vec v = a * inverse(b), gain = v * a;
        ivec better = gain > best;
        scale = pick(better, v, scale);
        best = vmax(gain, best);
    }
    return scale;
}

/* A value of d, the factors that runs choose under it, and the error that is saved. */
typedef struct trial {
    vec d, gain, sub[RUNS];
} trial;

static inline void try_sub(vec *best, vec *sub, const vec *x, vec d, vec s) {
    vec a, b, v = d * s;
    fit(&a, &b, x, inverse(v));
    vec gain = v * (2.0f * a - v * b);
    *sub = pick(gain > *best, s, *sub);
    *best = vmax(gain, *best);
}

static void try_d(trial *t, const lanes *g, const vec *scale) {
    const vec low = (vec){0} - 8.0f, high = (vec){0} + 7.0f;
    vec inv = inverse(t->d);
    t->gain = (vec){0};
    for (int r = 0; r < g->inputs / RUN; r++) {
        vec want = vmin(vmax(scale[r] * inv, low), high), near = whole(want), best = {0};
        vec other = near + pick(want > near, (vec){0} + 1.0f, (vec){0} - 1.0f);
        t->sub[r] = (vec){0};
        try_sub(&best, &t->sub[r], &g->x[r * RUN], t->d, near);
        try_sub(&best, &t->sub[r], &g->x[r * RUN], t->d, vmin(vmax(other, low), high));
        t->gain += best;
    }
}

static void keep_better(trial *best, const trial *t) {
    ivec better = t->gain > best->gain;
    for (int r = 0; r < RUNS; r++)
        best->sub[r] = pick(better, t->sub[r], best->sub[r]);
    best->d = pick(better, t->d, best->d);
    best->gain = vmax(t->gain, best->gain);
}

/* The d that suits factors and codes best. */
static vec refit(const trial *t, const lanes *g) {
    vec up = {0}, down = {0};
    for (int r = 0; r < g->inputs / RUN; r++) {
        vec a, b, s = t->sub[r];
        fit(&a, &b, &g->x[r * RUN], inverse(t->d * s));
        up += s * a;
        down += s * s * b;
    }
    return as_bf16(up * inverse(down));
}

/* The factor that a trial gives the run with the largest scale. */
static const float shares[] = {-8.25f, -8.0f, -7.75f, -7.5f, -7.0f, -6.5f,
                               -6.0f,  7.25f, 7.0f,   6.5f,  6.0f};
enum { N_SHARES = sizeof shares / sizeof shares[0], REFITS = 2 };

static void search(trial *best, const lanes *g) {
    vec scale[RUNS], top = {0};
    trial t;
    memset(best, 0, sizeof *best);
    memset(&t, 0, sizeof t);
    for (int r = 0; r < g->inputs / RUN; r++) {
        scale[r] = best_scale(&g->x[r * RUN]);
        top = pick(vabs(scale[r]) > vabs(top), scale[r], top);
    }
    for (int k = 0; k < N_SHARES + REFITS; k++) {
        t.d = k < N_SHARES ? as_bf16(top * (1.0f / shares[k])) : refit(best, g);
        try_d(&t, g, scale);
        keep_better(best, &t);
    }
}

static void pack_q4(unsigned char *group, int o0, lanes *g) {
    trial best;
    search(&best, g);
    for (int i = 0; i < g->inputs; i++)
        g->x[i] = code4(g->x[i], inverse(best.d * best.sub[i / RUN]));
    write_scales(group, o0, g, best.d);
    write_subs(group + KN_Q_SCALES, o0, best.sub, g->inputs / RUN);
    write_codes4(group + KN_Q_SCALES + 2 * g->inputs, o0, g);
}

/* ---- f8 ---- */

#include "kernels/quant_f8_tmpl.c"

/* ---- */

void TNL_TILE_FN(unsigned char *tile, kn_dtype to, const char *src, kn_dtype from, int64_t outs,
                 int64_t cols) {
    const int64_t row_bytes = cols * kn_dtypes[from].elem_bytes;
    lanes g;
    if (to == KN_F8) {
        pack_f8(tile, src, from, outs, cols);
        return;
    }
    for (int64_t at = 0; at < cols; at += KN_Q_GROUP) {
        int64_t n = cols - at < KN_Q_GROUP ? cols - at : KN_Q_GROUP;
        for (int o0 = 0; o0 < KN_Q_OUTS; o0 += LANES) {
            const char *first = o0 < outs ? src + o0 * row_bytes : src;
            read_lanes(&g, first, from, outs - o0, cols, at, n);
            if (to == KN_Q8)
                pack_q8(tile, o0, &g);
            else
                pack_q4(tile, o0, &g);
        }
        tile += kn_q_group_bytes(to, kn_q_padded(n));
    }
}
