/* The sampler: see sampler.h for the steps and their order. Here are the raw row and what it
 * reports, bias, penalties and the choice; truncation and the draw are in rowcut.c. */
#include "server/engine/sampling/sampler.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/engine/params.h"
#include "server/engine/sampling/rng.h"
#include "server/engine/sampling/rowcut.h"

struct eng_sampler {
    int64_t vocab;
    float *adjusted; /* [vocab] logits after bias and penalties */
    eng_cutter cut;
};

tnl_status eng_sampler_open(eng_sampler **out, int64_t vocab, tnl_error *err) {
    *out = NULL;
    eng_sampler *s = calloc(1, sizeof *s);
    if (!s)
        goto fail;
    s->vocab = vocab;
    s->adjusted = calloc((size_t)vocab, sizeof *s->adjusted);
    if (!s->adjusted || eng_cutter_open(&s->cut, vocab) != TNL_OK)
        goto fail;
    *out = s;
    return TNL_OK;
fail:
    eng_sampler_close(s);
    return tnl_fail(err, TNL_E_NOMEM, "out of memory for the sampler, vocabulary %lld",
                    (long long)vocab);
}

void eng_sampler_close(eng_sampler *s) {
    if (!s)
        return;
    free(s->adjusted);
    eng_cutter_close(&s->cut);
    free(s);
}

/* ---- the raw row ---- */

/* Insert into alts[0..*n), descending, at most `cap`; an equal logprob keeps the earlier id. */
static void insert_alt(eng_alt *alts, int *n, int cap, int32_t id, float x) {
    if (*n == cap && !(x > alts[cap - 1].logprob))
        return;
    int at = *n < cap ? (*n)++ : cap - 1;
    while (at > 0 && x > alts[at - 1].logprob) {
        alts[at] = alts[at - 1];
        at--;
    }
    alts[at] = (eng_alt){id, x};
}

/* The `cap` largest logits of the row that the lanes' maxima belong to. */
static int top_alts(eng_sampler *s, eng_alt *alts, int cap, const float *row) {
    int n = 0;
    int64_t found = cap > 0 ? eng_cut_head(&s->cut, row, s->vocab, cap) : 0;
    for (int64_t j = 0; j < found; j++)
        insert_alt(alts, &n, cap, s->cut.at[j], row[s->cut.at[j]]);
    return n;
}

/* What logprobs are reported with. */
typedef struct raw_row {
    float max;
    double log_sum;
} raw_row;

static float logprob_of(const raw_row *raw, float x) {
    return (float)((double)x - (double)raw->max - raw->log_sum);
}

/* Maxima, sums (weights too, if wanted) and the likeliest of the raw row. */
static tnl_status look_at_row(eng_sampler *s, eng_row *r, raw_row *raw, eng_pick *out, int n_alts,
                              bool want_weights) {
    eng_cutter *c = &s->cut;
    if (!c->math->maxima(c->lane_max, &r->max, r->x, r->n))
        return TNL_E_NONFINITE;
    r->mapped = true;
    r->w = want_weights ? c->w : NULL;
    r->sum = c->math->exp_sums(c->block, want_weights ? c->w : NULL, r->x, r->n, r->max, 1.0f);
    r->summed = want_weights;
    *raw = (raw_row){r->max, eng_log(eng_mass_value(r->sum))};
    out->n_alts = top_alts(s, out->alts, n_alts, r->x);
    for (int i = 0; i < out->n_alts; i++)
        out->alts[i].logprob = logprob_of(raw, out->alts[i].logprob);
    return TNL_OK;
}

tnl_status eng_score(eng_sampler *s, eng_pick *out, const float *row, int32_t id, int n_alts) {
    eng_row r = {.x = row, .n = s->vocab};
    raw_row raw;
    TNL_TRY(look_at_row(s, &r, &raw, out, n_alts, false));
    out->id = id;
    out->logprob = logprob_of(&raw, row[id]);
    return TNL_OK;
}

/* ---- bias and penalties ---- */

static bool adjusts(const eng_params *p, const eng_history *h) {
    return h->allowed || p->n_bias > 0 || p->repetition_penalty != 1.0f ||
           p->presence_penalty != 0.0f || p->frequency_penalty != 0.0f;
}

/* Keeps penalties from making an infinity, which would mean "forbidden". */
static float clamp_finite(float x) {
    return x > FLT_MAX ? FLT_MAX : x < -FLT_MAX ? -FLT_MAX : x;
}

static float penalise(float x, const eng_params *p, int32_t count) {
    x = clamp_finite(x > 0.0f ? x / p->repetition_penalty : x * p->repetition_penalty);
    if (count > 0)
        x -= (float)count * p->frequency_penalty + p->presence_penalty;
    return clamp_finite(x);
}

/* A grammar mostly allows all of a word's tokens or none of them. */
static void forbid_others(float *x, int64_t vocab, const uint64_t *allowed) {
    for (int64_t at = 0; at < vocab; at += 64) {
        uint64_t bits = allowed[at / 64];
        int64_t end = vocab - at < 64 ? vocab : at + 64;
        for (int64_t i = at; i < end && bits != UINT64_MAX; i++)
            x[i] = bits >> (i - at) & 1 ? x[i] : -INFINITY;
    }
}

static void adjust(float *x, const float *row, int64_t vocab, const eng_params *p,
                   const eng_history *h) {
    memcpy(x, row, (size_t)vocab * sizeof *x);
    for (int i = 0; i < p->n_bias; i++)
        x[p->bias_id[i]] = clamp_finite(x[p->bias_id[i]] + p->bias[i]);
    for (int i = 0; i < p->n_bias; i++) /* last, so that no second entry lifts a ban */
        if (p->bias[i] <= ENG_BIAS_FORBID)
            x[p->bias_id[i]] = -INFINITY;
    for (int64_t i = 0; i < h->n_seen; i++) {
        int32_t id = h->seen[i];
        if (x[id] > -INFINITY)
            x[id] = penalise(x[id], p, h->count[id]);
    }
    if (h->allowed)
        forbid_others(x, vocab, h->allowed);
}

/* ---- the choice ---- */

/* Lowest index of the largest element. */
static int32_t argmax(const eng_cutter *c, const eng_row *r) {
    int64_t lane = 0;
    while (c->lane_max[lane] != r->max)
        lane++;
    int64_t i = lane / ENG_ROW_LANES * ENG_ROW_BLOCK;
    while (r->x[i] != r->max)
        i++;
    return (int32_t)i;
}

/* Bias and penalties make a row of their own. */
static tnl_status take_adjusted(eng_sampler *s, eng_row *r, const eng_params *p,
                                const eng_history *h) {
    adjust(s->adjusted, r->x, s->vocab, p, h);
    r->x = s->adjusted;
    r->w = NULL;
    (void)s->cut.math->maxima(s->cut.lane_max, &r->max, r->x, r->n);
    return r->max == -INFINITY ? TNL_E_USAGE : TNL_OK;
}

static int32_t choose(eng_cutter *c, eng_row *r, const eng_params *p, double u) {
    if (eng_params_greedy(p))
        return argmax(c, r);
    r->inv_t = 1.0f / p->temperature;
    if (p->top_k > 0)
        eng_cut_top_k(c, r, p->top_k);
    if (p->typical_p < 1.0f)
        eng_cut_typical_p(c, r, p->typical_p);
    if (p->top_p < 1.0f || p->min_p > 0.0f)
        eng_cut_top_p_min_p(c, r, p->top_p, p->min_p);
    return eng_cut_draw(c, r, u);
}

tnl_status eng_sample(eng_sampler *s, eng_pick *out, const float *row, const eng_params *p,
                      const eng_history *h, uint64_t seed, int64_t position) {
    bool adjusted = adjusts(p, h);
    /* at temperature 1 the weights of the report are those of the draw */
    bool share = !adjusted && p->temperature == 1.0f && !eng_params_greedy(p);
    eng_row r = {.x = row, .n = s->vocab};
    raw_row raw;
    TNL_TRY(look_at_row(s, &r, &raw, out, p->logprobs, share));
    if (adjusted)
        TNL_TRY(take_adjusted(s, &r, p, h));
    out->id = choose(&s->cut, &r, p, eng_uniform(seed, position));
    out->logprob = logprob_of(&raw, row[out->id]);
    return TNL_OK;
}
