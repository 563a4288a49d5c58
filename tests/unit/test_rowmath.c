/* The passes over a row of logits: each against a plain loop, and every instruction set against the
 * generic one, bit for bit. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "server/engine/sampling/rowmath.h"

static const uint64_t test_seed = 20240917;

typedef struct rng {
    uint64_t s;
} rng;

static uint64_t next(rng *r) {
    r->s += 0x9E3779B97F4A7C15u;
    uint64_t z = r->s;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static double uniform(rng *r) {
    return (double)(next(r) >> 11) * 0x1p-53;
}

static int64_t below(rng *r, int64_t n) {
    return (int64_t)(next(r) % (uint64_t)n);
}

static void exp_is_accurate(void **state) {
    (void)state;
    double worst = 0;
    for (float x = 0; x >= -87.0f; x -= 0.00137f) {
        double want = exp((double)x), err = fabs((double)eng_exp(x) - want) / want;
        worst = err > worst ? err : worst;
    }
    print_message("eng_exp: worst relative error %.3g\n", worst);
    assert_true(worst < 2e-7);
    assert_true(eng_exp(0.0f) == 1.0f);
    assert_true(eng_exp(-0.0f) == 1.0f);
    assert_true(eng_exp(-87.1f) == 0.0f);
    assert_true(eng_exp(-FLT_MAX) == 0.0f);
    assert_true(eng_exp(-INFINITY) == 0.0f);
}

static void log_is_accurate(void **state) {
    (void)state;
    double worst = 0;
    for (double x = 1e-300; x < 1e300; x *= 1.0137) {
        double err = fabs(eng_log(x) - log(x)) / (1e-15 + 4e-16 * fabs(log(x)));
        worst = err > worst ? err : worst;
    }
    print_message("eng_log: %.3g of the error allowed\n", worst);
    assert_true(worst < 1);
    assert_true(eng_log(1.0) == 0.0);
}

enum { ROW_MAX = 1100 };

static float lane_max[(ROW_MAX / ENG_ROW_BLOCK + 1) * ENG_ROW_LANES];

static void check_maxima(const eng_rowmath *m, rng *r, float *x, int64_t n) {
    float max, want = x[0];
    assert_true(m->maxima(lane_max, &max, x, n));
    for (int64_t b = 0; b * ENG_ROW_BLOCK < n; b++)
        for (int l = 0; l < ENG_ROW_LANES; l++) {
            float best = -INFINITY;
            for (int64_t i = b * ENG_ROW_BLOCK + l; i < n && i < (b + 1) * ENG_ROW_BLOCK;
                 i += ENG_ROW_LANES)
                best = x[i] > best ? x[i] : best;
            assert_true(lane_max[b * ENG_ROW_LANES + l] == best);
            want = best > want ? best : want;
        }
    assert_true(max == want);
    static const uint32_t bad[] = {0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFFFFFFF};
    int64_t at = below(r, n);
    float kept = x[at];
    for (size_t b = 0; b < sizeof bad / sizeof bad[0]; b++) {
        memcpy(&x[at], &bad[b], sizeof bad[b]);
        assert_false(m->maxima(lane_max, &max, x, n));
    }
    x[at] = at % 2 ? FLT_MAX : -FLT_MAX;
    assert_true(m->maxima(lane_max, &max, x, n));
    x[at] = kept;
    assert_true(m->maxima(lane_max, &max, x, n));
}

static void check_choosing(const eng_rowmath *m, rng *r, const float *x, int64_t n) {
    static int32_t at[ROW_MAX];
    static float to[ROW_MAX];
    float from = x[below(r, n)], under = below(r, 2) ? INFINITY : x[below(r, n)];
    int64_t last = below(r, n + 2) - 1, m_from, k = 0;
    int64_t found = m->collect(at, x, below(r, 2) ? lane_max : NULL, n, from, under);
    eng_mass mass = m->mass_from(&m_from, x, NULL, n, from);
    m->keep(to, x, x, n, from, last, -7.5f);
    for (int64_t i = 0; i < n; i++) {
        if (x[i] >= from && x[i] < under) {
            assert_true(k < found);
            assert_int_equal(at[k++], i);
        }
        m_from -= x[i] >= from;
        mass -= x[i] >= from;
        bool stays = x[i] > from || (x[i] == from && i <= last);
        assert_true(to[i] == (stays ? x[i] : -7.5f));
    }
    assert_int_equal(k, found);
    assert_int_equal(m_from, 0);
    assert_int_equal(mass, 0);
}

static void row_passes(void **state) {
    (void)state;
    rng r = {test_seed};
    static float x[ROW_MAX];
    for (int which = 0; eng_rowmath_at(which); which++) {
        const eng_rowmath *m = eng_rowmath_at(which);
        for (int64_t n = 1; n <= ROW_MAX; n += n < 70 ? 1 : 1 + below(&r, 40)) {
            for (int64_t i = 0; i < n; i++)
                x[i] = (float)below(&r, 20) - 10.0f;
            check_maxima(m, &r, x, n);
            check_choosing(m, &r, x, n);
        }
    }
}

/* Sums of one row, from one table of passes. */
typedef struct row_sums {
    eng_mass block[ROW_MAX / ENG_ROW_BLOCK + 1], total, again, mass;
    double mean;
    float w[ROW_MAX], key[ROW_MAX];
    int64_t count;
} row_sums;

static void all_sums(row_sums *s, const eng_rowmath *m, const float *x, int64_t n, float inv_t) {
    float max;
    memset(s, 0, sizeof *s);
    (void)m->maxima(lane_max, &max, x, n);
    s->total = m->exp_sums(s->block, NULL, x, n, max, inv_t);
    assert_true(s->total == m->exp_sums(s->block, s->w, x, n, max, inv_t));
    s->again = m->sums(s->block, s->w, n);
    s->mean = m->mean_sum(s->w, x, n, max, inv_t);
    s->mass = m->mass_from(&s->count, x, s->w, n, x[n / 2]);
    m->distances(s->key, x, n, max, inv_t, -1.25f);
}

static void sums_are_those_of_double(const row_sums *s, const float *x, int64_t n, float inv_t) {
    const double unit = 1 / (double)(INT64_C(1) << ENG_MASS_BITS);
    double total = 0, mean = 0;
    eng_mass exact = 0, mass = 0;
    float max = x[0];
    for (int64_t i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (int64_t i = 0; i < n; i++) {
        float z = (x[i] - max) * inv_t;
        double w = z < -87 ? 0 : exp((double)z);
        assert_true(fabs((double)s->w[i] - w) <= 2e-7 * w + unit / 2);
        assert_true(eng_mass_value(eng_mass_of(s->w[i])) == (double)s->w[i]);
        assert_true(s->key[i] == -fabsf(z - -1.25f));
        total += w;
        mean += z < -87 ? 0 : w * (double)z;
        exact += eng_mass_of(s->w[i]);
        mass += x[i] >= x[n / 2] ? eng_mass_of(s->w[i]) : 0;
    }
    for (int64_t b = 0; b < (n + ENG_ROW_BLOCK - 1) / ENG_ROW_BLOCK; b++)
        exact -= s->block[b];
    assert_int_equal(exact, 0);
    assert_int_equal(s->total, s->again);
    assert_int_equal(s->mass, mass);
    assert_true(fabs(eng_mass_value(s->total) - total) <= 1e-6 * total);
    assert_true(fabs(s->mean - mean) <= 1e-5 * total);
}

static void instruction_sets_agree_to_the_bit(void **state) {
    (void)state;
    rng r = {test_seed + 9};
    static float x[ROW_MAX];
    static row_sums want, got;
    static const float spreads[] = {0.01f, 3, 60, 200};
    for (int c = 0; c < 400; c++) {
        int64_t n = 1 + below(&r, ROW_MAX);
        float inv_t = below(&r, 2) ? 1.0f : (float)(1 / (0.05 + 2 * uniform(&r)));
        for (int64_t i = 0; i < n; i++)
            x[i] = below(&r, 50) ? (float)(uniform(&r) - 0.5) * spreads[c % 4] : -INFINITY;
        x[below(&r, n)] = 1.0f;
        all_sums(&want, &eng_rowmath_generic, x, n, inv_t);
        sums_are_those_of_double(&want, x, n, inv_t);
        for (int which = 1; eng_rowmath_at(which); which++) {
            all_sums(&got, eng_rowmath_at(which), x, n, inv_t);
            assert_memory_equal(&got, &want, sizeof want);
        }
    }
    for (int which = 0; eng_rowmath_at(which); which++)
        print_message("%s ", eng_rowmath_at(which)->name);
    print_message("\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_accurate),
        cmocka_unit_test(log_is_accurate),
        cmocka_unit_test(row_passes),
        cmocka_unit_test(instruction_sets_agree_to_the_bit),
    };
    print_message("seed %llu\n", (unsigned long long)test_seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
