/* A row of logits to a token.
 *
 * Steps, in this order (the order of Transformers, vLLM and TGI: temperature before truncation):
 *   1. logit_bias is added; -100 forbids the token, and so does a grammar that does not allow it
 *   2. repetition penalty, once for each token of prompt and completion: a positive logit is
 *      divided by it, a negative one multiplied
 *   3. frequency penalty times the occurrences in the completion, and the presence penalty if
 *      there is one, are subtracted
 *   4. greedy (temperature below 1e-3, top_p 0 or top_k 1): the largest, ties to the lowest id
 *   5. division by the temperature
 *   6. top_k: the k largest, ties to the lowest ids
 *   7. typical_p: in order of |-ln p - entropy|, the shortest run that reaches typical_p
 *   8. top_p: in descending order, the shortest run that reaches top_p
 *   9. min_p: those of at least min_p times the likeliest
 *  10. one draw among what is left, in ascending order of ids
 * Each of 6-9 renormalises what the one before has left, and keeps at least one token. Weights
 * add up exactly (rowmath.h) and come without the C library's functions, so a token is a function
 * of row, parameters, history, seed and position: not of the batch, nor of the processor, nor of
 * the place, for a device chooses the same (kernels/kernels.h, pick).
 *
 * Cost: two passes over the row that vectorise (maxima; exponentials, for the logprob), a third
 * and a fourth when bias or penalties make a row of their own, one more for exponentials when the
 * temperature is not 1 and top_k does not come first. Truncation looks at the few candidates near
 * the maximum, or closes in on its threshold in a handful of passes; nothing is ever sorted.
 *
 * Reported logprobs are of the raw row: natural log, before any of the steps above. */
#ifndef TNL_SERVER_ENGINE_SAMPLER_H
#define TNL_SERVER_ENGINE_SAMPLER_H

#include "server/engine/engine.h"

/* What a request has seen and said: occurrence counts, and the list of distinct tokens so that
 * penalties and clearing cost what was used, not the vocabulary. */
typedef struct eng_history {
    int64_t vocab;
    int64_t n_seen;
    int32_t *seen;           /* [n_seen] distinct tokens */
    int32_t *count;          /* [vocab] occurrences in the completion */
    uint8_t *known;          /* [vocab] is in seen */
    const uint64_t *allowed; /* bits of the tokens that may come next; NULL: all. Borrowed */
} eng_history;

tnl_status eng_history_open(eng_history *h, int64_t vocab, tnl_error *err);
void eng_history_close(eng_history *h); /* zeroed or open */
void eng_history_clear(eng_history *h);
void eng_history_add(eng_history *h, int32_t id, bool completion); /* id in 0..vocab-1 */

typedef struct eng_pick {
    int32_t id;
    float logprob;
    int n_alts;
    eng_alt alts[ENG_MAX_LOGPROBS]; /* the likeliest of the raw row, descending */
} eng_pick;

/* Working memory for one vocabulary; one thread at a time. */
typedef struct eng_sampler eng_sampler;

tnl_status eng_sampler_open(eng_sampler **out, int64_t vocab, tnl_error *err);
void eng_sampler_close(eng_sampler *s); /* NULL allowed */

/* Choose. p has passed eng_params_check. `position` is that of the new token in its sequence.
 * TNL_E_NONFINITE: the row holds a NaN or an infinity; TNL_E_USAGE: every token is forbidden. */
tnl_status eng_sample(eng_sampler *s, eng_pick *out, const float *row, const eng_params *p,
                      const eng_history *h, uint64_t seed, int64_t position);

/* Logprob of a given token and the likeliest n_alts, for echoed prompts. TNL_E_NONFINITE as above.
 */
tnl_status eng_score(eng_sampler *s, eng_pick *out, const float *row, int32_t id, int n_alts);

#endif
