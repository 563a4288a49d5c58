/* Whoever asks: a key's holder or, without keys, a client address. Limits are held here, and what
 * was used is counted here.
 *
 * Counted references: the table of keys or addresses holds one, each request another, so that a
 * tenant whose key is gone outlives its last answer. Any thread. */
#ifndef TNL_HTTP_TENANT_H
#define TNL_HTTP_TENANT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "server/http/access/keys.h"
#include "server/http/access/limits.h"
#include "server/http/access/peer.h"
#include "server/http/errors.h"

/* What it has used, for /metrics. */
typedef enum srv_figure {
    SRV_F_REQUESTS, /* within its limits */
    SRV_F_REFUSED,  /* beyond them */
    SRV_F_PROMPT,   /* tokens */
    SRV_F_GENERATED,
    SRV_F_ACTIVE, /* requests now */
    SRV_F_COUNT
} srv_figure;

typedef struct srv_tenant {
    atomic_int refs;
    uint64_t id; /* srv_key_id of the name; 0: an address, which shares what nobody owns */
    char name[SRV_KEY_NAME_MAX + 1];
    pthread_mutex_t lock; /* guards the next five */
    bool admin;           /* may see what others use */
    srv_limits limits;
    srv_bucket requests, tokens;
    int64_t active;
    atomic_int_least64_t figures[SRV_F_ACTIVE]; /* by srv_figure */
} srv_tenant;

srv_tenant *srv_tenant_new(const char *name, uint64_t id, const srv_limits *limits);
srv_tenant *srv_tenant_ref(srv_tenant *t); /* NULL allowed, also below */
void srv_tenant_unref(srv_tenant *t);
void srv_tenant_set(srv_tenant *t, const srv_limits *limits, bool admin);
bool srv_tenant_is_admin(srv_tenant *t);

/* Any figure, the current one too. */
int64_t srv_tenant_figure(srv_tenant *t, srv_figure f);

/* A request begins. False: a limit is reached; *p says which, and when to come again. */
bool srv_tenant_enter(srv_tenant *t, int64_t now_ms, srv_problem *p);
void srv_tenant_leave(srv_tenant *t);

/* It will take at most so many tokens; then: so many it did take. */
bool srv_tenant_reserve(srv_tenant *t, int64_t now_ms, int64_t tokens, srv_problem *p);
void srv_tenant_settle(srv_tenant *t, int64_t now_ms, int64_t reserved, int64_t prompt,
                       int64_t completion);

/* ---- addresses ---- */

/* Tenants by client address, a bounded number. A new one takes the place of one of the oldest, if
 * possible of one whose buckets are full again: forgetting that gives nothing away. An address with
 * a request under way keeps its place. An IPv6 address counts with its /64, which one household
 * has. */
typedef struct srv_addresses srv_addresses;

enum { SRV_ADDRESSES_MAX = 4096 };

srv_addresses *srv_addresses_new(const srv_limits *limits, size_t max);
void srv_addresses_free(srv_addresses *a);
/* A reference; NULL: out of memory, or every place is taken by a request being answered. */
srv_tenant *srv_addresses_find(srv_addresses *a, const srv_addr *addr, int64_t now_ms);
size_t srv_addresses_count(srv_addresses *a);

#endif
