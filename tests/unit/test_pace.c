/* The cost of a row as measured, and which guesses get rows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/engine/pace.h"

/* Steps of 1..16 rows; up to `few` a row is free, then it costs `row` of a step, from the first. */
static void feed(eng_pace *p, double unit, int few, double row, int steps) {
    for (int i = 0; i < steps; i++) {
        int64_t rows = i % 2 ? 1 : 1 + i * 7 % 16;
        eng_pace_observe(p, rows, unit * (rows <= few ? 1 : 1 + row * (double)rows));
    }
}

static void assert_near(double x, double want, double within) {
    if (!(x > want - within && x < want + within))
        fail_msg("%g, expected %g", x, want);
}

static void times_are_measured(void **state) {
    (void)state;
    eng_pace p = {0};
    assert_near(eng_pace_time(&p, 1), 1, 1e-9);
    assert_true(eng_pace_time(&p, 9) > 1 && eng_pace_time(&p, 9) < 2);
    feed(&p, 0.02, 6, 0.15, 400);
    assert_near(eng_pace_time(&p, 1), 1, 1e-9);
    assert_near(eng_pace_time(&p, 5), 1, 0.05);
    assert_near(eng_pace_time(&p, 9), 1 + 0.15 * 9, 0.1);
    assert_near(eng_pace_time(&p, 8), 0.5 * (eng_pace_time(&p, 7) + eng_pace_time(&p, 9)), 0.1);
    feed(&p, 0.06, 6, 0.15, 400); /* the machine has slowed down, all alike */
    assert_near(eng_pace_time(&p, 5), 1, 0.05);
    assert_near(eng_pace_time(&p, 9), 1 + 0.15 * 9, 0.2);
    feed(&p, 0.02, 16, 0, 800); /* now rows are free */
    assert_near(eng_pace_time(&p, 15), 1, 0.1);
    eng_pace fixed = {.fixed = 0.25};
    feed(&fixed, 0.02, 0, 0.1, 100);
    assert_near(eng_pace_time(&fixed, 5), 2, 1e-9);
}

static void one_long_step_is_forgotten(void **state) {
    (void)state;
    eng_pace p = {0};
    feed(&p, 0.02, 6, 0.15, 200);
    eng_pace_observe(&p, 3, 30.0); /* and never again */
    assert_true(eng_pace_time(&p, 3) < 1.5);
    eng_pace q = {0};
    eng_pace_observe(&q, 1, 0.02);
    eng_pace_observe(&q, 2, 30.0);
    assert_true(eng_pace_time(&q, 2) > 1.5);
    for (int i = 0; i < 2000; i++)
        eng_pace_observe(&q, 1, 0.02);
    assert_true(eng_pace_time(&q, 2) < 1.2);
    eng_pace_observe(&q, 0, 1);
    eng_pace_observe(&q, ENG_PACE_ROWS + 1, 1);
    eng_pace_observe(&q, 1, 0);
    assert_near(eng_pace_time(&q, 1), 1, 1e-9);
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
        cmocka_unit_test(times_are_measured),
        cmocka_unit_test(one_long_step_is_forgotten),
        cmocka_unit_test(alone),
        cmocka_unit_test(in_company),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
