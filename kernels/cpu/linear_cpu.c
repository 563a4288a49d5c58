/* y (+)= act(W norm(x) + bias): the input rows are made once, then every output is summed, finished
 * and stored in one pass over the weights. */
#include <assert.h>
#include <stddef.h>

#include "kernels/cpu/linear_job.h"

/* First the quantised rows, then rows of f32. */
size_t kn_linear_work_bytes(int64_t n, int64_t cols) {
    return kn_qrows_bytes(n, cols) + ((size_t)(n * cols) * sizeof(float) + 63) / 64 * 64;
}

static bool as_it_is(const kn_linear *p) {
    return p->norm.kind == KN_NORM_NONE && !p->mul;
}

/* a = norm(x) . mul, one row. */
static void make_row(const kn_dsp *dsp, const kn_linear *p, float *a, int64_t row) {
    const float *x = p->x + row * p->ldx;
    const kn_norm *n = &p->norm;
    int64_t cols = p->w->cols;
    if (n->kind == KN_NORM_SRMS)
        dsp->srms(a, x, cols, n->eps);
    else if (n->kind == KN_NORM_LAYER)
        dsp->layernorm(a, x, n->w, n->b, cols, n->eps);
    if (p->mul)
        dsp->mul(a, n->kind == KN_NORM_NONE ? x : a, p->mul + row * p->ldmul, cols);
}

static void plain_rows(void *ctx, int64_t begin, int64_t end, int worker) {
    const linear_job *j = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        make_row(&j->c->dsp, j->p, (float *)j->a + i * j->lda, i);
}

/* A row of f32 is needed only until it is quantised: each thread keeps to one. */
static void packed_rows(void *ctx, int64_t begin, int64_t end, int worker) {
    const linear_job *j = ctx;
    const kn_linear *p = j->p;
    for (int64_t i = begin; i < end; i++) {
        const float *x = p->x + i * p->ldx;
        if (!as_it_is(p)) {
            float *a = (float *)j->a + (p->n < j->c->base.threads ? i : worker) * j->lda;
            make_row(&j->c->dsp, p, a, i);
            x = a;
        }
        j->c->dsp.quant_row(j->q.q + i * j->q.ldq, j->q.scale + i * j->q.groups,
                            j->q.sum + i * j->q.groups, x, p->w->cols);
    }
}

static void make_rows(linear_job *j) {
    const kn_linear *p = j->p;
    int64_t cols = p->w->cols, grain = kn_cpu_row_grain(cols);
    j->a = (float *)((char *)p->work + kn_qrows_bytes(p->n, cols));
    j->lda = cols;
    if (p->w->dtype >= KN_PLAIN_COUNT) {
        j->q = kn_qrows_at(p->work, p->n, cols);
        tnl_pool_run(j->c->pool, p->n, grain, packed_rows, j);
    } else if (as_it_is(p)) {
        j->a = p->x;
        j->lda = p->ldx;
    } else {
        tnl_pool_run(j->c->pool, p->n, grain, plain_rows, j);
    }
}

void kn_cpu_linear(kn_backend *be, const kn_linear *p) {
    linear_job j = {.c = kn_cpu_of(be), .p = p};
    if (p->n <= 0)
        return;
    assert(!p->w2 ||
           (p->w2->dtype == p->w->dtype && p->w2->rows == p->w->rows && p->w2->cols == p->w->cols));
    assert(p->act != KN_ACT_EXP || (p->epi == KN_STORE && !p->w2));
    make_rows(&j);
    if (p->w->dtype >= KN_PLAIN_COUNT)
        kn_linear_packed(&j);
    else
        kn_linear_plain(&j);
    if (p->act == KN_ACT_EXP && p->act_cols > 0) /* its groups do not end where tiles do */
        kn_cpu_act_exp(j.c, p->y, p->ldy, p->n, p->act_cols, p->act_group);
}
