/* Lines end with LF, CR or CR LF, as server-sent events allow; NDJSON loses nothing by that, since
 * JSON text has no bare CR in a string. */
#include "server/cli/client/client_stream.h"

#include <stdlib.h>
#include <string.h>

void cli_splitter_begin(cli_splitter *s, cli_framing framing) {
    s->framing = framing;
    s->line.n = s->event.n = 0;
    s->has_event = s->after_cr = s->begun = false;
}

void cli_splitter_free(cli_splitter *s) {
    free(s->line.p);
    free(s->event.p);
    *s = (cli_splitter){0};
}

static tnl_status append(cli_bytes *b, const char *p, size_t n, tnl_error *err) {
    if (n > (size_t)CLI_ITEM_MAX - b->n)
        return tnl_fail(err, TNL_E_LIMIT, "the server sent an item of more than %d bytes",
                        CLI_ITEM_MAX);
    if (b->n + n > b->cap) {
        size_t cap = 2 * (b->n + n) + 256;
        char *grown = realloc(b->p, cap);
        if (!grown)
            return tnl_fail(err, TNL_E_NOMEM, "out of memory");
        b->p = grown;
        b->cap = cap;
    }
    if (n)
        memcpy(b->p + b->n, p, n);
    b->n += n;
    return TNL_OK;
}

/* One line of an event stream: "data: ...", an empty line that closes an event, or neither. */
static tnl_status take_field(cli_splitter *s, const char *line, size_t n, cli_item_fn fn,
                             void *user, tnl_error *err) {
    if (n == 0) {
        bool had = s->has_event;
        size_t len = s->event.n;
        s->has_event = false;
        s->event.n = 0;
        return had ? fn(user, len ? s->event.p : "", len, err) : TNL_OK;
    }
    if (n < 4 || memcmp(line, "data", 4) != 0 || (n > 4 && line[4] != ':'))
        return TNL_OK;
    size_t at = n > 4 ? 5 : 4;
    at += at < n && line[at] == ' ';
    if (s->has_event)
        TNL_TRY(append(&s->event, "\n", 1, err));
    s->has_event = true;
    return append(&s->event, line + at, n - at, err);
}

static tnl_status take_line(cli_splitter *s, const char *line, size_t n, cli_item_fn fn, void *user,
                            tnl_error *err) {
    if (!s->begun && n >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0) {
        line += 3;
        n -= 3;
    }
    s->begun = true;
    if (s->framing == CLI_FRAME_SSE)
        return take_field(s, line, n, fn, user, err);
    return n ? fn(user, line, n, err) : TNL_OK;
}

static size_t line_end(const char *p, size_t n) {
    size_t i = 0;
    while (i < n && p[i] != '\n' && p[i] != '\r')
        i++;
    return i;
}

/* A line that came in one piece is taken where it lies. */
static tnl_status close_line(cli_splitter *s, const char *p, size_t n, cli_item_fn fn, void *user,
                             tnl_error *err) {
    if (s->line.n == 0 && n <= CLI_ITEM_MAX)
        return take_line(s, p, n, fn, user, err);
    TNL_TRY(append(&s->line, p, n, err));
    size_t len = s->line.n;
    s->line.n = 0;
    return take_line(s, s->line.p, len, fn, user, err);
}

tnl_status cli_splitter_feed(cli_splitter *s, const char *bytes, size_t n, cli_item_fn fn,
                             void *user, tnl_error *err) {
    while (n) {
        if (s->after_cr && *bytes == '\n') {
            s->after_cr = false;
            bytes++, n--;
            continue;
        }
        s->after_cr = false;
        size_t len = line_end(bytes, n);
        if (len == n)
            return append(&s->line, bytes, n, err);
        s->after_cr = bytes[len] == '\r';
        TNL_TRY(close_line(s, bytes, len, fn, user, err));
        bytes += len + 1;
        n -= len + 1;
    }
    return TNL_OK;
}

tnl_status cli_splitter_end(cli_splitter *s, cli_item_fn fn, void *user, tnl_error *err) {
    size_t n = s->line.n;
    s->line.n = 0;
    if (n == 0 || s->framing == CLI_FRAME_SSE)
        return TNL_OK;
    return take_line(s, s->line.p, n, fn, user, err);
}
