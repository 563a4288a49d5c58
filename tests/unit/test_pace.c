/* The cost of a row as measured, and which guesses get rows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/engine/pace.h"

/* Steps of 1..16 rows that take base + row * rows. */
static void feed(eng_pace *p, double base, double row, int steps) {
    for (int i = 0; i < steps; i++) {
        int64_t rows = 1 + i * 7 % 16;
        eng_pace_observe(p, rows, base + row * (double)rows);
    }
}

static void assert_near(double x, double want, double within) {
    if (!(x > want - within && x < want + within))
        fail_msg("%g, expected %g", x, want);
}

static void cost_is_measured(void **state) {
    (void)state;
    eng_pace p = {0};
    double presumed = eng_pace_row_cost(&p);
    assert_true(presumed > 0 && presumed < 0.5);
    feed(&p, 0.02, 0.001, 100); /* one row 21 ms, 1 ms each */
    assert_near(eng_pace_row_cost(&p), 1.0 / 21, 0.01);
    feed(&p, 0.0002, 0.0008, 300); /* the machine has changed */
    assert_near(eng_pace_row_cost(&p), 0.8, 0.1);
    feed(&p, 0.02, 0, 600);
    assert_near(eng_pace_row_cost(&p), 0.0, 0.02);
    /* steps of one row alone say nothing about a second */
    eng_pace q = {0};
    for (int i = 0; i < 100; i++)
        eng_pace_observe(&q, 1, 0.01);
    assert_near(eng_pace_row_cost(&q), presumed, 1e-6);
    eng_pace fixed = {.fixed = 0.25};
    feed(&fixed, 0.02, 0, 100);
    assert_near(eng_pace_row_cost(&fixed), 0.25, 1e-9);
}

static void one_long_step_changes_little(void **state) {
    (void)state;
    eng_pace p = {0};
    feed(&p, 0.02, 0.001, 200);
    double before = eng_pace_row_cost(&p);
    eng_pace_observe(&p, 2, 30.0);
    eng_pace_observe(&p, 14, 30.0);
    assert_near(eng_pace_row_cost(&p), before, 0.03);
}

static eng_sched_slot decoder(int64_t guesses, float chance) {
    return (eng_sched_slot){.used = true, .most = 256, .guesses = guesses, .chance = chance};
}

static int64_t deal_one(double cost, int64_t guesses, float chance, int64_t rows) {
    const eng_pace p = {.fixed = cost};
    eng_sched_slot s = decoder(guesses, chance);
    eng_pace_deal(&p, &s, 1, rows);
    return s.draft;
}

static void alone(void **state) {
    (void)state;
    assert_int_equal(deal_one(0.01, 15, 0.99f, 47), 15);
    assert_int_equal(deal_one(0.01, 15, 0.99f, 4), 4); /* no more rows */
    assert_int_equal(deal_one(0.01, 3, 0.99f, 47), 3); /* no more guesses */
    assert_int_equal(deal_one(0.1, 15, 0.05f, 47), 0); /* hardly ever true */
    assert_int_equal(deal_one(1.0, 15, 1.0f, 47), 0);  /* a row costs a step */
    int64_t some = deal_one(0.1, 15, 0.7f, 47);
    assert_true(some >= 2 && some <= 6);
    assert_true(deal_one(0.1, 15, 0.9f, 47) > some);
    assert_true(deal_one(0.3, 15, 0.7f, 47) < some);
    assert_int_equal(deal_one(0.1, 0, 0.9f, 47), 0);
    assert_int_equal(deal_one(0.1, 5, 0.9f, 0), 0);
    assert_int_equal(deal_one(0.1, 5, 0.9f, -1), 0);
}

static void in_company(void **state) {
    (void)state;
    enum { N = 16 };
    const eng_pace p = {.fixed = 0.1};
    eng_sched_slot s[N];
    for (int i = 0; i < N; i++)
        s[i] = decoder(8, 0.5f);
    eng_pace_deal(&p, s, N, 32);
    for (int i = 0; i < N; i++) /* sixteen rows already cost what they give */
        assert_int_equal(s[i].draft, 0);
    s[5].chance = 0.97f;
    s[7] = (eng_sched_slot){.used = true, .paused = true, .guesses = 8, .chance = 0.0f};
    eng_pace_deal(&p, s, N, 32);
    for (int i = 0; i < N; i++)
        assert_true(i == 5 ? s[i].draft > 0 : s[i].draft == 0);
    s[9].chance = 0.99f;
    eng_pace_deal(&p, s, N, 3); /* the likeliest first */
    assert_int_equal(s[9].draft, 3);
    assert_int_equal(s[5].draft, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cost_is_measured),
        cmocka_unit_test(one_long_step_changes_little),
        cmocka_unit_test(alone),
        cmocka_unit_test(in_company),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
