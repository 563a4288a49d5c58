/* One forward, one batch: prefill, decode and any mixture are the same call.
 *
 * A step is a list of segments {state, tokens, which logits are wanted}; a decode is a segment of
 * one token. The bytes of a segment's logits and of its next state depend on its tokens and its
 * state alone (property tests: tests/prop). On the CPU they do not depend on how a text is split
 * into segments. On a device whose mdl_prompt_slice is P > 0 they depend on which of the text's
 * slices [kP, kP+P), k = 0, 1, ..., lie whole within one segment, and on nothing else of the split:
 * those are computed on tensor cores, all other tokens as if they came one by one. Who wants the
 * same bytes again hands over the same slices whole: the engine does so with the slices that lie
 * in a prompt, and with no others. Working memory is fixed when the context is made; the
 * call allocates nothing. One thread at a time per model. */
#ifndef TNL_MODEL_FORWARD_H
#define TNL_MODEL_FORWARD_H

#include <stdbool.h>
#include <stdint.h>

#include "model/model.h"
#include "model/state.h"

typedef enum mdl_want {
    MDL_WANT_NONE, /* the state only */
    MDL_WANT_LAST, /* one row, after the segment's last token */
    MDL_WANT_ALL,  /* a row for each token */
} mdl_want;

typedef struct mdl_seg {
    mdl_state *state;      /* advanced by n_tokens */
    const int32_t *tokens; /* [n_tokens], each in 0..V-1 */
    int64_t n_tokens;      /* 0 is legal: nothing happens */
    mdl_want want;
    /* [rows wanted] how each of them is sampled beside the model, if mdl_can_pick. NULL: none is */
    const kn_pick_how *picks;
    /* results */
    float *logits;     /* [rows wanted][V] inside the context's memory, until the next call; rows
                          that were sampled (all but KN_PICK_LOOK) are not there */
    kn_picked *picked; /* [rows wanted] likewise; NULL where nothing was sampled */
    bool nonfinite;    /* a NaN or infinity reached this segment's output: its logits and state are
                          worthless, other segments are untouched */
    int64_t n_finite;  /* tokens before the first one it reached: their rows are sound, and so is
                          the state once the others are forgotten */
} mdl_seg;

typedef struct mdl_ctx mdl_ctx;

/* Working memory for steps of at most max_tokens packed tokens and max_logits wanted rows. */
tnl_status mdl_ctx_open(mdl_ctx **out, mdl_model *m, int64_t max_tokens, int64_t max_logits,
                        tnl_error *err);
void mdl_ctx_close(mdl_ctx *ctx); /* NULL allowed */
size_t mdl_ctx_bytes(const mdl_model *m, int64_t max_tokens, int64_t max_logits);

/* P as above; 0: bytes never depend on the split. */
int64_t mdl_prompt_slice(const mdl_model *m);

/* True if picks is for this model: rows of logits that are sampled need not reach the host. */
bool mdl_can_pick(const mdl_model *m);

/* Run one step. Fails for a caller's mistake (nothing touched): too many tokens or rows, a token id
 * out of range, one state in two segments. And where the backend computes on a device, for what the
 * device says (kn_backend.check; TNL_E_INTERNAL: it is lost): the states of the step are then fit
 * for reset and free only. */
tnl_status mdl_forward(mdl_ctx *ctx, mdl_seg *segs, int64_t n_segs, tnl_error *err);

#endif
