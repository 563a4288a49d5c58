/* The stop-string scanner: see stop.h for what it promises. */
#include "server/engine/stop.h"

#include <string.h>

/* border[k]: length of the longest proper prefix of str that is also a suffix of str[0..k]. */
static void fill_border(uint16_t *border, const char *str, size_t len) {
    uint16_t k = 0;
    border[0] = 0;
    for (size_t i = 1; i < len; i++) {
        while (k > 0 && str[i] != str[k])
            k = border[k - 1];
        if (str[i] == str[k])
            k++;
        border[i] = k;
    }
}

void eng_stop_init(eng_stop *s, const eng_params *p) {
    s->n = p->n_stop;
    s->found = false;
    s->n_held = 0;
    for (int i = 0; i < s->n; i++) {
        s->str[i] = p->stop[i];
        s->len[i] = (uint16_t)strlen(p->stop[i]);
        s->matched[i] = 0;
        fill_border(s->border[i], s->str[i], s->len[i]);
    }
}

/* One byte through every scanner. Returns the length of the longest stop string complete now, or
 * 0; *held becomes the longest prefix under way. */
static size_t scan_byte(eng_stop *s, char c, size_t *held) {
    size_t complete = 0, longest = 0;
    for (int i = 0; i < s->n; i++) {
        uint16_t k = s->matched[i];
        while (k > 0 && s->str[i][k] != c)
            k = s->border[i][k - 1];
        if (s->str[i][k] == c)
            k++;
        s->matched[i] = k;
        if (k == s->len[i] && k > complete)
            complete = k;
        if (k > longest)
            longest = k;
    }
    *held = longest;
    return complete;
}

/* Text so far is held + in[0..n). Keep its last `keep` bytes, release the rest. */
static size_t release(eng_stop *s, const char *in, size_t n, size_t keep, char *out) {
    size_t total = s->n_held + n, n_out = total - keep;
    size_t from_held = n_out < s->n_held ? n_out : s->n_held;
    memcpy(out, s->held, from_held);
    memcpy(out + from_held, in, n_out - from_held);
    memmove(s->held, s->held + from_held, s->n_held - from_held);
    size_t still = s->n_held - from_held;
    memcpy(s->held + still, in + (n_out - from_held), keep - still);
    s->n_held = (uint16_t)keep;
    return n_out;
}

bool eng_stop_push(eng_stop *s, const char *in, size_t n, char *out, size_t *n_out) {
    size_t held = s->n_held;
    *n_out = 0;
    if (s->found)
        return true;
    for (size_t i = 0; i < n; i++) {
        size_t complete = scan_byte(s, in[i], &held);
        if (complete == 0)
            continue;
        size_t cut = s->n_held + i + 1 - complete;
        size_t from_held = cut < s->n_held ? cut : s->n_held;
        memcpy(out, s->held, from_held);
        memcpy(out + from_held, in, cut - from_held);
        *n_out = cut;
        s->n_held = 0;
        s->found = true;
        return true;
    }
    if (n > 0)
        *n_out = release(s, in, n, held, out);
    return false;
}

size_t eng_stop_flush(eng_stop *s, char *out) {
    size_t n = s->n_held;
    memcpy(out, s->held, n);
    s->n_held = 0;
    return n;
}
