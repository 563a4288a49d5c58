/* The text is known to be good JSON: only its shape is in question here. */
#include "model/json_read.h"

#include <string.h>

static void skip_space(json_cursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r'))
        c->at++;
}

static bool take(json_cursor *c, char want) {
    skip_space(c);
    if (c->at >= c->end || *c->at != want)
        return false;
    c->at++;
    return true;
}

bool mdl_json_open(json_cursor *c, char bracket) {
    return take(c, bracket);
}

static bool next(json_cursor *c, bool *first, char closer) {
    if (take(c, closer))
        return false;
    if (!*first)
        take(c, ',');
    *first = false;
    skip_space(c);
    return c->at < c->end;
}

bool mdl_json_next_member(json_cursor *c, bool *first, json_str *key) {
    if (!next(c, first, '}') || !mdl_json_string(c, key))
        return false;
    take(c, ':');
    skip_space(c);
    return true;
}

bool mdl_json_next_item(json_cursor *c, bool *first) {
    return next(c, first, ']');
}

bool mdl_json_string(json_cursor *c, json_str *out) {
    if (!take(c, '"'))
        return false;
    *out = (json_str){.s = c->at};
    while (c->at < c->end && *c->at != '"') {
        bool escape = *c->at == '\\';
        out->escaped |= escape;
        c->at += escape && c->end - c->at > 1 ? 2 : 1;
    }
    out->n = (size_t)(c->at - out->s);
    return take(c, '"');
}

bool mdl_json_u64(json_cursor *c, uint64_t *out) {
    const char *p = c->at;
    uint64_t v = 0;
    for (; p < c->end && *p >= '0' && *p <= '9'; p++)
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
            return false;
    if (p == c->at || (p < c->end && (*p == '.' || *p == 'e' || *p == 'E')))
        return false;
    c->at = p;
    *out = v;
    return true;
}

/* Brackets balance and strings end: that was checked. */
void mdl_json_skip(json_cursor *c) {
    int depth = 0;
    do {
        json_str ignored;
        skip_space(c);
        if (c->at >= c->end)
            return;
        char ch = *c->at;
        if (ch == '"') {
            mdl_json_string(c, &ignored);
            continue;
        }
        if (ch == '{' || ch == '[')
            depth++;
        if (ch == '}' || ch == ']')
            depth--;
        if (strchr("{}[],:", ch)) {
            c->at++;
            continue;
        }
        while (c->at < c->end && !strchr(" \t\r\n{}[],:", *c->at))
            c->at++;
    } while (depth > 0);
}

bool mdl_json_str_is(json_str a, const char *text) {
    return a.n == strlen(text) && memcmp(a.s, text, a.n) == 0;
}

void mdl_json_show(const json_cursor *c, char *out, size_t cap) {
    json_cursor end = *c;
    mdl_json_skip(&end);
    if (cap > 44)
        cap = 44;
    size_t n = (size_t)(end.at - c->at), o = 0;
    for (size_t i = 0; i < n && o + 1 < cap; i++) /* tnl_fail makes it printable */
        out[o++] = c->at[i];
    out[o] = 0;
    if (o < n && o > 3)
        memcpy(out + o - 3, "...", 3);
}
