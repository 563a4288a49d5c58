/* The vocabulary as texts, arranged so that the tokens that fit a grammar are found without trying
 * each: a tree of bytes in preorder, walked with the automaton; a branch that does not fit is
 * skipped whole. Inside a string most tokens fit; they are known beforehand as one bit set, and
 * only those with a quote, a backslash or a control character are walked.
 *
 * Built once; then only eng_vocab_mask writes to it (scratch), on the engine's thread. */
#ifndef TNL_SERVER_ENGINE_VOCAB_H
#define TNL_SERVER_ENGINE_VOCAB_H

#include "server/engine/engine.h"
#include "server/engine/grammar/grammar.h"

typedef struct eng_vocab eng_vocab;

/* Text of a token, NULL or length 0: never fits (control tokens, the unknown token). */
typedef const char *(*eng_vocab_text_fn)(const void *ctx, int32_t id, size_t *n);

tnl_status eng_vocab_open(eng_vocab **out, int64_t vocab, eng_vocab_text_fn text, const void *ctx,
                          tnl_error *err);
/* The tokenizer's own; TNL_E_UNSUPPORTED without one. */
tnl_status eng_vocab_of(eng_vocab **out, int64_t vocab, const tok_model *t, tnl_error *err);
void eng_vocab_close(eng_vocab *v); /* NULL allowed */

/* Bits of the tokens that may come next, [(vocab + 63) / 64] words, valid until the next call.
 * eos (-1: none) is set when the text may end here. */
const uint64_t *eng_vocab_mask(eng_vocab *v, const eng_match *m, int32_t eos);
/* Read a token that the mask allowed (eos excepted). False: it did not fit after all. */
bool eng_vocab_take(const eng_vocab *v, eng_match *m, int32_t id);

#endif
