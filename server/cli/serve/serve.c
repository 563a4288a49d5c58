/* tnl serve: start, wait for a signal, reload, drain, stop. Wiring only.
 *
 * The main thread blocks its signals before any other thread exists and reads them from a
 * descriptor. The tokenizer comes first (see serve_load.c); then a loader thread opens the model
 * while the server already answers /health. SIGHUP loads the folder anew while the present model
 * serves, and swaps them for requests that begin from then on; those that run keep theirs. */
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "kernels/base/log.h"
#include "server/cli/cli.h"
#include "server/cli/notify.h"
#include "server/cli/serve/serve_load.h"
#include "server/cli/serve/serve_options.h"
#include "server/http/api/fields.h"
#include "server/http/guard.h"
#include "server/http/http.h"

typedef struct server {
    const cli_serve_settings *set;
    srv_server *srv;
    cli_loader loader;
    cli_served *now; /* what new requests get; behind it those that earlier ones still use */
    int sig_fd;
    bool terminal; /* started by hand: standard input is a terminal */
    bool wanted;   /* a reload was asked for and has not begun */
} server;

/* ---- signals ---- */

static int open_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* SIGHUP also comes when a terminal closes; a server started there by hand ends with it. */
static bool terminal_closed(const server *sv) {
    struct pollfd in = {.fd = STDIN_FILENO};
    return sv->terminal && poll(&in, 1, 0) == 1 && (in.revents & (POLLHUP | POLLERR));
}

typedef enum event { EV_NOTHING, EV_STOP, EV_RELOAD, EV_LOADED } event;

/* What happened within timeout_ms (-1: no limit). */
static event wait_event(const server *sv, int timeout_ms) {
    struct pollfd fds[2] = {{.fd = sv->sig_fd, .events = POLLIN},
                            {.fd = sv->loader.done_fd, .events = POLLIN}};
    struct signalfd_siginfo info;
    if (poll(fds, 2, timeout_ms) <= 0)
        return EV_NOTHING;
    if (fds[0].revents && read(sv->sig_fd, &info, sizeof info) == (ssize_t)sizeof info)
        return info.ssi_signo != SIGHUP || terminal_closed(sv) ? EV_STOP : EV_RELOAD;
    return fds[1].revents && sv->loader.running ? EV_LOADED : EV_NOTHING;
}

/* ---- the run ---- */

static void raise_file_limit(int64_t connections) {
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0)
        return;
    rlim_t want = (rlim_t)connections + 64;
    if (r.rlim_cur < want) {
        r.rlim_cur = r.rlim_max < want ? r.rlim_max : want;
        if (setrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur < want)
            tnl_log(TNL_LOG_WARN,
                    "only %llu open files are allowed; --connections %lld may not "
                    "be reached",
                    (unsigned long long)r.rlim_cur, (long long)connections);
    }
}

static void log_sources(const cli_args *a) {
    static const char *const names[] = {"default", "config file", "environment", "flag"};
    for (int i = 0; i < cli_serve_spec.n_rows; i++)
        if (cli_serve_spec.rows[i].flag)
            tnl_log(TNL_LOG_DEBUG, "setting %s comes from: %s", cli_serve_spec.rows[i].flag,
                    names[a->source[i]]);
}

/* The words of a curl command that reach this server. */
static void put_address(char *out, size_t cap, const server *sv) {
    const srv_settings *s = &sv->set->http;
    const char *host = strcmp(s->host, "0.0.0.0") == 0 ? "127.0.0.1" : s->host;
    const char *open = strchr(host, ':') ? "[" : "", *close = *open ? "]" : "";
    const char *base = s->base_path ? s->base_path : "";
    if (srv_port(sv->srv))
        snprintf(out, cap, "%s://%s%s%s:%d%s", s->tls_cert ? "https" : "http", open, host, close,
                 srv_port(sv->srv), base);
    else
        snprintf(out, cap, "--unix-socket '%s' http://localhost%s",
                 s->unix_path ? s->unix_path : "PATH", base);
}

static void print_ready(const server *sv) {
    const cli_serve_settings *s = sv->set;
    char where[512];
    put_address(where, sizeof where, sv);
    printf("tnl serves %s. Try:\n  curl -N %s/generate%s -d '{\"prompt\": %s, "
           "\"max_tokens\": 64}'\n",
           s->http.alias, where, s->http.api_key_file ? " -H 'Authorization: Bearer KEY'" : "",
           sv->now->be.tokenizer ? "\"Once upon a time\"" : "[1, 2, 3]");
    fflush(stdout);
}

/* ---- reload ---- */

/* Models in memory at once: the one that serves, one that loads, and those that requests begun
 * earlier still need. Beyond that a reload waits. */
enum { MAX_MODELS = 4, COLLECT_MS = 100, ALIVE_MS = 5000 };

static void forget(server *sv, cli_served *gone) {
    cli_served **at = &sv->now;
    while (*at && *at != gone)
        at = &(*at)->next;
    if (*at)
        *at = gone->next;
    cli_served_free(gone);
}

/* An engine is closed here, on the main thread, once nobody uses it. */
static void collect(server *sv) {
    for (srv_backend *be = srv_collect(sv->srv); be; be = srv_collect(sv->srv)) {
        forget(sv, (cli_served *)be);
        tnl_log(TNL_LOG_INFO, "the last request of an earlier model has ended: freed");
    }
}

/* A reload that was asked for and cannot begin yet. */
static void say_if_waiting(const server *sv) {
    if (sv->loader.running)
        tnl_log(TNL_LOG_INFO, "reload: noted, a model is being loaded");
    else if (srv_backend_count(sv->srv) >= MAX_MODELS)
        tnl_log(TNL_LOG_WARN, "reload: waits, requests still use %d earlier models",
                srv_backend_count(sv->srv) - 1);
}

/* What is small is read again at once, whatever becomes of the model. */
static void reload_files(server *sv) {
    tnl_error err;
    srv_reload_certificate(sv->srv, &err);
    srv_reload_keys(sv->srv, &err); /* says in the log what became of it */
}

static void say_ready(const server *sv) {
    cli_notify("READY=1\nSTATUS=serving %s", sv->set->http.alias);
}

static void begin_reload(server *sv) {
    cli_loader *l = &sv->loader;
    if (!sv->wanted || l->running || srv_backend_count(sv->srv) >= MAX_MODELS)
        return;
    sv->wanted = false;
    l->again = true;
    cli_notify_reloading();
    l->now = sv->now->model;
    l->sessions = sv->now->be.sessions;
    tnl_log(TNL_LOG_INFO, "reload: loading %s, the present model serves on", l->dir);
    if (cli_loader_start(l) == TNL_OK)
        return;
    tnl_log(TNL_LOG_ERROR, "reload failed, the present model stays: %s", l->err.msg);
    srv_note_reload(sv->srv, false);
    say_ready(sv);
}

/* The first model is there, or the next one. */
static void take_loaded(server *sv) {
    cli_loader *l = &sv->loader;
    cli_served *fresh;
    cli_loader_finish(l, &fresh);
    if (l->again)
        srv_note_reload(sv->srv, fresh != NULL);
    if (!fresh && l->again) {
        tnl_log(TNL_LOG_ERROR, "reload failed, the present model stays: %s", l->err.msg);
        say_ready(sv);
    }
    if (!fresh)
        return;
    srv_ready(sv->srv, &fresh->be);
    fresh->next = sv->now;
    sv->now = fresh;
    tnl_log(TNL_LOG_INFO, "%s after %.1f s: %s, %lld slots, %lld waiting places",
            l->again ? "reloaded" : "ready", fresh->be.load_seconds, sv->set->http.alias,
            (long long)sv->set->http.parallel, (long long)sv->set->http.queue);
    say_ready(sv);
    if (!l->again && !tnl_log_is_json()) /* whoever reads that is a program */
        print_ready(sv);
}

/* ---- the end ---- */

/* A reload that comes through too late. */
static void discard_loaded(server *sv) {
    cli_served *late;
    cli_loader_finish(&sv->loader, &late);
    cli_served_free(late);
}

/* Stop accepting, let requests finish, then end what is left. A second signal ends the process. */
static void drain(server *sv) {
    double end = cli_seconds() + (double)sv->set->drain_seconds;
    bool cancelled = false;
    tnl_log(TNL_LOG_INFO, "stopping: no new requests, %lld s for those that run",
            (long long)sv->set->drain_seconds);
    cli_notify("STOPPING=1\nSTATUS=finishing what runs");
    srv_drain(sv->srv);
    while (!srv_quiet(sv->srv)) {
        event ev = wait_event(sv, 20);
        if (ev == EV_STOP) {
            tnl_log(TNL_LOG_WARN, "second signal: exit at once");
            srv_unlink(sv->srv);
            _exit(1);
        }
        if (ev == EV_LOADED)
            discard_loaded(sv);
        if (cli_seconds() < end)
            continue;
        if (cancelled)
            break;
        tnl_log(TNL_LOG_WARN, "drain time is over: cancelling what still runs");
        srv_cancel_all(sv->srv);
        cancelled = true;
        end = cli_seconds() + 2.0; /* for the final events to go out */
    }
}

/* How long nothing needs to be looked at. */
static int patience(const server *sv) {
    if (srv_backend_count(sv->srv) > 1)
        return COLLECT_MS;
    return !sv->now && cli_notify_wanted() ? ALIVE_MS : -1;
}

/* Until a signal ends it, or there is nothing to serve. */
static tnl_status run(server *sv) {
    for (;;) {
        if (!sv->now) /* a large model takes longer than service managers wait by default */
            cli_notify("EXTEND_TIMEOUT_USEC=%d\nSTATUS=loading a model", 4 * ALIVE_MS * 1000);
        switch (wait_event(sv, patience(sv))) {
        case EV_STOP:
            return TNL_OK;
        case EV_RELOAD:
            reload_files(sv);
            sv->wanted = true;
            say_if_waiting(sv);
            break;
        case EV_LOADED:
            take_loaded(sv);
            break;
        case EV_NOTHING:
            break;
        }
        collect(sv);
        if (sv->now)
            begin_reload(sv);
        else if (!sv->loader.running)
            return sv->loader.status;
    }
}

static tnl_status open_server(server *sv, const char *dir, tnl_error *err) {
    const cli_serve_settings *s = sv->set;
    sv->sig_fd = open_signals();
    if (sv->sig_fd < 0)
        return tnl_fail(err, TNL_E_IO, "signalfd: %s", strerror(errno));
    /* Prompts of megabytes come and go: keep their memory out of the heaps, so that it goes back.
     */
    mallopt(M_MMAP_THRESHOLD, 128 * 1024);
    srv_guard_install(tnl_log_is_json());
    raise_file_limit(s->http.connections * (s->http.tcp + (s->http.unix_path != NULL)));
    TNL_TRY(cli_loader_init(&sv->loader, s, dir, err));
    tnl_status st = cli_loader_prepare(&sv->loader);
    if (st != TNL_OK) {
        *err = sv->loader.err;
        return st;
    }
    TNL_TRY(srv_open(&sv->srv, &s->http, err));
    sv->loader.srv = sv->srv;
    char where[SRV_WHERE];
    for (int i = 0; srv_where(sv->srv, i, where); i++)
        tnl_log(TNL_LOG_INFO, "listening on %s, loading %s", where, dir);
    return TNL_OK;
}

static int close_server(server *sv, int code) {
    /* The loader cannot be interrupted, and the first one still uses the server. */
    if (sv->loader.running)
        pthread_detach(sv->loader.thread);
    if (sv->loader.running && !sv->loader.again) {
        srv_unlink(sv->srv);
        _exit(code);
    }
    srv_close(sv->srv);
    if (code == 0)
        tnl_log(TNL_LOG_INFO, "stopped");
    if (sv->loader.running) {
        if (sv->now && sv->now->be.sessions)
            eng_sessions_flush(sv->now->be.sessions);
        _exit(code);
    }
    while (sv->now)
        forget(sv, sv->now);
    cli_loader_clear(&sv->loader);
    if (sv->sig_fd >= 0)
        close(sv->sig_fd);
    return code;
}

static int serve(const cli_serve_settings *s, const char *dir) {
    server sv = {.set = s, .sig_fd = -1, .loader = {.done_fd = -1}};
    tnl_error err = {0};
    struct sigaction hup;
    sv.terminal =
        isatty(STDIN_FILENO) && sigaction(SIGHUP, NULL, &hup) == 0 && hup.sa_handler != SIG_IGN;
    tnl_status st = open_server(&sv, dir, &err);
    if (st == TNL_OK)
        st = cli_loader_start(&sv.loader);
    if (st == TNL_OK && (st = run(&sv)) == TNL_OK) {
        if (sv.now)
            drain(&sv);
        else
            tnl_log(TNL_LOG_INFO, "stopped while loading");
    } else if (sv.srv && !err.msg[0]) {
        err = sv.loader.err;
    }
    return close_server(&sv, st == TNL_OK ? 0 : cli_report(&cli_serve_spec, st, &err));
}

/* The last part of a path, slashes at the end ignored. */
static void folder_name(char *out, size_t cap, const char *path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    snprintf(out, cap, "%.*s", (int)(end - start), path + start);
}

static int print_fields(void) {
    srv_buf b = {0};
    srv_fields_json(&b);
    fwrite(b.data, 1, b.len, stdout);
    srv_buf_free(&b);
    return 0;
}

static int checked_serve(cli_serve_settings *s, const cli_args *a) {
    tnl_error err;
    char alias[256];
    if (s->fields)
        return print_fields();
    tnl_log_setup((tnl_log_level)s->log_level, s->log_format == 1);
    if (a->n != 1) {
        tnl_fail(&err, TNL_E_USAGE, "no model folder given");
        return cli_report(&cli_serve_spec, TNL_E_USAGE, &err);
    }
    if (cli_serve_check(s, &err) != TNL_OK)
        return cli_report(&cli_serve_spec, TNL_E_USAGE, &err);
    folder_name(alias, sizeof alias, a->v[0]);
    if (!s->http.alias || !*s->http.alias)
        s->http.alias = alias;
    s->http.weights = cli_weight_names[s->model.weights];
    s->http.tcp = !s->http.unix_path ||
                  cli_source_of(a, &cli_serve_spec, "host") != CLI_FROM_DEFAULT ||
                  cli_source_of(a, &cli_serve_spec, "port") != CLI_FROM_DEFAULT;
    log_sources(a);
    return serve(s, a->v[0]);
}

int cli_serve(int argc, char **argv) {
    cli_serve_settings s = {0};
    cli_args a = {0};
    int code;
    if (cli_begin(&a, &cli_serve_spec, &s, argc, argv, &code))
        code = checked_serve(&s, &a);
    cli_args_clear(&a);
    return code;
}
