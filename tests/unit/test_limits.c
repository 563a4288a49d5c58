/* Buckets under a clock of our own; tenants; the bounded table of addresses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "server/http/access/limits.h"
#include "server/http/access/tenant.h"

enum { MINUTE = 60000 };

static const int64_t START = 123456789; /* a clock starts anywhere */

static void begins_full_and_fills_evenly(void **unused) {
    (void)unused;
    srv_bucket b = {0};
    for (int i = 0; i < 6; i++)
        assert_int_equal(srv_bucket_take(&b, 6, START, 1), 0);
    assert_int_equal(srv_bucket_take(&b, 6, START, 1), 10); /* one each ten seconds */
    assert_int_equal(srv_bucket_take(&b, 6, START + 4000, 1), 6);
    assert_int_equal(srv_bucket_take(&b, 6, START + 9999, 1), 1);
    assert_int_equal(srv_bucket_take(&b, 6, START + 10000, 1), 0);
    assert_int_equal(srv_bucket_take(&b, 6, START + 10000, 1), 10);
}

static void holds_one_minute(void **unused) {
    (void)unused;
    srv_bucket b = {0};
    int taken = 0;
    assert_int_equal(srv_bucket_take(&b, 5, START, 1), 0);
    while (srv_bucket_take(&b, 5, START + 100 * MINUTE, 1) == 0)
        taken++;
    assert_int_equal(taken, 5);
}

static void no_limit(void **unused) {
    (void)unused;
    srv_bucket b = {0};
    for (int i = 0; i < 1000; i++)
        assert_int_equal(srv_bucket_take(&b, 0, START, 1e12), 0);
    assert_int_equal(srv_bucket_peek(&b, 0, START), 0);
    assert_true(srv_bucket_is_full(&b, 0, START));
}

/* In the long run exactly the rate, whatever the steps of the clock. */
static void keeps_the_rate(void **unused) {
    (void)unused;
    const int64_t rates[] = {1, 7, 60, 1000, 999983};
    for (size_t r = 0; r < sizeof rates / sizeof rates[0]; r++) {
        srv_bucket b = {0};
        int64_t taken = 0, now = START, want;
        uint32_t seed = 5;
        while (now < START + 20 * MINUTE) {
            double amount = (double)rates[r] / 50;
            amount = amount < 1 ? 1 : (double)(int64_t)amount;
            if (srv_bucket_take(&b, rates[r], now, amount) == 0)
                taken += (int64_t)amount;
            now += 1 + (int64_t)((seed = seed * 1103515245u + 12345u) >> 16) % 500;
        }
        want = rates[r] * 21; /* the first minute's worth was there at once */
        assert_true(taken <= want + 1 && taken >= want - want / 40 - 1);
    }
}

static void a_clock_that_steps_back(void **unused) {
    (void)unused;
    srv_bucket b = {0};
    for (int i = 0; i < 60; i++)
        assert_int_equal(srv_bucket_take(&b, 60, START, 1), 0);
    assert_int_equal(srv_bucket_take(&b, 60, START - MINUTE, 1), 1);
    assert_int_equal(srv_bucket_take(&b, 60, START, 1), 1);
    assert_int_equal(srv_bucket_take(&b, 60, START + 1000, 1), 0);
}

static void more_than_it_can_hold(void **unused) {
    (void)unused;
    srv_bucket b = {0};
    assert_int_equal(srv_bucket_take(&b, 60, START, 1), 0);
    assert_int_equal(srv_bucket_take(&b, 60, START, 180), 1); /* when it is full again */
    assert_int_equal(srv_bucket_take(&b, 60, START + 1000, 180), 0);
    assert_int_equal(srv_bucket_peek(&b, 60, START + 1000), 121); /* two minutes of debt, and one */
    assert_int_equal(srv_bucket_take(&b, 60, START + 1000, 1), 121);
    assert_int_equal(srv_bucket_take(&b, 60, START + 1000 + 121000, 1), 0);
    assert_int_equal(srv_bucket_take(&b, 60, START + 122000, 1e15), 60);
    assert_int_equal(srv_bucket_take(&b, 60, START + 9 * MINUTE, 1e15), 0);
    assert_int_equal(srv_bucket_take(&b, 60, START + 9 * MINUTE, 1), SRV_WAIT_MAX);
}

static void what_was_not_used_comes_back(void **unused) {
    (void)unused;
    srv_bucket b = {0};
    assert_int_equal(srv_bucket_take(&b, 100, START, 100), 0);
    assert_true(srv_bucket_peek(&b, 100, START) > 0);
    srv_bucket_return(&b, 100, START, 40);
    assert_int_equal(srv_bucket_peek(&b, 100, START), 0);
    assert_int_equal(srv_bucket_take(&b, 100, START, 40), 0);
    assert_true(srv_bucket_take(&b, 100, START, 1) > 0);
    srv_bucket_return(&b, 100, START, 1000); /* never above full */
    assert_true(srv_bucket_is_full(&b, 100, START));
    assert_int_equal(srv_bucket_take(&b, 100, START, 100), 0);
    assert_true(srv_bucket_take(&b, 100, START, 1) > 0);
    srv_bucket_return(&b, 100, START, -50);
    assert_int_equal(srv_bucket_take(&b, 100, START, 1), 31);
}

static void a_lower_limit_holds_at_once(void **unused) {
    (void)unused;
    srv_bucket b = {0};
    assert_int_equal(srv_bucket_take(&b, 1000, START, 30), 0);
    assert_int_equal(srv_bucket_take(&b, 20, START, 1), 33);
    assert_int_equal(srv_bucket_take(&b, 1000, START, 970), 0);
}

static void presets(void **unused) {
    (void)unused;
    srv_limits preset = {1, 2, 3}, line = {SRV_UNSET, 0, 9};
    srv_limits l = srv_limits_over(line, &preset);
    assert_int_equal(l.requests_per_minute, 1);
    assert_int_equal(l.tokens_per_minute, 0); /* said: none */
    assert_int_equal(l.parallel, 9);
    assert_true(srv_limits_any(&l));
    assert_false(srv_limits_any(&(srv_limits){0}));
}

/* ---- tenants ---- */

static void a_tenant_has_three_limits(void **unused) {
    (void)unused;
    srv_limits limits = {.requests_per_minute = 3, .tokens_per_minute = 100, .parallel = 2};
    srv_tenant *t = srv_tenant_new("alice", 7, &limits);
    srv_problem p;
    assert_non_null(t);
    assert_true(srv_tenant_enter(t, START, &p) && srv_tenant_enter(t, START, &p));
    assert_false(srv_tenant_enter(t, START, &p));
    assert_int_equal(p.err, SRV_ERR_LIMIT_PARALLEL);
    assert_int_equal(p.retry_after, 1);
    srv_tenant_leave(t);
    assert_true(srv_tenant_enter(t, START, &p));
    srv_tenant_leave(t);
    assert_false(srv_tenant_enter(t, START, &p));
    assert_int_equal(p.err, SRV_ERR_LIMIT_REQUESTS);
    assert_int_equal(p.retry_after, 20);
    /* a refused one is not active */
    assert_int_equal(srv_tenant_figure(t, SRV_F_ACTIVE), 1);
    assert_true(srv_tenant_reserve(t, START, 90, &p));
    assert_false(srv_tenant_reserve(t, START, 70, &p));
    assert_int_equal(p.err, SRV_ERR_LIMIT_TOKENS);
    assert_int_equal(p.retry_after, 36);
    srv_tenant_settle(t, START, 90, 10, 20);
    assert_true(srv_tenant_reserve(t, START, 70, &p));
    assert_false(srv_tenant_enter(t, START, &p)); /* nothing is left: not even in */
    assert_int_equal(p.err, SRV_ERR_LIMIT_TOKENS);
    const int64_t want[] = {3, 4, 10, 20, 1};
    for (int f = 0; f < SRV_F_COUNT; f++)
        assert_int_equal(srv_tenant_figure(t, (srv_figure)f), want[f]);
    srv_tenant_unref(t);
}

static void nobody_has_no_limits(void **unused) {
    (void)unused;
    srv_problem p;
    assert_true(srv_tenant_enter(NULL, START, &p));
    assert_true(srv_tenant_reserve(NULL, START, 1000000, &p));
    srv_tenant_settle(NULL, START, 1, 2, 3);
    srv_tenant_leave(NULL);
    srv_tenant_unref(srv_tenant_ref(NULL));
}

/* ---- addresses ---- */

static srv_addr numbered(uint32_t n) {
    srv_addr a = {.kind = SRV_ADDR_V4};
    memcpy(a.b, &n, sizeof n);
    return a;
}

static void addresses_are_told_apart(void **unused) {
    (void)unused;
    srv_limits limits = {.requests_per_minute = 1};
    srv_addresses *t = srv_addresses_new(&limits, 8);
    srv_addr a = numbered(1), b = numbered(2), six = {.kind = SRV_ADDR_V6, .b = {0x20, 1}};
    srv_problem p;
    srv_tenant *x = srv_addresses_find(t, &a, START), *y = srv_addresses_find(t, &b, START);
    assert_true(srv_tenant_enter(x, START, &p) && srv_tenant_enter(y, START, &p));
    assert_false(srv_tenant_enter(x, START, &p));
    assert_int_equal(x->id, 0);
    srv_tenant *z = srv_addresses_find(t, &a, START);
    assert_ptr_equal(x, z);
    srv_tenant_unref(z);
    /* one household */
    z = srv_addresses_find(t, &six, START);
    six.b[15] = 9;
    srv_tenant *same = srv_addresses_find(t, &six, START);
    assert_ptr_equal(z, same);
    six.b[7] = 1;
    srv_tenant *other = srv_addresses_find(t, &six, START);
    assert_ptr_not_equal(z, other);
    assert_int_equal(srv_addresses_count(t), 4);
    srv_tenant *all[] = {x, y, z, same, other};
    for (int i = 0; i < 5; i++)
        srv_tenant_unref(all[i]);
    srv_addresses_free(t);
}

static void the_table_is_bounded(void **unused) {
    (void)unused;
    enum { MAX = 64 };
    srv_limits limits = {.requests_per_minute = 1};
    srv_addresses *t = srv_addresses_new(&limits, MAX);
    srv_problem p;
    for (uint32_t i = 0; i < 10000; i++) {
        srv_addr a = numbered(i * 2654435761u);
        srv_tenant *x = srv_addresses_find(t, &a, START + i);
        assert_non_null(x);
        assert_true(srv_tenant_enter(x, START + i, &p));
        srv_tenant_leave(x);
        srv_tenant_unref(x);
        assert_true(srv_addresses_count(t) <= MAX);
    }
    srv_addresses_free(t);
}

/* Whoever has spent something is kept before those who have not. */
static void what_was_spent_is_remembered(void **unused) {
    (void)unused;
    srv_limits limits = {.requests_per_minute = 1};
    srv_addresses *t = srv_addresses_new(&limits, 4);
    srv_problem p;
    srv_addr spender = numbered(1);
    srv_tenant *x = srv_addresses_find(t, &spender, START);
    assert_true(srv_tenant_enter(x, START, &p));
    srv_tenant_leave(x);
    srv_tenant_unref(x);
    for (uint32_t i = 2; i < 100; i++) {
        srv_addr a = numbered(i);
        srv_tenant_unref(srv_addresses_find(t, &a, START));
    }
    x = srv_addresses_find(t, &spender, START);
    assert_false(srv_tenant_enter(x, START, &p));
    srv_tenant_unref(x);
    srv_addresses_free(t);
}

static void those_being_answered_stay(void **unused) {
    (void)unused;
    srv_limits limits = {.parallel = 1};
    srv_addresses *t = srv_addresses_new(&limits, 3);
    srv_tenant *x[3];
    srv_problem p;
    for (uint32_t i = 0; i < 3; i++) {
        srv_addr a = numbered(i);
        x[i] = srv_addresses_find(t, &a, START);
        assert_true(srv_tenant_enter(x[i], START, &p));
    }
    srv_addr more = numbered(9);
    assert_null(srv_addresses_find(t, &more, START));
    srv_tenant_leave(x[1]);
    srv_tenant *y = srv_addresses_find(t, &more, START);
    assert_non_null(y);
    srv_tenant_unref(y);
    for (int i = 0; i < 3; i++)
        srv_tenant_unref(x[i]);
    srv_addresses_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(begins_full_and_fills_evenly),
        cmocka_unit_test(holds_one_minute),
        cmocka_unit_test(no_limit),
        cmocka_unit_test(keeps_the_rate),
        cmocka_unit_test(a_clock_that_steps_back),
        cmocka_unit_test(more_than_it_can_hold),
        cmocka_unit_test(what_was_not_used_comes_back),
        cmocka_unit_test(a_lower_limit_holds_at_once),
        cmocka_unit_test(presets),
        cmocka_unit_test(a_tenant_has_three_limits),
        cmocka_unit_test(nobody_has_no_limits),
        cmocka_unit_test(addresses_are_told_apart),
        cmocka_unit_test(the_table_is_bounded),
        cmocka_unit_test(what_was_spent_is_remembered),
        cmocka_unit_test(those_being_answered_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
