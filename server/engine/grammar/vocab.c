/* The tree of token texts and the walk through it: see vocab.h. */
#include "server/engine/grammar/vocab.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_TEXT = 512 }; /* longer tokens never fit: none exists in a SentencePiece vocabulary */

typedef struct entry {
    const char *s;
    uint32_t n;
    int32_t id;
} entry;

/* Nodes in preorder. A node's subtree ends before `end`; its tokens are tokens[first..first+n). */
typedef struct tnode {
    int32_t end, first, n;
    uint16_t depth; /* of its byte in a token, from 1 */
    uint8_t byte;
} tnode;

typedef struct tree {
    tnode *nodes;
    int32_t *tokens;
    int32_t n_nodes, n_tokens;
} tree;

struct eng_vocab {
    int64_t vocab;
    entry *text;       /* [vocab] */
    char *bytes;       /* their texts */
    tree all, special; /* special: what is not plain */
    uint64_t *plain;   /* tokens that keep a string a string */
    uint64_t *mask;
    size_t longest;  /* plain token, in characters at most */
    eng_match *path; /* [MAX_TEXT + 1] */
};

/* ---- building ---- */

static int by_text(const void *a, const void *b) {
    const entry *x = a, *y = b;
    int c = memcmp(x->s, y->s, x->n < y->n ? x->n : y->n);
    if (c)
        return c;
    return x->n != y->n ? (x->n > y->n ? 1 : -1) : (x->id > y->id) - (x->id < y->id);
}

/* The node at each depth of the entry under way. */
typedef struct builder {
    tree *t;
    int32_t open[MAX_TEXT + 1];
    uint32_t depth;
} builder;

static void close_below(builder *b, uint32_t depth) {
    for (; b->depth > depth; b->depth--)
        b->t->nodes[b->open[b->depth]].end = b->t->n_nodes;
}

static void add_entry(builder *b, const entry *e, const entry *before) {
    uint32_t common = 0;
    while (before && common < e->n && common < before->n && e->s[common] == before->s[common])
        common++;
    close_below(b, common);
    for (uint32_t i = common; i < e->n; i++) {
        b->open[++b->depth] = b->t->n_nodes;
        b->t->nodes[b->t->n_nodes++] =
            (tnode){.first = b->t->n_tokens, .depth = (uint16_t)b->depth, .byte = (uint8_t)e->s[i]};
    }
    tnode *last = &b->t->nodes[b->open[b->depth]];
    if (last->n == 0)
        last->first = b->t->n_tokens;
    last->n++;
    b->t->tokens[b->t->n_tokens++] = e->id;
}

/* Entries sorted; every byte of an entry makes at most one node. */
static bool build_tree(tree *t, const entry *e, size_t n) {
    size_t bytes = 0;
    builder b = {.t = t};
    for (size_t i = 0; i < n; i++)
        bytes += e[i].n;
    t->nodes = calloc(bytes ? bytes : 1, sizeof *t->nodes);
    t->tokens = calloc(n ? n : 1, sizeof *t->tokens);
    if (!t->nodes || !t->tokens)
        return false;
    for (size_t i = 0; i < n; i++)
        add_entry(&b, &e[i], i ? &e[i - 1] : NULL);
    close_below(&b, 0);
    tnode *fit = realloc(t->nodes, (size_t)(t->n_nodes ? t->n_nodes : 1) * sizeof *fit);
    t->nodes = fit ? fit : t->nodes;
    return true;
}

static bool copy_texts(eng_vocab *v, eng_vocab_text_fn text, const void *ctx) {
    size_t total = 0, at = 0, n;
    for (int64_t i = 0; i < v->vocab; i++) {
        const char *s = text(ctx, (int32_t)i, &n);
        total += s && n <= MAX_TEXT ? n : 0;
    }
    v->bytes = malloc(total ? total : 1);
    for (int64_t i = 0; v->bytes && i < v->vocab; i++) {
        const char *s = text(ctx, (int32_t)i, &n);
        n = s && n <= MAX_TEXT ? n : 0;
        v->text[i] = (entry){v->bytes + at, (uint32_t)n, (int32_t)i};
        if (n)
            memcpy(v->bytes + at, s, n);
        at += n;
    }
    return v->bytes != NULL;
}

/* A string without end, to ask which tokens stay inside it. */
static bool find_plain(eng_vocab *v) {
    tnl_error err;
    eng_grammar *g = eng_grammar_new();
    int node = g ? eng_grammar_node(g, ENG_G_STRING) : -1;
    bool ok = node >= 0 && eng_grammar_finish(g, node, &err) == TNL_OK;
    for (int64_t i = 0; ok && i < v->vocab; i++) {
        const entry *e = &v->text[i];
        eng_match m;
        eng_match_begin(&m, g);
        eng_match_byte(&m, '"');
        if (e->n == 0 || memchr(e->s, '"', e->n) || memchr(e->s, '\\', e->n) ||
            !eng_match_text(&m, e->s, e->n))
            continue;
        v->plain[i / 64] |= (uint64_t)1 << (i % 64);
        v->longest = e->n > v->longest ? e->n : v->longest;
    }
    eng_grammar_unref(g);
    return ok;
}

static bool is_plain(const eng_vocab *v, int32_t id) {
    return v->plain[id / 64] >> (id % 64) & 1;
}

static bool build_trees(eng_vocab *v) {
    entry *list = malloc((size_t)v->vocab * sizeof *list);
    size_t n = 0, rest = 0;
    if (!list)
        return false;
    for (int64_t i = 0; i < v->vocab; i++)
        if (v->text[i].n)
            list[n++] = v->text[i];
    qsort(list, n, sizeof *list, by_text);
    bool ok = build_tree(&v->all, list, n);
    for (size_t i = 0; i < n; i++)
        if (!is_plain(v, list[i].id))
            list[rest++] = list[i];
    ok = ok && build_tree(&v->special, list, rest);
    free(list);
    return ok;
}

tnl_status eng_vocab_open(eng_vocab **out, int64_t vocab, eng_vocab_text_fn text, const void *ctx,
                          tnl_error *err) {
    *out = NULL;
    size_t words = (size_t)(vocab + 63) / 64;
    eng_vocab *v = calloc(1, sizeof *v);
    if (!v)
        goto fail;
    v->vocab = vocab;
    v->text = calloc((size_t)vocab, sizeof *v->text);
    v->plain = calloc(words, sizeof *v->plain);
    v->mask = calloc(words, sizeof *v->mask);
    v->path = calloc(MAX_TEXT + 1, sizeof *v->path);
    if (!v->text || !v->plain || !v->mask || !v->path || !copy_texts(v, text, ctx) ||
        !find_plain(v) || !build_trees(v))
        goto fail;
    *out = v;
    return TNL_OK;
fail:
    eng_vocab_close(v);
    return tnl_fail(err, TNL_E_NOMEM, "out of memory for the texts of %lld tokens",
                    (long long)vocab);
}

void eng_vocab_close(eng_vocab *v) {
    if (!v)
        return;
    free(v->all.nodes);
    free(v->all.tokens);
    free(v->special.nodes);
    free(v->special.tokens);
    free(v->text);
    free(v->bytes);
    free(v->plain);
    free(v->mask);
    free(v->path);
    free(v);
}

/* ---- the tokenizer's texts ---- */

#ifdef TNL_HAVE_TOKENIZER

static const char *piece_text(const void *t, int32_t id, size_t *n) {
    *n = 0;
    return id < tok_vocab(t) && id != tok_unk(t) ? tok_piece(t, id, n) : NULL;
}

tnl_status eng_vocab_of(eng_vocab **out, int64_t vocab, const tok_model *t, tnl_error *err) {
    *out = NULL;
    if (!t)
        return tnl_fail(err, TNL_E_UNSUPPORTED, "a grammar needs a tokenizer");
    return eng_vocab_open(out, vocab, piece_text, t, err);
}

#else

tnl_status eng_vocab_of(eng_vocab **out, int64_t vocab, const tok_model *t, tnl_error *err) {
    (void)vocab, (void)t;
    *out = NULL;
    return tnl_fail(err, TNL_E_UNSUPPORTED, "a grammar needs a tokenizer");
}

#endif

/* ---- masks ---- */

static void walk(eng_vocab *v, const tree *t) {
    for (int32_t i = 0; i < t->n_nodes;) {
        const tnode *node = &t->nodes[i];
        const eng_match *from = &v->path[node->depth - 1];
        eng_match *to = &v->path[node->depth];
        memcpy(to, from, eng_match_bytes(from));
        if (!eng_match_byte(to, node->byte)) {
            i = node->end;
            continue;
        }
        for (int32_t k = 0; k < node->n; k++) {
            int32_t id = t->tokens[node->first + k];
            v->mask[id / 64] |= (uint64_t)1 << (id % 64);
        }
        i++;
    }
}

const uint64_t *eng_vocab_mask(eng_vocab *v, const eng_match *m, int32_t eos) {
    size_t bytes = (size_t)(v->vocab + 63) / 64 * sizeof *v->mask;
    bool in_text = eng_match_in_text(m, v->longest);
    memcpy(&v->path[0], m, eng_match_bytes(m));
    if (in_text)
        memcpy(v->mask, v->plain, bytes);
    else
        memset(v->mask, 0, bytes);
    walk(v, in_text ? &v->special : &v->all);
    if (eos >= 0 && eos < v->vocab && eng_match_may_end(m))
        v->mask[eos / 64] |= (uint64_t)1 << (eos % 64);
    return v->mask;
}

bool eng_vocab_take(const eng_vocab *v, eng_match *m, int32_t id) {
    const entry *e = &v->text[id];
    return e->n > 0 && eng_match_text(m, e->s, e->n);
}
