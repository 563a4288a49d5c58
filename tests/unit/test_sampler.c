/* The sampler against a plain one that sorts everything in double, and its edges: ties, bans,
 * extreme rows, known answers of the random generator. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/engine/params.h"
#include "server/engine/sampling/rng.h"
#include "server/engine/sampling/rows.h"
#include "server/engine/sampling/sampler.h"

static const uint64_t test_seed = 20240917;

typedef struct rng {
    uint64_t s;
} rng;

static uint64_t next(rng *r) {
    r->s += 0x9E3779B97F4A7C15u;
    uint64_t z = r->s;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static double uniform(rng *r) {
    return (double)(next(r) >> 11) * 0x1p-53;
}

static int64_t below(rng *r, int64_t n) {
    return (int64_t)(next(r) % (uint64_t)n);
}

typedef struct fixture {
    eng_sampler *s;
    eng_history h;
    eng_params p;
} fixture;

static fixture *fixture_new(int64_t vocab) {
    fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    assert_int_equal(eng_sampler_open(&f->s, vocab, NULL), TNL_OK);
    assert_int_equal(eng_history_open(&f->h, vocab, NULL), TNL_OK);
    eng_params_default(&f->p);
    return f;
}

static void fixture_free(fixture *f) {
    eng_sampler_close(f->s);
    eng_history_close(&f->h);
    free(f);
}

/* ---- random numbers ---- */

static void philox_known_answers(void **state) {
    (void)state;
    /* the published vectors of Philox 4x32-10: zeros, ones, digits of pi */
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } rows[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint32_t out[4];
        eng_philox(out, rows[i].counter, rows[i].key);
        assert_memory_equal(out, rows[i].out, sizeof out);
    }
    for (int64_t p = 0; p < 1000; p++) {
        double u = eng_uniform(7, p);
        assert_true(u >= 0 && u < 1);
        assert_true(u == eng_uniform(7, p) && u != eng_uniform(8, p) && u != eng_uniform(7, p + 1));
    }
    assert_true(eng_uniform(7, 1) != eng_uniform(7, ((int64_t)1 << 32) + 1));
}

/* ---- a plain sampler: sort everything, in double ---- */

enum { PLAIN_MAX = 64000 };

typedef struct plain_item {
    int id;
    double x, z, w, key;
} plain_item;

typedef struct plain {
    plain_item it[PLAIN_MAX];
    int n;
} plain;

static int by_key(const void *a, const void *b) {
    const plain_item *x = a, *y = b;
    if (x->key != y->key)
        return x->key > y->key ? -1 : 1;
    return x->id - y->id;
}

static int by_id(const void *a, const void *b) {
    return ((const plain_item *)a)->id - ((const plain_item *)b)->id;
}

static double plain_sum(const plain *s) {
    double sum = 0;
    for (int i = 0; i < s->n; i++)
        sum += s->it[i].w;
    return sum;
}

static void plain_mass(plain *s, double share) {
    double target = share * plain_sum(s), acc = 0;
    qsort(s->it, (size_t)s->n, sizeof s->it[0], by_key);
    for (int i = 0; i < s->n; i++) {
        acc += s->it[i].w;
        if (acc >= target) {
            s->n = i + 1;
            return;
        }
    }
}

static void plain_typical(plain *s, double share, double nudge) {
    double sum = plain_sum(s), entropy = 0;
    for (int i = 0; i < s->n; i++)
        if (s->it[i].w > 0)
            entropy -= s->it[i].w / sum * log(s->it[i].w / sum);
    for (int i = 0; i < s->n; i++)
        s->it[i].key = -fabs(-(s->it[i].z - log(sum)) - entropy + nudge);
    plain_mass(s, share);
}

static void plain_min_p(plain *s, double share) {
    double max = 0;
    int n = 0;
    for (int i = 0; i < s->n; i++)
        max = s->it[i].w > max ? s->it[i].w : max;
    for (int i = 0; i < s->n; i++)
        if (s->it[i].w >= share * max)
            s->it[n++] = s->it[i];
    s->n = n;
}

static void keys_by_x(plain *s) {
    for (int i = 0; i < s->n; i++)
        s->it[i].key = s->it[i].x;
}

/* `nudge` shifts every threshold a little: where the answer depends on it, rounding decides. */
static int plain_sample(plain *s, const float *x, int vocab, const eng_params *p, double u,
                        double nudge) {
    float max = -INFINITY, inv_t = 1.0f / p->temperature;
    s->n = 0;
    for (int i = 0; i < vocab; i++)
        max = x[i] > max ? x[i] : max;
    for (int i = 0; i < vocab; i++) {
        double z = (double)((x[i] - max) * inv_t);
        if (x[i] > -INFINITY)
            s->it[s->n++] = (plain_item){i, (double)x[i], z, z < -87 ? 0 : exp(z), (double)x[i]};
    }
    if (p->top_k > 0 && p->top_k < s->n) {
        qsort(s->it, (size_t)s->n, sizeof s->it[0], by_key);
        s->n = p->top_k;
    }
    if (p->typical_p < 1)
        plain_typical(s, (double)p->typical_p + nudge, nudge);
    keys_by_x(s);
    if (p->top_p < 1)
        plain_mass(s, (double)p->top_p + nudge);
    if (p->min_p > 0)
        plain_min_p(s, (double)p->min_p * (1 + nudge));
    qsort(s->it, (size_t)s->n, sizeof s->it[0], by_id);
    double target = (u + nudge) * plain_sum(s), acc = 0;
    for (int i = 0; i < s->n; i++) {
        acc += s->it[i].w;
        if (acc > target)
            return s->it[i].id;
    }
    return -1;
}

/* Spread evenly about zero, with ties or not, or over all magnitudes. */
static void random_row(rng *r, float *x, int vocab) {
    static const double spreads[] = {0.01, 1, 3, 10, 60};
    double spread = spreads[below(r, 5)];
    bool ties = below(r, 4) == 0, wide = below(r, 8) == 0;
    for (int i = 0; i < vocab; i++) {
        double v = (uniform(r) + uniform(r) + uniform(r) - 1.5) * spread;
        if (wide)
            v = (v > 0 ? 1 : -1) * exp2(uniform(r) * 100 - 95);
        x[i] = (float)(ties ? round(v) : v);
    }
}

static void random_params(rng *r, eng_params *p, int vocab) {
    eng_params_default(p);
    p->temperature = (float)(0.05 + 2 * uniform(r));
    if (below(r, 3) == 0)
        p->temperature = 1.0f;
    if (below(r, 2))
        p->top_k = 2 + (int32_t)below(r, vocab + 3);
    if (below(r, 2))
        p->top_p = (float)(0.02 + 0.98 * uniform(r));
    if (below(r, 3) == 0)
        p->typical_p = (float)(0.02 + 0.98 * uniform(r));
    if (below(r, 3) == 0)
        p->min_p = (float)uniform(r);
}

/* True if case c is away from a rounding edge; then the choice is checked. */
static bool check_case(rng *r, plain *s, float *x, int vocab, int c) {
    fixture *f = fixture_new(vocab);
    random_row(r, x, vocab);
    random_params(r, &f->p, vocab);
    uint64_t seed = next(r);
    double u = eng_uniform(seed, c);
    int want = plain_sample(s, x, vocab, &f->p, u, 0);
    bool clear = plain_sample(s, x, vocab, &f->p, u, 3e-6) == want &&
                 plain_sample(s, x, vocab, &f->p, u, -3e-6) == want;
    eng_pick pick;
    assert_int_equal(eng_sample(f->s, &pick, x, &f->p, &f->h, seed, c), TNL_OK);
    if (clear && pick.id != want)
        print_message("case %d vocab %d T %g k %d p %g typ %g min %g\n", c, vocab,
                      (double)f->p.temperature, (int)f->p.top_k, (double)f->p.top_p,
                      (double)f->p.typical_p, (double)f->p.min_p);
    if (clear)
        assert_int_equal(pick.id, want);
    fixture_free(f);
    return clear;
}

static void equals_plain_sampler(void **state) {
    (void)state;
    rng r = {test_seed};
    print_message("seed %llu\n", (unsigned long long)r.s);
    plain *s = malloc(sizeof *s);
    float *x = malloc(PLAIN_MAX * sizeof *x);
    assert_non_null(s);
    assert_non_null(x);
    int checked = 0, cases = 4000, large = 0, large_cases = 30;
    for (int c = 0; c < cases; c++)
        checked += check_case(&r, s, x, 1 + (int)below(&r, c % 8 ? 300 : 4096), c);
    for (int c = 0; c < large_cases; c++)
        large += check_case(&r, s, x, 20000 + (int)below(&r, PLAIN_MAX - 20000 + 1), c);
    print_message("%d of %d cases away from a rounding edge, %d of %d large ones\n", checked, cases,
                  large, large_cases);
    assert_true(checked > cases * 9 / 10);
    assert_true(large > large_cases / 2);
    free(s);
    free(x);
}

/* Exact numbers where there is no rounding to argue about. */
static void kept_sets(void **state) {
    (void)state;
    /* probabilities 1/2 1/4 1/8 1/16 1/16, in mixed order of ids; alone, and as tokens 0, 1000, ...
     * of a vocabulary whose others have none */
    const float few[5] = {logf(0.0625f), logf(0.5f), logf(0.125f), logf(0.0625f), logf(0.25f)};
    enum { APART = 1000, MANY = 4 * APART + 5 };
    static float many[MANY];
    for (int i = 0; i < MANY; i++)
        many[i] = i % APART == 0 ? few[i / APART] : -70.0f - (float)(i % 7);
    static const struct {
        int top_k;
        float typical, top_p, min_p;
        unsigned kept; /* bit per id */
    } rows[] = {
        {0, 1, 1, 0, 0x1F},
        {2, 1, 1, 0, 0x12},
        {4, 1, 1, 0, 0x17},
        {0, 1, 0.49f, 0, 0x02},
        {0, 1, 0.7f, 0, 0x12},
        {0, 1, 0.76f, 0, 0x16},
        {0, 1, 0.9f, 0, 0x17},
        {0, 1, 1, 0.2f, 0x16},
        {0, 1, 1, 0.1f, 0x1F},
        {0, 1, 1, 1, 0x02},
        {2, 1, 0.6f, 0, 0x02},
        {2, 1, 0.7f, 0, 0x12},
        /* entropy 1.875 bits: distances of 2, 1, 3, 4 bits are .125 .875 1.125 2.125 */
        {0, 0.2f, 1, 0, 0x10},
        {0, 0.7f, 1, 0, 0x12},
        {0, 0.8f, 1, 0, 0x16},
        {0, 0.2f, 0.1f, 0, 0x10},
        {0, 0.8f, 1, 0.4f, 0x12},
        {0, 1, 0.9f, 0.4f, 0x12},
        {0, 1, 0.7f, 0.2f, 0x12},
    };
    for (size_t c = 0; c < 2 * sizeof rows / sizeof rows[0]; c++) {
        bool alone = c % 2 == 0;
        fixture *f = fixture_new(alone ? 5 : MANY);
        f->p.top_k = rows[c / 2].top_k;
        f->p.typical_p = rows[c / 2].typical;
        f->p.top_p = rows[c / 2].top_p;
        f->p.min_p = rows[c / 2].min_p;
        unsigned seen = 0;
        for (int64_t pos = 0; pos < 400; pos++) {
            eng_pick pick;
            assert_int_equal(eng_sample(f->s, &pick, alone ? few : many, &f->p, &f->h, 99, pos),
                             TNL_OK);
            if (!alone)
                assert_int_equal(pick.id % APART, 0);
            seen |= 1u << (alone ? pick.id : pick.id / APART);
        }
        if (seen != rows[c / 2].kept)
            print_message("row %zu%s\n", c / 2, alone ? "" : " among many");
        assert_int_equal(seen, rows[c / 2].kept);
        fixture_free(f);
    }
}

static void draws_follow_the_distribution(void **state) {
    (void)state;
    enum { V = 6, N = 40000 };
    const float x[V] = {0, 1, 2, -1, 0.5f, -30};
    fixture *f = fixture_new(V);
    double sum = 0, p[V];
    int hits[V] = {0};
    for (int i = 0; i < V; i++)
        sum += p[i] = exp((double)x[i]);
    for (int64_t pos = 0; pos < N; pos++) {
        eng_pick pick;
        assert_int_equal(eng_sample(f->s, &pick, x, &f->p, &f->h, test_seed, pos), TNL_OK);
        hits[pick.id]++;
    }
    for (int i = 0; i < V; i++) {
        double want = N * p[i] / sum, sigma = sqrt(want + 1);
        assert_true(fabs(hits[i] - want) < 5 * sigma);
    }
    fixture_free(f);
}

/* ---- greedy, ties, logprobs ---- */

static void greedy_takes_the_lowest_of_equals(void **state) {
    (void)state;
    float x[700];
    for (int i = 0; i < 700; i++)
        x[i] = i % 3 == 2 ? 4.0f : -1.0f;
    for (int how = 0; how < 5; how++) {
        fixture *f = fixture_new(700);
        f->p.temperature = how == 0 ? 0.0f : how == 1 ? 1e-40f : how == 2 ? 9.9e-4f : 1.0f;
        f->p.top_p = how == 3 ? 0.0f : 1.0f;
        f->p.top_k = how == 4 ? 1 : 0;
        eng_pick pick;
        for (int64_t pos = 0; pos < 20; pos++) {
            assert_int_equal(eng_sample(f->s, &pick, x, &f->p, &f->h, 5, pos), TNL_OK);
            assert_int_equal(pick.id, 2);
        }
        fixture_free(f);
    }
}

static void logprobs_are_of_the_raw_row(void **state) {
    (void)state;
    rng r = {test_seed + 1};
    enum { V = 3001 };
    static float x[V];
    fixture *f = fixture_new(V);
    for (int c = 0; c < 50; c++) {
        random_row(&r, x, V);
        double sum = 0;
        for (int i = 0; i < V; i++)
            sum += exp((double)x[i]);
        random_params(&r, &f->p, V);
        f->p.presence_penalty = 1.5f;
        f->p.n_bias = 1;
        f->p.bias_id[0] = (int32_t)below(&r, V);
        f->p.bias[0] = 50;
        f->p.logprobs = ENG_MAX_LOGPROBS;
        eng_pick pick, scored;
        assert_int_equal(eng_sample(f->s, &pick, x, &f->p, &f->h, 1, c), TNL_OK);
        assert_true(fabs((double)pick.logprob - ((double)x[pick.id] - log(sum))) < 1e-5);
        assert_int_equal(pick.n_alts, ENG_MAX_LOGPROBS);
        for (int a = 0; a < pick.n_alts; a++) {
            int better = 0;
            for (int i = 0; i < V; i++)
                better += x[i] > x[pick.alts[a].id] ||
                          (x[i] == x[pick.alts[a].id] && i < pick.alts[a].id);
            assert_int_equal(better, a);
            assert_true(fabs((double)pick.alts[a].logprob -
                             ((double)x[pick.alts[a].id] - log(sum))) < 1e-5);
        }
        assert_int_equal(eng_score(f->s, &scored, x, pick.id, 3), TNL_OK);
        assert_true(scored.logprob == pick.logprob && scored.n_alts == 3);
        assert_memory_equal(scored.alts, pick.alts, 3 * sizeof scored.alts[0]);
    }
    fixture_free(f);
    f = fixture_new(3);
    f->p.logprobs = 20;
    eng_pick pick;
    assert_int_equal(eng_sample(f->s, &pick, x, &f->p, &f->h, 1, 1), TNL_OK);
    assert_int_equal(pick.n_alts, 3);
    fixture_free(f);
}

/* ---- bias and penalties ---- */

static int32_t greedy(fixture *f, const float *x) {
    eng_pick pick;
    f->p.temperature = 0;
    assert_int_equal(eng_sample(f->s, &pick, x, &f->p, &f->h, 1, 1), TNL_OK);
    return pick.id;
}

static void penalties(void **state) {
    (void)state;
    const float x[4] = {2.0f, 1.5f, -1.0f, 1.2f};
    fixture *f = fixture_new(4);
    assert_int_equal(greedy(f, x), 0);
    eng_history_add(&f->h, 0, false); /* in the prompt only */
    f->p.presence_penalty = 2;
    f->p.frequency_penalty = 2;
    assert_int_equal(greedy(f, x), 0);
    f->p.repetition_penalty = 1.3f; /* 2/1.3 = 1.54 > 1.5 */
    assert_int_equal(greedy(f, x), 0);
    f->p.repetition_penalty = 1.4f;
    assert_int_equal(greedy(f, x), 1);
    f->p.repetition_penalty = 1;
    f->p.frequency_penalty = 0;
    f->p.presence_penalty = 0.6f;
    eng_history_add(&f->h, 0, true); /* 2 - 0.6 = 1.4 */
    assert_int_equal(greedy(f, x), 1);
    f->p.presence_penalty = 0;
    f->p.frequency_penalty = 0.4f;
    assert_int_equal(greedy(f, x), 0); /* 2 - 0.4 */
    eng_history_add(&f->h, 0, true);
    assert_int_equal(greedy(f, x), 1); /* 2 - 0.8 */
    f->p.n_bias = 1;
    f->p.bias_id[0] = 2;
    f->p.bias[0] = 4;
    assert_int_equal(greedy(f, x), 2);
    f->p.n_bias = 0;
    eng_history_clear(&f->h);
    assert_int_equal(greedy(f, x), 0);
    assert_int_equal(f->h.n_seen, 0);
    fixture_free(f);
}

static void a_negative_logit_is_multiplied(void **state) {
    (void)state;
    const float x[2] = {-1.0f, -1.2f};
    fixture *f = fixture_new(2);
    eng_history_add(&f->h, 0, false);
    f->p.repetition_penalty = 1.3f;
    assert_int_equal(greedy(f, x), 1);
    fixture_free(f);
}

static void bans(void **state) {
    (void)state;
    enum { V = 900 };
    float x[V];
    rng r = {test_seed + 2};
    random_row(&r, x, V);
    fixture *f = fixture_new(V);
    int left = 417;
    for (int i = 0; i < V; i++) {
        if (i == left)
            continue;
        f->p.bias_id[f->p.n_bias] = i;
        f->p.bias[f->p.n_bias++] = -100;
    }
    f->p.repetition_penalty = 3;
    eng_history_add(&f->h, 3, true);
    for (int mode = 0; mode < 6; mode++) {
        f->p.temperature = mode == 0 ? 0 : 0.7f;
        f->p.top_p = mode == 2 ? 0.9f : 1;
        f->p.top_k = mode == 3 ? 40 : 0;
        f->p.typical_p = mode == 4 ? 0.5f : 1;
        f->p.min_p = mode == 5 ? 0.1f : 0;
        eng_pick pick;
        for (int64_t pos = 0; pos < 10; pos++) {
            assert_int_equal(eng_sample(f->s, &pick, x, &f->p, &f->h, 3, pos), TNL_OK);
            assert_int_equal(pick.id, left);
        }
        /* a second entry for a forbidden token does not lift the ban */
        f->p.bias_id[f->p.n_bias] = left;
        f->p.bias[f->p.n_bias++] = -100;
        f->p.bias_id[f->p.n_bias] = left;
        f->p.bias[f->p.n_bias++] = 100;
        assert_int_equal(eng_sample(f->s, &pick, x, &f->p, &f->h, 3, 1), TNL_E_USAGE);
        f->p.n_bias -= 2;
    }
    fixture_free(f);
}

/* What a grammar allows: bits, here for each token at random, or for whole words. */
static void allowed_tokens(void **state) {
    (void)state;
    enum { V = 900 };
    float x[V];
    uint64_t bits[(V + 63) / 64];
    rng r = {test_seed + 6};
    fixture *f = fixture_new(V);
    for (int c = 0; c < 300; c++) {
        random_row(&r, x, V);
        random_params(&r, &f->p, V);
        if (c % 4 == 0)
            f->p.temperature = 0;
        for (size_t w = 0; w < sizeof bits / sizeof bits[0]; w++)
            bits[w] = c % 3 == 0 ? next(&r) : c % 3 == 1 ? next(&r) & next(&r) & next(&r) : 0;
        int64_t some = below(&r, V);
        bits[some / 64] = UINT64_MAX;
        f->h.allowed = bits;
        eng_pick pick;
        assert_int_equal(eng_sample(f->s, &pick, x, &f->p, &f->h, 3, c), TNL_OK);
        assert_true(bits[pick.id / 64] >> (pick.id % 64) & 1);
        for (int i = 0; i < V && c % 4 == 0; i++)
            if (bits[i / 64] >> (i % 64) & 1)
                assert_true(x[i] < x[pick.id] || (x[i] == x[pick.id] && i >= pick.id));
        memset(bits, 0, sizeof bits);
        assert_int_equal(eng_sample(f->s, &pick, x, &f->p, &f->h, 3, c), TNL_E_USAGE);
    }
    f->h.allowed = NULL;
    fixture_free(f);
}

static void extreme_rows(void **state) {
    (void)state;
    enum { V = 130 };
    float x[V];
    rng r = {test_seed + 3};
    static const float values[] = {FLT_MAX, -FLT_MAX, FLT_MIN, -FLT_MIN, 1e-45f, 0.0f,
                                   -0.0f,   3e38f,    -3e38f,  1.0f,     88.8f,  -88.8f};
    for (int c = 0; c < 3000; c++) {
        fixture *f = fixture_new(V);
        random_params(&r, &f->p, V);
        int variety = 1 + (int)below(&r, 12);
        for (int i = 0; i < V; i++)
            x[i] = values[below(&r, variety)];
        f->p.temperature = below(&r, 2) ? 1e-3f : 100.0f;
        f->p.repetition_penalty = below(&r, 2) ? FLT_MAX : FLT_MIN;
        f->p.presence_penalty = -2;
        f->p.frequency_penalty = 2;
        f->p.logprobs = 5;
        for (int i = 0; i < 20; i++)
            eng_history_add(&f->h, (int32_t)below(&r, V), below(&r, 2) == 0);
        eng_pick pick;
        assert_int_equal(eng_sample(f->s, &pick, x, &f->p, &f->h, next(&r), c), TNL_OK);
        assert_in_range(pick.id, 0, V - 1);
        assert_false(isnan(pick.logprob));
        assert_true(pick.logprob <= 0);
        for (int a = 0; a < pick.n_alts; a++)
            assert_false(isnan(pick.alts[a].logprob));
        x[below(&r, V)] = below(&r, 2) ? NAN : INFINITY;
        assert_int_equal(eng_sample(f->s, &pick, x, &f->p, &f->h, 1, c), TNL_E_NONFINITE);
        assert_int_equal(eng_score(f->s, &pick, x, 0, 2), TNL_E_NONFINITE);
        fixture_free(f);
    }
}

static void nothing_is_carried_over(void **state) {
    (void)state;
    enum { V = 2000 };
    static float x[V], y[V];
    rng r = {test_seed + 4};
    fixture *f = fixture_new(V), *g = fixture_new(V);
    for (int64_t c = 0; c < 200; c++) {
        random_row(&r, x, V);
        random_row(&r, y, V);
        random_params(&r, &f->p, V);
        random_params(&r, &g->p, V);
        g->p.presence_penalty = 1;
        eng_pick a = {0}, b = {0}, other;
        assert_int_equal(eng_sample(f->s, &a, x, &f->p, &f->h, 42, c), TNL_OK);
        assert_int_equal(eng_sample(f->s, &other, y, &g->p, &g->h, 42, c), TNL_OK);
        assert_int_equal(eng_sample(f->s, &b, x, &f->p, &f->h, 42, c), TNL_OK);
        assert_int_equal(a.id, b.id);
        assert_memory_equal(&a.logprob, &b.logprob, sizeof a.logprob);
    }
    fixture_free(f);
    fixture_free(g);
}

/* Many rows over several threads: each job's answer is the one it has alone. */
static void rows_side_by_side(void **state) {
    (void)state;
    enum { V = 5000, ROWS = 24 };
    static float x[ROWS][V];
    static eng_row_job jobs[ROWS];
    rng r = {test_seed + 5};
    fixture *f[ROWS];
    for (int threads = 0; threads < 4; threads++) { /* 0: no backend */
        kn_backend *be = NULL;
        eng_rows *rows;
        if (threads > 0)
            assert_int_equal(kn_cpu_open(&be, threads, "ref", NULL), TNL_OK);
        assert_int_equal(eng_rows_open(&rows, be, V, NULL), TNL_OK);
        for (int i = 0; i < ROWS; i++) {
            f[i] = fixture_new(V);
            random_row(&r, x[i], V);
            random_params(&r, &f[i]->p, V);
            f[i]->p.presence_penalty = i % 3 ? 0 : 1;
            f[i]->p.logprobs = i % 5;
            eng_history_add(&f[i]->h, i, true);
            if (i == 7)
                x[i][i] = NAN;
            jobs[i] = (eng_row_job){x[i], &f[i]->p, &f[i]->h, next(&r), i, {0}, TNL_E_INTERNAL};
        }
        eng_rows_sample(rows, jobs, ROWS);
        for (int i = 0; i < ROWS; i++) {
            eng_pick alone = {0};
            assert_int_equal(jobs[i].status, eng_sample(eng_rows_sampler(rows), &alone, x[i],
                                                        jobs[i].p, jobs[i].h, jobs[i].seed, i));
            assert_int_equal(jobs[i].status, i == 7 ? TNL_E_NONFINITE : TNL_OK);
            assert_memory_equal(&jobs[i].pick, &alone, sizeof alone);
            fixture_free(f[i]);
        }
        eng_rows_close(rows);
        kn_backend_close(be);
    }
}

/* ---- ranges ---- */

static void ranges(void **state) {
    (void)state;
    eng_params p;
    tnl_error err;
#define GOOD(field, value)                                                                         \
    do {                                                                                           \
        eng_params_default(&p);                                                                    \
        p.field = (value);                                                                         \
        assert_int_equal(eng_params_check(&p, 100, &err), TNL_OK);                                 \
    } while (0)
#define BAD(field, value)                                                                          \
    do {                                                                                           \
        eng_params_default(&p);                                                                    \
        p.field = (value);                                                                         \
        assert_int_equal(eng_params_check(&p, 100, &err), TNL_E_USAGE);                            \
    } while (0)
    GOOD(max_tokens, 0);
    GOOD(max_tokens, 1000000);
    BAD(max_tokens, -1);
    BAD(max_tokens, 1000001);
    BAD(max_tokens, INT64_MAX);
    GOOD(temperature, 0);
    GOOD(temperature, 1e-40f);
    GOOD(temperature, 100);
    BAD(temperature, -1e-6f);
    BAD(temperature, 100.01f);
    BAD(temperature, NAN);
    BAD(temperature, INFINITY);
    GOOD(top_k, 1000000000);
    BAD(top_k, -1);
    GOOD(top_p, 0);
    BAD(top_p, 1.0001f);
    BAD(top_p, -0.1f);
    BAD(min_p, 1.01f);
    BAD(min_p, NAN);
    BAD(typical_p, 0);
    GOOD(typical_p, 0.1f);
    BAD(repetition_penalty, 0);
    BAD(repetition_penalty, -1);
    BAD(repetition_penalty, INFINITY);
    GOOD(presence_penalty, -2);
    BAD(presence_penalty, -2.1f);
    BAD(frequency_penalty, 2.1f);
    BAD(logprobs, 21);
    BAD(logprobs, -1);
    BAD(n_bias, ENG_MAX_BIAS + 1);
    BAD(n_stop, ENG_MAX_STOP + 1);
    BAD(n_stop, 1); /* an empty one */
    eng_params_default(&p);
    p.n_bias = 1;
    p.bias_id[0] = 100;
    assert_int_equal(eng_params_check(&p, 100, &err), TNL_E_USAGE);
    p.bias_id[0] = 99;
    assert_int_equal(eng_params_check(&p, 100, &err), TNL_OK);
    p.bias[0] = NAN;
    assert_int_equal(eng_params_check(&p, 100, &err), TNL_E_USAGE);
    eng_params_default(&p);
    p.n_stop = 1;
    memset(p.stop[0], 'x', sizeof p.stop[0]); /* no NUL */
    assert_int_equal(eng_params_check(&p, 100, &err), TNL_E_USAGE);
    p.stop[0][ENG_MAX_STOP_BYTES] = 0;
    assert_int_equal(eng_params_check(&p, 100, &err), TNL_OK);
    memcpy(p.stop[0], "\xC3", 2);
    assert_int_equal(eng_params_check(&p, 100, &err), TNL_E_USAGE);
#undef GOOD
#undef BAD
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(kept_sets),
        cmocka_unit_test(equals_plain_sampler),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(greedy_takes_the_lowest_of_equals),
        cmocka_unit_test(logprobs_are_of_the_raw_row),
        cmocka_unit_test(penalties),
        cmocka_unit_test(a_negative_logit_is_multiplied),
        cmocka_unit_test(bans),
        cmocka_unit_test(allowed_tokens),
        cmocka_unit_test(extreme_rows),
        cmocka_unit_test(nothing_is_carried_over),
        cmocka_unit_test(rows_side_by_side),
        cmocka_unit_test(ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
