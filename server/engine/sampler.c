/* The sampler: see sampler.h for the steps and their order. A candidate is a token near enough to
 * the maximum to survive truncation; candidates stay in ascending order of ids throughout, and
 * every truncation finds a cut in its own order, then drops what lies behind it. */
#include "server/engine/sampler.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/engine/params.h"
#include "server/engine/rng.h"
#include "server/engine/rowmath.h"

typedef struct candidate {
    int32_t id;
    float x; /* logit: what ranks it, since different logits may round to one z */
    float z; /* (x - max) / temperature, <= 0 */
    float w; /* exp(z) */
} candidate;

/* An element of the order in which a truncation keeps tokens: key descending, id ascending. */
typedef struct ranked {
    float key;
    int32_t id;
    float w;
} ranked;

struct eng_sampler {
    int64_t vocab;
    float *adjusted; /* [vocab] logits after bias and penalties */
    double *block;   /* partial sums of exponentials */
    candidate *cand; /* [vocab] */
    ranked *order;   /* [vocab] */
};

/* The distribution a token is drawn from: x [vocab], scaled by 1/temperature. block sums of the
 * sampler belong to it. */
typedef struct view {
    const float *x;
    float max, inv_t;
    double sum;
} view;

tnl_status eng_sampler_open(eng_sampler **out, int64_t vocab, tnl_error *err) {
    *out = NULL;
    size_t n = (size_t)vocab;
    eng_sampler *s = calloc(1, sizeof *s);
    if (!s)
        goto fail;
    s->vocab = vocab;
    s->adjusted = calloc(n, sizeof *s->adjusted);
    s->block = calloc(n / ENG_ROW_BLOCK + 1, sizeof *s->block);
    s->cand = calloc(n, sizeof *s->cand);
    s->order = calloc(n, sizeof *s->order);
    if (!s->adjusted || !s->block || !s->cand || !s->order)
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
    free(s->block);
    free(s->cand);
    free(s->order);
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

/* The `cap` largest logits; blocks that cannot contribute are skipped by their maximum. */
static int top_alts(eng_alt *alts, int cap, const float *row, int64_t vocab) {
    enum { SKIP = 64 };
    int n = 0;
    if (cap == 0)
        return 0;
    for (int64_t at = 0; at < vocab; at += SKIP) {
        int64_t len = vocab - at < SKIP ? vocab - at : SKIP;
        if (n == cap && !(eng_row_max(row + at, len) > alts[cap - 1].logprob))
            continue;
        for (int64_t i = at; i < at + len; i++)
            insert_alt(alts, &n, cap, (int32_t)i, row[i]);
    }
    return n;
}

static float logprob_of(const view *raw, float x) {
    return (float)((double)x - (double)raw->max - log(raw->sum));
}

static tnl_status look_at_row(eng_sampler *s, view *raw, const float *row) {
    if (!eng_row_finite(row, s->vocab))
        return TNL_E_NONFINITE;
    raw->x = row;
    raw->inv_t = 1.0f;
    raw->max = eng_row_max(row, s->vocab);
    raw->sum = eng_row_exp_sums(s->block, row, s->vocab, raw->max, 1.0f);
    return TNL_OK;
}

static void report(eng_pick *out, const view *raw, int64_t vocab, int32_t id, int n_alts) {
    out->id = id;
    out->logprob = logprob_of(raw, raw->x[id]);
    out->n_alts = top_alts(out->alts, n_alts, raw->x, vocab);
    for (int i = 0; i < out->n_alts; i++)
        out->alts[i].logprob = logprob_of(raw, out->alts[i].logprob);
}

tnl_status eng_score(eng_sampler *s, eng_pick *out, const float *row, int32_t id, int n_alts) {
    view raw;
    TNL_TRY(look_at_row(s, &raw, row));
    report(out, &raw, s->vocab, id, n_alts);
    return TNL_OK;
}

/* ---- bias and penalties ---- */

static bool adjusts(const eng_params *p) {
    return p->n_bias > 0 || p->repetition_penalty != 1.0f || p->presence_penalty != 0.0f ||
           p->frequency_penalty != 0.0f;
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
}

/* ---- truncation ---- */

static bool before(const ranked *a, const ranked *b) {
    return a->key > b->key || (a->key == b->key && a->id < b->id);
}

/* Moves what comes before a[at] to the front of a[lo..hi); returns where the pivot landed and the
 * weight in front of it. */
static int64_t split(ranked *a, int64_t lo, int64_t hi, int64_t at, double *front) {
    ranked pivot = a[at];
    a[at] = a[hi - 1];
    int64_t to = lo;
    double sum = 0;
    for (int64_t i = lo; i < hi - 1; i++) {
        ranked r = a[i];
        if (!before(&r, &pivot))
            continue;
        sum += (double)r.w;
        a[i] = a[to];
        a[to++] = r;
    }
    a[hi - 1] = a[to];
    a[to] = pivot;
    *front = sum;
    return to;
}

/* The element at which the running weight, in order, first reaches target > 0; the last one if
 * rounding keeps it from getting there. Expected linear time: selection with arbitrary but fixed
 * pivots. a is permuted. */
static ranked cut_at(ranked *a, int64_t n, double target) {
    int64_t lo = 0, hi = n;
    uint64_t r = 1;
    double acc = 0;
    ranked cut = a[0];
    while (lo < hi) {
        r = r * 6364136223846793005u + 1442695040888963407u;
        double front;
        int64_t mid = split(a, lo, hi, lo + (int64_t)((r >> 33) % (uint64_t)(hi - lo)), &front);
        cut = a[mid];
        if (acc + front >= target) {
            hi = mid;
        } else if (acc + front + (double)cut.w >= target || mid + 1 == hi) {
            return cut;
        } else {
            acc = acc + front + (double)cut.w;
            lo = mid + 1;
        }
    }
    return cut;
}

/* Rank candidate i by order[i].key, already set; keep the shortest run of weight `target`, where
 * a candidate weighs its probability, or 1 when counting. */
static int64_t truncate_to(eng_sampler *s, int64_t n, double target, bool counting,
                           float (*key)(const candidate *c, float about), float about) {
    for (int64_t i = 0; i < n; i++) {
        const candidate *c = &s->cand[i];
        s->order[i] = (ranked){key(c, about), c->id, counting ? 1.0f : c->w};
    }
    ranked cut = cut_at(s->order, n, target);
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        ranked r = {key(&s->cand[i], about), s->cand[i].id, 0.0f};
        if (!before(&cut, &r))
            s->cand[kept++] = s->cand[i];
    }
    return kept;
}

static float key_likeliest(const candidate *c, float about) {
    (void)about;
    return c->x;
}

/* Distance of -ln p from the entropy, negated; `about` is where z has that distance 0. */
static float key_typical(const candidate *c, float about) {
    return -fabsf(c->z - about);
}

static double weight_of(const candidate *c, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)c[i].w;
    return sum;
}

/* -ln p = ln sum - z, and the entropy is its mean: so |-ln p - entropy| = |z - mean of z|. */
static int64_t keep_typical(eng_sampler *s, int64_t n, float typical_p) {
    double sum = 0, mean = 0;
    for (int64_t i = 0; i < n; i++) {
        if (s->cand[i].w == 0.0f)
            continue; /* z may be -infinity here */
        sum += (double)s->cand[i].w;
        mean += (double)s->cand[i].w * (double)s->cand[i].z;
    }
    return truncate_to(s, n, (double)typical_p * sum, false, key_typical, (float)(mean / sum));
}

static int64_t keep_min_p(eng_sampler *s, int64_t n, float min_p) {
    float max = 0;
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++)
        max = s->cand[i].w > max ? s->cand[i].w : max;
    for (int64_t i = 0; i < n; i++)
        if (s->cand[i].w >= min_p * max)
            s->cand[kept++] = s->cand[i];
    return kept;
}

/* Candidates with (x - max) / temperature >= -depth, forbidden tokens never. */
static int64_t gather(eng_sampler *s, const view *v, float depth) {
    enum { SKIP = 64 };
    float cut = fmaxf(v->max - depth / v->inv_t, -FLT_MAX);
    int64_t n = 0;
    for (int64_t at = 0; at < s->vocab; at += SKIP) {
        int64_t len = s->vocab - at < SKIP ? s->vocab - at : SKIP;
        if (eng_row_max(v->x + at, len) < cut)
            continue;
        for (int64_t i = at; i < at + len; i++) {
            if (!(v->x[i] >= cut))
                continue;
            float z = (v->x[i] - v->max) * v->inv_t;
            s->cand[n++] = (candidate){(int32_t)i, v->x[i], z, eng_exp(z)};
        }
    }
    return n;
}

/* Gather as deep as the first truncation can reach. */
static int64_t gather_enough(eng_sampler *s, const view *v, const eng_params *p) {
    static const float depths[] = {3.0f, 6.0f, 12.0f, 24.0f};
    bool by_mass = p->top_p < 1.0f && p->typical_p >= 1.0f, by_count = p->top_k > 0;
    for (size_t i = 0; i < sizeof depths / sizeof depths[0] && (by_mass || by_count); i++) {
        int64_t n = gather(s, v, depths[i]);
        if (by_count ? n >= p->top_k : weight_of(s->cand, n) >= (double)p->top_p * v->sum)
            return n;
    }
    bool only_min_p = !by_count && p->top_p >= 1.0f && p->typical_p >= 1.0f;
    return gather(s, v, only_min_p ? 0.001f - logf(p->min_p) : INFINITY);
}

static int64_t truncate_all(eng_sampler *s, const view *v, const eng_params *p) {
    int64_t n = gather_enough(s, v, p);
    bool whole = true; /* the candidates stand for the whole row */
    if (p->top_k > 0 && p->top_k < n) {
        n = truncate_to(s, n, (double)p->top_k, true, key_likeliest, 0);
        whole = false;
    }
    if (p->typical_p < 1.0f) {
        n = keep_typical(s, n, p->typical_p);
        whole = false;
    }
    if (p->top_p < 1.0f) {
        double sum = whole ? v->sum : weight_of(s->cand, n);
        n = truncate_to(s, n, (double)p->top_p * sum, false, key_likeliest, 0);
    }
    return p->min_p > 0.0f ? keep_min_p(s, n, p->min_p) : n;
}

/* ---- the draw ---- */

static int32_t draw_candidate(const candidate *c, int64_t n, double u) {
    double target = u * weight_of(c, n), acc = 0;
    int32_t id = c[0].id;
    for (int64_t i = 0; i < n; i++) {
        if (c[i].w == 0.0f)
            continue;
        id = c[i].id;
        acc += (double)c[i].w;
        if (acc > target)
            break;
    }
    return id;
}

/* Untruncated: find the block by its sum, then the token in it. */
static int32_t draw_row(const eng_sampler *s, const view *v, double u) {
    int64_t n_blocks = (s->vocab + ENG_ROW_BLOCK - 1) / ENG_ROW_BLOCK, b = 0, last = 0;
    double target = u * v->sum, acc = 0;
    for (; b < n_blocks; b++) {
        last = s->block[b] > 0 ? b : last;
        if (acc + s->block[b] > target)
            break;
        acc += s->block[b];
    }
    b = b < n_blocks ? b : last;
    int64_t end = (b + 1) * ENG_ROW_BLOCK < s->vocab ? (b + 1) * ENG_ROW_BLOCK : s->vocab;
    int64_t id = b * ENG_ROW_BLOCK;
    for (int64_t i = id; i < end; i++) {
        float w = eng_exp((v->x[i] - v->max) * v->inv_t);
        if (w == 0.0f)
            continue;
        id = i;
        acc += (double)w;
        if (acc > target)
            break;
    }
    return (int32_t)id;
}

static bool truncates(const eng_params *p, int64_t vocab) {
    return (p->top_k > 0 && p->top_k < vocab) || p->typical_p < 1.0f || p->top_p < 1.0f ||
           p->min_p > 0.0f;
}

static int32_t choose(eng_sampler *s, view *v, const eng_params *p, double u) {
    if (eng_params_greedy(p))
        return (int32_t)eng_row_argmax(v->x, s->vocab);
    if (v->x == s->adjusted || p->temperature != 1.0f) { /* else it is the raw row's view already */
        v->inv_t = 1.0f / p->temperature;
        v->sum = eng_row_exp_sums(s->block, v->x, s->vocab, v->max, v->inv_t);
    }
    if (!truncates(p, s->vocab))
        return draw_row(s, v, u);
    return draw_candidate(s->cand, truncate_all(s, v, p), u);
}

tnl_status eng_sample(eng_sampler *s, eng_pick *out, const float *row, const eng_params *p,
                      const eng_history *h, uint64_t seed, int64_t position) {
    view raw;
    TNL_TRY(look_at_row(s, &raw, row));
    view v = raw;
    if (adjusts(p)) {
        adjust(s->adjusted, row, s->vocab, p, h);
        v.x = s->adjusted;
        v.max = eng_row_max(v.x, s->vocab);
        if (v.max == -INFINITY)
            return TNL_E_USAGE;
    }
    int32_t id = choose(s, &v, p, eng_uniform(seed, position));
    report(out, &raw, s->vocab, id, p->logprobs);
    return TNL_OK;
}
