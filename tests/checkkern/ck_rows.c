/* Microkernels that walk one row: norms, products, activations, LRPE. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/checkkern/ck.h"

enum { MOST = 1000 };

typedef struct row_case {
    int64_t n;
    ck_fill fill;
    const float *x;
    char what[120];
} row_case;

static row_case draw_row(ck *k, int64_t most) {
    row_case c = {.n = ck_between(k, 0, 1) ? ck_between(k, 1, 40) : ck_between(k, 1, most)};
    c.fill = (ck_fill)ck_between(k, 0, CK_FILLS - 1);
    c.x = ck_filled(k, c.fill, 1, c.n, c.n);
    snprintf(c.what, sizeof c.what, "n=%d %s", (int)c.n, ck_fill_name(c.fill));
    return c;
}

/* Runs `body` for every instruction set; accelerated ones must agree in bits. */
typedef void (*row_body)(ck *k, const kn_dsp *d, void *ctx, float *y);

static void for_each_isa(ck *k, const char *what, int64_t n_out, row_body body, void *ctx) {
    const float *first = NULL;
    for (int i = 0; i < k->n_isas; i++) {
        kn_dsp d;
        if (kn_dsp_init(&d, k->isas[i], NULL) != TNL_OK)
            continue;
        k->isa = d.isa;
        float *y = ck_f32(k, 1, n_out, n_out);
        body(k, &d, ctx, y);
        if (strcmp(d.isa, "ref") == 0)
            continue;
        if (first)
            ck_same_bits(k, what, y, first, n_out);
        first = y;
    }
}

static void srms_body(ck *k, const kn_dsp *d, void *ctx, float *y) {
    const row_case *c = ctx;
    double want[MOST], sum = 0, eps = (double)1e-6f;
    for (int64_t i = 0; i < c->n; i++)
        sum += (double)c->x[i] * (double)c->x[i];
    for (int64_t i = 0; i < c->n; i++)
        want[i] = (double)c->x[i] / sqrt(sum / (double)c->n + eps);
    d->srms(y, c->x, c->n, 1e-6f);
    ck_near(k, c->what, y, want, c->n, (ck_tol){1e-6, 1e-43});
    float again[MOST]; /* in place */
    memcpy(again, c->x, (size_t)c->n * sizeof *again);
    d->srms(again, again, c->n, 1e-6f);
    ck_same_bits(k, "srms in place", again, y, c->n);
}

typedef struct norm_case {
    row_case row;
    const float *w, *b;
} norm_case;

static void layernorm_body(ck *k, const kn_dsp *d, void *ctx, float *y) {
    const norm_case *c = ctx;
    const float *x = c->row.x;
    int64_t n = c->row.n;
    double want[MOST], mean = 0, var = 0, top = 0, eps = (double)1e-5f;
    for (int64_t i = 0; i < n; i++)
        mean += (double)x[i] / (double)n;
    for (int64_t i = 0; i < n; i++) {
        var += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)n;
        top = fmax(top, fabs((double)x[i]));
    }
    double f = 1 / sqrt(var + eps), slack = 0;
    for (int64_t i = 0; i < n; i++) {
        want[i] = ((double)x[i] - mean) * f * (double)c->w[i] + (double)c->b[i];
        slack = fmax(slack, fabs((double)c->w[i]));
    }
    /* what one rounding of the mean and of the differences is worth after scaling */
    slack = slack * top * f * 0x1p-23 * 10 + 1e-6;
    d->layernorm(y, x, c->w, c->b, n, 1e-5f);
    ck_near(k, c->row.what, y, want, n, (ck_tol){3e-6, slack});
}

typedef struct fold_case {
    row_case row;
    const float *a;
    float f;
} fold_case;

static void fold_body(ck *k, const kn_dsp *d, void *ctx, float *y) {
    const fold_case *c = ctx;
    double want[MOST];
    for (int64_t i = 0; i < c->row.n; i++) {
        float s = c->row.x[i];
        want[i] = (double)(s + fmaf(s, c->f, c->a[i]));
    }
    memcpy(y, c->row.x, (size_t)c->row.n * sizeof *y);
    d->fold_slow(y, c->a, c->row.n, c->f);
    ck_near(k, c->row.what, y, want, c->row.n, (ck_tol){3e-7, 1e-44});
    for (int64_t i = 0; i < c->row.n; i++)
        want[i] = (double)fmaf(c->row.x[i], c->f, c->a[i]);
    memcpy(y, c->row.x, (size_t)c->row.n * sizeof *y);
    d->fold_fast(y, c->a, c->row.n, c->f);
    ck_near(k, c->row.what, y, want, c->row.n, (ck_tol){1.2e-7, 1e-44});
}

static void mul_body(ck *k, const kn_dsp *d, void *ctx, float *y) {
    const fold_case *c = ctx;
    float want[MOST];
    for (int64_t i = 0; i < c->row.n; i++)
        want[i] = c->row.x[i] * c->a[i];
    d->mul(y, c->row.x, c->a, c->row.n);
    ck_same_bits(k, c->row.what, y, want, c->row.n);
    for (int64_t i = 0; i < c->row.n; i++)
        want[i] = c->row.x[i] * c->f;
    d->scale(y, c->row.x, c->row.n, c->f);
    ck_same_bits(k, c->row.what, y, want, c->row.n);
}

static void finite_body(ck *k, const kn_dsp *d, void *ctx, float *y) {
    const row_case *c = ctx;
    static const float bad[3] = {INFINITY, -INFINITY, NAN};
    memcpy(y, c->x, (size_t)c->n * sizeof *y);
    ck_expect(k, d->all_finite(y, c->n), "all_finite on finite values");
    int64_t at = (c->n * 7) / 11;
    y[at] = bad[c->n % 3];
    ck_expect(k, !d->all_finite(y, c->n), c->what);
    y[at] = c->x[at];
}

static void check_norms(ck *k) {
    row_case row = draw_row(k, MOST);
    if (ck_section(k, "srms"))
        for_each_isa(k, row.what, row.n, srms_body, &row);
    if (ck_section(k, "all_finite"))
        for_each_isa(k, row.what, row.n, finite_body, &row);
    norm_case norm = {row, ck_filled(k, CK_NORMAL, 1, row.n, row.n),
                      ck_filled(k, CK_NORMAL, 1, row.n, row.n)};
    if (ck_section(k, "layernorm"))
        for_each_isa(k, row.what, row.n, layernorm_body, &norm);
    fold_case fold = {row, ck_filled(k, row.fill, 1, row.n, row.n),
                      (float)expm1(-exp(-20 * ck_uniform(k)))};
    if (ck_section(k, "fold"))
        for_each_isa(k, row.what, row.n, fold_body, &fold);
    if (ck_section(k, "mul"))
        for_each_isa(k, row.what, row.n, mul_body, &fold);
    ck_buffers_done(k, row.what);
}

void ck_check_rows(ck *k) {
    for (int i = 0; i < 150; i++)
        check_norms(k);
}

/* -- activations ------------------------------------------------------------------------- */

typedef struct act_info {
    const char *name;
    double (*fn)(double);
    ck_tol tol;
} act_info;

static double f_none(double x) {
    return x;
}
static double f_gelu(double x) {
    return 0.5 * x * erfc(-x / sqrt(2));
}
static double f_relu(double x) {
    return x < 0 ? 0 : x;
}
static double f_elu(double x) {
    return x < 0 ? expm1(x) : x;
}
static double f_sigmoid(double x) {
    return 1 / (1 + exp(-x));
}
static double f_leak(double x) {
    return x < 0 ? (double)0.01f * x : x;
}
static double f_1pelu(double x) {
    return x < 0 ? exp(x) : 1 + x;
}
static double f_2pelu(double x) {
    return x < 0 ? 1 + exp(x) : 2 + x;
}
static double f_silu(double x) {
    return x / (1 + exp(-x));
}

/* Three units in the last place, and the smallest subnormals. */
#define ULP3                                                                                       \
    { 3 * 0x1p-23, 3e-45 }
static const act_info acts[KN_ACT_COUNT] = {
    [KN_ACT_NONE] = {"none", f_none, {0, 0}},
    [KN_ACT_GELU] = {"gelu", f_gelu, {6 * 0x1p-23, 5e-44}},
    [KN_ACT_RELU] = {"relu", f_relu, {0, 0}},
    [KN_ACT_ELU] = {"elu", f_elu, ULP3},
    [KN_ACT_SIGMOID] = {"sigmoid", f_sigmoid, ULP3},
    [KN_ACT_EXP] = {"exp", NULL, ULP3},
    [KN_ACT_LEAK] = {"leak", f_leak, ULP3},
    [KN_ACT_1PELU] = {"1+elu", f_1pelu, ULP3},
    [KN_ACT_2PELU] = {"2+elu", f_2pelu, ULP3},
    [KN_ACT_SILU] = {"silu", f_silu, {4 * 0x1p-23, 3e-43}},
    [KN_ACT_SINE] = {"sine", sin, ULP3},
};

double ck_act(kn_act kind, double x) {
    return acts[kind].fn(x);
}

ck_tol ck_act_tol(kn_act kind) {
    return acts[kind].tol;
}

typedef struct act_case {
    kn_act kind;
    int64_t n;
    const float *x;
    char what[100];
} act_case;

static void act_body(ck *k, const kn_dsp *d, void *ctx, float *y) {
    const act_case *c = ctx;
    double want[MOST], top = -INFINITY;
    for (int64_t i = 0; i < c->n; i++)
        top = fmax(top, (double)c->x[i]);
    for (int64_t i = 0; i < c->n; i++)
        want[i] = c->kind == KN_ACT_EXP ? exp((double)(c->x[i] - (float)top))
                                        : acts[c->kind].fn((double)c->x[i]);
    memcpy(y, c->x, (size_t)c->n * sizeof *y);
    d->act[c->kind](y, c->n);
    ck_near(k, c->what, y, want, c->n, acts[c->kind].tol);
}

/* Magnitudes from 1e-40 to the span given, both signs, and the corners. */
static void act_values(ck *k, float *x, int64_t n) {
    static const float corners[] = {0.0f,    -0.0f, 1.0f,   -1.0f,  87.5f,   -87.5f, 88.8f, -103.9f,
                                    -104.2f, 1e30f, -1e30f, 1e-40f, -1e-40f, 6.5f,   -14.2f};
    for (int64_t i = 0; i < n; i++) {
        double sign = ck_between(k, 0, 1) ? 1 : -1;
        if (ck_between(k, 0, 9) == 0)
            x[i] = corners[ck_between(k, 0, 14)];
        else if (ck_between(k, 0, 3) == 0)
            x[i] = (float)(sign * exp(ck_uniform(k) * 110 - 92));
        else
            x[i] = (float)(sign * 20 * ck_uniform(k));
    }
}

static void check_act_case(ck *k, kn_act kind) {
    act_case c = {.kind = kind,
                  .n = ck_between(k, 1, 3) > 1 ? ck_between(k, 1, MOST) : ck_between(k, 1, 40)};
    float *x = ck_f32(k, 1, c.n, c.n);
    act_values(k, x, c.n);
    if (kind == KN_ACT_SINE)
        for (int64_t i = 0; i < c.n; i++) /* an argument of 1e30 is as exact as one of 1 */
            x[i] = i % 5 ? x[i] : (float)(1e15 * ck_uniform(k));
    c.x = x;
    snprintf(c.what, sizeof c.what, "%s n=%d", acts[kind].name, (int)c.n);
    for_each_isa(k, c.what, c.n, act_body, &c);
    ck_buffers_done(k, c.what);
}

void ck_check_act(ck *k) {
    if (!ck_section(k, "act"))
        return;
    for (int a = 0; a < KN_ACT_COUNT; a++)
        for (int i = 0; i < 60; i++)
            check_act_case(k, (kn_act)a);
}

/* -- LRPE --------------------------------------------------------------------------------- */

typedef struct lrpe_case {
    int64_t n, pos;
    const float *x, *theta;
    char what[100];
} lrpe_case;

static void lrpe_body(ck *k, const kn_dsp *d, void *ctx, float *y) {
    const lrpe_case *c = ctx;
    double want[400];
    for (int64_t i = 0; i < c->n; i++) {
        long double phase = (long double)c->pos * (long double)c->theta[i];
        want[i] = (double)((long double)c->x[i] * cosl(phase));
        want[c->n + i] = (double)((long double)c->x[i] * sinl(phase));
    }
    d->lrpe(y, c->x, c->theta, c->pos, c->n);
    /* relative to the magnitude of x: a sine near zero keeps its absolute error */
    for (int64_t i = 0; i < 2 * c->n; i++) {
        double size = fabs((double)c->x[i % c->n]);
        if (!ck_near(k, c->what, y + i, want + i, 1, (ck_tol){0, 3 * 0x1p-24 * size + 3e-45}))
            break;
    }
}

void ck_check_lrpe(ck *k) {
    if (!ck_section(k, "lrpe"))
        return;
    for (int i = 0; i < 120; i++) {
        lrpe_case c = {.n = ck_between(k, 1, 200)};
        c.pos = i % 3 == 0 ? ck_between(k, 0, 70) : (int64_t)exp2(40 * ck_uniform(k));
        if (i == 1)
            c.pos = (int64_t)1 << 40;
        float *theta = ck_f32(k, 1, c.n, c.n);
        for (int64_t j = 0; j < c.n; j++) /* learned: mostly 1 .. 1e-4, of any sign */
            theta[j] = (float)((ck_between(k, 0, 3) ? 1 : -1.5) * exp(-9.3 * ck_uniform(k)));
        c.theta = theta;
        c.x =
            ck_filled(k, i % 4 ? CK_NORMAL : (ck_fill)ck_between(k, 0, CK_FILLS - 1), 1, c.n, c.n);
        snprintf(c.what, sizeof c.what, "n=%d pos=%lld", (int)c.n, (long long)c.pos);
        for_each_isa(k, c.what, 2 * c.n, lrpe_body, &c);
        ck_buffers_done(k, c.what);
    }
}
