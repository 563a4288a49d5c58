/* The strict front door for JSON text: checks the raw bytes before cJSON sees them.
 *
 * cJSON accepts much that is not JSON or not safe (1e999, "\u0000" cutting a string, duplicate
 * keys, invalid UTF-8, trailing text, millions of nodes). tnl_json_check refuses all of it with one
 * line that says where; what passes is RFC 8259 JSON, well-formed UTF-8, within the limits, with
 * unique keys (compared after unescaping), finite numbers and no NUL. One pass, iterative, memory
 * bounded by the limits. Any thread. */
#ifndef TNL_BASE_JSON_SCAN_H
#define TNL_BASE_JSON_SCAN_H

#include <stddef.h>

#include "kernels/base/status.h"

typedef struct tnl_json_limits {
    size_t max_bytes;  /* of the text */
    size_t max_values; /* scalars and containers */
    int max_depth;     /* nested containers, <= 64 */
    size_t max_keys;   /* per object */
} tnl_json_limits;

/* What was wrong, as a stable word for error bodies. */
typedef enum tnl_json_fault {
    TNL_JSON_OK,
    TNL_JSON_INVALID,   /* "invalid_json" */
    TNL_JSON_UTF8,      /* "invalid_utf8" */
    TNL_JSON_DUPLICATE, /* "duplicate_key" */
    TNL_JSON_LIMIT,     /* "json_limit": depth, values, keys, bytes */
    TNL_JSON_NUMBER,    /* "out_of_range": not finite as a double */
} tnl_json_fault;

/* TNL_OK, or TNL_E_DATA (TNL_E_LIMIT for limits, TNL_E_NOMEM) with a line such as
 * "byte 17: duplicate key \"seed\"" in err (constant words plus escaped key, cut to 64 bytes).
 * `fault` may be NULL. */
tnl_status tnl_json_check(const char *s, size_t n, const tnl_json_limits *limits,
                          tnl_json_fault *fault, tnl_error *err);

#endif
