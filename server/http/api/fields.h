/* The fields of every body that asks for text, one row each: name, type, range, default, meaning.
 * A row drives validation, the text of its errors, `tnl serve --fields`, /openapi.json and the
 * generated tests. One table per kind of body. */
#ifndef TNL_HTTP_FIELDS_H
#define TNL_HTTP_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/engine/states/session.h"
#include "server/http/json/json_out.h"

typedef struct srv_table srv_table;

enum {
    SRV_MAX_PROMPTS = 32,
    SRV_MAX_N = 8,        /* draws of one prompt */
    SRV_MAX_CHOICES = 64, /* prompts times draws */
    SRV_SESSION_TEXT = ENG_SESSION_ID_TEXT + 1,
};

/* One prompt: text, or token ids. Text becomes ids before submission. */
typedef struct srv_prompt {
    char *text; /* malloc'd, NUL-terminated; NULL: token ids */
    size_t text_len;
    int32_t *ids; /* malloc'd */
    size_t n_ids;
} srv_prompt;

/* One message of a chat. */
typedef enum srv_role { SRV_ROLE_SYSTEM, SRV_ROLE_USER, SRV_ROLE_ASSISTANT } srv_role;

typedef struct srv_message {
    srv_role role;
    char *text; /* malloc'd, NUL-terminated */
    size_t text_len;
} srv_message;

/* What a body says. */
typedef struct srv_gen {
    const srv_table *table; /* the rows it was read by */
    eng_params params;
    bool stream;
    srv_prompt *prompts; /* malloc'd [n_prompts] */
    size_t n_prompts;
    srv_message *messages; /* malloc'd [n_messages] */
    size_t n_messages;
    int32_t n, best_of;   /* draws reported, draws made; best_of 0: as many as n */
    int32_t logprobs;     /* OpenAI: alternatives; -1: no logprobs */
    int32_t top_logprobs; /* chat: -1: not given */
    bool want_logprobs;
    bool include_usage, continuous_usage;
    bool details, prefill, full_text; /* TGI, down to truncate */
    bool do_sample, has_sampling, has_parameters;
    char session[SRV_SESSION_TEXT]; /* as sent, cut where it is longer; "": none */
    eng_grammar *grammar;           /* what the answer must look like; NULL: anything */
    bool constrained;               /* there was one */
    int64_t truncate;               /* keep the last tokens of the prompt; 0: all */
} srv_gen;

typedef enum srv_field_kind {
    SRV_FIELD_INT,   /* int64_t */
    SRV_FIELD_INT32, /* int32_t */
    SRV_FIELD_FLOAT, /* float */
    SRV_FIELD_BOOL,  /* bool */
    SRV_FIELD_SEED,  /* the rest have a reader of their own in json_*.c */
    SRV_FIELD_STOP,
    SRV_FIELD_STOPS,
    SRV_FIELD_BIAS,
    SRV_FIELD_PROMPT,
    SRV_FIELD_PROMPTS,
    SRV_FIELD_TEXT,
    SRV_FIELD_MESSAGES,
    SRV_FIELD_MODEL,
    SRV_FIELD_FORMAT,  /* response_format */
    SRV_FIELD_GRAMMAR, /* TGI's form of the same */
    SRV_FIELD_SESSION, /* an id, or "new" */
    SRV_FIELD_OBJECT,  /* rows of its own in `sub` */
    SRV_FIELD_ANY,     /* known and without effect here */
    SRV_FIELD_NEUTRAL, /* known, not supported: only a value that asks for nothing */
    SRV_FIELD_KINDS
} srv_field_kind;

typedef struct srv_field {
    const char *name;
    srv_field_kind kind;
    double min, max;
    bool min_open;      /* min itself is refused */
    size_t offset;      /* into srv_gen */
    const char *type;   /* for people */
    const char *preset; /* default as JSON, NULL: required */
    const char *doc;
    const srv_table *sub;
    size_t given; /* offset of a bool that says the field was there; 0: none */
} srv_field;

typedef enum srv_dialect_id {
    SRV_DIALECT_OURS,
    SRV_DIALECT_COMPLETIONS,
    SRV_DIALECT_CHAT,
    SRV_DIALECT_TGI,
    SRV_DIALECTS
} srv_dialect_id;

struct srv_table {
    const char *name; /* of the body, in /openapi.json */
    srv_dialect_id dialect;
    const srv_field *rows;
    int n;
    const char *prompt;       /* the field that must be there */
    const srv_table *instead; /* taken when its prompt field is there and ours is not */
};

extern const srv_table srv_table_generate, srv_table_completions, srv_table_chat, srv_table_tgi;

const srv_field *srv_field_find(const srv_table *t, const char *name); /* or NULL */

/* The rows of POST /generate as JSON, one array. */
void srv_fields_json(srv_buf *b);

#endif
