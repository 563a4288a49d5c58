/* The dialect of text-generation-inference: POST /generate with "inputs", /generate_stream, and /,
 * which answers an array of one. Where TGI's stop strings stay in the text, ours do not.
 *
 * The last event of a stream is the last token together with the summary, so a token that may turn
 * out to be the last one is held until its successor or the end is there. */
#include <stdlib.h>
#include <string.h>

#include "server/http/api/text.h"
#include "server/http/server.h"

enum { TOKENS, TOP, PREFILL, HELD };

static bool prepare(srv_req *req, srv_problem *p) {
    srv_gen *g = &req->gen;
    if (g->has_parameters && !g->do_sample && !g->has_sampling)
        g->params.temperature = 0;
    if (g->stream && g->best_of > 1)
        return srv_conflict(p, "best_of", "above 1 does not go together with a stream");
    if (g->prefill && (g->stream || !g->details))
        return srv_conflict(p, "decoder_input_details", "needs details, and no stream");
    g->params.echo = g->prefill;
    return true;
}

static const char *finish_name(eng_finish f) {
    return f == ENG_FINISH_EOS ? "eos_token" : f == ENG_FINISH_STOP ? "stop_sequence" : "length";
}

/* ---- tokens ---- */

static void put_token(srv_buf *b, const srv_req *req, int32_t id, float logprob, bool generated) {
    size_t n;
    bool special;
    char spare[32];
    const char *piece = srv_gen_piece(req, id, &n, &special, spare);
    srv_buf_puts(b, "{\"id\":");
    srv_json_int(b, id);
    srv_buf_puts(b, ",\"text\":");
    srv_json_string(b, piece, n);
    srv_buf_puts(b, ",\"logprob\":");
    srv_json_float(b, logprob);
    if (generated)
        srv_buf_puts(b, special ? ",\"special\":true" : ",\"special\":false");
    srv_buf_puts(b, "}");
}

static void put_top(srv_buf *b, const srv_req *req, const eng_event *ev) {
    for (int i = 0; i < ev->n_alts; i++) {
        srv_buf_puts(b, i ? "," : "[");
        put_token(b, req, ev->alts[i].id, ev->alts[i].logprob, true);
    }
    srv_buf_puts(b, ev->n_alts ? "]" : "[]");
}

/* ---- what both forms of an answer end with ---- */

static void put_text(srv_buf *b, const srv_req *req, const srv_choice *c) {
    const srv_prompt *prompt = req->gen.full_text ? &req->gen.prompts[0] : NULL;
    srv_buf all = {0};
    if (prompt)
        srv_buf_put(&all, prompt->text, prompt->text_len);
    srv_buf_put(&all, c->text.data, c->text.len);
    srv_json_string(b, all.data, all.len);
    b->failed |= all.failed;
    srv_buf_free(&all);
}

static void put_seed(srv_buf *b, const srv_req *req, const srv_choice *c) {
    if (req->gen.params.temperature > 0)
        srv_buf_printf(b, ",\"seed\":%llu", (unsigned long long)c->seed);
    else
        srv_buf_puts(b, ",\"seed\":null");
}

static void put_finish(srv_buf *b, const srv_req *req, const srv_choice *c) {
    srv_buf_printf(b, "\"finish_reason\":\"%s\",\"generated_tokens\":%lld", finish_name(c->finish),
                   (long long)c->completion_tokens);
    put_seed(b, req, c);
}

/* ---- stream ---- */

static bool may_be_last(const srv_req *req, const srv_choice *c, const eng_event *ev) {
    const eng_params *p = &req->gen.params;
    return p->n_stop > 0 || req->gen.constrained || c->n_tokens >= p->max_tokens ||
           (!p->ignore_eos && srv_gen_is_end(req, ev->id));
}

/* Everything of a token's event but what differs for the last one. */
static void put_event(srv_buf *b, const srv_req *req, const srv_choice *c, const eng_event *ev) {
    srv_buf_puts(b, "data: {\"index\":");
    srv_json_int(b, c->n_tokens);
    srv_buf_puts(b, ",\"token\":");
    put_token(b, req, ev->id, ev->logprob, true);
    if (ev->n_alts) {
        srv_buf_puts(b, ",\"top_tokens\":");
        put_top(b, req, ev);
    }
}

static void release_held(srv_req *req, srv_choice *c) {
    if (c->part[HELD].len == 0)
        return;
    srv_buf_put(&req->out, c->part[HELD].data, c->part[HELD].len);
    srv_buf_puts(&req->out, ",\"generated_text\":null,\"details\":null}\n\n");
    srv_buf_clear(&c->part[HELD]);
}

static void on_token(srv_req *req, srv_choice *c, const eng_event *ev) {
    release_held(req, c);
    srv_buf_put(&c->text, ev->text, ev->text_len);
    put_event(&c->part[HELD], req, c, ev);
    if (!may_be_last(req, c, ev))
        release_held(req, c);
    req->out.failed |= c->part[HELD].failed || c->text.failed;
}

static void on_done(srv_req *req, srv_choice *c, const eng_event *ev) {
    srv_buf *b = &req->out;
    if (c->part[HELD].len == 0) { /* ended from outside: no token is left to say so with */
        srv_buf_puts(b, "data: {\"error\":\"The generation was ended before its time.\","
                        "\"error_type\":\"incomplete_generation\"}\n\n");
        return;
    }
    srv_buf_put(b, c->part[HELD].data, c->part[HELD].len);
    srv_buf_puts(b, ",\"generated_text\":");
    put_text(b, req, c);
    srv_buf_puts(b, ",\"details\":");
    if (req->gen.details) {
        srv_buf_puts(b, "{");
        put_finish(b, req, c);
        srv_buf_puts(b, ",\"input_length\":");
        srv_json_int(b, ev->prompt_tokens);
        srv_buf_puts(b, "}}\n\n");
    } else {
        srv_buf_puts(b, "null}\n\n");
    }
}

/* ---- gathered ---- */

static void gather(srv_req *req, srv_choice *c, const eng_event *ev) {
    srv_buf *to = &c->part[ev->prompt ? PREFILL : TOKENS];
    if (!ev->prompt)
        srv_buf_put(&c->text, ev->text, ev->text_len);
    if (!req->gen.details)
        return;
    if (to->len)
        srv_buf_puts(to, ",");
    put_token(to, req, ev->id, ev->logprob, !ev->prompt);
    if (ev->prompt || req->gen.params.logprobs == 0)
        return;
    if (c->part[TOP].len)
        srv_buf_puts(&c->part[TOP], ",");
    put_top(&c->part[TOP], req, ev);
}

static void put_list(srv_buf *b, const char *name, const srv_buf *items) {
    srv_buf_printf(b, ",\"%s\":[", name);
    srv_buf_put(b, items->data, items->len);
    srv_buf_puts(b, "]");
}

static void put_sequence(srv_buf *b, const srv_req *req, const srv_choice *c) {
    put_finish(b, req, c);
    put_list(b, "prefill", &c->part[PREFILL]);
    put_list(b, "tokens", &c->part[TOKENS]);
    if (req->gen.params.logprobs > 0)
        put_list(b, "top_tokens", &c->part[TOP]);
}

static void put_others(srv_buf *b, const srv_req *req, srv_choice *const *best, size_t n) {
    srv_buf_puts(b, ",\"best_of_sequences\":[");
    for (size_t i = 1; i < n; i++) {
        srv_buf_puts(b, i > 1 ? ",{\"generated_text\":" : "{\"generated_text\":");
        put_text(b, req, best[i]);
        srv_buf_puts(b, ",");
        put_sequence(b, req, best[i]);
        srv_buf_puts(b, "}");
    }
    srv_buf_puts(b, "]");
}

static void answer(srv_req *req, srv_buf *b, const eng_event *last) {
    (void)last;
    srv_choice *best[SRV_MAX_N];
    size_t n = (size_t)atomic_load(&req->n_choices);
    bool array = strcmp(req->route->path, "/") == 0;
    srv_gen_pick(best, n, req, 0);
    srv_buf_puts(b, array ? "[{\"generated_text\":" : "{\"generated_text\":");
    put_text(b, req, best[0]);
    if (req->gen.details) {
        srv_buf_puts(b, ",\"details\":{");
        put_sequence(b, req, best[0]);
        if (n > 1)
            put_others(b, req, best, n);
        srv_buf_puts(b, "}");
    }
    srv_buf_puts(b, array ? "}]\n" : "}\n");
}

/* ---- refusals ---- */

static int tgi_status(srv_err e) {
    int status = srv_err_status(e);
    if (e == SRV_ERR_NONFINITE || e == SRV_ERR_NO_TOKEN)
        return 424;
    return status == 400 && e != SRV_ERR_INVALID_JSON && e != SRV_ERR_INVALID_UTF8 ? 422 : status;
}

static const char *error_type(srv_err e) {
    int status = tgi_status(e);
    return status == 424   ? "generation"
           : status == 429 ? "overloaded"
           : status == 503 ? "overloaded"
           : status >= 500 ? "incomplete_generation"
                           : "validation";
}

static void problem(srv_buf *b, const srv_problem *p) {
    const char *text = srv_err_text(p);
    srv_buf line = {0};
    if (p->param[0] && !strstr(text, p->param)) {
        srv_buf_puts(&line, p->param);
        srv_buf_puts(&line, ": ");
    }
    srv_buf_puts(&line, text);
    srv_buf_puts(b, "{\"error\":");
    srv_json_string(b, line.data, line.len);
    srv_buf_printf(b, ",\"error_type\":\"%s\"}", error_type(p->err));
    b->failed |= line.failed;
    srv_buf_free(&line);
}

const srv_dialect srv_dialect_tgi = {.sse = true,
                                     .prepare = prepare,
                                     .token = on_token,
                                     .done = on_done,
                                     .gather = gather,
                                     .answer = answer,
                                     .problem = problem,
                                     .status = tgi_status};
