/* Dot products of rows with rows, in lane order (dsp.h). A register tile holds R x O vectors of
 * 16 partial sums; its size, and blocking along the inputs, change no sum: blocks carry their
 * partial sums. Compiled once per instruction set over its v16. */
#include "kernels/cpu/dsp.h"

#define MOST_ROWS 8
#define MOST_OUTS 8

/* Inputs of one block of dot_many: the x rows of a tile stay in the first-level cache while the
 * panel streams by from the second. */
#define INPUT_BLOCK 512

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

/* What one tile of dot_many works on: a block of n inputs out of a row. */
typedef struct many_args {
    const float *x;
    int64_t ldx;
    const float *w;
    int64_t ldw, n;
    bool first, last; /* block of the row: start from zero, reduce at the end */
} many_args;

#define MW_FULL(o) v16_load(w + (o)*g->ldw + i)
#define MW_PART(o) v16_loadn(w + (o)*g->ldw + i, rest)
#define MX_FULL(r) v16_load(x + (r)*g->ldx + i)
#define MX_PART(r) v16_loadn(x + (r)*g->ldx + i, rest)

/* R rows at x, O outputs at w; `carry` holds the tile's partial sums between blocks. */
V16_FN void many_tile(const many_args *g, float *y, int64_t ldy, const float *x, const float *w,
                      float *carry, const int R, const int O) {
    v16 acc[MOST_ROWS][MOST_OUTS];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int o = 0; o < O; o++)
            acc[r][o] = g->first ? v16_zero() : v16_load(carry + 16 * (r * O + o));
    int64_t i = 0;
    for (; i + 16 <= g->n; i += 16)
        TILE_STEP(MX_FULL, MW_FULL);
    int64_t rest = g->n - i;
    if (rest > 0)
        TILE_STEP(MX_PART, MW_PART);
    if (g->last) {
        sum_tile(y, ldy, acc, R, O);
        return;
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int o = 0; o < O; o++)
            v16_store(carry + 16 * (r * O + o), acc[r][o]);
}

/* R rows against the whole panel, block by block of the inputs. */
V16_FN void many_group(float *y, int64_t ldy, const float *x, int64_t ldx, const float *w,
                       int64_t ldw, int64_t n_out, int64_t n_in, const int R) {
    _Alignas(64) float carry[KN_PANEL_OUTS * V16_MANY_ROWS * 16];
    many_args g = {x, ldx, w, ldw, 0, true, false};
    const int O = V16_MANY_OUTS;
    for (int64_t i = 0; i < n_in; i += INPUT_BLOCK, g.first = false) {
        g.last = n_in - i <= INPUT_BLOCK;
        g.n = g.last ? n_in - i : INPUT_BLOCK;
        int64_t o = 0;
        for (; o + O <= n_out; o += O)
            many_tile(&g, y + o, ldy, x + i, w + o * ldw + i, carry + 16 * R * o, R, O);
        for (; o < n_out; o++)
            many_tile(&g, y + o, ldy, x + i, w + o * ldw + i, carry + 16 * R * o, R, 1);
    }
}

static void dot_many(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t rows,
                     const float *w, int64_t ldw, int64_t n_out, int64_t n_in) {
    int64_t r = 0;
    for (; r + V16_MANY_ROWS <= rows; r += V16_MANY_ROWS)
        many_group(y + r * ldy, ldy, x + r * ldx, ldx, w, ldw, n_out, n_in, V16_MANY_ROWS);
    y += r * ldy;
    x += r * ldx;
    switch (rows - r) {
    case 1: many_group(y, ldy, x, ldx, w, ldw, n_out, n_in, 1); break;
    case 2: many_group(y, ldy, x, ldx, w, ldw, n_out, n_in, 2); break;
#if V16_MANY_ROWS > 3
    case 3: many_group(y, ldy, x, ldx, w, ldw, n_out, n_in, 3); break;
    case 4: many_group(y, ldy, x, ldx, w, ldw, n_out, n_in, 4); break;
    case 5: many_group(y, ldy, x, ldx, w, ldw, n_out, n_in, 5); break;
#endif
    default: break;
    }
}

static void fill_linear(kn_dsp *d) {
    d->panel_step = V16_MANY_OUTS;
    d->dot_few[KN_F32] = dot_few_f32;
    d->dot_few[KN_F16] = dot_few_f16;
    d->dot_few[KN_BF16] = dot_few_bf16;
    d->dot_many = dot_many;
}
