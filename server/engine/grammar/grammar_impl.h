/* The inside of a grammar, shared by grammar.c and match.c. */
#ifndef TNL_SERVER_ENGINE_GRAMMAR_IMPL_H
#define TNL_SERVER_ENGINE_GRAMMAR_IMPL_H

#include <stdatomic.h>

#include "server/engine/grammar/grammar.h"

typedef struct gtext {
    char *s; /* malloc'd */
    size_t n;
} gtext;

typedef struct gproperty {
    gtext key;
    int value;
    bool required;
} gproperty;

typedef struct gnode {
    eng_gkind kind;
    uint32_t min, max;
    int item;
    int height;      /* frames that the shortest value needs, at least 1 */
    uint16_t begins; /* kinds of first byte, eng_gbegin bits */
    gtext *literals; /* sorted once finished */
    gproperty *properties;
    int *choices;
    int n_literals, n_properties, n_choices;
} gnode;

struct eng_grammar {
    atomic_int refs;
    gnode *nodes;
    int n, cap, root;
    size_t bytes;
};

/* How a value may begin. */
enum {
    G_BRACE = 1,
    G_BRACKET = 2,
    G_QUOTE = 4,
    G_DIGIT = 8,
    G_TRUE = 16,
    G_FALSE = 32,
    G_NULL = 64
};
uint16_t eng_gbegin(uint8_t byte); /* 0: no value begins so */

/* A reference's target; SAME nodes do not chain once finished. */
static inline int eng_gresolve(const eng_grammar *g, int node) {
    return g->nodes[node].kind == ENG_G_SAME ? g->nodes[node].item : node;
}

#endif
