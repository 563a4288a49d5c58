/* Accuracy over long runs, against recurrences in double: the state of linattn after a million
 * tokens, and LRPE phases at positions far beyond float's integers. Bounds are about twice what
 * the formulas of kernels.h were measured to give. */
#include "prop.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 5, DIM = 16, ROW = HEADS * DIM, CHUNK = 512 };
enum { TOKENS = PROP_SANITIZED ? 1 << 17 : 1 << 20 };

/* The slowest head of a last layer, a deep layer, the slowest head of a first layer, and one on
 * either side of where the fold changes its form. */
static const double slopes[HEADS] = {3.9e-8, 2.0e-4, 3.9e-3, 0.0215, 0.0220};
static const double bounds[HEADS] = {5e-6, 5e-7, 5e-7, 5e-7, 5e-7};

static const kn_linattn_dims dims = {HEADS, DIM, DIM};
static const char *const isas[] = {"ref", "avx2", "avx512"};
enum { ISAS = 3 };

/* One backend under test. */
typedef struct body {
    const char *isa;
    kn_backend *be;
    kn_decay decay;
    float *pow, *fold, *state;
    float o[CHUNK * ROW];
} body;

enum { DRAWN = 8 };
typedef struct rows {
    float q[CHUNK * ROW], k[CHUNK * ROW], v[CHUNK * ROW];
} rows;

/* All of them are fed the same rows, and so is the oracle, once. */
typedef struct drift {
    body bodies[ISAS];
    int n;
    rows drawn[DRAWN]; /* chunks are picked from these at random: drawing is the slow part */
    const rows *in;    /* the chunk of this round */
    double S[HEADS][DIM][DIM];
} drift;

static void open_body(drift *d, const char *isa) {
    tnl_error err;
    body *b = &d->bodies[d->n];
    if (!prop_isa(isa))
        return;
    assert_int_equal(kn_cpu_open(&b->be, 1, isa, &err), TNL_OK);
    int B = b->be->block;
    assert_int_equal(TOKENS % B, 0); /* so that S holds every token at the end */
    b->isa = isa;
    b->pow = calloc(HEADS * ((size_t)B + 1), sizeof *b->pow);
    b->fold = calloc(HEADS, sizeof *b->fold);
    b->state = b->be->alloc(b->be, kn_linattn_state_floats(&dims, B) * sizeof(float), KN_ON_DEVICE);
    assert_true(b->pow && b->fold && b->state);
    kn_decay_fill(b->pow, b->fold, slopes, HEADS, B);
    b->decay = (kn_decay){.pow = b->pow, .fold = b->fold};
    d->n++;
}

static void close_body(body *b) {
    b->be->free(b->be, b->state, KN_ON_DEVICE);
    kn_backend_close(b->be);
    free(b->pow);
    free(b->fold);
}

static void draw_rows(rows *d, prop_rng *r) {
    for (int i = 0; i < CHUNK * ROW; i++) {
        double x = prop_normal(r);
        d->q[i] = (float)prop_normal(r);
        d->k[i] = (float)(x / (1.0 + exp(-x)));
        d->v[i] = (float)(0.1 + 0.5 * prop_normal(r));
    }
}

static void oracle_rows(drift *d, const double lambda[HEADS]) {
    for (int t = 0; t < CHUNK; t++)
        for (int h = 0; h < HEADS; h++)
            for (int i = 0; i < DIM; i++)
                for (int j = 0; j < DIM; j++) {
                    int at = t * ROW + h * DIM;
                    d->S[h][i][j] = lambda[h] * d->S[h][i][j] +
                                    (double)d->in->k[at + i] * (double)d->in->v[at + j];
                }
}

static void run_drift(drift *d, prop_rng *r) {
    double lambda[HEADS];
    for (int h = 0; h < HEADS; h++)
        lambda[h] = exp(-slopes[h]);
    for (int i = 0; i < DRAWN; i++)
        draw_rows(&d->drawn[i], r);
    for (int64_t pos = 0; pos < TOKENS; pos += CHUNK) {
        d->in = &d->drawn[prop_below(r, DRAWN)];
        oracle_rows(d, lambda);
        for (int i = 0; i < d->n; i++) {
            body *b = &d->bodies[i];
            kn_linattn_seg seg = {.state = b->state, .pos = pos, .first = 0, .len = CHUNK};
            b->be->ops->linattn(b->be, b->o, ROW, d->in->q, ROW, d->in->k, ROW, d->in->v, ROW,
                                &b->decay, &dims, &(kn_step){.segs = &seg, .n_segs = 1}, 0);
        }
    }
}

/* Relative Frobenius error of head h. */
static double state_error(const drift *d, const body *b, int h) {
    size_t per_head = DIM * DIM + (size_t)b->be->block * 2 * DIM;
    const float *S = b->state + (size_t)h * per_head;
    double diff = 0, norm = 0;
    for (int i = 0; i < DIM; i++)
        for (int j = 0; j < DIM; j++) {
            double e = (double)S[i * DIM + j] - d->S[h][i][j];
            diff += e * e;
            norm += d->S[h][i][j] * d->S[h][i][j];
        }
    return sqrt(diff / norm);
}

/* Error of the last output row, relative to the sizes of the products that make it. */
static double output_error(const drift *d, const body *b, int h) {
    const float *q = d->in->q + (CHUNK - 1) * ROW + h * DIM;
    const float *o = b->o + (CHUNK - 1) * ROW + h * DIM;
    double diff = 0, norm = 0;
    for (int j = 0; j < DIM; j++) {
        double want = 0, scale = 0;
        for (int i = 0; i < DIM; i++) {
            want += (double)q[i] * d->S[h][i][j];
            scale += fabs((double)q[i] * d->S[h][i][j]);
        }
        diff += ((double)o[j] - want) * ((double)o[j] - want);
        norm += scale * scale;
    }
    return sqrt(diff / norm);
}

static void check_body(const drift *d, const body *b) {
    for (int h = 0; h < HEADS; h++) {
        double s = state_error(d, b, h), o = output_error(d, b, h);
        print_message("%s: slope %g: error of the state %.2g, of the last output %.2g\n", b->isa,
                      slopes[h], s, o);
        if (!(s < bounds[h]) || !(o < 2 * bounds[h]))
            fail_msg("%s: slope %g drifts", b->isa, slopes[h]);
    }
}

static void test_state_drift(void **unused) {
    (void)unused;
    drift *d = calloc(1, sizeof *d);
    assert_non_null(d);
    for (int i = 0; i < ISAS; i++)
        open_body(d, isas[i]);
    assert_true(d->n > 0);
    prop_rng r = {prop_seed() + 9000};
    run_drift(d, &r);
    for (int i = 0; i < d->n; i++) {
        check_body(d, &d->bodies[i]);
        close_body(&d->bodies[i]);
    }
    free(d);
}

/* The fold's decay is stored as a complement: what it stands for must be right to a float's
 * precision of 1 - lambda, not of lambda. */
static void test_fold_table(void **unused) {
    (void)unused;
    enum { B = 64 };
    float pow[HEADS * (B + 1)], fold[HEADS];
    kn_decay_fill(pow, fold, slopes, HEADS, B);
    for (int h = 0; h < HEADS; h++) {
        double want = expm1(-slopes[h] * B);
        assert_true(fabs((double)fold[h] - want) <= 1e-7 * fabs(want));
        for (int n = 0; n <= B; n++)
            assert_true(fabs((double)pow[h * (B + 1) + n] - exp(-slopes[h] * n)) <= 6e-8);
    }
}

/* x = 1 in every column gives cos and sin themselves. */
static void check_lrpe(kn_backend *be, const char *isa) {
    enum { H = 2, D = 7, N = 64 };
    float x[H * D], y[2 * H * D], theta[H * D];
    prop_rng r = {prop_seed() + 9500};
    double worst = 0;
    for (int i = 0; i < H * D; i++)
        x[i] = 1.0f;
    for (int n = 0; n < N; n++) {
        const int64_t from[] = {0, 1000, 1000000, 16777217, 2147483648, 8589934592};
        int64_t pos = from[n % 6] + prop_below(&r, 1 + from[n % 6] / 3);
        for (int i = 0; i < H * D; i++)
            theta[i] = (float)pow(10.0, -4.0 * prop_uniform(&r));
        be->ops->lrpe(be, y, sizeof y / sizeof *y, x, sizeof x / sizeof *x, theta, &pos, 1, H, D);
        for (int h = 0; h < H; h++)
            for (int i = 0; i < D; i++) {
                long double phase = (long double)theta[h * D + i] * (long double)pos;
                /* one rounding of the product to double, one of the result to float */
                double bound = 1.3e-7 + (double)phase * 0x1p-52;
                double c = fabs((double)((long double)y[h * 2 * D + i] - cosl(phase)));
                double s = fabs((double)((long double)y[h * 2 * D + D + i] - sinl(phase)));
                worst = fmax(worst, fmax(c, s) / bound);
                if (!(c <= bound) || !(s <= bound))
                    fail_msg("%s: position %lld, theta %g: cos off by %g, sin by %g", isa,
                             (long long)pos, (double)theta[h * D + i], c, s);
            }
    }
    print_message("%s: LRPE at %.0f%% of its bound\n", isa, 100 * worst);
}

static void test_lrpe_far_out(void **unused) {
    (void)unused;
    for (int i = 0; i < ISAS; i++) {
        kn_backend *be = NULL;
        tnl_error err;
        if (prop_isa(isas[i]) && kn_cpu_open(&be, 1, isas[i], &err) == TNL_OK)
            check_lrpe(be, isas[i]);
        kn_backend_close(be);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fold_table),
        cmocka_unit_test(test_state_drift),
        cmocka_unit_test(test_lrpe_far_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
