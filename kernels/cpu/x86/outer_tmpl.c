/* c (+)= a b with the columns of c in the lanes: each element of c is one chain of fma over i
 * ascending. Tiles of rows share the loads of b; a tile's size changes no chain. Compiled once
 * per instruction set over its v16. */
#include "kernels/cpu/dsp.h"

#define AHEAD_ROWS 8

typedef struct outer_args {
    float *c;
    int64_t ldc;
    const float *a;
    int64_t a_row, a_col;
    const float *b;
    int64_t ldb, n;
    bool add;
} outer_args;

/* A tile of R rows and W full vectors at column j. */
V16_FN void outer_tile(const outer_args *g, int64_t r0, int64_t j, const int R, const int W) {
    v16 acc[V16_OUTER_ROWS][8];
    float *c = g->c + r0 * g->ldc + j;
    const float *a = g->a + r0 * g->a_row, *b = g->b + j;
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int w = 0; w < W; w++)
            acc[r][w] = g->add ? v16_load(c + r * g->ldc + 16 * w) : v16_zero();
    for (int64_t i = 0; i < g->n; i++, a += g->a_col, b += g->ldb) {
        v16 bw[8];
        if (R == 1 && W > 1) { /* a single row streams b from memory */
#pragma GCC unroll 8
            for (int w = 0; w < W; w++)
                __builtin_prefetch(b + AHEAD_ROWS * g->ldb + 16 * w);
        }
#pragma GCC unroll 8
        for (int w = 0; w < W; w++)
            bw[w] = v16_load(b + 16 * w);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            v16 ar = v16_set(a[r * g->a_row]);
#pragma GCC unroll 8
            for (int w = 0; w < W; w++)
                acc[r][w] = v16_fma(ar, bw[w], acc[r][w]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int w = 0; w < W; w++)
            v16_store(c + r * g->ldc + 16 * w, acc[r][w]);
}

/* R rows of the last, partly filled vector. */
V16_FN void outer_tail(const outer_args *g, int64_t r0, int64_t j, int64_t rest, const int R) {
    v16 acc[4];
    float *c = g->c + r0 * g->ldc + j;
    const float *a = g->a + r0 * g->a_row, *b = g->b + j;
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
        acc[r] = g->add ? v16_loadn(c + r * g->ldc, rest) : v16_zero();
    for (int64_t i = 0; i < g->n; i++, a += g->a_col, b += g->ldb) {
        v16 bw = v16_loadn(b, rest);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
            acc[r] = v16_fma(v16_set(a[r * g->a_row]), bw, acc[r]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
        v16_storen(c + r * g->ldc, acc[r], rest);
}

/* One row is bound by memory and by the latency of its chains: many vectors at a time. */
static void outer_1_row(const outer_args *g, int64_t r, int64_t cols) {
    int64_t j = 0;
    for (; j + 16 * V16_OUTER_WIDE <= cols; j += 16 * V16_OUTER_WIDE)
        outer_tile(g, r, j, 1, V16_OUTER_WIDE);
    for (; j + 64 <= cols; j += 64)
        outer_tile(g, r, j, 1, 4);
    for (; j + 16 <= cols; j += 16)
        outer_tile(g, r, j, 1, 1);
    if (j < cols)
        outer_tail(g, r, j, cols - j, 1);
}

/* Rows share the loads of b, and a strip of b stays in the first-level cache while all rows pass
 * over it. */
V16_FN void outer_strip(const outer_args *g, int64_t rows, int64_t j, const int W) {
    int64_t r = 0;
    for (; r + V16_OUTER_ROWS <= rows; r += V16_OUTER_ROWS)
        outer_tile(g, r, j, V16_OUTER_ROWS, W);
    for (; r + 4 <= rows; r += 4)
        outer_tile(g, r, j, 4, W);
    for (; r < rows; r++)
        outer_tile(g, r, j, 1, W);
}

static void outer_some_rows(const outer_args *g, int64_t rows, int64_t cols) {
    int64_t j = 0;
    for (; j + 16 * V16_OUTER_COLS <= cols; j += 16 * V16_OUTER_COLS)
        outer_strip(g, rows, j, V16_OUTER_COLS);
    for (; j + 16 <= cols; j += 16)
        outer_strip(g, rows, j, 1);
    for (int64_t r = 0; j < cols && r < rows; r += r + 4 <= rows ? 4 : 1)
        if (r + 4 <= rows)
            outer_tail(g, r, j, cols - j, 4);
        else
            outer_tail(g, r, j, cols - j, 1);
}

static void outer_rows(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_col,
                       const float *b, int64_t ldb, int64_t rows, int64_t n, int64_t cols,
                       bool add) {
    const outer_args g = {c, ldc, a, a_row, a_col, b, ldb, n, add};
    if (rows == 1)
        outer_1_row(&g, 0, cols);
    else
        outer_some_rows(&g, rows, cols);
}
