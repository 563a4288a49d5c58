/* The watcher: one thread that notices what libmicrohttpd does not.
 *
 * A suspended connection is not polled by libmicrohttpd, so a client that leaves while its request
 * is queued, in prefill or between two tokens would be served to the end. Its timeout is an idle
 * timer, which one byte a minute keeps alive. And its edge-triggered epoll loop misses an end of
 * file that arrives together with the data before it (0.9.75; its poll loop does not, but costs 15
 * times as much beside a thousand idle connections).
 *
 * So this thread polls all sockets that wait for their peer or for us for POLLRDHUP, and holds
 * every phase to an absolute deadline on the monotonic clock. A client that closes or half-closes
 * while its request is at work has left, and the work is cancelled; one that does so in the middle
 * of a request has a moment for what is still in the buffers. It ends a connection with
 * shutdown(2), under the lock that conn_closed takes before the descriptor is closed;
 * libmicrohttpd then sees the hang-up and cleans up. It also asks for pings on silent streams. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kernels/base/log.h"
#include "server/http/server.h"

enum { TICK_MS = 100, GRACE_MS = 500 };

typedef struct poll_set {
    struct pollfd *fds; /* [cap]; fds[0] is the eventfd */
    uint64_t *serials;  /* [cap], of the connection behind each descriptor */
    int n, cap;
} poll_set;

void srv_watch_poke(srv_server *srv) {
    uint64_t one = 1;
    if (write(srv->watch.wake_fd, &one, sizeof one) < 0)
        return; /* full: it will wake anyway */
}

static bool awaits_peer(const srv_conn *c) {
    return c->phase == SRV_PH_HEADER || c->phase == SRV_PH_BODY || c->phase == SRV_PH_IDLE;
}

void srv_watch_set(srv_conn *c, srv_phase phase, int64_t deadline_ms) {
    c->phase = phase;
    if (!c->leaving || !awaits_peer(c))
        c->deadline_ms = deadline_ms;
    else
        c->deadline_ms = srv_now_ms() + GRACE_MS;
}

void srv_watch_phase(srv_server *srv, srv_conn *c, srv_phase phase, int64_t deadline_ms) {
    pthread_mutex_lock(&srv->watch.lock);
    srv_watch_set(c, phase, deadline_ms);
    pthread_mutex_unlock(&srv->watch.lock);
}

/* ---- what can become of a connection; the watch lock is held ---- */

static void end_connection(srv_conn *c) {
    c->closing = true;
    if (c->req)
        srv_req_abandon(c->req);
    shutdown(c->fd, SHUT_RDWR);
}

static void pass_deadline(srv_conn *c) {
    srv_req *req = c->req;
    c->deadline_ms = 0;
    if (c->phase == SRV_PH_WORK && req) {
        /* A generation ends as if its client had asked. */
        if (srv_choices_started(req)) {
            atomic_store(&req->timed_out, true);
            srv_choices_cancel(req);
            return;
        }
    }
    if (c->phase == SRV_PH_BODY && req && !req->refused) {
        srv_problem p;
        srv_refuse(&p, SRV_ERR_TIMEOUT, NULL);
        /* With TLS only the connection's own thread may send, and it is waiting for the client. */
        if (!c->tls)
            srv_reply_raw(req, &p);
    }
    end_connection(c);
}

/* A stream whose client does not read, or that has been silent for long. */
static void look_at_stream(srv_server *srv, srv_conn *c, srv_req *req, int64_t now) {
    const srv_settings *set = srv->set;
    pthread_mutex_lock(&req->lock);
    bool suspended = req->suspended;
    int64_t pulled = atomic_load(&req->last_pull_ms);
    pthread_mutex_unlock(&req->lock);
    if (!suspended && now - pulled > set->stall_seconds * 1000) {
        tnl_log(TNL_LOG_DEBUG, "%s stream unread for %lld s: closed", req->id,
                (long long)set->stall_seconds);
        end_connection(c);
        return;
    }
    int64_t silent = now - atomic_load(&req->last_out_ms);
    if (suspended && set->ping_seconds && silent >= set->ping_seconds * 1000) {
        pthread_mutex_lock(&req->lock);
        req->ping_due = true;
        pthread_mutex_unlock(&req->lock);
        srv_req_wake(req);
    }
}

static bool add_fd(poll_set *set, const srv_conn *c) {
    if (set->n == set->cap) {
        int cap = set->cap ? set->cap * 2 : 64;
        struct pollfd *fds = realloc(set->fds, (size_t)cap * sizeof *fds);
        if (fds)
            set->fds = fds;
        uint64_t *serials = realloc(set->serials, (size_t)cap * sizeof *serials);
        if (serials)
            set->serials = serials;
        if (!fds || !serials)
            return false;
        set->cap = cap;
    }
    set->fds[set->n] = (struct pollfd){.fd = c->fd, .events = POLLRDHUP};
    set->serials[set->n++] = c->serial;
    return true;
}

/* Walk all connections: deadlines, streams, and which sockets to poll. */
static int survey(srv_server *srv, poll_set *set) {
    srv_watch *w = &srv->watch;
    int64_t now = srv_now_ms();
    set->n = 1;
    pthread_mutex_lock(&w->lock);
    int wait = w->count == 0 ? -1 : TICK_MS;
    for (srv_conn *c = w->first; c; c = c->next) {
        if (c->closing)
            continue;
        if (c->deadline_ms && now >= c->deadline_ms) {
            pass_deadline(c);
            continue;
        }
        if (c->phase == SRV_PH_REPLY || (c->leaving && awaits_peer(c)))
            continue;
        srv_req *req = c->phase == SRV_PH_WORK ? c->req : NULL;
        if (req && atomic_load(&req->streaming))
            look_at_stream(srv, c, req, now);
        if (!c->closing && !add_fd(set, c))
            break;
    }
    pthread_mutex_unlock(&w->lock);
    return wait;
}

/* The lock is held. */
static void peer_left(srv_conn *c) {
    if (c->phase == SRV_PH_WORK) {
        end_connection(c);
    } else if (awaits_peer(c) && !c->leaving) {
        int64_t soon = srv_now_ms() + GRACE_MS;
        c->leaving = true;
        if (!c->deadline_ms || c->deadline_ms > soon)
            c->deadline_ms = soon;
    }
}

/* A descriptor may have been closed and reused since the poll, so ask again under the lock. Both
 * the list and the poll set are in the order of the list at survey time, newest first; connections
 * that came since stand in front, those that went are skipped. */
static void see_hangups(srv_server *srv, const poll_set *set) {
    srv_watch *w = &srv->watch;
    pthread_mutex_lock(&w->lock);
    srv_conn *c = w->first;
    for (int i = 1; i < set->n; i++) {
        if (!set->fds[i].revents)
            continue;
        while (c && c->serial > set->serials[i])
            c = c->next;
        if (!c || c->serial != set->serials[i] || c->closing)
            continue;
        struct pollfd again = {.fd = c->fd, .events = POLLRDHUP};
        if (poll(&again, 1, 0) == 1)
            peer_left(c);
    }
    pthread_mutex_unlock(&w->lock);
}

static void *watch_main(void *arg) {
    srv_server *srv = arg;
    srv_watch *w = &srv->watch;
    poll_set set = {0};
    srv_conn self = {.fd = w->wake_fd};
    if (!add_fd(&set, &self))
        return NULL;
    set.fds[0].events = POLLIN;
    while (!atomic_load(&w->stop)) {
        int wait = survey(srv, &set);
        if (poll(set.fds, (nfds_t)set.n, wait) <= 0)
            continue;
        uint64_t count;
        if (set.fds[0].revents && read(w->wake_fd, &count, sizeof count) < 0 && errno != EAGAIN)
            tnl_log(TNL_LOG_WARN, "eventfd: %s", strerror(errno));
        see_hangups(srv, &set);
    }
    free(set.fds);
    free(set.serials);
    return NULL;
}

tnl_status srv_watch_open(srv_server *srv, tnl_error *err) {
    srv_watch *w = &srv->watch;
    w->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (w->wake_fd < 0)
        return tnl_fail(err, TNL_E_IO, "eventfd: %s", strerror(errno));
    if (pthread_create(&w->thread, NULL, watch_main, srv) != 0)
        return tnl_fail(err, TNL_E_NOMEM, "cannot start the watcher thread");
    w->started = true;
    return TNL_OK;
}

void srv_watch_close(srv_server *srv) {
    srv_watch *w = &srv->watch;
    if (w->started) {
        atomic_store(&w->stop, true);
        srv_watch_poke(srv);
        pthread_join(w->thread, NULL);
    }
    if (w->wake_fd >= 0)
        close(w->wake_fd);
    w->started = false;
    w->wake_fd = -1;
}
