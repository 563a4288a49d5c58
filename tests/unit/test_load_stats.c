/* Percentiles from buckets against sorted samples; a fair sample of points; errors by kind. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/splitmix.h"
#include "server/cli/load/load_stats.h"

enum { SAMPLES = 20000 };

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void test_percentiles(void **state) {
    static const double shares[] = {0.001, 0.01, 0.5, 0.9, 0.99, 0.999, 1};
    uint64_t seed = 3; /* fixed */
    (void)state;
    for (int spread = 1; spread <= 12; spread++) { /* from microseconds to days */
        cli_hist *h = calloc(1, sizeof *h);
        double *v = malloc(SAMPLES * sizeof *v), sum = 0;
        assert_true(h && v);
        for (int i = 0; i < SAMPLES; i++) {
            double u = (double)(tnl_splitmix_next(&seed) >> 11) * 0x1p-53;
            v[i] = 1e-6 * pow(10, u * spread);
            sum += v[i];
            cli_hist_add(h, v[i]);
        }
        qsort(v, SAMPLES, sizeof *v, by_value);
        for (size_t k = 0; k < sizeof shares / sizeof shares[0]; k++) {
            double want = v[(size_t)ceil(shares[k] * SAMPLES) - 1];
            double got = cli_hist_percentile(h, shares[k]);
            if (fabs(got - want) > 0.004 * want + 1e-9)
                fail_msg("p%g: %.9g, sorted %.9g", shares[k], got, want);
        }
        assert_true(fabs(cli_hist_mean(h) - sum / SAMPLES) < 1e-9 * sum);
        assert_true(h->largest == v[SAMPLES - 1]);
        free(h);
        free(v);
    }
}

static void test_edges(void **state) {
    cli_hist *h = calloc(1, sizeof *h);
    (void)state;
    assert_non_null(h);
    assert_true(cli_hist_percentile(h, 0.5) == 0 && cli_hist_mean(h) == 0);
    for (size_t i = 1; i < CLI_HIST_BUCKETS; i++) { /* each bucket begins where the last ended */
        double low = cli_hist_edge(i - 1), high = cli_hist_edge(i);
        assert_true(high > low && (i < 256 || high - low <= 0.008 * low));
        memset(h, 0, sizeof *h);
        cli_hist_add(h, (low + high) / 2);
        assert_int_equal(h->bucket[i], 1);
    }
    memset(h, 0, sizeof *h);
    cli_hist_add(h, -1);
    cli_hist_add(h, 0);
    assert_int_equal(h->bucket[0], 2);
    cli_hist_add(h, 1e30);
    cli_hist_add(h, INFINITY);
    assert_int_equal(h->bucket[CLI_HIST_BUCKETS - 1], 2);
    assert_int_equal(h->count, 4);
    free(h);
}

/* Every point is as likely to stay as any other: the mean index stays in the middle. */
static void test_points(void **state) {
    cli_points *p = calloc(1, sizeof *p);
    double sum = 0;
    (void)state;
    assert_non_null(p);
    p->seed = 11; /* fixed */
    for (int i = 0; i < 100; i++)
        cli_points_add(p, i, 2 * i);
    assert_int_equal(cli_points_count(p), 100);
    assert_true(p->x[99] == 99 && p->y[99] == 198);
    for (int i = 100; i < 100000; i++)
        cli_points_add(p, i, 2 * i);
    assert_int_equal(cli_points_count(p), CLI_LOAD_POINTS);
    for (int i = 0; i < CLI_LOAD_POINTS; i++) {
        assert_true(p->y[i] == 2 * p->x[i]);
        sum += (double)p->x[i];
    }
    assert_true(fabs(sum / CLI_LOAD_POINTS - 50000) < 3500); /* five deviations */
    free(p);
}

static void test_errors(void **state) {
    cli_load_stats *s = calloc(1, sizeof *s);
    uint64_t total = 0;
    (void)state;
    assert_non_null(s);
    for (int i = 0; i < 100; i++) {
        char label[16];
        snprintf(label, sizeof label, "%d", i % 50);
        cli_load_stats_error(s, label, i < 50 ? "first" : "second");
    }
    assert_int_equal(s->n_errors, CLI_LOAD_ERRORS);
    assert_string_equal(s->errors[0].label, "0");
    assert_string_equal(s->errors[0].message, "first");
    assert_int_equal(s->errors[0].count, 2);
    assert_string_equal(s->errors[CLI_LOAD_ERRORS - 1].label, "others");
    for (int i = 0; i < s->n_errors; i++)
        total += s->errors[i].count;
    assert_int_equal(total, 100);
    free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_percentiles),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_points),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
