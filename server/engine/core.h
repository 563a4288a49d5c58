/* The engine's inside, shared by engine.c (submission, the thread), step.c (one step) and
 * metrics.c. */
#ifndef TNL_SERVER_ENGINE_CORE_H
#define TNL_SERVER_ENGINE_CORE_H

#include <pthread.h>
#include <stdatomic.h>

#include "model/forward.h"
#include "server/engine/draft.h"
#include "server/engine/engine.h"
#include "server/engine/grammar/vocab.h"
#include "server/engine/pace.h"
#include "server/engine/request.h"
#include "server/engine/sampling/rows.h"
#include "server/engine/sampling/sampler.h"
#include "server/engine/sched.h"
#include "server/engine/states/prefix.h"

/* Rows of logits beyond one for each slot: what echoed prompts and guesses may use in a step. */
enum { ENG_EXTRA_ROWS = 32 };

typedef struct eng_slot {
    mdl_state *state;
    eng_request *req; /* NULL: free. Written by the engine thread under the lock */
    eng_history history;
    eng_row_job *ready; /* its next token, sampled beside the others; NULL: not yet */
    eng_draft draft;
    int32_t feed[1 + ENG_SPECULATE_MAX]; /* the newest token and the guesses to check */
} eng_slot;

struct eng_engine {
    eng_open_params open;
    int64_t vocab;
    int32_t eos_id;
    bool poison;
    atomic_int refs; /* the caller, and each request not released */

    /* shared, under lock */
    pthread_mutex_t lock;
    pthread_cond_t work;
    bool kick; /* something changed: look before sleeping */
    bool draining, closing;
    bool lost; /* the device: no step will ever succeed again */
    eng_request *first;  /* the waiting line, in order of turns */
    uint64_t turn;       /* the highest that has entered a slot */
    eng_metrics metrics; /* gauges running and queued are exact at any time */

    /* the tokens' texts, made by the first request with a grammar, then constant but for scratch of
     * the engine thread */
    pthread_mutex_t texts_lock;
    eng_vocab *texts;

    /* the engine thread's own */
    pthread_t thread;
    bool started;
    eng_slot *slots; /* [open.parallel] */
    mdl_ctx *ctx;
    eng_rows *rows;
    eng_sampler *sampler; /* of rows, for those that come one by one */
    eng_sched_budget budget;
    int64_t slice; /* mdl_prompt_slice */
    bool can_pick; /* mdl_can_pick */
    eng_pace pace;
    eng_prefix *prefix; /* NULL: none */
    uint64_t serials;   /* requests that have entered a slot */
    int followers;      /* requests that wait for another to read their text */
    int cursor;
    /* scratch of one step, [open.parallel] */
    eng_sched_slot *plan;
    int64_t *give;
    mdl_seg *segs;
    int *seg_slot;
    eng_row_job *jobs;
    kn_pick_how *picks; /* [budget.rows] */
};

void eng_engine_unref(eng_engine *e);
void eng_engine_kick(eng_engine *e); /* any thread, no lock held */

/* Take a request out of a slot or off the line: counters first, then its final event, so that a
 * reader who has seen the end also sees it counted. Engine thread, no lock held. */
void eng_end_queued(eng_engine *e, eng_request *r, eng_finish finish, tnl_status error);
void eng_end_running(eng_engine *e, eng_slot *slot, eng_finish finish, tnl_status error);

/* A request enters a slot (slot->req set); it may end at once. Engine thread. */
void eng_step_enter(eng_engine *e, eng_slot *slot);

/* ---- reuse.c: known prefixes. Engine thread ---- */

/* A request has entered: bring its slot to the longest known prefix of its prompt. */
void eng_reuse_begin(eng_engine *e, eng_slot *slot);
/* Prompt tokens that the next slice may have, so that it ends where a state is worth keeping; 0:
 * another request is just reading the same text, this one waits for its state. */
int64_t eng_reuse_most(eng_engine *e, eng_slot *slot);
/* A slice of the prompt has been absorbed: keep the state if it is worth it. */
void eng_reuse_slice(eng_engine *e, const eng_slot *slot);
/* The request leaves its slot. */
void eng_reuse_end(eng_engine *e, const eng_slot *slot, bool keep);
/* Keep the state as it is, unless the request does not want it. */
void eng_reuse_keep(eng_engine *e, const eng_slot *slot);
/* The answer goes on with this token. */
void eng_reuse_token(eng_engine *e, eng_request *r, int32_t id);

/* Plan and run one step. False: there was nothing to do. Engine thread. */
bool eng_step(eng_engine *e);

/* ---- metrics.c; each takes the engine's lock. A step is counted before its events go out, so a
 * reader who has seen an event finds it counted. ---- */
void eng_metrics_paused(eng_engine *e, int paused);
void eng_metrics_step(eng_engine *e, int64_t prompt_tokens, int64_t drafted);
void eng_metrics_prefix(eng_engine *e, const eng_request *r); /* one lookup */
void eng_metrics_prefix_size(eng_engine *e);
void eng_metrics_busy(eng_engine *e, double seconds);
void eng_metrics_token(eng_engine *e, const eng_request *r, double now, bool guessed);
/* With the lock held: */
void eng_metrics_ended(eng_engine *e, const eng_request *r, eng_finish finish, tnl_status error);
void eng_metrics_admitted(eng_engine *e, double waited);

#endif
