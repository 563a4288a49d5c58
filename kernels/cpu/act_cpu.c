/* Elementwise operations over rows: activations, products, LRPE, and the finiteness check. */
#include <assert.h>

#include "kernels/cpu/cpu_ops.h"

typedef struct act_job {
    const kn_dsp *dsp;
    void (*fn)(float *x, int64_t n);
    float *x;
    int64_t ldx, dim, run; /* each row is dim / run calls */
} act_job;

static void act_rows(void *ctx, int64_t begin, int64_t end, int worker) {
    const act_job *j = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        for (int64_t at = 0; at < j->dim; at += j->run)
            j->fn(j->x + i * j->ldx + at, j->run);
}

void kn_cpu_act(kn_backend *be, kn_act kind, float *x, int64_t ldx, int64_t n, int64_t dim,
                int64_t group) {
    kn_cpu *c = kn_cpu_of(be);
    assert((unsigned)kind < KN_ACT_COUNT);
    if (kind == KN_ACT_NONE)
        return;
    assert(kind != KN_ACT_EXP || (group > 0 && dim % group == 0));
    act_job j = {&c->dsp, c->dsp.act[kind], x, ldx, dim, kind == KN_ACT_EXP ? group : dim};
    tnl_pool_run(c->pool, n, kn_cpu_row_grain(dim), act_rows, &j);
}

typedef struct mul_job {
    const kn_dsp *dsp;
    float *y;
    int64_t ldy;
    const float *a;
    int64_t lda;
    const float *b;
    int64_t ldb, dim;
} mul_job;

static void mul_rows(void *ctx, int64_t begin, int64_t end, int worker) {
    const mul_job *j = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        j->dsp->mul(j->y + i * j->ldy, j->a + i * j->lda, j->b + i * j->ldb, j->dim);
}

void kn_cpu_mul(kn_backend *be, float *y, int64_t ldy, const float *a, int64_t lda, const float *b,
                int64_t ldb, int64_t n, int64_t dim) {
    kn_cpu *c = kn_cpu_of(be);
    mul_job j = {&c->dsp, y, ldy, a, lda, b, ldb, dim};
    tnl_pool_run(c->pool, n, kn_cpu_row_grain(dim), mul_rows, &j);
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
