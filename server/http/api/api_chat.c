/* POST /v1/chat/completions: messages through the template to a prompt, and answers as messages. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/http/api/chat_template.h"
#include "server/http/api/openai_out.h"

/* The session holds the conversation up to the last answer. */
static bool render_more(srv_req *req, srv_problem *p) {
    const srv_gen *g = &req->gen;
    const srv_backend *be = req->be;
    int64_t n;
    const int32_t *past = eng_lease_text(req->lease, &n);
    return srv_chat_more(&g->prompts[0], be->chat, past, (size_t)n, g->messages, g->n_messages,
                         be->tokenizer, mdl_model_spec(be->model), p);
}

static bool render(srv_req *req, srv_problem *p) {
    srv_gen *g = &req->gen;
    const srv_backend *be = req->be;
    g->prompts = calloc(1, sizeof *g->prompts);
    if (!g->prompts)
        return srv_refuse(p, SRV_ERR_NOMEM, NULL);
    g->n_prompts = 1;
    bool ok = req->session_before > 0
                  ? render_more(req, p)
                  : srv_chat_prompt(&g->prompts[0], be->chat, g->messages, g->n_messages,
                                    be->tokenizer, mdl_model_spec(be->model), p);
    return ok && srv_chat_stops(&g->params, be->chat, be->tokenizer, p);
}

static bool prepare(srv_req *req, srv_problem *p) {
    srv_gen *g = &req->gen;
    if (g->top_logprobs >= 0 && !g->want_logprobs)
        return srv_conflict(p, "top_logprobs", "needs logprobs: true");
    g->params.logprobs = g->top_logprobs > 0 ? g->top_logprobs : 0;
    if (!srv_openai_check(g, p) || !render(req, p))
        return false;
    srv_openai_head(&req->head, req, "chatcmpl-",
                    g->stream ? "chat.completion.chunk" : "chat.completion");
    return true;
}

/* ---- logprobs ---- */

static void put_one(srv_buf *b, const srv_req *req, int32_t id, float logprob) {
    size_t n;
    bool special;
    char spare[32];
    const char *piece = srv_gen_piece(req, id, &n, &special, spare);
    srv_buf_puts(b, "{\"token\":");
    srv_json_string(b, piece, n);
    srv_buf_puts(b, ",\"logprob\":");
    srv_json_float(b, logprob);
    srv_buf_puts(b, ",\"bytes\":");
    for (size_t i = 0; !special && i < n; i++)
        srv_buf_printf(b, "%s%u", i ? "," : "[", (unsigned)(unsigned char)piece[i]);
    srv_buf_puts(b, special ? "null" : "]");
}

static void put_logprob(srv_buf *b, const srv_req *req, const eng_event *ev) {
    put_one(b, req, ev->id, ev->logprob);
    srv_buf_puts(b, ",\"top_logprobs\":[");
    for (int i = 0; i < ev->n_alts; i++) {
        if (i)
            srv_buf_puts(b, ",");
        put_one(b, req, ev->alts[i].id, ev->alts[i].logprob);
        srv_buf_puts(b, "}");
    }
    srv_buf_puts(b, "]}");
}

/* ---- stream ---- */

static void chunk_begin(srv_req *req, const srv_choice *c) {
    srv_openai_chunk_begin(req);
    srv_buf_printf(&req->out, "{\"index\":%d,\"delta\":", c->index);
}

static void chunk_end(srv_req *req, const char *finish) {
    if (finish)
        srv_buf_printf(&req->out, ",\"finish_reason\":\"%s\"}", finish);
    else
        srv_buf_puts(&req->out, ",\"finish_reason\":null}");
    srv_openai_chunk_end(req);
}

static void begin(srv_req *req) {
    for (int i = 0; i < atomic_load(&req->n_choices); i++) {
        chunk_begin(req, &req->choices[i]);
        srv_buf_puts(&req->out, "{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null");
        chunk_end(req, NULL);
    }
}

static void on_token(srv_req *req, srv_choice *c, const eng_event *ev) {
    bool logprobs = req->gen.want_logprobs;
    if (ev->text_len == 0 && !logprobs && !req->gen.continuous_usage)
        return; /* held back: nothing to say yet */
    chunk_begin(req, c);
    srv_buf_puts(&req->out, "{\"content\":");
    srv_json_string(&req->out, ev->text ? ev->text : "", ev->text_len);
    srv_buf_puts(&req->out, logprobs ? "},\"logprobs\":{\"content\":[" : "},\"logprobs\":null");
    if (logprobs) {
        put_logprob(&req->out, req, ev);
        srv_buf_puts(&req->out, "],\"refusal\":null}");
    }
    chunk_end(req, NULL);
}

static void on_done(srv_req *req, srv_choice *c, const eng_event *ev) {
    (void)ev;
    chunk_begin(req, c);
    srv_buf_puts(&req->out, "{},\"logprobs\":null");
    chunk_end(req, srv_openai_finish(c->finish));
}

/* ---- gathered ---- */

static void gather(srv_req *req, srv_choice *c, const eng_event *ev) {
    srv_buf_put(&c->text, ev->text, ev->text_len);
    if (!req->gen.want_logprobs)
        return;
    if (c->part[0].len)
        srv_buf_puts(&c->part[0], ",");
    put_logprob(&c->part[0], req, ev);
}

static void put_message(srv_buf *b, const srv_req *req, const srv_choice *c) {
    srv_buf_printf(b, "{\"index\":%d,\"message\":{\"role\":\"assistant\",\"content\":", c->index);
    srv_json_string(b, c->text.data, c->text.len);
    srv_buf_puts(b, ",\"refusal\":null},\"logprobs\":");
    if (req->gen.want_logprobs) {
        srv_buf_puts(b, "{\"content\":[");
        srv_buf_put(b, c->part[0].data, c->part[0].len);
        srv_buf_puts(b, "],\"refusal\":null}");
    } else {
        srv_buf_puts(b, "null");
    }
    srv_buf_printf(b, ",\"finish_reason\":\"%s\"}", srv_openai_finish(c->finish));
}

static void answer(srv_req *req, srv_buf *b, const eng_event *last) {
    (void)last;
    srv_buf_put(b, req->head.data, req->head.len);
    for (int i = 0; i < atomic_load(&req->n_choices); i++) {
        if (i)
            srv_buf_puts(b, ",");
        put_message(b, req, &req->choices[i]);
    }
    srv_openai_answer_end(b, req);
}

const srv_dialect srv_dialect_chat = {.sse = true,
                                      .prepare = prepare,
                                      .begin = begin,
                                      .token = on_token,
                                      .done = on_done,
                                      .end = srv_openai_end,
                                      .gather = gather,
                                      .answer = answer,
                                      .problem = srv_openai_problem};
