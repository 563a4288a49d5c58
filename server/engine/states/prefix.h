/* Texts already read: a tree over token prefixes whose nodes hold states as of block boundaries. A
 * request that begins with a known prefix starts from its state instead of reading it again. The
 * state is a function of the tokens alone, so a hit changes no byte of an answer. (Where it depends
 * on which slices of a prompt came whole, see mdl_prompt_slice, reuse.c stores only such states as
 * every prompt with that beginning goes through.)
 *
 * Tokens themselves are compared, never hashes of them. Each key (a tenant) has a tree of its own
 * and sees nothing of the others. All memory, tokens included, stays within a budget; a new state
 * takes the room of the least valuable one, of the key that holds most: so no key can flush
 * another's below an equal share. Value: how many tokens a state spares beyond the nearest one
 * above it (by its logarithm), and how lately it was of use.
 *
 * One thread. */
#ifndef TNL_SERVER_ENGINE_PREFIX_H
#define TNL_SERVER_ENGINE_PREFIX_H

#include "model/state.h"

enum { ENG_PREFIX_STATES = 4096 }; /* states kept at most */

typedef struct eng_prefix eng_prefix;

/* `budget` bytes in all; one that is too small for a state is legal and keeps none. */
tnl_status eng_prefix_open(eng_prefix **out, mdl_model *m, size_t budget, tnl_error *err);
void eng_prefix_close(eng_prefix *c); /* scrubs; NULL allowed */

typedef struct eng_prefix_hit {
    int64_t cached; /* tokens that the state has absorbed now */
    int64_t shared; /* >= cached: tokens, up to a block boundary, that a known text begins with too:
                       a state kept there would have been of use */
} eng_prefix_hit;

/* Bring `s`, which is reset, to the longest known prefix of tokens[0..n-1); the last token is left
 * to be read, since it gives the first logits. */
eng_prefix_hit eng_prefix_load(eng_prefix *c, mdl_state *s, uint64_t key, const int32_t *tokens,
                               int64_t n);

/* Keep `s` as of its last block boundary; tokens are (at least) those up to there. */
void eng_prefix_store(eng_prefix *c, const mdl_state *s, uint64_t key, const int32_t *tokens);

typedef struct eng_prefix_stats {
    size_t bytes, budget;
    int64_t states;
    uint64_t evicted;
} eng_prefix_stats;

eng_prefix_stats eng_prefix_get_stats(const eng_prefix *c); /* NULL: zeros */

#endif
