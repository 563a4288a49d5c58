/* y (+)= x W^T + bias. Two ways through the same sums (dsp.h, lane order), chosen by the number of
 * rows, the same bits:
 *   few rows   the weights are streamed once, as stored; memory is the limit
 *   many rows  a panel of outputs is widened to f32 into this thread's scratch, which stays in
 *              the second-level cache while all rows pass over it; multiply-adds are the limit
 * Work is split over outputs, and over rows when there are too few panels to go round. */
#include <assert.h>
#include <stddef.h>

#include "kernels/cpu/cpu_ops.h"

/* Up to this many rows, streaming (row group after row group) beats packing a panel. */
#define FEW_LIMIT 16

#define FEW_OUTS 64                /* outputs of one tile of the few-row path */
#define FEW_CHUNK_BYTES (96 << 10) /* weights a thread takes at a time */
#define MANY_ROWS 64               /* rows of one tile of the many-row path */

typedef struct linear_job {
    kn_cpu *c;
    float *y;
    int64_t ldy;
    const float *x;
    int64_t ldx, n;
    const kn_tensor *w;
    const float *bias;
    kn_epilogue epi;
    int64_t panel_outs, row_parts;
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

/* A row of the panel is a little longer than the matrix row, so that rows of a power of two do
 * not all fall into the same cache sets. */
static int64_t panel_ld(int64_t cols) {
    return (cols + 15) / 16 * 16 + 16;
}

/* Items are (panel, part of the rows), parts of one panel side by side. */
static void many_rows(void *ctx, int64_t begin, int64_t end, int worker) {
    const linear_job *j = ctx;
    const kn_dsp *dsp = &j->c->dsp;
    const int64_t cols = j->w->cols, ld = panel_ld(cols);
    float *panel = kn_cpu_scratch(j->c, worker);
    float tile[MANY_ROWS * KN_PANEL_OUTS];
    for (int64_t i = begin; i < end; i++) {
        int64_t o0 = i / j->row_parts * j->panel_outs, part = i % j->row_parts;
        int64_t outs = min64(j->panel_outs, j->w->rows - o0);
        int64_t r_end = j->n * (part + 1) / j->row_parts;
        for (int64_t o = 0; o < outs; o++)
            dsp->widen[j->w->dtype](panel + o * ld, weight_row(j->w, o0 + o), cols, 1.0f);
        for (int64_t r = j->n * part / j->row_parts; r < r_end; r += MANY_ROWS) {
            int64_t rows = min64(MANY_ROWS, r_end - r);
            dsp->dot_many(tile, KN_PANEL_OUTS, j->x + r * j->ldx, j->ldx, rows, panel, ld, outs,
                          cols);
            finish_tile(j, tile, KN_PANEL_OUTS, r, rows, o0, outs);
        }
    }
}

/* Outputs of a panel: as many as the scratch holds, then evened out; 0 when not even one step
 * fits. */
static int64_t choose_panel(const kn_cpu *c, int64_t outs, int64_t cols) {
    int64_t step = c->dsp.panel_step;
    int64_t most = min64((int64_t)c->scratch_floats / panel_ld(cols), KN_PANEL_OUTS) / step * step;
    if (most == 0)
        return 0;
    int64_t panels = (outs + most - 1) / most;
    int64_t even = (outs + panels - 1) / panels;
    return min64((even + step - 1) / step * step, most);
}

void kn_cpu_linear(kn_backend *be, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t n,
                   const kn_tensor *w, const float *bias, kn_epilogue epi) {
    kn_cpu *c = kn_cpu_of(be);
    linear_job j = {c, y, ldy, x, ldx, n, w, bias, epi, 0, 1};
    if (n <= 0)
        return;
    j.panel_outs = n > FEW_LIMIT ? choose_panel(c, w->rows, w->cols) : 0;
    if (j.panel_outs == 0) {
        int64_t row_bytes = weight_row(w, 1) - weight_row(w, 0);
        int64_t grain = FEW_CHUNK_BYTES / row_bytes / 16 * 16; /* whole cache lines of y */
        tnl_pool_run(c->pool, w->rows, grain < 16 ? 16 : grain, few_rows, &j);
        return;
    }
    int64_t panels = (w->rows + j.panel_outs - 1) / j.panel_outs;
    int64_t wanted = (8 * (int64_t)be->threads + panels - 1) / panels;
    j.row_parts = min64(wanted, (n + MANY_ROWS - 1) / MANY_ROWS);
    tnl_pool_run(c->pool, panels * j.row_parts, 1, many_rows, &j);
}
