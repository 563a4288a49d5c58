/* The token mixer: fused projection, activation, LRPE, Lightning Attention, norm, gate, output
 * projection. Formulas: TransNormerLLM (arXiv 2307.14995), TNL v2 and v3 code. */
#include "model/internal.h"

int64_t mdl_proj_cols(const mdl_spec *s, const mdl_layer_spec *l) {
    return s->hidden * (l->gate == MDL_GATE_LINEAR ? 4 : 3);
}

/* sigmoid(W1 (W0 norm(x))) into ctx->gate. */
static void low_rank_gate(mdl_ctx *ctx, const mdl_layer_spec *l, const mdl_layer_weights *w) {
    const mdl_model *m = ctx->m;
    const kn_ops *ops = m->be->ops;
    int64_t C = m->spec.width, h = m->spec.hidden;
    ops->linear(
        m->be, &(kn_linear){.n = ctx->step.n,
                            .in_step = true,
                            .x = ctx->x,
                            .ldx = C,
                            .norm = mdl_norm(m, w->v[MDL_R_TOKEN_NORM_W], w->v[MDL_R_TOKEN_NORM_B]),
                            .w = &w->m[MDL_R_GATE0],
                            .bias = w->v[MDL_R_GATE0_B],
                            .y = ctx->low,
                            .ldy = l->gate_rank,
                            .work = ctx->work});
    ops->linear(m->be, &(kn_linear){.n = ctx->step.n,
                                    .in_step = true,
                                    .x = ctx->low,
                                    .ldx = l->gate_rank,
                                    .w = &w->m[MDL_R_GATE1],
                                    .bias = w->v[MDL_R_GATE1_B],
                                    .act = KN_ACT_SIGMOID,
                                    .act_cols = h,
                                    .y = ctx->gate,
                                    .ldy = h,
                                    .work = ctx->work});
}

/* Lightning Attention of this layer over all segments: ctx->proj -> ctx->o. */
static void attend(mdl_ctx *ctx, int layer, const mdl_layer_spec *l, const mdl_layer_weights *w) {
    const mdl_model *m = ctx->m;
    kn_backend *be = m->be;
    int64_t h = m->spec.hidden, ldp = mdl_proj_cols(&m->spec, l);
    const float *q = ctx->proj, *k = ctx->proj + h, *v = ctx->proj + 2 * h;
    int64_t ldq = ldp;
    if (l->lrpe) {
        ldq = 2 * h;
        be->ops->lrpe(be, ctx->q2, ldq, q, ldp, w->v[MDL_R_THETA], ctx->step.pos, ctx->step.n,
                      l->dims.H, l->head_dim);
        be->ops->lrpe(be, ctx->k2, ldq, k, ldp, w->v[MDL_R_THETA], ctx->step.pos, ctx->step.n,
                      l->dims.H, l->head_dim);
        q = ctx->q2;
        k = ctx->k2;
    }
    mdl_expect(m, &w->m[l->gate == MDL_GATE_LINEAR ? MDL_R_OUT : MDL_R_GATE0]);
    be->ops->linattn(be, ctx->o, h, q, ldq, k, ldq, v, ldp, &m->decay[layer], &l->dims, &ctx->step,
                     m->layer_offset[layer]);
}

/* The fused projection of q, k, v and, with a linear gate, u; q and k (and v) activated. */
static void project(mdl_ctx *ctx, const mdl_layer_spec *l, const mdl_layer_weights *w) {
    const mdl_model *m = ctx->m;
    int64_t h = m->spec.hidden;
    m->be->ops->linear(
        m->be, &(kn_linear){.n = ctx->step.n,
                            .in_step = true,
                            .x = ctx->x,
                            .ldx = m->spec.width,
                            .norm = mdl_norm(m, w->v[MDL_R_TOKEN_NORM_W], w->v[MDL_R_TOKEN_NORM_B]),
                            .w = &w->m[MDL_R_IN],
                            .bias = w->v[MDL_R_IN_B],
                            .act = l->act,
                            .act_cols = h * (l->act_on_v ? 3 : 2),
                            .act_group = l->head_dim,
                            .y = ctx->proj,
                            .ldy = mdl_proj_cols(&m->spec, l),
                            .work = ctx->work});
}

void mdl_mixer_run(mdl_ctx *ctx, int layer) {
    const mdl_model *m = ctx->m;
    const mdl_layer_spec *l = &m->spec.layers[layer];
    const mdl_layer_weights *w = &m->weights.layers[layer];
    int64_t C = m->spec.width, h = m->spec.hidden;
    const bool linear_gate = l->gate == MDL_GATE_LINEAR;

    m->be->ops->expect(m->be, ctx->segs[0].state + m->layer_offset[layer],
                       kn_linattn_state_floats(&l->dims, m->be->block) * sizeof(float));
    project(ctx, l, w);
    attend(ctx, layer, l, w);
    if (!linear_gate)
        low_rank_gate(ctx, l, w);
    mdl_expect(m, &w->m[MDL_R_L1]);
    /* The norm spans all heads: the whole h vector. */
    m->be->ops->linear(
        m->be, &(kn_linear){.n = ctx->step.n,
                            .in_step = true,
                            .x = ctx->o,
                            .ldx = h,
                            .norm = mdl_norm(m, w->v[MDL_R_MIXER_NORM_W], w->v[MDL_R_MIXER_NORM_B]),
                            .mul = linear_gate ? ctx->proj + 3 * h : ctx->gate,
                            .ldmul = linear_gate ? mdl_proj_cols(&m->spec, l) : h,
                            .w = &w->m[MDL_R_OUT],
                            .bias = w->v[MDL_R_OUT_B],
                            .epi = KN_ADD,
                            .y = ctx->x,
                            .ldy = C,
                            .work = ctx->work});
}
