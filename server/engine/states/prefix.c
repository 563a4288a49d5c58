/* The tree and its budget: see prefix.h. Edges are whole blocks of tokens, so that every node is at
 * a block boundary; children of a node differ in their first block. A node without a state has two
 * children at least, so the number of nodes is bounded by that of states. */
#include "server/engine/states/prefix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct node {
    struct node *parent; /* NULL: a root */
    struct node *child, *next;
    int64_t pos;   /* tokens from the root to here */
    int32_t *edge; /* [n_edge] the last of them: those since the parent */
    int64_t n_edge;
    void *core;                 /* the state, NULL: none */
    struct node *older, *newer; /* nodes with states, of this tenant, in no particular order */
    double rank;                /* least goes first, */
    uint64_t used;              /* and of equals the one that was of use longest ago */
} node;

typedef struct tenant {
    uint64_t key;
    struct tenant *next;
    node root;
    node *states;
    int64_t n_states;
} tenant;

struct eng_prefix {
    mdl_model *m;
    int64_t block;
    size_t core_bytes, budget, bytes;
    tenant *tenants;
    int64_t n_states;
    uint64_t evicted, uses;
    double clock; /* rank of the last one that went: age is relative to it */
    void *spare;  /* memory of a core, not counted: one is about to be filled */
};

tnl_status eng_prefix_open(eng_prefix **out, mdl_model *m, size_t budget, tnl_error *err) {
    eng_prefix *c = *out = calloc(1, sizeof *c);
    if (!c)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory for the prefix cache");
    c->m = m;
    c->block = mdl_state_block(m);
    c->core_bytes = mdl_state_core_bytes(m);
    c->budget = budget;
    return TNL_OK;
}

/* States hold conversations. The barrier keeps the compiler from dropping the scrub. */
static void free_core(const eng_prefix *c, void *core) {
    if (!core)
        return;
    memset(core, 0, c->core_bytes);
    __asm__ volatile("" : : "r"(core) : "memory");
    free(core);
}

/* ---- nodes ---- */

static size_t node_bytes(const node *n) {
    return sizeof *n + (size_t)n->n_edge * sizeof *n->edge;
}

static void free_node(eng_prefix *c, node *n) {
    c->bytes -= node_bytes(n);
    free(n->edge);
    free(n);
}

/* A child of `parent` with these tokens, not yet linked. */
static node *new_node(eng_prefix *c, node *parent, const int32_t *tokens, int64_t n_tokens) {
    node *n = calloc(1, sizeof *n);
    int32_t *edge = malloc((size_t)n_tokens * sizeof *edge);
    if (!n || !edge) {
        free(n);
        free(edge);
        return NULL;
    }
    memcpy(edge, tokens, (size_t)n_tokens * sizeof *edge);
    n->parent = parent;
    n->pos = parent->pos + n_tokens;
    n->edge = edge;
    n->n_edge = n_tokens;
    c->bytes += node_bytes(n);
    return n;
}

static node **link_of(node *n) {
    node **at = &n->parent->child;
    while (*at != n)
        at = &(*at)->next;
    return at;
}

static void link_child(node *n) {
    n->next = n->parent->child;
    n->parent->child = n;
}

/* Put a node in the middle of the edge to `n`, behind its first `k` tokens. */
static node *split(eng_prefix *c, node *n, int64_t k) {
    node **at = link_of(n), *mid = new_node(c, n->parent, n->edge, k);
    if (!mid)
        return NULL;
    mid->next = n->next;
    *at = mid;
    mid->child = n;
    n->parent = mid;
    n->next = NULL;
    n->n_edge -= k;
    c->bytes -= (size_t)k * sizeof *n->edge;
    memmove(n->edge, n->edge + k, (size_t)n->n_edge * sizeof *n->edge);
    return mid;
}

/* The only child of `n` takes its place. When memory is short, nothing happens: a chain of nodes is
 * as good. */
static void merge(eng_prefix *c, node *n) {
    node *child = n->child;
    int32_t *edge = malloc((size_t)(n->n_edge + child->n_edge) * sizeof *edge);
    if (!edge)
        return;
    memcpy(edge, n->edge, (size_t)n->n_edge * sizeof *edge);
    memcpy(edge + n->n_edge, child->edge, (size_t)child->n_edge * sizeof *edge);
    free(child->edge);
    child->edge = edge;
    child->n_edge += n->n_edge;
    c->bytes += (size_t)n->n_edge * sizeof *edge;
    *link_of(n) = child;
    child->next = n->next;
    child->parent = n->parent;
    free_node(c, n);
}

/* Remove what is no longer needed from `n` upwards. */
static void prune(eng_prefix *c, node *n) {
    while (n->parent && !n->core && !n->child) {
        node *parent = n->parent;
        *link_of(n) = n->next;
        free_node(c, n);
        n = parent;
    }
    if (n->parent && !n->core && !n->child->next)
        merge(c, n);
}

/* ---- walking ---- */

static node *child_with(const eng_prefix *c, const node *n, const int32_t *tokens) {
    node *child = n->child;
    while (child && memcmp(child->edge, tokens, (size_t)c->block * sizeof *tokens) != 0)
        child = child->next;
    return child;
}

/* Tokens of whole blocks that the edge to `n` and tokens[0..left) begin with. */
static int64_t common(const eng_prefix *c, const node *n, const int32_t *tokens, int64_t left) {
    int64_t most = n->n_edge < left ? n->n_edge : left, i = 0;
    while (i < most && memcmp(n->edge + i, tokens + i, (size_t)c->block * sizeof *tokens) == 0)
        i += c->block;
    return i;
}

/* The deepest node of which tokens[0..n) (whole blocks) is a continuation; *into is the child
 * whose edge goes on alike for *more tokens but not to its end, NULL: there is none. */
static node *walk(const eng_prefix *c, tenant *t, const int32_t *tokens, int64_t n, node **into,
                  int64_t *more) {
    node *at = &t->root;
    *into = NULL;
    *more = 0;
    while (at->pos < n) {
        node *child = child_with(c, at, tokens + at->pos);
        if (!child)
            break;
        int64_t same = common(c, child, tokens + at->pos, n - at->pos);
        if (same < child->n_edge) {
            *into = child;
            *more = same;
            break;
        }
        at = child;
    }
    return at;
}

static tenant *tenant_of(const eng_prefix *c, uint64_t key) {
    tenant *t = c->tenants;
    while (t && t->key != key)
        t = t->next;
    return t;
}

/* ---- value ---- */

static int64_t spared_above(const node *n) {
    for (n = n->parent; n; n = n->parent)
        if (n->core)
            return n->pos;
    return 0;
}

static void touch(eng_prefix *c, node *n) {
    n->rank = c->clock + 1 + log2((double)(n->pos - spared_above(n)) / (double)c->block);
    n->used = ++c->uses;
}

static node *least(const tenant *t) {
    node *min = t->states;
    for (node *n = t->states; n; n = n->older)
        if (n->rank < min->rank || (n->rank == min->rank && n->used < min->used))
            min = n;
    return min;
}

static void drop_tenant(eng_prefix *c, tenant *t) {
    tenant **at = &c->tenants;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    c->bytes -= sizeof *t;
    free(t);
}

/* Take the state from a node; its memory becomes the spare one. */
static void drop_state(eng_prefix *c, tenant *t, node *n) {
    if (n->older)
        n->older->newer = n->newer;
    *(n->newer ? &n->newer->older : &t->states) = n->older;
    n->older = n->newer = NULL;
    t->n_states--;
    c->n_states--;
    c->bytes -= c->core_bytes;
    free_core(c, c->spare);
    c->spare = n->core;
    n->core = NULL;
    prune(c, n);
}

static bool evict(eng_prefix *c) {
    tenant *most = c->tenants;
    for (tenant *t = c->tenants; t; t = t->next)
        most = t->n_states > most->n_states ? t : most;
    if (!most)
        return false;
    node *n = least(most);
    c->clock = n->rank > c->clock ? n->rank : c->clock;
    drop_state(c, most, n);
    if (most->n_states == 0)
        drop_tenant(c, most);
    c->evicted++;
    return true;
}

/* Room for a state behind `tokens` tokens, as if none of them were known. */
static bool make_room(eng_prefix *c, int64_t tokens) {
    size_t need =
        c->core_bytes + (size_t)tokens * sizeof(int32_t) + sizeof(tenant) + 2 * sizeof(node);
    if (need > c->budget)
        return false;
    while (c->bytes + need > c->budget || c->n_states >= ENG_PREFIX_STATES)
        if (!evict(c))
            return false;
    return true;
}

/* ---- loading and storing ---- */

eng_prefix_hit eng_prefix_load(eng_prefix *c, mdl_state *s, uint64_t key, const int32_t *tokens,
                               int64_t n) {
    tenant *t = tenant_of(c, key);
    eng_prefix_hit hit = {0};
    node *into;
    int64_t more, whole = (n - 1) / c->block * c->block;
    if (!t || n < 1)
        return hit;
    node *at = walk(c, t, tokens, whole, &into, &more);
    hit.shared = at->pos + more;
    while (at && !at->core)
        at = at->parent;
    if (!at)
        return hit;
    mdl_state_core_load(c->m, s, at->core, at->pos);
    touch(c, at);
    hit.cached = at->pos;
    return hit;
}

static tenant *add_tenant(eng_prefix *c, uint64_t key) {
    tenant *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->key = key;
    t->next = c->tenants;
    c->tenants = t;
    c->bytes += sizeof *t;
    return t;
}

/* The node of tokens[0..n), made if need be. */
static node *node_at(eng_prefix *c, tenant *t, const int32_t *tokens, int64_t n) {
    node *into;
    int64_t more;
    node *at = walk(c, t, tokens, n, &into, &more);
    if (into && more > 0)
        at = split(c, into, more);
    if (!at || at->pos == n)
        return at;
    node *leaf = new_node(c, at, tokens + at->pos, n - at->pos);
    if (leaf)
        link_child(leaf);
    else
        prune(c, at);
    return leaf;
}

static void attach(eng_prefix *c, tenant *t, node *n, const mdl_state *s) {
    n->core = c->spare ? c->spare : malloc(c->core_bytes);
    c->spare = NULL;
    if (!n->core) {
        prune(c, n);
        return;
    }
    mdl_state_core_save(c->m, s, n->core);
    n->older = t->states;
    if (t->states)
        t->states->newer = n;
    t->states = n;
    t->n_states++;
    c->n_states++;
    c->bytes += c->core_bytes;
    touch(c, n);
}

void eng_prefix_store(eng_prefix *c, const mdl_state *s, uint64_t key, const int32_t *tokens) {
    int64_t n = mdl_state_pos(s) / c->block * c->block, more;
    tenant *t = tenant_of(c, key);
    node *into, *known = t ? walk(c, t, tokens, n, &into, &more) : NULL;
    if (n == 0)
        return;
    if (known && known->pos == n && known->core) {
        touch(c, known);
        return;
    }
    if (!make_room(c, n))
        return;
    t = tenant_of(c, key); /* evicting may have ended it */
    if (!t && !(t = add_tenant(c, key)))
        return;
    node *at = node_at(c, t, tokens, n);
    if (at)
        attach(c, t, at, s);
    if (t->n_states == 0)
        drop_tenant(c, t);
}

eng_prefix_stats eng_prefix_get_stats(const eng_prefix *c) {
    eng_prefix_stats s = {0};
    if (c)
        s = (eng_prefix_stats){
            .bytes = c->bytes, .budget = c->budget, .states = c->n_states, .evicted = c->evicted};
    return s;
}

void eng_prefix_close(eng_prefix *c) {
    if (!c)
        return;
    while (evict(c)) {
        /* all of them */
    }
    free_core(c, c->spare);
    free(c);
}
