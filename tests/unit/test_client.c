/* The client's parsers: items out of any pieces, and what items of each dialect say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/cli/client/client_dialect.h"
#include "server/cli/client/client_key.h"

typedef struct heard {
    char text[4096]; /* items, each closed by '|' */
    size_t n;
    int until; /* refuse the item of this number; 0: none */
    int items;
} heard;

static tnl_status hear(void *user, const char *item, size_t n, tnl_error *err) {
    heard *h = user;
    if (++h->items == h->until)
        return tnl_fail(err, TNL_E_DATA, "enough");
    assert_true(h->n + n + 2 < sizeof h->text);
    memcpy(h->text + h->n, item, n);
    h->n += n;
    h->text[h->n++] = '|';
    h->text[h->n] = 0;
    return TNL_OK;
}

/* Feed in pieces of `piece` bytes. */
static void split(heard *h, cli_framing framing, const char *text, size_t piece) {
    cli_splitter s = {0};
    tnl_error err = {0};
    memset(h, 0, sizeof *h);
    cli_splitter_begin(&s, framing);
    for (size_t at = 0, n = strlen(text); at < n; at += piece) {
        size_t len = n - at < piece ? n - at : piece;
        assert_int_equal(cli_splitter_feed(&s, text + at, len, hear, h, &err), TNL_OK);
    }
    assert_int_equal(cli_splitter_end(&s, hear, h, &err), TNL_OK);
    cli_splitter_free(&s);
}

static void test_splits(void **state) {
    static const struct {
        cli_framing framing;
        const char *text, *items;
    } cases[] = {
        {CLI_FRAME_NDJSON, "{\"a\":1}\n\n{\"b\":2}\r\n{\"c\":3}", "{\"a\":1}|{\"b\":2}|{\"c\":3}|"},
        {CLI_FRAME_NDJSON, "\n\n\n", ""},
        {CLI_FRAME_NDJSON, "", ""},
        {CLI_FRAME_SSE, "data: a\n\ndata:b\n\n", "a|b|"},
        {CLI_FRAME_SSE, ": ok\n\nid: 7\nevent: x\ndata: a\ndata: b\n\n", "a\nb|"},
        {CLI_FRAME_SSE, "data: a\r\n\r\ndata: b\r\rdata: c\n\n", "a|b|c|"},
        {CLI_FRAME_SSE, "data: cut", ""},
        {CLI_FRAME_SSE, "data: cut\n", ""},
        {CLI_FRAME_SSE, "data\n\ndata:\n\ndata:  x\n\n", "|| x|"},
        {CLI_FRAME_SSE, "database: a\n\n\n\ndata: b\n\n", "b|"},
        {CLI_FRAME_SSE,
         "\xEF\xBB\xBF"
         "data: a\n\n\xEF\xBB\xBF"
         "data: b\n\n",
         "a|"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t piece = 1; piece < 40; piece++) {
            heard h;
            split(&h, cases[i].framing, cases[i].text, piece);
            assert_string_equal(h.text, cases[i].items);
        }
}

static void test_bounds(void **state) {
    (void)state;
    static const char *const parts[] = {
        "x", "data: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"};
    for (int i = 0; i < 2; i++) { /* an endless line; an endless event */
        cli_splitter s = {0};
        heard h = {0};
        tnl_error err = {0};
        tnl_status got = TNL_OK;
        char *part = malloc(8000);
        size_t n = 0;
        assert_non_null(part);
        while (n + strlen(parts[i]) < 8000) {
            memcpy(part + n, parts[i], strlen(parts[i]));
            n += strlen(parts[i]);
        }
        cli_splitter_begin(&s, CLI_FRAME_SSE);
        for (int k = 0; k < 1000 && got == TNL_OK; k++)
            got = cli_splitter_feed(&s, part, n, hear, &h, &err);
        assert_int_equal(got, TNL_E_LIMIT);
        assert_non_null(strstr(err.msg, "item"));
        assert_true(s.line.cap + s.event.cap < 8u * CLI_ITEM_MAX);
        cli_splitter_free(&s);
        free(part);
    }
}

static void test_stops(void **state) {
    (void)state;
    cli_splitter s = {0};
    heard h = {.until = 2};
    tnl_error err = {0};
    cli_splitter_begin(&s, CLI_FRAME_NDJSON);
    assert_int_equal(cli_splitter_feed(&s, "a\nb\nc\n", 6, hear, &h, &err), TNL_E_DATA);
    assert_string_equal(h.text, "a|");
    cli_splitter_free(&s);
}

/* ---- dialects ---- */

static void read_piece(cli_piece *p, cli_dialect_id d, const char *item) {
    tnl_error err = {0};
    assert_int_equal(cli_piece_read(p, d, item, strlen(item), &err), TNL_OK);
}

static void test_generate(void **state) {
    cli_piece p;
    (void)state;
    read_piece(&p, CLI_DIALECT_GENERATE, "{\"index\":0,\"token\":{\"id\":5,\"text\":\" a\"}}");
    assert_string_equal(p.text, " a");
    assert_int_equal(p.tokens, 1);
    assert_false(p.last);
    cli_piece_clear(&p);
    read_piece(
        &p, CLI_DIALECT_GENERATE,
        "{\"finish_reason\":\"length\",\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":3}"
        ",\"timings\":{\"cached_tokens\":1,\"queue_ms\":3.5}}");
    assert_true(p.last && p.has_usage && !p.text && !p.tokens);
    assert_string_equal(p.finish, "length");
    assert_int_equal(p.prompt_tokens, 2);
    assert_int_equal(p.completion_tokens, 3);
    assert_int_equal(p.cached_tokens, 1);
    assert_true(p.queue_ms > 3.49 && p.queue_ms < 3.51 && p.prefill_ms < 0);
    cli_piece_clear(&p);
}

static void test_openai(void **state) {
    cli_piece p;
    (void)state;
    read_piece(&p, CLI_DIALECT_CHAT,
               "{\"choices\":[{\"delta\":{\"role\":\"assistant\","
               "\"content\":\"\"},\"finish_reason\":null}],\"usage\":null}");
    assert_int_equal(p.tokens, 0);
    cli_piece_clear(&p);
    read_piece(&p, CLI_DIALECT_CHAT, "{\"choices\":[{\"delta\":{\"content\":\"h\\u00e9\"}}]}");
    assert_string_equal(p.text, "h\xC3\xA9");
    assert_int_equal(p.tokens, 1);
    cli_piece_clear(&p);
    read_piece(&p, CLI_DIALECT_CHAT, "{\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}");
    assert_int_equal(p.tokens, 1);
    assert_null(p.text);
    cli_piece_clear(&p);
    read_piece(&p, CLI_DIALECT_COMPLETIONS, "{\"choices\":[{\"text\":\"x\"}]}");
    assert_string_equal(p.text, "x");
    cli_piece_clear(&p);
    read_piece(&p, CLI_DIALECT_COMPLETIONS,
               "{\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":1e99,"
               "\"prompt_tokens_details\":{\"cached_tokens\":4}}}");
    assert_int_equal(p.prompt_tokens, 7);
    assert_int_equal(p.completion_tokens, -1);
    assert_int_equal(p.cached_tokens, 4);
    cli_piece_clear(&p);
    read_piece(&p, CLI_DIALECT_CHAT, "[DONE]");
    assert_true(p.last);
    cli_piece_clear(&p);
}

static void test_problems(void **state) {
    cli_piece p;
    char code[48], message[256];
    const char *body =
        "{\"error\":{\"message\":\"no\\u001b[2J\\u009bway\",\"code\":\"queue_full\"}}";
    (void)state;
    read_piece(&p, CLI_DIALECT_CHAT, body);
    assert_true(p.last);
    assert_string_equal(p.problem, "queue_full");
    assert_string_equal(p.message, "no?[2J??way"); /* nothing that a terminal obeys */
    cli_piece_clear(&p);
    read_piece(&p, CLI_DIALECT_GENERATE, "{\"error\":\"overloaded\",\"error_type\":\"busy\"}");
    assert_string_equal(p.problem, "busy");
    assert_string_equal(p.message, "overloaded");
    cli_piece_clear(&p);
    cli_problem_read(code, message, body, strlen(body));
    assert_string_equal(code, "queue_full");
    cli_problem_read(code, message, "<html>", 6);
    assert_string_equal(code, "");
    assert_string_equal(message, "");
}

/* A NUL that a model produced is shown as U+FFFD; what only looks like one stays. */
static void test_nul(void **state) {
    cli_piece p;
    (void)state;
    read_piece(&p, CLI_DIALECT_COMPLETIONS,
               "{\"choices\":[{\"text\":\"a\\u0000b\\\\u0000c\\\\\\u0000\"}]}");
    assert_string_equal(p.text, "a\xEF\xBF\xBD"
                                "b\\u0000c\\\xEF\xBF\xBD");
    cli_piece_clear(&p);
}

static void test_refuses(void **state) {
    static const char *const items[] = {"",
                                        "{",
                                        "[1]",
                                        "7",
                                        "null",
                                        "{\"a\":1,\"a\":2}",
                                        "{\"a\":1e999}",
                                        "{} x",
                                        "\xFF",
                                        "{\"text\":\"\xC3\"}"};
    (void)state;
    for (size_t i = 0; i < sizeof items / sizeof items[0]; i++)
        for (int d = 0; d < CLI_DIALECTS; d++) {
            cli_piece p;
            tnl_error err = {0};
            assert_int_equal(
                cli_piece_read(&p, (cli_dialect_id)d, items[i], strlen(items[i]), &err),
                TNL_E_DATA);
            assert_true(*err.msg);
            cli_piece_clear(&p);
        }
}

static void test_writes(void **state) {
    srv_message turns[] = {{SRV_ROLE_SYSTEM, (char *)"s", 1}, {SRV_ROLE_USER, (char *)"\"u\n", 3}};
    cli_ask ask = {.model = "m", .text = "hi", .text_len = 2, .max_tokens = 5, .extra = ",\"x\":1"};
    srv_buf b = {0};
    (void)state;
    cli_ask_write(&b, CLI_DIALECT_GENERATE, &ask);
    srv_buf_put(&b, "", 1);
    assert_string_equal(b.data, "{\"prompt\":\"hi\",\"max_tokens\":5,\"stream\":true,\"x\":1}");
    srv_buf_clear(&b);
    ask.messages = turns;
    ask.n_messages = 2;
    cli_ask_write(&b, CLI_DIALECT_CHAT, &ask);
    srv_buf_put(&b, "", 1);
    assert_string_equal(
        b.data, "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\","
                "\"content\":\"\\\"u\\n\"}],\"max_tokens\":5,\"stream\":true,\"model\":\"m\","
                "\"stream_options\":{\"include_usage\":true},\"x\":1}");
    srv_buf_free(&b);
}

static void test_model_name(void **state) {
    char *name = NULL;
    tnl_error err = {0};
    const char *good = "{\"data\":[{\"id\":\"a\"},{\"id\":\"b\"}]}", *empty = "{\"data\":[]}";
    (void)state;
    const char *base = "{\"data\":[{\"id\":\"c\",\"meta\":{\"chat_template\":\"plain\"}}]}";
    bool plain = true;
    assert_int_equal(cli_model_name(&name, &plain, good, strlen(good), &err), TNL_OK);
    assert_string_equal(name, "a");
    assert_false(plain);
    free(name);
    assert_int_equal(cli_model_name(&name, &plain, base, strlen(base), &err), TNL_OK);
    assert_true(plain);
    free(name);
    assert_int_equal(cli_model_name(&name, NULL, empty, strlen(empty), &err), TNL_E_DATA);
    assert_null(name);
}

static void test_key(void **state) {
    char key[CLI_KEY_MAX + 1];
    tnl_error err = {0};
    (void)state;
    unsetenv("TNL_API_KEY");
    assert_int_equal(cli_key_read(key, NULL, &err), TNL_OK);
    assert_string_equal(key, "");
    setenv("TNL_API_KEY", "abc-def", 1);
    assert_int_equal(cli_key_read(key, NULL, &err), TNL_OK);
    assert_string_equal(key, "abc-def");
    assert_null(getenv("TNL_API_KEY"));
    setenv("TNL_API_KEY", "a\r\nX: y", 1); /* would be a header of its own */
    assert_int_equal(cli_key_read(key, NULL, &err), TNL_E_USAGE);
    unsetenv("TNL_API_KEY");
    assert_int_equal(cli_key_read(key, "/nonexistent/key", &err), TNL_E_NO_INPUT);
    assert_true(cli_is_url("https://x") && cli_is_url("unix:/a") && !cli_is_url("configs/tales"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_splits), cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_stops),  cmocka_unit_test(test_generate),
        cmocka_unit_test(test_openai), cmocka_unit_test(test_problems),
        cmocka_unit_test(test_nul),    cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_writes), cmocka_unit_test(test_model_name),
        cmocka_unit_test(test_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
