/* Products with weights of q8 and q4. An item is a tile of 64 outputs for all rows, or, when there
 * are too few tiles to go round, for a block of rows. */
#include "kernels/cpu/linear_job.h"

#define CHUNK_BYTES (64 << 10) /* weights a thread takes at a time */

static const char *tile_at(const kn_tensor *w, int64_t tile) {
    return (const char *)w->data + tile * kn_q_tile_bytes(w->dtype, w->cols);
}

/* Rows that pass over a tile together: what is left in equal parts, whole register tiles. */
static int64_t even_block(int64_t left) {
    int64_t parts = (left + KN_CPU_TILE_ROWS - 1) / KN_CPU_TILE_ROWS;
    return ((left + parts - 1) / parts + 5) / 6 * 6;
}

/* Of two matrices, odd tiles take the second one first: two tiles in a row are then neighbours in
 * memory, and the few-row products keep their streams. */
static void one_tile(const linear_job *j, int64_t tile, int64_t r, int64_t r_end, float *scratch) {
    const kn_linear *p = j->p;
    const int fn = (int)p->w->dtype, matrices = p->w2 ? 2 : 1;
    const kn_tensor *w[2] = {p->w, p->w2};
    float *t[2] = {scratch, p->w2 ? scratch + KN_CPU_TILE_ROWS * KN_Q_OUTS : NULL};
    int64_t o = tile * KN_Q_OUTS, outs = kn_min64(KN_Q_OUTS, p->w->rows - o);
    for (int64_t rows; r < r_end; r += rows) {
        rows = kn_min64(even_block(r_end - r), r_end - r);
        for (int i = 0; i < matrices; i++) {
            int k = (i + (int)tile) % matrices;
            j->c->dsp.qdot[fn](t[k], &j->q, r, rows, tile_at(w[k], tile), p->w->cols);
        }
        kn_linear_finish(j, t[0], t[1], KN_Q_OUTS, r, rows, o, outs);
    }
}

/* Items are (block of rows, tile), the tiles of one block side by side. */
static void tiles(void *ctx, int64_t begin, int64_t end, int worker) {
    const linear_job *j = ctx;
    for (int64_t i = begin; i < end; i++) {
        int64_t r = i / j->panels * j->block_rows;
        one_tile(j, i % j->panels, r, kn_min64(r + j->block_rows, j->p->n),
                 kn_cpu_scratch(j->c, worker));
    }
}

void kn_linear_packed(linear_job *j) {
    const kn_tensor *w = j->p->w;
    int64_t n = j->p->n, bytes = kn_q_tile_bytes(w->dtype, w->cols) * (j->p->w2 ? 2 : 1);
    j->panels = (w->rows + KN_Q_OUTS - 1) / KN_Q_OUTS;
    j->block_rows = kn_linear_block_rows(j, n, KN_CPU_TILE_ROWS);
    int64_t blocks = (n + j->block_rows - 1) / j->block_rows;
    tnl_pool_run(j->c->pool, blocks * j->panels, n > 1 ? 1 : CHUNK_BYTES / bytes, tiles, j);
}
