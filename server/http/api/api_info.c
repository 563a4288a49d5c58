/* GET /health, /ready. */
#include "server/http/server.h"

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
    if (!req->be)
        status_word(req, 503, "loading", true);
    else
        status_word(req, 200, "ok", false);
}

/* Send requests here: not while loading, draining, with a full queue, or without the device. */
void srv_ready_run(srv_req *req) {
    if (!req->be)
        status_word(req, 503, "loading", true);
    else if (atomic_load(&req->srv->draining))
        status_word(req, 503, "draining", false);
    else if (eng_lost(req->be->engine))
        status_word(req, 503, "device_lost", false);
    else if (!srv_has_room(req))
        status_word(req, 503, "queue_full", false);
    else
        status_word(req, 200, "ready", false);
}
