/* POST /generate: admission, body to engine job, and the gathered answer of "stream": false. */
#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/base/log.h"
#include "server/http/json_in.h"
#include "server/http/server.h"
#include "server/http/text.h"

/* ---- admission ---- */

/* Work ahead over the measured pace, plus a jitter that spreads the clients out. */
int srv_retry_after(srv_server *srv) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    double wait = (double)(ts.tv_nsec / 1000 % 2000) / 1000.0;
    if (atomic_load(&srv->state) == SRV_READY) {
        eng_metrics m;
        eng_metrics_get(srv->backend.engine, &m);
        double mean = m.request_s.count ? m.request_s.sum / (double)m.request_s.count : 1.0;
        wait += mean * (m.queued + 1) / (m.slots > 0 ? m.slots : 1);
    }
    return wait < 1 ? 1 : wait > 60 ? 60 : (int)ceil(wait);
}

/* A full queue is answered before the body is even parsed. */
bool srv_has_room(srv_server *srv) {
    eng_metrics m;
    eng_metrics_get(srv->backend.engine, &m);
    return m.queued + m.running < srv->set->queue + m.slots;
}

bool srv_generate_admit(srv_req *req, srv_problem *p) {
    if (srv_has_room(req->srv))
        return true;
    atomic_fetch_add(&req->srv->rejected, 1);
    return srv_refuse(p, SRV_ERR_QUEUE_FULL, NULL);
}

/* ---- body to job ---- */

static bool encode_prompt(srv_req *req, srv_problem *p) {
    srv_gen *g = &req->gen;
    const srv_backend *be = &req->srv->backend;
    tnl_error err = {0};
    if (!g->text)
        return true;
    tnl_status s = srv_text_encode(be->tokenizer, mdl_model_spec(be->model), g->text, g->text_len,
                                   &g->ids, &g->n_ids, &err);
    free(g->text);
    g->text = NULL;
    if (s == TNL_E_UNSUPPORTED)
        return srv_refuse(p, SRV_ERR_NO_TOKENIZER, "prompt");
    if (s == TNL_E_NOMEM)
        return srv_refuse(p, SRV_ERR_NOMEM, NULL);
    if (s != TNL_OK) {
        tnl_log(TNL_LOG_WARN, "%s tokenizer: %s", req->id, err.msg);
        return srv_refuse(p, SRV_ERR_TEXT_REFUSED, "prompt");
    }
    if (g->n_ids == 0)
        return srv_refuse(p, SRV_ERR_PROMPT_EMPTY, "prompt");
    if ((int64_t)g->n_ids > req->srv->set->max_prompt_tokens)
        return srv_refuse(p, SRV_ERR_PROMPT_TOO_LONG, "prompt");
    return true;
}

static bool refuse_submit(srv_problem *p, tnl_status s) {
    switch (s) {
    case TNL_E_BUSY:
        return srv_refuse(p, SRV_ERR_QUEUE_FULL, NULL);
    case TNL_E_UNAVAILABLE:
        return srv_refuse(p, SRV_ERR_DRAINING, NULL);
    case TNL_E_LIMIT:
        return srv_refuse(p, SRV_ERR_PROMPT_TOO_LONG, "prompt");
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

static bool submit(srv_req *req, srv_problem *p) {
    srv_gen *g = &req->gen;
    eng_job job = {.tokens = g->ids,
                   .n_tokens = g->n_ids,
                   .params = &g->params,
                   .wake = srv_wake_cb,
                   .wake_user = req};
    eng_request *er = NULL;
    tnl_error err = {0};
    tnl_status s = eng_submit(&er, req->srv->backend.engine, &job, &err);
    if (s != TNL_OK) {
        tnl_log(TNL_LOG_DEBUG, "%s refused by the engine: %s", req->id, err.msg);
        return refuse_submit(p, s);
    }
    atomic_store(&req->er, er);
    return true;
}

void srv_generate_run(srv_req *req) {
    const srv_server *srv = req->srv;
    srv_problem p = {0};
    srv_in_limits limits = {.vocab = mdl_model_spec(srv->backend.model)->vocab,
                            .max_prompt_tokens = srv->set->max_prompt_tokens};
    bool ok = srv_gen_parse(&req->gen, req->body.data, req->body.len, &limits, &p);
    srv_buf_free(&req->body);
    ok = ok && encode_prompt(req, &p) && submit(req, &p);
    srv_gen_clear(&req->gen); /* prompt memory; the parameters stay */
    if (!ok)
        srv_reply_problem(req, &p);
}

/* ---- the gathered answer ---- */

static void gather(srv_req *req, const eng_event *ev) {
    if (req->out.len)
        srv_buf_puts(&req->out, ",");
    srv_gen_token(&req->out, req, ev);
    srv_buf_put(&req->text, ev->text, ev->text_len);
}

/* A generation that failed before it said anything is an HTTP error. */
static void answer(srv_req *req, const eng_event *ev) {
    srv_gen_note_done(req, ev);
    if (ev->finish == ENG_FINISH_ERROR) {
        srv_problem p;
        srv_refuse(&p, srv_gen_error(ev->error), NULL);
        srv_reply_problem(req, &p);
        return;
    }
    srv_buf b = {0};
    srv_buf_puts(&b, "{\"text\":");
    srv_json_string(&b, req->text.data, req->text.len);
    srv_buf_puts(&b, ",\"tokens\":[");
    srv_buf_put(&b, req->out.data, req->out.len);
    srv_buf_puts(&b, "],");
    srv_gen_summary(&b, req, ev);
    srv_buf_puts(&b, "}\n");
    b.failed |= req->text.failed || req->out.failed;
    srv_reply_body(req, 200, SRV_JSON, &b);
}

void srv_generate_continue(srv_req *req) {
    eng_request *er = atomic_load(&req->er);
    eng_event ev;
    if (req->gen.stream) {
        req->reply.stream = true;
        req->reply.ready = true;
        return;
    }
    while (!req->reply.ready && eng_request_poll(er, &ev)) {
        if (ev.kind == ENG_EV_TOKEN)
            gather(req, &ev);
        else
            answer(req, &ev);
        eng_event_clear(&ev);
    }
}
