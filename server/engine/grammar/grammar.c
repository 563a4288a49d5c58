/* Building a grammar, and the checks that make it deterministic and finite. */
#include "server/engine/grammar/grammar.h"

#include <stdlib.h>
#include <string.h>

#include "server/engine/grammar/grammar_impl.h"

/* ---- memory ---- */

eng_grammar *eng_grammar_new(void) {
    eng_grammar *g = calloc(1, sizeof *g);
    if (g)
        atomic_init(&g->refs, 1);
    return g;
}

eng_grammar *eng_grammar_ref(eng_grammar *g) {
    atomic_fetch_add(&g->refs, 1);
    return g;
}

static void free_node(gnode *n) {
    for (int i = 0; i < n->n_literals; i++)
        free(n->literals[i].s);
    for (int i = 0; i < n->n_properties; i++)
        free(n->properties[i].key.s);
    free(n->literals);
    free(n->properties);
    free(n->choices);
}

void eng_grammar_unref(eng_grammar *g) {
    if (!g || atomic_fetch_sub(&g->refs, 1) != 1)
        return;
    for (int i = 0; i < g->n; i++)
        free_node(&g->nodes[i]);
    free(g->nodes);
    free(g);
}

/* Room for one more element in an array that grows by doubling from 4. */
static bool grow(void **array, int n, int limit, size_t size) {
    if (n >= limit)
        return false;
    if (n > 0 && (n < 4 || (n & (n - 1)) != 0))
        return true;
    void *more = realloc(*array, size * (size_t)(n < 4 ? 4 : 2 * n));
    if (more)
        *array = more;
    return more != NULL;
}

static bool copy_text(eng_grammar *g, gtext *out, const char *s, size_t n) {
    if (n > ENG_GRAMMAR_BYTES - g->bytes)
        return false;
    out->s = malloc(n ? n : 1);
    if (!out->s)
        return false;
    memcpy(out->s, s, n);
    out->n = n;
    g->bytes += n;
    return true;
}

/* ---- parts ---- */

int eng_grammar_node(eng_grammar *g, eng_gkind kind) {
    void *nodes = g->nodes;
    if (!grow(&nodes, g->n, ENG_GRAMMAR_NODES, sizeof *g->nodes))
        return -1;
    g->nodes = nodes;
    g->nodes[g->n] = (gnode){.kind = kind, .max = ENG_GRAMMAR_NO_MAX, .item = -1};
    return g->n++;
}

bool eng_grammar_bounds(eng_grammar *g, int node, uint32_t min, uint32_t max) {
    g->nodes[node].min = min;
    g->nodes[node].max = max;
    return min <= max;
}

bool eng_grammar_item(eng_grammar *g, int node, int item) {
    g->nodes[node].item = item;
    return item >= 0;
}

bool eng_grammar_literal(eng_grammar *g, int node, const char *json, size_t n) {
    gnode *to = &g->nodes[node];
    void *array = to->literals;
    if (n == 0 || !grow(&array, to->n_literals, ENG_GRAMMAR_LITERALS, sizeof *to->literals))
        return false;
    to->literals = array;
    if (!copy_text(g, &to->literals[to->n_literals], json, n))
        return false;
    to->n_literals++;
    return true;
}

bool eng_grammar_property(eng_grammar *g, int node, const char *key, size_t n, int value,
                          bool required) {
    gnode *to = &g->nodes[node];
    void *array = to->properties;
    if (value < 0 ||
        !grow(&array, to->n_properties, ENG_GRAMMAR_PROPERTIES, sizeof *to->properties))
        return false;
    to->properties = array;
    gproperty *p = &to->properties[to->n_properties];
    if (!copy_text(g, &p->key, key, n))
        return false;
    p->value = value;
    p->required = required;
    to->n_properties++;
    return true;
}

bool eng_grammar_alternative(eng_grammar *g, int node, int value) {
    gnode *to = &g->nodes[node];
    void *array = to->choices;
    if (value < 0 || !grow(&array, to->n_choices, ENG_GRAMMAR_ALTERNATIVES, sizeof *to->choices))
        return false;
    to->choices = array;
    to->choices[to->n_choices++] = value;
    return true;
}

/* ---- closing ---- */

uint16_t eng_gbegin(uint8_t byte) {
    switch (byte) {
    case '{':
        return G_BRACE;
    case '[':
        return G_BRACKET;
    case '"':
        return G_QUOTE;
    case 't':
        return G_TRUE;
    case 'f':
        return G_FALSE;
    case 'n':
        return G_NULL;
    default:
        return byte == '-' || (byte >= '0' && byte <= '9') ? G_DIGIT : 0;
    }
}

/* Every SAME points at its last target. A chain longer than the nodes is a circle. */
static tnl_status resolve(eng_grammar *g, tnl_error *err) {
    for (int i = 0; i < g->n; i++) {
        int at = i, hops = 0;
        while (g->nodes[at].kind == ENG_G_SAME && hops++ <= g->n) {
            at = g->nodes[at].item;
            if (at < 0)
                return tnl_fail(err, TNL_E_DATA, "a reference leads nowhere");
        }
        if (g->nodes[at].kind == ENG_G_SAME)
            return tnl_fail(err, TNL_E_DATA, "references lead in a circle");
        if (at != i)
            g->nodes[i].item = at;
    }
    return TNL_OK;
}

static int by_text(const void *a, const void *b) {
    const gtext *x = a, *y = b;
    size_t n = x->n < y->n ? x->n : y->n;
    int c = memcmp(x->s, y->s, n);
    return c ? c : (x->n > y->n) - (x->n < y->n);
}

static void sort_literals(gnode *n) {
    if (n->n_literals == 0)
        return;
    qsort(n->literals, (size_t)n->n_literals, sizeof *n->literals, by_text);
    int kept = 1;
    for (int i = 1; i < n->n_literals; i++) {
        if (by_text(&n->literals[i], &n->literals[kept - 1]) == 0)
            free(n->literals[i].s);
        else
            n->literals[kept++] = n->literals[i];
    }
    n->n_literals = kept;
}

static uint16_t own_begins(const gnode *n) {
    uint16_t all = 0;
    switch (n->kind) {
    case ENG_G_ANY:
        return G_BRACE | G_BRACKET | G_QUOTE | G_DIGIT | G_TRUE | G_FALSE | G_NULL;
    case ENG_G_OBJECT:
    case ENG_G_MAP:
        return G_BRACE;
    case ENG_G_ARRAY:
        return G_BRACKET;
    case ENG_G_STRING:
        return G_QUOTE;
    case ENG_G_NUMBER:
    case ENG_G_INTEGER:
        return G_DIGIT;
    case ENG_G_LITERAL:
        for (int i = 0; i < n->n_literals; i++)
            all |= eng_gbegin((uint8_t)n->literals[i].s[0]);
        return all;
    default:
        return 0;
    }
}

/* One round: what a node begins with and how high it is, from its parts. True: something changed.
 */
static bool settle(eng_grammar *g, gnode *n) {
    int height = 1;
    uint16_t begins = own_begins(n);
    if (n->kind == ENG_G_CHOICE) {
        height = ENG_GRAMMAR_DEPTH + 1;
        for (int i = 0; i < n->n_choices; i++) {
            const gnode *c = &g->nodes[eng_gresolve(g, n->choices[i])];
            height = c->height < height ? c->height : height;
            begins |= c->begins;
        }
    } else if (n->kind == ENG_G_ARRAY && n->min > 0) {
        height += g->nodes[eng_gresolve(g, n->item)].height;
    } else if (n->kind == ENG_G_OBJECT) {
        for (int i = 0; i < n->n_properties; i++) {
            int h = g->nodes[eng_gresolve(g, n->properties[i].value)].height + 1;
            if (n->properties[i].required && h > height)
                height = h;
        }
    }
    if (height > ENG_GRAMMAR_DEPTH + 1)
        height = ENG_GRAMMAR_DEPTH + 1;
    bool changed = height != n->height || begins != n->begins;
    n->height = height;
    n->begins = begins;
    return changed;
}

/* From "endless" downward, so that a recursion that never ends stays endless. Heights fall by at
 * least one in a round or are final, so the rounds are bounded by the depth; a choice of choices
 * adds one for each link. */
static tnl_status settle_all(eng_grammar *g, tnl_error *err) {
    bool changed = true;
    for (int i = 0; i < g->n; i++)
        g->nodes[i].height = ENG_GRAMMAR_DEPTH + 1;
    for (int round = 0; changed; round++) {
        changed = false;
        if (round > g->n + ENG_GRAMMAR_DEPTH)
            return tnl_fail(err, TNL_E_DATA, "choices lead in a circle");
        for (int i = g->n - 1; i >= 0; i--)
            if (g->nodes[i].kind != ENG_G_SAME)
                changed |= settle(g, &g->nodes[i]);
    }
    return TNL_OK;
}

static tnl_status check_node(const eng_grammar *g, const gnode *n, tnl_error *err) {
    uint16_t seen = 0;
    if ((n->kind == ENG_G_ARRAY || n->kind == ENG_G_MAP) && n->item < 0)
        return tnl_fail(err, TNL_E_DATA, "a list without a kind of item");
    if (n->kind == ENG_G_LITERAL && n->n_literals == 0)
        return tnl_fail(err, TNL_E_DATA, "a choice of no values");
    if (n->kind == ENG_G_CHOICE && n->n_choices == 0)
        return tnl_fail(err, TNL_E_DATA, "a choice of no alternatives");
    for (int i = 0; i < n->n_choices; i++) {
        uint16_t begins = g->nodes[eng_gresolve(g, n->choices[i])].begins;
        if (begins & seen)
            return tnl_fail(err, TNL_E_DATA,
                            "alternatives must begin differently (object, array, string, number, "
                            "true, false, null)");
        seen |= begins;
    }
    return TNL_OK;
}

tnl_status eng_grammar_finish(eng_grammar *g, int root, tnl_error *err) {
    if (root < 0)
        return tnl_fail(err, TNL_E_DATA, "no root");
    TNL_TRY(resolve(g, err));
    for (int i = 0; i < g->n; i++)
        sort_literals(&g->nodes[i]);
    for (int i = 0; i < g->n; i++) /* before heights: they follow items */
        if ((g->nodes[i].kind == ENG_G_ARRAY || g->nodes[i].kind == ENG_G_MAP) &&
            g->nodes[i].item < 0)
            return tnl_fail(err, TNL_E_DATA, "a list without a kind of item");
    TNL_TRY(settle_all(g, err));
    for (int i = 0; i < g->n; i++)
        TNL_TRY(check_node(g, &g->nodes[i], err));
    g->root = eng_gresolve(g, root);
    if (g->nodes[g->root].height > ENG_GRAMMAR_DEPTH)
        return tnl_fail(err, TNL_E_DATA, "the values could never end, or only below %d levels",
                        ENG_GRAMMAR_DEPTH);
    return TNL_OK;
}
