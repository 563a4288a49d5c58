/* One internal event, several encoders. A dialect is how a body is understood and how its answer,
 * its stream and its refusals look; a choice is one generation of a request (a prompt and a draw).
 * All functions run on the connection's thread (prepare: or on a worker that has the request). */
#ifndef TNL_HTTP_DIALECT_H
#define TNL_HTTP_DIALECT_H

#include <stdatomic.h>
#include <stdbool.h>

#include "server/engine/engine.h"
#include "server/http/api/fields.h"
#include "server/http/errors.h"

struct srv_req;

enum { SRV_CHOICE_PARTS = 4 };

typedef struct srv_choice {
    _Atomic(eng_request *) er; /* set once; the watcher may cancel it */
    int index;                 /* as the answer names it */
    size_t prompt;             /* of gen.prompts */
    bool done;
    eng_finish finish;
    tnl_status error;
    int64_t completion_tokens;
    int64_t prompt_length;  /* tokens */
    int64_t cached_tokens;  /* of these, spared by a known prefix */
    int64_t session_tokens; /* that its session holds, once it is done */
    uint64_t seed;
    double logprob_sum;             /* of generated tokens */
    int64_t n_tokens;               /* generated tokens reported so far */
    int64_t n_prompt;               /* echoed tokens reported so far */
    int64_t chars;                  /* characters of the tokens reported so far */
    srv_buf text;                   /* the text so far, where the dialect needs it */
    srv_buf part[SRV_CHOICE_PARTS]; /* the dialect's own, kept until the answer */
} srv_choice;

typedef struct srv_dialect {
    bool sse; /* streams are always server-sent events */
    /* After the parse: what the fields mean together; prompts that are still missing. NULL: as is.
     */
    bool (*prepare)(struct srv_req *req, srv_problem *p);
    /* Streaming: append to req->out. begin and end may be NULL. */
    void (*begin)(struct srv_req *req);
    void (*token)(struct srv_req *req, srv_choice *c, const eng_event *ev);
    void (*done)(struct srv_req *req, srv_choice *c, const eng_event *ev);
    void (*end)(struct srv_req *req); /* every choice ended well */
    /* Gathered: keep a token; then the whole answer, when every choice ended well. */
    void (*gather)(struct srv_req *req, srv_choice *c, const eng_event *ev);
    void (*answer)(struct srv_req *req, srv_buf *b, const eng_event *last);
    /* A refusal's body, and its status when the row's does not fit the dialect; NULL: ours. */
    void (*problem)(srv_buf *b, const srv_problem *p);
    int (*status)(srv_err e);
} srv_dialect;

extern const srv_dialect srv_dialect_ours, srv_dialect_completions, srv_dialect_chat,
    srv_dialect_tgi;

/* ---- choices.c ---- */

/* Submit every choice of req->gen, all or none. */
bool srv_choices_submit(struct srv_req *req, srv_problem *p);
/* The next event of any choice that is not done, in turn; the caller clears it. A choice's figures
 * are up to date when its last event is handed out. */
bool srv_choices_next(struct srv_req *req, srv_choice **c, eng_event *ev);
bool srv_choices_done(const struct srv_req *req);
/* Any thread that keeps the request alive. */
void srv_choices_cancel(struct srv_req *req);
bool srv_choices_started(const struct srv_req *req);
void srv_choices_free(struct srv_req *req);

#endif
