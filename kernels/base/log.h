/* Log lines on stderr: level, UTC time, text; plain or as JSON objects.
 *
 * One line per call, written with a single write(2), so lines of different threads never mix.
 * Client bytes must pass through tnl_log_escape first. Any thread. */
#ifndef TNL_BASE_LOG_H
#define TNL_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tnl_log_level {
    TNL_LOG_ERROR,
    TNL_LOG_WARN,
    TNL_LOG_INFO,
    TNL_LOG_DEBUG
} tnl_log_level;

/* Lines above `level` are dropped; default TNL_LOG_INFO. Call once at start. */
void tnl_log_setup(tnl_log_level level, bool json);
bool tnl_log_enabled(tnl_log_level level);

bool tnl_log_is_json(void);

void tnl_log(tnl_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A member of a JSON line beside time, level and msg. */
typedef struct tnl_log_field {
    const char *name; /* plain ASCII */
    enum { TNL_LOG_TEXT, TNL_LOG_COUNT, TNL_LOG_REAL } kind;
    const char *text; /* NULL: "" */
    long long count;
    double real;
} tnl_log_field;

/* A line with members of their own. As text: the message alone. A member that does not fit the line
 * (2 KiB) is left out. */
void tnl_log_fields(tnl_log_level level, const char *msg, const tnl_log_field *f, size_t n);

/* Escape n bytes for a log line into out (cap bytes, NUL-terminated): printable ASCII except
 * backslash and quote as is, everything else as \xNN; cut with "..." when it does not fit. */
void tnl_log_escape(char *out, size_t cap, const char *s, size_t n);

#ifdef __cplusplus
}
#endif
#endif
