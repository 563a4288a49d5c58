/* The channel mixer: a GLU without activation, x += W3 ((W1 b) * (W2 b)), b = norm(x). */
#include "model/internal.h"

void mdl_ffn_run(mdl_ctx *ctx, int layer) {
    const mdl_model *m = ctx->m;
    const mdl_layer_spec *l = &m->spec.layers[layer];
    const mdl_layer_weights *w = &m->weights.layers[layer];
    kn_backend *be = m->be;
    int64_t C = m->spec.width, F = l->glu, n = ctx->n;

    mdl_norm(m, ctx->a, C, ctx->x, C, n, C, w->v[MDL_R_CHANNEL_NORM_W],
             w->v[MDL_R_CHANNEL_NORM_B]);
    be->ops->linear(be, ctx->g1, F, ctx->a, C, n, &w->m[MDL_R_L1], w->v[MDL_R_L1_B], KN_STORE);
    be->ops->linear(be, ctx->g2, F, ctx->a, C, n, &w->m[MDL_R_L2], w->v[MDL_R_L2_B], KN_STORE);
    be->ops->mul(be, ctx->g1, F, ctx->g1, F, ctx->g2, F, n, F);
    be->ops->linear(be, ctx->x, C, ctx->g1, F, n, &w->m[MDL_R_L3], w->v[MDL_R_L3_B], KN_ADD);
}
