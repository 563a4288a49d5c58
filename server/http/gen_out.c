/* The JSON of a generation: one token, and the summary that ends it. */
#include <string.h>

#include "server/http/server.h"
#include "server/http/text.h"

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

void srv_gen_token(srv_buf *b, const srv_req *req, const eng_event *ev) {
    srv_buf_puts(b, "{\"id\":");
    srv_json_int(b, ev->id);
    srv_buf_puts(b, ",\"text\":");
    srv_json_string(b, ev->text ? ev->text : "", ev->text_len);
    srv_buf_puts(b, ",\"logprob\":");
    srv_json_float(b, ev->logprob);
    if (req->gen.params.logprobs > 0)
        put_alts(b, req->srv->backend.tokenizer, ev);
    if (ev->prompt)
        srv_buf_puts(b, ",\"prompt\":true");
    srv_buf_puts(b, "}");
}

static double rate(int64_t tokens, double ms) {
    return ms > 0 ? (double)tokens * 1000.0 / ms : 0.0;
}

srv_err srv_gen_error(tnl_status s) {
    switch (s) {
    case TNL_E_NONFINITE:
        return SRV_ERR_NONFINITE;
    case TNL_E_NOMEM:
        return SRV_ERR_NOMEM;
    case TNL_E_BUSY:
        return SRV_ERR_QUEUE_TIMEOUT;
    case TNL_E_UNAVAILABLE:
        return SRV_ERR_DRAINING;
    case TNL_E_USAGE: /* every token was forbidden */
        return SRV_ERR_NO_TOKEN;
    default:
        return SRV_ERR_INTERNAL;
    }
}

void srv_gen_note_done(srv_req *req, const eng_event *ev) {
    req->finished = true;
    req->finish = ev->finish;
    req->prompt_tokens = ev->prompt_tokens;
    req->completion_tokens = ev->completion_tokens;
    req->queue_ms = ev->queue_ms;
    req->prefill_ms = ev->prefill_ms;
    req->decode_ms = ev->decode_ms;
}

void srv_gen_summary(srv_buf *b, const srv_req *req, const eng_event *ev) {
    (void)req;
    srv_buf_printf(
        b, "\"finish_reason\":\"%s\",\"usage\":{\"prompt_tokens\":", eng_finish_names[ev->finish]);
    srv_json_int(b, ev->prompt_tokens);
    srv_buf_puts(b, ",\"completion_tokens\":");
    srv_json_int(b, ev->completion_tokens);
    srv_buf_puts(b, "},\"timings\":{\"queue_ms\":");
    srv_json_ms(b, ev->queue_ms);
    srv_buf_puts(b, ",\"prefill_ms\":");
    srv_json_ms(b, ev->prefill_ms);
    srv_buf_puts(b, ",\"decode_ms\":");
    srv_json_ms(b, ev->decode_ms);
    srv_buf_puts(b, ",\"prefill_tokens_per_s\":");
    srv_json_ms(b, rate(ev->prompt_tokens, ev->prefill_ms));
    srv_buf_puts(b, ",\"decode_tokens_per_s\":");
    /* decode_ms runs from the first token, which prefill paid for, to the end */
    srv_json_ms(b, rate(ev->completion_tokens > 1 ? ev->completion_tokens - 1 : 0, ev->decode_ms));
    srv_buf_puts(b, "}");
    if (ev->finish == ENG_FINISH_ERROR) {
        srv_problem p;
        srv_refuse(&p, srv_gen_error(ev->error), NULL);
        srv_buf_puts(b, ",\"error\":");
        srv_err_object(b, &p);
    }
}
