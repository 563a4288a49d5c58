/* A streamed answer is pulled: libmicrohttpd asks for bytes, we encode what the engine has ready,
 * and an empty ring suspends the connection until the engine wakes it.
 *
 * NDJSON: one object a line; a silent stream is pinged with an empty line, which line readers skip
 * (a JSON parser sees white space). SSE: the same objects behind "data: ", pinged with a comment;
 * a comment also goes out at once, so that proxies pass the header on. */
#include <string.h>

#include "server/http/server.h"

static void frame_begin(srv_req *req) {
    if (req->sse)
        srv_buf_puts(&req->out, "data: ");
}

static void frame_end(srv_req *req) {
    srv_buf_puts(&req->out, req->sse ? "\n\n" : "\n");
}

static void encode(srv_req *req, const eng_event *ev) {
    srv_buf *b = &req->out;
    frame_begin(req);
    srv_buf_puts(b, "{");
    if (ev->kind == ENG_EV_TOKEN) {
        srv_buf_puts(b, "\"index\":");
        srv_json_int(b, ev->index);
        srv_buf_puts(b, ",\"token\":");
        srv_gen_token(b, req, ev);
    } else {
        srv_gen_note_done(req, ev);
        srv_gen_summary(b, req, ev);
    }
    srv_buf_puts(b, "}");
    frame_end(req);
}

/* Encode what is there, up to a chunk; the ring keeps the rest and so holds the engine back. */
static void drain_ring(srv_req *req) {
    eng_request *er = atomic_load(&req->er);
    eng_event ev;
    while (!req->finished && req->out.len < SRV_STREAM_CHUNK && eng_request_poll(er, &ev)) {
        encode(req, &ev);
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
            drain_ring(req);
        if (req->out.failed)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        if (req->out.len == 0 && ping)
            srv_buf_puts(&req->out, req->sse ? ": ping\n\n" : "\n");
        if (req->out_at < req->out.len)
            return hand_out(req, buf, max);
        if (req->finished)
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
    req->reply.status = 200;
    req->reply.type = req->sse ? "text/event-stream; charset=utf-8" : "application/x-ndjson";
    srv_watch_poke(req->srv);
    return srv_reply_send(req, MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, SRV_STREAM_CHUNK,
                                                                 pull, req, NULL));
}
