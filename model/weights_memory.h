/* Memory that belongs to a set of weights: a list of blocks, freed together. Private to model/. */
#ifndef TNL_MODEL_WEIGHTS_MEMORY_H
#define TNL_MODEL_WEIGHTS_MEMORY_H

#include "model/weights.h"

/* A block of the weights, 64-byte aligned (large ones for huge pages), not cleared; NULL when
 * memory is short. Counted in w->bytes_owned. */
void *mdl_weights_alloc(mdl_weights *w, uint64_t bytes);

/* Calls fn for every role the architecture asks for, global roles first, then layer by layer (the
 * order of the files). layer is -1 for a global role. Stops at the first failure. */
struct mdl_role_row;
typedef tnl_status (*mdl_role_fn)(void *ctx, const struct mdl_role_row *row, int layer);
tnl_status mdl_weights_each_role(const mdl_spec *spec, mdl_role_fn fn, void *ctx);

/* Shape of a role: rank and dims; the layer's own sizes where it has any. */
int mdl_role_dims(const struct mdl_role_row *row, const mdl_spec *spec, int layer, int64_t dims[3]);

/* Where the role of this layer lives. */
mdl_layer_weights *mdl_weights_of(mdl_weights *w, int layer);

/* Allocate w->layers; then, after binding, the figures of the whole. */
tnl_status mdl_weights_begin(mdl_weights *w, const mdl_spec *spec, tnl_error *err);
void mdl_weights_count(mdl_weights *w, const mdl_spec *spec);

#endif
