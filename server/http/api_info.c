/* GET /health, /ready, /v1/models. */
#include <string.h>

#include "server/http/server.h"
#include "server/http/text.h"

static double load_progress(srv_server *srv) {
    uint64_t total = atomic_load(&srv->load_total);
    return total ? (double)atomic_load(&srv->load_done) / (double)total : 0.0;
}

static void status_word(srv_req *req, int status, const char *word, bool progress) {
    srv_buf b = {0};
    srv_buf_printf(&b, "{\"status\":\"%s\"", word);
    if (progress)
        srv_buf_printf(&b, ",\"progress\":%.3f", load_progress(req->srv));
    srv_buf_puts(&b, "}\n");
    srv_reply_body(req, status, SRV_JSON, &b);
    if (status == 503)
        req->reply.retry_after = 1;
}

/* Alive: 503 only while there is no model yet. */
void srv_health_run(srv_req *req) {
    if (atomic_load(&req->srv->state) == SRV_LOADING)
        status_word(req, 503, "loading", true);
    else
        status_word(req, 200, "ok", false);
}

/* Send requests here: not while loading, draining, or with a full queue. */
void srv_ready_run(srv_req *req) {
    if (atomic_load(&req->srv->state) == SRV_LOADING)
        status_word(req, 503, "loading", true);
    else if (atomic_load(&req->srv->draining))
        status_word(req, 503, "draining", false);
    else if (!srv_has_room(req->srv))
        status_word(req, 503, "queue_full", false);
    else
        status_word(req, 200, "ready", false);
}

void srv_models_run(srv_req *req) {
    const srv_server *srv = req->srv;
    const mdl_spec *spec = mdl_model_spec(srv->backend.model);
    srv_buf b = {0};
    srv_buf_puts(&b, "{\"object\":\"list\",\"data\":[{\"id\":");
    srv_json_string(&b, srv->set->alias, strlen(srv->set->alias));
    srv_buf_puts(&b, ",\"object\":\"model\",\"owned_by\":\"tnl\",\"created\":");
    srv_json_int(&b, srv->start_time);
    srv_buf_puts(&b, ",\"meta\":{\"architecture\":");
    srv_json_string(&b, spec->arch, strlen(spec->arch));
    srv_buf_puts(&b, ",\"parameters\":");
    srv_json_int(&b, (int64_t)mdl_model_weights(srv->backend.model)->params);
    srv_buf_puts(&b, ",\"vocab\":");
    srv_json_int(&b, spec->vocab);
    srv_buf_puts(&b, ",\"layers\":");
    srv_json_int(&b, spec->n_layers);
    srv_buf_puts(&b, ",\"state_bytes_per_sequence\":");
    srv_json_int(&b, (int64_t)mdl_state_bytes(srv->backend.model));
    srv_buf_puts(&b, ",\"weights\":");
    srv_json_string(&b, srv->set->weights, strlen(srv->set->weights));
    srv_buf_printf(&b, ",\"text\":%s}}]}\n", srv->backend.tokenizer ? "true" : "false");
    srv_reply_body(req, 200, SRV_JSON, &b);
}
