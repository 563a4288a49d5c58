/* The stand-in for cmocka must not call a failed test passed: each assertion is given what it must
 * take and what it must refuse. Prints nothing but what is wrong; refusals go to a pipe's end. */
#include "tests/support/cmocka/cmocka.h"

#include <stdio.h>
#include <string.h>

static int done; /* statements reached behind assertions */
static int begun, ended;

static void takes(void **state) {
    static const char text[] = "abc";
    assert_true(1 == 1 && state);
    assert_false(text[0] == 'b');
    assert_null((void *)0);
    assert_non_null(text);
    assert_ptr_equal(text, &text[0]);
    assert_ptr_not_equal(text, &text[1]);
    assert_int_equal(-1, INT64_C(-1));
    assert_int_equal(UINT64_MAX, UINT64_MAX);
    assert_int_not_equal(1, 2);
    assert_in_range(5, 5, 7);
    assert_string_equal(text, "abc");
    assert_memory_equal(text, "abd", 2);
    assert_memory_not_equal(text, "abd", 3);
    done++;
}

#define REFUSED(name, statement)                                                                   \
    static void name(void **state) {                                                               \
        (void)state;                                                                               \
        statement;                                                                                 \
        done += 1000;                                                                              \
    }

REFUSED(no_truth, assert_true(0))
REFUSED(no_falsehood, assert_false(1))
REFUSED(no_null, assert_null("x"))
REFUSED(no_non_null, assert_non_null((void *)0))
REFUSED(no_ptr_equal, assert_ptr_equal(&done, &begun))
REFUSED(no_ptr_not_equal, assert_ptr_not_equal(&done, &done))
REFUSED(no_int_equal, assert_int_equal(INT64_C(1) << 32, 0))
REFUSED(no_int_not_equal, assert_int_not_equal(3, 3))
REFUSED(no_range_below, assert_in_range(4, 5, 7))
REFUSED(no_range_above, assert_in_range(8, 5, 7))
REFUSED(no_string, assert_string_equal("abc", "abd"))
REFUSED(no_memory, assert_memory_equal("abc", "abd", 3))
REFUSED(no_memory_not, assert_memory_not_equal("abc", "abd", 2))
REFUSED(no_fail, fail_msg("%d", 1))

static int begin(void **state) {
    *state = &begun;
    return begun++, 0;
}

static int end(void **state) {
    ended += *state == &begun;
    return 0;
}

static int never(void **state) {
    (void)state;
    fail_msg("%s", "as it should");
}

static int expect(int ok, const char *what) {
    if (!ok)
        fprintf(stderr, "check_cmocka: %s\n", what);
    return !ok;
}

int main(void) {
    const struct CMUnitTest good[] = {cmocka_unit_test(takes),
                                      cmocka_unit_test_setup_teardown(takes, begin, end)};
    const struct CMUnitTest bad[] = {
        cmocka_unit_test(no_truth),
        cmocka_unit_test(no_falsehood),
        cmocka_unit_test(no_null),
        cmocka_unit_test(no_non_null),
        cmocka_unit_test(no_ptr_equal),
        cmocka_unit_test(no_ptr_not_equal),
        cmocka_unit_test(no_int_equal),
        cmocka_unit_test(no_int_not_equal),
        cmocka_unit_test(no_range_below),
        cmocka_unit_test(no_range_above),
        cmocka_unit_test(no_string),
        cmocka_unit_test(no_memory),
        cmocka_unit_test(no_memory_not),
        cmocka_unit_test(no_fail),
        cmocka_unit_test_setup_teardown(takes, never, NULL),
        cmocka_unit_test_setup_teardown(takes, NULL, never),
    };
    const int n = (int)(sizeof bad / sizeof bad[0]);
    int wrong = expect(cmocka_run_group_tests(good, NULL, NULL) == 0, "a good test failed");
    wrong += expect(begun == 1 && ended == 1, "setup and teardown did not run once");
    wrong += expect(cmocka_run_group_tests(bad, NULL, NULL) == n, "a failed assertion passed");
    wrong += expect(done == 3, "a test went on behind a failed assertion, or did not run");
    wrong += expect(cmocka_run_group_tests(good, never, NULL) == 2, "a failed beginning passed");
    wrong += expect(cmocka_run_group_tests(good, begin, never) == 1, "a failed end passed");
    return wrong;
}
