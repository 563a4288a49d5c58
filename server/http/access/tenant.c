/* Tenants: entering, counting, and the table of addresses. */
#include "server/http/access/tenant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

srv_tenant *srv_tenant_new(const char *name, uint64_t id, const srv_limits *limits) {
    srv_tenant *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    snprintf(t->name, sizeof t->name, "%s", name);
    t->id = id;
    t->limits = *limits;
    atomic_init(&t->refs, 1);
    pthread_mutex_init(&t->lock, NULL);
    return t;
}

srv_tenant *srv_tenant_ref(srv_tenant *t) {
    if (t)
        atomic_fetch_add(&t->refs, 1);
    return t;
}

void srv_tenant_unref(srv_tenant *t) {
    if (!t || atomic_fetch_sub(&t->refs, 1) != 1)
        return;
    pthread_mutex_destroy(&t->lock);
    free(t);
}

void srv_tenant_set(srv_tenant *t, const srv_limits *limits, bool admin) {
    pthread_mutex_lock(&t->lock);
    t->limits = *limits;
    t->admin = admin;
    pthread_mutex_unlock(&t->lock);
}

bool srv_tenant_is_admin(srv_tenant *t) {
    pthread_mutex_lock(&t->lock);
    bool admin = t->admin;
    pthread_mutex_unlock(&t->lock);
    return admin;
}

int64_t srv_tenant_figure(srv_tenant *t, srv_figure f) {
    if (f < SRV_F_ACTIVE)
        return atomic_load(&t->figures[f]);
    pthread_mutex_lock(&t->lock);
    int64_t active = t->active;
    pthread_mutex_unlock(&t->lock);
    return active;
}

/* ---- limits ---- */

static bool refuse(srv_tenant *t, srv_problem *p, srv_err e, int wait) {
    atomic_fetch_add(&t->figures[SRV_F_REFUSED], 1);
    srv_refuse(p, e, NULL);
    p->retry_after = wait;
    return false;
}

bool srv_tenant_enter(srv_tenant *t, int64_t now_ms, srv_problem *p) {
    srv_err e = SRV_ERR_NONE;
    int wait = 0;
    if (!t)
        return true;
    pthread_mutex_lock(&t->lock);
    const srv_limits *l = &t->limits;
    if (l->parallel > 0 && t->active >= l->parallel)
        e = SRV_ERR_LIMIT_PARALLEL, wait = 1;
    else if ((wait = srv_bucket_peek(&t->tokens, l->tokens_per_minute, now_ms)) > 0)
        e = SRV_ERR_LIMIT_TOKENS;
    else if ((wait = srv_bucket_take(&t->requests, l->requests_per_minute, now_ms, 1)) > 0)
        e = SRV_ERR_LIMIT_REQUESTS;
    else
        t->active++;
    pthread_mutex_unlock(&t->lock);
    if (e != SRV_ERR_NONE)
        return refuse(t, p, e, wait);
    atomic_fetch_add(&t->figures[SRV_F_REQUESTS], 1);
    return true;
}

void srv_tenant_leave(srv_tenant *t) {
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    t->active--;
    pthread_mutex_unlock(&t->lock);
}

bool srv_tenant_reserve(srv_tenant *t, int64_t now_ms, int64_t tokens, srv_problem *p) {
    if (!t)
        return true;
    pthread_mutex_lock(&t->lock);
    int wait = srv_bucket_take(&t->tokens, t->limits.tokens_per_minute, now_ms, (double)tokens);
    pthread_mutex_unlock(&t->lock);
    return wait == 0 || refuse(t, p, SRV_ERR_LIMIT_TOKENS, wait);
}

void srv_tenant_settle(srv_tenant *t, int64_t now_ms, int64_t reserved, int64_t prompt,
                       int64_t completion) {
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    srv_bucket_return(&t->tokens, t->limits.tokens_per_minute, now_ms,
                      (double)(reserved - prompt - completion));
    pthread_mutex_unlock(&t->lock);
    atomic_fetch_add(&t->figures[SRV_F_PROMPT], prompt);
    atomic_fetch_add(&t->figures[SRV_F_GENERATED], completion);
}

/* ---- addresses ---- */

enum { CHAINS = 1024, OLDEST = 8 /* looked at for one with full buckets */ };

typedef struct place {
    srv_addr addr;
    srv_tenant *tenant;
    struct place *chain;         /* next of the same hash */
    struct place *newer, *older; /* in order of the last request */
} place;

struct srv_addresses {
    pthread_mutex_t lock;
    srv_limits limits;
    size_t n, max;
    uint64_t seed;
    place *chains[CHAINS], *newest, *oldest;
};

srv_addresses *srv_addresses_new(const srv_limits *limits, size_t max) {
    srv_addresses *a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    a->limits = *limits;
    a->max = max;
    if (getrandom(&a->seed, sizeof a->seed, 0) != (ssize_t)sizeof a->seed)
        a->seed = (uint64_t)(uintptr_t)a;
    pthread_mutex_init(&a->lock, NULL);
    return a;
}

void srv_addresses_free(srv_addresses *a) {
    if (!a)
        return;
    while (a->newest) {
        place *p = a->newest;
        a->newest = p->older;
        srv_tenant_unref(p->tenant);
        free(p);
    }
    pthread_mutex_destroy(&a->lock);
    free(a);
}

/* The seed keeps callers from choosing addresses that fall into one chain. */
static place **chain_of(srv_addresses *a, const srv_addr *addr) {
    uint64_t h = a->seed ^ (uint64_t)addr->kind;
    for (size_t i = 0; i < sizeof addr->b; i++) {
        h = (h ^ addr->b[i]) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
    }
    return &a->chains[h % CHAINS];
}

static void unlist(srv_addresses *a, place *p) {
    *(p->newer ? &p->newer->older : &a->newest) = p->older;
    *(p->older ? &p->older->newer : &a->oldest) = p->newer;
}

static void list_newest(srv_addresses *a, place *p) {
    p->newer = NULL;
    p->older = a->newest;
    *(a->newest ? &a->newest->newer : &a->oldest) = p;
    a->newest = p;
}

static void forget(srv_addresses *a, place *p) {
    place **link = chain_of(a, &p->addr);
    while (*link != p)
        link = &(*link)->chain;
    *link = p->chain;
    unlist(a, p);
    a->n--;
    srv_tenant_unref(p->tenant);
    free(p);
}

static bool is_idle(srv_tenant *t, int64_t now_ms, bool *full) {
    pthread_mutex_lock(&t->lock);
    bool idle = t->active == 0;
    *full = srv_bucket_is_full(&t->requests, t->limits.requests_per_minute, now_ms) &&
            srv_bucket_is_full(&t->tokens, t->limits.tokens_per_minute, now_ms);
    pthread_mutex_unlock(&t->lock);
    return idle;
}

static bool make_room(srv_addresses *a, int64_t now_ms) {
    place *choice = NULL;
    int idle = 0;
    if (a->n < a->max)
        return true;
    for (place *p = a->oldest; p && idle < OLDEST; p = p->newer) {
        bool full;
        if (!is_idle(p->tenant, now_ms, &full))
            continue;
        idle++;
        if (!choice || full)
            choice = p;
        if (full)
            break;
    }
    if (choice)
        forget(a, choice);
    return choice != NULL;
}

static place *add_place(srv_addresses *a, const srv_addr *addr, int64_t now_ms) {
    char name[SRV_ADDR_TEXT];
    if (!make_room(a, now_ms))
        return NULL;
    place *p = calloc(1, sizeof *p);
    srv_addr_text(name, addr);
    srv_tenant *t = p ? srv_tenant_new(name, 0, &a->limits) : NULL;
    if (!t) {
        free(p);
        return NULL;
    }
    place **chain = chain_of(a, addr);
    p->addr = *addr;
    p->tenant = t;
    p->chain = *chain;
    *chain = p;
    list_newest(a, p);
    a->n++;
    return p;
}

srv_tenant *srv_addresses_find(srv_addresses *a, const srv_addr *addr, int64_t now_ms) {
    srv_addr key = *addr;
    if (key.kind == SRV_ADDR_V6)
        memset(key.b + 8, 0, 8);
    pthread_mutex_lock(&a->lock);
    place *p = *chain_of(a, &key);
    while (p && memcmp(&p->addr, &key, sizeof key) != 0)
        p = p->chain;
    if (p) {
        unlist(a, p);
        list_newest(a, p);
    } else {
        p = add_place(a, &key, now_ms);
    }
    srv_tenant *t = p ? srv_tenant_ref(p->tenant) : NULL;
    pthread_mutex_unlock(&a->lock);
    return t;
}

size_t srv_addresses_count(srv_addresses *a) {
    pthread_mutex_lock(&a->lock);
    size_t n = a->n;
    pthread_mutex_unlock(&a->lock);
    return n;
}
