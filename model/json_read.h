/* A cursor over JSON text that tnl_json_check has passed: for headers whose numbers must be read
 * as exact integers, which a parser built on doubles cannot do. Functions return false when the
 * text is not what the caller expects; the cursor then stands at the offending value. */
#ifndef TNL_MODEL_JSON_READ_H
#define TNL_MODEL_JSON_READ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct json_cursor {
    const char *at, *end;
} json_cursor;

/* Raw bytes between the quotes. */
typedef struct json_str {
    const char *s;
    size_t n;
    bool escaped; /* it holds a backslash: the raw bytes are not the text */
} json_str;

/* Iterate: `first` starts true. mdl_json_next_member stands at the value after it returns true.
 * Both return false at the end of the container (consumed). Call only after mdl_json_open
 * succeeded. */
bool mdl_json_open(json_cursor *c, char bracket); /* '{' or '[' */
bool mdl_json_next_member(json_cursor *c, bool *first, json_str *key);
bool mdl_json_next_item(json_cursor *c, bool *first);

bool mdl_json_string(json_cursor *c, json_str *out);
bool mdl_json_u64(json_cursor *c, uint64_t *out); /* digits only: no sign, fraction, exponent */
void mdl_json_skip(json_cursor *c);               /* any value */

bool mdl_json_str_is(json_str a, const char *text);

/* Text of the value under the cursor for messages: escaped, cut to fit. */
void mdl_json_show(const json_cursor *c, char *out, size_t cap);

#endif
