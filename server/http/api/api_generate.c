/* Our own dialect, POST /generate with "prompt": one JSON object for each token and a summary at
 * the end, as lines or server-sent events, or gathered into one answer. */
#include <string.h>

#include "server/http/api/text.h"
#include "server/http/server.h"

static void put_alts(srv_buf *b, const tok_model *t, const eng_event *ev) {
    srv_buf_puts(b, ",\"top_logprobs\":[");
    for (int i = 0; i < ev->n_alts; i++) {
        size_t n;
        const char *piece = srv_text_piece(t, ev->alts[i].id, &n);
        srv_buf_puts(b, i ? ",{\"id\":" : "{\"id\":");
        srv_json_int(b, ev->alts[i].id);
        srv_buf_puts(b, ",\"text\":");
        srv_json_string(b, piece, n);
        srv_buf_puts(b, ",\"logprob\":");
        srv_json_float(b, ev->alts[i].logprob);
        srv_buf_puts(b, "}");
    }
    srv_buf_puts(b, "]");
}

static void put_token(srv_buf *b, const srv_req *req, const eng_event *ev) {
    srv_buf_puts(b, "{\"id\":");
    srv_json_int(b, ev->id);
    srv_buf_puts(b, ",\"text\":");
    srv_json_string(b, ev->text ? ev->text : "", ev->text_len);
    srv_buf_puts(b, ",\"logprob\":");
    srv_json_float(b, ev->logprob);
    if (req->gen.params.logprobs > 0)
        put_alts(b, req->be->tokenizer, ev);
    if (ev->prompt)
        srv_buf_puts(b, ",\"prompt\":true");
    srv_buf_puts(b, "}");
}

static double rate(int64_t tokens, double ms) {
    return ms > 0 ? (double)tokens * 1000.0 / ms : 0.0;
}

static void put_summary(srv_buf *b, const srv_req *req, const eng_event *ev) {
    srv_buf_printf(
        b, "\"finish_reason\":\"%s\",\"usage\":{\"prompt_tokens\":", eng_finish_names[ev->finish]);
    srv_json_int(b, ev->prompt_tokens);
    srv_buf_puts(b, ",\"completion_tokens\":");
    srv_json_int(b, ev->completion_tokens);
    /* what depends on the server's past, and not on the request alone, is part of timings */
    srv_buf_puts(b, "},\"timings\":{\"cached_tokens\":");
    srv_json_int(b, ev->cached_tokens);
    srv_buf_puts(b, ",\"queue_ms\":");
    srv_json_ms(b, ev->queue_ms);
    srv_buf_puts(b, ",\"prefill_ms\":");
    srv_json_ms(b, ev->prefill_ms);
    srv_buf_puts(b, ",\"decode_ms\":");
    srv_json_ms(b, ev->decode_ms);
    srv_buf_puts(b, ",\"prefill_tokens_per_s\":");
    srv_json_ms(b, rate(ev->prompt_tokens - ev->cached_tokens, ev->prefill_ms));
    srv_buf_puts(b, ",\"decode_tokens_per_s\":");
    /* decode_ms runs from the first token, which prefill paid for, to the end */
    srv_json_ms(b, rate(ev->completion_tokens > 1 ? ev->completion_tokens - 1 : 0, ev->decode_ms));
    srv_buf_puts(b, "}");
    srv_session_put(b, req, ev->session_tokens);
    if (ev->finish == ENG_FINISH_ERROR) {
        srv_problem p;
        srv_refuse(&p, srv_gen_error(ev->error), NULL);
        srv_buf_puts(b, ",\"error\":");
        srv_err_object(b, &p);
    }
}

/* ---- stream ---- */

static void frame_begin(srv_req *req) {
    srv_buf_puts(&req->out, req->sse ? "data: {" : "{");
}

static void frame_end(srv_req *req) {
    srv_buf_puts(&req->out, req->sse ? "}\n\n" : "}\n");
}

static void on_token(srv_req *req, srv_choice *c, const eng_event *ev) {
    (void)c;
    frame_begin(req);
    srv_buf_puts(&req->out, "\"index\":");
    srv_json_int(&req->out, ev->index);
    srv_buf_puts(&req->out, ",\"token\":");
    put_token(&req->out, req, ev);
    frame_end(req);
}

static void on_done(srv_req *req, srv_choice *c, const eng_event *ev) {
    (void)c;
    frame_begin(req);
    put_summary(&req->out, req, ev);
    frame_end(req);
}

/* ---- gathered ---- */

static void gather(srv_req *req, srv_choice *c, const eng_event *ev) {
    if (c->part[0].len)
        srv_buf_puts(&c->part[0], ",");
    put_token(&c->part[0], req, ev);
    srv_buf_put(&c->text, ev->text, ev->text_len);
}

static void answer(srv_req *req, srv_buf *b, const eng_event *last) {
    const srv_choice *c = &req->choices[0];
    srv_buf_puts(b, "{\"text\":");
    srv_json_string(b, c->text.data, c->text.len);
    srv_buf_puts(b, ",\"tokens\":[");
    srv_buf_put(b, c->part[0].data, c->part[0].len);
    srv_buf_puts(b, "],");
    put_summary(b, req, last);
    srv_buf_puts(b, "}\n");
}

const srv_dialect srv_dialect_ours = {
    .token = on_token, .done = on_done, .gather = gather, .answer = answer};
