/* Logger: formats into a stack buffer, writes once. */
#include "kernels/base/log.h"

#include <math.h>
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

bool tnl_log_is_json(void) {
    return log_json;
}

/* ---- a line in the making ---- */

enum { LINE_MAX = 2304 };

typedef struct line {
    char at[LINE_MAX];
    size_t n;
    bool cut; /* something did not fit: what was put since is to be taken back */
} line;

__attribute__((format(printf, 2, 3))) static void put(line *l, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(l->at + l->n, LINE_MAX - l->n, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= LINE_MAX - l->n)
        l->cut = true;
    else
        l->n += (size_t)n;
}

/* As much of s as leaves `room` bytes of the line free, by whole characters. */
static void put_json_text(line *l, const char *s, size_t room) {
    size_t left = strlen(s);
    while (left > 0) {
        int len = tnl_utf8_char_len(s, left);
        bool bad = len <= 0 || (unsigned char)*s < 0x20 || *s == 0x7F;
        size_t n = bad ? 1 : (size_t)len;
        if (l->n + n + 1 + room >= LINE_MAX)
            return;
        if (*s == '"' || *s == '\\')
            l->at[l->n++] = '\\';
        memcpy(l->at + l->n, bad ? "?" : s, n);
        l->n += n;
        s += n;
        left -= n;
    }
}

static void put_stamp(line *l) {
    struct timespec ts;
    struct tm tm;
    char stamp[32];
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm);
    put(l, "%s.%03ldZ", stamp, ts.tv_nsec / 1000000);
}

static void put_field(line *l, const tnl_log_field *f) {
    size_t before = l->n;
    put(l, ",\"%s\":", f->name);
    if (f->kind == TNL_LOG_TEXT) {
        put(l, "\"");
        put_json_text(l, f->text ? f->text : "", 4);
        put(l, "\"");
    } else if (f->kind == TNL_LOG_COUNT) {
        put(l, "%lld", f->count);
    } else if (isfinite(f->real)) {
        put(l, "%.3f", f->real);
    } else {
        put(l, "null");
    }
    if (!l->cut && l->n + 3 < LINE_MAX) /* the end of the line still fits */
        return;
    l->n = before;
    l->cut = false;
}

static void write_line(tnl_log_level level, const char *msg, const tnl_log_field *f, size_t n) {
    line l = {.n = 0};
    if (log_json)
        put(&l, "{\"time\":\"");
    put_stamp(&l);
    if (log_json) {
        put(&l, "\",\"level\":\"%s\",\"msg\":\"", level_names[level]);
        put_json_text(&l, msg, 8);
        put(&l, "\"");
        for (size_t i = 0; i < n; i++)
            put_field(&l, &f[i]);
        put(&l, "}\n");
    } else {
        put(&l, " %-5s %s\n", level_names[level], msg);
    }
    if (write(STDERR_FILENO, l.at, l.n) < 0)
        return; /* nowhere left to complain */
}

void tnl_log(tnl_log_level level, const char *fmt, ...) {
    char text[1024];
    va_list ap;
    if (!tnl_log_enabled(level))
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    tnl_utf8_make_printable(text);
    write_line(level, text, NULL, 0);
}

void tnl_log_fields(tnl_log_level level, const char *msg, const tnl_log_field *f, size_t n) {
    if (tnl_log_enabled(level))
        write_line(level, msg, f, n);
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
