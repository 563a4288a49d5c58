/* Who may ask: API keys, the names accepted in Host, the origins of browsers, trusted proxies.
 *
 * Only digests of keys are kept. Everything but the table of keys is immutable after
 * srv_access_open; the table is replaced as a whole, under a lock that readers share. Any thread.
 */
#ifndef TNL_HTTP_ACCESS_H
#define TNL_HTTP_ACCESS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "server/http/access/keys.h"
#include "server/http/access/peer.h"
#include "server/http/access/tenant.h"
#include "server/http/settings.h"

/* Keys and who holds them; NULL keys: none is asked for. */
typedef struct srv_holders {
    srv_keys *keys;
    srv_tenant **tenant; /* [keys->n] */
} srv_holders;

typedef struct srv_access {
    pthread_rwlock_t lock; /* guards `now` */
    srv_holders now;
    bool keyed; /* constant: a reload cannot leave the door open */
    bool opened;
    const char *key_file;     /* NULL: none, the key came with the environment */
    srv_limits preset;        /* of a key whose line says nothing, or of each address */
    srv_addresses *addresses; /* NULL: not limited */
    srv_nets trusted;
    const char *cors; /* comma-separated origins, NULL: none */
    const char *bind_host;
    const char *allowed; /* comma-separated, NULL: none */
    bool bind_any;       /* bound to every address: any IP literal is ours */
} srv_access;

/* Reads the keys from the file or from the variable TNL_API_KEY, which is wiped. Refuses a public
 * address without a key unless the settings insist (TNL_E_USAGE). */
tnl_status srv_access_open(srv_access *out, const srv_settings *s, tnl_error *err);
void srv_access_close(srv_access *a);

/* Read the key file again. On failure the keys stay as they are. A key that stays keeps its
 * counts; requests of one that is gone finish. Without a file there is nothing to do. */
tnl_status srv_access_reload(srv_access *a, tnl_error *err);

/* `value` of an Authorization header, NULL when there is none: a reference to the key's holder, or
 * NULL. Takes the same time for every wrong key of one length. */
srv_tenant *srv_access_holder(srv_access *a, const char *value);

size_t srv_access_count(srv_access *a); /* keys */
/* Call fn for every holder, in the order of the file. */
void srv_access_each(srv_access *a, void (*fn)(void *ctx, srv_tenant *t), void *ctx);

/* ---- origin.c ---- */

/* `host` of a Host header, port and brackets allowed. */
bool srv_access_host_ok(const srv_access *a, const char *host);

/* A browser's Origin must be this very site. */
bool srv_access_origin_ok(const char *origin, const char *host);

enum { SRV_ORIGIN_MAX = 256 };

/* A piece of the settings' list: never what a client sent. */
typedef struct srv_origin {
    const char *p; /* NULL: not allowed */
    size_t n;
} srv_origin;

/* The listed origin that this one is; "*" if that is listed. */
srv_origin srv_access_cors(const srv_access *a, const char *origin);
tnl_status srv_access_check_origins(const char *list, tnl_error *err);

/* 127.0.0.0/8, ::1 or "localhost". */
bool srv_access_is_loopback(const char *host);

#endif
