/* The JSON front door: what passes, what does not, with which fault and at which byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/json_scan.h"

static const tnl_json_limits limits = {
    .max_bytes = 1 << 20, .max_values = 1000, .max_depth = 32, .max_keys = 16};

typedef struct json_case {
    const char *text;
    size_t n; /* 0: strlen */
    tnl_json_fault fault;
    const char *words; /* part of the line, NULL when it passes */
} json_case;

#define OK(t)                                                                                      \
    { t, 0, TNL_JSON_OK, NULL }
#define BAD(t, w)                                                                                  \
    { t, 0, TNL_JSON_INVALID, w }

static const json_case cases[] = {
    OK("{}"),
    OK("[]"),
    OK(" \t\r\n[ ] \n"),
    OK("0"),
    OK("-0"),
    OK("\"x\""),
    OK("null"),
    OK("[true,false,null,1,-1.5,1e3,1E-2,0.5e+7]"),
    OK("{\"a\":{\"a\":{\"a\":1}},\"b\":{\"a\":2}}"),
    OK("[{\"a\":1},{\"a\":1}]"),
    OK("{\"A\":1,\"a\":2}"),
    OK("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uD83D\\uDE00\""),
    OK("\"\xC3\xA9\xF0\x9F\x98\x80\""),
    OK("1e308"),
    OK("1.7976931348623157e308"),
    OK("1e-999"),
    OK("\"\x7F\""),
    BAD("", "byte 0: the text ends too early"),
    BAD("   ", "ends too early"),
    BAD("{", "ends too early"),
    BAD("[1", "ends too early"),
    BAD("[1,", "ends too early"),
    BAD("{\"a\"", "ends too early"),
    BAD("{\"a\":", "ends too early"),
    BAD("\"abc", "ends too early"),
    BAD("\"abc\\", "unknown escape"),
    BAD("[1,]", "byte 3: expected a value"),
    BAD("{\"a\":1,}", "byte 7: expected a key"),
    BAD("{a:1}", "byte 1: expected a key"),
    BAD("{'a':1}", "expected a key"),
    BAD("{\"a\" 1}", "expected ':'"),
    BAD("{\"a\":1 \"b\":2}", "expected ',' or '}'"),
    BAD("[1 2]", "expected ',' or ']'"),
    BAD("[1}", "expected ',' or ']'"),
    BAD("{\"a\":1]", "expected ',' or '}'"),
    BAD("[] []", "byte 3: text after the end"),
    BAD("{}x", "text after the end"),
    BAD("]", "expected a value"),
    BAD("NaN", "expected a value"),
    BAD("Infinity", "expected a value"),
    BAD("-Infinity", "expected a value"),
    BAD("nul", "expected a value"),
    BAD("truex", "text after the end"),
    BAD("+1", "expected a value"),
    BAD(".5", "expected a value"),
    BAD("5.", "ends too early"),
    BAD("[5.]", "expected a digit after '.'"),
    BAD("[1e]", "expected a digit in the exponent"),
    BAD("[1e+]", "expected a digit in the exponent"),
    BAD("-", "expected a value"),
    BAD("007", "byte 0: leading zero"),
    BAD("-01", "leading zero"),
    BAD("0x10", "text after the end"),
    BAD("// c\n1", "expected a value"),
    BAD("\xEF\xBB\xBF{}", "byte 0: byte order mark"),
    BAD("\"a\nb\"", "control character"),
    BAD("\"a\tb\"", "control character"),
    BAD("[\x01]", "expected a value"),
    BAD("[\v1]", "expected a value"),
    BAD("\"\\x41\"", "unknown escape"),
    BAD("\"\\u12\"", "unknown escape"),
    BAD("\"\\u00zz\"", "unknown escape"),
    BAD("\"\\u0000\"", "\\u0000"),
    BAD("{\"a\\u0000b\":1}", "\\u0000"),
    BAD("\"\\uD800\"", "surrogate"),
    BAD("\"\\uDC00\"", "surrogate"),
    BAD("\"\\uD800\\uD800\"", "surrogate"),
    BAD("\"\\uDC00\\uD800\"", "surrogate"),
    BAD("\"\\uD800x\"", "surrogate"),
    {"\"a\0b\"", 5, TNL_JSON_INVALID, "NUL byte"},
    {"{}\0", 3, TNL_JSON_INVALID, "text after the end"},
    {"\"\xFF\"", 0, TNL_JSON_UTF8, "byte 1: invalid UTF-8"},
    {"\"\xC0\x80\"", 0, TNL_JSON_UTF8, "invalid UTF-8"},
    {"\"\xED\xA0\x80\"", 0, TNL_JSON_UTF8, "invalid UTF-8"},
    {"\"\xF4\x90\x80\x80\"", 0, TNL_JSON_UTF8, "invalid UTF-8"},
    {"\"\xE2\x82", 0, TNL_JSON_UTF8, "invalid UTF-8"},
    {"{\"\xFF\":1}", 0, TNL_JSON_UTF8, "byte 2: invalid UTF-8"},
    {"\xFF\xFE{\0}\0", 6, TNL_JSON_UTF8, "invalid UTF-8"},
    {"{\"a\":1,\"a\":2}", 0, TNL_JSON_DUPLICATE, "byte 7: duplicate key \"a\""},
    {"{\"prompt\":1,\"\\u0070rompt\":2}", 0, TNL_JSON_DUPLICATE, "duplicate key"},
    {"{\"x\":{\"k\":1,\"k\":1}}", 0, TNL_JSON_DUPLICATE, "duplicate key \"k\""},
    {"{\"\xC3\xA9\":1,\"\\u00E9\":2}", 0, TNL_JSON_DUPLICATE, "duplicate key"},
    {"{\"\":1,\"\":2}", 0, TNL_JSON_DUPLICATE, "duplicate key \"\""},
    {"1e999", 0, TNL_JSON_NUMBER, "byte 0: number too large"},
    {"{\"a\":0,\"b\":[{\"x\":1},1e999]}", 0, TNL_JSON_NUMBER, "byte 20: \"b\": number too large"},
    {"[-1e999]", 0, TNL_JSON_NUMBER, "byte 1: number too large"},
    {"1.8e308", 0, TNL_JSON_NUMBER, "number too large"},
    {"1111111111111111111111111111111111111111111111111111111111111111", 0, TNL_JSON_LIMIT,
     "more than 63"},
};

static void table(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const json_case *c = &cases[i];
        size_t n = c->n ? c->n : strlen(c->text);
        char *exact = malloc(n + !n); /* so that a sanitizer sees a read beyond the end */
        assert_non_null(exact);
        memcpy(exact, c->text, n);
        tnl_json_fault fault = TNL_JSON_LIMIT;
        tnl_error err = {0};
        tnl_status st = tnl_json_check(exact, n, &limits, &fault, &err);
        free(exact);
        bool as_said = fault == c->fault && (st == TNL_OK) == (c->words == NULL) &&
                       (!c->words || strstr(err.msg, c->words));
        if (!as_said)
            fail_msg("case %zu: %s\n gave fault %d, status %d, \"%s\"", i, c->text, fault, st,
                     err.msg);
    }
}

/* n times `unit`, between `head` and `tail`. */
static char *repeated(const char *head, const char *unit, size_t n, const char *tail) {
    size_t u = strlen(unit), cap = strlen(head) + n * u + strlen(tail) + 1, at = strlen(head);
    char *s = malloc(cap);
    assert_non_null(s);
    memcpy(s, head, at);
    for (size_t i = 0; i < n; i++, at += u)
        memcpy(s + at, unit, u);
    memcpy(s + at, tail, strlen(tail) + 1);
    return s;
}

static tnl_json_fault fault_of(char *owned) {
    tnl_json_fault fault;
    tnl_error err;
    tnl_status st = tnl_json_check(owned, strlen(owned), &limits, &fault, &err);
    assert_int_equal(st == TNL_OK, fault == TNL_JSON_OK);
    assert_int_equal(st == TNL_E_LIMIT, fault == TNL_JSON_LIMIT);
    free(owned);
    return fault;
}

static char *with_keys(int n) {
    char *s = malloc((size_t)n * 16 + 3);
    assert_non_null(s);
    size_t at = 0;
    s[at++] = '{';
    for (int i = 0; i < n; i++)
        at += (size_t)snprintf(s + at, 16, "%s\"k%d\":0", i ? "," : "", i);
    s[at++] = '}';
    s[at] = 0;
    return s;
}

static void limit_edges(void **state) {
    (void)state;
    assert_int_equal(fault_of(repeated("[0", ",0", 998, "]")), TNL_JSON_OK);
    assert_int_equal(fault_of(repeated("[0", ",0", 999, "]")), TNL_JSON_LIMIT);
    assert_int_equal(fault_of(repeated("", "[", 33, "")), TNL_JSON_LIMIT);
    assert_int_equal(fault_of(repeated("", "[", 100000, "")), TNL_JSON_LIMIT);
    assert_int_equal(fault_of(repeated("", "{\"a\":", 100000, "")), TNL_JSON_LIMIT);
    assert_int_equal(fault_of(with_keys(16)), TNL_JSON_OK);
    assert_int_equal(fault_of(with_keys(17)), TNL_JSON_LIMIT);
    char deep[65];
    memset(deep, '[', 32);
    memset(deep + 32, ']', 32);
    deep[64] = 0;
    assert_int_equal(fault_of(strdup(deep)), TNL_JSON_OK);
    assert_int_equal(fault_of(repeated("\"", "x", (1 << 20) - 2, "\"")), TNL_JSON_OK);
    assert_int_equal(fault_of(repeated("\"", "x", (1 << 20) - 1, "\"")), TNL_JSON_LIMIT);
}

/* Many keys at two levels, so that the hash set grows while outer keys are in it. */
static void many_keys(void **state) {
    (void)state;
    const tnl_json_limits wide = {
        .max_bytes = 1 << 26, .max_values = 1 << 22, .max_depth = 8, .max_keys = 1 << 20};
    enum { N = 100000 };
    char *s = malloc((size_t)N * 40 + 64);
    assert_non_null(s);
    size_t at = 0;
    s[at++] = '{';
    for (int i = 0; i < N; i++)
        at += (size_t)snprintf(s + at, 40, "%s\"k%d\":{\"a\":1,\"b\":2}", i ? "," : "", i);
    size_t full = at;
    s[at] = '}';
    assert_int_equal(tnl_json_check(s, at + 1, &wide, NULL, NULL), TNL_OK);
    at = full + (size_t)snprintf(s + full, 40, ",\"k%d\":1}", N / 2);
    tnl_json_fault fault;
    assert_int_equal(tnl_json_check(s, at, &wide, &fault, NULL), TNL_E_DATA);
    assert_int_equal(fault, TNL_JSON_DUPLICATE);
    free(s);
}

/* Every beginning of a good text is refused, and nothing is read beyond it. */
static void every_cut(void **state) {
    (void)state;
    static const char text[] =
        "{\"a\":[1,-2.5e3,true,null,\"x\\u00e9\\uD83D\\uDE00\\n\"],\"b\":{\"c\":{}}}";
    for (size_t n = 0; n < sizeof text - 1; n++) {
        char *cut = malloc(n + !n);
        assert_non_null(cut);
        memcpy(cut, text, n);
        assert_int_equal(tnl_json_check(cut, n, &limits, NULL, NULL), TNL_E_DATA);
        free(cut);
    }
    assert_int_equal(tnl_json_check(text, sizeof text - 1, &limits, NULL, NULL), TNL_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table),
        cmocka_unit_test(limit_edges),
        cmocka_unit_test(many_keys),
        cmocka_unit_test(every_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
