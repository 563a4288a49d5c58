/* The token mixer: fused projection, activation, LRPE, Lightning Attention, norm, gate, output
 * projection. Formulas: TransNormerLLM (arXiv 2307.14995), TNL v2 and v3 code. */
#include "model/internal.h"

int64_t mdl_proj_cols(const mdl_spec *s, const mdl_layer_spec *l) {
    return s->hidden * (l->gate == MDL_GATE_LINEAR ? 4 : 3);
}

/* sigmoid(W1 (W0 a)) into ctx->gate. */
static void low_rank_gate(mdl_ctx *ctx, const mdl_layer_spec *l, const mdl_layer_weights *w) {
    kn_backend *be = ctx->m->be;
    int64_t C = ctx->m->spec.width, h = ctx->m->spec.hidden, n = ctx->n;
    be->ops->linear(be, ctx->low, l->gate_rank, ctx->a, C, n, &w->m[MDL_R_GATE0],
                    w->v[MDL_R_GATE0_B], KN_STORE);
    be->ops->linear(be, ctx->gate, h, ctx->low, l->gate_rank, n, &w->m[MDL_R_GATE1],
                    w->v[MDL_R_GATE1_B], KN_STORE);
    be->ops->act(be, KN_ACT_SIGMOID, ctx->gate, h, n, h, h);
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
        be->ops->lrpe(be, ctx->q2, ldq, q, ldp, w->v[MDL_R_THETA], ctx->pos, ctx->n, l->dims.H,
                      l->head_dim);
        be->ops->lrpe(be, ctx->k2, ldq, k, ldp, w->v[MDL_R_THETA], ctx->pos, ctx->n, l->dims.H,
                      l->head_dim);
        q = ctx->q2;
        k = ctx->k2;
    }
    for (int64_t i = 0; i < ctx->n_segs; i++)
        ctx->segs[i].state += m->layer_offset[layer];
    be->ops->linattn(be, ctx->o, h, q, ldq, k, ldq, v, ldp, &m->decay[layer], &l->dims, ctx->segs,
                     ctx->n_segs);
    for (int64_t i = 0; i < ctx->n_segs; i++)
        ctx->segs[i].state -= m->layer_offset[layer];
}

void mdl_mixer_run(mdl_ctx *ctx, int layer) {
    const mdl_model *m = ctx->m;
    const mdl_layer_spec *l = &m->spec.layers[layer];
    const mdl_layer_weights *w = &m->weights.layers[layer];
    kn_backend *be = m->be;
    int64_t C = m->spec.width, h = m->spec.hidden, n = ctx->n, ldp = mdl_proj_cols(&m->spec, l);

    mdl_norm(m, ctx->a, C, ctx->x, C, n, C, w->v[MDL_R_TOKEN_NORM_W], w->v[MDL_R_TOKEN_NORM_B]);
    be->ops->linear(be, ctx->proj, ldp, ctx->a, C, n, &w->m[MDL_R_IN], w->v[MDL_R_IN_B], KN_STORE);
    be->ops->act(be, l->act, ctx->proj, ldp, n, h * (l->act_on_v ? 3 : 2), l->head_dim);
    attend(ctx, layer, l, w);
    /* The norm spans all heads: the whole h vector. */
    mdl_norm(m, ctx->o, h, ctx->o, h, n, h, w->v[MDL_R_MIXER_NORM_W], w->v[MDL_R_MIXER_NORM_B]);
    if (l->gate == MDL_GATE_LINEAR) {
        be->ops->mul(be, ctx->o, h, ctx->o, h, ctx->proj + 3 * h, ldp, n, h);
    } else {
        low_rank_gate(ctx, l, w);
        be->ops->mul(be, ctx->o, h, ctx->o, h, ctx->gate, h, n, h);
    }
    be->ops->linear(be, ctx->x, C, ctx->o, h, n, &w->m[MDL_R_OUT], w->v[MDL_R_OUT_B], KN_ADD);
}
