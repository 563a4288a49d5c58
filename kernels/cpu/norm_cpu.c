/* Norms: a row is one item. */
#include "kernels/cpu/cpu_ops.h"

typedef struct norm_job {
    kn_cpu *c;
    float *y;
    int64_t ldy;
    const float *x;
    int64_t ldx;
    const float *w, *b; /* NULL for srms */
    int64_t dim;
    float eps;
} norm_job;

static void srms_rows(void *ctx, int64_t begin, int64_t end, int worker) {
    const norm_job *j = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        j->c->dsp.srms(j->y + i * j->ldy, j->x + i * j->ldx, j->dim, j->eps);
}

static void layernorm_rows(void *ctx, int64_t begin, int64_t end, int worker) {
    const norm_job *j = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        j->c->dsp.layernorm(j->y + i * j->ldy, j->x + i * j->ldx, j->w, j->b, j->dim, j->eps);
}

void kn_cpu_srms(kn_backend *be, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t n,
                 int64_t dim, float eps) {
    norm_job j = {kn_cpu_of(be), y, ldy, x, ldx, NULL, NULL, dim, eps};
    tnl_pool_run(j.c->pool, n, kn_cpu_row_grain(dim), srms_rows, &j);
}

void kn_cpu_layernorm(kn_backend *be, float *y, int64_t ldy, const float *x, int64_t ldx,
                      const float *w, const float *b, int64_t n, int64_t dim, float eps) {
    norm_job j = {kn_cpu_of(be), y, ldy, x, ldx, w, b, dim, eps};
    tnl_pool_run(j.c->pool, n, kn_cpu_row_grain(dim), layernorm_rows, &j);
}
