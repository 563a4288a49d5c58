/* Who may ask: the API key, the names accepted in Host, the origins of browsers.
 *
 * Only a digest of the key is kept. An srv_access is immutable after srv_access_open. */
#ifndef TNL_HTTP_ACCESS_H
#define TNL_HTTP_ACCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "server/http/settings.h"
#include "server/http/sha256.h"

typedef struct srv_access {
    bool has_key;
    uint8_t key[SRV_SHA256_BYTES];
    const char *bind_host;
    const char *allowed; /* comma-separated, NULL: none */
    bool bind_any;       /* bound to every address: any IP literal is ours */
} srv_access;

/* Reads the key from the file or from the variable TNL_API_KEY, which is wiped. Refuses a public
 * address without a key unless the settings insist (TNL_E_USAGE). */
tnl_status srv_access_open(srv_access *out, const srv_settings *s, tnl_error *err);

/* `value` of an Authorization header, NULL when there is none. Takes the same time for every wrong
 * key of one length. */
bool srv_access_key_ok(const srv_access *a, const char *value);

/* `host` of a Host header, port and brackets allowed. */
bool srv_access_host_ok(const srv_access *a, const char *host);

/* A browser's Origin must be this very site. */
bool srv_access_origin_ok(const char *origin, const char *host);

/* 127.0.0.0/8, ::1 or "localhost". */
bool srv_access_is_loopback(const char *host);

#endif
