/* UTF-8 by the table of Unicode 15, D92 (well-formed byte sequences). */
#include "kernels/base/utf8.h"

#include <string.h>

static int expected_len(unsigned char lead) {
    if (lead < 0x80)
        return 1;
    if (lead >= 0xC2 && lead <= 0xDF)
        return 2;
    if (lead >= 0xE0 && lead <= 0xEF)
        return 3;
    if (lead >= 0xF0 && lead <= 0xF4)
        return 4;
    return 0;
}

/* The second byte's range depends on the lead: this is where overlong forms, surrogates and
 * values beyond U+10FFFF are refused. */
static bool second_ok(unsigned char lead, unsigned char b) {
    unsigned char lo = 0x80, hi = 0xBF;
    switch (lead) {
    case 0xE0:
        lo = 0xA0;
        break;
    case 0xED:
        hi = 0x9F;
        break;
    case 0xF0:
        lo = 0x90;
        break;
    case 0xF4:
        hi = 0x8F;
        break;
    default:
        break;
    }
    return b >= lo && b <= hi;
}

int tnl_utf8_char_len(const char *s, size_t n) {
    if (n == 0)
        return -1;
    const unsigned char *u = (const unsigned char *)s;
    int len = expected_len(u[0]);
    if (len < 2)
        return len;
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n)
            return -1;
        bool ok = i == 1 ? second_ok(u[0], u[1]) : (u[i] & 0xC0) == 0x80;
        if (!ok)
            return 0;
    }
    return len;
}

bool tnl_utf8_valid(const char *s, size_t n) {
    size_t i = 0;
    while (i < n) {
        int len = tnl_utf8_char_len(s + i, n - i);
        if (len <= 0)
            return false;
        i += (size_t)len;
    }
    return true;
}

size_t tnl_utf8_incomplete_tail(const char *s, size_t n) {
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char b = (unsigned char)s[n - back];
        if ((b & 0xC0) == 0x80)
            continue; /* a continuation byte: the lead is further left */
        return tnl_utf8_char_len(s + n - back, back) == -1 ? back : 0;
    }
    return 0;
}

void tnl_utf8_make_printable(char *s) {
    size_t n = strlen(s), i = 0;
    while (i < n) {
        int len = tnl_utf8_char_len(s + i, n - i);
        bool bad = len <= 0 || (unsigned char)s[i] < 0x20 || s[i] == 0x7F;
        /* U+0080 to U+009F: some terminals obey them like the ASCII ones */
        bad = bad || (len == 2 && (unsigned char)s[i] == 0xC2 && (unsigned char)s[i + 1] < 0xA0);
        if (bad)
            s[i] = '?';
        i += bad ? 1 : (size_t)len;
    }
}
