/* What an answer must look like: a tree of JSON values, and the automaton that reads a text by it
 * byte by byte. Deterministic, no recursion, no allocation while it runs: a state is a small stack
 * of frames, bounded by ENG_GRAMMAR_DEPTH whatever the grammar says.
 *
 * Build: eng_grammar_new, nodes and their parts, eng_grammar_finish; from then on it is immutable,
 * any thread may use it, and references are counted. */
#ifndef TNL_SERVER_ENGINE_GRAMMAR_H
#define TNL_SERVER_ENGINE_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

enum {
    ENG_GRAMMAR_DEPTH = 32, /* values inside one another */
    ENG_GRAMMAR_NODES = 2048,
    ENG_GRAMMAR_PROPERTIES = 64, /* of one object */
    ENG_GRAMMAR_LITERALS = 1024, /* of one node */
    ENG_GRAMMAR_BYTES = 65536,   /* of all literals and keys together */
    ENG_GRAMMAR_ALTERNATIVES = 64,
    ENG_GRAMMAR_SPACE = 1, /* spaces between two marks: weak models would not stop */
};

#define ENG_GRAMMAR_NO_MAX UINT32_MAX

typedef enum eng_gkind {
    ENG_G_ANY,    /* any JSON value */
    ENG_G_OBJECT, /* the properties in their order; those not required may be left out */
    ENG_G_MAP,    /* any keys, values of `item` */
    ENG_G_ARRAY,  /* min..max values of `item` */
    ENG_G_STRING, /* min..max characters */
    ENG_G_NUMBER,
    ENG_G_INTEGER,
    ENG_G_LITERAL, /* one of some texts: enum, const, true, null */
    ENG_G_CHOICE,  /* one of some nodes that begin differently */
    ENG_G_SAME,    /* as `item`: a reference */
} eng_gkind;

typedef struct eng_grammar eng_grammar;

eng_grammar *eng_grammar_new(void); /* NULL: out of memory; one reference */
eng_grammar *eng_grammar_ref(eng_grammar *g);
void eng_grammar_unref(eng_grammar *g); /* NULL allowed */

/* Each returns false (or a negative node) when a limit is passed or memory is short; the grammar
 * can then only be released. */
int eng_grammar_node(eng_grammar *g, eng_gkind kind); /* min 0, no max, item: none */
bool eng_grammar_bounds(eng_grammar *g, int node, uint32_t min, uint32_t max);
bool eng_grammar_item(eng_grammar *g, int node, int item);
bool eng_grammar_literal(eng_grammar *g, int node, const char *json, size_t n);
/* key: as JSON, quotes included */
bool eng_grammar_property(eng_grammar *g, int node, const char *key, size_t n, int value,
                          bool required);
bool eng_grammar_alternative(eng_grammar *g, int node, int value);

/* Check and close. TNL_E_DATA: choices that begin alike, references in a circle, or values that
 * could never end within the depth; err names the reason. */
tnl_status eng_grammar_finish(eng_grammar *g, int root, tnl_error *err);

/* ---- reading a text ---- */

typedef struct eng_gframe {
    uint64_t keys;  /* object: properties that the key so far may name */
    uint32_t count; /* array: items; object: first property still to come; string: characters */
    int32_t node;
    uint16_t pos;       /* byte of a key or literal; digits of a number */
    uint16_t low, high; /* literals that fit so far; low: the property under way */
    uint8_t state, sub;
} eng_gframe;

typedef struct eng_match {
    const eng_grammar *grammar;
    int depth; /* frames in use; 0: the value is complete */
    int space; /* spaces since the last mark */
    eng_gframe frame[ENG_GRAMMAR_DEPTH];
} eng_match;

void eng_match_begin(eng_match *m, const eng_grammar *g);
/* Bytes of a state that matter: copy these. */
size_t eng_match_bytes(const eng_match *m);
/* False: the byte does not fit; *m is then worthless. */
bool eng_match_byte(eng_match *m, uint8_t byte);
bool eng_match_text(eng_match *m, const char *text, size_t n);
/* The text so far is a whole value. complete: and nothing can follow. */
bool eng_match_may_end(const eng_match *m);
bool eng_match_complete(const eng_match *m);
/* Inside a string, between two characters, with room for `chars` more: what holds no quote, no
 * backslash and no control character goes on. */
bool eng_match_in_text(const eng_match *m, size_t chars);

#endif
