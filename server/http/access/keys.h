/* The API keys an operator gives out: a small text, one key a line.
 *
 *     # who    key, or its digest                    limits, each optional
 *     alice    sha256:9f86d081...                    parallel=4
 *     bob      bob-secret-0123456789                 requests_per_minute=60 tokens_per_minute=20000
 *     prom     sha256:60303ae2...                    admin
 *
 * Words are separated by blanks; a word that begins with # ends the line. A line of one word is a
 * key named "default". Names are unique and short: 1..64 of A-Z a-z 0-9 . _ -, the first one a
 * letter or digit. They appear in logs and metrics, keys never do. A key has 16..4096 printable
 * ASCII characters; only its SHA-256 is kept. `admin` lets a key see what every key has used.
 *
 * A table is immutable once made; any thread may look at it. */
#ifndef TNL_HTTP_KEYS_H
#define TNL_HTTP_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/sha256.h"
#include "kernels/base/status.h"
#include "server/http/access/limits.h"

enum {
    SRV_KEY_MIN = 16,
    SRV_KEY_MAX = 4096,
    SRV_KEY_NAME_MAX = 64,
    SRV_KEYS_MAX = 1024,          /* keys of a table */
    SRV_KEY_TEXT_MAX = 1024 * 256 /* bytes of the text */
};

typedef struct srv_key {
    char name[SRV_KEY_NAME_MAX + 1];
    uint8_t digest[TNL_SHA256_BYTES];
    srv_limits limits; /* SRV_UNSET where the line says nothing */
    bool admin;
} srv_key;

typedef struct srv_keys {
    size_t n;
    srv_key key[];
} srv_keys;

/* `where` is what messages call the text; they add the line's number and never repeat a word of
 * it, which may be a key. At least one key, or TNL_E_USAGE. Free *out with free. */
tnl_status srv_keys_parse(srv_keys **out, const char *text, size_t n, const char *where,
                          tnl_error *err);

/* The key's place, n where it is unknown. Takes the same time for every key of one length, known
 * or not: all digests are compared, each to its end. */
size_t srv_keys_find(const srv_keys *k, const char *key);

bool srv_key_name_ok(const char *name);

/* A number that stands for the name and stays the same from one run to the next; never 0. */
uint64_t srv_key_id(const char *name);

#endif
