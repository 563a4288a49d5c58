/* tnl serve: start, wait for a signal, drain, stop. Wiring only.
 *
 * The main thread blocks SIGTERM and SIGINT before any other thread exists and reads them from a
 * descriptor. The tokenizer comes first (see open_tokenizer); then a loader thread opens the model
 * while the server already answers /health. */
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/log.h"
#include "server/cli/cli.h"
#include "server/cli/serve_options.h"
#include "server/http/chat_template.h"
#include "server/http/fields.h"
#include "server/http/guard.h"
#include "server/http/http.h"

/* ---- the loader ---- */

typedef struct loader {
    const cli_serve_settings *set;
    const char *dir;
    srv_server *srv;
    int done_fd; /* eventfd: written when the thread is through */
    mdl_model *model;
    const tok_model *tokenizer;
    const srv_chat_template *chat;
    eng_engine *engine;
    double seconds;
    tnl_status status;
    tnl_error err;
} loader;

static double now_seconds(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static tnl_status open_model(loader *l) {
    const cli_model_opts *o = &l->set->model;
    mdl_open_params p = {.dir = l->dir,
                         .weights = (mdl_weight_mode)o->weights,
                         .load = (mdl_load_mode)o->load,
                         .threads = (int)o->threads,
                         .progress = srv_progress,
                         .progress_ctx = l->srv};
    return mdl_open(&l->model, &p, &l->err);
}

/* Opening a tokenizer tries it in a forked child first. That is done before any thread exists: a
 * child of a threaded process may find locks held for ever, and it would hold the listening socket.
 * A folder without a tokenizer is served with token ids only. */
static tnl_status open_tokenizer(loader *l) {
    tnl_status s = cli_open_tokenizer(&l->tokenizer, l->dir, NULL, &l->err);
    return s == TNL_E_NO_INPUT || s == TNL_E_UNSUPPORTED ? TNL_OK : s;
}

static tnl_status match_tokenizer(loader *l) {
    if (l->tokenizer)
        return cli_check_tokenizer(l->tokenizer, l->model, &l->err);
    tnl_log(TNL_LOG_WARN, "no tokenizer: text is refused, prompts must be token ids");
    return TNL_OK;
}

static tnl_status open_engine(loader *l) {
    eng_open_params p;
    eng_open_params_default(&p);
    p.model = l->model;
    p.tokenizer = l->tokenizer;
    p.parallel = (int)l->set->http.parallel;
    p.queue = (int)l->set->http.queue;
    p.step_tokens = l->set->step_tokens;
    p.max_prompt_tokens = l->set->http.max_prompt_tokens;
    p.queue_timeout_s = (double)l->set->queue_seconds;
    p.speculate = (int)l->set->speculate;
    p.prefix_cache = (size_t)l->set->prefix_cache_mb << 20;
    return eng_open(&l->engine, &p, &l->err);
}

static void *load(void *arg) {
    loader *l = arg;
    double start = now_seconds();
    l->status = open_model(l);
    if (l->status == TNL_OK) {
        srv_guard_watch(mdl_model_tensors(l->model));
        l->status = match_tokenizer(l);
    }
    if (l->status == TNL_OK)
        l->status = open_engine(l);
    l->seconds = now_seconds() - start;
    uint64_t one = 1;
    if (write(l->done_fd, &one, sizeof one) < 0)
        abort(); /* cannot happen: the counter is zero */
    return NULL;
}

static void unload(loader *l) {
    eng_close(l->engine);
    cli_close_tokenizer(l->tokenizer);
    srv_guard_watch(NULL);
    mdl_close(l->model);
}

/* ---- signals ---- */

static int open_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* True: a signal arrived within timeout_ms (-1: no limit) before `other` (-1: none) was ready. */
static bool wait_signal(int sig_fd, int other, int timeout_ms) {
    struct pollfd fds[2] = {{.fd = sig_fd, .events = POLLIN}, {.fd = other, .events = POLLIN}};
    struct signalfd_siginfo info;
    for (;;) {
        int n = poll(fds, 2, timeout_ms);
        if (n < 0 && errno == EINTR)
            continue;
        if (fds[0].revents && read(sig_fd, &info, sizeof info) == (ssize_t)sizeof info)
            return true;
        return false;
    }
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

static void print_ready(const cli_serve_settings *s, const loader *l) {
    const char *host = strcmp(s->http.host, "0.0.0.0") == 0 ? "127.0.0.1" : s->http.host;
    const char *open = strchr(host, ':') ? "[" : "", *close = *open ? "]" : "";
    tnl_log(TNL_LOG_INFO, "ready after %.1f s: %s, %lld slots, %lld waiting places", l->seconds,
            s->http.alias, (long long)s->http.parallel, (long long)s->http.queue);
    printf("tnl serves %s. Try:\n  curl -N http://%s%s%s:%d/generate%s -d '{\"prompt\": %s, "
           "\"max_tokens\": 64}'\n",
           s->http.alias, open, host, close, srv_port(l->srv),
           s->http.api_key_file ? " -H 'Authorization: Bearer KEY'" : "",
           l->tokenizer ? "\"Once upon a time\"" : "[1, 2, 3]");
    fflush(stdout);
}

/* Stop accepting, let requests finish, then end what is left. A second signal ends the process. */
static void drain(const cli_serve_settings *s, loader *l, int sig_fd) {
    double end = now_seconds() + (double)s->drain_seconds;
    bool cancelled = false;
    tnl_log(TNL_LOG_INFO, "stopping: no new requests, %lld s for those that run",
            (long long)s->drain_seconds);
    srv_drain(l->srv);
    while (!srv_quiet(l->srv)) {
        if (wait_signal(sig_fd, -1, 20)) {
            tnl_log(TNL_LOG_WARN, "second signal: exit at once");
            _exit(1);
        }
        if (now_seconds() < end)
            continue;
        if (cancelled)
            break;
        tnl_log(TNL_LOG_WARN, "drain time is over: cancelling what still runs");
        srv_cancel_all(l->srv);
        cancelled = true;
        end = now_seconds() + 2.0; /* for the final events to go out */
    }
}

static int serve(const cli_serve_settings *s, const char *dir) {
    loader l = {.set = s, .dir = dir, .done_fd = -1};
    pthread_t thread;
    int sig_fd = open_signals(), code;
    l.done_fd = eventfd(0, EFD_CLOEXEC);
    if (sig_fd < 0 || l.done_fd < 0) {
        tnl_fail(&l.err, TNL_E_IO, "signalfd: %s", strerror(errno));
        return cli_report(&cli_serve_spec, TNL_E_IO, &l.err);
    }
    /* Prompts of megabytes come and go: keep their memory out of the heaps, so that it goes back.
     */
    mallopt(M_MMAP_THRESHOLD, 128 * 1024);
    srv_guard_install();
    raise_file_limit(s->http.connections);
    l.status = srv_chat_choose(&l.chat, s->http.chat_template, dir, &l.err);
    if (l.status == TNL_OK)
        l.status = open_tokenizer(&l);
    if (l.status == TNL_OK)
        l.status = srv_open(&l.srv, &s->http, &l.err);
    if (l.status != TNL_OK) {
        cli_close_tokenizer(l.tokenizer);
        return cli_report(&cli_serve_spec, l.status, &l.err);
    }
    tnl_log(TNL_LOG_INFO, "listening on %s port %d, loading %s", s->http.host, srv_port(l.srv),
            dir);
    if (pthread_create(&thread, NULL, load, &l) != 0) {
        tnl_fail(&l.err, TNL_E_NOMEM, "cannot start the loader thread");
        return cli_report(&cli_serve_spec, TNL_E_NOMEM, &l.err);
    }
    if (wait_signal(sig_fd, l.done_fd, -1)) {
        tnl_log(TNL_LOG_INFO, "stopped while loading");
        _exit(0); /* the loader cannot be interrupted, and still uses the server */
    }
    pthread_join(thread, NULL);
    code = 0;
    if (l.status == TNL_OK) {
        srv_backend b = {.engine = l.engine,
                         .model = l.model,
                         .tokenizer = l.tokenizer,
                         .load_seconds = l.seconds,
                         .chat = l.chat};
        srv_ready(l.srv, &b);
        print_ready(s, &l);
        wait_signal(sig_fd, -1, -1);
        drain(s, &l, sig_fd);
    } else {
        code = cli_report(&cli_serve_spec, l.status, &l.err);
    }
    srv_close(l.srv);
    unload(&l);
    close(sig_fd);
    close(l.done_fd);
    if (code == 0)
        tnl_log(TNL_LOG_INFO, "stopped");
    return code;
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
    if (a->n != 1) {
        tnl_fail(&err, TNL_E_USAGE, "no model folder given");
        return cli_report(&cli_serve_spec, TNL_E_USAGE, &err);
    }
    if (s->step_tokens < s->http.parallel) {
        tnl_fail(&err, TNL_E_USAGE, "--step-tokens %lld is below --parallel %lld",
                 (long long)s->step_tokens, (long long)s->http.parallel);
        return cli_report(&cli_serve_spec, TNL_E_USAGE, &err);
    }
    folder_name(alias, sizeof alias, a->v[0]);
    if (!s->http.alias)
        s->http.alias = alias;
    s->http.weights = cli_weight_names[s->model.weights];
    tnl_log_setup((tnl_log_level)s->log_level, s->log_format == 1);
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
