/* The conversation and its file; the filter in front of the terminal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/base/splitmix.h"
#include "kernels/base/utf8.h"
#include "server/cli/chat/chat_log.h"
#include "server/cli/terminal.h"

/* ---- the filter ---- */

#define BAD "\xEF\xBF\xBD"

static void filter(char *out, const char *text, size_t n, size_t piece) {
    cli_filter f = {.n = 0};
    size_t at = 0;
    for (size_t i = 0; i < n; i += piece)
        at += cli_filter_feed(&f, out + at, text + i, n - i < piece ? n - i : piece);
    at += cli_filter_end(&f, out + at);
    out[at] = 0;
}

static void test_filter(void **state) {
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"plain text\n\tdone", "plain text\n\tdone"},
        {"\x1b[2J\x1b]0;title\x07", BAD "[2J" BAD "]0;title" BAD},
        {"a\rb\r\nc", "ab\nc"},
        {"\x7f\x08", BAD BAD},
        {"h\xC3\xA9 \xF0\x9F\x90\xA2", "h\xC3\xA9 \xF0\x9F\x90\xA2"},
        {"\xC2\x9B"
         "31m",
         BAD "31m"}, /* CSI as one character */
        {"\xC2\xA0", "\xC2\xA0"},
        {"\xFF\xC3(", BAD BAD "("},
        {"cut\xF0\x9F", "cut" BAD},
        {"\xED\xA0\x80", BAD BAD BAD},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t piece = 1; piece < 20; piece++) {
            char out[256];
            filter(out, cases[i].in, strlen(cases[i].in), piece);
            assert_string_equal(out, cases[i].out);
        }
}

/* Any bytes: what comes out is UTF-8 without controls, the same in any pieces, within the room. */
static void test_filter_random(void **state) {
    static const char odd[] = "\x1b\xC2\x9B\xE2\x80\xF0\x9F\x90\r\n\t a";
    (void)state;
    uint64_t seed = 7; /* fixed */
    for (int round = 0; round < 2000; round++) {
        char in[24], whole[CLI_FILTER_ROOM(24) + 1], cut[sizeof whole + 64];
        size_t n = (size_t)((int)(tnl_splitmix_next(&seed) >> 40) % 24);
        for (size_t i = 0; i < n; i++)
            in[i] = (int)(tnl_splitmix_next(&seed) >> 40) % 4
                        ? odd[(int)(tnl_splitmix_next(&seed) >> 40) % (int)(sizeof odd - 1)]
                        : (char)(int)(tnl_splitmix_next(&seed) >> 40);
        filter(whole, in, n, 24);
        filter(cut, in, n, 1 + (size_t)((int)(tnl_splitmix_next(&seed) >> 40) % 5));
        assert_string_equal(whole, cut);
        assert_true(strlen(whole) < sizeof whole);
        assert_true(tnl_utf8_valid(whole, strlen(whole)));
        for (const char *c = whole; *c; c++)
            assert_true((unsigned char)*c >= 0x20 || *c == '\n' || *c == '\t');
    }
}

/* ---- the conversation ---- */

static void add(cli_chat_log *log, srv_role role, const char *text) {
    tnl_error err = {0};
    assert_int_equal(cli_chat_log_add(log, role, text, strlen(text), &err), TNL_OK);
}

static void test_log(void **state) {
    cli_chat_log log = {0};
    tnl_error err = {0};
    (void)state;
    assert_int_equal(cli_chat_log_last(&log), -1);
    cli_chat_log_pop(&log);
    add(&log, SRV_ROLE_USER, "one");
    assert_int_equal(cli_chat_log_system(&log, "be brief", &err), TNL_OK);
    add(&log, SRV_ROLE_ASSISTANT, "two");
    assert_int_equal(log.n, 3);
    assert_string_equal(log.m[0].text, "be brief");
    assert_int_equal(cli_chat_log_system(&log, "be long", &err), TNL_OK);
    assert_int_equal(log.n, 3);
    assert_string_equal(log.m[0].text, "be long");
    assert_string_equal(log.m[1].text, "one");
    assert_int_equal(cli_chat_log_last(&log), SRV_ROLE_ASSISTANT);
    cli_chat_log_pop(&log);
    assert_int_equal(cli_chat_log_last(&log), SRV_ROLE_USER);
    cli_chat_log_reset(&log);
    assert_int_equal(log.n, 1);
    cli_chat_log_pop(&log); /* the system message stays */
    assert_int_equal(log.n, 1);
    assert_int_equal(cli_chat_log_system(&log, "", &err), TNL_OK);
    assert_int_equal(log.n, 0);
    cli_chat_log_free(&log);
}

static void test_file(void **state) {
    char folder[] = "/tmp/tnl-chat-XXXXXX", path[64];
    cli_chat_log log = {0}, back = {0};
    tnl_error err = {0};
    struct stat st;
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/talk.jsonl", folder);
    add(&log, SRV_ROLE_SYSTEM, "s");
    add(&log, SRV_ROLE_USER, "quote \" newline \n tab \t h\xC3\xA9");
    add(&log, SRV_ROLE_ASSISTANT, "");
    assert_int_equal(cli_chat_log_save(&log, path, &err), TNL_OK);
    assert_int_equal(cli_chat_log_save(&log, path, &err), TNL_OK); /* replaces */
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    add(&back, SRV_ROLE_USER, "old");
    assert_int_equal(cli_chat_log_load(&back, path, &err), TNL_OK);
    assert_int_equal(back.n, log.n);
    for (size_t i = 0; i < log.n; i++) {
        assert_int_equal(back.m[i].role, log.m[i].role);
        assert_string_equal(back.m[i].text, log.m[i].text);
    }
    unlink(path);
    assert_int_equal(cli_chat_log_load(&back, path, &err), TNL_E_NO_INPUT);
    assert_int_equal(back.n, log.n);
    assert_int_equal(cli_chat_log_load(&back, folder, &err), TNL_E_NO_INPUT);
    assert_int_equal(rmdir(folder), 0); /* nothing was left behind */
    assert_int_equal(cli_chat_log_save(&log, path, &err), TNL_E_IO);
    cli_chat_log_free(&log);
    cli_chat_log_free(&back);
}

static void test_bad_files(void **state) {
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"{\"role\":\"user\",\"content\":\"a\"}\nnonsense", "line 2"},
        {"{\"role\":\"robot\",\"content\":\"a\"}", "role"},
        {"{\"role\":\"user\",\"content\":3}", "content"},
        {"{\"content\":\"a\"}", "role"},
        {"[]", "role"},
        {"{\"role\":\"user\",\"content\":\"a\"}\n{\"role\":\"system\",\"content\":\"b\"}", "first"},
        {"{\"role\":\"user\",\"role\":\"user\",\"content\":\"a\"}", "duplicate"},
        {"\xFF", "line 1"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cli_chat_log log = {0};
        tnl_error err = {0};
        char text[256];
        snprintf(text, sizeof text, "%s", cases[i].text);
        add(&log, SRV_ROLE_USER, "kept");
        assert_int_equal(cli_chat_log_parse(&log, text, strlen(text), "talk", &err), TNL_E_DATA);
        if (!strstr(err.msg, cases[i].words))
            fail_msg("\"%s\" lacks \"%s\"", err.msg, cases[i].words);
        assert_int_equal(log.n, 1);
        assert_string_equal(log.m[0].text, "kept");
        cli_chat_log_free(&log);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_filter),    cmocka_unit_test(test_filter_random),
        cmocka_unit_test(test_log),       cmocka_unit_test(test_file),
        cmocka_unit_test(test_bad_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
