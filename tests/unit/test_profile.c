/* The counting backend changes no bit and counts what was done; the limits give figures for any
 * number of threads and any memory. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cpu/peaks.h"
#include "kernels/profile.h"

enum { ROWS = 48, COLS = 32, N = 3 };

typedef struct fixture {
    kn_backend *be;
    kn_profile *profile;
    float w[ROWS * COLS], x[N * COLS];
} fixture;

static int open_fixture(void **state) {
    fixture *f = calloc(1, sizeof *f);
    tnl_error err;
    assert_non_null(f);
    assert_int_equal(kn_cpu_open(&f->be, 2, NULL, &err), TNL_OK);
    assert_int_equal(kn_profile_open(&f->profile, f->be, &err), TNL_OK);
    for (int i = 0; i < ROWS * COLS; i++)
        f->w[i] = sinf((float)i);
    for (int i = 0; i < N * COLS; i++)
        f->x[i] = cosf((float)i);
    *state = f;
    return 0;
}

static int close_fixture(void **state) {
    fixture *f = *state;
    kn_profile_close(f->profile);
    kn_backend_close(f->be);
    free(f);
    return 0;
}

/* y [N][ROWS], zero before. */
static void multiply(fixture *f, kn_backend *be, float *y, int64_t rows, int64_t n, bool add) {
    const kn_tensor w = {f->w, KN_F32, rows, COLS};
    void *work = be->alloc(be, kn_linear_work_bytes(be, n, COLS), KN_ON_DEVICE);
    assert_non_null(work);
    be->ops->linear(be, &(kn_linear){.n = n,
                                     .x = f->x,
                                     .ldx = COLS,
                                     .norm = {.kind = KN_NORM_SRMS, .eps = 1e-6F},
                                     .w = &w,
                                     .epi = add ? KN_ADD : KN_STORE,
                                     .y = y,
                                     .ldy = ROWS,
                                     .work = work});
    be->free(be, work, KN_ON_DEVICE);
}

static void test_same_bits(void **state) {
    fixture *f = *state;
    float plain[N * ROWS] = {0}, counted[N * ROWS] = {0};
    multiply(f, f->be, plain, ROWS, N, false);
    multiply(f, kn_profile_backend(f->profile), counted, ROWS, N, false);
    assert_memory_equal(plain, counted, sizeof plain);
}

static void test_counts(void **state) {
    fixture *f = *state;
    kn_backend *be = kn_profile_backend(f->profile);
    float y[N * ROWS] = {0};
    const kn_profile_row *r;
    kn_profile_reset(f->profile);
    multiply(f, be, y, ROWS, N, false);
    multiply(f, be, y, ROWS, 1, false);
    multiply(f, be, y, ROWS, N, true); /* other shapes: rows of their own */
    multiply(f, be, y, ROWS - 1, N, false);
    assert_int_equal(kn_profile_rows(f->profile, &r), 3);
    assert_int_equal(r[0].op, KN_OP_LINEAR);
    assert_int_equal(r[0].calls, 2);
    assert_true(r[0].norm && !r[0].mul && !r[0].two && !r[0].add && r[1].add);
    assert_true(r[0].bytes == 2.0 * ROWS * COLS * sizeof(float));
    assert_true(r[0].ops == 2.0 * (N + 1) * ROWS * COLS);
    assert_true(r[0].seconds > 0);
    char name[KN_PROFILE_NAME];
    kn_profile_name(name, &r[1]);
    assert_string_equal(name, "norm product 48x32 add");
    kn_profile_reset(f->profile);
    assert_int_equal(kn_profile_rows(f->profile, &r), 0);
}

/* Shapes beyond the table share its last row: nothing is lost, nothing overflows. */
static void test_many_shapes(void **state) {
    fixture *f = *state;
    kn_backend *be = kn_profile_backend(f->profile);
    const kn_profile_row *r;
    bool ok[N];
    int64_t calls = 0;
    kn_profile_reset(f->profile);
    for (int dim = 1; dim <= KN_PROFILE_ROWS + 20; dim++)
        be->ops->finite_rows(be, ok, f->w, KN_PROFILE_ROWS + 20, N, dim);
    int n = kn_profile_rows(f->profile, &r);
    assert_int_equal(n, KN_PROFILE_ROWS);
    for (int i = 0; i < n; i++)
        calls += r[i].calls;
    assert_int_equal(calls, KN_PROFILE_ROWS + 20);
    assert_int_equal(r[n - 1].calls, 21);
}

/* ---- limits ---- */

static void check_limits(kn_limits *l, int threads) {
    kn_peaks p;
    kn_limits_choose(l, &p, threads, 0.01);
    assert_int_equal(p.threads, threads);
    for (kn_limit kind = 0; kind < KN_LIMIT_COUNT; kind++) {
        double rate = kn_limits_slice(l, &p, kind, 1e-4);
        assert_true(p.rate[kind] > 0 && isfinite(p.rate[kind]));
        assert_true(rate > 0 && isfinite(rate));
        assert_non_null(p.loop[kind]);
    }
}

static void test_limits(void **state) {
    (void)state;
    tnl_error err;
    kn_limits *l;
    assert_int_equal(kn_limits_open(&l, 3, NULL, 0, &err), TNL_OK);
    check_limits(l, 1);
    check_limits(l, 3);
    kn_limits_close(l);
    kn_limits_close(NULL);
}

static void test_limits_of_regions(void **state) {
    (void)state;
    tnl_error err;
    kn_limits *l;
    size_t n = 3 * KN_READ_PIECE + 64;
    char *memory = aligned_alloc(64, n);
    assert_non_null(memory);
    memset(memory, 1, n);
    const kn_region regions[] = {{memory, 2 * KN_READ_PIECE},
                                 {memory + 2 * KN_READ_PIECE, 64},
                                 {memory + 2 * KN_READ_PIECE + 64, KN_READ_PIECE}};
    assert_int_equal(kn_limits_open(&l, 2, regions, 3, &err), TNL_OK);
    check_limits(l, 2);
    kn_limits_close(l);
    assert_int_equal(kn_limits_open(&l, 4, regions, 3, &err), TNL_E_LIMIT);
    assert_null(l);
    free(memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_same_bits, open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(test_counts, open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(test_many_shapes, open_fixture, close_fixture),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_limits_of_regions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
