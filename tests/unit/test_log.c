/* Log lines as JSON: whatever bytes go in, what comes out is one line that a parser takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cjson/cJSON.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/log.h"

enum { LINE_CAP = 8192 };

static int pipe_fd[2], real_stderr;

static int begin(void **state) {
    (void)state;
    tnl_log_setup(TNL_LOG_DEBUG, true);
    return pipe2(pipe_fd, O_CLOEXEC);
}

static int end(void **state) {
    (void)state;
    close(pipe_fd[0]);
    return close(pipe_fd[1]);
}

static void capture(void) {
    real_stderr = dup(STDERR_FILENO);
    dup2(pipe_fd[1], STDERR_FILENO);
}

/* What was written since capture(), parsed. It is one line. */
static cJSON *captured(char line[LINE_CAP]) {
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    ssize_t n = read(pipe_fd[0], line, LINE_CAP - 1);
    assert_true(n > 1);
    line[n] = 0;
    assert_ptr_equal(strchr(line, '\n'), line + n - 1);
    const char *rest = NULL;
    cJSON *x = cJSON_ParseWithOpts(line, &rest, false);
    assert_non_null(x);
    assert_string_equal(rest, "\n");
    return x;
}

static const char *text_at(const cJSON *x, const char *name) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(x, name);
    return cJSON_IsString(v) ? v->valuestring : NULL;
}

static void test_message(void **state) {
    (void)state;
    char line[LINE_CAP];
    capture();
    tnl_log(TNL_LOG_WARN, "say \"%s\" \\ %d", "hm", 7);
    cJSON *x = captured(line);
    assert_string_equal(text_at(x, "level"), "warn");
    assert_string_equal(text_at(x, "msg"), "say \"hm\" \\ 7");
    assert_int_equal(cJSON_GetArraySize(x), 3);
    cJSON_Delete(x);
}

static void test_fields(void **state) {
    (void)state;
    char line[LINE_CAP];
    const tnl_log_field f[] = {{.name = "a", .text = "x\"\\\n\t\x7f\xff\xe2\x82\xac"},
                               {.name = "n", .text = NULL},
                               {.name = "c", .kind = TNL_LOG_COUNT, .count = -9007199254740993},
                               {.name = "r", .kind = TNL_LOG_REAL, .real = 0.1236},
                               {.name = "inf", .kind = TNL_LOG_REAL, .real = INFINITY},
                               {.name = "nan", .kind = TNL_LOG_REAL, .real = NAN}};
    capture();
    tnl_log_fields(TNL_LOG_INFO, "request", f, sizeof f / sizeof f[0]);
    cJSON *x = captured(line);
    assert_string_equal(text_at(x, "a"), "x\"\\????\xe2\x82\xac");
    assert_string_equal(text_at(x, "n"), "");
    assert_non_null(strstr(line, "\"c\":-9007199254740993,"));
    assert_non_null(strstr(line, "\"r\":0.124,"));
    assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(x, "inf")));
    assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(x, "nan")));
    cJSON_Delete(x);
}

static uint32_t draw(uint64_t *seed) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33);
}

/* Any bytes of any length: what does not fit is cut or left out, never the form. */
static void test_noise(void **state) {
    (void)state;
    uint64_t seed = 20250601;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 2000; round++) {
        static char line[LINE_CAP], text[6][3000];
        tnl_log_field f[5];
        static const char *const names[] = {"a", "b", "c", "d", "e"};
        for (int i = 0; i < 6; i++) {
            size_t n = draw(&seed) % (round % 3 ? 200 : 3000);
            for (size_t k = 0; k < n; k++)
                text[i][k] = (char)(draw(&seed) % 4 ? "\"\\\xe2\x82\xac\n"[draw(&seed) % 6]
                                                    : (int)(1 + draw(&seed) % 255));
            text[i][n] = 0;
        }
        for (int i = 0; i < 5; i++)
            f[i] = (tnl_log_field){.name = names[i], .text = text[i]};
        capture();
        if (round % 2)
            tnl_log_fields(TNL_LOG_INFO, text[5], f, 5);
        else
            tnl_log(TNL_LOG_INFO, "%s", text[5]);
        cJSON *x = captured(line);
        assert_non_null(text_at(x, "time"));
        assert_non_null(text_at(x, "msg"));
        cJSON_Delete(x);
    }
}

static void test_level(void **state) {
    (void)state;
    char line[LINE_CAP];
    tnl_log_setup(TNL_LOG_WARN, true);
    capture();
    tnl_log_fields(TNL_LOG_INFO, "dropped", NULL, 0);
    tnl_log(TNL_LOG_INFO, "dropped");
    tnl_log(TNL_LOG_ERROR, "kept");
    cJSON *x = captured(line);
    assert_string_equal(text_at(x, "msg"), "kept");
    cJSON_Delete(x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_message, begin, end),
        cmocka_unit_test_setup_teardown(test_fields, begin, end),
        cmocka_unit_test_setup_teardown(test_noise, begin, end),
        cmocka_unit_test_setup_teardown(test_level, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
