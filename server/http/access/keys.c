/* Parsing the text of the keys, and finding a key in it. */
#include "server/http/access/keys.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_WORDS = 8 }; /* of one line */

static const int64_t LIMIT_MAX = 1000000000000; /* per minute, or at once */

typedef struct word {
    const char *p;
    size_t n;
} word;

/* One line on its way to a key. */
typedef struct line {
    word words[MAX_WORDS];
    size_t n;
    const char *where;
    size_t number; /* from 1 */
    tnl_error *err;
} line;

#define AT(l) (l)->where, (l)->number

/* ---- words ---- */

static bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\r';
}

static tnl_status split(line *l, const char *p, size_t n) {
    l->n = 0;
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && !is_blank(p[end]))
            end++;
        if (end > i && p[i] == '#')
            return TNL_OK;
        if (end > i && l->n == MAX_WORDS)
            return tnl_fail(l->err, TNL_E_USAGE, "%s:%zu: more than %d words", AT(l), MAX_WORDS);
        if (end > i)
            l->words[l->n++] = (word){p + i, end - i};
        i = end + 1;
    }
    return TNL_OK;
}

/* ---- the name ---- */

static bool is_alnum(char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

static bool name_ok(word w) {
    if (w.n == 0 || w.n > SRV_KEY_NAME_MAX || !is_alnum(w.p[0]))
        return false;
    for (size_t i = 1; i < w.n; i++)
        if (!is_alnum(w.p[i]) && w.p[i] != '.' && w.p[i] != '_' && w.p[i] != '-')
            return false;
    return true;
}

bool srv_key_name_ok(const char *name) {
    return name_ok((word){name, strlen(name)});
}

uint64_t srv_key_id(const char *name) {
    char text[16 + SRV_KEY_NAME_MAX] = "tnl key ";
    uint8_t digest[TNL_SHA256_BYTES];
    uint64_t id = 0;
    size_t at = strlen(text), n = strnlen(name, SRV_KEY_NAME_MAX);
    memcpy(text + at, name, n);
    tnl_sha256_of(digest, text, at + n);
    for (int i = 0; i < 8; i++)
        id |= (uint64_t)digest[i] << (8 * i);
    return id ? id : 1;
}

static tnl_status take_name(line *l, srv_key *k, word w) {
    if (!name_ok(w))
        return tnl_fail(l->err, TNL_E_USAGE,
                        "%s:%zu: the first word is not a name, expected 1..%d of A-Z a-z 0-9 . _ -",
                        AT(l), SRV_KEY_NAME_MAX);
    memcpy(k->name, w.p, w.n);
    k->name[w.n] = 0;
    return TNL_OK;
}

/* ---- the key ---- */

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static tnl_status take_digest(line *l, srv_key *k, word hex) {
    bool fine = hex.n == 2 * sizeof k->digest;
    for (size_t i = 0; fine && i < sizeof k->digest; i++) {
        int high = hex_digit(hex.p[2 * i]), low = hex_digit(hex.p[2 * i + 1]);
        fine = high >= 0 && low >= 0;
        if (fine)
            k->digest[i] = (uint8_t)(high * 16 + low);
    }
    return fine ? TNL_OK
                : tnl_fail(l->err, TNL_E_USAGE,
                           "%s:%zu: expected 64 hexadecimal digits "
                           "behind sha256:",
                           AT(l));
}

static tnl_status take_key(line *l, srv_key *k, word w) {
    if (w.n > 7 && strncasecmp(w.p, "sha256:", 7) == 0)
        return take_digest(l, k, (word){w.p + 7, w.n - 7});
    for (size_t i = 0; i < w.n; i++)
        if (w.p[i] <= 0x20 || w.p[i] >= 0x7F)
            return tnl_fail(l->err, TNL_E_USAGE,
                            "%s:%zu: the key has a character that is not printable ASCII", AT(l));
    if (w.n < SRV_KEY_MIN || w.n > SRV_KEY_MAX)
        return tnl_fail(l->err, TNL_E_USAGE,
                        "%s:%zu: the key has %zu characters, expected %d to %d", AT(l), w.n,
                        SRV_KEY_MIN, SRV_KEY_MAX);
    tnl_sha256_of(k->digest, w.p, w.n);
    return TNL_OK;
}

/* ---- limits ---- */

static const struct {
    const char *name;
    size_t offset;
} limit_rows[] = {
    {"requests_per_minute", offsetof(srv_limits, requests_per_minute)},
    {"tokens_per_minute", offsetof(srv_limits, tokens_per_minute)},
    {"parallel", offsetof(srv_limits, parallel)},
};
enum { N_LIMITS = sizeof limit_rows / sizeof limit_rows[0] };

static bool starts(word w, const char *name) {
    size_t n = strlen(name);
    return w.n > n && memcmp(w.p, name, n) == 0 && w.p[n] == '=';
}

static int64_t *limit_of(srv_limits *limits, word w) {
    for (int i = 0; i < N_LIMITS; i++)
        if (starts(w, limit_rows[i].name))
            return (int64_t *)((char *)limits + limit_rows[i].offset);
    return NULL;
}

static bool number(int64_t *out, word w) {
    int64_t v = 0;
    for (size_t i = 0; i < w.n; i++) {
        if (w.p[i] < '0' || w.p[i] > '9')
            return false;
        v = v * 10 + (w.p[i] - '0');
        if (v > LIMIT_MAX)
            return false;
    }
    *out = v;
    return w.n > 0;
}

static tnl_status take_limit(line *l, srv_key *k, size_t at) {
    word w = l->words[at];
    if (w.n == 5 && memcmp(w.p, "admin", 5) == 0) {
        k->admin = true;
        return TNL_OK;
    }
    int64_t *limit = limit_of(&k->limits, w), value = 0;
    if (!limit)
        return tnl_fail(l->err, TNL_E_USAGE,
                        "%s:%zu: word %zu is not a limit, expected requests_per_minute=N, "
                        "tokens_per_minute=N, parallel=N or admin",
                        AT(l), at + 1);
    size_t name = (size_t)((const char *)memchr(w.p, '=', w.n) - w.p);
    if (*limit != SRV_UNSET)
        return tnl_fail(l->err, TNL_E_USAGE, "%s:%zu: %.*s is given twice", AT(l), (int)name, w.p);
    if (!number(&value, (word){w.p + name + 1, w.n - name - 1}))
        return tnl_fail(l->err, TNL_E_USAGE, "%s:%zu: %.*s: expected a number in 0..%lld", AT(l),
                        (int)name, w.p, (long long)LIMIT_MAX);
    *limit = value;
    return TNL_OK;
}

/* ---- lines ---- */

static tnl_status take_line(line *l, srv_key *k) {
    static const word bare = {"default", 7};
    srv_limits any;
    bool named = l->n > 1;
    k->limits = (srv_limits){SRV_UNSET, SRV_UNSET, SRV_UNSET};
    /* "KEY parallel=4" would make a key of the limit */
    if (named && limit_of(&any, l->words[1]))
        return tnl_fail(l->err, TNL_E_USAGE,
                        "%s:%zu: a limit where the key should be, expected NAME KEY LIMITS", AT(l));
    TNL_TRY(take_name(l, k, named ? l->words[0] : bare));
    TNL_TRY(take_key(l, k, l->words[named]));
    for (size_t i = 2; i < l->n; i++)
        TNL_TRY(take_limit(l, k, i));
    return TNL_OK;
}

static tnl_status check_new(const srv_keys *all, const line *l) {
    const srv_key *k = &all->key[all->n];
    for (size_t i = 0; i < all->n; i++) {
        if (strcmp(all->key[i].name, k->name) == 0)
            return tnl_fail(l->err, TNL_E_USAGE, "%s:%zu: an earlier line has this name", AT(l));
        if (memcmp(all->key[i].digest, k->digest, sizeof k->digest) == 0)
            return tnl_fail(l->err, TNL_E_USAGE, "%s:%zu: an earlier line has this key", AT(l));
    }
    return TNL_OK;
}

static tnl_status add_line(srv_keys *all, line *l, const char *p, size_t n) {
    TNL_TRY(split(l, p, n));
    if (l->n == 0)
        return TNL_OK;
    if (all->n == SRV_KEYS_MAX)
        return tnl_fail(l->err, TNL_E_USAGE, "%s:%zu: more than %d keys", AT(l), SRV_KEYS_MAX);
    TNL_TRY(take_line(l, &all->key[all->n]));
    TNL_TRY(check_new(all, l));
    all->n++;
    return TNL_OK;
}

static size_t count_lines(const char *text, size_t n) {
    size_t lines = 1;
    for (size_t i = 0; i < n; i++)
        lines += text[i] == '\n';
    return lines < SRV_KEYS_MAX ? lines : SRV_KEYS_MAX;
}

tnl_status srv_keys_parse(srv_keys **out, const char *text, size_t n, const char *where,
                          tnl_error *err) {
    line l = {.where = where, .err = err};
    *out = NULL;
    if (n > SRV_KEY_TEXT_MAX)
        return tnl_fail(err, TNL_E_USAGE, "%s: more than %d bytes of keys", where,
                        SRV_KEY_TEXT_MAX);
    srv_keys *all = calloc(1, sizeof *all + count_lines(text, n) * sizeof all->key[0]);
    if (!all)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    tnl_status s = TNL_OK;
    for (size_t i = 0; i < n && s == TNL_OK;) {
        const char *end = memchr(text + i, '\n', n - i);
        size_t len = end ? (size_t)(end - text) - i : n - i;
        l.number++;
        s = add_line(all, &l, text + i, len);
        i += len + 1;
    }
    if (s == TNL_OK && all->n == 0)
        s = tnl_fail(err, TNL_E_USAGE, "%s: holds no key", where);
    if (s != TNL_OK) {
        free(all);
        return s;
    }
    *out = all;
    return TNL_OK;
}

size_t srv_keys_find(const srv_keys *k, const char *key) {
    uint8_t digest[TNL_SHA256_BYTES];
    size_t at = k->n;
    tnl_sha256_of(digest, key, strlen(key));
    for (size_t i = 0; i < k->n; i++) {
        unsigned diff = 0;
        for (size_t b = 0; b < sizeof digest; b++)
            diff |= (unsigned)(digest[b] ^ k->key[i].digest[b]);
        size_t same = (size_t)0 - (size_t)((diff - 1) >> (8 * sizeof diff - 1));
        at ^= (at ^ i) & same;
    }
    return at;
}
