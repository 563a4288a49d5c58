/* Dot products of rows with rows, in lane order (dsp.h). A register tile holds R x O vectors of
 * 16 partial sums; its size, and blocking along the inputs, change no sum: blocks carry their
 * partial sums. Compiled once per instruction set over its v16. */
#include "kernels/cpu/dsp.h"

#define MOST_ROWS 8
#define MOST_OUTS 8

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
    int r0 = 0;
    if (O == 2) {
#pragma GCC unroll 8
        for (; r0 + 2 <= R; r0 += 2) {
            __m128 four =
                v16_sum4(acc[r0][0], acc[r0][1], acc[r0 + 1][0], acc[r0 + 1][1]);
            _mm_storel_pi((__m64 *)(void *)(y + r0 * ldy), four);
            _mm_storeh_pi((__m64 *)(void *)(y + r0 * ldy + ldy), four);
        }
    }
#pragma GCC unroll 8
    for (int r = r0; r < R; r++)
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

/* dot_few: R rows of x, O outputs of type T at w. With one output at a time the weights are a
 * single stream, which memory serves best; more rows need more outputs to share their loads.
 * Prefetchers of the processor stop at pages, so the loop asks for what lies a tile and AHEAD bytes
 * further on, in the order of addresses. */
#define AHEAD 4096
#define X_FULL(r) v16_load(x + (r)*ldx + i)
#define X_PART(r) v16_loadn(x + (r)*ldx + i, rest)

/* Bytes of an element, and of a row of n. */
#define SIZE_f32 4
#define SIZE_f16 2
#define SIZE_bf16 2
#define SIZE_f8 1
#define ROW_f32(n) ((n)*4)
#define ROW_f16(n) ((n)*2)
#define ROW_bf16(n) ((n)*2)
#define ROW_f8(n) kn_f8_stride(n)

#define DOT_FEW(T, OUTS)                                                                           \
    V16_FN void tile_##T(float *y, int64_t ldy, const float *x, int64_t ldx, const char *w,        \
                         int64_t n, const int R, const int O) {                                    \
        v16 acc[MOST_ROWS][MOST_OUTS];                                                             \
        const int64_t row = ROW_##T(n);                                                            \
        const char *ahead = w + O * row + AHEAD;                                                   \
        _Pragma("GCC unroll 8") for (int r = 0; r < R; r++)                                        \
            _Pragma("GCC unroll 8") for (int o = 0; o < O; o++) acc[r][o] = v16_zero();            \
        int64_t i = 0;                                                                             \
        for (; i + 16 <= n; i += 16) {                                                             \
            _Pragma("GCC unroll 8") for (int l = 0; l < O * 16 * SIZE_##T; l += 64)                \
                __builtin_prefetch(ahead + l);                                                     \
            ahead += O * 16 * SIZE_##T;                                                            \
            TILE_STEP(X_FULL, W_FULL_##T);                                                         \
        }                                                                                          \
        int64_t rest = n - i;                                                                      \
        if (rest > 0)                                                                              \
            TILE_STEP(X_PART, W_PART_##T);                                                         \
        sum_tile(y, ldy, acc, R, O);                                                               \
    }                                                                                              \
    V16_FN void rows_##T(float *y, int64_t ldy, const float *x, int64_t ldx, const char *w,        \
                         int64_t n_out, int64_t n, const int R) {                                  \
        const int64_t row = ROW_##T(n);                                                            \
        const int O = OUTS(R);                                                                     \
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
#define W_FULL_f8(o) v16_load_f8(w + (o)*row + i)
#define W_PART_f8(o) W_FULL_f8(o) /* rows are filled up */
DOT_FEW(f32, V16_FEW_OUTS)
DOT_FEW(f16, V16_FEW_OUTS)
DOT_FEW(bf16, V16_FEW_OUTS)
DOT_FEW(f8, V16_FEW_OUTS_F8)

/* dot_many: for each group of rows, block by block of the inputs, all tiles of the panel. Between
 * blocks the partial sums of the group wait in `carry`. */
typedef struct many_args {
    float *y;
    int64_t ldy;
    const float *x;
    int64_t ldx;
    const char *w;
    int64_t row; /* bytes of a row of w */
    int64_t n;
    float *carry;
    bool first, last;        /* block of the row: start from zero, reduce at the end */
    const char *ahead, *end; /* memory to ask for: a line a step, in every tile */
} many_args;

#define MX_PART(r) v16_loadn(x + (r)*g->ldx + i, rest)

/* A step of one part of the lanes. Where there are several, registers are few: the weights wait in
 * them and the inputs pass by. */
#define PART_STEP(LW)                                                                              \
    do {                                                                                           \
        v16 ws[MOST_OUTS];                                                                         \
        if (V16_PARTS == 1) {                                                                      \
            TILE_STEP(MX_FULL, LW);                                                                \
            break;                                                                                 \
        }                                                                                          \
        _Pragma("GCC unroll 8") for (int o = 0; o < O; o++) ws[o] = LW(o);                         \
        _Pragma("GCC unroll 8") for (int r = 0; r < R; r++) {                                      \
            v16 xr = MX_FULL(r);                                                                   \
            _Pragma("GCC unroll 8") for (int o = 0; o < O; o++) acc[r][o] =                        \
                v16_fma_part(xr, ws[o], acc[r][o], part);                                          \
        }                                                                                          \
    } while (0)
#define MX_FULL(r) v16_load_part(x + (r)*g->ldx + i, part)
#define W_STEP_f32(o) v16_load_part_f32(w + (o)*row + i * 4, part)
#define W_STEP_f16(o) v16_load_part_f16(w + (o)*row + i * 2, part)
#define W_STEP_bf16(o) v16_load_part_bf16(w + (o)*row + i * 2, part)
#define W_STEP_f8(o) v16_load_part_f8(w + (o)*row + i, part)

typedef void many_tile_fn(const many_args *g, int64_t rows);

/* One block of inputs: a group of `rows` rows against all outputs of the panel. */
static const char *many_block(many_args g, int64_t rows, int64_t n_out, many_tile_fn *whole,
                              many_tile_fn *single) {
    for (int64_t o = 0, outs; o < n_out; o += outs) {
        outs = o + V16_MANY_OUTS <= n_out ? V16_MANY_OUTS : 1;
        (outs > 1 ? whole : single)(&g, rows);
        g.y += outs;
        g.w += outs * g.row;
        g.carry += 16 * rows * outs;
        if (g.ahead < g.end)
            g.ahead += g.n / 16 * 64;
    }
    return g.ahead;
}

static void many_rows(const many_args *all, const kn_xrows *x, int64_t row0, int64_t rows,
                      int64_t n_out, int64_t size, many_tile_fn *whole, many_tile_fn *single) {
    _Alignas(64) float carry[KN_PANEL_OUTS * V16_MANY_ROWS * 16];
    many_args g = *all;
    g.carry = carry;
    for (int64_t r = 0; r < rows; r += V16_MANY_ROWS) {
        int64_t group = rows - r < V16_MANY_ROWS ? rows - r : V16_MANY_ROWS;
        const float *xs = x->x + (row0 + r) * x->ld;
        g.y = all->y + r * g.ldy;
        for (int64_t k = 0; k < all->n; k += x->block, xs += x->next) {
            g.first = k == 0;
            g.last = all->n - k <= x->block;
            g.n = g.last ? all->n - k : x->block;
            g.x = xs;
            g.w = all->w + k * size;
            if (g.ahead >= g.end)
                g.ahead = g.end = all->w;
            g.ahead = many_block(g, group, n_out, whole, single);
        }
    }
}

#define MANY_TILES(T)                                                                              \
    V16_FN void many_tile_##T(const many_args *g, const int R, const int O) {                      \
        v16 acc[MOST_ROWS][MOST_OUTS];                                                             \
        const float *x = g->x;                                                                     \
        const char *w = g->w, *ahead = g->ahead;                                                   \
        const int64_t row = g->row;                                                                \
        const int64_t line = ahead < g->end ? 64 : 0;                                              \
    _Pragma("GCC unroll 8")                                                                        \
        for (int r = 0; r < R; r++)                                                                \
    _Pragma("GCC unroll 8")                                                                        \
            for (int o = 0; o < O; o++)                                                            \
                acc[r][o] = g->first ? v16_zero() : v16_load(g->carry + 16 * (r * O + o));         \
        int64_t i = 0;                                                                             \
    _Pragma("GCC unroll 2")                                                                        \
        for (int part = 0; part < V16_PARTS; part++)                                               \
            for (i = 0; i + 16 <= g->n; i += 16, ahead += line) {                                  \
                if (part == 0 && line) /* loads are scarce here: a branch costs less */            \
                    __builtin_prefetch(ahead, 0, 2);                                               \
                PART_STEP(W_STEP_##T);                                                             \
            }                                                                                      \
        int64_t rest = g->n - i;                                                                   \
        if (rest > 0)                                                                              \
            TILE_STEP(MX_PART, W_PART_##T);                                                        \
        if (g->last) {                                                                             \
            sum_tile(g->y, g->ldy, acc, R, O);                                                     \
            return;                                                                                \
        }                                                                                          \
    _Pragma("GCC unroll 8")                                                                        \
        for (int r = 0; r < R; r++)                                                                \
    _Pragma("GCC unroll 8")                                                                        \
            for (int o = 0; o < O; o++)                                                            \
                v16_store(g->carry + 16 * (r * O + o), acc[r][o]);                                 \
    }                                                                                              \
    static void many_whole_##T(const many_args *g, int64_t rows) {                                 \
        switch (rows) {                                                                            \
        case 1: many_tile_##T(g, 1, V16_MANY_OUTS); break;                                         \
        case 2: many_tile_##T(g, 2, V16_MANY_OUTS); break;                                         \
        case 3: many_tile_##T(g, 3, V16_MANY_OUTS); break;                                         \
        case 4: many_tile_##T(g, 4, V16_MANY_OUTS); break;                                    \
        case 5: many_tile_##T(g, 5, V16_MANY_OUTS); break;                                    \
        default: many_tile_##T(g, 6, V16_MANY_OUTS); break;                                   \
        }                                                                                          \
    }                                                                                              \
    static void many_single_##T(const many_args *g, int64_t rows) {                                \
        switch (rows) {                                                                            \
        case 1: many_tile_##T(g, 1, 1); break;                                                     \
        case 2: many_tile_##T(g, 2, 1); break;                                                     \
        case 3: many_tile_##T(g, 3, 1); break;                                                     \
        case 4: many_tile_##T(g, 4, 1); break;                                                \
        case 5: many_tile_##T(g, 5, 1); break;                                                \
        default: many_tile_##T(g, 6, 1); break;                                               \
        }                                                                                          \
    }                                                                                              \
    static void dot_many_##T(float *y, int64_t ldy, const kn_xrows *x, int64_t row0, int64_t rows, \
                             const void *w, int64_t n_out, int64_t n_in, const void *next,         \
                             int64_t next_bytes) {                                                 \
        const many_args g = {.y = y, .ldy = ldy, .ldx = x->ld, .w = w, .ahead = next,              \
                             .row = ROW_##T(n_in), .n = n_in,                                      \
                             .end = (const char *)next + next_bytes};                              \
        many_rows(&g, x, row0, rows, n_out, SIZE_##T, many_whole_##T, many_single_##T);            \
    }
MANY_TILES(f32)
MANY_TILES(f16)
MANY_TILES(bf16)
MANY_TILES(f8)

static void fill_linear(kn_dsp *d) {
    d->dot_few[KN_F32] = dot_few_f32;
    d->dot_few[KN_F16] = dot_few_f16;
    d->dot_few[KN_BF16] = dot_few_bf16;
    d->dot_few[KN_F8] = dot_few_f8;
    d->dot_many[KN_F32] = dot_many_f32;
    d->dot_many[KN_F16] = dot_many_f16;
    d->dot_many[KN_BF16] = dot_many_bf16;
    d->dot_many[KN_F8] = dot_many_f8;
}
