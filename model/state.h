/* The canonical state of one sequence: a value of constant size.
 *
 * After p tokens it holds, per layer and head, the matrix S as of the last block boundary and the
 * pending key/value rows since (layout: kernels.h, kn_linattn_seg). It depends on the p tokens
 * alone: not on how they were split into steps (but see mdl_prompt_slice in forward.h), nor on what
 * ran beside them. So a copy is a fork,
 * an export is a session file, and forgetting pending rows is an undo (mdl_state_truncate).
 *
 * A state belongs to one thread at a time. */
#ifndef TNL_MODEL_STATE_H
#define TNL_MODEL_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "model/model.h"

typedef struct mdl_state mdl_state;

/* Allocate a state of zero tokens; NULL when memory is short. */
mdl_state *mdl_state_new(mdl_model *m);
void mdl_state_free(mdl_model *m, mdl_state *s); /* scrubbed first; NULL allowed */

/* Back to zero tokens; all bytes cleared. */
void mdl_state_reset(mdl_model *m, mdl_state *s);
/* Fill the contents with NaNs: a state given back in test builds, so that a stale read shows. Only
 * reset, import or free may follow. */
void mdl_state_poison(mdl_model *m, mdl_state *s);
void mdl_state_copy(mdl_model *m, mdl_state *dst, const mdl_state *src);

int64_t mdl_state_pos(const mdl_state *s); /* tokens absorbed */

/* Forget the last tokens back to position `pos`. Possible within the current block only:
 * floor(now/B)*B <= pos <= now; otherwise TNL_E_LIMIT. */
tnl_status mdl_state_truncate(mdl_model *m, mdl_state *s, int64_t pos);
/* How many tokens a state at position `pos` can absorb and forget again. */
int64_t mdl_state_spare(const mdl_model *m, int64_t pos);

/* The block length B. A state as of its last block boundary is its matrices alone: what a copy to
 * be kept needs, two thirds of the whole. `buf` holds mdl_state_core_bytes(); load takes the
 * boundary (a multiple of B) that save had, and a state that is reset. */
int64_t mdl_state_block(const mdl_model *m);
size_t mdl_state_core_bytes(const mdl_model *m);
void mdl_state_core_save(mdl_model *m, const mdl_state *s, void *buf);
void mdl_state_core_load(mdl_model *m, mdl_state *s, const void *buf, int64_t pos);
bool mdl_state_core_finite(const void *buf, size_t n); /* of one that comes from outside */

/* Two states of the same tokens have equal canonical bytes. Pending rows that are not in use are
 * written as zeros. `buf` holds mdl_state_export_bytes(). Import checks the header (magic, version,
 * model fingerprint, block length, sizes) and that every value is finite before touching *s. */
size_t mdl_state_export_bytes(const mdl_model *m);
void mdl_state_export(mdl_model *m, const mdl_state *s, void *buf);
tnl_status mdl_state_import(mdl_model *m, mdl_state *s, const void *buf, size_t n, tnl_error *err);

/* For timing a context without reading it: position `pos` and random finite contents. */
tnl_status mdl_state_randomize(mdl_model *m, mdl_state *s, int64_t pos, uint64_t seed);

#endif
