/* y (+)= act(W norm(x) + bias): the input rows are made once, then every output is summed, finished
 * and stored in one pass over the weights. */
#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "kernels/cpu/linear_job.h"

static size_t rounded(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

/* Rows that threads have in hand at a time, at the start of the work area. */
static size_t spare_bytes(const kn_backend *be, int64_t n, int64_t cols) {
    return rounded((size_t)(kn_min64(n, be->threads) * cols) * sizeof(float));
}

/* Even blocks. A line between the rows of a block keeps rows of 4 KiB off the same places in the
 * cache, where they would evict each other: 63% of the multiply-add peak became 71%. */
static kn_xrows x_rows(const kn_cpu *c, const float *x, int64_t n, int64_t cols) {
    int64_t blocks = (cols + c->x_block - 1) / c->x_block;
    int64_t block = ((cols + blocks - 1) / blocks + 15) / 16 * 16;
    return (kn_xrows){x, block + 16, block, n * (block + 16)};
}

/* At least what x_rows takes, and growing with cols. */
static size_t x_bytes(int64_t n, int64_t cols) {
    return rounded((size_t)(n * (cols + 32 * (cols / 256 + 2))) * sizeof(float));
}

/* Rows at hand, then rows in one of the forms of linear_job. */
size_t kn_linear_work_bytes(const kn_backend *be, int64_t n, int64_t cols) {
    size_t q = rounded(kn_qrows_bytes(n, cols)), x = x_bytes(n, cols);
    return spare_bytes(be, n, cols) + (q > x ? q : x);
}

/* Whether the input rows are those of x. */
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

/* Row i, made where this thread keeps its own. */
static const float *row_at_hand(const linear_job *j, int64_t i, int worker) {
    const kn_linear *p = j->p;
    if (as_it_is(p))
        return p->x + i * p->ldx;
    float *a = j->spare + (p->n < j->c->base.threads ? i : worker) * p->w->cols;
    make_row(&j->c->dsp, p, a, i);
    return a;
}

static void few_rows(void *ctx, int64_t begin, int64_t end, int worker) {
    const linear_job *j = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        make_row(&j->c->dsp, j->p, (float *)j->a + i * j->lda, i);
}

static void blocked_rows(void *ctx, int64_t begin, int64_t end, int worker) {
    const linear_job *j = ctx;
    const kn_xrows *x = &j->x;
    int64_t cols = j->p->w->cols;
    for (int64_t i = begin; i < end; i++) {
        const float *a = row_at_hand(j, i, worker);
        float *to = (float *)x->x + i * x->ld;
        for (int64_t k = 0; k < cols; k += x->block, to += x->next)
            memcpy(to, a + k, (size_t)kn_min64(x->block, cols - k) * sizeof *a);
    }
}

static void packed_rows(void *ctx, int64_t begin, int64_t end, int worker) {
    const linear_job *j = ctx;
    for (int64_t i = begin; i < end; i++)
        j->c->dsp.quant_row(j->q.q + i * j->q.ldq, j->q.scale + i * j->q.groups,
                            j->q.sum + i * j->q.groups, row_at_hand(j, i, worker), j->p->w->cols);
}

static void make_rows(linear_job *j) {
    const kn_linear *p = j->p;
    int64_t cols = p->w->cols, grain = kn_cpu_row_grain(cols);
    j->spare = p->work;
    float *rows = (float *)((char *)p->work + spare_bytes(&j->c->base, p->n, cols));
    if (kn_q_integer(p->w->dtype)) {
        j->q = kn_qrows_at(rows, p->n, cols);
        tnl_pool_run(j->c->pool, p->n, grain, packed_rows, j);
    } else if (p->n > KN_LINEAR_FEW) {
        j->x = x_rows(j->c, rows, p->n, cols);
        tnl_pool_run(j->c->pool, p->n, grain, blocked_rows, j);
    } else if (as_it_is(p)) {
        j->a = p->x;
        j->lda = p->ldx;
    } else {
        j->a = rows;
        j->lda = cols;
        tnl_pool_run(j->c->pool, p->n, grain, few_rows, j);
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
    if (kn_q_integer(p->w->dtype))
        kn_linear_packed(&j);
    else
        kn_linear_plain(&j);
    if (p->act == KN_ACT_EXP && p->act_cols > 0) /* its groups do not end where tiles do */
        kn_cpu_act_exp(j.c, p->y, p->ldy, p->n, p->act_cols, p->act_group);
}
