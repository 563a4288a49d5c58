/* Log lines on stderr: level, UTC time, text; plain or JSON.
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

void tnl_log(tnl_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Escape n bytes for a log line into out (cap bytes, NUL-terminated): printable ASCII except
 * backslash and quote as is, everything else as \xNN; cut with "..." when it does not fit. */
void tnl_log_escape(char *out, size_t cap, const char *s, size_t n);

#ifdef __cplusplus
}
#endif
#endif
