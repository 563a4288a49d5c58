/* What every route that generates has in common: admission, body to prompts to choices, and
 * gathering an answer that is not streamed. Dialects do the rest. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/log.h"
#include "server/http/api/text.h"
#include "server/http/json/json_in.h"
#include "server/http/server.h"

/* ---- admission ---- */

/* Work ahead over the measured pace, plus a jitter that spreads the clients out. */
int srv_retry_after(srv_server *srv) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    double wait = (double)(ts.tv_nsec / 1000 % 2000) / 1000.0;
    srv_backend *be = srv_backend_take(srv);
    if (be) {
        eng_metrics m;
        eng_metrics_get(be->engine, &m);
        srv_backend_give(srv, be);
        double mean = m.request_s.count ? m.request_s.sum / (double)m.request_s.count : 1.0;
        wait += mean * (m.queued + 1) / (m.slots > 0 ? m.slots : 1);
    }
    return wait < 1 ? 1 : wait > 60 ? 60 : (int)ceil(wait);
}

static const srv_dialect *dialect_of(const srv_table *t) {
    static const srv_dialect *const dialects[] = {[SRV_DIALECT_OURS] = &srv_dialect_ours,
                                                  [SRV_DIALECT_COMPLETIONS] =
                                                      &srv_dialect_completions,
                                                  [SRV_DIALECT_CHAT] = &srv_dialect_chat,
                                                  [SRV_DIALECT_TGI] = &srv_dialect_tgi};
    return dialects[t->dialect];
}

/* A full queue is answered before the body is even parsed. */
bool srv_has_room(const srv_req *req) {
    eng_metrics m;
    eng_metrics_get(req->be->engine, &m);
    return m.queued + m.running < req->srv->set->queue + m.slots;
}

bool srv_generate_admit(srv_req *req, srv_problem *p) {
    req->dialect = dialect_of(req->route->body);
    if (srv_has_room(req))
        return true;
    atomic_fetch_add(&req->srv->rejected, 1);
    return srv_refuse(p, SRV_ERR_QUEUE_FULL, NULL);
}

/* ---- body to choices ---- */

static bool refuse_text(const srv_req *req, srv_problem *p, tnl_status s, const tnl_error *err) {
    const char *field = req->gen.table->prompt;
    if (s == TNL_E_UNSUPPORTED)
        return srv_refuse(p, SRV_ERR_NO_TOKENIZER, field);
    if (s == TNL_E_NOMEM)
        return srv_refuse(p, SRV_ERR_NOMEM, NULL);
    tnl_log(TNL_LOG_WARN, "%s tokenizer: %s", req->id, err->msg);
    return srv_refuse(p, SRV_ERR_TEXT_REFUSED, field);
}

/* The last `keep` ids, bos not counted among them. */
static void keep_last(srv_prompt *prompt, int64_t keep, bool bos) {
    size_t first = bos, have = prompt->n_ids - first;
    if (keep <= 0 || have <= (size_t)keep)
        return;
    memmove(prompt->ids + first, prompt->ids + prompt->n_ids - (size_t)keep,
            (size_t)keep * sizeof *prompt->ids);
    prompt->n_ids = first + (size_t)keep;
}

static bool encode_prompt(srv_req *req, srv_prompt *prompt, srv_problem *p) {
    const srv_backend *be = req->be;
    const mdl_spec *spec = mdl_model_spec(be->model);
    const char *field = req->gen.table->prompt;
    tnl_error err = {0};
    if (!prompt->text || prompt->ids)
        return true;
    /* behind a text there is no second beginning */
    tnl_status s =
        srv_text_encode(be->tokenizer, req->session_before > 0 ? NULL : spec, prompt->text,
                        prompt->text_len, &prompt->ids, &prompt->n_ids, &err);
    if (s != TNL_OK)
        return refuse_text(req, p, s, &err);
    keep_last(prompt, req->gen.truncate, spec->add_bos && spec->bos_id >= 0);
    if (!req->gen.full_text) {
        free(prompt->text);
        prompt->text = NULL;
    }
    if ((int64_t)prompt->n_ids > req->srv->set->max_prompt_tokens)
        return srv_refuse(p, SRV_ERR_PROMPT_TOO_LONG, field);
    return true;
}

static bool encode_prompts(srv_req *req, srv_problem *p) {
    for (size_t i = 0; i < req->gen.n_prompts; i++) {
        if (!encode_prompt(req, &req->gen.prompts[i], p))
            return false;
        if (req->gen.prompts[i].n_ids == 0 && req->session_before == 0)
            return srv_refuse(p, SRV_ERR_PROMPT_EMPTY, req->gen.table->prompt);
    }
    return true;
}

static void forget_ids(srv_gen *g) {
    for (size_t i = 0; i < g->n_prompts; i++) {
        free(g->prompts[i].ids);
        g->prompts[i].ids = NULL;
    }
}

/* A grammar ends the text itself, and works on the tokens' texts. */
static bool check_grammar(srv_req *req, srv_problem *p) {
    srv_gen *g = &req->gen;
    g->constrained = g->grammar != NULL;
    if (g->constrained && g->params.ignore_eos)
        return srv_conflict(p, "ignore_eos", "does not go together with response_format");
    if (g->constrained && !req->be->tokenizer)
        return srv_refuse(p, SRV_ERR_NO_TOKENIZER, "response_format");
    return true;
}

static bool start(srv_req *req, srv_problem *p) {
    const srv_dialect *d = req->dialect;
    if (!check_grammar(req, p))
        return false;
    if (req->route->stream)
        req->gen.stream = true;
    if (d->prepare && !d->prepare(req, p))
        return false;
    return encode_prompts(req, p) && srv_choices_submit(req, p);
}

/* What is left to do once a session's text is there. */
static void finish(srv_req *req, bool ok, srv_problem *p) {
    ok = ok && start(req, p);
    if (ok && req->gen.full_text)
        forget_ids(&req->gen); /* the text is still wanted */
    else
        srv_gen_clear(&req->gen); /* prompt memory; the parameters stay */
    if (ok)
        return;
    eng_lease_release(req->lease);
    req->lease = NULL;
    srv_reply_problem(req, p);
}

static void warm_and_finish(srv_req *req) {
    srv_problem p = {0};
    bool ok = srv_session_warm(req, &p);
    finish(req, ok, &p);
}

void srv_generate_run(srv_req *req) {
    const srv_server *srv = req->srv;
    srv_problem p = {0};
    srv_in_limits limits = {.vocab = mdl_model_spec(req->be->model)->vocab,
                            .max_prompt_tokens = srv->set->max_prompt_tokens,
                            .alias = srv->set->alias};
    bool ok =
        srv_gen_parse(&req->gen, req->route->body, req->body.data, req->body.len, &limits, &p);
    req->dialect = dialect_of(req->gen.table);
    req->made_at = (int64_t)time(NULL);
    srv_buf_free(&req->body);
    ok = ok && srv_session_take(req, &p);
    if (ok && srv_session_is_cold(req))
        srv_work_on(req, warm_and_finish);
    else
        finish(req, ok, &p);
}

/* ---- the gathered answer ---- */

static void answer(srv_req *req, const eng_event *last) {
    srv_problem p;
    srv_buf b = {0};
    if (srv_gen_any_failed(req, &p)) {
        srv_reply_problem(req, &p);
        return;
    }
    req->dialect->answer(req, &b, last);
    for (int i = 0; i < atomic_load(&req->n_choices); i++) {
        b.failed |= req->choices[i].text.failed;
        for (int k = 0; k < SRV_CHOICE_PARTS; k++)
            b.failed |= req->choices[i].part[k].failed;
    }
    srv_reply_body(req, 200, SRV_JSON, &b);
}

void srv_generate_continue(srv_req *req) {
    srv_choice *c;
    eng_event ev;
    if (req->gen.stream) {
        req->sse |= req->dialect->sse;
        req->reply.stream = true;
        req->reply.ready = true;
        return;
    }
    while (!req->reply.ready && srv_choices_next(req, &c, &ev)) {
        if (ev.kind == ENG_EV_TOKEN)
            req->dialect->gather(req, c, &ev);
        else if (srv_choices_done(req))
            answer(req, &ev);
        eng_event_clear(&ev);
    }
}
