/* What the dialects share when they write a generation: how it ended, tokens as text, and the
 * choice among several draws. */
#include <stdio.h>
#include <string.h>

#include "server/http/api/text.h"
#include "server/http/server.h"

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

/* Why a request was cancelled whose client is still there; NONE: the client is not. */
static srv_err why_cancelled(const srv_req *req) {
    if (atomic_load(&req->timed_out))
        return SRV_ERR_TOO_SLOW;
    if (atomic_load(&req->srv->draining))
        return SRV_ERR_DRAINING;
    return req->session[0] ? SRV_ERR_UNKNOWN_SESSION : SRV_ERR_NONE; /* it was deleted */
}

bool srv_gen_failed(const srv_req *req, const srv_choice *c, srv_problem *p) {
    srv_err e = SRV_ERR_NONE;
    if (c->finish == ENG_FINISH_ERROR)
        e = srv_gen_error(c->error);
    else if (c->finish == ENG_FINISH_CANCELLED && req->dialect->problem)
        e = why_cancelled(req);
    if (e != SRV_ERR_NONE)
        srv_refuse(p, e, e == SRV_ERR_UNKNOWN_SESSION ? "session_id" : NULL);
    return e != SRV_ERR_NONE;
}

bool srv_gen_any_failed(const srv_req *req, srv_problem *p) {
    int n = atomic_load(&req->n_choices);
    for (int i = 0; i < n; i++)
        if (srv_gen_failed(req, &req->choices[i], p))
            return true;
    return false;
}

static double larger(double a, double b) {
    return a > b ? a : b;
}

/* Of several choices: tokens together, the longest of each time, the worst end. */
void srv_gen_note_done(srv_req *req, const eng_event *ev) {
    int n = atomic_load(&req->n_choices), before = 0;
    for (int i = 0; i < n; i++)
        before += req->choices[i].done;
    req->finish = before > 1 && req->finish > ev->finish ? req->finish : ev->finish;
    req->finished = before == n;
    req->prompt_tokens += ev->prompt_tokens;
    req->completion_tokens += ev->completion_tokens;
    req->cached_tokens += ev->cached_tokens;
    req->queue_ms = larger(req->queue_ms, ev->queue_ms);
    req->prefill_ms = larger(req->prefill_ms, ev->prefill_ms);
    req->decode_ms = larger(req->decode_ms, ev->decode_ms);
}

const char *srv_gen_piece(const srv_req *req, int32_t id, size_t *n, bool *special,
                          char spare[32]) {
    const tok_model *t = req->be->tokenizer;
    const char *piece = srv_text_piece(t, id, n);
    *special = *n == 0;
    if (*n)
        return piece;
    piece = srv_text_piece_name(t, id);
    if (!*piece) {
        snprintf(spare, 32, "token_id:%d", (int)id);
        piece = spare;
    }
    *n = strlen(piece);
    return piece;
}

bool srv_gen_is_end(const srv_req *req, int32_t id) {
    const srv_backend *be = req->be;
    int32_t eos = mdl_model_spec(be->model)->eos_id;
    return id == (eos >= 0 ? eos : srv_text_eos(be->tokenizer));
}

static double mean_logprob(const srv_choice *c) {
    return c->n_tokens ? c->logprob_sum / (double)c->n_tokens : 0;
}

/* By insertion: the draws are few. */
void srv_gen_pick(srv_choice **best, size_t keep, const srv_req *req, size_t prompt) {
    int n = atomic_load(&req->n_choices);
    size_t have = 0;
    bool rank = req->gen.best_of > req->gen.n;
    for (int i = 0; i < n; i++) {
        srv_choice *c = &req->choices[i];
        if (c->prompt != prompt)
            continue;
        size_t at = have;
        while (rank && at > 0 && mean_logprob(c) > mean_logprob(best[at - 1]))
            at--;
        if (at >= keep)
            continue;
        size_t last = have < keep ? have++ : keep - 1;
        memmove(best + at + 1, best + at, (last - at) * sizeof(srv_choice *));
        best[at] = c;
    }
}
