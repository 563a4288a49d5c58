/* The speed of attention: prompts of 512 to 131,072 tokens, and decode steps. Small prompts go
 * around several sets of operands, so that none of them stays in a cache. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/linattn_cuda.h"
#include "tests/checkcuda/cc.h"
#include "tests/checkcuda/cc_bench.h"

enum { MOST_SETS = 16, Q = 0, K = 1, V = 2, O = 3, OPERANDS = 4 };

typedef struct attn_run {
    kn_cuda_linattn a;
    kn_cuda_plan plan;
    int64_t batch, len, pos;
    size_t state_floats, all; /* all: elements of an operand */
    bool step;
    uint16_t *operands; /* [sets][OPERANDS][all] */
    float *states;      /* [sets][batch][state_floats] */
    void *segs[MOST_SETS];
    int sets, next;
} attn_run;

static void run_attn(void *ctx) {
    attn_run *r = ctx;
    const int set = r->next++ % r->sets;
    uint16_t *p = r->operands + (size_t)set * OPERANDS * r->all;
    r->a.q = p + Q * r->all;
    r->a.k = p + K * r->all;
    r->a.v = p + V * r->all;
    r->a.o = p + O * r->all;
    r->a.segs = r->segs[set];
    if (r->step)
        kn_cuda_linattn_step(&r->a, NULL);
    else
        kn_cuda_linattn_prefill(&r->a, &r->plan, cc_shared_bytes(), NULL);
}

static void must_have(const void *p) {
    if (!p)
        ccb_must("no memory");
}

/* Each segment's own share of a set's states, on the device; parts are those of all sets. */
static void place_segs(attn_run *r) {
    kn_linattn_seg *segs = calloc((size_t)r->batch, sizeof *segs);
    must_have(segs);
    for (int set = 0; set < r->sets; set++) {
        float *states = r->states + (size_t)(set * r->batch) * r->state_floats;
        for (int64_t i = 0; i < r->batch; i++)
            segs[i] =
                (kn_linattn_seg){states + (size_t)i * r->state_floats, r->pos, i * r->len, r->len};
        r->segs[set] = cc_device_copy(segs, (size_t)r->batch * sizeof *segs);
    }
    if (!r->step) {
        kn_cuda_plan_cut(&r->plan, segs, r->batch, &r->a.d, cc_processors());
        kn_cuda_plan_parts(&r->plan, NULL, segs, r->batch);
        kn_cuda_part *parts = calloc((size_t)r->plan.n_parts, sizeof *parts);
        must_have(parts);
        kn_cuda_plan_parts(&r->plan, parts, segs, r->batch);
        r->plan.parts = cc_device_copy(parts, (size_t)r->plan.n_parts * sizeof *parts);
        free(parts);
    }
    free(segs);
}

/* Decays of a layer of H heads as models have them: slopes 2^(-8 (h+1) / H). */
static float *decay_tables(int H) {
    const size_t n = kn_cuda_decay_floats(H);
    float *tables = calloc(n, sizeof *tables);
    double *s = calloc((size_t)H, sizeof *s);
    if (!tables || !s)
        must_have(NULL);
    for (int h = 0; h < H; h++)
        s[h] = exp2(-8.0 * (h + 1) / H);
    kn_cuda_decay_fill(tables, s, H);
    float *copy = cc_device_copy(tables, n * sizeof *tables);
    free(tables);
    free(s);
    return copy;
}

/* Seconds of a layer's attention of `batch` segments of `len` rows at position `pos`. */
static double time_attn(int64_t batch, int H, int D, int64_t pos, int64_t len) {
    const kn_linattn_dims d = {H, D, D};
    const int64_t width = (int64_t)H * D;
    attn_run r = {.batch = batch,
                  .len = len,
                  .pos = pos,
                  .step = len == 1,
                  .all = (size_t)(batch * len * width)};
    r.state_floats = kn_linattn_state_floats(&d, KN_CUDA_BLOCK);
    const size_t states = (size_t)batch * r.state_floats * sizeof(float);
    const size_t set_bytes = 2 * OPERANDS * r.all + states;
    const size_t wanted = (ccb_round_bytes() + set_bytes - 1) / set_bytes;
    r.sets = wanted < MOST_SETS ? (int)wanted : MOST_SETS;
    r.operands = ccb_numbers((size_t)r.sets * 2 * OPERANDS * r.all);
    r.states = ccb_numbers((size_t)r.sets * states);
    float *tables = decay_tables(H);
    r.a = (kn_cuda_linattn){.dtype = KN_BF16,
                            .ldo = width,
                            .ldq = width,
                            .ldk = width,
                            .ldv = width,
                            .d = d,
                            .decay = kn_cuda_decay_at(tables, H),
                            .n_segs = batch};
    place_segs(&r);
    r.plan.work = ccb_numbers(kn_cuda_plan_floats(&r.plan, &d) * sizeof(float));
    const double s = ccb_seconds(run_attn, &r);
    for (int set = 0; set < r.sets; set++)
        cc_device_free(r.segs[set]);
    void *used[] = {r.operands, r.states, tables, r.plan.work, (void *)(uintptr_t)r.plan.parts};
    for (size_t i = 0; i < sizeof used / sizeof *used; i++)
        cc_device_free(used[i]);
    return s;
}

/* bytes: q, k, v and o, moved once. */
static void bench_prefill(int64_t batch, int H) {
    const int D = cc_emulated() ? 16 : 128;
    const int64_t longest = cc_emulated() ? 150 : 131072;
    for (int64_t len = cc_emulated() ? 140 : 512; len <= longest; len *= 4) {
        const double s = time_attn(batch, H, D, 0, len);
        printf("{\"test\":\"attention_prefill\",\"batch\":%d,\"heads\":%d,\"dim\":%d,"
               "\"tokens\":%lld",
               (int)batch, H, D, (long long)len);
        ccb_end_line(s, 4.0 * 2 * (double)(batch * len) * H * D, 0);
    }
}

/* bytes: the state and half a block of pending rows. */
static void bench_step(int64_t batch, int H) {
    const int D = cc_emulated() ? 16 : 128;
    const int64_t pos = KN_CUDA_BLOCK / 2;
    const double s = time_attn(batch, H, D, pos, 1);
    printf("{\"test\":\"attention_step\",\"batch\":%d,\"heads\":%d,\"dim\":%d", (int)batch, H, D);
    ccb_end_line(s, 4.0 * (double)batch * H * (D * D + (double)pos * 2 * D), 0);
}

void ccb_attention(void) {
    const bool tiny = cc_emulated();
    bench_prefill(4, tiny ? 1 : 32);
    bench_prefill(1, tiny ? 1 : 16);
    bench_step(1, tiny ? 1 : 32);
    bench_step(tiny ? 2 : 64, tiny ? 1 : 32);
}
