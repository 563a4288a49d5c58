/* tnl key: a fresh API key, and the line of a key file that admits it. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "server/cli/cli.h"
#include "server/http/access/keys.h"

enum { RANDOM_BYTES = 24 };

static const cli_spec spec = {
    .name = "tnl key",
    .args = "NAME [LIMIT...]",
    .about =
        "Make an API key. Its line for the file of 'tnl serve --api-key-file' goes to standard\n"
        "output and holds a digest only; the key itself is shown once, on standard error.",
    .min_args = 1,
    .max_args = 8,
    .examples = "  (umask 077; tnl key alice >>keys)\n"
                "  tnl key bob parallel=4 requests_per_minute=60 tokens_per_minute=20000\n",
    .notes = "LIMIT is requests_per_minute=N, tokens_per_minute=N, parallel=N or admin: see\n"
             "'tnl serve --help'.\n",
};

static void put_hex(char *out, const uint8_t *bytes, size_t n) {
    for (size_t i = 0; i < n; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

static tnl_status make_key(char *out, size_t room, tnl_error *err) {
    uint8_t raw[RANDOM_BYTES];
    char hex[2 * RANDOM_BYTES + 1];
    if (getrandom(raw, sizeof raw, 0) != (ssize_t)sizeof raw)
        return tnl_fail(err, TNL_E_IO, "no random numbers can be had");
    put_hex(hex, raw, sizeof raw);
    snprintf(out, room, "tnl-%s", hex);
    return TNL_OK;
}

/* The line, checked by the reader of key files. */
static tnl_status make_line(char *out, size_t room, const char *key, const cli_args *a,
                            tnl_error *err) {
    uint8_t digest[TNL_SHA256_BYTES];
    char hex[2 * TNL_SHA256_BYTES + 1];
    srv_keys *keys;
    tnl_sha256_of(digest, key, strlen(key));
    put_hex(hex, digest, sizeof digest);
    size_t at = (size_t)snprintf(out, room, "%s sha256:%s", a->v[0], hex);
    for (int i = 1; i < a->n && at < room; i++)
        at += (size_t)snprintf(out + at, room - at, " %s", a->v[i]);
    if (at >= room)
        return tnl_fail(err, TNL_E_USAGE, "the line is longer than %zu bytes", room - 1);
    for (int i = 0; i < a->n; i++)
        if (!a->v[i][0] || strpbrk(a->v[i], " \t\r\n#"))
            return tnl_fail(err, TNL_E_USAGE, "a word is empty or holds a blank or #");
    TNL_TRY(srv_keys_parse(&keys, out, at, "line", err));
    free(keys);
    return TNL_OK;
}

int cli_key(int argc, char **argv) {
    char none, key[64], line[1024];
    cli_args a;
    int code;
    if (cli_begin(&a, &spec, &none, argc, argv, &code)) {
        tnl_error err = {0};
        tnl_status s = make_key(key, sizeof key, &err);
        if (s == TNL_OK)
            s = make_line(line, sizeof line, key, &a, &err);
        if (s == TNL_OK) {
            puts(line);
            fprintf(stderr, "The key of %s, shown only now: %s\n", a.v[0], key);
        } else {
            code = cli_report(&spec, s, &err);
        }
    }
    cli_args_clear(&a);
    return code;
}
