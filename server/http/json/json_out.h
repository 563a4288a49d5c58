/* Our JSON writer: a growable buffer and the few values an answer is made of.
 *
 * A buffer that runs out of memory goes bad: appends become no-ops and `failed` stays set, so
 * callers check once at the end. Output is always valid UTF-8 and valid JSON: ill-formed bytes
 * become U+FFFD, numbers that are not finite become null. A buffer belongs to one thread at a
 * time. */
#ifndef TNL_HTTP_JSON_OUT_H
#define TNL_HTTP_JSON_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct srv_buf {
    char *data; /* owned, not NUL-terminated */
    size_t len, cap;
    bool failed;
} srv_buf;

void srv_buf_free(srv_buf *b);  /* back to empty; NULL allowed */
void srv_buf_clear(srv_buf *b); /* keeps the memory */
bool srv_buf_reserve(srv_buf *b, size_t more);
void srv_buf_put(srv_buf *b, const void *data, size_t n);
void srv_buf_puts(srv_buf *b, const char *text);
void srv_buf_printf(srv_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void srv_json_string(srv_buf *b, const char *s, size_t n); /* quoted and escaped */
void srv_json_int(srv_buf *b, int64_t v);
/* Shortest form of at most 9 (17) significant digits that reads back as the same value. */
void srv_json_float(srv_buf *b, float v);
void srv_json_double(srv_buf *b, double v);
void srv_json_ms(srv_buf *b, double v); /* three decimals: times and rates */

#endif
