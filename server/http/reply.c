/* Answers: headers that every one carries, refusals as JSON, and the one refusal that goes past
 * libmicrohttpd. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "server/http/access/caller.h"

void srv_reply_body(srv_req *req, int status, const char *type, srv_buf *body) {
    srv_reply *r = &req->reply;
    if (body->failed) {
        srv_buf_free(body);
        srv_buf_puts(body, "{\"error\":{\"message\":\"Memory is short.\",\"type\":\"server_error\","
                           "\"param\":null,\"code\":\"out_of_memory\"}}");
        status = 500;
        type = SRV_JSON;
    }
    srv_buf_free(&r->body);
    r->body = *body;
    memset(body, 0, sizeof *body);
    r->status = status;
    r->type = type;
    r->ready = true;
}

static int retry_after(const srv_req *req, const srv_problem *p, int status) {
    if (p->retry_after || status == 429)
        return p->retry_after ? p->retry_after : 1;
    return status == 503 ? srv_retry_after(req->srv) : 0;
}

void srv_reply_problem(srv_req *req, const srv_problem *p) {
    srv_buf b = {0};
    const srv_dialect *d = req->dialect;
    if (d && d->problem) {
        d->problem(&b, p);
    } else {
        srv_buf_puts(&b, "{\"error\":");
        srv_err_object(&b, p);
        srv_buf_puts(&b, "}");
    }
    srv_buf_puts(&b, "\n");
    int status = d && d->status ? d->status(p->err) : srv_err_status(p->err);
    srv_reply_body(req, status, SRV_JSON, &b);
    atomic_fetch_add(&req->srv->refusals[p->err], 1);
    req->reply.retry_after = retry_after(req, p, req->reply.status);
}

static void add(void *m, const char *name, const char *value) {
    MHD_add_response_header(m, name, value); /* fails for want of memory only: one header less */
}

static void add_headers(const srv_req *req, struct MHD_Response *m) {
    const srv_reply *r = &req->reply;
    char number[16];
    if (r->type)
        add(m, "Content-Type", r->type);
    srv_caller_cors_headers(req, add, m);
    add(m, "Cache-Control", r->stream ? "no-cache, no-store" : r->etag ? "no-cache" : "no-store");
    add(m, "X-Content-Type-Options", "nosniff");
    add(m, "X-Request-Id", req->id);
    if (r->stream)
        add(m, "X-Accel-Buffering", "no");
    if (r->etag)
        add(m, "ETag", r->etag);
    for (const srv_header *h = r->more; h && h->name; h++)
        add(m, h->name, h->value);
    if (r->location[0])
        add(m, "Location", r->location);
    if (r->allow)
        add(m, "Allow", r->allow);
    if (r->status == 401)
        add(m, "WWW-Authenticate", "Bearer");
    if (r->retry_after) {
        snprintf(number, sizeof number, "%d", r->retry_after);
        add(m, "Retry-After", number);
    }
    if (r->close || atomic_load(&req->srv->draining))
        add(m, "Connection", "close");
}

enum MHD_Result srv_reply_send(srv_req *req, struct MHD_Response *m) {
    if (!m)
        return MHD_NO;
    add_headers(req, m);
    enum MHD_Result ok = MHD_queue_response(req->mhd, (unsigned)req->reply.status, m);
    MHD_destroy_response(m);
    return ok;
}

enum MHD_Result srv_reply_queue(srv_req *req) {
    srv_reply *r = &req->reply;
    if (r->stream)
        return srv_stream_begin(req);
    srv_watch_phase(req->srv, req->conn, SRV_PH_REPLY, 0);
    req->bytes_out = (int64_t)r->body.len;
    /* libmicrohttpd owns the memory from here on. */
    struct MHD_Response *m =
        MHD_create_response_from_buffer(r->body.len, r->body.data, MHD_RESPMEM_MUST_FREE);
    if (m)
        memset(&r->body, 0, sizeof r->body);
    return srv_reply_send(req, m);
}

static void add_raw(void *all, const char *name, const char *value) {
    srv_buf_printf(all, "\r\n%s: %s", name, value);
}

/* Best effort: what does not fit into the socket's buffer at once is not sent. */
static void send_last(const srv_req *req, const srv_buf *b) {
    int fd = req->conn->fd;
    bool sent = req->conn->tls ? srv_tls_send_last(req->mhd, b->data, b->len)
                               : send(fd, b->data, b->len, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
    if (sent)
        shutdown(fd, SHUT_WR);
}

void srv_reply_raw(const srv_req *req, const srv_problem *p) {
    srv_buf body = {0}, all = {0};
    int status = srv_err_status(p->err);
    atomic_fetch_add(&req->srv->refusals[p->err], 1);
    srv_buf_puts(&body, "{\"error\":");
    srv_err_object(&body, p);
    srv_buf_puts(&body, "}\n");
    srv_buf_printf(&all,
                   "HTTP/1.1 %d %s\r\nContent-Type: " SRV_JSON "\r\nContent-Length: %zu\r\n"
                   "Connection: close\r\nCache-Control: no-store\r\n"
                   "X-Content-Type-Options: nosniff\r\nX-Request-Id: ",
                   status, MHD_get_reason_phrase_for((unsigned)status), body.len);
    srv_buf_puts(&all, req->id);
    if (req->reply.allow)
        srv_buf_printf(&all, "\r\nAllow: %s", req->reply.allow);
    if (status == 401)
        srv_buf_puts(&all, "\r\nWWW-Authenticate: Bearer");
    int wait = retry_after(req, p, status);
    if (wait)
        srv_buf_printf(&all, "\r\nRetry-After: %d", wait);
    srv_caller_cors_headers(req, add_raw, &all);
    srv_buf_puts(&all, "\r\n\r\n");
    srv_buf_put(&all, body.data, body.len);
    if (!all.failed)
        send_last(req, &all);
    srv_buf_free(&body);
    srv_buf_free(&all);
}
