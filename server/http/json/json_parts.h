/* What the files that read request bodies share: the strict parse and the readers of values.
 * Private to json_*.c. */
#ifndef TNL_HTTP_JSON_PARTS_H
#define TNL_HTTP_JSON_PARTS_H

#include <cjson/cJSON.h>

#include "server/http/api/token_ids.h"
#include "server/http/json/json_in.h"

/* A body being read. */
typedef struct srv_reading {
    srv_gen *g;
    const srv_in_limits *limits;
    srv_ids *cut; /* the prompt's ids, taken out before the parse */
    srv_problem *p;
    uint64_t seen; /* rows of the table that had a value */
} srv_reading;

/* The strict check, then cJSON; anything but an object is refused. */
bool srv_json_object(cJSON **out, const char *body, size_t n, srv_problem *p);

/* json_field.c */
bool srv_json_refuse(srv_problem *p, srv_err e, const srv_field *f);
bool srv_json_number(double *out, const srv_field *f, const cJSON *v, srv_problem *p);
bool srv_json_plain(srv_gen *g, const srv_field *f, const cJSON *v, srv_problem *p);
/* Presets of plain rows, those of sub-tables included. */
void srv_json_presets(srv_gen *g, const srv_table *t);
bool srv_json_seed(srv_reading *r, const srv_field *f, const cJSON *v);
bool srv_json_stop(srv_reading *r, const srv_field *f, const cJSON *v);
bool srv_json_bias(srv_reading *r, const srv_field *f, const cJSON *v);
bool srv_json_session(srv_reading *r, const srv_field *f, const cJSON *v);
bool srv_json_neutral(srv_reading *r, const srv_field *f, const cJSON *v);

/* json_prompt.c */
bool srv_json_copy(char **out, size_t *len, const char *s, srv_problem *p);
bool srv_json_ids(int32_t **ids, size_t *n_ids, srv_ids *cut, const cJSON *v, const char *name,
                  const srv_in_limits *limits, srv_problem *p);
bool srv_json_prompt(srv_reading *r, const srv_field *f, const cJSON *v);
bool srv_json_messages(srv_reading *r, const srv_field *f, const cJSON *v);

/* json_schema.c */
bool srv_json_format(srv_reading *r, const srv_field *f, const cJSON *v);
bool srv_json_grammar(srv_reading *r, const srv_field *f, const cJSON *v);

#endif
