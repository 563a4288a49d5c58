/* Products with row-major weights. Two ways through the same sums (dsp.h, lane order), chosen by
 * the number of rows, the same bits: few rows   the weights are streamed once; memory is the limit
 *   many rows  a panel of outputs stays in the second-level cache while a block of rows passes
 *              over it; multiply-adds are the limit, and the next panel is fetched meanwhile
 * Both read the weights as stored and widen them in registers: a 16-bit panel costs half the cache
 * and half its bandwidth, which is worth more than the conversions it repeats. A row of f8 is
 * summed over its codes and scaled at the end. Work is split over outputs and rows, never over a
 * sum. */
#include <stddef.h>

#include "kernels/cpu/linear_job.h"

#define FEW_OUTS 64 /* outputs of one tile of the few-row path, at least KN_PANEL_OUTS */
#define FEW_CHUNK_BYTES (96 << 10) /* weights a thread takes at a time */
#define TILE_ROWS 48               /* rows of one tile of the many-row path */
#define BLOCK_BYTES (3 << 20)      /* rows of x that pass over all panels before the next ones do */

static const char *weight_row(const kn_tensor *w, int64_t o) {
    const int64_t bytes =
        w->dtype == KN_F8 ? kn_f8_stride(w->cols) : w->cols * kn_dtypes[w->dtype].elem_bytes;
    return (const char *)w->data + o * bytes;
}

/* Sums over the codes of f8, times the scales of outputs o0... */
static void scale_sums(const kn_tensor *w, float *t, int64_t ld, int64_t rows, int64_t o0,
                       int64_t outs) {
    float d[FEW_OUTS];
    if (w->dtype != KN_F8)
        return;
    for (int64_t o = 0; o < outs; o++)
        d[o] = kn_f8_scale(weight_row(w, o0 + o), w->cols) / KN_F8_DOT;
    for (int64_t r = 0; r < rows; r++, t += ld)
        for (int64_t o = 0; o < outs; o++)
            t[o] *= d[o];
}

/* Items are single outputs. Of two matrices, odd tiles take the second one first: two tiles in a
 * row are then neighbours in memory. */
static void few_rows(void *ctx, int64_t begin, int64_t end, int worker) {
    const linear_job *j = ctx;
    const kn_linear *p = j->p;
    const kn_tensor *w[2] = {p->w, p->w2};
    const int matrices = p->w2 ? 2 : 1;
    (void)worker;
    float tile[2][KN_FEW_ROWS * FEW_OUTS];
    for (int64_t o = begin; o < end; o += FEW_OUTS) {
        int64_t outs = kn_min64(FEW_OUTS, end - o);
        for (int64_t r = 0; r < p->n; r += KN_FEW_ROWS) {
            int64_t rows = kn_min64(KN_FEW_ROWS, p->n - r);
            for (int i = 0; i < matrices; i++) {
                int k = (i + (int)(o / j->panel_outs)) % matrices;
                j->c->dsp.dot_few[w[k]->dtype](tile[k], FEW_OUTS, j->a + r * j->lda, j->lda, rows,
                                               weight_row(w[k], o), outs, w[k]->cols);
                scale_sums(w[k], tile[k], FEW_OUTS, rows, o, outs);
            }
            kn_linear_finish(j, tile[0], p->w2 ? tile[1] : NULL, FEW_OUTS, r, rows, o, outs);
        }
    }
}

/* The panel that this thread will probably take next: chunks go round. */
static int64_t panel_ahead(const linear_job *j, const kn_tensor *w, int64_t panel,
                           const void **next) {
    int64_t o = (panel + j->c->base.threads) % j->panels * j->panel_outs;
    int64_t outs = kn_min64(j->panel_outs, w->rows - o);
    *next = weight_row(w, o);
    return weight_row(w, o + outs) - weight_row(w, o);
}

/* Rows r.. to r_end of one panel. */
static void one_panel(const linear_job *j, int64_t panel, int64_t r, int64_t r_end, float *tile) {
    const kn_linear *p = j->p;
    int64_t o = panel * j->panel_outs, outs = kn_min64(j->panel_outs, p->w->rows - o);
    float *tile2 = p->w2 ? tile + TILE_ROWS * KN_PANEL_OUTS : NULL;
    for (bool first = true; r < r_end; r += TILE_ROWS, first = false) {
        int64_t rows = kn_min64(TILE_ROWS, r_end - r);
        for (int k = 0; k < (tile2 ? 2 : 1); k++) {
            const kn_tensor *w = k ? p->w2 : p->w;
            const void *next;
            int64_t next_bytes = panel_ahead(j, w, panel, &next);
            j->c->dsp.dot_many[w->dtype](k ? tile2 : tile, KN_PANEL_OUTS, &j->x, r, rows,
                                         weight_row(w, o), outs, w->cols, next,
                                         first ? next_bytes : 0);
            scale_sums(w, k ? tile2 : tile, KN_PANEL_OUTS, rows, o, outs);
        }
        kn_linear_finish(j, tile, tile2, KN_PANEL_OUTS, r, rows, o, outs);
    }
}

/* Items are (block of rows, panel), the panels of one block of rows side by side. */
static void many_rows(void *ctx, int64_t begin, int64_t end, int worker) {
    const linear_job *j = ctx;
    for (int64_t i = begin; i < end; i++) {
        int64_t r = i / j->panels * j->block_rows;
        one_panel(j, i % j->panels, r, kn_min64(r + j->block_rows, j->p->n),
                  kn_cpu_scratch(j->c, worker));
    }
}

/* Outputs of a panel: as many as half of the second-level cache holds, then evened out. */
static int64_t choose_panel(const linear_job *j) {
    const kn_linear *p = j->p;
    const int64_t step = 4, outs = p->w->rows, row = weight_row(p->w, 1) - weight_row(p->w, 0);
    int64_t room = j->c->panel_bytes / (p->w2 ? 2 * row : row);
    int64_t most = kn_min64(room, KN_PANEL_OUTS) / step * step;
    if (most < step)
        return step;
    int64_t panels = (outs + most - 1) / most;
    int64_t even = (outs + panels - 1) / panels;
    return (even + step - 1) / step * step;
}

static void run_many(linear_job *j) {
    int64_t n = j->p->n, outs = j->p->w->rows;
    int64_t rows = BLOCK_BYTES / (int64_t)sizeof(float) / j->p->w->cols;
    j->block_rows = rows < 2 * TILE_ROWS ? 2 * TILE_ROWS : rows / TILE_ROWS * TILE_ROWS;
    j->panel_outs = choose_panel(j);
    j->panels = (outs + j->panel_outs - 1) / j->panel_outs;
    j->block_rows = kn_linear_block_rows(j, kn_min64(j->block_rows, n), 3 * TILE_ROWS);
    int64_t blocks = (n + j->block_rows - 1) / j->block_rows;
    tnl_pool_run(j->c->pool, blocks * j->panels, 1, many_rows, j);
}

static void run_few(linear_job *j) {
    const kn_tensor *w = j->p->w;
    int64_t row_bytes = weight_row(w, 1) - weight_row(w, 0);
    int64_t grain = FEW_CHUNK_BYTES / row_bytes / 16 * 16; /* whole cache lines of y */
    if (grain < 16)
        grain = 16;
    j->panel_outs = kn_min64(grain, FEW_OUTS);
    tnl_pool_run(j->c->pool, w->rows, grain, few_rows, j);
}

void kn_linear_plain(linear_job *j) {
    if (j->p->n <= KN_LINEAR_FEW)
        run_few(j);
    else
        run_many(j);
}
