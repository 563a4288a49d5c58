/* What a row of `tnl bench` does: steps of a prompt, or of a batch of sequences. */
#include <stdlib.h>

#include "kernels/base/splitmix.h"
#include "model/forward.h"
#include "server/cli/bench/bench.h"
#include "server/cli/progress.h"

enum { WHOLE_PROMPT = 2048 }; /* tokens of a prompt that is fed within one turn */

struct bench_work {
    mdl_model *model;
    bool prefill;
    int64_t tokens, context, batch, step_tokens, fed;
    mdl_ctx *ctx;
    int64_t n_states;
    mdl_state **states;
    mdl_seg *segs;
    int32_t *ids;
    uint64_t seed;
    double layer_weights, embed_row; /* weights; bytes */
};

/* ---- what is needed ---- */

/* Weights in the matrices that every token passes: all but embedding and head. */
static double layer_weights(const mdl_model *m) {
    const mdl_weights *w = mdl_model_weights(m);
    double n = 0;
    for (int l = 0; l < mdl_model_spec(m)->n_layers; l++)
        for (int r = MDL_R_GLOBAL_COUNT; r < MDL_R_COUNT; r++) {
            const kn_tensor *t = &w->layers[l].m[r];
            n += t->data ? (double)t->rows * (double)t->cols : 0;
        }
    return n;
}

static double embed_row_bytes(const mdl_model *m) {
    const kn_tensor *t = &mdl_model_weights(m)->global.m[MDL_R_EMBED];
    uint64_t bytes = 0;
    (void)kn_dtype_matrix_bytes(&bytes, t->dtype, (uint64_t)t->rows, (uint64_t)t->cols);
    return (double)bytes / (double)t->rows;
}

/* Bytes of one sequence's state that the step at position p must read. */
static double state_bytes_at(const mdl_model *m, int64_t p) {
    const mdl_spec *s = mdl_model_spec(m);
    int64_t block = mdl_model_backend(m)->block;
    double floats = 0;
    for (int l = 0; l < s->n_layers; l++) {
        const kn_linattn_dims *d = &s->layers[l].dims;
        floats += (double)d->H * ((double)d->Dk * d->Dv + (double)(p % block) * (d->Dk + d->Dv));
    }
    return floats * sizeof(float);
}

static double decode_bytes(const bench_work *w) {
    double bytes = (double)mdl_model_weights(w->model)->bytes_read_per_token +
                   (double)(w->n_states - 1) * w->embed_row;
    for (int64_t i = 0; i < w->n_states; i++)
        bytes += state_bytes_at(w->model, mdl_state_pos(w->states[i]));
    return bytes;
}

static double prefill_ops(const bench_work *w, int64_t tokens, bool head) {
    const mdl_spec *s = mdl_model_spec(w->model);
    return 2.0 *
           (w->layer_weights * (double)tokens + (head ? (double)s->vocab * (double)s->width : 0));
}

tnl_status bench_weights_open(kn_limits **out, const mdl_model *m, int max_threads,
                              tnl_error *err) {
    const mdl_weights *w = mdl_model_weights(m);
    int64_t n = 0, layers = mdl_model_spec(m)->n_layers;
    uint64_t bytes, pieces = 0;
    kn_region *regions = calloc((size_t)(layers + 1) * MDL_R_COUNT, sizeof *regions);
    *out = NULL;
    if (!regions)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    for (int64_t l = 0; l <= layers; l++)
        for (int r = 0; r < MDL_R_COUNT; r++) {
            const kn_tensor *t = l < layers ? &w->layers[l].m[r] : &w->global.m[r];
            if (!t->data || r == MDL_R_EMBED || (uintptr_t)t->data % 64 ||
                !kn_dtype_matrix_bytes(&bytes, t->dtype, (uint64_t)t->rows, (uint64_t)t->cols))
                continue;
            regions[n++] = (kn_region){t->data, (size_t)bytes};
            pieces += bytes / KN_READ_PIECE;
        }
    tnl_status s = TNL_OK;
    if (pieces >= (uint64_t)max_threads)
        s = kn_limits_open(out, max_threads, regions, n, err);
    free(regions);
    return s;
}

/* ---- open and close ---- */

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* The sequences of a batch stand at different places of a block, as they would: the blocks that
 * they fill are folded in different steps. */
static tnl_status place_states(bench_work *w, uint64_t seed, tnl_error *err) {
    int64_t block = mdl_model_backend(w->model)->block;
    for (int64_t i = 0; i < w->n_states; i++) {
        int64_t at = w->context + (w->batch < block ? i * (block / w->batch) : i % block);
        if (mdl_state_randomize(w->model, w->states[i], at, seed + (uint64_t)i) != TNL_OK)
            return tnl_fail(err, TNL_E_NOMEM, "no memory for the contents of a state");
    }
    return TNL_OK;
}

static tnl_status make_states(bench_work *w, int64_t n, tnl_error *err) {
    w->states = calloc((size_t)n, sizeof *w->states);
    w->segs = calloc((size_t)n, sizeof *w->segs);
    w->ids = calloc((size_t)w->step_tokens, sizeof *w->ids);
    if (!w->states || !w->segs || !w->ids)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    for (; w->n_states < n; w->n_states++) {
        w->states[w->n_states] = mdl_state_new(w->model);
        if (!w->states[w->n_states])
            return tnl_fail(err, TNL_E_NOMEM, "no memory for %lld states of %zu bytes",
                            (long long)n, mdl_state_bytes(w->model));
    }
    return TNL_OK;
}

tnl_status bench_work_open(bench_work **out, const bench_settings *b, bench_row *row,
                           tnl_error *err) {
    bench_work *w = *out = calloc(1, sizeof *w);
    if (!w)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    w->model = b->model;
    w->prefill = row->prefill;
    w->tokens = row->tokens;
    w->context = row->context;
    w->batch = row->prefill ? 1 : row->batch;
    w->step_tokens = row->prefill ? min64(row->tokens, b->step_tokens) : row->batch;
    w->seed = b->seed;
    w->layer_weights = layer_weights(b->model);
    w->embed_row = embed_row_bytes(b->model);
    TNL_TRY(mdl_ctx_open(&w->ctx, b->model, w->step_tokens, w->batch, err));
    TNL_TRY(make_states(w, w->batch, err));
    if (!row->prefill || row->context > 0)
        TNL_TRY(place_states(w, b->seed, err));
    row->state_bytes = (size_t)w->batch * mdl_state_bytes(b->model);
    row->working_bytes = mdl_ctx_bytes(b->model, w->step_tokens, w->batch);
    return TNL_OK;
}

void bench_work_close(bench_work *w) {
    if (!w)
        return;
    for (int64_t i = 0; i < w->n_states; i++)
        mdl_state_free(w->model, w->states[i]);
    free(w->states);
    free(w->segs);
    free(w->ids);
    mdl_ctx_close(w->ctx);
    free(w);
}

/* ---- a step ---- */

/* Of a device, from the end of a step to the begin of the next. */
static double idle_seconds(const bench_work *w) {
    const kn_backend *be = mdl_model_backend(w->model);
    return be->idle_seconds ? be->idle_seconds(be) : 0;
}

/* n tokens for each state; after the last, when `want`, the likeliest token where the model can
 * sample, else logits. */
static tnl_status forward(bench_work *w, int64_t n, bool want, bench_sample *s, tnl_error *err) {
    static const kn_pick_how greedy = {.kind = KN_PICK_GREEDY};
    uint64_t vocab = (uint64_t)mdl_model_spec(w->model)->vocab;
    for (int64_t i = 0; i < n * w->n_states; i++)
        w->ids[i] = (int32_t)(tnl_splitmix_next(&w->seed) % vocab);
    for (int64_t i = 0; i < w->n_states; i++)
        w->segs[i] = (mdl_seg){.state = w->states[i],
                               .tokens = w->ids + i * n,
                               .n_tokens = n,
                               .want = want ? MDL_WANT_LAST : MDL_WANT_NONE,
                               .picks = mdl_can_pick(w->model) ? &greedy : NULL};
    double start = cli_now(), idle = idle_seconds(w);
    TNL_TRY(mdl_forward(w->ctx, w->segs, w->n_states, err));
    s->idle += s->seconds > 0 ? idle_seconds(w) - idle : 0; /* before the first step we paused */
    s->seconds += cli_now() - start;
    for (int64_t i = 0; i < w->n_states; i++)
        if (w->segs[i].nonfinite)
            return tnl_fail(err, TNL_E_NONFINITE, "logits or state are not finite");
    return TNL_OK;
}

tnl_status bench_work_step(bench_work *w, bench_sample *s, tnl_error *err) {
    if (!w->prefill) {
        s->needed += decode_bytes(w) / 1e9;
        s->tokens += (double)w->n_states;
        return forward(w, 1, true, s, err);
    }
    if (w->fed == w->tokens) {
        if (w->context == 0)
            mdl_state_reset(w->model, w->states[0]);
        w->fed = 0;
    }
    int64_t n = min64(w->tokens - w->fed, w->step_tokens);
    w->fed += n;
    s->needed += prefill_ops(w, n, w->fed == w->tokens) / 1e9;
    s->tokens += (double)n;
    return forward(w, n, w->fed == w->tokens, s, err);
}

int64_t bench_work_steps(const bench_work *w) {
    return w->prefill ? (w->tokens + w->step_tokens - 1) / w->step_tokens : 1;
}

int64_t bench_work_cycle(const bench_work *w, double step_seconds) {
    int64_t steps;
    if (w->prefill)
        steps = w->tokens <= WHOLE_PROMPT ? bench_work_steps(w) : 1;
    else
        steps = (mdl_model_backend(w->model)->block + w->batch - 1) / w->batch;
    int64_t fit = (int64_t)(1 / step_seconds);
    return steps <= fit || w->prefill ? steps : fit < 1 ? 1 : fit;
}
