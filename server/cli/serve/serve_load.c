/* Opening what is served, at the start and again on SIGHUP. */
#include "server/cli/serve/serve_load.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/log.h"
#include "server/http/api/chat_template.h"
#include "server/http/guard.h"

double cli_seconds(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

void cli_served_free(cli_served *s) {
    if (!s)
        return;
    eng_close(s->be.engine);
    eng_sessions_close(s->be.sessions);
    cli_close_tokenizer(s->be.tokenizer);
    if (s->model)
        srv_guard_forget(mdl_model_tensors(s->model));
    mdl_close(s->model);
    free(s);
}

/* ---- the parts ---- */

static bool has_tokenizer(const char *dir) {
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/tokenizer.model", dir);
    return n > 0 && (size_t)n < sizeof path && access(path, F_OK) == 0;
}

/* Opening a tokenizer tries it in a forked child. At the start that happens before any thread
 * exists; later it is tried elsewhere (serve_trial.c). A folder without a tokenizer is served with
 * token ids only. */
static tnl_status open_tokenizer(cli_loader *l) {
    const tok_model **out = &l->served->be.tokenizer;
    if (l->again && has_tokenizer(l->dir))
        TNL_TRY(cli_try_tokenizer(l->dir, &l->err));
    tnl_status s = l->again ? cli_open_tried_tokenizer(out, l->dir, &l->err)
                            : cli_open_tokenizer(out, l->dir, NULL, &l->err);
    return s == TNL_E_NO_INPUT || s == TNL_E_UNSUPPORTED ? TNL_OK : s;
}

static tnl_status match_tokenizer(cli_loader *l) {
    const cli_served *s = l->served;
    if (s->be.tokenizer)
        return cli_check_tokenizer(s->be.tokenizer, s->model, &l->err);
    tnl_log(TNL_LOG_WARN, "no tokenizer: text is refused, prompts must be token ids");
    return TNL_OK;
}

static tnl_status open_model(cli_loader *l) {
    const cli_model_opts *o = &l->set->model;
    mdl_open_params p = {.dir = l->dir,
                         .weights = (mdl_weight_mode)o->weights,
                         .load = (mdl_load_mode)o->load,
                         .device = o->device,
                         .threads = (int)o->threads,
                         .progress = l->again ? NULL : srv_progress,
                         .progress_ctx = l->srv};
    TNL_TRY(mdl_open(&l->served->model, &p, &l->err));
    l->served->be.model = l->served->model;
    srv_guard_watch(mdl_model_tensors(l->served->model));
    return TNL_OK;
}

static tnl_status open_engine(cli_loader *l) {
    const cli_serve_settings *set = l->set;
    eng_open_params p;
    eng_open_params_default(&p);
    p.model = l->served->model;
    p.tokenizer = l->served->be.tokenizer;
    p.parallel = (int)set->http.parallel;
    p.queue = (int)set->http.queue;
    p.step_tokens = set->step_tokens;
    p.max_prompt_tokens = set->http.max_prompt_tokens;
    p.queue_timeout_s = (double)set->queue_seconds;
    p.speculate = (int)set->speculate;
    p.prefix_cache = (size_t)set->prefix_cache_mb << 20;
    return eng_open(&l->served->be.engine, &p, &l->err);
}

static tnl_status open_sessions(cli_loader *l) {
    const cli_serve_settings *set = l->set;
    srv_backend *be = &l->served->be;
    if (l->again && l->sessions)
        return eng_sessions_next(&be->sessions, l->sessions, l->served->model, be->tokenizer,
                                 &l->err);
    const eng_sessions_params p = {.most = set->sessions,
                                   .key_most = set->key_sessions,
                                   .memory = (size_t)set->session_mb << 20,
                                   .key_bytes = (uint64_t)set->key_session_mb << 20,
                                   .disk_bytes = (uint64_t)set->session_disk_mb << 20,
                                   .idle_s = (double)set->session_seconds,
                                   .dir = set->session_dir};
    if (set->sessions == 0) {
        if (set->session_dir)
            tnl_log(TNL_LOG_WARN, "--session-dir is not used: --sessions is 0");
        return TNL_OK;
    }
    return eng_sessions_open(&be->sessions, l->served->model, be->tokenizer, &p, &l->err);
}

static tnl_status load_all(cli_loader *l) {
    if (l->again) {
        TNL_TRY(cli_check_room(l->dir, l->now, l->set->http.parallel, &l->err));
        TNL_TRY(cli_loader_prepare(l));
    }
    TNL_TRY(open_model(l));
    TNL_TRY(match_tokenizer(l));
    TNL_TRY(open_sessions(l));
    return open_engine(l);
}

/* ---- the loader ---- */

tnl_status cli_loader_init(cli_loader *l, const cli_serve_settings *set, const char *dir,
                           tnl_error *err) {
    *l = (cli_loader){.set = set, .dir = dir};
    l->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (l->done_fd < 0)
        return tnl_fail(err, TNL_E_IO, "eventfd: %s", strerror(errno));
    return TNL_OK;
}

tnl_status cli_loader_prepare(cli_loader *l) {
    l->served = calloc(1, sizeof *l->served);
    if (!l->served)
        return tnl_fail(&l->err, TNL_E_NOMEM, "out of memory");
    TNL_TRY(srv_chat_choose(&l->served->be.chat, l->set->http.chat_template, l->dir, &l->err));
    return open_tokenizer(l);
}

static void *run(void *arg) {
    cli_loader *l = arg;
    double start = cli_seconds();
    l->status = load_all(l);
    if (l->served)
        l->served->be.load_seconds = cli_seconds() - start;
    uint64_t one = 1;
    if (write(l->done_fd, &one, sizeof one) < 0)
        abort(); /* cannot happen: the counter is zero */
    return NULL;
}

tnl_status cli_loader_start(cli_loader *l) {
    if (pthread_create(&l->thread, NULL, run, l) != 0)
        return tnl_fail(&l->err, TNL_E_NOMEM, "cannot start the loader thread");
    l->running = true;
    return TNL_OK;
}

void cli_loader_finish(cli_loader *l, cli_served **out) {
    uint64_t count;
    pthread_join(l->thread, NULL);
    l->running = false;
    if (read(l->done_fd, &count, sizeof count) < 0)
        tnl_log(TNL_LOG_DEBUG, "eventfd: %s", strerror(errno));
    *out = l->served;
    l->served = NULL;
    if (l->status == TNL_OK)
        return;
    cli_served_free(*out);
    *out = NULL;
}

void cli_loader_clear(cli_loader *l) {
    cli_served_free(l->served);
    l->served = NULL;
    if (l->done_fd >= 0)
        close(l->done_fd);
    l->done_fd = -1;
}
