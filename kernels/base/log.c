/* Logger: formats into a stack buffer, writes once. */
#include "kernels/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/utf8.h"

/* Set once at start, before threads exist; read-only afterwards. */
static tnl_log_level log_level = TNL_LOG_INFO;
static bool log_json;

static const char *const level_names[] = {"error", "warn", "info", "debug"};

void tnl_log_setup(tnl_log_level level, bool json) {
    log_level = level;
    log_json = json;
}

bool tnl_log_enabled(tnl_log_level level) {
    return level <= log_level;
}

static size_t put_json_string(char *out, size_t cap, const char *s) {
    size_t n = 0;
    for (; *s && n + 3 < cap; s++) {
        if (*s == '"' || *s == '\\')
            out[n++] = '\\';
        out[n++] = *s;
    }
    out[n] = 0;
    return n;
}

void tnl_log(tnl_log_level level, const char *fmt, ...) {
    if (!tnl_log_enabled(level))
        return;
    char text[1024], line[2304], stamp[32];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    tnl_utf8_make_printable(text);

    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm);

    int n;
    if (log_json) {
        char quoted[2080];
        put_json_string(quoted, sizeof quoted, text);
        n = snprintf(line, sizeof line,
                     "{\"time\":\"%s.%03ldZ\",\"level\":\"%s\",\"msg\":\"%s\"}\n", stamp,
                     ts.tv_nsec / 1000000, level_names[level], quoted);
    } else {
        n = snprintf(line, sizeof line, "%s.%03ldZ %-5s %s\n", stamp, ts.tv_nsec / 1000000,
                     level_names[level], text);
    }
    if (n < 0)
        return;
    size_t len = (size_t)n < sizeof line ? (size_t)n : sizeof line - 1;
    if (write(STDERR_FILENO, line, len) < 0)
        return; /* nowhere left to complain */
}

void tnl_log_escape(char *out, size_t cap, const char *s, size_t n) {
    static const char hex[] = "0123456789abcdef";
    if (cap == 0)
        return;
    size_t o = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        bool plain = c >= 0x20 && c < 0x7F && c != '\\' && c != '"';
        if (o + (plain ? 1u : 4u) + 4 > cap) { /* keep room for "..." and NUL */
            if (o + 4 <= cap) {
                memcpy(out + o, "...", 3);
                o += 3;
            }
            break;
        }
        if (plain) {
            out[o++] = (char)c;
        } else {
            out[o++] = '\\';
            out[o++] = 'x';
            out[o++] = hex[c >> 4];
            out[o++] = hex[c & 15];
        }
    }
    out[o] = 0;
}
