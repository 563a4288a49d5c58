/* Our own reading of tokenizer.model (a serialised SentencePiece ModelProto), before the library
 * sees it.
 *
 * SentencePiece 0.1.97 crashes on, or silently accepts, files that are malformed: a normaliser
 * trie with offsets outside, deeply nested user-defined symbols, very long pieces, NaN scores. What
 * tok_proto_scan accepts is free of these. One pass over the wire format plus a sort of the
 * pieces; memory is bounded by the number of pieces. Rows and strings point into the caller's
 * bytes, which must outlive the tok_proto. Any thread. */
#ifndef TNL_TOK_PROTO_H
#define TNL_TOK_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

enum {
    TOK_MAX_FILE_BYTES = 64 << 20,
    TOK_MAX_PIECES = 1 << 20,
    TOK_MAX_PIECE_BYTES = 256,
    TOK_MAX_NESTED = 32,               /* user-defined pieces that are prefixes of one another */
    TOK_MAX_CHARSMAP_BYTES = 16 << 20, /* trie and texts */
    TOK_MAX_EXPANSION = 16,            /* bytes a normalisation rule may make out of one */
};

typedef enum tok_piece_type {
    TOK_NORMAL = 1,
    TOK_UNKNOWN = 2,
    TOK_CONTROL = 3,
    TOK_USER = 4,
    TOK_UNUSED = 5,
    TOK_BYTE = 6,
} tok_piece_type;

typedef struct tok_span {
    const char *s;
    size_t n;
} tok_span;

typedef struct tok_row {
    const char *text;
    uint16_t n; /* 1..TOK_MAX_PIECE_BYTES */
    uint8_t type;
    uint8_t byte; /* its value, for TOK_BYTE */
    float score;
} tok_row;

typedef struct tok_proto {
    tok_row *rows; /* [n_rows], by id */
    size_t n_rows;
    int model_type; /* 1 unigram, 2 BPE */
    bool byte_fallback;
    bool add_dummy_prefix;
    bool remove_extra_whitespaces;
    bool escape_whitespaces;
    int32_t unk, bos, eos, pad; /* -1: none */
    tok_span unk_surface;       /* what <unk> decodes to */
    tok_span charsmap;          /* n = 0: none */
} tok_proto;

/* On failure *out is empty and err says which piece or field, what was found and expected. */
tnl_status tok_proto_scan(tok_proto *out, const uint8_t *bytes, size_t n, tnl_error *err);
void tok_proto_free(tok_proto *p); /* empties it; an empty one is allowed */

/* The normalisation rules alone (tok_charsmap.c): the double-array trie is walked once, so that no
 * text can make a look-up leave it, match more than TOK_MAX_NESTED rules at one place, or grow by
 * more than TOK_MAX_EXPANSION. */
tnl_status tok_charsmap_check(tok_span map, tnl_error *err);

#endif
