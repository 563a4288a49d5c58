/* The daemon: bind, start, hand over the backend, drain, stop. */
#include "server/http/http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/log.h"
#include "server/http/server.h"

/* ---- the listening sockets ---- */

/* What is handed over takes the place of --host, --port and --unix. */
static tnl_status take_inherited(srv_server *srv, tnl_error *err) {
    TNL_TRY(srv_listen_inherited(srv->listeners, &srv->n_listeners, err));
    for (int i = 0; i < srv->n_listeners; i++) {
        srv_listener *l = &srv->listeners[i];
        l->tls = l->port && srv->tls;
        if (srv_listen_is_public(l) && !srv->access.keyed && !srv->set->insecure_no_auth)
            return tnl_fail(err, TNL_E_USAGE,
                            "LISTEN_FDS: port %d can be reached from other machines and no API key "
                            "is set: give --api-key-file, or --insecure-no-auth to serve everyone",
                            l->port);
    }
    return TNL_OK;
}

static tnl_status open_listeners(srv_server *srv, tnl_error *err) {
    const srv_settings *s = srv->set;
    if ((s->tls_cert == NULL) != (s->tls_key == NULL))
        return tnl_fail(err, TNL_E_USAGE, "--tls-cert and --tls-key go together");
    if (s->tls_cert && !s->tcp)
        return tnl_fail(err, TNL_E_USAGE, "--tls-cert: TLS is for TCP, and there is only --unix");
    if (s->tls_cert)
        TNL_TRY(srv_tls_open(&srv->tls, s->tls_cert, s->tls_key, err));
    TNL_TRY(take_inherited(srv, err));
    if (srv->n_listeners > 0)
        return TNL_OK;
    if (s->tcp) {
        srv_listener *l = &srv->listeners[srv->n_listeners++];
        TNL_TRY(srv_listen_tcp(l, s, err));
        l->tls = srv->tls != NULL;
    }
    if (s->unix_path)
        TNL_TRY(srv_listen_unix(&srv->listeners[srv->n_listeners++], s, err));
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

static tnl_status start_daemon(srv_server *srv, srv_listener *l, tnl_error *err) {
    const srv_settings *s = srv->set;
    /* A backstop behind the watcher, which has the tighter and absolute limits. */
    unsigned idle =
        (unsigned)(s->idle_seconds > s->stall_seconds ? s->idle_seconds : s->stall_seconds) + 5;
    unsigned pool = (unsigned)s->http_threads;
    struct MHD_OptionItem options[] = {
        {MHD_OPTION_LISTEN_SOCKET, l->fd, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, (intptr_t)s->connections, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)s->max_header, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, (intptr_t)idle, NULL},
        {MHD_OPTION_THREAD_POOL_SIZE, pool > 1 ? (intptr_t)pool : 0, NULL},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)srv_on_completed, srv},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)srv_on_connection, srv},
        {MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)srv_on_uri, srv},
        {MHD_OPTION_END, 0, NULL},
    };
    struct MHD_OptionItem tls[SRV_TLS_OPTIONS + 1] = {{MHD_OPTION_END, 0, NULL}};
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    if (l->tls) {
        flags |= MHD_USE_TLS;
        srv_tls_options(tls);
        tls[SRV_TLS_OPTIONS] = (struct MHD_OptionItem){MHD_OPTION_END, 0, NULL};
    }
    l->daemon = MHD_start_daemon(flags, 0, NULL, NULL, srv_on_request, srv,
                                 MHD_OPTION_EXTERNAL_LOGGER, mhd_log, NULL, MHD_OPTION_ARRAY,
                                 options, MHD_OPTION_ARRAY, tls, MHD_OPTION_END);
    if (!l->daemon)
        return tnl_fail(err, TNL_E_INTERNAL,
                        "the HTTP daemon does not start (--connections %lld, "
                        "--http-threads %u)",
                        (long long)s->connections, pool);
    return TNL_OK;
}

/* "/a/b": what a path can be without being escaped, and no slash at the end. */
static tnl_status check_base(const char *base, tnl_error *err) {
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/";
    size_t n = base ? strlen(base) : 0;
    if (n == 0)
        return TNL_OK;
    if (base[0] != '/' || base[n - 1] == '/' || n > 128 || base[strspn(base, plain)] != 0 ||
        strstr(base, "//") || strstr(base, "/./") || strstr(base, "/../"))
        return tnl_fail(err, TNL_E_USAGE,
                        "--base-path %.64s: expected /name or /name/name of letters, digits and "
                        "-._~, no slash at the end",
                        base);
    return TNL_OK;
}

tnl_status srv_open(srv_server **out, const srv_settings *s, tnl_error *err) {
    srv_server *srv = calloc(1, sizeof *srv);
    *out = NULL;
    if (!srv)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    srv->set = s;
    for (int i = 0; i < SRV_MAX_LISTENERS; i++)
        srv->listeners[i].fd = -1;
    srv->watch.wake_fd = -1;
    srv->start_time = (int64_t)time(NULL);
    pthread_mutex_init(&srv->watch.lock, NULL);
    pthread_mutex_init(&srv->backends.lock, NULL);
    pthread_mutex_init(&srv->workers.lock, NULL);
    pthread_cond_init(&srv->workers.more, NULL);
    tnl_status st = srv_access_open(&srv->access, s, err);
    if (st == TNL_OK)
        st = check_base(s->base_path, err);
    if (st == TNL_OK)
        st = open_listeners(srv, err);
    if (st == TNL_OK)
        st = srv_watch_open(srv, err);
    if (st == TNL_OK)
        st = srv_workers_open(&srv->workers, err);
    for (int i = 0; i < srv->n_listeners && st == TNL_OK; i++)
        st = start_daemon(srv, &srv->listeners[i], err);
    if (st != TNL_OK) {
        srv_close(srv);
        return st;
    }
    *out = srv;
    return TNL_OK;
}

int srv_port(const srv_server *srv) {
    for (int i = 0; i < srv->n_listeners; i++)
        if (srv->listeners[i].port)
            return srv->listeners[i].port;
    return 0;
}

bool srv_where(const srv_server *srv, int i, char out[SRV_WHERE]) {
    if (i >= srv->n_listeners)
        return false;
    const srv_listener *l = &srv->listeners[i];
    const char *given = l->inherited ? " (handed over)" : "";
    char path[SRV_WHERE - 32];
    tnl_log_escape(path, sizeof path, l->path ? l->path : "-", l->path ? strlen(l->path) : 1);
    if (l->port)
        snprintf(out, SRV_WHERE, "%s port %d%s", l->inherited ? "-" : srv->set->host, l->port,
                 given);
    else
        snprintf(out, SRV_WHERE, "unix socket %s%s", path, given);
    return true;
}

void srv_progress(void *cls, uint64_t done, uint64_t total) {
    srv_server *srv = cls;
    atomic_store(&srv->load_total, total);
    atomic_store(&srv->load_done, done);
}

tnl_status srv_reload_certificate(srv_server *srv, tnl_error *err) {
    if (!srv->tls)
        return TNL_OK;
    tnl_status s = srv_tls_reload(srv->tls, err);
    if (s != TNL_OK)
        tnl_log(TNL_LOG_ERROR, "the certificate stays as it was: %s", err->msg);
    else
        tnl_log(TNL_LOG_INFO, "the certificate is read again");
    return s;
}

typedef struct key_list {
    uint64_t id[SRV_KEYS_MAX];
    size_t n;
} key_list;

static void list_key(void *ctx, srv_tenant *t) {
    key_list *list = ctx;
    if (list->n < SRV_KEYS_MAX)
        list->id[list->n++] = t->id;
}

/* A key that is gone takes its conversations with it. */
static void end_lost_sessions(srv_server *srv) {
    key_list list = {.n = 0};
    srv_access_each(&srv->access, list_key, &list);
    pthread_mutex_lock(&srv->backends.lock);
    for (srv_backend *be = srv->backends.first; be; be = be->next)
        if (be->sessions)
            eng_sessions_retain(be->sessions, list.id, list.n);
    pthread_mutex_unlock(&srv->backends.lock);
}

tnl_status srv_reload_keys(srv_server *srv, tnl_error *err) {
    tnl_status s = srv_access_reload(&srv->access, err);
    if (s != TNL_OK)
        tnl_log(TNL_LOG_ERROR, "the keys stay as they were: %s", err->msg);
    else if (srv->access.key_file)
        tnl_log(TNL_LOG_INFO, "%zu keys read again", srv_access_count(&srv->access));
    if (s == TNL_OK && srv->access.key_file)
        end_lost_sessions(srv);
    return s;
}

/* ---- the end ---- */

void srv_drain(srv_server *srv) {
    if (atomic_exchange(&srv->draining, true))
        return;
    srv_backend_drain(srv);
    for (int i = 0; i < srv->n_listeners; i++)
        srv_listen_stop(&srv->listeners[i]);
}

void srv_unlink(srv_server *srv) {
    for (int i = 0; i < srv->n_listeners; i++)
        srv_listen_unlink(&srv->listeners[i]);
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
    srv_drain(srv);
    resume_all(srv);
    srv_workers_close(&srv->workers);
    for (int i = 0; i < srv->n_listeners; i++)
        srv_listen_close(&srv->listeners[i]);
    srv_tls_close(srv->tls);
    srv_watch_close(srv);
    srv_access_close(&srv->access);
    pthread_cond_destroy(&srv->workers.more);
    pthread_mutex_destroy(&srv->workers.lock);
    pthread_mutex_destroy(&srv->watch.lock);
    pthread_mutex_destroy(&srv->backends.lock);
    free(srv);
}
