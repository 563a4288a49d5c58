/* Operations of a whole backend: embed, lrpe, gather_rows, finite_rows, held to an oracle of one
 * row with 1, 2 and 3 threads. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/checkkern/ck.h"

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
    c.table = ck_weights(k, (kn_dtype)ck_between(k, 0, KN_DTYPE_COUNT - 1), vocab, c.dim, 1);
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

static void check_gather_op(ck *k) {
    int64_t n = ck_between(k, 1, 20), from = ck_between(k, 1, 60), dim = ck_between(k, 1, 400);
    int64_t ldx = dim + ck_between(k, 0, 3), ldy = dim + ck_between(k, 0, 3), rows[20];
    float *x = ck_filled(k, CK_LARGE, from, dim, ldx), *y = ck_f32(k, n, dim, ldy);
    kn_backend *be;
    for (int64_t r = 0; r < n; r++)
        rows[r] = ck_between(k, 0, from - 1);
    if (kn_cpu_open(&be, 2, k->isa, NULL) != TNL_OK)
        abort();
    be->ops->gather_rows(be, y, ldy, x, ldx, rows, n, dim);
    kn_backend_close(be);
    for (int64_t r = 0; r < n; r++)
        if (!ck_same_bits(k, "gather_rows", y + r * ldy, x + rows[r] * ldx, dim))
            break;
    ck_buffers_done(k, "gather_rows");
}

void ck_check_simple_ops(ck *k) {
    for (int i = 0; i < 12; i++)
        for (int s = 0; s < k->n_isas; s++) {
            simple_case c = draw_simple(k);
            k->isa = k->isas[s];
            ck_freeze(k);
            for (int op = 0; op < OPS; op++)
                if (ck_section(k, op_names[op]))
                    check_simple_op(k, &c, op, 1 + i % 3);
            ck_buffers_done(k, c.what);
            if (ck_section(k, "gather_rows"))
                check_gather_op(k);
            if (ck_section(k, "finite_rows"))
                check_finite_op(k);
        }
}
