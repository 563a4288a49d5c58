/* The engine: opening and closing, submission, the waiting line and the thread's loop. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/engine/core.h"
#include "server/engine/params.h"
#include "server/engine/states/session_impl.h"

void eng_open_params_default(eng_open_params *p) {
    memset(p, 0, sizeof *p);
    p->parallel = 8;
    p->queue = 128;
    p->max_prompt_tokens = 4194304;
    p->queue_timeout_s = 60;
    p->speculate = ENG_SPECULATE_DEFAULT;
    p->prefix_cache = (size_t)ENG_PREFIX_DEFAULT_MB << 20;
}

int64_t eng_step_tokens(const mdl_model *m, int parallel) {
    const int64_t usual = mdl_prompt_slice(m) > 0 ? 2048 : 256;
    return usual < parallel ? parallel : usual;
}

/* ---- the thread ---- */

static bool has_enough(const eng_engine *e, const eng_request *r) {
    int running = 0;
    for (int i = 0; i < e->open.parallel; i++)
        running += e->slots[i].req && e->slots[i].req->key == r->key;
    return r->most_running > 0 && running >= r->most_running;
}

/* The next of the line, without those whose keys have enough slots; NULL: none. Lock held. */
static eng_request *pop_next(eng_engine *e) {
    eng_request **link = &e->first, *r;
    const eng_request *refused = NULL;
    while ((r = *link) && ((refused && refused->key == r->key) || has_enough(e, r))) {
        refused = r;
        link = &r->next;
    }
    if (!r)
        return NULL;
    *link = r->next;
    r->next = NULL;
    e->turn = r->turn > e->turn ? r->turn : e->turn;
    return r;
}

void eng_end_queued(eng_engine *e, eng_request *r, eng_finish finish, tnl_status error) {
    eng_request_leave_session(r);
    pthread_mutex_lock(&e->lock);
    e->metrics.queued--;
    eng_metrics_ended(e, r, finish, error);
    pthread_mutex_unlock(&e->lock);
    eng_request_finish(r, finish, error);
    eng_request_unref(r);
}

static bool timed_out(const eng_engine *e, const eng_request *r, double now) {
    return e->open.queue_timeout_s > 0 && now - r->submitted > e->open.queue_timeout_s;
}

/* Take cancelled and overdue requests (all of them when closing) off the line. */
static void reap_queue(eng_engine *e, bool closing) {
    eng_request *gone = NULL, **gone_end = &gone;
    double now = eng_now();
    pthread_mutex_lock(&e->lock);
    eng_request **link = &e->first;
    while (*link) {
        eng_request *r = *link;
        if (closing || atomic_load(&r->cancel) || timed_out(e, r, now)) {
            *link = r->next;
            r->next = NULL;
            *gone_end = r;
            gone_end = &r->next;
        } else {
            link = &r->next;
        }
    }
    pthread_mutex_unlock(&e->lock);
    while (gone) {
        eng_request *r = gone;
        gone = r->next;
        if (closing || atomic_load(&r->cancel))
            eng_end_queued(e, r, ENG_FINISH_CANCELLED, TNL_E_CANCELLED);
        else
            eng_end_queued(e, r, ENG_FINISH_ERROR, TNL_E_BUSY);
    }
}

static void reap_running(eng_engine *e, bool closing) {
    for (int i = 0; i < e->open.parallel; i++) {
        eng_request *r = e->slots[i].req;
        if (r && (closing || atomic_load(&r->cancel)))
            eng_end_running(e, &e->slots[i], ENG_FINISH_CANCELLED, TNL_E_CANCELLED);
    }
}

/* Move waiting requests into free slots; returns how many. */
static int admit(eng_engine *e) {
    pthread_mutex_lock(&e->lock);
    for (int i = 0; i < e->open.parallel; i++)
        e->plan[i] = (eng_sched_slot){.used = e->slots[i].req != NULL};
    int most = eng_sched_admit(e->plan, e->open.parallel, e->first ? e->metrics.queued : 0), n = 0;
    double now = eng_now();
    for (int i = 0; i < e->open.parallel && n < most; i++) {
        if (e->plan[i].used)
            continue;
        eng_request *r = pop_next(e);
        if (!r)
            break;
        e->slots[i].req = r;
        e->metrics.queued--;
        e->metrics.running++;
        eng_metrics_admitted(e, now - r->submitted);
        n++;
    }
    pthread_mutex_unlock(&e->lock);
    for (int i = 0; i < e->open.parallel; i++)
        if (!e->plan[i].used && e->slots[i].req)
            eng_step_enter(e, &e->slots[i]);
    return n;
}

/* When the request that waits longest came. With the lock held. */
static double oldest(const eng_engine *e) {
    double first = e->first->submitted;
    for (const eng_request *r = e->first->next; r; r = r->next)
        first = r->submitted < first ? r->submitted : first;
    return first;
}

/* Nothing to compute: sleep until kicked, or until the oldest waiting request is overdue. */
static void sleep_until_kicked(eng_engine *e) {
    pthread_mutex_lock(&e->lock);
    int rc = 0;
    while (!e->kick && rc == 0) {
        if (!e->first || e->open.queue_timeout_s <= 0) {
            pthread_cond_wait(&e->work, &e->lock);
            continue;
        }
        double due = oldest(e) + e->open.queue_timeout_s + 1e-3;
        struct timespec t = {.tv_sec = (time_t)due};
        t.tv_nsec = (long)((due - (double)t.tv_sec) * 1e9);
        rc = pthread_cond_timedwait(&e->work, &e->lock, &t);
    }
    pthread_mutex_unlock(&e->lock);
}

static void *engine_main(void *arg) {
    eng_engine *e = arg;
    for (;;) {
        pthread_mutex_lock(&e->lock);
        e->kick = false;
        bool closing = e->closing;
        pthread_mutex_unlock(&e->lock);
        reap_queue(e, closing);
        reap_running(e, closing);
        if (closing)
            return NULL;
        while (admit(e) > 0) {
            /* a request may have ended on entering and freed its slot again */
        }
        if (!eng_step(e))
            sleep_until_kicked(e);
    }
}

/* Signals are the main thread's business; those a fault raises stay open, or a fault could not
 * reach its handler. */
static int start_thread(eng_engine *e) {
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    sigset_t block, before;
    sigfillset(&block);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigdelset(&block, faults[i]);
    pthread_sigmask(SIG_BLOCK, &block, &before);
    int rc = pthread_create(&e->thread, NULL, engine_main, e);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

/* ---- open and close ---- */

static tnl_status check_open(const eng_open_params *p, tnl_error *err) {
    if (!p->model)
        return tnl_fail(err, TNL_E_USAGE, "engine: no model");
    if (p->parallel < 1 || p->queue < 0)
        return tnl_fail(err, TNL_E_USAGE, "engine: parallel %d, queue %d; expected >= 1, >= 0",
                        p->parallel, p->queue);
    if (p->step_tokens != 0 && p->step_tokens < p->parallel)
        return tnl_fail(err, TNL_E_USAGE, "engine: step of %lld tokens, expected >= parallel %d",
                        (long long)p->step_tokens, p->parallel);
    if (p->max_prompt_tokens < 1)
        return tnl_fail(err, TNL_E_USAGE, "engine: max_prompt_tokens %lld, expected >= 1",
                        (long long)p->max_prompt_tokens);
    if (p->speculate < 0 || p->speculate > ENG_SPECULATE_MAX || !(p->row_cost >= 0))
        return tnl_fail(err, TNL_E_USAGE, "engine: speculate %d, row_cost %g; expected 0..%d, >= 0",
                        p->speculate, p->row_cost, ENG_SPECULATE_MAX);
    return TNL_OK;
}

static bool wants_poison(void) {
#ifndef NDEBUG
    return true;
#else
    const char *v = getenv("TNL_POISON");
    return v && *v && strcmp(v, "0") != 0;
#endif
}

static tnl_status open_slots(eng_engine *e, tnl_error *err) {
    size_t n = (size_t)e->open.parallel;
    e->slots = calloc(n, sizeof *e->slots);
    e->plan = calloc(n, sizeof *e->plan);
    e->give = calloc(n, sizeof *e->give);
    e->segs = calloc(n, sizeof *e->segs);
    e->seg_slot = calloc(n, sizeof *e->seg_slot);
    e->jobs = calloc(n, sizeof *e->jobs);
    e->picks = calloc((size_t)e->budget.rows, sizeof *e->picks);
    if (!e->slots || !e->plan || !e->give || !e->segs || !e->seg_slot || !e->jobs || !e->picks)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory for %d slots", e->open.parallel);
    for (size_t i = 0; i < n; i++) {
        e->slots[i].state = mdl_state_new(e->open.model);
        if (!e->slots[i].state)
            return tnl_fail(err, TNL_E_NOMEM, "out of memory for %d states of %zu bytes",
                            e->open.parallel, mdl_state_bytes(e->open.model));
        TNL_TRY(eng_history_open(&e->slots[i].history, e->vocab, err));
    }
    return TNL_OK;
}

static void init_sync(eng_engine *e) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&e->work, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&e->lock, NULL);
    pthread_mutex_init(&e->texts_lock, NULL);
}

static void init_fields(eng_engine *e, const eng_open_params *p) {
    const mdl_spec *spec = mdl_model_spec(p->model);
    e->open = *p;
    if (p->step_tokens == 0)
        e->open.step_tokens = eng_step_tokens(p->model, p->parallel);
    e->vocab = spec->vocab;
    e->eos_id = spec->eos_id >= 0 ? spec->eos_id : eng_text_eos(p->tokenizer);
    e->poison = wants_poison();
    int64_t rows = (int64_t)p->parallel + ENG_EXTRA_ROWS;
    e->budget.tokens = e->open.step_tokens;
    e->budget.rows = rows < e->budget.tokens ? rows : e->budget.tokens;
    e->slice = mdl_prompt_slice(p->model);
    e->can_pick = mdl_can_pick(p->model);
    if (e->budget.tokens < e->slice + e->budget.rows) /* a slice fits beside all decodes */
        e->budget.tokens = e->slice > 0 ? e->slice + e->budget.rows : e->budget.tokens;
    e->pace.fixed = p->row_cost;
    e->metrics.prefix_budget = p->prefix_cache;
    e->metrics.slots = p->parallel;
    e->metrics.state_bytes = mdl_state_bytes(p->model);
}

/* A slice through a device, so that what it must choose, load and allocate for prompts is not the
 * first request's to wait for, and what it cannot do shows before there is one. */
static tnl_status warm_up(eng_engine *e, tnl_error *err) {
    if (e->slice == 0)
        return TNL_OK;
    int32_t *ids = calloc((size_t)e->slice, sizeof *ids);
    if (!ids)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory for a first step");
    mdl_seg seg = {
        .state = e->slots[0].state, .tokens = ids, .n_tokens = e->slice, .want = MDL_WANT_LAST};
    tnl_status st = mdl_forward(e->ctx, &seg, 1, err);
    mdl_state_reset(e->open.model, seg.state);
    free(ids);
    return st;
}

tnl_status eng_open(eng_engine **out, const eng_open_params *p, tnl_error *err) {
    *out = NULL;
    TNL_TRY(check_open(p, err));
    eng_engine *e = calloc(1, sizeof *e);
    if (!e)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory for the engine");
    atomic_init(&e->refs, 1);
    init_sync(e);
    init_fields(e, p);
    tnl_status st = open_slots(e, err);
    if (st != TNL_OK)
        goto fail;
    st = mdl_ctx_open(&e->ctx, p->model, e->budget.tokens, e->budget.rows, err);
    if (st != TNL_OK)
        goto fail;
    st = warm_up(e, err);
    if (st != TNL_OK)
        goto fail;
    st = eng_rows_open(&e->rows, mdl_model_backend(p->model), e->vocab, err);
    if (st != TNL_OK)
        goto fail;
    e->sampler = eng_rows_sampler(e->rows);
    if (p->prefix_cache > 0)
        st = eng_prefix_open(&e->prefix, p->model, p->prefix_cache, err);
    if (st != TNL_OK)
        goto fail;
    if (start_thread(e) != 0) {
        st = tnl_fail(err, TNL_E_NOMEM, "cannot start the engine's thread");
        goto fail;
    }
    e->started = true;
    *out = e;
    return TNL_OK;
fail:
    eng_close(e);
    return st;
}

static void free_slots(eng_engine *e) {
    for (int i = 0; e->slots && i < e->open.parallel; i++) {
        mdl_state_free(e->open.model, e->slots[i].state);
        eng_history_close(&e->slots[i].history);
        eng_draft_close(&e->slots[i].draft);
    }
    free(e->slots);
    free(e->plan);
    free(e->give);
    free(e->segs);
    free(e->seg_slot);
    free(e->jobs);
    free(e->picks);
}

void eng_close(eng_engine *e) {
    if (!e)
        return;
    pthread_mutex_lock(&e->lock);
    e->draining = e->closing = true;
    pthread_mutex_unlock(&e->lock);
    eng_engine_kick(e);
    if (e->started)
        pthread_join(e->thread, NULL);
    mdl_ctx_close(e->ctx);
    eng_prefix_close(e->prefix);
    eng_rows_close(e->rows);
    free_slots(e);
    eng_engine_unref(e);
}

void eng_engine_unref(eng_engine *e) {
    if (atomic_fetch_sub(&e->refs, 1) != 1)
        return;
    pthread_cond_destroy(&e->work);
    pthread_mutex_destroy(&e->lock);
    pthread_mutex_destroy(&e->texts_lock);
    eng_vocab_close(e->texts);
    free(e);
}

void eng_engine_kick(eng_engine *e) {
    pthread_mutex_lock(&e->lock);
    e->kick = true;
    pthread_cond_signal(&e->work);
    pthread_mutex_unlock(&e->lock);
}

void eng_drain(eng_engine *e) {
    pthread_mutex_lock(&e->lock);
    e->draining = true;
    pthread_mutex_unlock(&e->lock);
}

/* ---- submission ---- */

static tnl_status check_job(const eng_engine *e, const eng_job *job, tnl_error *err) {
    TNL_TRY(eng_params_check(job->params, e->vocab, err));
    if (job->params->n_stop > 0 && !e->open.tokenizer)
        return tnl_fail(err, TNL_E_UNSUPPORTED, "stop strings need a tokenizer");
    size_t before = job->session ? (size_t)eng_lease_length(job->session) : 0;
    if (job->session && job->params->echo)
        return tnl_fail(err, TNL_E_USAGE, "echo, with a session whose text is not read again");
    if (job->n_tokens + before < 1)
        return tnl_fail(err, TNL_E_USAGE, "the prompt is empty");
    if (job->n_tokens + before > (size_t)e->open.max_prompt_tokens)
        return tnl_fail(err, TNL_E_LIMIT, "the prompt has %zu tokens, at most %lld are taken",
                        job->n_tokens + before, (long long)e->open.max_prompt_tokens);
    for (size_t i = 0; i < job->n_tokens; i++)
        if (job->tokens[i] < 0 || job->tokens[i] >= e->vocab)
            return tnl_fail(err, TNL_E_USAGE, "token %zu of the prompt is %d, expected 0..%lld", i,
                            (int)job->tokens[i], (long long)e->vocab - 1);
    return TNL_OK;
}

/* With the lock held. */
static tnl_status check_door(eng_engine *e, tnl_error *err) {
    if (e->draining)
        return tnl_fail(err, TNL_E_UNAVAILABLE, "the engine is draining");
    if (e->lost)
        return tnl_fail(err, TNL_E_INTERNAL, "the device is lost");
    if (e->metrics.running + e->metrics.queued >= e->open.parallel + e->open.queue) {
        e->metrics.rejected_full++;
        return tnl_fail(err, TNL_E_BUSY, "the queue is full");
    }
    return TNL_OK;
}

/* Keys take turns: a request's turn comes one after that of its key's newest request, at once if
 * it has none. So a key that has many waiting does not make others wait for all of them, and
 * requests of one key keep their order. Returns how many of the key wait already. Lock held. */
static int choose_turn(const eng_engine *e, eng_request *r) {
    int waiting = 0;
    r->turn = e->turn;
    for (int i = 0; i < e->open.parallel; i++) {
        const eng_request *o = e->slots[i].req;
        if (o && o->key == r->key && o->turn >= r->turn)
            r->turn = o->turn + 1;
    }
    for (const eng_request *o = e->first; o; o = o->next) {
        if (o->key != r->key)
            continue;
        waiting++;
        if (o->turn >= r->turn)
            r->turn = o->turn + 1;
    }
    return waiting;
}

static void line_up(eng_engine *e, eng_request *r) {
    eng_request **link = &e->first;
    while (*link && (*link)->turn <= r->turn)
        link = &(*link)->next;
    r->next = *link;
    *link = r;
}

static tnl_status enqueue(eng_engine *e, eng_request *r, int most_waiting, tnl_error *err) {
    pthread_mutex_lock(&e->lock);
    tnl_status st = check_door(e, err);
    if (st == TNL_OK) {
        /* as many as there are free slots wait for a moment only */
        int waiting = choose_turn(e, r) - (e->open.parallel - e->metrics.running);
        if (most_waiting > 0 && waiting >= most_waiting) {
            e->metrics.rejected_full++;
            st = tnl_fail(err, TNL_E_QUOTA, "%d requests of this key wait already", waiting);
        }
    }
    if (st == TNL_OK) {
        eng_request_ref(r);
        line_up(e, r);
        e->metrics.accepted++;
        e->metrics.queued++;
        e->kick = true;
        pthread_cond_signal(&e->work);
    }
    pthread_mutex_unlock(&e->lock);
    return st;
}

/* The engine thread sees what was made here because the request comes to it through its lock. */
static tnl_status prepare_texts(eng_engine *e, tnl_error *err) {
    pthread_mutex_lock(&e->texts_lock);
    tnl_status st = e->texts ? TNL_OK : eng_vocab_of(&e->texts, e->vocab, e->open.tokenizer, err);
    pthread_mutex_unlock(&e->texts_lock);
    return st;
}

tnl_status eng_submit(eng_request **out, eng_engine *e, const eng_job *job, tnl_error *err) {
    *out = NULL;
    /* a full house is told before the prompt is looked at */
    pthread_mutex_lock(&e->lock);
    tnl_status st = check_door(e, err);
    pthread_mutex_unlock(&e->lock);
    if (st != TNL_OK)
        return st;
    TNL_TRY(check_job(e, job, err));
    if (job->grammar)
        TNL_TRY(prepare_texts(e, err));
    eng_request *r;
    TNL_TRY(eng_request_new(&r, e, job, err));
    if (job->session)
        eng_lease_bind(job->session, r);
    st = enqueue(e, r, job->most_waiting, err);
    if (st == TNL_OK) {
        *out = r;
        return TNL_OK;
    }
    if (job->session)
        eng_lease_bind(job->session, NULL);
    eng_request_unref(r);
    return st;
}

bool eng_lost(eng_engine *e) {
    pthread_mutex_lock(&e->lock);
    bool lost = e->lost;
    pthread_mutex_unlock(&e->lock);
    return lost;
}
