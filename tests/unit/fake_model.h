/* A model and a tokenizer for engine tests, in place of the real ones: same functions, tiny and
 * scriptable. Logits are a function of the tokens absorbed, as the real model promises; a state
 * that is used without having been reset, or by two segments at once, aborts the test. */
#ifndef TNL_TESTS_FAKE_MODEL_H
#define TNL_TESTS_FAKE_MODEL_H

#include <stdint.h>

#include "model/model.h"
#include "model/state.h"
#include "server/engine/engine.h"

enum {
    FAKE_VOCAB = 300,
    FAKE_EOS = 2,
    FAKE_NAN = 299,   /* a prompt token that makes its sequence non-finite */
    FAKE_BREAK = 298, /* a prompt token that makes the whole step fail */
    FAKE_BLOCK = 16,  /* tokens that can be forgotten, one less at most */
};

mdl_model *fake_model_new(void);
void fake_model_free(mdl_model *m);

/* Next token is almost surely the last one plus 1 (wrapping at FAKE_EOS..FAKE_VOCAB-1 to
 * FAKE_EOS), instead of looking random. */
void fake_model_chain(mdl_model *m, bool on);

/* Logits depend mostly on the last token, modulo `contexts`, so that answers repeat; 0: off. */
void fake_model_repeat(mdl_model *m, int contexts);

/* Models with different numbers are different models. */
void fake_model_identity(mdl_model *m, uint8_t identity);

/* Token `id` makes a sequence non-finite from position `pos` on; 0: none. */
void fake_model_bomb(mdl_model *m, int32_t id, int64_t pos);

/* Gate: after hold, steps wait at their beginning; let allows n of them, open all. */
void fake_model_hold(mdl_model *m);
void fake_model_let(mdl_model *m, int64_t n);
void fake_model_open(mdl_model *m);
/* Wait until n steps have begun in all (a step held at the gate has begun). */
void fake_model_wait_begun(mdl_model *m, int64_t n);
int64_t fake_model_begun(mdl_model *m);

/* The row after these tokens. */
void fake_model_row(mdl_model *m, float *row, const int32_t *tokens, int64_t n);

/* A state by hand, and what it stands for. */
void fake_state_feed(mdl_model *m, mdl_state *s, const int32_t *tokens, int64_t n);
uint64_t fake_state_hash(const mdl_state *s);

/* Pieces by id: set with fake_tok_set, empty otherwise. EOS is FAKE_EOS. */
tok_model *fake_tok_new(void);
void fake_tok_free(tok_model *t);
void fake_tok_set(tok_model *t, int32_t id, const char *bytes);

#endif
