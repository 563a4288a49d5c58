/* What follows a product, and how its rows are shared out: for plain and packed weights alike. */
#include "kernels/cpu/linear_job.h"

#define ITEMS_PER_THREAD 64

static void add_bias(float *t, const float *bias, int64_t outs) {
    for (int64_t o = 0; o < outs; o++)
        t[o] += bias[o];
}

void kn_linear_finish(const linear_job *j, float *t, float *t2, int64_t ld, int64_t r0,
                      int64_t rows, int64_t o0, int64_t outs) {
    const kn_linear *p = j->p;
    const bool acts = p->act != KN_ACT_NONE && p->act != KN_ACT_EXP && o0 < p->act_cols;
    for (int64_t r = 0; r < rows; r++, t += ld) {
        float *y = p->y + (r0 + r) * p->ldy + o0;
        if (p->bias)
            add_bias(t, p->bias + o0, outs);
        if (acts)
            j->c->dsp.act[p->act](t, kn_min64(outs, p->act_cols - o0));
        if (t2) {
            if (p->bias2)
                add_bias(t2, p->bias2 + o0, outs);
            for (int64_t o = 0; o < outs; o++)
                t[o] *= t2[o];
            t2 += ld;
        }
        if (p->epi == KN_ADD)
            for (int64_t o = 0; o < outs; o++)
                y[o] += t[o];
        else
            for (int64_t o = 0; o < outs; o++)
                y[o] = t[o];
    }
}

int64_t kn_linear_block_rows(const linear_job *j, int64_t most, int64_t unit) {
    const int64_t items = (int64_t)ITEMS_PER_THREAD * j->c->base.threads;
    int64_t blocks = (items + j->panels - 1) / j->panels;
    int64_t rows = (most / blocks + unit - 1) / unit * unit;
    return rows < unit ? unit : rows;
}
