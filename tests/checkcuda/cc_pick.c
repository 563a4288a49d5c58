/* Sampling on the device against the host's sampler: the same token and the same bits of its
 * logprob, for rows of every kind and parameters of every kind, and for rows in company. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/pick_cuda.h"
#include "server/engine/sampling/picks.h"
#include "server/engine/sampling/sampler.h"
#include "tests/checkcuda/cc.h"
#include "tests/checkcuda/cc_bench.h"

enum { MOST_ROWS = 24, ROWS_PADDING = 3, CANARY = 0x5A };

/* Rows of one launch, and what each asks for. */
typedef struct batch {
    int64_t n, dim, ld;
    float *x; /* [n][ld]; NaN between the rows */
    eng_params p[MOST_ROWS];
    kn_pick_how how[MOST_ROWS];
    uint64_t seed[MOST_ROWS];
    kn_picked got[MOST_ROWS + 1]; /* and one that stays as it was */
} batch;

static void *need(size_t n, size_t size) {
    void *p = calloc(n ? n : 1, size);
    if (!p)
        exit(2);
    return p;
}

/* ---- rows ---- */

static void fill(float *x, int64_t n, float v) {
    for (int64_t i = 0; i < n; i++)
        x[i] = v;
}

static float *somewhere(cc *c, float *x, int64_t n) {
    return x + cc_between(c, 0, n - 1);
}

static void normal_row(cc *c, float *x, int64_t n) {
    static const double spreads[] = {1e-6, 0.01, 1, 3, 10, 60, 1e5};
    const double spread = spreads[cc_between(c, 0, 6)];
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(cc_normal(c) * spread);
}

static void tied_row(cc *c, float *x, int64_t n) {
    const int64_t kinds = cc_between(c, 1, 12);
    const float step = cc_between(c, 0, 1) ? 1.0f : 0.1f;
    for (int64_t i = 0; i < n; i++)
        x[i] = step * (float)(cc_between(c, 0, kinds) - kinds / 2);
}

/* All magnitudes and signs, zeros of both signs. */
static void wide_row(cc *c, float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const int e = (int)cc_between(c, -149, 127), sign = cc_between(c, 0, 1) ? 1 : -1;
        x[i] = cc_between(c, 0, 9) ? (float)sign * ldexpf(1, e) : (float)sign * 0.0f;
    }
}

static void peaked_row(cc *c, float *x, int64_t n) {
    normal_row(c, x, n);
    for (int64_t i = cc_between(c, 0, 5); i >= 0; i--)
        *somewhere(c, x, n) += (float)cc_between(c, 0, 30);
}

/* Many of nearly one value far below the largest: they share a bin, and one more after it. */
static void crowded_row(cc *c, float *x, int64_t n) {
    const float at = -(float)(cc_uniform(c) * 26), apart = cc_between(c, 0, 1) ? 1e-6f : 1e-4f;
    for (int64_t i = 0; i < n; i++)
        x[i] = at + apart * (float)cc_between(c, 0, cc_between(c, 0, 1) ? 3 : 900);
    if (cc_between(c, 0, 2))
        *somewhere(c, x, n) = 0;
}

static void flat_row(cc *c, float *x, int64_t n) {
    static const float values[] = {0, -0.0f, 1, -FLT_MAX, FLT_MAX, -1e-45f};
    fill(x, n, values[cc_between(c, 0, 5)]);
    if (cc_between(c, 0, 1))
        *somewhere(c, x, n) = cc_between(c, 0, 1) ? FLT_MAX : nextafterf(x[0], FLT_MAX);
}

static void masked_row(cc *c, float *x, int64_t n) {
    normal_row(c, x, n);
    for (int64_t i = 0; i < n; i++)
        x[i] = cc_between(c, 0, 7) ? -FLT_MAX : x[i];
}

static void bad_row(cc *c, float *x, int64_t n) {
    static const float values[] = {INFINITY, -INFINITY, NAN};
    normal_row(c, x, n);
    *somewhere(c, x, n) = values[cc_between(c, 0, 2)];
}

static void random_row(cc *c, float *x, int64_t n) {
    static void (*const kinds[])(cc *, float *, int64_t) = {
        normal_row, normal_row,  peaked_row, peaked_row, tied_row,
        wide_row,   crowded_row, flat_row,   masked_row, bad_row};
    kinds[cc_between(c, 0, (int64_t)(sizeof kinds / sizeof *kinds) - 1)](c, x, n);
}

/* ---- parameters ---- */

static float random_share(cc *c) {
    static const float hard[] = {1e-6f, 0.5f, 0.95f, 0.999999f, FLT_MIN, 1 - FLT_EPSILON / 2};
    return cc_between(c, 0, 2) ? (float)cc_uniform(c) * 0.98f + 0.01f : hard[cc_between(c, 0, 5)];
}

static void random_params(cc *c, eng_params *p, int64_t n) {
    static const float temperatures[] = {1, 1, 1e-3f, 100, 0.7f};
    eng_params_default(p);
    const int64_t kind = cc_between(c, 0, 9);
    p->temperature = kind < 5 ? temperatures[kind] : (float)(0.05 + 2 * cc_uniform(c));
    if (cc_between(c, 0, 9) == 0)
        p->temperature = 0;
    if (cc_between(c, 0, 1))
        p->top_k = (int32_t)cc_between(c, 2, cc_between(c, 0, 1) ? 40 : n + 2);
    if (cc_between(c, 0, 1))
        p->top_p = random_share(c);
    if (cc_between(c, 0, 2) == 0)
        p->min_p = cc_between(c, 0, 5) ? random_share(c) * 0.3f : 1;
}

/* ---- a launch ---- */

static void open_batch(batch *b, int64_t n, int64_t dim) {
    b->n = n;
    b->dim = dim;
    b->ld = dim + ROWS_PADDING;
    b->x = need((size_t)(n * b->ld), sizeof *b->x);
    fill(b->x, n * b->ld, NAN);
}

static void random_batch(cc *c, batch *b, int64_t n, int64_t dim) {
    open_batch(b, n, dim);
    for (int64_t i = 0; i < n; i++) {
        random_row(c, b->x + i * b->ld, dim);
        random_params(c, &b->p[i], dim);
        b->seed[i] = cc_random(c);
        b->how[i] = eng_pick_how(&b->p[i], b->seed[i], i);
        if (cc_between(c, 0, 15) == 0)
            b->how[i].kind = KN_PICK_LOOK;
        if (cc_between(c, 0, 15) == 0)
            b->how[i].u = 0;
    }
}

static void run(cc *c, batch *b) {
    const size_t bytes = sizeof b->got;
    float *x = cc_device_copy(b->x, (size_t)(b->n * b->ld) * sizeof *x);
    kn_pick_how *how = cc_device_copy(b->how, sizeof b->how);
    kn_picked *out = cc_device_fill(bytes, CANARY);
    kn_cuda_pick(out, x, b->ld, b->n, b->dim, how, NULL);
    const char *error = cc_sync();
    cc_expect(c, !error, "%s", error ? error : "");
    cc_fetch(b->got, out, bytes);
    cc_device_free(x), cc_device_free(how), cc_device_free(out);
}

static bool same_bits(float a, float b) {
    return memcmp(&a, &b, sizeof a) == 0;
}

static bool untouched(const kn_picked *p) {
    for (size_t i = 0; i < sizeof *p; i++)
        if (((const unsigned char *)p)[i] != CANARY)
            return false;
    return true;
}

static void check_row(cc *c, const batch *b, int64_t i, eng_sampler *s, const eng_history *h) {
    const kn_pick_how *how = &b->how[i];
    const kn_picked *got = &b->got[i];
    const float *x = b->x + i * b->ld;
    eng_pick want = {.id = -1};
    tnl_status st = eng_sample(s, &want, x, &b->p[i], h, b->seed[i], i);
    bool good = got->finite == (st == TNL_OK);
    if (st != TNL_OK || how->kind == KN_PICK_LOOK)
        good = good && got->id == -1;
    else if (how->u > 0 || how->kind == KN_PICK_GREEDY)
        good = good && got->id == want.id && same_bits(got->logprob, want.logprob);
    else
        good = good && got->id >= 0 && got->id < b->dim;
    cc_expect(c, good,
              "pick dim=%d row %d: kind %d T=%g top_k=%d top_p=%g min_p=%g u=%.17g: got %d %.9g "
              "(finite %d), want %d %.9g",
              (int)b->dim, (int)i, (int)how->kind, (double)how->temperature, (int)how->top_k,
              (double)how->top_p, (double)how->min_p, how->u, (int)got->id, (double)got->logprob,
              (int)got->finite, (int)want.id, (double)want.logprob);
}

static void check_batch(cc *c, batch *b) {
    eng_sampler *s = NULL;
    const eng_history none = {0};
    if (eng_sampler_open(&s, b->dim, NULL) != TNL_OK)
        exit(2);
    run(c, b);
    for (int64_t i = 0; i < b->n; i++)
        check_row(c, b, i, s, &none);
    cc_expect(c, untouched(&b->got[b->n]), "a result behind the last row");
    eng_sampler_close(s);
    free(b->x);
}

/* The same row, again and again among others. */
static void check_alone(cc *c) {
    static batch many, one;
    random_batch(c, &many, 5, cc_between(c, 1, 900));
    run(c, &many);
    for (int64_t i = 0; i < many.n; i++) {
        open_batch(&one, 1, many.dim);
        memcpy(one.x, many.x + i * many.ld, (size_t)many.dim * sizeof *one.x);
        one.how[0] = many.how[i];
        run(c, &one);
        cc_expect(c,
                  one.got[0].id == many.got[i].id &&
                      same_bits(one.got[0].logprob, many.got[i].logprob),
                  "row %d of %d alone", (int)i, (int)many.dim);
        free(one.x);
    }
    free(many.x);
}

void cc_check_pick(cc *c) {
    static const int64_t edges[] = {1, 2, 31, 511, 512, 513, 1025, 16384, 16385};
    static batch b;
    if (!cc_section(c, "pick"))
        return;
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        random_batch(c, &b, 6, edges[i]);
        check_batch(c, &b);
    }
    for (int i = 0; i < 80; i++) {
        random_batch(c, &b, MOST_ROWS, cc_between(c, 1, i % 8 ? 400 : 3000));
        check_batch(c, &b);
    }
    random_batch(c, &b, 16, 64000);
    check_batch(c, &b);
    random_batch(c, &b, 2, 256003);
    check_batch(c, &b);
    check_alone(c);
}

/* ---- speed ---- */

typedef struct pick_run {
    kn_picked *out;
    float *x;
    int64_t n, dim;
    kn_pick_how *how;
} pick_run;

static void call_pick(void *ctx) {
    const pick_run *r = ctx;
    kn_cuda_pick(r->out, r->x, r->dim, r->n, r->dim, r->how, NULL);
}

/* Logits as of a model that is fairly sure: a few stand out of the many. */
static pick_run open_run(int64_t n, int64_t dim, const eng_params *p) {
    cc c = {.rng = 7};
    float *x = need((size_t)(n * dim), sizeof *x);
    kn_pick_how *how = need((size_t)n, sizeof *how);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < dim; j++)
            x[i * dim + j] = (float)(2.5 * cc_normal(&c)) + (j % 997 ? 0.0f : 6.0f);
        how[i] = eng_pick_how(p, 7, i);
    }
    pick_run r = {.n = n, .dim = dim};
    r.x = cc_device_copy(x, (size_t)(n * dim) * sizeof *x);
    r.how = cc_device_copy(how, (size_t)n * sizeof *how);
    r.out = cc_device((size_t)n * sizeof *r.out);
    free(x), free(how);
    return r;
}

void ccb_pick(void) {
    static const struct {
        const char *name;
        float temperature, top_p;
        int32_t top_k;
    } ways[] = {{"greedy", 0, 1, 0}, {"top_p", 0.8f, 0.95f, 0}, {"top_k top_p", 0.8f, 0.95f, 40}};
    const int64_t dim = cc_emulated() ? 700 : 64000;
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++)
        for (int64_t n = 1; n <= 64; n *= 64) {
            eng_params p;
            eng_params_default(&p);
            p.temperature = ways[w].temperature;
            p.top_p = ways[w].top_p;
            p.top_k = ways[w].top_k;
            pick_run r = open_run(n, dim, &p);
            const double s = ccb_seconds(call_pick, &r);
            printf("{\"test\":\"pick\",\"way\":\"%s\",\"rows\":%d,\"vocab\":%d,\"seconds\":%.9g}\n",
                   ways[w].name, (int)n, (int)dim, s);
            cc_device_free(r.x), cc_device_free(r.how), cc_device_free(r.out);
        }
}
