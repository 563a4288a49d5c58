/* Operations over rows: the activation with a maximum, LRPE, gathering, the finiteness check. */
#include <assert.h>
#include <string.h>

#include "kernels/cpu/cpu_ops.h"

typedef struct act_job {
    const kn_dsp *dsp;
    float *x;
    int64_t ldx, dim, group;
} act_job;

static void act_exp_rows(void *ctx, int64_t begin, int64_t end, int worker) {
    const act_job *j = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        for (int64_t at = 0; at < j->dim; at += j->group)
            j->dsp->act[KN_ACT_EXP](j->x + i * j->ldx + at, j->group);
}

void kn_cpu_act_exp(kn_cpu *c, float *x, int64_t ldx, int64_t n, int64_t dim, int64_t group) {
    assert(group > 0 && dim % group == 0);
    act_job j = {&c->dsp, x, ldx, dim, group};
    tnl_pool_run(c->pool, n, kn_cpu_row_grain(dim), act_exp_rows, &j);
}

typedef struct lrpe_job {
    const kn_dsp *dsp;
    float *y;
    int64_t ldy;
    const float *x;
    int64_t ldx;
    const float *theta;
    const int64_t *pos;
    int H, dh;
} lrpe_job;

static void lrpe_heads(void *ctx, int64_t begin, int64_t end, int worker) {
    const lrpe_job *j = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++) { /* one head of one row */
        int64_t row = i / j->H, h = i % j->H;
        j->dsp->lrpe(j->y + row * j->ldy + 2 * h * j->dh, j->x + row * j->ldx + h * j->dh,
                     j->theta + h * j->dh, j->pos[row], j->dh);
    }
}

void kn_cpu_lrpe(kn_backend *be, float *y, int64_t ldy, const float *x, int64_t ldx,
                 const float *theta, const int64_t *pos, int64_t n, int H, int dh) {
    kn_cpu *c = kn_cpu_of(be);
    lrpe_job j = {&c->dsp, y, ldy, x, ldx, theta, pos, H, dh};
    int64_t grain = 1 + KN_CPU_GRAIN / (16 * (int64_t)dh); /* sine and cosine cost more */
    tnl_pool_run(c->pool, n * H, grain, lrpe_heads, &j);
}

void kn_cpu_gather_rows(kn_backend *be, float *y, int64_t ldy, const float *x, int64_t ldx,
                        const int64_t *rows, int64_t n, int64_t dim) {
    (void)be; /* a row for each logits row, which costs a thousand times as much */
    for (int64_t i = 0; i < n; i++)
        memcpy(y + i * ldy, x + rows[i] * ldx, (size_t)dim * sizeof *y);
}

typedef struct finite_job {
    const kn_dsp *dsp;
    bool *ok;
    const float *x;
    int64_t ldx, dim;
} finite_job;

static void finite_rows(void *ctx, int64_t begin, int64_t end, int worker) {
    const finite_job *j = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        j->ok[i] = j->dsp->all_finite(j->x + i * j->ldx, j->dim);
}

void kn_cpu_finite_rows(kn_backend *be, bool *ok, const float *x, int64_t ldx, int64_t n,
                        int64_t dim) {
    kn_cpu *c = kn_cpu_of(be);
    finite_job j = {&c->dsp, ok, x, ldx, dim};
    tnl_pool_run(c->pool, n, kn_cpu_row_grain(dim), finite_rows, &j);
}
