/* The fields of POST /generate, one row each: name, type, range, default, meaning. The row drives
 * validation, the text of its errors, `tnl serve --fields` and the generated tests. */
#ifndef TNL_HTTP_FIELDS_H
#define TNL_HTTP_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/engine/engine.h"
#include "server/http/json_out.h"

/* What a body of POST /generate says. */
typedef struct srv_gen {
    eng_params params;
    bool stream;
    bool has_prompt;
    char *text; /* malloc'd; NULL: token ids */
    size_t text_len;
    int32_t *ids; /* malloc'd */
    size_t n_ids;
} srv_gen;

typedef enum srv_field_kind {
    SRV_FIELD_INT,    /* int64_t */
    SRV_FIELD_INT32,  /* int32_t */
    SRV_FIELD_FLOAT,  /* float */
    SRV_FIELD_BOOL,   /* bool */
    SRV_FIELD_PROMPT, /* the rest have a reader of their own in json_in.c */
    SRV_FIELD_SEED,
    SRV_FIELD_STOP,
    SRV_FIELD_BIAS,
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
} srv_field;

extern const srv_field srv_fields[];
extern const int srv_field_count;

const srv_field *srv_field_find(const char *name); /* or NULL */

/* The table as JSON, one array. */
void srv_fields_json(srv_buf *b);

#endif
