/* The JSON writer and the reader of token ids, against properties; bodies by example are in
 * tests/http. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>

#include "kernels/base/json_scan.h"
#include "kernels/base/utf8.h"
#include "server/http/api/token_ids.h"
#include "server/http/json/json_in.h"
#include "server/http/json/json_out.h"

static uint64_t state = 88172645463325252u;

static uint64_t draw(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* ---- writer ---- */

static void check_string(const char *in, size_t n) {
    static const tnl_json_limits limits = {1 << 16, 16, 4, 4};
    srv_buf b = {0};
    tnl_error err;
    srv_json_string(&b, in, n);
    assert_false(b.failed);
    assert_true(tnl_utf8_valid(b.data, b.len));
    assert_null(memchr(b.data, '\n', b.len));
    /* The strict check refuses an escaped NUL, which is the only thing it may object to. */
    if (!memchr(in, 0, n))
        assert_int_equal(tnl_json_check(b.data, b.len, &limits, NULL, &err), TNL_OK);
    srv_buf_free(&b);
}

static void test_any_bytes_become_a_json_string(void **unused) {
    (void)unused;
    char bytes[64];
    for (int round = 0; round < 20000; round++) {
        size_t n = draw() % sizeof bytes;
        for (size_t i = 0; i < n; i++) /* mostly ASCII, so that whole characters occur */
            bytes[i] = (char)(draw() % 3 ? draw() % 128 : draw());
        check_string(bytes, n);
    }
}

static void check_written(const char *in, size_t n, const char *want) {
    srv_buf b = {0};
    srv_json_string(&b, in, n);
    srv_buf_put(&b, "", 1);
    assert_string_equal(b.data, want);
    srv_buf_free(&b);
}

static void test_escapes(void **unused) {
    (void)unused;
    check_written("", 0, "\"\"");
    check_written("a\"b\\c/", 6, "\"a\\\"b\\\\c/\"");
    check_written("\n\r\t\b\f\0\x1f\x7f", 8, "\"\\n\\r\\t\\u0008\\u000c\\u0000\\u001f\\u007f\"");
    check_written("\xC3\xA9\xF0\x9F\x90\xA2", 6, "\"\xC3\xA9\xF0\x9F\x90\xA2\"");
    check_written("a\xFF"
                  "b",
                  3,
                  "\"a\xEF\xBF\xBD"
                  "b\"");
    check_written("\xE2\x82", 2, "\"\xEF\xBF\xBD\xEF\xBF\xBD\"");
}

static void test_floats_read_back(void **unused) {
    (void)unused;
    for (int round = 0; round < 200000; round++) {
        uint32_t bits = (uint32_t)draw();
        float f;
        memcpy(&f, &bits, sizeof f);
        srv_buf b = {0};
        srv_json_float(&b, f);
        srv_buf_put(&b, "", 1);
        if (isfinite(f))
            assert_true(strtof(b.data, NULL) == f);
        else
            assert_string_equal(b.data, "null");
        assert_true(b.len <= 17);
        srv_buf_free(&b);
    }
}

static void test_doubles_read_back(void **unused) {
    (void)unused;
    const double odd[] = {0, -0.0, 1, 0.1, DBL_MAX, DBL_MIN, 5e-324, 1e22, 1.0 / 3, 2.5e-5};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        srv_buf b = {0};
        srv_json_double(&b, odd[i]);
        srv_buf_put(&b, "", 1);
        assert_true(strtod(b.data, NULL) == odd[i]);
        srv_buf_free(&b);
    }
    srv_buf b = {0};
    srv_json_double(&b, NAN);
    srv_json_double(&b, -INFINITY);
    srv_json_ms(&b, INFINITY);
    srv_buf_put(&b, "", 1);
    assert_string_equal(b.data, "nullnullnull");
    srv_buf_free(&b);
}

static void test_integers(void **unused) {
    (void)unused;
    const int64_t values[] = {0, 1, -1, 9, 10, 1234567890, INT64_MAX, INT64_MIN};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        char want[32];
        srv_buf b = {0};
        snprintf(want, sizeof want, "%lld", (long long)values[i]);
        srv_json_int(&b, values[i]);
        srv_buf_put(&b, "", 1);
        assert_string_equal(b.data, want);
        srv_buf_free(&b);
    }
}

/* ---- ids ---- */

/* Parse {"prompt": TEXT} both ways: the fast loop, and cJSON, which a float form forces. */
static void test_both_readers_agree(void **unused) {
    (void)unused;
    static srv_gen fast, slow;
    const srv_in_limits limits = {1000, 50, NULL};
    const srv_table *t = &srv_table_generate;
    for (int round = 0; round < 2000; round++) {
        char a[1024] = "{\"prompt\":[", b[1024] = "{\"prompt\":[";
        size_t n = draw() % 60;
        for (size_t i = 0; i < n; i++) {
            int id = (int)(draw() % 1000);
            const char *comma = i + 1 < n ? "," : "";
            snprintf(a + strlen(a), sizeof a - strlen(a), "%d%s", id, comma);
            snprintf(b + strlen(b), sizeof b - strlen(b), "%d.0%s", id, comma);
        }
        snprintf(a + strlen(a), sizeof a - strlen(a), "]}");
        snprintf(b + strlen(b), sizeof b - strlen(b), "]}");
        srv_problem p = {0}, q = {0};
        bool ok = srv_gen_parse(&fast, t, a, strlen(a), &limits, &p);
        assert_int_equal(ok, srv_gen_parse(&slow, t, b, strlen(b), &limits, &q));
        assert_int_equal(p.err, q.err);
        assert_int_equal(ok, n > 0 && n <= 50);
        if (ok) {
            assert_int_equal(fast.prompts[0].n_ids, slow.prompts[0].n_ids);
            assert_memory_equal(fast.prompts[0].ids, slow.prompts[0].ids, n * sizeof(int32_t));
            srv_gen_clear(&fast);
            srv_gen_clear(&slow);
        }
    }
}

static void cut(const char *json, bool found, size_t n, const char *left) {
    char text[256];
    srv_ids out;
    snprintf(text, sizeof text, "%s", json);
    assert_true(srv_ids_cut(&out, text, strlen(text), "prompt", 100, 10));
    assert_int_equal(out.found, found);
    assert_int_equal(out.n, n);
    assert_string_equal(text, left);
    free(out.ids);
}

static void test_only_the_array_is_blanked(void **unused) {
    (void)unused;
    cut("{\"prompt\":[1,22,3]}", true, 3, "{\"prompt\":[      ]}");
    cut("{\"prompt\":[]}", true, 0, "{\"prompt\":[]}");
    cut("{\"a\":[1],\"prompt\":[7]}", true, 1, "{\"a\":[1],\"prompt\":[ ]}");
    cut("{\"a\":\"\\\"prompt\\\":[1]\",\"prompt\":[7]}", true, 1,
        "{\"a\":\"\\\"prompt\\\":[1]\",\"prompt\":[ ]}");
    cut("{\"a\":{\"prompt\":[1]},\"prompt\":[7]}", true, 1,
        "{\"a\":{\"prompt\":[1]},\"prompt\":[ ]}");
    const char *untouched[] = {
        "{\"prompt\":[1.5]}",       "{\"prompt\":[01]}",    "{\"prompt\":[1,]}",
        "{\"prompt\":[1",           "{\"prompt\":\"[1]\"}", "[\"prompt\",[1]]",
        "{\"a\":{\"prompt\":[1]}}", "{\"prompt\"",          "",
        "{\"prompt\":[1 2]}",       "{\"prompt\":[\"1\"]}", "{\"prompt\":[[1]]}",
        "{\"Prompt\":[1]}",         "\"prompt\":[1]",       "{\"a\":\"\\\\\\\",\"prompt\":[1]}"};
    for (size_t i = 0; i < sizeof untouched / sizeof untouched[0]; i++)
        cut(untouched[i], false, 0, untouched[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_bytes_become_a_json_string),
        cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_floats_read_back),
        cmocka_unit_test(test_doubles_read_back),
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_both_readers_agree),
        cmocka_unit_test(test_only_the_array_is_blanked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
