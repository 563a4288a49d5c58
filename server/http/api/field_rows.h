/* Words for writing rows of the field tables. Private to fields*.c. */
#ifndef TNL_HTTP_FIELD_ROWS_H
#define TNL_HTTP_FIELD_ROWS_H

#include <stddef.h>

#include "server/http/api/fields.h"

/* Where a value goes, in srv_gen: into its params, or beside them. */
#define AT(f) offsetof(srv_gen, params) + offsetof(eng_params, f)
#define OF(f) offsetof(srv_gen, f)
#define COUNT(a) (int)(sizeof a / sizeof a[0])
#define NO_SUB NULL, 0
#define F_INT "integer"
#define F_SEED "integer, or string of digits up to 2^64-1"
#define F_NUM "number"
#define F_BOOL "boolean"
#define SRV_DOC_SESSION                                                                            \
    "the prompt comes behind this session's text and, with the answer, becomes part of it, "       \
    "the tokens of a stop string too; "                                                            \
    "\"new\": of a session that begins here"

#endif
