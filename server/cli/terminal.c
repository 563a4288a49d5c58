/* The filter takes text in any pieces. */
#include "server/cli/terminal.h"

#include <stdbool.h>
#include <string.h>

#include "kernels/base/utf8.h"

static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */

static bool is_control(const char *s, int len) {
    unsigned char c = (unsigned char)s[0];
    if (len == 1)
        return (c < 0x20 && c != '\n' && c != '\t') || c == 0x7F;
    return len == 2 && c == 0xC2 && (unsigned char)s[1] < 0xA0;
}

/* One character of s[0..n), or one wrong byte; 0 if n cuts a character short. */
static size_t take(char *out, size_t *written, const char *s, size_t n) {
    int len = tnl_utf8_char_len(s, n);
    if (len < 0)
        return 0;
    if (len == 1 && *s == '\r')
        return 1;
    bool bad = len == 0 || is_control(s, len);
    memcpy(out + *written, bad ? replacement : s, bad ? 3 : (size_t)len);
    *written += bad ? 3 : (size_t)len;
    return len ? (size_t)len : 1;
}

/* Complete the held character byte by byte: wrong bytes leave, the rest is looked at again. */
static void take_held(cli_filter *f, char *out, size_t *written) {
    while (f->n) {
        size_t used = take(out, written, f->held, f->n);
        if (used == 0)
            return;
        memmove(f->held, f->held + used, f->n - used);
        f->n -= used;
    }
}

size_t cli_filter_feed(cli_filter *f, char *out, const char *s, size_t n) {
    size_t written = 0, at = 0;
    while (f->n && at < n) {
        f->held[f->n++] = s[at++];
        take_held(f, out, &written);
    }
    while (at < n) {
        size_t used = take(out, &written, s + at, n - at);
        if (used == 0) {
            f->n = n - at;
            memcpy(f->held, s + at, f->n);
            break;
        }
        at += used;
    }
    return written;
}

size_t cli_filter_end(cli_filter *f, char *out) {
    size_t n = f->n ? 3 : 0;
    memcpy(out, replacement, n);
    f->n = 0;
    return n;
}
