/* A streamed answer is pulled: libmicrohttpd asks for bytes, we encode what the engine has ready,
 * and an empty ring suspends the connection until the engine wakes it.
 *
 * NDJSON: one object a line; a silent stream is pinged with an empty line, which line readers skip
 * (a JSON parser sees white space). SSE: the same objects behind "data: ", pinged with a comment;
 * a comment also goes out at once, so that proxies pass the header on. */
#include <string.h>

#include "server/http/server.h"

/* A generation that failed: our dialect says so in its summary, the others end with an error. */
static void on_done(srv_req *req, srv_choice *c, const eng_event *ev) {
    const srv_dialect *d = req->dialect;
    srv_problem p;
    if (d->problem && srv_gen_failed(req, c, &p)) {
        srv_buf_puts(&req->out, "data: ");
        d->problem(&req->out, &p);
        srv_buf_puts(&req->out, "\n\n");
        srv_choices_cancel(req);
        req->ended = true;
        return;
    }
    d->done(req, c, ev);
    if (!srv_choices_done(req))
        return;
    if (d->end)
        d->end(req);
    req->ended = true;
}

/* Encode what is there, up to a chunk; the rings keep the rest and so hold the engine back. */
static void drain_rings(srv_req *req) {
    srv_choice *c;
    eng_event ev;
    while (!req->ended && req->out.len < SRV_STREAM_CHUNK && srv_choices_next(req, &c, &ev)) {
        if (ev.kind == ENG_EV_TOKEN)
            req->dialect->token(req, c, &ev);
        else
            on_done(req, c, &ev);
        eng_event_clear(&ev);
    }
}

static ssize_t hand_out(srv_req *req, char *buf, size_t max) {
    size_t n = req->out.len - req->out_at;
    if (n > max)
        n = max;
    memcpy(buf, req->out.data + req->out_at, n);
    req->out_at += n;
    if (req->out_at == req->out.len) {
        srv_buf_clear(&req->out);
        req->out_at = 0;
    }
    req->bytes_out += (int64_t)n;
    atomic_store(&req->last_out_ms, srv_now_ms());
    return (ssize_t)n;
}

static ssize_t pull(void *cls, uint64_t pos, char *buf, size_t max) {
    (void)pos;
    srv_req *req = cls;
    atomic_store(&req->last_pull_ms, srv_now_ms());
    for (;;) {
        pthread_mutex_lock(&req->lock);
        bool gone = req->gone, ping = req->ping_due;
        req->woken = false;
        req->ping_due = false;
        pthread_mutex_unlock(&req->lock);
        if (gone || req->out.failed)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        if (req->out_at == req->out.len)
            drain_rings(req);
        if (req->out.failed)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        if (req->out.len == 0 && ping)
            srv_buf_puts(&req->out, req->sse ? ": ping\n\n" : "\n");
        if (req->out_at < req->out.len)
            return hand_out(req, buf, max);
        if (req->ended)
            return MHD_CONTENT_READER_END_OF_STREAM;
        if (srv_req_park(req))
            return 0;
        if (atomic_load(&req->srv->stopping))
            return MHD_CONTENT_READER_END_WITH_ERROR;
    }
}

enum MHD_Result srv_stream_begin(srv_req *req) {
    int64_t now = srv_now_ms();
    atomic_store(&req->last_pull_ms, now);
    atomic_store(&req->last_out_ms, now);
    atomic_store(&req->streaming, true);
    if (req->sse)
        srv_buf_puts(&req->out, ": ok\n\n");
    if (req->dialect->begin)
        req->dialect->begin(req);
    req->reply.status = 200;
    req->reply.type = req->sse ? "text/event-stream; charset=utf-8" : "application/x-ndjson";
    srv_watch_poke(req->srv);
    return srv_reply_send(req, MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, SRV_STREAM_CHUNK,
                                                                 pull, req, NULL));
}
