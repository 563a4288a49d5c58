/* Rows of the embedding table, widened and scaled. */
#include <assert.h>

#include "kernels/cpu/cpu_ops.h"

typedef struct embed_job {
    kn_cpu *c;
    float *x;
    int64_t ldx;
    const kn_tensor *table;
    const int32_t *ids;
    float scale;
} embed_job;

static void embed_rows(void *ctx, int64_t begin, int64_t end, int worker) {
    const embed_job *j = ctx;
    (void)worker;
    const kn_tensor *t = j->table;
    for (int64_t i = begin; i < end; i++) {
        float *x = j->x + i * j->ldx;
        assert(j->ids[i] >= 0 && j->ids[i] < t->rows);
        if (t->dtype >= KN_PLAIN_COUNT) {
            kn_q_row_to_f32(x, t->data, t->dtype, t->cols, j->ids[i]);
            j->c->dsp.scale(x, x, t->cols, j->scale);
            continue;
        }
        const char *row =
            (const char *)t->data + j->ids[i] * t->cols * kn_dtypes[t->dtype].elem_bytes;
        j->c->dsp.widen[t->dtype](x, row, t->cols, j->scale);
    }
}

void kn_cpu_embed(kn_backend *be, float *x, int64_t ldx, const kn_tensor *table,
                  const int32_t *ids, int64_t n, float scale) {
    embed_job j = {kn_cpu_of(be), x, ldx, table, ids, scale};
    tnl_pool_run(j.c->pool, n, kn_cpu_row_grain(table->cols), embed_rows, &j);
}
