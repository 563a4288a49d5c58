/* Answers from a server: ours, or any that speaks OpenAI's chat completions (for --plain,
 * completions). */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "server/cli/chat/chat.h"
#include "server/cli/client/client_dialect.h"
#include "server/cli/progress.h"

typedef struct remote {
    cli_client *client;
    char *model;
} remote;

/* One answer on its way. */
typedef struct hearing {
    const cli_question *q;
    cli_answer *a;
    cli_dialect_id dialect;
    cli_splitter split;
    double began;
    bool ended, over;
    tnl_status status;
    tnl_error err;
} hearing;

static void close_remote(void *self) {
    remote *r = self;
    cli_client_close(r->client);
    free(r->model);
    free(r);
}

/* ---- listening ---- */

static void take_figures(cli_answer *a, const cli_piece *p) {
    if (*p->finish)
        snprintf(a->finish, sizeof a->finish, "%s", p->finish);
    if (!p->has_usage)
        return;
    a->prompt_tokens = p->prompt_tokens;
    a->cached_tokens = p->cached_tokens;
    if (p->completion_tokens >= 0)
        a->tokens = p->completion_tokens;
}

static tnl_status take_item(void *user, const char *item, size_t n, tnl_error *err) {
    hearing *h = user;
    cli_piece p;
    if (h->ended)
        return TNL_OK;
    TNL_TRY(cli_piece_read(&p, h->dialect, item, n, err));
    tnl_status s = *p.problem ? tnl_fail(err, TNL_E_UNAVAILABLE, "the server broke off: %s: %s",
                                         p.problem, p.message)
                              : TNL_OK;
    if (p.tokens && h->a->first_ms < 0)
        h->a->first_ms = 1000 * (cli_now() - h->began);
    h->a->tokens += p.tokens;
    take_figures(h->a, &p);
    if (s == TNL_OK && p.text && *p.text)
        s = h->q->text(h->q->user, p.text, strlen(p.text), err);
    h->ended = p.last;
    cli_piece_clear(&p);
    return s;
}

static bool on_data(void *user, const char *bytes, size_t n) {
    hearing *h = user;
    h->status = cli_splitter_feed(&h->split, bytes, n, take_item, h, &h->err);
    return h->status == TNL_OK;
}

static void on_done(void *user, const cli_ending *end) {
    hearing *h = user;
    h->over = true;
    if (h->status != TNL_OK || h->ended)
        return;
    if (end->status != TNL_OK)
        h->status = tnl_fail(&h->err, end->status, "%s", end->message);
    else if (!*h->a->finish) /* some servers leave out [DONE] */
        h->status = tnl_fail(&h->err, TNL_E_IO, "the server closed the connection too early");
}

/* ---- asking ---- */

static void write_number(srv_buf *b, const cli_opt *row, const cli_chat_settings *o) {
    const char *at = (const char *)o + row->offset;
    char name[64];
    snprintf(name, sizeof name, "%s", row->flag);
    for (char *c = name; *c; c++)
        *c = *c == '-' ? '_' : *c;
    srv_buf_printf(b, ",\"%s\":", name);
    if (row->type == CLI_REAL)
        srv_json_double(b, *(const double *)(const void *)at);
    else if (row->type == CLI_U64)
        srv_buf_printf(b, "%" PRIu64, *(const uint64_t *)(const void *)at);
    else
        srv_json_int(b, *(const int64_t *)(const void *)at);
}

/* What the person chose; a server that lacks a field need not see it otherwise. */
static void write_extra(srv_buf *b, const cli_chat_settings *o) {
    int n, first;
    const cli_opt *rows = cli_chat_set_rows(&n, &first);
    for (int i = 0; i < n; i++)
        if (o->given[first + i] && strcmp(rows[i].flag, "max-tokens") != 0)
            write_number(b, &rows[i], o);
    if (o->ignore_eos)
        srv_buf_puts(b, ",\"ignore_eos\":true");
    srv_buf_put(b, "", 1);
}

static tnl_status write_body(srv_buf *body, const remote *r, const cli_question *q,
                             cli_dialect_id dialect, tnl_error *err) {
    srv_buf extra = {0}, text = {0};
    write_extra(&extra, q->o);
    if (q->plain)
        cli_chat_log_text(&text, q->log);
    bool ok = !extra.failed && !text.failed;
    cli_ask ask = {.model = r->model,
                   .text = text.len ? text.data : "",
                   .text_len = text.len,
                   .messages = q->log->m,
                   .n_messages = q->log->n,
                   .max_tokens = q->o->max_tokens,
                   .extra = extra.data};
    if (ok)
        cli_ask_write(body, dialect, &ask);
    srv_buf_free(&extra);
    srv_buf_free(&text);
    return ok && !body->failed ? TNL_OK : tnl_fail(err, TNL_E_NOMEM, "out of memory");
}

static tnl_status hear(hearing *h, cli_client *c, const srv_buf *body, tnl_error *err) {
    cli_sink sink = {.data = on_data, .done = on_done, .user = h};
    cli_call *call;
    TNL_TRY(
        cli_call_start(&call, c, cli_dialects[h->dialect].path, body->data, body->len, &sink, err));
    while (!h->over && !*h->q->interrupts)
        cli_client_wait(c, cli_now() + 0.1);
    if (!h->over) {
        cli_call_cancel(call);
        h->a->stopped = true;
    }
    h->a->total_ms = 1000 * (cli_now() - h->began);
    if (h->status != TNL_OK)
        *err = h->err;
    return h->status;
}

static tnl_status answer(void *self, const cli_question *q, cli_answer *a, tnl_error *err) {
    remote *r = self;
    hearing h = {.q = q,
                 .a = a,
                 .dialect = q->plain ? CLI_DIALECT_COMPLETIONS : CLI_DIALECT_CHAT,
                 .began = cli_now()};
    srv_buf body = {0};
    cli_splitter_begin(&h.split, cli_dialects[h.dialect].framing);
    a->tokens = 0;
    tnl_status s = write_body(&body, r, q, h.dialect, err);
    if (s == TNL_OK)
        s = hear(&h, r->client, &body, err);
    cli_splitter_free(&h.split);
    srv_buf_free(&body);
    return s;
}

/* ---- opening ---- */

static tnl_status find_model(remote *r, bool *plain, const char *name, tnl_error *err) {
    char *text = NULL;
    size_t n = 0;
    if (name)
        return (r->model = strdup(name)) ? TNL_OK : tnl_fail(err, TNL_E_NOMEM, "out of memory");
    TNL_TRY(cli_client_get(r->client, "/v1/models", &text, &n, err));
    tnl_status s = cli_model_name(&r->model, plain, text, n, err);
    free(text);
    return s;
}

tnl_status cli_voice_remote(cli_voice *out, const cli_chat_settings *o, const char *url,
                            tnl_error *err) {
    remote *r = calloc(1, sizeof *r);
    if (!r)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    bool plain = false;
    tnl_status s = cli_client_open(&r->client, url, &o->client, err);
    if (s == TNL_OK)
        s = find_model(r, &plain, o->model_name, err);
    if (s != TNL_OK) {
        close_remote(r);
        return s;
    }
    *out = (cli_voice){.answer = answer, .close = close_remote, .self = r};
    out->plain = cli_chat_given(o, "plain") ? o->plain : plain;
    char model[64];
    cli_copy_line(model, sizeof model, r->model);
    snprintf(out->name, sizeof out->name, "%s at %.50s%s", model, url,
             out->plain ? ", which continues text" : "");
    return TNL_OK;
}
