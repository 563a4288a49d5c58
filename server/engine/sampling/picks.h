/* Which requests a device can sample for, and what it is told of a row (kernels/pick.h). It chooses
 * what eng_sample would, to the bit, so nobody can tell who did; and whether it does depends on the
 * request's own parameters alone. Pure; any thread. */
#ifndef TNL_SERVER_ENGINE_PICKS_H
#define TNL_SERVER_ENGINE_PICKS_H

#include "kernels/pick.h"
#include "server/engine/engine.h"

/* True if a token is a function of its row, seed and position: nothing is added to logits, nothing
 * is forbidden, and no alternatives are wanted. A grammar is the caller's to look for. */
bool eng_can_pick(const eng_params *p);

/* Of the row whose token comes at `position`. p has passed eng_params_check. */
kn_pick_how eng_pick_how(const eng_params *p, uint64_t seed, int64_t position);

#endif
