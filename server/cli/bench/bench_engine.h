/* Measurements of `tnl bench` that need the engine: whole requests, not single steps. */
#ifndef TNL_SERVER_CLI_BENCH_ENGINE_H
#define TNL_SERVER_CLI_BENCH_ENGINE_H

#include "model/model.h"

typedef struct bench_engine_opts {
    mdl_model *model;
    int64_t step_tokens, repeats;
    uint64_t seed;
    bool json;
} bench_engine_opts;

/* Decode speed with guesses (at most `speculate`) and without, in turns, of `tokens` tokens of
 * three kinds of text; and a check that both say the same. */
tnl_status bench_speculate(const bench_engine_opts *o, int speculate, int64_t tokens,
                           tnl_error *err);

/* Time to first token of ten questions about a document of so many tokens. */
tnl_status bench_prefix(const bench_engine_opts *o, int64_t document, tnl_error *err);

#endif
