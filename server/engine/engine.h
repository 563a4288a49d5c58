/* The engine: requests in, token events out. No HTTP, no JSON, no sockets.
 *
 * One engine thread owns the model's forward pass and all states. Any thread may submit, poll,
 * cancel and release. Sequences join and leave between steps (continuous batching); every step
 * carries one token of each decoding sequence and fills the rest of its token budget with slices
 * of waiting prompts, so no stream stalls behind a long prompt.
 *
 * The same request gives the same bytes whatever runs beside it: states are canonical, logits rows
 * do not depend on the batch, and the random numbers of a token are a function of (seed, position).
 *
 * Life of a request: submitted -> queued -> prefill -> decode -> done; `done` is the last event,
 * exactly once. A request whose reader falls EVENT_RING events behind is paused (its state is
 * kept, no step is spent on it) until the reader has caught up. */
#ifndef TNL_SERVER_ENGINE_H
#define TNL_SERVER_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "model/model.h"
#ifdef TNL_HAVE_TOKENIZER
#include "tokenizer/tok.h"
#else
typedef struct tok_model tok_model; /* built without a tokenizer: token ids only, text is empty */
#endif

enum {
    ENG_MAX_STOP = 16,        /* stop strings per request */
    ENG_MAX_STOP_BYTES = 256, /* bytes of one stop string */
    ENG_MAX_BIAS = 1024,      /* logit_bias entries */
    ENG_MAX_LOGPROBS = 20,
    ENG_EVENT_RING = 256, /* events a reader may fall behind */
    ENG_SPECULATE_MAX = 64,
    ENG_SPECULATE_DEFAULT = 15,
    ENG_PREFIX_DEFAULT_MB = 256,
};

/* Sampling and stopping. eng_params_default fills the documented defaults; ranges are checked at
 * the door (server/http/json/json_in, the command line), eng_submit re-checks and refuses. */
typedef struct eng_params {
    int64_t max_tokens;       /* 0..1,000,000; default 256 */
    float temperature;        /* 0 (greedy; also anything below 1e-3) .. 100; default 1 */
    int32_t top_k;            /* 0: off */
    float top_p;              /* 0 < p <= 1; 0 is greedy */
    float min_p;              /* 0..1, 0: off */
    float typical_p;          /* 0 < p <= 1, 1: off */
    float repetition_penalty; /* > 0, 1: off; over prompt and completion */
    float presence_penalty;   /* -2..2, completion only */
    float frequency_penalty;  /* -2..2, completion only */
    uint64_t seed;
    bool has_seed; /* false: drawn from getrandom at submission */
    int32_t n_bias;
    int32_t bias_id[ENG_MAX_BIAS];
    float bias[ENG_MAX_BIAS]; /* -100..100; -100 forbids */
    int n_stop;
    char stop[ENG_MAX_STOP][ENG_MAX_STOP_BYTES + 1]; /* NUL-terminated UTF-8, not empty */
    int logprobs;                                    /* 0..20 alternatives with each token */
    bool ignore_eos;
    bool echo;     /* the prompt's tokens come first, as events, with logprobs */
    int speculate; /* tokens guessed ahead, 0..64 and at most the engine's; -1, the default: as many
                      as the engine's. The answer is the same, bit for bit */
    bool cache_prompt; /* default true: start from a known prefix, remember this one (see prefix.h).
                          The answer is the same, bit for bit */
} eng_params;

void eng_params_default(eng_params *p);

typedef enum eng_finish {
    ENG_FINISH_NONE,
    ENG_FINISH_LENGTH,
    ENG_FINISH_STOP,
    ENG_FINISH_EOS,
    ENG_FINISH_CANCELLED,
    ENG_FINISH_ERROR,
} eng_finish;

extern const char *const eng_finish_names[]; /* "length", "stop", "eos", "cancelled", "error" */

typedef struct eng_alt {
    int32_t id;
    float logprob;
} eng_alt;

enum { ENG_TEXT_MAX = 8192 }; /* text released with one token: a stop-string hold-back at most */

typedef enum eng_event_kind { ENG_EV_TOKEN, ENG_EV_DONE } eng_event_kind;

typedef struct eng_event {
    eng_event_kind kind;
    /* TOKEN: one for each generated token, the end-of-sequence token included (no text of its own;
       text held back until then comes out with it) */
    int64_t index; /* 0-based in this answer; echoed prompt tokens count */
    int32_t id;
    float logprob; /* natural log, of the distribution before penalties and truncation, at
                      temperature 1; NaN for the first echoed token */
    bool prompt;   /* an echoed token */
    int n_alts;
    eng_alt alts[ENG_MAX_LOGPROBS]; /* descending */
    size_t text_len;
    char *text; /* whole UTF-8, may be empty (held back) or carry earlier hold-back; owned by the
                   event: eng_event_clear */
    /* DONE */
    eng_finish finish;
    tnl_status error; /* for ENG_FINISH_ERROR: TNL_E_NONFINITE; TNL_E_USAGE, every token was
                         forbidden; TNL_E_BUSY, waited too long in the queue; TNL_E_NOMEM;
                         TNL_E_INTERNAL */
    int64_t prompt_tokens, completion_tokens;
    double queue_ms, prefill_ms, decode_ms;
    int64_t session_tokens; /* with a session: what it holds now, see session.h */
    /* TOKEN and DONE */
    int64_t cached_tokens; /* of the prompt, those that a known prefix spared */
} eng_event;

void eng_event_clear(eng_event *ev);

typedef struct eng_grammar eng_grammar; /* grammar.h */
typedef struct eng_lease eng_lease;     /* session.h */
typedef struct eng_engine eng_engine;
typedef struct eng_request eng_request;

typedef struct eng_open_params {
    mdl_model *model;           /* borrowed; outlives the engine */
    const tok_model *tokenizer; /* borrowed; NULL: token ids only */
    int parallel;               /* sequences that run at once (slots), >= 1 */
    int queue;                  /* requests that may wait beside them */
    int64_t step_tokens;        /* token budget of a step, >= parallel; 0, the default: as
                                   eng_step_tokens says */
    int64_t max_prompt_tokens;  /* default 4,194,304 */
    double queue_timeout_s;     /* a request that waited this long ends with an error; 0: never */
    int speculate;              /* tokens guessed ahead at most, 0..64; 0: never; default 15. Each
                                   sequence keeps an index of its newest 131,072 tokens for it, at
                                   most 2 MiB */
    size_t prefix_cache; /* bytes for states of texts already read; 0: none; default 256 MiB */
    double row_cost; /* a further row of a step, as a share of a step of one row: how guesses are
                        weighed; 0, the default: measured as steps go by */
} eng_open_params;

void eng_open_params_default(eng_open_params *p);
/* The budget where none is asked for: 256, or 2048 where a device needs that many rows to be busy;
 * `parallel` at least. */
int64_t eng_step_tokens(const mdl_model *m, int parallel);
tnl_status eng_open(eng_engine **out, const eng_open_params *p, tnl_error *err);

/* Cancels what is left, joins the thread, frees everything but requests not yet released.
 * NULL allowed. */
void eng_close(eng_engine *e);

/* Called on the engine thread when events may have become available, or when a reader should look
 * again; must not block and must not call into the engine. No lock of the engine is held: a reader
 * may poll and cancel under the lock its wake function takes. It must not release under that lock,
 * since release waits for a wake call under way. */
typedef void (*eng_wake_fn)(void *user);

typedef struct eng_job {
    const int32_t *tokens; /* copied */
    size_t n_tokens;       /* >= 1; 0 is enough behind a session's text */
    eng_lease *session;    /* its text comes in front of tokens, and counts as prompt; its state
                              spares reading it. Prompt and answer are committed to it if the
                              answer ends by length, stop or eos. Taken over if eng_submit
                              succeeds; NULL: none. Not with echo */
    uint64_t key;          /* whose request: known prefixes are shared within a key only, and keys
                              take turns in the line for a slot */
    int most_running;      /* slots that this key may have at once; 0: any number */
    int most_waiting;      /* of this key that may wait for a slot; 0: as the queue has room */
    const eng_params *params; /* copied */
    eng_grammar *grammar;     /* what the answer must look like; a reference is taken; NULL: none */
    eng_wake_fn wake;         /* NULL allowed: poll or eng_request_wait */
    void *wake_user;
} eng_job;

/* TNL_E_BUSY: the queue is full; TNL_E_QUOTA: the key's share of it is; TNL_E_UNAVAILABLE:
 * draining; TNL_E_USAGE / TNL_E_LIMIT: the job is wrong (err says how). On success release *out
 * exactly once. */
tnl_status eng_submit(eng_request **out, eng_engine *e, const eng_job *job, tnl_error *err);

/* Next event, if there is one. Never blocks. The caller clears the event. */
bool eng_request_poll(eng_request *r, eng_event *ev);
/* The same, waiting up to timeout_ms (-1: for ever). */
bool eng_request_wait(eng_request *r, eng_event *ev, int timeout_ms);
void eng_request_cancel(eng_request *r);  /* takes effect between two steps; DONE follows */
void eng_request_release(eng_request *r); /* cancels if not done; r is gone for the caller, and
                                             the wake function is not called after it returns */

/* Drain: refuse new requests, finish running and queued ones. Returns at once. */
void eng_drain(eng_engine *e);

/* Counters and gauges, read by copy from any thread. Histograms: upper bounds in eng_hist_bounds
 * (seconds) or eng_hist_token_bounds, the last bucket is +Inf. */
enum { ENG_HIST = 16 };
extern const double eng_hist_bounds[ENG_HIST - 1], eng_hist_token_bounds[ENG_HIST - 1];
typedef struct eng_hist {
    uint64_t bucket[ENG_HIST]; /* not cumulative */
    uint64_t count;
    double sum;
} eng_hist;

typedef struct eng_metrics {
    uint64_t accepted, rejected_full;
    uint64_t finished[ENG_FINISH_ERROR + 1]; /* by eng_finish */
    uint64_t cancelled_queue, cancelled_prefill, cancelled_decode;
    uint64_t prompt_tokens, generated_tokens, steps, nonfinite;
    uint64_t drafted_tokens, accepted_tokens; /* guesses checked; those that saved a step */
    int running, queued, paused;              /* gauges */
    int slots;
    size_t state_bytes; /* per slot */
    /* texts already read: requests that asked, that found a prefix, tokens it spared; gauges */
    uint64_t prefix_queries, prefix_hits, prefix_tokens, prefix_evicted;
    uint64_t prefix_asked; /* prompt tokens of the requests that asked */
    size_t prefix_bytes, prefix_budget;
    int64_t prefix_states;
    double busy_seconds; /* time the engine thread spent in steps */
    eng_hist queue_s, ttft_s, per_token_s, prefill_s, decode_s, request_s;
    eng_hist request_prompt, request_generated; /* tokens of a request that ended */
} eng_metrics;

void eng_metrics_get(eng_engine *e, eng_metrics *out);
/* Add the counters and histograms of m, not its gauges and sizes. */
void eng_metrics_add(eng_metrics *sum, const eng_metrics *m);
bool eng_idle(eng_engine *e); /* nothing running or queued */
bool eng_lost(eng_engine *e); /* the device is gone: every request is refused, TNL_E_INTERNAL */

#endif
