/* What a server may send to tnl chat and tnl load: any bytes in any pieces. The items do not depend
 * on the pieces; what reaches the terminal is text. The first byte chooses dialect and pieces. */
#include <string.h>

#include "kernels/base/utf8.h"
#include "server/cli/chat/chat_log.h"
#include "server/cli/client/client_dialect.h"
#include "server/cli/terminal.h"
#include "tests/fuzz/fuzz.h"

typedef struct sum {
    cli_dialect_id dialect;
    uint64_t hash;
    size_t items;
} sum;

static void check_text(const char *text) {
    size_t n = strlen(text);
    cli_filter f = {.n = 0};
    char *out = malloc(CLI_FILTER_ROOM(n) + 4);
    if (!out)
        abort();
    size_t m = cli_filter_feed(&f, out, text, n);
    FUZZ_CHECK(m <= CLI_FILTER_ROOM(n));
    m += cli_filter_end(&f, out + m);
    FUZZ_CHECK(tnl_utf8_valid(out, m));
    for (size_t i = 0; i < m; i++)
        FUZZ_CHECK((unsigned char)out[i] >= 0x20 || out[i] == '\n' || out[i] == '\t');
    free(out);
}

static tnl_status on_item(void *user, const char *item, size_t n, tnl_error *err) {
    sum *s = user;
    cli_piece p;
    s->items++;
    for (size_t i = 0; i < n; i++)
        s->hash = (s->hash ^ (unsigned char)item[i]) * UINT64_C(0x100000001b3);
    s->hash = s->hash * 31 + n;
    if (cli_piece_read(&p, s->dialect, item, n, err) == TNL_OK) {
        FUZZ_CHECK(p.tokens == 0 || p.tokens == 1);
        FUZZ_CHECK(p.prompt_tokens >= -1 && p.completion_tokens >= -1 && p.cached_tokens >= -1);
        FUZZ_CHECK(tnl_utf8_valid(p.message, strlen(p.message)));
        if (p.text)
            check_text(p.text);
    }
    cli_piece_clear(&p);
    return TNL_OK;
}

static void run(sum *s, const char *text, size_t n, size_t piece) {
    cli_splitter split = {0};
    tnl_error err = {0};
    tnl_status status = TNL_OK;
    cli_splitter_begin(&split, cli_dialects[s->dialect].framing);
    for (size_t at = 0; at < n && status == TNL_OK; at += piece)
        status =
            cli_splitter_feed(&split, text + at, n - at < piece ? n - at : piece, on_item, s, &err);
    if (status == TNL_OK)
        status = cli_splitter_end(&split, on_item, s, &err);
    cli_splitter_free(&split);
}

static void load_log(const char *text, size_t n) {
    cli_chat_log log = {0};
    tnl_error err = {0};
    char *copy = malloc(n + 1);
    if (!copy)
        abort();
    memcpy(copy, text, n);
    copy[n] = 0;
    if (cli_chat_log_parse(&log, copy, n, "talk", &err) != TNL_OK)
        FUZZ_CHECK(log.n == 0 && *err.msg);
    cli_chat_log_free(&log);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0)
        return 0;
    const char *text = (const char *)data + 1;
    char code[48], message[256];
    sum whole = {.dialect = (cli_dialect_id)(data[0] % CLI_DIALECTS)};
    sum cut = {.dialect = whole.dialect};
    run(&whole, text, size - 1, size);
    run(&cut, text, size - 1, 1 + data[0] / CLI_DIALECTS % 13);
    FUZZ_CHECK(whole.hash == cut.hash && whole.items == cut.items);
    cli_problem_read(code, message, text, size - 1);
    check_text(message);
    load_log(text, size - 1);
    return 0;
}
