/* Writes SentencePiece model files, valid and hostile, for the tests of the tokenizer. */
#ifndef TNL_TEST_PROTO_WRITER_H
#define TNL_TEST_PROTO_WRITER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct pw_buf {
    uint8_t *p;
    size_t n, cap;
} pw_buf;

static inline void pw_raw(pw_buf *b, const void *s, size_t n) {
    if (b->cap - b->n < n) {
        b->cap = 2 * (b->n + n) + 64;
        b->p = realloc(b->p, b->cap);
        if (!b->p)
            abort();
    }
    if (n > 0)
        memcpy(b->p + b->n, s, n);
    b->n += n;
}

static inline void pw_free(pw_buf *b) {
    free(b->p);
    *b = (pw_buf){NULL, 0, 0};
}

static inline void pw_varint(pw_buf *b, uint64_t v) {
    do {
        uint8_t byte = (uint8_t)(v & 0x7F) | (v > 0x7F ? 0x80 : 0);
        pw_raw(b, &byte, 1);
        v >>= 7;
    } while (v > 0);
}

static inline void pw_int(pw_buf *b, unsigned field, uint64_t v) {
    pw_varint(b, (uint64_t)field << 3);
    pw_varint(b, v);
}

static inline void pw_bytes(pw_buf *b, unsigned field, const void *s, size_t n) {
    pw_varint(b, (uint64_t)field << 3 | 2);
    pw_varint(b, n);
    pw_raw(b, s, n);
}

static inline void pw_float(pw_buf *b, unsigned field, float f) {
    pw_varint(b, (uint64_t)field << 3 | 5);
    pw_raw(b, &f, 4); /* little-endian machines only, like the tests */
}

static inline void pw_piece_n(pw_buf *b, const char *s, size_t n, float score, uint64_t type) {
    pw_buf m = {NULL, 0, 0};
    pw_bytes(&m, 1, s, n);
    pw_float(&m, 2, score);
    pw_int(&m, 3, type);
    pw_bytes(b, 1, m.p, m.n);
    pw_free(&m);
}

static inline void pw_piece(pw_buf *b, const char *s, float score, uint64_t type) {
    pw_piece_n(b, s, strlen(s), score, type);
}

/* A message of one varint field, in top-level field `outer`. */
static inline void pw_setting(pw_buf *b, unsigned outer, unsigned field, uint64_t v) {
    pw_buf m = {NULL, 0, 0};
    pw_int(&m, field, v);
    pw_bytes(b, outer, m.p, m.n);
    pw_free(&m);
}

/* ---- a small valid model ---- */

enum { PW_UNIGRAM = 1, PW_BPE = 2, PW_TRAINER = 2, PW_NORMALIZER = 3 };

/* <unk> <s> </s>, U+2581, a..z: ids 0, 1, 2, 3, 4.. */
static inline void pw_base(pw_buf *b, int model_type) {
    pw_piece(b, "<unk>", 0, 2);
    pw_piece(b, "<s>", 0, 3);
    pw_piece(b, "</s>", 0, 3);
    pw_piece(b, "\xE2\x96\x81", -1, 1);
    for (char c = 'a'; c <= 'z'; c++)
        pw_piece_n(b, &c, 1, (float)('`' - c), 1);
    pw_setting(b, PW_TRAINER, 3, (uint64_t)model_type);
}

static inline void pw_byte_pieces(pw_buf *b, int count) {
    for (int i = 0; i < count; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        pw_piece(b, name, 0, 6);
    }
}

/* ---- a normaliser trie ---- */

/* One block of 256 units per node: node k's children lie in block k. Node 0 is the root. */
typedef struct pw_trie {
    uint32_t *units;
    uint32_t n_nodes;
} pw_trie;

static inline uint32_t pw_node_base(uint32_t node) {
    return 256 * (node + 1); /* block 0 holds the root's own unit */
}

static inline void pw_trie_init(pw_trie *t) {
    t->units = NULL;
    t->n_nodes = 0;
}

static inline uint32_t pw_trie_block(pw_trie *t) {
    uint32_t blocks = t->n_nodes + 2, first = t->n_nodes == 0 ? 0 : 256 * (blocks - 1);
    t->units = realloc(t->units, (size_t)256 * blocks * 4);
    if (!t->units)
        abort();
    for (uint32_t i = first; i < 256 * blocks; i++)
        t->units[i] = (i & 0xFF) ^ 1; /* a label nobody asks for here */
    if (t->n_nodes == 0)
        t->units[0] = pw_node_base(0) << 10;
    return t->n_nodes++;
}

static inline uint32_t *pw_unit(pw_trie *t, uint32_t parent, unsigned char c) {
    return &t->units[pw_node_base(parent) ^ c];
}

static inline void pw_link(pw_trie *t, uint32_t parent, unsigned char c, uint32_t child) {
    uint32_t pos = pw_node_base(parent) ^ c;
    *pw_unit(t, parent, c) = c | (pos ^ pw_node_base(child)) << 10;
}

/* The text that ends with byte c below `parent` is replaced by the text at `value`; its node. */
static inline uint32_t pw_rule(pw_trie *t, uint32_t parent, unsigned char c, uint32_t value) {
    uint32_t child = pw_trie_block(t);
    pw_link(t, parent, c, child);
    *pw_unit(t, parent, c) |= 0x100;
    t->units[pw_node_base(child)] = 0x80000000u | value;
    return child;
}

/* Append the normaliser message with this trie and these texts; frees the trie. */
static inline void pw_charsmap(pw_buf *b, pw_trie *t, const void *texts, size_t n_texts) {
    uint32_t size = 256 * (t->n_nodes + 1) * 4;
    pw_buf map = {NULL, 0, 0}, m = {NULL, 0, 0};
    pw_raw(&map, &size, 4);
    pw_raw(&map, t->units, size);
    pw_raw(&map, texts, n_texts);
    pw_bytes(&m, 2, map.p, map.n);
    pw_bytes(b, PW_NORMALIZER, m.p, m.n);
    pw_free(&map);
    pw_free(&m);
    free(t->units);
}

static inline void pw_charsmap_raw(pw_buf *b, const void *map, size_t n) {
    pw_buf m = {NULL, 0, 0};
    pw_bytes(&m, 2, map, n);
    pw_bytes(b, PW_NORMALIZER, m.p, m.n);
    pw_free(&m);
}

#endif
