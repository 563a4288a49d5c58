/* The generations of one request: submitted all or none, read in turn, cancelled together. */
#include <math.h>
#include <stdlib.h>
#include <sys/random.h>

#include "kernels/base/log.h"
#include "server/http/access/caller.h"

static bool refuse_submit(const srv_req *req, srv_problem *p, tnl_status s) {
    switch (s) {
    case TNL_E_BUSY:
        return srv_refuse(p, SRV_ERR_QUEUE_FULL, NULL);
    case TNL_E_QUOTA:
        return srv_refuse(p, SRV_ERR_LIMIT_PARALLEL, NULL);
    case TNL_E_UNAVAILABLE:
        return srv_refuse(p, SRV_ERR_DRAINING, NULL);
    case TNL_E_LIMIT:
        return srv_refuse(p, SRV_ERR_PROMPT_TOO_LONG, req->gen.table->prompt);
    case TNL_E_UNSUPPORTED:
        return srv_refuse(p, SRV_ERR_NO_TOKENIZER, "stop");
    case TNL_E_NOMEM:
        return srv_refuse(p, SRV_ERR_NOMEM, NULL);
    case TNL_E_USAGE:
        return srv_refuse(p, SRV_ERR_OUT_OF_RANGE, NULL);
    default:
        return srv_refuse(p, SRV_ERR_INTERNAL, NULL);
    }
}

static bool submit_one(srv_req *req, srv_choice *c, srv_problem *p) {
    srv_gen *g = &req->gen;
    const srv_prompt *prompt = &g->prompts[c->prompt];
    g->params.seed = c->seed;
    eng_job job = {.tokens = prompt->ids,
                   .n_tokens = prompt->n_ids,
                   .key = srv_req_key(req),
                   .session = req->lease,
                   .most_running = srv_caller_slots(req),
                   .most_waiting = srv_caller_share(req),
                   .params = &g->params,
                   .grammar = g->grammar,
                   .wake = srv_wake_cb,
                   .wake_user = req};
    eng_request *er = NULL;
    tnl_error err = {0};
    tnl_status s = eng_submit(&er, req->be->engine, &job, &err);
    if (s != TNL_OK) {
        tnl_log(TNL_LOG_DEBUG, "%s refused by the engine: %s", req->id, err.msg);
        return refuse_submit(req, p, s);
    }
    req->lease = NULL; /* the engine's now */
    atomic_store(&c->er, er);
    return true;
}

/* Draws of one prompt differ by their seeds; the first is what a single draw would give. Seeds of
 * our own stay below 2^53, so that any client can send them back. */
static bool choose_seed(srv_gen *g) {
    if (g->params.has_seed)
        return true;
    if (getrandom(&g->params.seed, sizeof g->params.seed, 0) != (ssize_t)sizeof g->params.seed)
        return false;
    g->params.seed >>= 12;
    g->params.has_seed = true;
    return true;
}

bool srv_choices_submit(srv_req *req, srv_problem *p) {
    srv_gen *g = &req->gen;
    size_t draws = (size_t)(g->best_of > g->n ? g->best_of : g->n), n = g->n_prompts * draws;
    if (n > SRV_MAX_CHOICES)
        return srv_refuse(p, SRV_ERR_OUT_OF_RANGE, "n");
    if (!choose_seed(g))
        return srv_refuse(p, SRV_ERR_INTERNAL, NULL);
    req->choices = calloc(n, sizeof *req->choices);
    if (!req->choices)
        return srv_refuse(p, SRV_ERR_NOMEM, NULL);
    uint64_t seed = g->params.seed;
    for (size_t i = 0; i < n; i++) {
        atomic_init(&req->choices[i].er, NULL);
        req->choices[i].index = (int)i;
        req->choices[i].prompt = i / draws;
        req->choices[i].seed = seed + i % draws;
        req->choices[i].prompt_length = req->session_before + (int64_t)g->prompts[i / draws].n_ids;
    }
    atomic_store(&req->n_choices, (int)n);
    if (!srv_caller_reserve(req, p))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (submit_one(req, &req->choices[i], p))
            continue;
        srv_choices_cancel(req);
        return false;
    }
    return true;
}

static void note(srv_req *req, srv_choice *c, const eng_event *ev) {
    c->cached_tokens = ev->cached_tokens;
    if (ev->kind == ENG_EV_TOKEN) {
        if (ev->prompt)
            c->n_prompt++;
        else
            c->n_tokens++;
        if (!ev->prompt && isfinite(ev->logprob))
            c->logprob_sum += (double)ev->logprob;
        return;
    }
    c->done = true;
    c->finish = ev->finish;
    c->error = ev->error;
    c->completion_tokens = ev->completion_tokens;
    c->session_tokens = ev->session_tokens;
    srv_gen_note_done(req, ev);
}

bool srv_choices_next(srv_req *req, srv_choice **c, eng_event *ev) {
    int n = atomic_load(&req->n_choices);
    for (int i = 0; i < n; i++) {
        srv_choice *at = &req->choices[(req->turn + i) % n];
        if (at->done || !eng_request_poll(atomic_load(&at->er), ev))
            continue;
        req->turn = (req->turn + i + 1) % n;
        note(req, at, ev);
        *c = at;
        return true;
    }
    return false;
}

bool srv_choices_done(const srv_req *req) {
    int n = atomic_load(&req->n_choices);
    for (int i = 0; i < n; i++)
        if (!req->choices[i].done)
            return false;
    return true;
}

void srv_choices_cancel(srv_req *req) {
    int n = atomic_load(&req->n_choices);
    for (int i = 0; i < n; i++) {
        eng_request *er = atomic_load(&req->choices[i].er);
        if (er)
            eng_request_cancel(er);
    }
}

bool srv_choices_started(const srv_req *req) {
    return atomic_load(&req->n_choices) > 0;
}

void srv_choices_free(srv_req *req) {
    int n = atomic_load(&req->n_choices);
    for (int i = 0; i < n; i++) {
        srv_choice *c = &req->choices[i];
        eng_request_release(atomic_load(&c->er));
        srv_buf_free(&c->text);
        for (int k = 0; k < SRV_CHOICE_PARTS; k++)
            srv_buf_free(&c->part[k]);
    }
    free(req->choices);
}
