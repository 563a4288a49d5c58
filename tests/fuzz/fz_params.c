/* Sampling parameters and rows of logits of any bits: parameters outside their ranges are refused,
 * rows that are not finite are reported, and from everything else comes a token that the
 * parameters allow, a logprob that is a number, and the same again when asked again. */
#include <math.h>
#include <string.h>

#include "server/engine/params.h"
#include "server/engine/sampling/sampler.h"
#include "tests/fuzz/fuzz.h"

enum { MAX_VOCAB = 200 };

typedef struct input {
    const uint8_t *p;
    size_t n;
} input;

static uint32_t take(input *in, size_t bytes) {
    uint32_t v = 0;
    for (size_t i = 0; i < bytes && in->n > 0; i++, in->n--)
        v = v << 8 | *in->p++;
    return v;
}

/* Half of the time a plausible value, else any bits at all. */
static float any_float(input *in, float lo, float hi) {
    uint32_t kind = take(in, 1), bits;
    if (kind % 4 != 0)
        return lo + (hi - lo) * (float)(take(in, 2) & 0xFFFF) / 65535.0f;
    bits = take(in, 4);
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static void read_params(input *in, eng_params *p, int vocab) {
    uint32_t on = take(in, 2);
    eng_params_default(p);
    if (on & 1)
        p->temperature = any_float(in, 0, 2);
    if (on & 2)
        p->top_k = (int32_t)take(in, on & 1024 ? 4 : 1);
    if (on & 4)
        p->top_p = any_float(in, 0, 1);
    if (on & 8)
        p->min_p = any_float(in, 0, 1);
    if (on & 16)
        p->typical_p = any_float(in, 0, 1);
    if (on & 32)
        p->repetition_penalty = any_float(in, 0.1f, 3);
    if (on & 64)
        p->presence_penalty = any_float(in, -2, 2);
    if (on & 128)
        p->frequency_penalty = any_float(in, -2, 2);
    if (on & 256)
        p->logprobs = (int)(take(in, 1) % 24);
    p->n_bias = on & 512 ? (int32_t)(take(in, 1) % 16) : 0;
    for (int i = 0; i < p->n_bias; i++) {
        p->bias_id[i] = (int32_t)(take(in, 1) % (uint32_t)(vocab + (on >> 15)));
        p->bias[i] = any_float(in, -110, 100);
    }
}

static bool read_row(input *in, float *row, int vocab) {
    bool finite = true;
    uint32_t ties = take(in, 1) % 8;
    for (int i = 0; i < vocab; i++) {
        row[i] = ties ? (float)(take(in, 1) % (ties * 4)) : any_float(in, -20, 20);
        finite = finite && isfinite(row[i]);
    }
    return finite;
}

static bool forbidden(const eng_params *p, int id) {
    for (int i = 0; i < p->n_bias; i++)
        if (p->bias_id[i] == id && p->bias[i] <= ENG_BIAS_FORBID)
            return true;
    return false;
}

/* Without bias, penalties and typical_p: is the token among those that may be kept? */
static void check_kept(const eng_params *p, const float *row, int vocab, int id) {
    int rank = 0, at[MAX_VOCAB];
    float max = -INFINITY;
    for (int i = 0; i < vocab; i++) {
        rank += row[i] > row[id] || (row[i] == row[id] && i < id);
        max = row[i] > max ? row[i] : max;
    }
    if (eng_params_greedy(p)) {
        FUZZ_CHECK(rank == 0);
        return;
    }
    double t = (double)p->temperature, sum = 0, above = 0;
    double w = exp(((double)row[id] - (double)max) / t);
    for (int i = 0; i < vocab; i++) {
        at[i] = 0;
        for (int k = 0; k < vocab && p->top_k > 0; k++)
            at[i] += row[k] > row[i] || (row[k] == row[i] && k < i);
        double wi = exp(((double)row[i] - (double)max) / t);
        if (p->top_k > 0 && at[i] >= p->top_k)
            continue;
        sum += wi;
        above += wi > w * 1.0001 ? wi : 0;
    }
    FUZZ_CHECK(p->top_k == 0 || rank < p->top_k);
    FUZZ_CHECK(above <= ((double)p->top_p + 1e-4) * sum);
    FUZZ_CHECK(w >= (double)p->min_p * 0.9999);
}

static void check_pick(const eng_params *p, const float *row, int vocab, const eng_pick *pick) {
    FUZZ_CHECK(pick->id >= 0 && pick->id < vocab && !forbidden(p, pick->id));
    FUZZ_CHECK(!isnan(pick->logprob) && pick->logprob <= 1e-6f);
    FUZZ_CHECK(pick->n_alts == (p->logprobs < vocab ? p->logprobs : vocab));
    for (int i = 0; i < pick->n_alts; i++) {
        FUZZ_CHECK(pick->alts[i].id >= 0 && pick->alts[i].id < vocab);
        FUZZ_CHECK(i == 0 || row[pick->alts[i].id] <= row[pick->alts[i - 1].id]);
    }
    bool plain = p->n_bias == 0 && p->repetition_penalty == 1 && p->presence_penalty == 0 &&
                 p->frequency_penalty == 0 && p->typical_p >= 1;
    if (plain)
        check_kept(p, row, vocab, pick->id);
}

static void check(const eng_params *p, const float *row, int vocab, bool finite, input *in) {
    eng_sampler *s;
    eng_history h;
    eng_pick a, b;
    if (eng_sampler_open(&s, vocab, NULL) != TNL_OK || eng_history_open(&h, vocab, NULL) != TNL_OK)
        abort();
    uint32_t n = take(in, 1) % 16;
    for (uint32_t i = 0; i < n; i++)
        eng_history_add(&h, (int32_t)(take(in, 1) % (uint32_t)vocab), take(in, 1) % 2);
    uint64_t seed = take(in, 4);
    tnl_status st = eng_sample(s, &a, row, p, &h, seed, (int64_t)n);
    FUZZ_CHECK((st == TNL_E_NONFINITE) == !finite);
    FUZZ_CHECK(st == TNL_OK || st == TNL_E_NONFINITE || st == TNL_E_USAGE);
    if (st == TNL_E_USAGE)
        for (int i = 0; i < vocab; i++)
            FUZZ_CHECK(forbidden(p, i));
    if (st == TNL_OK) {
        check_pick(p, row, vocab, &a);
        FUZZ_CHECK(eng_sample(s, &b, row, p, &h, seed, (int64_t)n) == TNL_OK);
        FUZZ_CHECK(a.id == b.id && memcmp(&a.logprob, &b.logprob, sizeof a.logprob) == 0);
        FUZZ_CHECK(eng_score(s, &b, row, a.id, p->logprobs) == TNL_OK);
        FUZZ_CHECK(memcmp(&a.logprob, &b.logprob, sizeof a.logprob) == 0);
    }
    eng_sampler_close(s);
    eng_history_close(&h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    float row[MAX_VOCAB];
    eng_params *p = malloc(sizeof *p);
    if (!p)
        abort();
    int vocab = 1 + (int)(take(&in, 1) % MAX_VOCAB);
    read_params(&in, p, vocab);
    bool finite = read_row(&in, row, vocab);
    tnl_error err;
    tnl_status st = eng_params_check(p, vocab, &err);
    FUZZ_CHECK(st == TNL_OK || (st == TNL_E_USAGE && err.msg[0]));
    if (st == TNL_OK)
        check(p, row, vocab, finite, &in);
    free(p);
    return 0;
}
