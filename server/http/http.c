/* The daemon: bind, start, hand over the backend, drain, stop. */
#include "server/http/http.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/log.h"
#include "server/http/server.h"

enum { BACKLOG = 1024 };

/* ---- the listening socket ---- */

static int bind_one(const struct addrinfo *a) {
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
    if (fd < 0)
        return -1;
    int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static int bound_port(int fd) {
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    char port[16];
    if (getsockname(fd, (struct sockaddr *)&a, &n) != 0 ||
        getnameinfo((struct sockaddr *)&a, n, NULL, 0, port, sizeof port, NI_NUMERICSERV) != 0)
        return 0;
    return (int)strtol(port, NULL, 10);
}

static tnl_status open_listener(srv_server *srv, tnl_error *err) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    char port[16];
    snprintf(port, sizeof port, "%d", (int)srv->set->port);
    int rc = getaddrinfo(srv->set->host, port, &hints, &list);
    if (rc != 0)
        return tnl_fail(err, TNL_E_USAGE, "--host %s: %s", srv->set->host, gai_strerror(rc));
    int why = 0;
    for (const struct addrinfo *a = list; a && srv->listen_fd < 0; a = a->ai_next) {
        srv->listen_fd = bind_one(a);
        why = errno;
    }
    freeaddrinfo(list);
    if (srv->listen_fd < 0)
        return tnl_fail(err, TNL_E_UNAVAILABLE, "cannot listen on %s port %s: %s", srv->set->host,
                        port, strerror(why));
    srv->port = bound_port(srv->listen_fd);
    return TNL_OK;
}

/* ---- the daemon ---- */

__attribute__((format(printf, 2, 0))) static void mhd_log(void *cls, const char *fmt, va_list ap) {
    (void)cls;
    char line[512];
    vsnprintf(line, sizeof line, fmt, ap);
    line[strcspn(line, "\n")] = 0;
    tnl_log(TNL_LOG_DEBUG, "http: %s", line);
}

static tnl_status start_daemon(srv_server *srv, tnl_error *err) {
    const srv_settings *s = srv->set;
    /* A backstop behind the watcher, which has the tighter and absolute limits. */
    unsigned idle =
        (unsigned)(s->idle_seconds > s->stall_seconds ? s->idle_seconds : s->stall_seconds) + 5;
    unsigned pool = (unsigned)s->http_threads;
    struct MHD_OptionItem options[] = {
        {MHD_OPTION_LISTEN_SOCKET, srv->listen_fd, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, (intptr_t)s->connections, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)s->max_header, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, (intptr_t)idle, NULL},
        {MHD_OPTION_THREAD_POOL_SIZE, pool > 1 ? (intptr_t)pool : 0, NULL},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)srv_on_completed, srv},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)srv_on_connection, srv},
        {MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)srv_on_uri, srv},
        {MHD_OPTION_END, 0, NULL},
    };
    srv->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME |
                                       MHD_USE_ERROR_LOG,
                                   0, NULL, NULL, srv_on_request, srv, MHD_OPTION_EXTERNAL_LOGGER,
                                   mhd_log, NULL, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
    if (!srv->daemon)
        return tnl_fail(err, TNL_E_INTERNAL,
                        "the HTTP daemon does not start (--connections %lld, "
                        "--http-threads %u)",
                        (long long)s->connections, pool);
    return TNL_OK;
}

tnl_status srv_open(srv_server **out, const srv_settings *s, tnl_error *err) {
    srv_server *srv = calloc(1, sizeof *srv);
    *out = NULL;
    if (!srv)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    srv->set = s;
    srv->listen_fd = -1;
    srv->watch.wake_fd = -1;
    srv->start_time = (int64_t)time(NULL);
    pthread_mutex_init(&srv->watch.lock, NULL);
    pthread_mutex_init(&srv->backends.lock, NULL);
    pthread_mutex_init(&srv->workers.lock, NULL);
    pthread_cond_init(&srv->workers.more, NULL);
    tnl_status st = srv_access_open(&srv->access, s, err);
    if (st == TNL_OK)
        st = open_listener(srv, err);
    if (st == TNL_OK)
        st = srv_watch_open(srv, err);
    if (st == TNL_OK)
        st = srv_workers_open(&srv->workers, err);
    if (st == TNL_OK)
        st = start_daemon(srv, err);
    if (st != TNL_OK) {
        srv_close(srv);
        return st;
    }
    *out = srv;
    return TNL_OK;
}

int srv_port(const srv_server *srv) {
    return srv->port;
}

void srv_progress(void *cls, uint64_t done, uint64_t total) {
    srv_server *srv = cls;
    atomic_store(&srv->load_total, total);
    atomic_store(&srv->load_done, done);
}

tnl_status srv_reload_keys(srv_server *srv, tnl_error *err) {
    tnl_status s = srv_access_reload(&srv->access, err);
    if (s != TNL_OK)
        tnl_log(TNL_LOG_ERROR, "the keys stay as they were: %s", err->msg);
    else if (srv->access.key_file)
        tnl_log(TNL_LOG_INFO, "%zu keys read again", srv_access_count(&srv->access));
    return s;
}

/* ---- the end ---- */

void srv_drain(srv_server *srv) {
    if (atomic_exchange(&srv->draining, true))
        return;
    /* Quiescing alone would leave new callers hanging in the backlog, so the socket stops listening
     * as well. Its descriptor stays open until the polling threads, which may still name it, are
     * gone. */
    srv_backend_drain(srv);
    MHD_quiesce_daemon(srv->daemon);
    shutdown(srv->listen_fd, SHUT_RDWR);
}

bool srv_quiet(srv_server *srv) {
    return atomic_load(&srv->active) == 0;
}

void srv_cancel_all(srv_server *srv) {
    pthread_mutex_lock(&srv->watch.lock);
    for (srv_conn *c = srv->watch.first; c; c = c->next)
        if (c->req)
            srv_choices_cancel(c->req);
    pthread_mutex_unlock(&srv->watch.lock);
}

/* libmicrohttpd must not be stopped while a connection is suspended. From `stopping` on nothing
 * suspends any more, and what is suspended now is resumed here. */
static void resume_all(srv_server *srv) {
    atomic_store(&srv->stopping, true);
    pthread_mutex_lock(&srv->watch.lock);
    for (srv_conn *c = srv->watch.first; c; c = c->next)
        if (c->req)
            srv_req_abandon(c->req);
    pthread_mutex_unlock(&srv->watch.lock);
}

void srv_close(srv_server *srv) {
    if (!srv)
        return;
    if (srv->daemon) {
        srv_drain(srv);
        resume_all(srv);
        srv_workers_close(&srv->workers);
        MHD_stop_daemon(srv->daemon);
    }
    if (srv->listen_fd >= 0)
        close(srv->listen_fd);
    srv_workers_close(&srv->workers);
    srv_watch_close(srv);
    srv_access_close(&srv->access);
    pthread_cond_destroy(&srv->workers.more);
    pthread_mutex_destroy(&srv->workers.lock);
    pthread_mutex_destroy(&srv->watch.lock);
    pthread_mutex_destroy(&srv->backends.lock);
    free(srv);
}
