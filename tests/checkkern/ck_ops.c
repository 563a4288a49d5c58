/* Operations of a whole backend: linear, embed, lrpe, finite_rows. Each is held
 * to an oracle, to the same bits with 1, 2 and 3 threads, and to the same bits for a row alone. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/checkkern/ck.h"

typedef struct linear_case {
    int64_t n, outs, ins, ldx, ldy;
    ck_fill fill;
    const float *x;
    kn_tensor w;
    const float *bias, *y0;
    kn_epilogue epi;
    void *work;
    char what[200];
} linear_case;

static linear_case draw_linear(ck *k) {
    static const int64_t rows[] = {1, 2, 5, 6, 7, 13, 16, 17, 18, 40, 64, 65, 131};
    linear_case c = {.n = rows[ck_between(k, 0, 12)]};
    c.outs = ck_between(k, 0, 2) ? ck_between(k, 1, 150) : ck_between(k, 1, 700);
    c.ins = ck_between(k, 0, 2) ? ck_between(k, 1, 200) : ck_between(k, 1, 1300);
    if (c.n * c.outs * c.ins > 20000000)
        c.ins = c.ins / 16 + 1;
    c.ldx = c.ins + ck_between(k, 0, 3);
    c.ldy = c.outs + ck_between(k, 0, 3);
    c.fill = (ck_fill)ck_between(k, 0, CK_FILLS - 1);
    c.x = ck_filled(k, c.fill, c.n, c.ins, c.ldx);
    c.w = ck_weights(k, (kn_dtype)ck_between(k, 0, KN_PLAIN_COUNT - 1), c.outs, c.ins, 0.05);
    c.bias = ck_between(k, 0, 1) ? ck_filled(k, CK_NORMAL, 1, c.outs, c.outs) : NULL;
    c.y0 = ck_filled(k, CK_NORMAL, c.n, c.outs, c.ldy);
    c.epi = ck_between(k, 0, 1) ? KN_ADD : KN_STORE;
    c.work = aligned_alloc(64, kn_linear_work_bytes(c.n, c.ins));
    if (!c.work)
        abort();
    snprintf(c.what, sizeof c.what, "n=%d outs=%d ins=%d %s %s%s%s", (int)c.n, (int)c.outs,
             (int)c.ins, kn_dtypes[c.w.dtype].name, ck_fill_name(c.fill), c.bias ? " bias" : "",
             c.epi == KN_ADD ? " add" : "");
    return c;
}

/* Rows [r0, r0+rows) of the case; KN_ADD starts from y0, KN_STORE from poison. */
static float *run_linear(ck *k, const linear_case *c, const char *isa, int threads, int64_t r0,
                         int64_t rows) {
    kn_backend *be;
    tnl_error err;
    float *y = ck_f32(k, rows, c->outs, c->ldy);
    if (kn_cpu_open(&be, threads, isa, &err) != TNL_OK) {
        ck_expect(k, false, err.msg);
        return y;
    }
    for (int64_t r = 0; c->epi == KN_ADD && r < rows; r++)
        memcpy(y + r * c->ldy, c->y0 + (r0 + r) * c->ldy, (size_t)c->outs * sizeof *y);
    be->ops->linear(be, &(kn_linear){.n = rows,
                                     .x = c->x + r0 * c->ldx,
                                     .ldx = c->ldx,
                                     .w = &c->w,
                                     .bias = c->bias,
                                     .epi = c->epi,
                                     .y = y,
                                     .ldy = c->ldy,
                                     .work = c->work});
    kn_backend_close(be);
    return y;
}

static void linear_oracle(ck *k, const linear_case *c, const float *y) {
    for (int64_t r = 0; r < c->n; r++)
        for (int64_t o = 0; o < c->outs; o++) {
            double sum = 0, size = 0;
            for (int64_t i = 0; i < c->ins; i++) {
                double p = (double)c->x[r * c->ldx + i] * (double)ck_weight(&c->w, o, i);
                sum += p;
                size += fabs(p);
            }
            sum += (c->bias ? (double)c->bias[o] : 0) +
                   (c->epi == KN_ADD ? (double)c->y0[r * c->ldy + o] : 0);
            ck_tol tol = {3e-7, size * 0x1p-24 * (4 + (double)c->ins / 16) + 1e-6};
            if (!ck_near(k, c->what, y + r * c->ldy + o, &sum, 1, tol))
                return;
        }
}

static bool same_rows(ck *k, const char *what, const float *a, const float *b, int64_t rows,
                      int64_t cols, int64_t ld) {
    for (int64_t r = 0; r < rows; r++)
        if (!ck_same_bits(k, what, a + r * ld, b + r * ld, cols))
            return false;
    return true;
}

static void check_linear_case(ck *k) {
    linear_case c = draw_linear(k);
    const float *first = NULL;
    for (int i = 0; i < k->n_isas; i++) {
        k->isa = k->isas[i];
        float *y = run_linear(k, &c, k->isa, 1, 0, c.n);
        linear_oracle(k, &c, y);
        same_rows(k, c.what, run_linear(k, &c, k->isa, 2, 0, c.n), y, c.n, c.outs, c.ldy);
        same_rows(k, c.what, run_linear(k, &c, k->isa, 3, 0, c.n), y, c.n, c.outs, c.ldy);
        int64_t r = ck_between(k, 0, c.n - 1), rows = ck_between(k, 1, c.n - r);
        same_rows(k, c.what, run_linear(k, &c, k->isa, 2, r, rows), y + r * c.ldy, rows, c.outs,
                  c.ldy);
        same_rows(k, c.what, run_linear(k, &c, k->isa, 1, r, 1), y + r * c.ldy, 1, c.outs, c.ldy);
        if (strcmp(k->isa, "ref") == 0)
            continue;
        if (first)
            same_rows(k, c.what, y, first, c.n, c.outs, c.ldy);
        first = y;
    }
    free(c.work);
    ck_buffers_done(k, c.what);
}

void ck_check_linear(ck *k) {
    if (ck_section(k, "linear"))
        for (int i = 0; i < 120; i++)
            check_linear_case(k);
}

/* -- the simple ones: compared with the dsp row functions, which have their own oracles ------ */

typedef struct simple_case {
    int64_t n, dim, group, ldx, ldy;
    int H;
    const float *x, *theta;
    const int64_t *pos;
    const int32_t *ids;
    kn_tensor table;
    char what[100];
} simple_case;

static simple_case draw_simple(ck *k) {
    simple_case c = {.n = ck_between(k, 1, 70), .group = ck_between(k, 1, 150)};
    c.H = (int)ck_between(k, 1, 8);
    c.dim = c.group * c.H;
    c.ldx = c.dim + ck_between(k, 0, 3);
    c.ldy = 2 * c.dim + ck_between(k, 0, 3);
    c.x = ck_filled(k, CK_NORMAL, c.n, c.dim, c.ldx);
    c.theta = ck_filled(k, CK_NORMAL, 1, c.dim, c.dim);
    int64_t vocab = ck_between(k, 1, 30);
    c.table = ck_weights(k, (kn_dtype)ck_between(k, 0, KN_PLAIN_COUNT - 1), vocab, c.dim, 1);
    int64_t *pos = ck_matrix(k, 1, c.n, c.n, 8);
    int32_t *ids = ck_matrix(k, 1, c.n, c.n, 4);
    for (int64_t i = 0; i < c.n; i++) {
        pos[i] = ck_between(k, 0, 1000000);
        ids[i] = (int32_t)ck_between(k, 0, vocab - 1);
    }
    c.pos = pos;
    c.ids = ids;
    snprintf(c.what, sizeof c.what, "n=%d dim=%d group=%d", (int)c.n, (int)c.dim, (int)c.group);
    return c;
}

enum { OP_EMBED, OP_LRPE, OPS };
static const char *const op_names[OPS] = {"embed", "lrpe"};

static void run_simple(kn_backend *be, const simple_case *c, int op, float *y) {
    if (op == OP_EMBED)
        be->ops->embed(be, y, c->ldy, &c->table, c->ids, c->n, 1.5f);
    else
        be->ops->lrpe(be, y, c->ldy, c->x, c->ldx, c->theta, c->pos, c->n, c->H, (int)c->group);
}

/* One row of the same, straight from the microkernels. */
static void want_simple(const kn_dsp *d, const simple_case *c, int op, int64_t r, float *y) {
    const float *x = c->x + r * c->ldx;
    if (op == OP_EMBED)
        for (int64_t i = 0; i < c->dim; i++)
            y[i] = ck_weight(&c->table, c->ids[r], i) * 1.5f;
    else
        for (int h = 0; h < c->H; h++)
            d->lrpe(y + 2 * h * c->group, x + h * c->group, c->theta + h * c->group, c->pos[r],
                    c->group);
}

static void check_simple_op(ck *k, const simple_case *c, int op, int threads) {
    kn_backend *be;
    kn_dsp d;
    int64_t cols = op == OP_LRPE ? 2 * c->dim : c->dim;
    float *y = ck_f32(k, c->n, cols, c->ldy), *want = malloc((size_t)cols * sizeof *want);
    if (!want || kn_cpu_open(&be, threads, k->isa, NULL) != TNL_OK ||
        kn_dsp_init(&d, k->isa, NULL) != TNL_OK)
        abort();
    run_simple(be, c, op, y);
    for (int64_t r = 0; r < c->n; r++) {
        want_simple(&d, c, op, r, want);
        if (!ck_same_bits(k, c->what, y + r * c->ldy, want, cols))
            break;
    }
    kn_backend_close(be);
    free(want);
}

static void check_finite_op(ck *k) {
    int64_t n = ck_between(k, 1, 60), dim = ck_between(k, 1, 400), ld = dim + ck_between(k, 0, 3);
    float *x = ck_filled(k, CK_LARGE, n, dim, ld);
    bool ok[60], want[60];
    for (int64_t r = 0; r < n; r++) {
        want[r] = ck_between(k, 0, 1);
        if (!want[r])
            x[r * ld + ck_between(k, 0, dim - 1)] = ck_between(k, 0, 1) ? NAN : -INFINITY;
    }
    kn_backend *be;
    if (kn_cpu_open(&be, 2, k->isa, NULL) != TNL_OK)
        abort();
    be->ops->finite_rows(be, ok, x, ld, n, dim);
    kn_backend_close(be);
    ck_expect(k, memcmp(ok, want, (size_t)n * sizeof *ok) == 0, "finite_rows");
    ck_buffers_done(k, "finite_rows");
}

void ck_check_simple_ops(ck *k) {
    for (int i = 0; i < 12; i++)
        for (int s = 0; s < k->n_isas; s++) {
            simple_case c = draw_simple(k);
            k->isa = k->isas[s];
            for (int op = 0; op < OPS; op++)
                if (ck_section(k, op_names[op]))
                    check_simple_op(k, &c, op, 1 + i % 3);
            ck_buffers_done(k, c.what);
            if (ck_section(k, "finite_rows"))
                check_finite_op(k);
        }
}
