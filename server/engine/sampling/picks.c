/* A request's parameters, as a device takes them: see picks.h. */
#include "server/engine/sampling/picks.h"

#include "server/engine/params.h"
#include "server/engine/sampling/rng.h"

bool eng_can_pick(const eng_params *p) {
    return p->logprobs == 0 && p->n_bias == 0 && p->typical_p >= 1.0f &&
           p->repetition_penalty == 1.0f && p->presence_penalty == 0.0f &&
           p->frequency_penalty == 0.0f;
}

kn_pick_how eng_pick_how(const eng_params *p, uint64_t seed, int64_t position) {
    if (eng_params_greedy(p))
        return (kn_pick_how){.kind = KN_PICK_GREEDY};
    return (kn_pick_how){.u = eng_uniform(seed, position),
                         .kind = KN_PICK_DRAW,
                         .temperature = p->temperature,
                         .top_k = p->top_k,
                         .top_p = p->top_p,
                         .min_p = p->min_p};
}
