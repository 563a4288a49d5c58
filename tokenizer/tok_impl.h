/* The inside of a tok_model, shared by tok_model.c, tok_encode.c and tok_stream.c only. */
#ifndef TNL_TOK_IMPL_H
#define TNL_TOK_IMPL_H

#include "tokenizer/tok.h"
#include "tokenizer/tok_proto.h"
#include "tokenizer/tok_spm.h"

/* U+2581, how the vocabulary writes a space. */
static const char tok_space_mark[3] = {'\xE2', '\x96', '\x81'};

typedef struct tok_entry {
    const char *name;  /* as the vocabulary spells it, NUL-terminated */
    const char *bytes; /* what it contributes to a text */
    uint16_t n_bytes;
    uint8_t type;    /* tok_piece_type */
    bool space_mark; /* the name begins with U+2581 */
} tok_entry;

struct tok_model {
    tok_spm *spm;
    tok_entry *entries; /* [vocab] */
    char *pool;         /* names and bytes of all entries */
    int32_t vocab;
    int32_t unk, bos, eos;
    bool dummy_prefix;
    bool strip_first; /* decoding drops the mark of a text's first piece */
    bool strip_runs;  /* ... and of the following ones, as long as the text is empty */
    bool splits;      /* long texts may be encoded in parts, tok_encode.c */
};

/* True if encoding part by part gives the ids of the whole text (tok_encode.c). */
bool tok_can_split(const tok_proto *p);

#endif
