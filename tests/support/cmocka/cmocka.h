/* The part of cmocka's interface that the tests here use, for machines that lack the library (a GPU
 * machine with a compiler and little else): -Dcmocka=disabled, or where it is not found. A failed
 * assertion ends its test, says where, and the next test begins. */
#ifndef TNL_TESTS_CMOCKA_H
#define TNL_TESTS_CMOCKA_H

#include <stddef.h>
#include <stdint.h>

typedef void (*CMUnitTestFunction)(void **state);
typedef int (*CMFixtureFunction)(void **state); /* other than 0: failed */

struct CMUnitTest {
    const char *name;
    CMUnitTestFunction test_func;
    CMFixtureFunction setup_func, teardown_func; /* NULL: none */
};

#define cmocka_unit_test_setup_teardown(f, setup, teardown)                                        \
    { #f, f, setup, teardown }
#define cmocka_unit_test(f) cmocka_unit_test_setup_teardown(f, NULL, NULL)

/* The number of failed tests. */
#define cmocka_run_group_tests_name(group, tests, setup, teardown)                                 \
    cm_run((group), (tests), sizeof(tests) / sizeof(tests)[0], (setup), (teardown))
#define cmocka_run_group_tests(tests, setup, teardown)                                             \
    cmocka_run_group_tests_name(#tests, tests, setup, teardown)

/* Values that are compared are taken as 64 bits, whatever their type. */
#define cm_bits(x) ((uint64_t)(x))

#define assert_true(x) cm_truth(!!(x), #x, __FILE__, __LINE__)
#define assert_false(x) cm_truth(!(x), "not " #x, __FILE__, __LINE__)
#define assert_null(x) cm_truth((x) == NULL, #x " is NULL", __FILE__, __LINE__)
#define assert_non_null(x) cm_truth((x) != NULL, #x " is not NULL", __FILE__, __LINE__)
#define assert_ptr_equal(a, b) cm_truth((a) == (b), #a " == " #b, __FILE__, __LINE__)
#define assert_ptr_not_equal(a, b) cm_truth((a) != (b), #a " != " #b, __FILE__, __LINE__)
#define assert_int_equal(a, b) cm_integers(cm_bits(a), cm_bits(b), 1, #a, #b, __FILE__, __LINE__)
#define assert_int_not_equal(a, b)                                                                 \
    cm_integers(cm_bits(a), cm_bits(b), 0, #a, #b, __FILE__, __LINE__)
#define assert_in_range(x, least, most)                                                            \
    cm_range(cm_bits(x), cm_bits(least), cm_bits(most), #x, __FILE__, __LINE__)
#define assert_string_equal(a, b) cm_strings((a), (b), __FILE__, __LINE__)
#define assert_memory_equal(a, b, n) cm_memory((a), (b), (n), 1, #a, #b, __FILE__, __LINE__)
#define assert_memory_not_equal(a, b, n) cm_memory((a), (b), (n), 0, #a, #b, __FILE__, __LINE__)
#define fail_msg(...) cm_fail(__FILE__, __LINE__, __VA_ARGS__)

__attribute__((format(printf, 1, 2))) void print_message(const char *format, ...);

/* What the macros call. */
__attribute__((format(printf, 3, 4), noreturn)) void cm_fail(const char *file, int line,
                                                             const char *format, ...);
void cm_truth(int ok, const char *text, const char *file, int line);
void cm_integers(uint64_t a, uint64_t b, int equal, const char *a_text, const char *b_text,
                 const char *file, int line);
void cm_range(uint64_t x, uint64_t least, uint64_t most, const char *text, const char *file,
              int line);
void cm_strings(const char *a, const char *b, const char *file, int line);
void cm_memory(const void *a, const void *b, size_t n, int equal, const char *a_text,
               const char *b_text, const char *file, int line);
int cm_run(const char *group, const struct CMUnitTest *tests, size_t n, CMFixtureFunction setup,
           CMFixtureFunction teardown);

#endif
