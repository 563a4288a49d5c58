/* Heads, usage and chunk frames of the OpenAI dialects. */
#include "server/http/api/openai_out.h"

#include <string.h>

void srv_openai_head(srv_buf *b, const srv_req *req, const char *prefix, const char *object) {
    const srv_server *srv = req->srv;
    srv_buf id = {0};
    srv_buf_puts(&id, prefix);
    srv_buf_puts(&id, req->id);
    srv_buf_puts(b, "{\"id\":");
    srv_json_string(b, id.data, id.len);
    b->failed |= id.failed;
    srv_buf_free(&id);
    srv_buf_printf(b, ",\"object\":\"%s\",\"created\":%lld,\"model\":", object,
                   (long long)req->made_at);
    srv_json_string(b, srv->set->alias, strlen(srv->set->alias));
    srv_buf_printf(b, ",\"system_fingerprint\":\"fp_%s\",\"choices\":[",
                   mdl_model_fingerprint(req->be->model));
}

const char *srv_openai_finish(eng_finish f) {
    return f == ENG_FINISH_EOS || f == ENG_FINISH_STOP ? "stop" : "length";
}

static int64_t tokens_of(const srv_choice *c) {
    return c->done ? c->completion_tokens : c->n_tokens;
}

/* A prompt counts once, however many answers were drawn for it. */
void srv_openai_usage(srv_buf *b, const srv_req *req) {
    int64_t prompt = 0, completion = 0, cached = 0;
    int n = atomic_load(&req->n_choices);
    for (int i = 0; i < n; i++) {
        const srv_choice *c = &req->choices[i];
        if (i == 0 || c->prompt != req->choices[i - 1].prompt) {
            prompt += c->prompt_length;
            cached += c->cached_tokens;
        }
        completion += tokens_of(c);
    }
    srv_buf_printf(b,
                   "{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld,"
                   "\"prompt_tokens_details\":{\"cached_tokens\":%lld}}",
                   (long long)prompt, (long long)completion, (long long)(prompt + completion),
                   (long long)cached);
}

void srv_openai_answer_end(srv_buf *b, const srv_req *req) {
    srv_buf_puts(b, "],\"usage\":");
    srv_openai_usage(b, req);
    srv_session_put(b, req, req->choices[0].session_tokens);
    srv_buf_puts(b, "}\n");
    b->failed |= req->head.failed;
}

void srv_openai_chunk_begin(srv_req *req) {
    srv_buf_puts(&req->out, "data: ");
    srv_buf_put(&req->out, req->head.data, req->head.len);
    req->out.failed |= req->head.failed;
}

void srv_openai_chunk_end(srv_req *req) {
    srv_buf_puts(&req->out, "]");
    if (req->gen.continuous_usage) {
        srv_buf_puts(&req->out, ",\"usage\":");
        srv_openai_usage(&req->out, req);
    } else if (req->gen.include_usage) {
        srv_buf_puts(&req->out, ",\"usage\":null");
    }
    if (req->choices[0].done)
        srv_session_put(&req->out, req, req->choices[0].session_tokens);
    srv_buf_puts(&req->out, "}\n\n");
}

void srv_openai_end(srv_req *req) {
    if (req->gen.include_usage) {
        srv_openai_chunk_begin(req);
        srv_buf_puts(&req->out, "],\"usage\":");
        srv_openai_usage(&req->out, req);
        srv_buf_puts(&req->out, "}\n\n");
    }
    srv_buf_puts(&req->out, "data: [DONE]\n\n");
}

void srv_openai_problem(srv_buf *b, const srv_problem *p) {
    srv_buf_puts(b, "{\"error\":");
    srv_err_object(b, p);
    srv_buf_puts(b, "}");
}

bool srv_openai_check(const srv_gen *g, srv_problem *p) {
    if (g->best_of && g->best_of < g->n)
        return srv_conflict(p, "best_of", "must be at least n");
    if (g->stream && g->best_of > g->n)
        return srv_conflict(p, "best_of", "above n does not go together with stream");
    if (!g->stream && (g->include_usage || g->continuous_usage))
        return srv_conflict(p, "stream_options", "needs stream: true");
    return true;
}
