/* A row of logits to a token, where the logits are: what to choose by, and what came of it. The
 * steps, their order and every bit are those of server/engine/sampling/sampler.h, for requests
 * without bias, penalties, grammar, typical_p and alternatives. */
#ifndef TNL_KERNELS_PICK_H
#define TNL_KERNELS_PICK_H

#include <stdbool.h>
#include <stdint.h>

enum { KN_PICK_MOST = 1 << 20 }; /* elements of a row */

typedef enum kn_pick_kind {
    KN_PICK_LOOK,   /* finite only: somebody else chooses */
    KN_PICK_GREEDY, /* the largest, ties to the lowest id */
    KN_PICK_DRAW,
} kn_pick_kind;

typedef struct kn_pick_how {
    double u; /* 0 <= u < 1: the share of the mass at which the token is drawn */
    int32_t kind;
    /* KN_PICK_DRAW */
    float temperature; /* >= 1e-3 */
    int32_t top_k;     /* 0: off */
    float top_p;       /* 0 < p <= 1; 1: off */
    float min_p;       /* 0..1; 0: off */
} kn_pick_how;

typedef struct kn_picked {
    int32_t id;    /* -1: none, by kind or because the row is not finite */
    float logprob; /* natural log, of the raw row at temperature 1 */
    bool finite;   /* every element of the row is */
} kn_picked;

#endif
