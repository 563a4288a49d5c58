/* Strict JSON scanner: an iterative walk over the bytes with a small stack of open containers and
 * one hash set of the keys of all open objects. Nothing is built; the text is only judged. */
#include "kernels/base/json_scan.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/log.h"
#include "kernels/base/utf8.h"

/* cJSON copies a number into 64 bytes, so a longer one would be cut there. */
enum { MAX_DEPTH = 64, MAX_NUMBER = 63 };

/* A key of an object that is still open: raw bytes without the quotes. */
typedef struct key {
    uint64_t hash; /* of the unescaped bytes and the object */
    const char *raw;
    size_t len;
    uint32_t object; /* serial number of its object */
} key;

typedef struct scan {
    const char *s;
    size_t n, i;
    const tnl_json_limits *limits;
    tnl_json_fault fault;
    tnl_error *err;

    int depth;
    bool is_object[MAX_DEPTH];
    size_t key_base[MAX_DEPTH]; /* first key of the object at this depth */
    uint32_t object_id[MAX_DEPTH];
    uint32_t objects; /* serial numbers given out */
    size_t values;

    uint64_t seed;
    key *keys; /* a stack: the keys of an object leave when it closes */
    size_t n_keys, cap_keys;
    uint32_t *table;   /* index + 1 into keys, 0 empty; linear probing */
    size_t table_size; /* power of two, at most half full */
} scan;

static tnl_status fault_at(scan *z, size_t at, tnl_json_fault fault, const char *what) {
    z->fault = fault;
    return tnl_fail(z->err, fault == TNL_JSON_LIMIT ? TNL_E_LIMIT : TNL_E_DATA, "byte %zu: %s", at,
                    what);
}

static tnl_status invalid(scan *z, const char *what) {
    if (z->i >= z->n)
        return fault_at(z, z->n, TNL_JSON_INVALID, "the text ends too early");
    return fault_at(z, z->i, TNL_JSON_INVALID, what);
}

static tnl_status no_memory(scan *z) {
    z->fault = TNL_JSON_LIMIT;
    return tnl_fail(z->err, TNL_E_NOMEM, "out of memory while checking JSON");
}

static int peek(const scan *z) {
    return z->i < z->n ? (unsigned char)z->s[z->i] : -1;
}

static void skip_space(scan *z) {
    while (z->i < z->n) {
        char c = z->s[z->i];
        if (c != ' ' && c != '\t' && c != '\n' && c != '\r')
            return;
        z->i++;
    }
}

/* ---- strings ---- */

static int hex_digit(int c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* The four digits of \uXXXX at s (n bytes readable); -1 if they are not there. */
static int32_t hex4(const char *s, size_t n) {
    if (n < 4)
        return -1;
    int32_t v = 0;
    for (int i = 0; i < 4; i++) {
        int d = hex_digit((unsigned char)s[i]);
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

static int put_utf8(unsigned char out[4], int32_t c) {
    if (c < 0x80) {
        out[0] = (unsigned char)c;
        return 1;
    }
    int len = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = len - 1; i > 0; i--, c >>= 6)
        out[i] = (unsigned char)(0x80 | (c & 0x3F));
    out[0] = (unsigned char)((0xF00 >> len & 0xFF) | c);
    return len;
}

/* One character of a string, unescaped. Bytes read, 0 if it is not allowed (*why says). */
static size_t next_char(const char *s, size_t n, unsigned char out[4], int *out_len,
                        const char **why, tnl_json_fault *fault) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    *fault = TNL_JSON_INVALID;
    unsigned char c = (unsigned char)s[0];
    if (c < 0x20) {
        *why = c ? "control character in a string" : "NUL byte";
        return 0;
    }
    if (c != '\\') {
        int len = tnl_utf8_char_len(s, n);
        if (len <= 0) {
            *fault = TNL_JSON_UTF8;
            *why = "invalid UTF-8";
            return 0;
        }
        memcpy(out, s, (size_t)len);
        *out_len = len;
        return (size_t)len;
    }
    *why = "unknown escape";
    if (n < 2)
        return 0;
    const char *name = s[1] ? strchr(names, s[1]) : NULL;
    if (name) {
        out[0] = (unsigned char)values[name - names];
        *out_len = 1;
        return 2;
    }
    int32_t u = s[1] == 'u' ? hex4(s + 2, n - 2) : -1;
    if (u < 0)
        return 0;
    size_t used = 6;
    if (u == 0) {
        *why = "the escape \\u0000";
        return 0;
    }
    if (u >= 0xD800 && u <= 0xDFFF) {
        int32_t low = n >= 8 && s[6] == '\\' && s[7] == 'u' ? hex4(s + 8, n - 8) : -1;
        if (u > 0xDBFF || low < 0xDC00 || low > 0xDFFF) {
            *why = "half of a surrogate pair";
            return 0;
        }
        u = 0x10000 + ((u - 0xD800) << 10) + (low - 0xDC00);
        used = 12;
    }
    *out_len = put_utf8(out, u);
    return used;
}

/* The string that begins at the quote under z->i; its raw range and hash when wanted. */
static tnl_status scan_string(scan *z, key *out) {
    size_t start = ++z->i;
    uint64_t hash = z->seed;
    for (;;) {
        int c = peek(z);
        if (c < 0)
            return invalid(z, "");
        if (c == '"')
            break;
        unsigned char ch[4];
        int len = 0;
        const char *why = "";
        tnl_json_fault fault;
        size_t used = next_char(z->s + z->i, z->n - z->i, ch, &len, &why, &fault);
        if (used == 0)
            return fault_at(z, z->i, fault, why);
        for (int k = 0; out && k < len; k++)
            hash = (hash ^ ch[k]) * 0x100000001B3u;
        z->i += used;
    }
    if (out)
        *out = (key){.hash = hash, .raw = z->s + start, .len = z->i - start};
    z->i++;
    return TNL_OK;
}

/* Both were scanned before, so every character is good. */
static bool same_string(const key *a, const key *b) {
    size_t i = 0, j = 0;
    while (i < a->len && j < b->len) {
        unsigned char x[4], y[4];
        int nx = 0, ny = 0;
        const char *why;
        tnl_json_fault fault;
        i += next_char(a->raw + i, a->len - i, x, &nx, &why, &fault);
        j += next_char(b->raw + j, b->len - j, y, &ny, &why, &fault);
        if (nx != ny || memcmp(x, y, (size_t)nx) != 0)
            return false;
    }
    return i == a->len && j == b->len;
}

/* ---- keys ---- */

static uint64_t mixed(uint64_t hash, uint32_t object) {
    hash += object * UINT64_C(0x9E3779B97F4A7C15);
    hash ^= hash >> 32;
    hash *= UINT64_C(0xD6E8FEB86659FD93);
    return hash ^ hash >> 32;
}

/* The slot that holds an equal key, or the empty one where it belongs. */
static uint32_t *find_slot(scan *z, const key *k) {
    size_t mask = z->table_size - 1, at = (size_t)k->hash & mask;
    for (;; at = (at + 1) & mask) {
        uint32_t index = z->table[at];
        if (!index)
            return &z->table[at];
        const key *have = &z->keys[index - 1];
        if (have->hash == k->hash && have->object == k->object && same_string(have, k))
            return &z->table[at];
    }
}

static tnl_status grow_keys(scan *z) {
    size_t cap = z->cap_keys ? z->cap_keys * 2 : 64;
    key *keys = cap < UINT32_MAX / 2 ? realloc(z->keys, cap * sizeof *keys) : NULL;
    if (!keys)
        return no_memory(z);
    z->keys = keys;
    z->cap_keys = cap;
    free(z->table);
    z->table_size = cap * 2;
    z->table = calloc(z->table_size, sizeof *z->table);
    if (!z->table)
        return no_memory(z);
    for (size_t i = 0; i < z->n_keys; i++) /* in order of arrival: drop_keys relies on it */
        *find_slot(z, &z->keys[i]) = (uint32_t)i + 1;
    return TNL_OK;
}

static tnl_status add_key(scan *z, key k, size_t at) {
    int top = z->depth - 1;
    if (z->n_keys - z->key_base[top] >= z->limits->max_keys)
        return fault_at(z, at, TNL_JSON_LIMIT, "too many keys in an object");
    if (z->n_keys == z->cap_keys)
        TNL_TRY(grow_keys(z));
    k.object = z->object_id[top];
    k.hash = mixed(k.hash, k.object);
    uint32_t *slot = find_slot(z, &k);
    if (*slot) {
        char text[65];
        tnl_log_escape(text, sizeof text, k.raw, k.len);
        z->fault = TNL_JSON_DUPLICATE;
        return tnl_fail(z->err, TNL_E_DATA, "byte %zu: duplicate key \"%s\"", at, text);
    }
    z->keys[z->n_keys++] = k;
    *slot = (uint32_t)z->n_keys;
    return TNL_OK;
}

/* Keys leave in the reverse order of their arrival, so clearing a slot never cuts the probe
 * sequence of a key that stays. */
static void drop_keys(scan *z, size_t base) {
    while (z->n_keys > base) {
        *find_slot(z, &z->keys[z->n_keys - 1]) = 0;
        z->n_keys--;
    }
}

/* "key" : and the space behind it. */
static tnl_status scan_member(scan *z) {
    size_t at = z->i;
    if (peek(z) != '"')
        return invalid(z, "expected a key in double quotes");
    key k;
    TNL_TRY(scan_string(z, &k));
    TNL_TRY(add_key(z, k, at));
    skip_space(z);
    if (peek(z) != ':')
        return invalid(z, "expected ':' after a key");
    z->i++;
    skip_space(z);
    return TNL_OK;
}

/* ---- values ---- */

static size_t digits(scan *z) {
    size_t from = z->i;
    while (z->i < z->n && z->s[z->i] >= '0' && z->s[z->i] <= '9')
        z->i++;
    return z->i - from;
}

/* Named by its key, so that people find it; the last key stored is the innermost open one. */
static tnl_status too_large(scan *z, size_t at) {
    char text[65];
    if (!z->n_keys)
        return fault_at(z, at, TNL_JSON_NUMBER, "number too large");
    const key *k = &z->keys[z->n_keys - 1];
    tnl_log_escape(text, sizeof text, k->raw, k->len);
    z->fault = TNL_JSON_NUMBER;
    return tnl_fail(z->err, TNL_E_DATA, "byte %zu: \"%s\": number too large", at, text);
}

static tnl_status scan_number(scan *z) {
    size_t start = z->i;
    if (peek(z) == '-')
        z->i++;
    bool zero = peek(z) == '0';
    size_t whole = digits(z);
    if (whole == 0 || (zero && whole > 1))
        return fault_at(z, start, TNL_JSON_INVALID, whole ? "leading zero" : "expected a value");
    if (peek(z) == '.') {
        z->i++;
        if (digits(z) == 0)
            return invalid(z, "expected a digit after '.'");
    }
    if (peek(z) == 'e' || peek(z) == 'E') {
        z->i++;
        if (peek(z) == '+' || peek(z) == '-')
            z->i++;
        if (digits(z) == 0)
            return invalid(z, "expected a digit in the exponent");
    }
    size_t len = z->i - start;
    if (len > MAX_NUMBER)
        return fault_at(z, start, TNL_JSON_LIMIT, "number of more than 63 characters");
    char text[MAX_NUMBER + 1];
    memcpy(text, z->s + start, len);
    text[len] = 0;
    if (!isfinite(strtod(text, NULL)))
        return too_large(z, start);
    return TNL_OK;
}

static tnl_status scan_word(scan *z) {
    static const char *const words[] = {"true", "false", "null"};
    for (size_t w = 0; w < 3; w++) {
        size_t len = strlen(words[w]);
        if (z->n - z->i >= len && memcmp(z->s + z->i, words[w], len) == 0) {
            z->i += len;
            return TNL_OK;
        }
    }
    int len = tnl_utf8_char_len(z->s + z->i, z->n - z->i);
    if (len <= 0)
        return fault_at(z, z->i, TNL_JSON_UTF8, "invalid UTF-8");
    return invalid(z, z->i == 0 && len == 3 && memcmp(z->s, "\xEF\xBB\xBF", 3) == 0
                          ? "byte order mark"
                          : "expected a value");
}

static tnl_status push(scan *z, bool object) {
    if (z->depth >= z->limits->max_depth || z->depth >= MAX_DEPTH)
        return fault_at(z, z->i, TNL_JSON_LIMIT, "nested too deeply");
    int top = z->depth++;
    z->is_object[top] = object;
    z->key_base[top] = z->n_keys;
    z->object_id[top] = z->objects++;
    z->i++;
    skip_space(z);
    return TNL_OK;
}

static void pop(scan *z) {
    int top = --z->depth;
    if (z->is_object[top])
        drop_keys(z, z->key_base[top]);
    z->i++;
}

static int closer(const scan *z) {
    return z->is_object[z->depth - 1] ? '}' : ']';
}

/* The value under z->i. *open: it is a container whose first value comes next. */
static tnl_status begin_value(scan *z, bool *open) {
    *open = false;
    int c = peek(z);
    if (c < 0)
        return invalid(z, "");
    if (++z->values > z->limits->max_values)
        return fault_at(z, z->i, TNL_JSON_LIMIT, "too many values");
    if (c == '{' || c == '[') {
        TNL_TRY(push(z, c == '{'));
        if (peek(z) == closer(z)) {
            pop(z);
            return TNL_OK;
        }
        *open = true;
        return c == '{' ? scan_member(z) : TNL_OK;
    }
    if (c == '"')
        return scan_string(z, NULL);
    if (c == '-' || (c >= '0' && c <= '9'))
        return scan_number(z);
    return scan_word(z);
}

/* After a value: close what ends here. *done: the outermost value is complete, else the next
 * value of a container begins under z->i. */
static tnl_status end_value(scan *z, bool *done) {
    for (;;) {
        skip_space(z);
        *done = z->depth == 0;
        if (*done)
            return TNL_OK;
        bool object = z->is_object[z->depth - 1];
        int c = peek(z);
        if (c == ',') {
            z->i++;
            skip_space(z);
            return object ? scan_member(z) : TNL_OK;
        }
        if (c != closer(z))
            return invalid(z, object ? "expected ',' or '}'" : "expected ',' or ']'");
        pop(z);
    }
}

static tnl_status scan_document(scan *z) {
    bool open, done = false;
    skip_space(z);
    while (!done) {
        TNL_TRY(begin_value(z, &open));
        if (!open)
            TNL_TRY(end_value(z, &done));
    }
    if (z->i != z->n)
        return invalid(z, "text after the end of the JSON value");
    return TNL_OK;
}

tnl_status tnl_json_check(const char *s, size_t n, const tnl_json_limits *limits,
                          tnl_json_fault *fault, tnl_error *err) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    scan z = {.s = s, .n = n, .limits = limits, .err = err};
    /* Unforeseeable, so that nobody can prepare a text whose keys all collide. */
    z.seed = ((uint64_t)(uintptr_t)&z ^ (uint64_t)now.tv_nsec << 20) * UINT64_C(0x9E3779B97F4A7C15);
    tnl_status st;
    if (n > limits->max_bytes) {
        z.fault = TNL_JSON_LIMIT;
        st = tnl_fail(err, TNL_E_LIMIT, "%zu bytes of JSON, at most %zu", n, limits->max_bytes);
    } else {
        st = scan_document(&z);
    }
    free(z.keys);
    free(z.table);
    if (fault)
        *fault = z.fault;
    return st;
}
