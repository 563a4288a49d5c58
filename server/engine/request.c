/* Requests: the event ring, waiting, waking, releasing. Locks are described in request.h. */
#include "server/engine/request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "server/engine/core.h"
#include "server/engine/params.h"
#include "server/engine/states/session_impl.h"

const char *const eng_finish_names[] = {
    [ENG_FINISH_NONE] = "none", [ENG_FINISH_LENGTH] = "length",       [ENG_FINISH_STOP] = "stop",
    [ENG_FINISH_EOS] = "eos",   [ENG_FINISH_CANCELLED] = "cancelled", [ENG_FINISH_ERROR] = "error",
};

double eng_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void eng_event_clear(eng_event *ev) {
    free(ev->text);
    memset(ev, 0, sizeof *ev);
}

/* ---- life ---- */

static tnl_status choose_seed(eng_request *r, tnl_error *err) {
    r->seed = r->params.seed;
    if (r->params.has_seed)
        return TNL_OK;
    ssize_t n;
    do {
        n = getrandom(&r->seed, sizeof r->seed, 0);
    } while (n < 0 && errno == EINTR);
    if (n != (ssize_t)sizeof r->seed)
        return tnl_fail(err, TNL_E_IO, "getrandom: no random seed");
    return TNL_OK;
}

/* With max_tokens 0 the last prompt token need not be absorbed, and without echo or a session that
 * keeps the state none. */
static int64_t tokens_to_feed(const eng_request *r) {
    if (r->params.max_tokens > 0)
        return r->n_prompt;
    return r->params.echo || r->lease ? r->n_prompt - 1 : 0;
}

/* The session's text, then the prompt. */
static void copy_tokens(eng_request *r, const eng_job *job) {
    const int32_t *text = NULL;
    int64_t n = 0;
    if (job->session)
        text = eng_lease_text(job->session, &n);
    if (n > 0)
        memcpy(r->tokens, text, (size_t)n * sizeof *r->tokens);
    if (job->n_tokens > 0)
        memcpy(r->tokens + n, job->tokens, job->n_tokens * sizeof *r->tokens);
}

static tnl_status copy_job(eng_request *r, const eng_job *job, tnl_error *err) {
    r->params = *job->params;
    r->wake = job->wake;
    r->wake_user = job->wake_user;
    r->key = job->key;
    r->most_running = job->most_running;
    r->lease = job->session;
    r->n_session = job->session ? eng_lease_length(job->session) : 0;
    r->n_prompt = r->n_tokens = r->tokens_room = r->n_session + (int64_t)job->n_tokens;
    r->n_feed = tokens_to_feed(r);
    r->tokens = malloc((size_t)r->n_prompt * sizeof *r->tokens);
    if (r->params.logprobs > 0)
        r->alts = calloc((size_t)ENG_EVENT_RING * (size_t)r->params.logprobs, sizeof *r->alts);
    if (!r->tokens || (r->params.logprobs > 0 && !r->alts))
        return tnl_fail(err, TNL_E_NOMEM, "out of memory for a request of %lld tokens",
                        (long long)r->n_prompt);
    copy_tokens(r, job);
    if (job->grammar) {
        r->match = malloc(sizeof *r->match);
        if (!r->match)
            return tnl_fail(err, TNL_E_NOMEM, "out of memory for a grammar's state");
        r->grammar = eng_grammar_ref(job->grammar);
        eng_match_begin(r->match, r->grammar);
    }
    return choose_seed(r, err);
}

static void init_sync(eng_request *r) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r->changed, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&r->lock, NULL);
}

tnl_status eng_request_new(eng_request **out, eng_engine *e, const eng_job *job, tnl_error *err) {
    *out = NULL;
    eng_request *r = calloc(1, sizeof *r);
    if (!r)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory for a request");
    init_sync(r);
    atomic_init(&r->refs, 1);
    atomic_init(&r->cancel, false);
    tnl_status st = copy_job(r, job, err);
    if (st != TNL_OK) {
        eng_request_unref(r);
        return st;
    }
    eng_text_init(&r->text, e->open.tokenizer, &r->params);
    atomic_fetch_add(&e->refs, 1);
    r->engine = e;
    r->submitted = eng_now();
    *out = r;
    return TNL_OK;
}

void eng_request_ref(eng_request *r) {
    atomic_fetch_add(&r->refs, 1);
}

void eng_request_unref(eng_request *r) {
    if (atomic_fetch_sub(&r->refs, 1) != 1)
        return;
    for (; r->count > 0; r->count--, r->head = (r->head + 1) % ENG_EVENT_RING)
        free(r->ring[r->head].text);
    if (r->engine)
        eng_engine_unref(r->engine);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
    free(r->tokens);
    free(r->alts);
    free(r->match);
    eng_grammar_unref(r->grammar);
    free(r);
}

/* ---- engine side ---- */

int eng_request_room(eng_request *r, int need) {
    pthread_mutex_lock(&r->lock);
    int room = ENG_EVENT_RING - r->count;
    if (r->paused)
        r->paused = room < ENG_EVENT_RING / 2;
    else
        r->paused = room < need;
    room = r->paused ? 0 : room;
    pthread_mutex_unlock(&r->lock);
    return room;
}

tnl_status eng_request_push(eng_request *r, const eng_pick *pick, bool prompt, const char *text,
                            size_t n) {
    char *copy = NULL;
    if (n > 0) {
        copy = malloc(n + 1);
        if (!copy)
            return TNL_E_NOMEM;
        memcpy(copy, text, n);
        copy[n] = '\0';
    }
    pthread_mutex_lock(&r->lock);
    int at = (r->head + r->count++) % ENG_EVENT_RING;
    r->ring[at] = (eng_record){.text = copy,
                               .text_len = n,
                               .index = r->n_events++,
                               .id = pick->id,
                               .logprob = pick->logprob,
                               .n_alts = pick->n_alts,
                               .prompt = prompt};
    if (pick->n_alts > 0)
        memcpy(r->alts + (size_t)at * (size_t)r->params.logprobs, pick->alts,
               (size_t)pick->n_alts * sizeof *r->alts);
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    return TNL_OK;
}

static double span_ms(double from, double to) {
    return to > from ? (to - from) * 1e3 : 0;
}

void eng_request_finish(eng_request *r, eng_finish finish, tnl_status error) {
    double now = eng_now();
    double admitted = r->admitted > 0 ? r->admitted : now;
    double decoding = r->decoding > 0 ? r->decoding : now;
    free(r->tokens);
    r->tokens = NULL;
    pthread_mutex_lock(&r->lock);
    r->final = (eng_event){.kind = ENG_EV_DONE,
                           .finish = finish,
                           .error = error,
                           .prompt_tokens = r->n_prompt,
                           .completion_tokens = r->generated,
                           .session_tokens = r->session_tokens,
                           .cached_tokens = r->cached,
                           .queue_ms = span_ms(r->submitted, admitted),
                           .prefill_ms = span_ms(admitted, decoding),
                           .decode_ms = span_ms(decoding, now)};
    r->done = true;
    r->paused = false;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    eng_request_wake(r);
}

void eng_request_leave_session(eng_request *r) {
    if (!r->lease)
        return;
    if (r->session_tokens == 0)
        r->session_tokens = r->n_session;
    eng_lease_release(r->lease);
    r->lease = NULL;
}

void eng_request_wake(eng_request *r) {
    if (!r->wake)
        return;
    pthread_mutex_lock(&r->lock);
    bool call = !r->released;
    r->waking = call;
    pthread_mutex_unlock(&r->lock);
    if (!call)
        return;
    r->wake(r->wake_user);
    pthread_mutex_lock(&r->lock);
    r->waking = false;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

/* ---- reader side ---- */

/* With the lock held: move the next event to *ev. */
static bool take(eng_request *r, eng_event *ev) {
    memset(ev, 0, sizeof *ev);
    if (r->count == 0) {
        if (!r->done || r->done_taken)
            return false;
        *ev = r->final;
        r->done_taken = true;
        return true;
    }
    const eng_record *rec = &r->ring[r->head];
    ev->kind = ENG_EV_TOKEN;
    ev->index = rec->index;
    ev->id = rec->id;
    ev->logprob = rec->logprob;
    ev->prompt = rec->prompt;
    ev->n_alts = rec->n_alts;
    ev->text = rec->text;
    ev->text_len = rec->text_len;
    ev->cached_tokens = r->cached;
    if (rec->n_alts > 0)
        memcpy(ev->alts, r->alts + (size_t)r->head * (size_t)r->params.logprobs,
               (size_t)rec->n_alts * sizeof *ev->alts);
    r->head = (r->head + 1) % ENG_EVENT_RING;
    r->count--;
    return true;
}

/* With the lock held: the reader has caught up with a request that the engine paused. */
static bool should_resume(const eng_request *r) {
    return r->paused && ENG_EVENT_RING - r->count >= ENG_EVENT_RING / 2;
}

bool eng_request_poll(eng_request *r, eng_event *ev) {
    pthread_mutex_lock(&r->lock);
    bool got = take(r, ev), kick = should_resume(r);
    pthread_mutex_unlock(&r->lock);
    if (kick)
        eng_engine_kick(r->engine);
    return got;
}

static struct timespec deadline_in(int timeout_ms) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += timeout_ms / 1000;
    t.tv_nsec += (long)(timeout_ms % 1000) * 1000000L;
    if (t.tv_nsec >= 1000000000L) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000L;
    }
    return t;
}

bool eng_request_wait(eng_request *r, eng_event *ev, int timeout_ms) {
    struct timespec end = deadline_in(timeout_ms > 0 ? timeout_ms : 0);
    int rc = 0;
    pthread_mutex_lock(&r->lock);
    while (r->count == 0 && !r->done && rc == 0) {
        if (timeout_ms < 0)
            pthread_cond_wait(&r->changed, &r->lock);
        else
            rc = pthread_cond_timedwait(&r->changed, &r->lock, &end);
    }
    bool got = take(r, ev), kick = should_resume(r);
    pthread_mutex_unlock(&r->lock);
    if (kick)
        eng_engine_kick(r->engine);
    return got;
}

void eng_request_cancel(eng_request *r) {
    atomic_store(&r->cancel, true);
    eng_engine_kick(r->engine);
}

void eng_request_release(eng_request *r) {
    if (!r)
        return;
    pthread_mutex_lock(&r->lock);
    r->released = true;
    while (r->waking)
        pthread_cond_wait(&r->changed, &r->lock);
    bool done = r->done;
    pthread_mutex_unlock(&r->lock);
    if (!done)
        eng_request_cancel(r);
    eng_request_unref(r);
}
