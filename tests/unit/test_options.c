/* Option rows: values and their ranges, precedence, hints, the config file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/cli/options/options.h"
#include "server/cli/options/options_file.h"

typedef struct settings {
    bool stream;
    int64_t port;
    uint64_t seed;
    double temperature;
    const char *host, *config;
    int level;
    cli_list sizes;
    cli_strings stop;
} settings;

static const char *const levels[] = {"error", "warn", "info", NULL};

#define AT(f) .offset = offsetof(settings, f)
static const cli_opt rows[] = {
    {.help = "Heading:"},
    {.flag = "stream", .type = CLI_BOOL, AT(stream), .key = "stream", .help = "h"},
    {.flag = "port", .letter = 'p', .type = CLI_INT, AT(port), .min = 0, .max = 65535,
     .dflt = "8080", .arg = "N", .env = "TNL_TEST_PORT", .key = "port", .help = "h"},
    {.flag = "seed", .type = CLI_U64, AT(seed), .arg = "N", .key = "seed", .help = "h"},
    {.flag = "temperature", .type = CLI_REAL, AT(temperature), .min = 0, .max = 100, .dflt = "1",
     .arg = "T", .key = "temperature", .help = "h"},
    {.flag = "host", .type = CLI_STRING, AT(host), .arg = "H", .env = "TNL_TEST_HOST",
     .key = "host", .help = "h"},
    {.flag = "config", .type = CLI_STRING, AT(config), .arg = "F", .env = "TNL_TEST_CONFIG",
     .help = "h"},
    {.flag = "level", .type = CLI_CHOICE, AT(level), .choices = levels, .dflt = "info",
     .key = "level", .help = "h"},
    {.flag = "sizes", .type = CLI_INT_LIST, AT(sizes), .min = 1, .max = 100, .dflt = "1,2",
     .arg = "N,..", .key = "sizes", .help = "h"},
    {.flag = "stop", .type = CLI_STRINGS, AT(stop), .arg = "S", .key = "stop", .help = "h"},
};
static const cli_spec spec = {.name = "t", .args = "DIR", .about = "About.", .rows = rows,
                              .n_rows = sizeof rows / sizeof rows[0], .min_args = 0,
                              .max_args = 2};

enum { MAX_ARGS = 24 };

/* Split words at spaces and parse them. */
static tnl_status parse(settings *s, cli_args *a, const char *line, tnl_error *err) {
    static char buf[1024]; /* values point into it until the next call */
    char *argv[MAX_ARGS] = {"t"};
    int argc = 1;
    snprintf(buf, sizeof buf, "%s", line);
    for (char *w = buf + strspn(buf, " "); *w; w += strspn(w, " ")) {
        assert_true(argc < MAX_ARGS);
        argv[argc++] = w;
        w += strcspn(w, " ");
        if (*w)
            *w++ = 0;
    }
    memset(err, 0, sizeof *err);
    return cli_parse(a, &spec, s, argc, argv, err);
}

static void accepts(settings *s, const char *line) {
    cli_args a;
    tnl_error err;
    tnl_status st = parse(s, &a, line, &err);
    if (st != TNL_OK)
        fail_msg("\"%s\": %s", line, err.msg);
    cli_args_clear(&a);
}

static void refuses(const char *line, const char *words) {
    settings s;
    cli_args a;
    tnl_error err;
    assert_int_equal(parse(&s, &a, line, &err), TNL_E_USAGE);
    if (!strstr(err.msg, words))
        fail_msg("\"%s\": \"%s\" lacks \"%s\"", line, err.msg, words);
    cli_args_clear(&a);
}

static void test_defaults(void **state) {
    (void)state;
    settings s;
    memset(&s, 0xA5, sizeof s);
    accepts(&s, "");
    assert_false(s.stream);
    assert_int_equal(s.port, 8080);
    assert_int_equal(s.seed, 0);
    assert_true(s.temperature == 1.0);
    assert_null(s.host);
    assert_int_equal(s.level, 2);
    assert_int_equal(s.sizes.n, 2);
    assert_int_equal(s.sizes.v[1], 2);
    assert_int_equal(s.stop.n, 0);
}

static void test_forms(void **state) {
    (void)state;
    settings s;
    accepts(&s, "--port 1");
    assert_int_equal(s.port, 1);
    accepts(&s, "--port=2");
    assert_int_equal(s.port, 2);
    accepts(&s, "-p 3");
    assert_int_equal(s.port, 3);
    accepts(&s, "-p4");
    assert_int_equal(s.port, 4);
    accepts(&s, "-p 3 --port 9");
    assert_int_equal(s.port, 9); /* the last one counts */
    accepts(&s, "--stream");
    assert_true(s.stream);
    accepts(&s, "--stream --no-stream");
    assert_false(s.stream);
    accepts(&s, "--stream=false");
    assert_false(s.stream);
    accepts(&s, "--seed 18446744073709551615");
    assert_true(s.seed == UINT64_MAX);
    accepts(&s, "--level warn --sizes 5,6,7 --stop a --stop b --host=");
    assert_int_equal(s.level, 1);
    assert_int_equal(s.sizes.n, 3);
    assert_int_equal(s.sizes.v[2], 7);
    assert_int_equal(s.stop.n, 2);
    assert_string_equal(s.stop.v[1], "b");
    assert_string_equal(s.host, "");
}

static void test_operands(void **state) {
    (void)state;
    settings s;
    cli_args a;
    tnl_error err;
    assert_int_equal(parse(&s, &a, "one -p 5 two", &err), TNL_OK);
    assert_int_equal(a.n, 2);
    assert_string_equal(a.v[1], "two");
    cli_args_clear(&a);
    assert_int_equal(parse(&s, &a, "-- --port -", &err), TNL_OK);
    assert_int_equal(a.n, 2);
    assert_string_equal(a.v[0], "--port");
    assert_string_equal(a.v[1], "-");
    assert_int_equal(cli_source_of(&a, &spec, "port"), CLI_FROM_DEFAULT);
    cli_args_clear(&a);
    refuses("a b c", "\"c\"");
}

static void test_refusals(void **state) {
    (void)state;
    refuses("--prot 1", "did you mean --port?");
    refuses("--temp 1", "did you mean --temperature?");
    refuses("--zzzzzz", "unknown option --zzzzzz");
    refuses("-z", "unknown option -z");
    refuses("--port", "--port needs a value");
    refuses("--port 65536", "out of range, expected 0..65535");
    refuses("--port -1", "out of range");
    refuses("--port 1x", "not a whole number");
    refuses("--port 0x10", "not a whole number");
    refuses("--port 99999999999999999999", "not a whole number");
    refuses("--seed -1", "not a whole number");
    refuses("--seed 18446744073709551616", "not a whole number");
    refuses("--temperature nan", "not a number");
    refuses("--temperature inf", "not a number");
    refuses("--temperature 1e999", "not a number");
    refuses("--temperature 0x1p3", "not a number");
    refuses("--temperature 101", "out of range");
    refuses("--level loud", "error, warn, info");
    refuses("--sizes 1,,2", "list");
    refuses("--sizes 1,", "list");
    refuses("--sizes 0", "out of range");
    refuses("--stream=maybe", "true or false");
    refuses("--no-port", "unknown option");
}

static void test_help_wins(void **state) {
    (void)state;
    settings s;
    cli_args a;
    tnl_error err;
    assert_int_equal(parse(&s, &a, "--nonsense --help", &err), TNL_OK);
    assert_true(a.help);
    cli_args_clear(&a);
    assert_int_equal(parse(&s, &a, "--version", &err), TNL_OK);
    assert_true(a.version);
    cli_args_clear(&a);
    assert_int_equal(parse(&s, &a, "-- --help", &err), TNL_OK);
    assert_false(a.help);
    cli_args_clear(&a);
}

static void from_json(settings *s, const char *text, tnl_status want, const char *words) {
    cli_args a = {0};
    tnl_error err = {0};
    memset(s, 0, sizeof *s);
    tnl_status st = cli_apply_json(&a, &spec, s, text, strlen(text), "c.json", &err);
    if (st != want || (words && !strstr(err.msg, words)))
        fail_msg("%s: status %d, \"%s\"", text, (int)st, err.msg);
    if (s->stop.n) /* owned by the arguments: gone after this */
        assert_string_equal(s->stop.v[0], "x");
    cli_args_clear(&a);
}

static void test_file(void **state) {
    (void)state;
    settings s;
    from_json(&s, "{\"port\": 7, \"stream\": true, \"temperature\": 0.5, \"sizes\": [3, 4],"
                  " \"_why\": \"a comment\", \"stop\": [\"x\", \"y\"], \"level\": \"error\"}",
              TNL_OK, NULL);
    assert_int_equal(s.port, 7);
    assert_true(s.stream);
    assert_true(s.temperature == 0.5);
    assert_int_equal(s.sizes.v[1], 4);
    assert_int_equal(s.stop.n, 2);
    from_json(&s, "{\"prot\": 7}", TNL_E_USAGE, "did you mean \"port\"?");
    from_json(&s, "{\"port\": \"7\"}", TNL_E_USAGE, "expected a number");
    from_json(&s, "{\"port\": 7.5}", TNL_E_USAGE, "not a whole number");
    from_json(&s, "{\"port\": 1e300}", TNL_E_USAGE, "not a whole number");
    from_json(&s, "{\"port\": 70000}", TNL_E_USAGE, "c.json: \"port\"");
    from_json(&s, "{\"host\": 7}", TNL_E_USAGE, "expected a string");
    from_json(&s, "{\"host\": null}", TNL_E_USAGE, "expected a string");
    from_json(&s, "{\"stream\": 1}", TNL_E_USAGE, "expected true or false");
    from_json(&s, "[]", TNL_E_USAGE, "expected a JSON object");
    from_json(&s, "{\"port\": 7, \"port\": 8}", TNL_E_DATA, "c.json");
    from_json(&s, "{\"port\": 7", TNL_E_DATA, "c.json");
}

static char config_path[] = "/tmp/tnl-options-XXXXXX";

static void test_precedence(void **state) {
    (void)state;
    settings s;
    cli_args a;
    tnl_error err;
    char line[128];
    int fd = mkstemp(config_path);
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    fputs("{\"port\": 1, \"host\": \"file\", \"stop\": [\"f\"], \"temperature\": 3}", f);
    fclose(f);

    snprintf(line, sizeof line, "--config %s", config_path);
    assert_int_equal(parse(&s, &a, line, &err), TNL_OK);
    assert_int_equal(s.port, 1);
    assert_string_equal(s.host, "file");
    assert_int_equal(cli_source_of(&a, &spec, "port"), CLI_FROM_FILE);
    cli_args_clear(&a);

    setenv("TNL_TEST_PORT", "2", 1);
    setenv("TNL_TEST_HOST", "", 1); /* empty is unset */
    setenv("TNL_TEST_CONFIG", config_path, 1);
    assert_int_equal(parse(&s, &a, "", &err), TNL_OK);
    assert_int_equal(s.port, 2);
    assert_string_equal(s.host, "file");
    assert_true(s.temperature == 3.0);
    assert_int_equal(cli_source_of(&a, &spec, "port"), CLI_FROM_ENV);
    cli_args_clear(&a);

    assert_int_equal(parse(&s, &a, "--port 3 --stop g", &err), TNL_OK);
    assert_int_equal(s.port, 3);
    assert_int_equal(s.stop.n, 1); /* the flag's list replaces the file's */
    assert_string_equal(s.stop.v[0], "g");
    cli_args_clear(&a);

    setenv("TNL_TEST_PORT", "x", 1);
    refuses("", "TNL_TEST_PORT");
    unsetenv("TNL_TEST_PORT");
    unsetenv("TNL_TEST_HOST");
    unsetenv("TNL_TEST_CONFIG");
    assert_int_equal(parse(&s, &a, "--config /nonexistent.json", &err), TNL_E_NO_INPUT);
    cli_args_clear(&a);
    remove(config_path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),  cmocka_unit_test(test_forms),
        cmocka_unit_test(test_operands),  cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_help_wins), cmocka_unit_test(test_file),
        cmocka_unit_test(test_precedence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
