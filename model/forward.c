/* The single layer loop, and the working memory it runs in. */
#include "model/forward.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/checked.h"
#include "model/internal.h"

/* ---- working memory: measured, then carved ---- */

typedef struct widths {
    int64_t proj, low, rotated, glu;
    bool gate;
} widths;

static int64_t max64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static widths widest(const mdl_spec *s) {
    widths w = {0};
    for (int i = 0; i < s->n_layers; i++) {
        const mdl_layer_spec *l = &s->layers[i];
        w.proj = max64(w.proj, mdl_proj_cols(s, l));
        w.low = max64(w.low, l->gate_rank);
        w.gate |= l->gate == MDL_GATE_LOW_RANK_SIGMOID;
        w.rotated = max64(w.rotated, l->lrpe ? 2 * s->hidden : 0);
        w.glu = max64(w.glu, l->glu);
    }
    return w;
}

/* Measuring (base NULL) and carving are one walk, so they cannot disagree. */
typedef struct carver {
    char *base;
    uint64_t used;
    bool overflow;
} carver;

static void *carve(carver *c, uint64_t rows, uint64_t cols, uint64_t elem) {
    uint64_t bytes;
    if (!tnl_mul_u64(&bytes, rows, cols) || !tnl_mul_u64(&bytes, bytes, elem) ||
        !tnl_add_u64(&bytes, bytes, 63) || !tnl_add_u64(&bytes, bytes & ~UINT64_C(63), c->used)) {
        c->overflow = true;
        return NULL;
    }
    void *p = c->base ? c->base + c->used : NULL;
    bool any = bytes > c->used;
    c->used = bytes;
    return any ? p : NULL;
}

/* Flags follow the tokens that were sampled, so that both are fetched together. */
static bool *flags_behind(kn_picked *picked, int64_t wanted) {
    return picked ? (bool *)(picked + wanted) : NULL;
}

/* What operations work on. */
static void carve_device(mdl_ctx *ctx, carver *c, const mdl_model *m, int64_t tokens,
                         int64_t wanted) {
    const mdl_spec *s = &m->spec;
    widths w = widest(s);
    uint64_t N = (uint64_t)tokens, R = (uint64_t)wanted, f = sizeof(float);
    ctx->x = carve(c, N, (uint64_t)s->width, f);
    int64_t widest_input = max64(max64(s->width, s->hidden), max64(w.glu, w.low));
    ctx->work = carve(c, 1, kn_linear_work_bytes(m->be, tokens, widest_input), 1);
    ctx->proj = carve(c, N, (uint64_t)w.proj, f);
    ctx->o = carve(c, N, (uint64_t)s->hidden, f);
    ctx->gate = carve(c, N, w.gate ? (uint64_t)s->hidden : 0, f);
    ctx->low = carve(c, N, (uint64_t)w.low, f);
    ctx->q2 = carve(c, N, (uint64_t)w.rotated, f);
    ctx->k2 = carve(c, N, (uint64_t)w.rotated, f);
    ctx->glu = carve(c, N, (uint64_t)w.glu, f);
    ctx->rows = carve(c, R, (uint64_t)s->width, f);
    ctx->logits = carve(c, R, (uint64_t)s->vocab, f);
    ctx->picked = carve(c, 1, R * sizeof *ctx->picked + N + R, 1);
    ctx->finite = flags_behind(ctx->picked, wanted);
}

/* What the host says of a step and hears of it. */
static void carve_host(mdl_ctx *ctx, carver *c, const mdl_model *m, int64_t tokens,
                       int64_t wanted) {
    uint64_t N = (uint64_t)tokens, R = (uint64_t)wanted;
    ctx->ids = carve(c, N, 1, sizeof *ctx->ids);
    ctx->pos = carve(c, N, 1, sizeof *ctx->pos);
    ctx->wanted = carve(c, R, 1, sizeof *ctx->wanted);
    ctx->segs = carve(c, N, 1, sizeof *ctx->segs);
    ctx->how = carve(c, R, 1, sizeof *ctx->how);
    if (!m->be->copy) {
        ctx->host_logits = ctx->logits;
        ctx->host_picked = ctx->picked;
        ctx->host_finite = ctx->finite;
        return;
    }
    ctx->host_logits = carve(c, R, (uint64_t)m->spec.vocab, sizeof(float));
    ctx->host_picked = carve(c, 1, R * sizeof *ctx->host_picked + N + R, 1);
    ctx->host_finite = flags_behind(ctx->host_picked, wanted);
}

/* Both, in memory that begins there; NULL: only measured. */
static void carve_ctx(mdl_ctx *ctx, carver at[2], const mdl_model *m, int64_t tokens,
                      int64_t wanted) {
    carve_device(ctx, &at[KN_ON_DEVICE], m, tokens, wanted);
    carve_host(ctx, &at[KN_ON_HOST], m, tokens, wanted);
}

/* SIZE_MAX: more than can be counted. */
static void measure(size_t bytes[2], const mdl_model *m, int64_t tokens, int64_t wanted) {
    mdl_ctx probe = {0};
    carver c[2] = {{0}, {0}};
    carve_ctx(&probe, c, m, tokens, wanted);
    for (int place = 0; place < 2; place++)
        bytes[place] =
            c[place].overflow || c[place].used > SIZE_MAX / 4 ? SIZE_MAX : (size_t)c[place].used;
}

size_t mdl_ctx_bytes(const mdl_model *m, int64_t max_tokens, int64_t max_logits) {
    size_t bytes[2];
    measure(bytes, m, max_tokens, max_logits);
    return bytes[0] == SIZE_MAX || bytes[1] == SIZE_MAX ? SIZE_MAX : bytes[0] + bytes[1];
}

static tnl_status alloc_memory(mdl_ctx *ctx, tnl_error *err) {
    kn_backend *be = ctx->m->be;
    size_t *bytes = ctx->bytes;
    measure(bytes, ctx->m, ctx->max_tokens, ctx->max_logits);
    if (bytes[0] < SIZE_MAX && bytes[1] < SIZE_MAX) {
        ctx->memory = be->alloc(be, bytes[KN_ON_DEVICE], KN_ON_DEVICE);
        ctx->host_memory = be->alloc(be, bytes[KN_ON_HOST], KN_ON_HOST);
    }
    if (ctx->memory && ctx->host_memory)
        return TNL_OK;
    return tnl_fail(err, TNL_E_NOMEM, "no %zu bytes of working memory for steps of %lld tokens",
                    mdl_ctx_bytes(ctx->m, ctx->max_tokens, ctx->max_logits),
                    (long long)ctx->max_tokens);
}

tnl_status mdl_ctx_open(mdl_ctx **out, mdl_model *m, int64_t max_tokens, int64_t max_logits,
                        tnl_error *err) {
    *out = NULL;
    if (max_tokens < 1 || max_logits < 1)
        return tnl_fail(err, TNL_E_USAGE, "step of %lld tokens and %lld logits rows: expected >= 1",
                        (long long)max_tokens, (long long)max_logits);
    mdl_ctx *ctx = calloc(1, sizeof *ctx);
    if (!ctx)
        return tnl_fail(err, TNL_E_NOMEM, "no memory for a context");
    ctx->m = m;
    ctx->max_tokens = max_tokens;
    ctx->max_logits = max_logits;
    tnl_status st = alloc_memory(ctx, err);
    if (st != TNL_OK) {
        mdl_ctx_close(ctx);
        return st;
    }
    carver c[2] = {{.base = ctx->memory}, {.base = ctx->host_memory}};
    carve_ctx(ctx, c, m, max_tokens, max_logits);
    *out = ctx;
    return TNL_OK;
}

void mdl_ctx_close(mdl_ctx *ctx) {
    if (!ctx)
        return;
    kn_backend *be = ctx->m->be;
    be->free(be, ctx->memory, KN_ON_DEVICE);
    be->free(be, ctx->host_memory, KN_ON_HOST);
    free(ctx);
}

/* ---- a step ---- */

int64_t mdl_prompt_slice(const mdl_model *m) {
    return m->be->prompt_slice;
}

bool mdl_can_pick(const mdl_model *m) {
    return m->be->ops->pick && m->spec.vocab <= KN_PICK_MOST;
}

static int64_t wanted_rows(const mdl_seg *s) {
    if (s->n_tokens == 0 || s->want == MDL_WANT_NONE)
        return 0;
    return s->want == MDL_WANT_LAST ? 1 : s->n_tokens;
}

static tnl_status check_segment(const mdl_ctx *ctx, const mdl_seg *s, int64_t i, tnl_error *err) {
    if (s->n_tokens < 0)
        return tnl_fail(err, TNL_E_USAGE, "segment %lld: %lld tokens", (long long)i,
                        (long long)s->n_tokens);
    for (int64_t t = 0; t < s->n_tokens; t++)
        if (s->tokens[t] < 0 || s->tokens[t] >= ctx->m->spec.vocab)
            return tnl_fail(err, TNL_E_USAGE, "segment %lld, token %lld: id %d, expected 0 to %lld",
                            (long long)i, (long long)t, s->tokens[t],
                            (long long)ctx->m->spec.vocab - 1);
    return TNL_OK;
}

static tnl_status check_step(const mdl_ctx *ctx, const mdl_seg *segs, int64_t n_segs,
                             tnl_error *err) {
    int64_t tokens = 0, rows = 0;
    for (int64_t i = 0; i < n_segs; i++) {
        TNL_TRY(check_segment(ctx, &segs[i], i, err));
        tokens += segs[i].n_tokens;
        rows += wanted_rows(&segs[i]);
        if (tokens > ctx->max_tokens || rows > ctx->max_logits)
            return tnl_fail(err, TNL_E_LIMIT,
                            "step has %lld tokens and %lld logits rows, at most %lld and %lld fit",
                            (long long)tokens, (long long)rows, (long long)ctx->max_tokens,
                            (long long)ctx->max_logits);
    }
    return TNL_OK;
}

/* Mark each state as taken; a second segment of the same state is a mistake. */
static tnl_status claim_states(mdl_seg *segs, int64_t n_segs, tnl_error *err) {
    for (int64_t i = 0; i < n_segs; i++) {
        if (segs[i].n_tokens == 0)
            continue;
        if (segs[i].state->in_step) {
            for (int64_t j = 0; j < i; j++)
                if (segs[j].n_tokens > 0)
                    segs[j].state->in_step = false;
            return tnl_fail(err, TNL_E_USAGE, "segment %lld: its state is in two segments",
                            (long long)i);
        }
        segs[i].state->in_step = true;
    }
    return TNL_OK;
}

static void gather_tokens(mdl_ctx *ctx, mdl_seg *s) {
    ctx->segs[ctx->step.n_segs++] = (kn_linattn_seg){
        .state = s->state->data, .pos = s->state->pos, .first = ctx->step.n, .len = s->n_tokens};
    for (int64_t t = 0; t < s->n_tokens; t++) {
        ctx->ids[ctx->step.n] = s->tokens[t];
        ctx->pos[ctx->step.n] = s->state->pos + t;
        ctx->step.n++;
    }
}

/* The head runs only on rows whose logits somebody wants. */
static void gather_wanted(mdl_ctx *ctx, mdl_seg *s) {
    const int64_t want = wanted_rows(s);
    const bool pick = s->picks && ctx->step.how;
    if (want > 0)
        s->logits = ctx->host_logits + ctx->step.n_wanted * ctx->m->spec.vocab;
    if (want > 0 && pick)
        s->picked = ctx->host_picked + ctx->step.n_wanted;
    for (int64_t i = 0; i < want; i++) {
        ctx->how[ctx->step.n_wanted] = pick ? s->picks[i] : (kn_pick_how){.kind = KN_PICK_LOOK};
        ctx->wanted[ctx->step.n_wanted++] = ctx->step.n - want + i;
    }
}

static void gather_step(mdl_ctx *ctx, mdl_seg *segs, int64_t n_segs) {
    ctx->step = (kn_step){.owner = ctx->memory,
                          .ids = ctx->ids,
                          .pos = ctx->pos,
                          .segs = ctx->segs,
                          .wanted = ctx->wanted,
                          .how = mdl_can_pick(ctx->m) ? ctx->how : NULL};
    for (int64_t i = 0; i < n_segs; i++) {
        mdl_seg *s = &segs[i];
        s->logits = NULL;
        s->picked = NULL;
        s->nonfinite = false;
        s->n_finite = s->n_tokens;
        if (s->n_tokens == 0)
            continue;
        gather_tokens(ctx, s);
        gather_wanted(ctx, s);
    }
}

/* ---- its operations ---- */

static void compute_logits(mdl_ctx *ctx) {
    const mdl_model *m = ctx->m;
    kn_backend *be = m->be;
    const mdl_layer_weights *g = &m->weights.global;
    int64_t C = m->spec.width, V = m->spec.vocab, n = ctx->step.n_wanted;
    if (n == 0)
        return;
    be->ops->gather_rows(be, ctx->rows, C, ctx->x, C, ctx->step.wanted, n, C);
    be->ops->linear(
        be, &(kn_linear){.n = n,
                         .x = ctx->rows,
                         .ldx = C,
                         .norm = mdl_norm(m, g->v[MDL_R_FINAL_NORM_W], g->v[MDL_R_FINAL_NORM_B]),
                         .w = &g->m[MDL_R_HEAD],
                         .y = ctx->logits,
                         .ldy = V,
                         .work = ctx->work});
    if (ctx->step.how)
        be->ops->pick(be, ctx->picked, ctx->logits, V, n, V, ctx->step.how);
    else
        be->ops->finite_rows(be, ctx->finite + ctx->step.n, ctx->logits, V, n, V);
}

static void compute(mdl_ctx *ctx) {
    const mdl_model *m = ctx->m;
    int64_t C = m->spec.width;
    m->be->ops->embed(m->be, ctx->x, C, &m->weights.global.m[MDL_R_EMBED], ctx->step.ids,
                      ctx->step.n, m->spec.embed_scale);
    for (int l = 0; l < m->spec.n_layers; l++) {
        mdl_mixer_run(ctx, l);
        mdl_ffn_run(ctx, l);
    }
    m->be->ops->finite_rows(m->be, ctx->finite, ctx->x, C, ctx->step.n, C);
    compute_logits(ctx);
}

/* Compute, or have it computed as it was recorded. */
static void run_step(mdl_ctx *ctx) {
    kn_backend *be = ctx->m->be;
    const kn_step asked = ctx->step;
    if (!be->begin) {
        compute(ctx);
        return;
    }
    do {
        ctx->step = asked;
        if (be->begin(be, &ctx->step))
            compute(ctx);
    } while (!be->end(be));
}

/* ---- its results ---- */

/* Rows of logits that were not sampled, each run of them at once. */
static void fetch_logits(mdl_ctx *ctx) {
    const int64_t V = ctx->m->spec.vocab;
    for (int64_t i = 0, end; i < ctx->step.n_wanted; i = end + 1) {
        for (end = i; end < ctx->step.n_wanted && ctx->how[end].kind == KN_PICK_LOOK;)
            end++;
        const size_t bytes = (size_t)((end - i) * V) * sizeof *ctx->logits;
        if (bytes > 0)
            kn_copy(ctx->m->be, ctx->host_logits + i * V, bytes, ctx->logits + i * V, bytes, bytes,
                    1);
    }
}

static void fetch_results(mdl_ctx *ctx) {
    kn_backend *be = ctx->m->be;
    const size_t picked = (size_t)ctx->max_logits * sizeof *ctx->picked;
    const size_t bytes = picked + (size_t)(ctx->step.n + ctx->step.n_wanted) * sizeof *ctx->finite;
    if (!be->copy)
        return;
    kn_copy(be, ctx->host_picked, bytes, ctx->picked, bytes, bytes, 1);
    fetch_logits(ctx);
}

static void flag_token(mdl_seg *s, int64_t t) {
    s->nonfinite = true;
    s->n_finite = t < s->n_finite ? t : s->n_finite;
}

static bool finite_logits(const mdl_ctx *ctx, int64_t row) {
    return ctx->step.how ? ctx->host_picked[row].finite : ctx->host_finite[ctx->step.n + row];
}

/* A NaN or infinity anywhere in a sequence's rows reaches its residual stream and stays there;
 * other rows never read it. Flags are those of all rows, then those of the rows of logits. */
static void flag_nonfinite(const mdl_ctx *ctx, mdl_seg *segs, int64_t n_segs) {
    const bool *x = ctx->host_finite;
    int64_t row = 0;
    for (int64_t i = 0; i < n_segs; i++) {
        for (int64_t t = 0; t < segs[i].n_tokens; t++)
            if (!*x++)
                flag_token(&segs[i], t);
        for (int64_t t = wanted_rows(&segs[i]); t > 0; t--)
            if (!finite_logits(ctx, row++))
                flag_token(&segs[i], segs[i].n_tokens - t);
    }
}

/* The positions move on only when the device has computed: a failed step leaves its states unfit
 * for anything but reset or free. */
static tnl_status finish_step(const mdl_ctx *ctx, mdl_seg *segs, int64_t n_segs, tnl_error *err) {
    kn_backend *be = ctx->m->be;
    tnl_status s = be->check ? be->check(be, err) : TNL_OK;
    if (s == TNL_OK)
        flag_nonfinite(ctx, segs, n_segs);
    for (int64_t i = 0; i < n_segs; i++) {
        if (segs[i].n_tokens == 0)
            continue;
        segs[i].state->pos += s == TNL_OK ? segs[i].n_tokens : 0;
        segs[i].state->in_step = false;
    }
    return s;
}

tnl_status mdl_forward(mdl_ctx *ctx, mdl_seg *segs, int64_t n_segs, tnl_error *err) {
    TNL_TRY(check_step(ctx, segs, n_segs, err));
    TNL_TRY(claim_states(segs, n_segs, err));
    gather_step(ctx, segs, n_segs);
    if (ctx->step.n > 0) {
        run_step(ctx);
        fetch_results(ctx);
    }
    return finish_step(ctx, segs, n_segs, err);
}
