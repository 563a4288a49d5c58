/* Checks of the CUDA backend under the model, on a device and on the host in its place; cmocka. */
#ifndef TNL_TESTS_MODEL_CHECKS_H
#define TNL_TESTS_MODEL_CHECKS_H

#include "model/forward.h"

/* The model; set first: its folder, or a config file (.json), to which weights are drawn. */
extern const char *mc_source;

mdl_model *mc_open_model(const char *device);
/* The same, where it may fail. */
tnl_status mc_try_model(mdl_model **out, const char *device, tnl_error *err);
mdl_ctx *mc_open_ctx(mdl_model *m);
void mc_token_ids(int32_t *ids, int n, uint32_t seed);
/* The logits after these tokens, malloc'd. */
float *mc_feed(mdl_ctx *ctx, const mdl_model *m, mdl_state *s, const int32_t *ids, int n);

void mc_near_cpu(void **unused);
void mc_same_bytes(void **unused);
void mc_prompt_slices(void **unused);

#endif
