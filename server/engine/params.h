/* Checking request parameters at the engine's own door. Pure; any thread. The HTTP side and the
 * command line check first and name the field in their own words; this check is what the engine
 * relies on. */
#ifndef TNL_SERVER_ENGINE_PARAMS_H
#define TNL_SERVER_ENGINE_PARAMS_H

#include "server/engine/engine.h"

enum { ENG_MAX_TOKENS_LIMIT = 1000000 };

/* Below this a temperature means greedy: no division by a tiny number ever happens. */
#define ENG_GREEDY_TEMPERATURE 1e-3f

/* A bias at or below this forbids the token. */
#define ENG_BIAS_FORBID (-100.0f)

/* TNL_E_USAGE naming the parameter, what was found and what is allowed. */
tnl_status eng_params_check(const eng_params *p, int64_t vocab, tnl_error *err);

/* True if the parameters leave no choice: the token is the largest adjusted logit. */
bool eng_params_greedy(const eng_params *p);

#endif
