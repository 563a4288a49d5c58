/* One pass over the top level of an object, strings skipped as JSON does. */
#include "server/http/api/token_ids.h"

#include <stdlib.h>
#include <string.h>

typedef struct cursor {
    char *s;
    size_t n, at;
} cursor;

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void skip_space(cursor *c) {
    while (c->at < c->n && is_space(c->s[c->at]))
        c->at++;
}

static bool peek(const cursor *c, char want) {
    return c->at < c->n && c->s[c->at] == want;
}

/* At a quote: past the closing one. *start and *len are the raw inside. */
static bool skip_string(cursor *c, size_t *start, size_t *len) {
    *start = ++c->at;
    while (c->at < c->n && c->s[c->at] != '"') {
        if (c->s[c->at] == '\\')
            c->at++;
        c->at++;
    }
    if (c->at >= c->n)
        return false;
    *len = c->at - *start;
    c->at++;
    return true;
}

/* Past one value: everything up to the comma or bracket that ends it at this level. */
static bool skip_value(cursor *c) {
    size_t depth = 0, a, b;
    while (c->at < c->n) {
        char ch = c->s[c->at];
        if (ch == '"') {
            if (!skip_string(c, &a, &b))
                return false;
            continue;
        }
        if (depth == 0 && (ch == ',' || ch == '}' || ch == ']'))
            return true;
        if (ch == '{' || ch == '[')
            depth++;
        else if (ch == '}' || ch == ']')
            depth--;
        c->at++;
    }
    return false;
}

/* One JSON integer; values beyond any id come out as -1. False: not a plain integer. */
static bool read_integer(cursor *c, int64_t *out) {
    bool negative = peek(c, '-');
    if (negative)
        c->at++;
    size_t first = c->at;
    int64_t v = 0;
    while (c->at < c->n && c->s[c->at] >= '0' && c->s[c->at] <= '9') {
        if (v < INT64_C(1) << 40)
            v = v * 10 + (c->s[c->at] - '0');
        c->at++;
    }
    size_t digits = c->at - first;
    if (digits == 0 || (digits > 1 && c->s[first] == '0'))
        return false;
    *out = negative && v != 0 ? -1 : v;
    return true;
}

static bool push(srv_ids *out, size_t *cap, int64_t v, int64_t limit) {
    if (out->n == *cap) {
        size_t want = *cap ? *cap * 2 : 64;
        int32_t *grown = realloc(out->ids, want * sizeof *grown);
        if (!grown)
            return false;
        out->ids = grown;
        *cap = want;
    }
    if (v < 0 || v >= limit) {
        out->in_range = false;
        v = 0;
    }
    out->ids[out->n++] = (int32_t)v;
    return true;
}

/* At '[': read integers up to ']'. *ok false: something else is in there. */
static bool read_array(srv_ids *out, cursor *c, int64_t limit, size_t max, bool *ok) {
    size_t cap = 0;
    *ok = false;
    c->at++;
    skip_space(c);
    if (peek(c, ']')) {
        c->at++;
        *ok = true;
        return true;
    }
    for (;;) {
        int64_t v;
        skip_space(c);
        if (!read_integer(c, &v))
            return true;
        if (out->n >= max)
            out->too_many = true;
        else if (!push(out, &cap, v, limit))
            return false;
        skip_space(c);
        if (peek(c, ']')) {
            c->at++;
            *ok = true;
            return true;
        }
        if (!peek(c, ','))
            return true;
        c->at++;
    }
}

static void drop(srv_ids *out) {
    free(out->ids);
    memset(out, 0, sizeof *out);
    out->in_range = true;
}

/* At the value of `key`: cut it if it is an array of integers. */
static bool cut_here(srv_ids *out, cursor *c, int64_t limit, size_t max) {
    size_t start = c->at;
    bool ok;
    drop(out);
    if (!read_array(out, c, limit, max, &ok)) {
        drop(out);
        return false;
    }
    if (!ok) {
        drop(out);
        c->at = start;
        return true;
    }
    out->found = true;
    if (out->too_many) {
        free(out->ids);
        out->ids = NULL;
        out->n = 0;
    }
    memset(c->s + start + 1, ' ', c->at - start - 2);
    return true;
}

bool srv_ids_cut(srv_ids *out, char *json, size_t n, const char *key, int64_t limit, size_t max) {
    cursor c = {json, n, 0};
    size_t key_len = strlen(key);
    memset(out, 0, sizeof *out);
    out->in_range = true;
    skip_space(&c);
    if (!peek(&c, '{'))
        return true;
    c.at++;
    for (;;) {
        size_t start, len;
        skip_space(&c);
        if (!peek(&c, '"') || !skip_string(&c, &start, &len))
            return true;
        bool hit = len == key_len && memcmp(json + start, key, len) == 0;
        skip_space(&c);
        if (!peek(&c, ':'))
            return true;
        c.at++;
        skip_space(&c);
        if (hit && peek(&c, '[') && !cut_here(out, &c, limit, max))
            return false;
        if (!skip_value(&c) || !peek(&c, ','))
            return true;
        c.at++;
    }
}
