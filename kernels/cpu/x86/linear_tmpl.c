/* Dot products of rows with rows, in lane order (dsp.h). A register tile holds R x O vectors of
 * 16 partial sums; its size, and blocking along the inputs, change no sum: blocks carry their
 * partial sums. Compiled once per instruction set over its v16. */
#include "kernels/cpu/dsp.h"

#define MOST_ROWS 8
#define MOST_OUTS 8

/* Inputs of one block of dot_many: the x rows of a group stay in the first-level cache while the
 * panel streams by from the second. */
#ifndef INPUT_BLOCK
#define INPUT_BLOCK 512
#endif

/* Reduce the tile's partial sums into y. */
V16_FN void sum_tile(float *y, int64_t ldy, v16 acc[MOST_ROWS][MOST_OUTS], const int R,
                     const int O) {
    if (O % 4 == 0) {
#pragma GCC unroll 8
        for (int o = 0; o < O; o += 4) {
            int r0 = 0;
            if (R >= 4) {
                v16 flat[16];
#pragma GCC unroll 16
                for (int i = 0; i < 16; i++)
                    flat[i] = acc[i / 4][o + i % 4];
                v16_sum_4x4(y + o, ldy, flat);
                r0 = 4;
            }
#pragma GCC unroll 8
            for (int r = r0; r < R; r++)
                _mm_storeu_ps(y + r * ldy + o, v16_sum4(acc[r][o], acc[r][o + 1], acc[r][o + 2],
                                                        acc[r][o + 3]));
        }
        return;
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int o = 0; o < O; o++)
            y[r * ldy + o] = v16_sum(acc[r][o]);
}

/* One step of sixteen inputs: load with LX and LW. */
#define TILE_STEP(LX, LW)                                                                          \
    do {                                                                                           \
        v16 xs[MOST_ROWS];                                                                         \
        _Pragma("GCC unroll 8") for (int r = 0; r < R; r++) xs[r] = LX(r);                         \
        _Pragma("GCC unroll 8") for (int o = 0; o < O; o++) {                                      \
            v16 wo = LW(o);                                                                        \
            _Pragma("GCC unroll 8") for (int r = 0; r < R; r++) acc[r][o] =                        \
                v16_fma(xs[r], wo, acc[r][o]);                                                     \
        }                                                                                          \
    } while (0)

/* dot_few: R rows of x, O outputs of type T at w. `next` is where the weights go on after this
 * tile: prefetchers of the processor stop at pages, so the loop asks for AHEAD bytes further
 * down each row, and over its end for the start of the next tile's rows. */
#define AHEAD 1024
#define X_FULL(r) v16_load(x + (r)*ldx + i)
#define X_PART(r) v16_loadn(x + (r)*ldx + i, rest)

#define DOT_FEW(T, size)                                                                           \
    V16_FN void tile_##T(float *y, int64_t ldy, const float *x, int64_t ldx, const char *w,        \
                         int64_t n, const int R, const int O) {                                    \
        v16 acc[MOST_ROWS][MOST_OUTS];                                                             \
        const int64_t row = n * (size), ahead = AHEAD < row ? AHEAD : row;                         \
        const int64_t turn = (row - ahead) / (size); /* beyond: the next tile */                   \
        _Pragma("GCC unroll 8") for (int r = 0; r < R; r++)                                        \
            _Pragma("GCC unroll 8") for (int o = 0; o < O; o++) acc[r][o] = v16_zero();            \
        int64_t i = 0;                                                                             \
        for (; i + 16 <= n; i += 16) {                                                             \
            const char *p = w + i * (size) + ahead + (i >= turn ? (O - 1) * row : 0);              \
            _Pragma("GCC unroll 8") for (int o = 0; o < O; o++) __builtin_prefetch(p + o * row);   \
            TILE_STEP(X_FULL, W_FULL_##T);                                                         \
        }                                                                                          \
        int64_t rest = n - i;                                                                      \
        if (rest > 0)                                                                              \
            TILE_STEP(X_PART, W_PART_##T);                                                         \
        sum_tile(y, ldy, acc, R, O);                                                               \
    }                                                                                              \
    V16_FN void rows_##T(float *y, int64_t ldy, const float *x, int64_t ldx, const char *w,        \
                         int64_t n_out, int64_t n, const int R) {                                  \
        const int64_t row = n * (size);                                                            \
        const int O = V16_FEW_OUTS(R);                                                             \
        int64_t o = 0;                                                                             \
        for (; o + O <= n_out; o += O)                                                             \
            tile_##T(y + o, ldy, x, ldx, w + o * row, n, R, O);                                    \
        for (; O > 1 && o < n_out; o++)                                                            \
            tile_##T(y + o, ldy, x, ldx, w + o * row, n, R, 1);                                    \
    }                                                                                              \
    static void dot_few_##T(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t rows,      \
                            const void *w, int64_t n_out, int64_t n) {                             \
        switch (rows) {                                                                            \
        case 1: rows_##T(y, ldy, x, ldx, w, n_out, n, 1); break;                                   \
        case 2: rows_##T(y, ldy, x, ldx, w, n_out, n, 2); break;                                   \
        case 3: rows_##T(y, ldy, x, ldx, w, n_out, n, 3); break;                                   \
        case 4: rows_##T(y, ldy, x, ldx, w, n_out, n, 4); break;                                   \
        case 5: rows_##T(y, ldy, x, ldx, w, n_out, n, 5); break;                                   \
        default: rows_##T(y, ldy, x, ldx, w, n_out, n, 6); break;                                  \
        }                                                                                          \
    }

#define W_FULL_f32(o) v16_load_f32(w + (o)*row + i * 4)
#define W_PART_f32(o) v16_loadn_f32(w + (o)*row + i * 4, rest)
#define W_FULL_f16(o) v16_load_f16(w + (o)*row + i * 2)
#define W_PART_f16(o) v16_loadn_f16(w + (o)*row + i * 2, rest)
#define W_FULL_bf16(o) v16_load_bf16(w + (o)*row + i * 2)
#define W_PART_bf16(o) v16_loadn_bf16(w + (o)*row + i * 2, rest)
DOT_FEW(f32, 4)
DOT_FEW(f16, 2)
DOT_FEW(bf16, 2)

/* dot_many: for each group of rows, block by block of the inputs, all tiles of the panel. Between
 * blocks the partial sums of the group wait in `carry`. */
typedef struct many_args {
    float *y;
    int64_t ldy;
    const float *x;
    int64_t ldx;
    const float *w;
    int64_t ldw, n;
    float *carry;
    bool first, last;       /* block of the row: start from zero, reduce at the end */
    const char *ahead, *end; /* memory to ask for: a line a step, in every tile */
} many_args;

#define MW_FULL(o) v16_load(w + (o)*g->ldw + i)
#define MW_PART(o) v16_loadn(w + (o)*g->ldw + i, rest)
#define MX_FULL(r) v16_load(x + (r)*g->ldx + i)
#define MX_PART(r) v16_loadn(x + (r)*g->ldx + i, rest)

V16_FN void many_tile(const many_args *g, const int R, const int O) {
    v16 acc[MOST_ROWS][MOST_OUTS];
    const float *x = g->x, *w = g->w;
    const char *ahead = g->ahead;
    const int64_t line = ahead < g->end ? 64 : 0;
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int o = 0; o < O; o++)
            acc[r][o] = g->first ? v16_zero() : v16_load(g->carry + 16 * (r * O + o));
    int64_t i = 0;
    for (; i + 16 <= g->n; i += 16, ahead += line) {
        __builtin_prefetch(ahead, 0, 2);
        TILE_STEP(MX_FULL, MW_FULL);
    }
    int64_t rest = g->n - i;
    if (rest > 0)
        TILE_STEP(MX_PART, MW_PART);
    if (g->last) {
        sum_tile(g->y, g->ldy, acc, R, O);
        return;
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int o = 0; o < O; o++)
            v16_store(g->carry + 16 * (r * O + o), acc[r][o]);
}

#define MANY_TILE(R)                                                                               \
    static void many_tile_##R(const many_args *g, bool whole) {                                    \
        if (whole)                                                                                 \
            many_tile(g, R, V16_MANY_OUTS);                                                        \
        else                                                                                       \
            many_tile(g, R, 1);                                                                    \
    }
MANY_TILE(1)
MANY_TILE(2)
MANY_TILE(3)
#if V16_MANY_ROWS > 3
MANY_TILE(4)
MANY_TILE(5)
MANY_TILE(6)
#endif

static void (*const many_tiles[])(const many_args *g, bool whole) = {
    many_tile_1, many_tile_2, many_tile_3,
#if V16_MANY_ROWS > 3
    many_tile_4, many_tile_5, many_tile_6,
#endif
};

/* One block of inputs: a group of `rows` rows against all outputs of the panel. */
static const char *many_block(many_args g, int64_t rows, int64_t n_out) {
    for (int64_t o = 0, outs; o < n_out; o += outs) {
        bool whole = o + V16_MANY_OUTS <= n_out;
        outs = whole ? V16_MANY_OUTS : 1;
        many_tiles[rows - 1](&g, whole);
        g.y += outs;
        g.w += outs * g.ldw;
        g.carry += 16 * rows * outs;
        if (g.ahead < g.end)
            g.ahead += g.n / 16 * 64;
    }
    return g.ahead;
}

static void dot_many(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t rows,
                     const float *w, int64_t ldw, int64_t n_out, int64_t n_in, const void *next,
                     int64_t next_bytes) {
    _Alignas(64) float carry[KN_PANEL_OUTS * V16_MANY_ROWS * 16];
    const char *here = (const char *)w;
    many_args g = {.ldy = ldy, .ldx = ldx, .ldw = ldw, .carry = carry};
    g.ahead = next_bytes ? next : here;
    g.end = g.ahead + next_bytes;
    for (int64_t r = 0; r < rows; r += V16_MANY_ROWS) {
        int64_t group = rows - r < V16_MANY_ROWS ? rows - r : V16_MANY_ROWS;
        g.y = y + r * ldy;
        for (int64_t k = 0; k < n_in; k += INPUT_BLOCK) {
            g.first = k == 0;
            g.last = n_in - k <= INPUT_BLOCK;
            g.n = g.last ? n_in - k : INPUT_BLOCK;
            g.x = x + r * ldx + k;
            g.w = w + k;
            if (g.ahead >= g.end)
                g.ahead = g.end = here;
            g.ahead = many_block(g, group, n_out);
        }
    }
}

static void fill_linear(kn_dsp *d) {
    d->dot_few[KN_F32] = dot_few_f32;
    d->dot_few[KN_F16] = dot_few_f16;
    d->dot_few[KN_BF16] = dot_few_bf16;
    d->dot_many = dot_many;
}
