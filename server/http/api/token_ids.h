/* Takes a top-level array of integers out of JSON text before it is parsed.
 *
 * Four million ids are 8 MiB of text and would be 320 MiB of cJSON nodes. The array is read by a
 * loop and blanked in place: "[1,2,3]" becomes "[     ]", which is the same JSON with an empty
 * array, so the strict check still sees all that it must judge. */
#ifndef TNL_HTTP_TOKEN_IDS_H
#define TNL_HTTP_TOKEN_IDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct srv_ids {
    bool found;    /* `key` held an array of integers, now blanked */
    bool in_range; /* every value is 0..limit-1 */
    bool too_many; /* more than max; ids then holds nothing */
    int32_t *ids;  /* malloc'd, NULL when empty */
    size_t n;
} srv_ids;

/* Text that is not JSON, an array of anything else, or a missing key leave *out clear and the text
 * untouched. False: out of memory. */
bool srv_ids_cut(srv_ids *out, char *json, size_t n, const char *key, int64_t limit, size_t max);

#endif
