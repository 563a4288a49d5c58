/* A request's life on its connection: first line, header, body, work, answer, end. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

#include "kernels/base/log.h"
#include "server/http/access/caller.h"
#include "server/http/json/json_in.h"

enum { SEND_BUFFER = 65536, LINGER_MS = 2000 };

int64_t srv_now_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* ---- connections ---- */

static srv_conn *conn_of(struct MHD_Connection *mhd) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

static void conn_opened(srv_server *srv, struct MHD_Connection *mhd, void **socket_context) {
    srv_conn *c = calloc(1, sizeof *c);
    if (!c)
        return; /* its requests are refused in srv_on_uri */
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    int one = 1, size = SEND_BUFFER;
    c->fd = info->connect_fd;
    info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    c->local = info && info->client_addr && info->client_addr->sa_family == AF_UNIX;
    c->tls = srv_tls_used(mhd);
    /* A reader that stops shows after 64 KiB instead of megabytes. */
    setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);

    srv_watch *w = &srv->watch;
    pthread_mutex_lock(&w->lock);
    c->serial = ++w->next_serial;
    c->phase = SRV_PH_HEADER;
    c->deadline_ms = srv_now_ms() + srv->set->header_seconds * 1000;
    c->next = w->first;
    if (w->first)
        w->first->prev = c;
    w->first = c;
    bool first = w->count++ == 0;
    pthread_mutex_unlock(&w->lock);
    *socket_context = c;
    if (first)
        srv_watch_poke(srv);
}

/* libmicrohttpd calls this before it closes the descriptor, so the watcher, which acts under the
 * same lock, never touches a descriptor that belongs to somebody else by now. */
static void conn_closed(srv_server *srv, void **socket_context) {
    srv_conn *c = *socket_context;
    if (!c)
        return;
    srv_watch *w = &srv->watch;
    pthread_mutex_lock(&w->lock);
    if (c->prev)
        c->prev->next = c->next;
    else
        w->first = c->next;
    if (c->next)
        c->next->prev = c->prev;
    w->count--;
    pthread_mutex_unlock(&w->lock);
    free(c);
    *socket_context = NULL;
}

void srv_on_connection(void *cls, struct MHD_Connection *mhd, void **socket_context,
                       enum MHD_ConnectionNotificationCode what) {
    if (what == MHD_CONNECTION_NOTIFY_STARTED)
        conn_opened(cls, mhd, socket_context);
    else
        conn_closed(cls, socket_context);
}

/* ---- waking and parking ---- */

/* req->lock is held. */
static void wake_locked(srv_req *req) {
    req->woken = true;
    if (!req->suspended)
        return;
    req->suspended = false;
    atomic_store(&req->last_pull_ms, srv_now_ms());
    atomic_fetch_sub(&req->srv->suspended, 1);
    MHD_resume_connection(req->mhd);
}

void srv_req_wake(srv_req *req) {
    pthread_mutex_lock(&req->lock);
    wake_locked(req);
    pthread_mutex_unlock(&req->lock);
}

void srv_wake_cb(void *req) {
    srv_req_wake(req);
}

void srv_req_abandon(srv_req *req) {
    srv_choices_cancel(req);
    pthread_mutex_lock(&req->lock);
    req->gone = true;
    wake_locked(req);
    pthread_mutex_unlock(&req->lock);
}

bool srv_req_park(srv_req *req) {
    pthread_mutex_lock(&req->lock);
    bool park = !req->woken && !req->gone && !atomic_load(&req->srv->stopping);
    req->woken = false;
    if (park) {
        req->suspended = true;
        atomic_fetch_add(&req->srv->suspended, 1);
        MHD_suspend_connection(req->mhd);
    }
    pthread_mutex_unlock(&req->lock);
    return park;
}

/* ---- the request object ---- */

void *srv_on_uri(void *cls, const char *uri, struct MHD_Connection *mhd) {
    srv_server *srv = cls;
    srv_conn *c = conn_of(mhd);
    srv_req *req = c ? calloc(1, sizeof *req) : NULL;
    if (!req)
        return NULL;
    req->srv = srv;
    req->conn = c;
    req->mhd = mhd;
    req->begin_ms = srv_now_ms();
    /* "%00" would cut the path that handlers see; raw bytes are judged here or nowhere. */
    req->bad_uri = uri[0] != '/' || strstr(uri, "%00") != NULL;
    atomic_init(&req->refs, 1);
    pthread_mutex_init(&req->lock, NULL);
    tnl_log_escape(req->path, sizeof req->path, uri, strlen(uri));
    atomic_fetch_add(&srv->active, 1);

    pthread_mutex_lock(&srv->watch.lock);
    int64_t deadline = req->begin_ms + srv->set->header_seconds * 1000;
    c->req = req;
    srv_watch_set(c, SRV_PH_HEADER, c->phase == SRV_PH_IDLE ? deadline : c->deadline_ms);
    pthread_mutex_unlock(&srv->watch.lock);
    return req;
}

void srv_req_unref(srv_req *req) {
    if (atomic_fetch_sub(&req->refs, 1) != 1)
        return;
    srv_caller_end(req);
    srv_choices_free(req);
    eng_lease_release(req->lease);
    srv_gen_clear(&req->gen);
    srv_buf_free(&req->body);
    srv_buf_free(&req->head);
    srv_buf_free(&req->out);
    srv_buf_free(&req->reply.body);
    pthread_mutex_destroy(&req->lock);
    srv_backend_give(req->srv, req->be);
    atomic_fetch_sub(&req->srv->upload_bytes, req->reserved);
    atomic_fetch_sub(&req->srv->active, 1);
    free(req);
}

void srv_on_completed(void *cls, struct MHD_Connection *mhd, void **con_cls,
                      enum MHD_RequestTerminationCode how) {
    (void)mhd;
    srv_server *srv = cls;
    srv_req *req = *con_cls;
    if (!req)
        return;
    *con_cls = NULL;
    /* While a worker has the job, the reply is the worker's to write. */
    pthread_mutex_lock(&req->lock);
    bool lent = req->working && !req->work_done;
    pthread_mutex_unlock(&req->lock);
    int status = lent ? 0 : req->reply.status;
    if (how != MHD_REQUEST_TERMINATED_COMPLETED_OK && status < 400)
        status = 499; /* the client went away before its answer was complete */
    srv_count(srv, req->route, status);
    srv_log_request(req, status);

    pthread_mutex_lock(&srv->watch.lock);
    req->conn->req = NULL;
    srv_watch_set(req->conn, SRV_PH_IDLE, srv_now_ms() + srv->set->idle_seconds * 1000);
    pthread_mutex_unlock(&srv->watch.lock);

    srv_choices_cancel(req);
    pthread_mutex_lock(&req->lock);
    req->detached = true;
    pthread_mutex_unlock(&req->lock);
    srv_req_unref(req);
}

/* ---- request ids ---- */

static bool usable_id(const char *id) {
    size_t n = 0;
    for (; id[n]; n++)
        if (n >= SRV_ID_MAX || id[n] < 0x20 || id[n] > 0x7E)
            return false;
    return n > 0;
}

/* W3C Trace Context, version 00: "00-32 digits-16 digits-2 digits". */
static void note_trace(srv_req *req) {
    static const char form[] = "00-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx";
    const char *v = MHD_lookup_connection_value(req->mhd, MHD_HEADER_KIND, "traceparent");
    if (!v || strlen(v) != sizeof form - 1)
        return;
    for (size_t i = 0; form[i]; i++)
        if (form[i] == 'x' ? !strchr("0123456789abcdef", v[i]) : v[i] != form[i])
            return;
    if (strspn(v + 3, "0") < 32) /* all zeros: none */
        memcpy(req->trace, v + 3, 32);
}

/* Taken over from the client or proxy if it is short and printable, else made. */
static void name_request(srv_req *req) {
    const char *given = MHD_lookup_connection_value(req->mhd, MHD_HEADER_KIND, "X-Request-Id");
    if (given && usable_id(given)) {
        memcpy(req->id, given, strlen(given) + 1);
        return;
    }
    uint8_t raw[16];
    if (getrandom(raw, sizeof raw, 0) != (ssize_t)sizeof raw)
        memset(raw, 0, sizeof raw);
    for (size_t i = 0; i < sizeof raw; i++)
        snprintf(req->id + 2 * i, 3, "%02x", raw[i]);
}

/* ---- body ---- */

static bool reserve_upload(srv_req *req, int64_t bytes) {
    int64_t more = bytes - req->reserved;
    if (more <= 0)
        return true;
    int64_t before = atomic_fetch_add(&req->srv->upload_bytes, more);
    if (before + more > req->srv->set->upload_budget) {
        atomic_fetch_sub(&req->srv->upload_bytes, more);
        return false;
    }
    req->reserved = bytes;
    return true;
}

/* Refuse a request whose body is still on its way. libmicrohttpd cannot answer in the middle of an
 * upload, and where it can it closes at once, which resets the connection and may take the answer
 * with it. So the refusal is written past it, and the rest is read and dropped for a moment. */
static void refuse_midway(srv_req *req, const srv_problem *p) {
    req->refused = true;
    req->reply.status = srv_err_status(p->err);
    srv_reply_raw(req, p);
    srv_buf_free(&req->body);
    srv_watch_phase(req->srv, req->conn, SRV_PH_BODY, srv_now_ms() + LINGER_MS);
}

static void absorb(srv_req *req, const char *data, size_t n) {
    const srv_settings *set = req->srv->set;
    srv_problem p = {0};
    if (req->refused)
        return;
    if (n > (size_t)set->max_body - req->body.len)
        srv_refuse(&p, SRV_ERR_BODY_TOO_LARGE, NULL);
    else if (!reserve_upload(req, (int64_t)(req->body.len + n)))
        srv_refuse(&p, SRV_ERR_UPLOAD_BUDGET, NULL);
    else
        srv_buf_put(&req->body, data, n);
    if (req->body.failed)
        srv_refuse(&p, SRV_ERR_NOMEM, NULL);
    if (p.err != SRV_ERR_NONE) {
        refuse_midway(req, &p);
        return;
    }
    int64_t deadline =
        req->body_begin_ms + set->body_seconds * 1000 + (int64_t)(req->body.len / 65536) * 1000;
    srv_watch_phase(req->srv, req->conn, SRV_PH_BODY, deadline);
}

/* ---- steps ---- */

static enum MHD_Result refuse_now(srv_req *req, const srv_problem *p) {
    if (req->framed && req->has_body) {
        refuse_midway(req, p);
        return MHD_YES;
    }
    if (req->framed) {
        req->held = *p;
        return MHD_YES;
    }
    srv_reply_problem(req, p);
    req->reply.close = true; /* what follows on this connection cannot be trusted */
    return srv_reply_queue(req);
}

static int64_t declared_length(const srv_req *req) {
    const char *v = MHD_lookup_connection_value(req->mhd, MHD_HEADER_KIND, "Content-Length");
    return v ? strtoll(v, NULL, 10) : 0;
}

static enum MHD_Result first_call(srv_req *req, const char *url, const char *method,
                                  const char *version) {
    srv_problem p = {0};
    req->started = true;
    name_request(req);
    note_trace(req);
    srv_caller_address(req);
    tnl_log_escape(req->method, sizeof req->method, method, strlen(method));
    if (!srv_frame_check(req, url, method, version, &p))
        return refuse_now(req, &p);
    if (!reserve_upload(req, declared_length(req))) {
        srv_refuse(&p, SRV_ERR_UPLOAD_BUDGET, NULL);
        return refuse_now(req, &p);
    }
    req->body_begin_ms = srv_now_ms();
    srv_watch_phase(req->srv, req->conn, SRV_PH_BODY,
                    req->body_begin_ms + req->srv->set->body_seconds * 1000);
    return MHD_YES;
}

/* May this request be served in the server's present state? */
static bool state_allows(const srv_req *req, srv_problem *p) {
    if (req->route->early)
        return true;
    if (atomic_load(&req->srv->draining))
        return srv_refuse(p, SRV_ERR_DRAINING, NULL);
    if (!req->be)
        return srv_refuse(p, SRV_ERR_LOADING, NULL);
    return true;
}

static void dispatch(srv_req *req) {
    const srv_settings *set = req->srv->set;
    srv_problem p = {0};
    req->dispatched = true;
    if (req->held.err != SRV_ERR_NONE) {
        srv_reply_problem(req, &req->held);
        return;
    }
    req->whole_deadline_ms = set->request_seconds ? srv_now_ms() + set->request_seconds * 1000 : 0;
    req->be = srv_backend_take(req->srv);
    if (!state_allows(req, &p) || (req->route->admit && !req->route->admit(req, &p)) ||
        !srv_caller_enter(req, &p)) {
        srv_reply_problem(req, &p);
        return;
    }
    srv_watch_phase(req->srv, req->conn, SRV_PH_WORK, req->whole_deadline_ms);
    if (req->route->heavy && req->body.len > SRV_INLINE_BYTES) {
        req->working = true;
        if (srv_workers_post(&req->srv->workers, req)) {
            srv_watch_poke(req->srv);
            return;
        }
        req->working = false;
    }
    req->route->run(req);
    req->ran = true;
}

/* Look at what has become of the work; true: the connection may wait. */
static bool advance(srv_req *req) {
    if (req->working) {
        pthread_mutex_lock(&req->lock);
        bool done = req->work_done;
        pthread_mutex_unlock(&req->lock);
        if (!done)
            return true;
        req->working = false;
        req->ran = true;
    }
    if (!req->reply.ready && srv_choices_started(req))
        srv_generate_continue(req);
    return !req->reply.ready;
}

static enum MHD_Result step(srv_req *req) {
    if (req->refused)
        return MHD_NO;
    if (!req->dispatched)
        dispatch(req);
    for (;;) {
        pthread_mutex_lock(&req->lock);
        bool gone = req->gone;
        req->woken = false;
        pthread_mutex_unlock(&req->lock);
        if (gone)
            return MHD_NO;
        if (!advance(req))
            return srv_reply_queue(req);
        if (srv_req_park(req))
            return MHD_YES;
        if (atomic_load(&req->srv->stopping))
            return MHD_NO;
    }
}

enum MHD_Result srv_on_request(void *cls, struct MHD_Connection *mhd, const char *url,
                               const char *method, const char *version, const char *upload,
                               size_t *upload_size, void **con_cls) {
    (void)cls, (void)mhd;
    srv_req *req = *con_cls;
    if (!req)
        return MHD_NO; /* out of memory at the first line */
    if (!req->started)
        return first_call(req, url, method, version);
    if (*upload_size) {
        absorb(req, upload, *upload_size);
        *upload_size = 0;
        return MHD_YES;
    }
    return step(req);
}
