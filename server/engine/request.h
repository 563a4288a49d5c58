/* One request: what its reader sees (an event ring and a final event) and what the engine thread
 * keeps about it. Two owners, the caller and the engine, each hold a reference.
 *
 * Locks: `lock` guards the part between engine and reader. The wake function is called without any
 * lock held, so a reader may hold the lock its wake function takes while it polls or cancels; it
 * must not hold it while it releases, which waits for a wake call under way. Order of locks:
 * engine.lock before request.lock; never the other way round. */
#ifndef TNL_SERVER_ENGINE_REQUEST_H
#define TNL_SERVER_ENGINE_REQUEST_H

#include <pthread.h>
#include <stdatomic.h>

#include "server/engine/engine.h"
#include "server/engine/grammar/grammar.h"
#include "server/engine/sampling/sampler.h"
#include "server/engine/text.h"

typedef enum eng_phase { ENG_PHASE_QUEUE, ENG_PHASE_PREFILL, ENG_PHASE_DECODE } eng_phase;

/* An event in the ring: an eng_event without its unused room. */
typedef struct eng_record {
    char *text; /* malloc'd; NULL when empty */
    size_t text_len;
    int64_t index;
    int32_t id;
    float logprob;
    int n_alts; /* eng_request.alts[slot * params.logprobs ...] */
    bool prompt;
} eng_record;

struct eng_request {
    /* set at submission, then constant */
    eng_engine *engine; /* a reference: the struct outlives eng_close */
    eng_params params;
    uint64_t seed, key;
    int most_running; /* of its key; 0: any number */
    int64_t n_prompt;
    int64_t n_feed;    /* prompt tokens the model must absorb */
    int64_t n_session; /* of the prompt, those that the session held */
    eng_wake_fn wake;
    void *wake_user;
    double submitted; /* seconds, monotonic */

    atomic_int refs;
    atomic_bool cancel;

    /* between engine and reader, under lock */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* event, done, or the end of a wake call */
    bool released, waking, paused, done, done_taken;
    int head, count; /* ring */
    eng_record ring[ENG_EVENT_RING];
    eng_alt *alts; /* [ENG_EVENT_RING][params.logprobs]; NULL without logprobs */
    eng_event final;

    /* the engine thread's own */
    eng_request *next; /* in the waiting line, under the engine's lock */
    uint64_t turn;     /* place in the line: lower ones first; the same lock */
    eng_phase phase;
    eng_lease *lease; /* a session; NULL: none, or given back */
    int32_t *tokens;  /* [n_tokens] prompt, and the answer if it is remembered */
    int64_t n_tokens, tokens_room;
    int64_t fed;      /* prompt tokens absorbed */
    int64_t cached;   /* of these, spared by a known prefix */
    int64_t store_at; /* the state after this many tokens is worth keeping; 0: none */
    uint64_t serial;  /* of its entry into a slot, from 1 */
    uint64_t leader;  /* serial of a request that is reading the same text; 0: no waiting for one */
    int64_t wait_at;  /* until it has absorbed so many tokens */
    int32_t last;     /* newest token, not yet absorbed */
    int64_t n_events, generated;
    int64_t session_tokens; /* at the end */
    eng_text text;
    eng_grammar *grammar;                  /* NULL: anything may come; a reference */
    eng_match *match;                      /* where in it the answer stands */
    double admitted, decoding, last_token; /* seconds; 0: not yet */
};

double eng_now(void); /* CLOCK_MONOTONIC, seconds */

/* A request with one reference, the caller's. Copies job. */
tnl_status eng_request_new(eng_request **out, eng_engine *e, const eng_job *job, tnl_error *err);
void eng_request_ref(eng_request *r);
void eng_request_unref(eng_request *r);

/* Events the ring can take now. Decides pausing: a ring with less than `need` room pauses the
 * request until it is half empty; 0 while paused. Engine thread. */
int eng_request_room(eng_request *r, int need);

/* Append a token event; the ring must have room. TNL_E_NOMEM when its text cannot be kept.
 * Engine thread; the reader is told by eng_request_wake. */
tnl_status eng_request_push(eng_request *r, const eng_pick *pick, bool prompt, const char *text,
                            size_t n);

/* The final event. Engine thread, once. Frees what only the engine needed. */
void eng_request_finish(eng_request *r, eng_finish finish, tnl_status error);

void eng_request_wake(eng_request *r);

/* Its session, if it has one, is free for the next request, and stands where it stood before this
 * one unless it was committed. Engine thread, no lock held. */
void eng_request_leave_session(eng_request *r);

#endif
