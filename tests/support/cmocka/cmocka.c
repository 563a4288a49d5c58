/* See cmocka.h. Assertions are made by the thread that runs the tests; one by another thread ends
 * the program, since it has no test to return to. */
#include "tests/support/cmocka/cmocka.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where a failed assertion goes on: one test runs at a time. */
static _Thread_local jmp_buf *back;

void print_message(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    fflush(stdout);
}

void cm_fail(const char *file, int line, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fflush(stdout);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    if (back)
        longjmp(*back, 1);
    abort();
}

void cm_truth(int ok, const char *text, const char *file, int line) {
    if (!ok)
        cm_fail(file, line, "expected %s", text);
}

void cm_integers(uint64_t a, uint64_t b, int equal, const char *a_text, const char *b_text,
                 const char *file, int line) {
    if ((a == b) != equal)
        cm_fail(file, line, "expected %s %s %s, found %" PRId64 " and %" PRId64, a_text,
                equal ? "==" : "!=", b_text, (int64_t)a, (int64_t)b);
}

void cm_range(uint64_t x, uint64_t least, uint64_t most, const char *text, const char *file,
              int line) {
    if (x < least || x > most)
        cm_fail(file, line, "expected %s in %" PRIu64 "..%" PRIu64 ", found %" PRIu64, text, least,
                most, x);
}

void cm_strings(const char *a, const char *b, const char *file, int line) {
    if (!a || !b || strcmp(a, b) != 0)
        cm_fail(file, line, "expected equal strings, found \"%s\" and \"%s\"", a ? a : "(NULL)",
                b ? b : "(NULL)");
}

void cm_memory(const void *a, const void *b, size_t n, int equal, const char *a_text,
               const char *b_text, const char *file, int line) {
    const unsigned char *x = a, *y = b;
    size_t i = 0;
    while (i < n && x[i] == y[i])
        i++;
    if (equal && i < n)
        cm_fail(file, line, "%s and %s differ at byte %zu of %zu: 0x%02x and 0x%02x", a_text,
                b_text, i, n, x[i], y[i]);
    if (!equal && i == n)
        cm_fail(file, line, "%s and %s are the same %zu bytes", a_text, b_text, n);
}

/* ---- running ---- */

static int run_fixture(CMFixtureFunction f, void **state) {
    jmp_buf here;
    volatile int failed = 1;
    back = &here;
    if (!f)
        failed = 0;
    else if (setjmp(here) == 0)
        failed = f(state) != 0;
    back = NULL;
    return failed;
}

static int run_body(CMUnitTestFunction f, void **state) {
    jmp_buf here;
    volatile int failed = 1;
    back = &here;
    if (setjmp(here) == 0) {
        f(state);
        failed = 0;
    }
    back = NULL;
    return failed;
}

static int run_test(const struct CMUnitTest *t, void *shared) {
    void *state = shared;
    print_message("[ run    ] %s\n", t->name);
    int failed = run_fixture(t->setup_func, &state);
    if (!failed)
        failed = run_body(t->test_func, &state);
    failed |= run_fixture(t->teardown_func, &state);
    print_message("[ %s ] %s\n", failed ? "FAILED" : "ok    ", t->name);
    return failed;
}

int cm_run(const char *group, const struct CMUnitTest *tests, size_t n, CMFixtureFunction setup,
           CMFixtureFunction teardown) {
    void *state = NULL;
    int failures = 0;
    if (run_fixture(setup, &state)) {
        print_message("[ FAILED ] the beginning of %s\n", group);
        return (int)n;
    }
    for (size_t i = 0; i < n; i++)
        failures += run_test(&tests[i], state);
    failures += run_fixture(teardown, &state);
    print_message("%s: %zu tests, %d failed\n", group, n, failures);
    return failures;
}
