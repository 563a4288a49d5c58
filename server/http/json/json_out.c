/* Buffer growth, string escaping and number printing. */
#include "server/http/json/json_out.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/utf8.h"

void srv_buf_free(srv_buf *b) {
    if (!b)
        return;
    free(b->data);
    memset(b, 0, sizeof *b);
}

void srv_buf_clear(srv_buf *b) {
    b->len = 0;
    b->failed = false;
}

bool srv_buf_reserve(srv_buf *b, size_t more) {
    if (b->failed)
        return false;
    if (more <= b->cap - b->len)
        return true;
    size_t want = b->cap ? b->cap : 512;
    while (want - b->len < more) {
        if (want > SIZE_MAX / 2)
            goto fail;
        want *= 2;
    }
    char *grown = realloc(b->data, want);
    if (!grown)
        goto fail;
    b->data = grown;
    b->cap = want;
    return true;
fail:
    b->failed = true;
    return false;
}

void srv_buf_put(srv_buf *b, const void *data, size_t n) {
    if (n == 0 || !srv_buf_reserve(b, n))
        return;
    memcpy(b->data + b->len, data, n);
    b->len += n;
}

void srv_buf_puts(srv_buf *b, const char *text) {
    srv_buf_put(b, text, strlen(text));
}

void srv_buf_printf(srv_buf *b, const char *fmt, ...) {
    char small[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof small) {
        b->failed = true; /* callers print short lines only */
        return;
    }
    srv_buf_put(b, small, (size_t)n);
}

/* The escape of one ASCII byte, or NULL if it stands for itself. */
static const char *escape_of(unsigned char c, char hex[8]) {
    switch (c) {
    case '"':
        return "\\\"";
    case '\\':
        return "\\\\";
    case '\n':
        return "\\n";
    case '\r':
        return "\\r";
    case '\t':
        return "\\t";
    default:
        if (c >= 0x20 && c != 0x7F)
            return NULL;
        snprintf(hex, 8, "\\u%04x", c);
        return hex;
    }
}

void srv_json_string(srv_buf *b, const char *s, size_t n) {
    srv_buf_put(b, "\"", 1);
    size_t plain = 0, i = 0; /* s[plain..i) is copied in one piece */
    while (i < n) {
        char hex[8];
        int len = tnl_utf8_char_len(s + i, n - i);
        const char *instead = len <= 0 ? "\xEF\xBF\xBD" : NULL;
        if (len == 1)
            instead = escape_of((unsigned char)s[i], hex);
        size_t step = len > 0 ? (size_t)len : 1;
        if (instead) {
            srv_buf_put(b, s + plain, i - plain);
            srv_buf_puts(b, instead);
            plain = i + step;
        }
        i += step;
    }
    srv_buf_put(b, s + plain, n - plain);
    srv_buf_put(b, "\"", 1);
}

void srv_json_int(srv_buf *b, int64_t v) {
    char digits[24];
    uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + u % 10);
        u /= 10;
    } while (u);
    if (v < 0)
        digits[--at] = '-';
    srv_buf_put(b, digits + at, sizeof digits - at);
}

void srv_json_float(srv_buf *b, float v) {
    if (!isfinite(v)) {
        srv_buf_puts(b, "null");
        return;
    }
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v)
            break;
    }
    srv_buf_puts(b, text);
}

void srv_json_double(srv_buf *b, double v) {
    if (!isfinite(v)) {
        srv_buf_puts(b, "null");
        return;
    }
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    srv_buf_puts(b, text);
}

void srv_json_ms(srv_buf *b, double v) {
    if (!isfinite(v) || fabs(v) > 1e15)
        srv_buf_puts(b, "null");
    else
        srv_buf_printf(b, "%.3f", v);
}
