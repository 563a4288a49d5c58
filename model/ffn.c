/* The channel mixer: a GLU without activation, x += W3 ((W1 b) * (W2 b)), b = norm(x). */
#include "model/internal.h"

/* The matrix that is read after this layer. */
static const kn_tensor *after_layer(const mdl_model *m, int layer) {
    return layer + 1 < m->spec.n_layers ? &m->weights.layers[layer + 1].m[MDL_R_IN]
                                        : &m->weights.global.m[MDL_R_HEAD];
}

void mdl_ffn_run(mdl_ctx *ctx, int layer) {
    const mdl_model *m = ctx->m;
    const mdl_layer_spec *l = &m->spec.layers[layer];
    const mdl_layer_weights *w = &m->weights.layers[layer];
    const kn_ops *ops = m->be->ops;
    int64_t C = m->spec.width, F = l->glu;

    mdl_expect(m, &w->m[MDL_R_L3]);
    ops->linear(m->be, &(kn_linear){.n = ctx->step.n,
                                    .in_step = true,
                                    .x = ctx->x,
                                    .ldx = C,
                                    .norm = mdl_norm(m, w->v[MDL_R_CHANNEL_NORM_W],
                                                     w->v[MDL_R_CHANNEL_NORM_B]),
                                    .w = &w->m[MDL_R_L1],
                                    .bias = w->v[MDL_R_L1_B],
                                    .w2 = &w->m[MDL_R_L2],
                                    .bias2 = w->v[MDL_R_L2_B],
                                    .y = ctx->glu,
                                    .ldy = F,
                                    .work = ctx->work});
    mdl_expect(m, after_layer(m, layer));
    ops->linear(m->be, &(kn_linear){.n = ctx->step.n,
                                    .in_step = true,
                                    .x = ctx->glu,
                                    .ldx = F,
                                    .w = &w->m[MDL_R_L3],
                                    .bias = w->v[MDL_R_L3_B],
                                    .epi = KN_ADD,
                                    .y = ctx->x,
                                    .ldy = C,
                                    .work = ctx->work});
}
