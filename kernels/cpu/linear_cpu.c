/* y (+)= x W^T + bias. Two ways through the same sums (dsp.h, lane order), chosen by the number of
 * rows, the same bits:
 *   few rows   the weights are streamed once; memory is the limit
 *   many rows  a panel of outputs stays in the second-level cache while a block of rows passes
 *              over it; multiply-adds are the limit, and the next panel is fetched meanwhile
 * Both read the weights as stored and widen them in registers: a 16-bit panel costs half the cache
 * and half its bandwidth, which is worth more than the conversions it repeats. Work is split over
 * outputs and rows, never over a sum. */
#include <assert.h>
#include <stddef.h>

#include "kernels/cpu/cpu_ops.h"

/* Up to this many rows, streaming is faster. */
#ifndef FEW_LIMIT
#define FEW_LIMIT 6
#endif

#define FEW_OUTS 64                /* outputs of one tile of the few-row path */
#define FEW_CHUNK_BYTES (96 << 10) /* weights a thread takes at a time */
#define TILE_ROWS 48               /* rows of one tile of the many-row path */
#define BLOCK_BYTES (3 << 20)      /* rows of x that pass over all panels before the next ones do */

typedef struct linear_job {
    kn_cpu *c;
    float *y;
    int64_t ldy;
    const float *x;
    int64_t ldx, n;
    const kn_tensor *w;
    const float *bias;
    kn_epilogue epi;
    int64_t panel_outs, panels, block_rows;
} linear_job;

static const char *weight_row(const kn_tensor *w, int64_t o) {
    const kn_dtype_row *t = &kn_dtypes[w->dtype];
    return (const char *)w->data +
           (size_t)o * (size_t)(w->cols / t->block_elems) * (size_t)t->block_bytes;
}

/* Store or add a tile of finished sums [rows][outs] at row r0, output o0. */
static void finish_tile(const linear_job *j, const float *tile, int64_t ld, int64_t r0,
                        int64_t rows, int64_t o0, int64_t outs) {
    for (int64_t r = 0; r < rows; r++) {
        const float *t = tile + r * ld;
        float *y = j->y + (r0 + r) * j->ldy + o0;
        const float *b = j->bias ? j->bias + o0 : NULL;
        if (j->epi == KN_ADD)
            for (int64_t o = 0; o < outs; o++)
                y[o] += b ? t[o] + b[o] : t[o];
        else
            for (int64_t o = 0; o < outs; o++)
                y[o] = b ? t[o] + b[o] : t[o];
    }
}

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Items are single outputs. */
static void few_rows(void *ctx, int64_t begin, int64_t end, int worker) {
    const linear_job *j = ctx;
    (void)worker;
    float tile[KN_FEW_ROWS * FEW_OUTS];
    for (int64_t o = begin; o < end; o += FEW_OUTS) {
        int64_t outs = min64(FEW_OUTS, end - o);
        for (int64_t r = 0; r < j->n; r += KN_FEW_ROWS) {
            int64_t rows = min64(KN_FEW_ROWS, j->n - r);
            j->c->dsp.dot_few[j->w->dtype](tile, FEW_OUTS, j->x + r * j->ldx, j->ldx, rows,
                                           weight_row(j->w, o), outs, j->w->cols);
            finish_tile(j, tile, FEW_OUTS, r, rows, o, outs);
        }
    }
}

/* The panel that this thread will probably take next: chunks go round. */
static int64_t panel_ahead(const linear_job *j, int64_t panel, const void **next) {
    int64_t o = (panel + j->c->base.threads) % j->panels * j->panel_outs;
    int64_t outs = min64(j->panel_outs, j->w->rows - o);
    *next = weight_row(j->w, o);
    return weight_row(j->w, o + outs) - weight_row(j->w, o);
}

/* Items are (block of rows, panel), the panels of one block of rows side by side. */
static void many_rows(void *ctx, int64_t begin, int64_t end, int worker) {
    const linear_job *j = ctx;
    (void)worker;
    float tile[TILE_ROWS * KN_PANEL_OUTS];
    for (int64_t i = begin; i < end; i++) {
        int64_t r = i / j->panels * j->block_rows, p = i % j->panels, o = p * j->panel_outs;
        int64_t r_end = min64(r + j->block_rows, j->n), outs = min64(j->panel_outs, j->w->rows - o);
        const void *next;
        int64_t next_bytes = panel_ahead(j, p, &next);
        for (; r < r_end; r += TILE_ROWS, next_bytes = 0) {
            int64_t rows = min64(TILE_ROWS, r_end - r);
            j->c->dsp.dot_many[j->w->dtype](tile, KN_PANEL_OUTS, j->x + r * j->ldx, j->ldx, rows,
                                            weight_row(j->w, o), outs, j->w->cols, next,
                                            next_bytes);
            finish_tile(j, tile, KN_PANEL_OUTS, r, rows, o, outs);
        }
    }
}

/* Outputs of a panel: as many as half of the second-level cache holds, then evened out. */
static int64_t choose_panel(const linear_job *j) {
    const int64_t step = 4, outs = j->w->rows;
    int64_t room = j->c->panel_bytes / (weight_row(j->w, 1) - weight_row(j->w, 0));
    int64_t most = min64(room, KN_PANEL_OUTS) / step * step;
    if (most < step)
        return step;
    int64_t panels = (outs + most - 1) / most;
    int64_t even = (outs + panels - 1) / panels;
    return (even + step - 1) / step * step;
}

static void run_many(linear_job *j) {
    int64_t rows = BLOCK_BYTES / (int64_t)sizeof(float) / j->w->cols;
    j->block_rows = rows < 2 * TILE_ROWS ? 2 * TILE_ROWS : rows / TILE_ROWS * TILE_ROWS;
    j->panel_outs = choose_panel(j);
    j->panels = (j->w->rows + j->panel_outs - 1) / j->panel_outs;
    if (j->panels < 4 * j->c->base.threads) /* too few to go round: split the rows too */
        j->block_rows = TILE_ROWS;
    int64_t blocks = (j->n + j->block_rows - 1) / j->block_rows;
    tnl_pool_run(j->c->pool, blocks * j->panels, 1, many_rows, j);
}

static void run_few(linear_job *j) {
    int64_t row_bytes = weight_row(j->w, 1) - weight_row(j->w, 0);
    int64_t grain = FEW_CHUNK_BYTES / row_bytes / 16 * 16; /* whole cache lines of y */
    tnl_pool_run(j->c->pool, j->w->rows, grain < 16 ? 16 : grain, few_rows, j);
}

void kn_cpu_linear(kn_backend *be, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t n,
                   const kn_tensor *w, const float *bias, kn_epilogue epi) {
    linear_job j = {kn_cpu_of(be), y, ldy, x, ldx, n, w, bias, epi, 0, 0, 0};
    if (n <= 0)
        return;
    if (n <= FEW_LIMIT)
        run_few(&j);
    else
        run_many(&j);
}
