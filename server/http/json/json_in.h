/* Bodies in: strict check, then cJSON, then the field tables. Nothing else reads request JSON.
 *
 * Arrays of token ids never reach cJSON (a node costs 80 bytes): token_ids.c takes them out of the
 * text first. All functions are pure; any thread. */
#ifndef TNL_HTTP_JSON_IN_H
#define TNL_HTTP_JSON_IN_H

#include "server/http/api/fields.h"
#include "server/http/errors.h"

/* Bounds a body is held to besides the table. */
typedef struct srv_in_limits {
    int64_t vocab; /* ids are 0..vocab-1 */
    int64_t max_prompt_tokens;
    const char *alias; /* the only model name accepted; NULL: any */
} srv_in_limits;

/* Parse a body by the rows of `t`, or of t->instead when the body says so. `body` is modified. On
 * false *p says why and *out is clear, but for out->table. */
bool srv_gen_parse(srv_gen *out, const srv_table *t, char *body, size_t n,
                   const srv_in_limits *limits, srv_problem *p);
void srv_gen_clear(srv_gen *g); /* NULL allowed; what was allocated, not the parameters */

/* No body, or one without fields. */
bool srv_empty_parse(const char *body, size_t n, srv_problem *p);

/* {"text": ...} of POST /tokenize; *text is malloc'd and NUL-terminated. */
bool srv_text_parse(char **text, size_t *text_len, char *body, size_t n, srv_problem *p);

/* {"tokens": [...]} of POST /detokenize; *ids is malloc'd. */
bool srv_tokens_parse(int32_t **ids, size_t *n_ids, char *body, size_t n,
                      const srv_in_limits *limits, srv_problem *p);

#endif
