/* The speed of kernels, one JSON object a line: for tests/bench/gpu_targets, which prints them
 * beside their targets. Each figure is the best of several runs long enough to time. Where kernels
 * are emulated, sizes are tiny and speeds mean nothing; that they run is what is tested. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cuda/blaslt_cuda.h"
#include "kernels/cuda/linattn_cuda.h"
#include "kernels/cuda/linear_cuda.h"
#include "kernels/cuda/peaks_cuda.h"
#include "tests/checkcuda/cc.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(const char *error) {
    if (!error)
        return;
    fprintf(stderr, "checkcuda: %s\n", error);
    exit(2);
}

/* Seconds of one call: the best of five runs of at least 20 ms. */
static double best_seconds(void (*fn)(void *ctx), void *ctx) {
    const double least = cc_emulated() ? 0 : 0.02;
    double best = 1e30;
    fn(ctx);
    must(cc_sync());
    for (int run = 0; run < (cc_emulated() ? 1 : 5); run++) {
        double begin = now(), seconds = 0;
        int64_t calls = 0;
        for (int64_t batch = 1; calls == 0 || seconds < least; batch *= 2) {
            for (int64_t i = 0; i < batch; i++)
                fn(ctx);
            must(cc_sync());
            calls += batch;
            seconds = now() - begin;
        }
        best = seconds / (double)calls < best ? seconds / (double)calls : best;
    }
    return best;
}

/* Memory of small finite numbers in every type: 0x2C2C is 2.4e-12 as bf16. */
static void *numbers(size_t bytes) {
    return cc_device_fill(bytes, 0x2C);
}

/* ---- the limits ---- */

typedef struct copy_run {
    void *to, *from;
    size_t bytes;
} copy_run;

static void run_copy(void *ctx) {
    copy_run *r = ctx;
    cc_device_move(r->to, r->from, r->bytes);
}

static void bench_copy(void) {
    copy_run r = {.bytes = cc_emulated() ? 4096 : (size_t)1 << 30};
    r.to = numbers(r.bytes);
    r.from = numbers(r.bytes);
    double s = best_seconds(run_copy, &r);
    printf("{\"test\":\"copy\",\"bytes\":%zu,\"seconds\":%.9g,\"bytes_per_s\":%.6g}\n", 2 * r.bytes,
           s, 2 * (double)r.bytes / s);
    cc_device_free(r.to);
    cc_device_free(r.from);
}

typedef struct rate_run {
    float *sink;
    int blocks, steps;
} rate_run;

static void run_rate(void *ctx) {
    rate_run *r = ctx;
    kn_cuda_mma_rate(r->sink, r->blocks, r->steps, NULL);
}

static void bench_rate(void) {
    rate_run r = {.blocks = cc_emulated() ? 1 : 2048, .steps = cc_emulated() ? 1 : 2000};
    r.sink = cc_device(sizeof(float));
    double s = best_seconds(run_rate, &r), ops = kn_cuda_mma_ops(r.blocks, r.steps);
    printf("{\"test\":\"mma\",\"seconds\":%.9g,\"ops_per_s\":%.6g}\n", s, ops / s);
    cc_device_free(r.sink);
}

typedef struct lt_run {
    kn_lt_product *p;
    float *y;
    void *a, *w;
} lt_run;

static void run_lt(void *ctx) {
    lt_run *r = ctx;
    tnl_error err = {0};
    must(kn_lt_run(r->p, r->y, r->a, r->w, NULL, &err) == TNL_OK ? NULL : err.msg);
}

static void time_lt(lt_run *r, const kn_lt_api *api, const kn_lt_shape *s) {
    const double ops = 2.0 * (double)s->rows * (double)s->outs * (double)s->inputs;
    r->a = numbers((size_t)(s->rows * s->inputs) * 2);
    r->w = numbers((size_t)(s->outs * s->inputs) * 2);
    r->y = cc_device((size_t)(s->rows * s->ldy) * sizeof *r->y);
    double seconds = best_seconds(run_lt, r);
    printf("{\"test\":\"blaslt\",\"version\":%zu,\"seconds\":%.9g,\"ops_per_s\":%.6g}\n",
           api->version(), seconds, ops / seconds);
    cc_device_free(r->a);
    cc_device_free(r->w);
    cc_device_free(r->y);
}

/* One large product by the library, where there is one: the other limit beside mma.sync. */
static void bench_lt(void) {
    const int64_t n = cc_emulated() ? 16 : 8192;
    const kn_lt_shape s = {.rows = n, .outs = n, .inputs = n, .ldy = n};
    const size_t bytes = (size_t)32 << 20;
    void *memory = cc_device(bytes);
    kn_lt_api api;
    lt_run r = {0};
    tnl_error err = {0};
    cc_fake_lt();
    tnl_status st = kn_lt_load(&api, &err);
    if (st == TNL_OK)
        st = kn_lt_open(&r.p, &api, &s, memory, bytes, &err);
    if (st == TNL_OK)
        time_lt(&r, &api, &s);
    else
        printf("{\"test\":\"blaslt\",\"missing\":\"%s\"}\n", err.msg);
    kn_lt_close(r.p);
    cc_device_free(memory);
}

/* ---- attention ---- */

typedef struct attn_run {
    kn_cuda_linattn a;
    kn_cuda_plan plan;
    bool step;
} attn_run;

static void run_attn(void *ctx) {
    attn_run *r = ctx;
    if (r->step)
        kn_cuda_linattn_step(&r->a, NULL);
    else
        kn_cuda_linattn_prefill(&r->a, &r->plan, cc_shared_bytes(), NULL);
}

static void *copy_segs(const attn_run *r, float *states, size_t floats, int64_t pos, int64_t len) {
    kn_linattn_seg *segs = calloc((size_t)r->a.n_segs, sizeof *segs);
    if (!segs)
        exit(2);
    for (int64_t i = 0; i < r->a.n_segs; i++)
        segs[i] = (kn_linattn_seg){states + (size_t)i * floats, pos, i * len, len};
    return segs;
}

static void *copy_parts(attn_run *r, const kn_linattn_seg *segs) {
    kn_cuda_plan_parts(&r->plan, NULL, segs, r->a.n_segs);
    kn_cuda_part *parts = calloc((size_t)r->plan.n_parts, sizeof *parts);
    if (!parts)
        exit(2);
    kn_cuda_plan_parts(&r->plan, parts, segs, r->a.n_segs);
    void *p = cc_device_copy(parts, (size_t)r->plan.n_parts * sizeof *parts);
    free(parts);
    return p;
}

/* Seconds of a layer's attention of `batch` segments of `len` rows at position `pos`. */
static double time_attn(int64_t batch, int H, int D, int64_t pos, int64_t len, int64_t part) {
    const size_t rows = (size_t)(batch * len), width = (size_t)(H * D), all = rows * width * 2;
    kn_linattn_dims d = {H, D, D};
    const size_t floats = kn_linattn_state_floats(&d, KN_CUDA_BLOCK);
    attn_run r = {.step = len == 1, .plan = {.part_tokens = part}};
    float *states = numbers((size_t)batch * floats * sizeof *states);
    float *tables = numbers(kn_cuda_decay_floats(H) * sizeof *tables);
    void *q = numbers(all), *k = numbers(all), *v = numbers(all), *o = numbers(all);
    r.a = (kn_cuda_linattn){.dtype = KN_BF16,
                            .o = o,
                            .q = q,
                            .k = k,
                            .v = v,
                            .ldo = (int64_t)width,
                            .ldq = (int64_t)width,
                            .ldk = (int64_t)width,
                            .ldv = (int64_t)width,
                            .d = d,
                            .decay = kn_cuda_decay_at(tables, H),
                            .n_segs = batch};
    void *segs = copy_segs(&r, states, floats, pos, len), *parts = copy_parts(&r, segs);
    void *device_segs = cc_device_copy(segs, (size_t)batch * sizeof(kn_linattn_seg));
    r.a.segs = device_segs;
    r.plan.parts = parts;
    r.plan.work = numbers((size_t)r.plan.n_slots * width * (size_t)D * sizeof(float));
    double s = best_seconds(run_attn, &r);
    void *used[] = {states, tables, q, k, v, o, parts, device_segs, r.plan.work};
    for (size_t i = 0; i < sizeof used / sizeof *used; i++)
        cc_device_free(used[i]);
    free(segs);
    return s;
}

static void bench_prefill(int64_t batch, int H, int64_t part) {
    const int D = cc_emulated() ? 16 : 128;
    const int64_t longest = cc_emulated() ? 150 : 131072;
    for (int64_t len = cc_emulated() ? 140 : 512; len <= longest; len *= 4) {
        double s = time_attn(batch, H, D, 0, len, part);
        double bytes = 4.0 * 2 * (double)(batch * len) * H * D;
        printf("{\"test\":\"attention_prefill\",\"batch\":%d,\"heads\":%d,\"dim\":%d,"
               "\"tokens\":%lld,\"part_tokens\":%lld,\"seconds\":%.9g,\"bytes\":%.0f}\n",
               (int)batch, H, D, (long long)len, (long long)part, s, bytes);
        fflush(stdout);
    }
}

static void bench_step(int64_t batch, int H) {
    const int D = cc_emulated() ? 16 : 128;
    const int64_t pos = KN_CUDA_BLOCK / 2;
    double s = time_attn(batch, H, D, pos, 1, 0);
    double bytes = 4.0 * (double)batch * H * (D * D + (double)pos * 2 * D);
    printf("{\"test\":\"attention_step\",\"batch\":%d,\"heads\":%d,\"dim\":%d,\"seconds\":%.9g,"
           "\"bytes\":%.0f}\n",
           (int)batch, H, D, s, bytes);
}

/* ---- products ---- */

typedef struct product_run {
    kn_linear p;
    kn_tensor w[4]; /* in turn, so that none stays in a cache */
    int next;
} product_run;

static void run_product(void *ctx) {
    product_run *r = ctx;
    r->p.w = &r->w[r->next++ % 4];
    kn_cuda_linear(&r->p, NULL);
}

static void bench_product(kn_dtype t, int64_t rows, int64_t cols, int64_t n) {
    product_run r = {.p = {.n = n, .ldx = cols, .ldy = rows}};
    uint64_t bytes = 0;
    if (!kn_dtype_matrix_bytes(&bytes, t, (uint64_t)rows, (uint64_t)cols))
        exit(2);
    for (int i = 0; i < 4; i++)
        r.w[i] = (kn_tensor){numbers(bytes), t, rows, cols};
    float *x = numbers((size_t)(n * cols) * sizeof *x);
    r.p.x = x;
    r.p.y = numbers((size_t)(n * rows) * sizeof *r.p.y);
    r.p.work = numbers((size_t)n * (size_t)(cols + 1024) * 8);
    double s = best_seconds(run_product, &r);
    printf("{\"test\":\"product\",\"weights\":\"%s\",\"outputs\":%d,\"inputs\":%d,\"rows\":%d,"
           "\"seconds\":%.9g,\"bytes\":%llu}\n",
           kn_dtypes[t].name, (int)rows, (int)cols, (int)n, s, (unsigned long long)bytes);
    for (int i = 0; i < 4; i++)
        cc_device_free((void *)(uintptr_t)r.w[i].data);
    cc_device_free(x);
    cc_device_free(r.p.y);
    cc_device_free(r.p.work);
}

void cc_bench(void) {
    static const kn_dtype types[] = {KN_BF16, KN_Q8, KN_Q4};
    const int64_t width = cc_emulated() ? 200 : 4096, glu = cc_emulated() ? 300 : 11264;
    printf("{\"test\":\"place\",\"name\":\"%s\",\"emulated\":%s}\n", cc_place_name(),
           cc_emulated() ? "true" : "false");
    bench_copy();
    bench_rate();
    bench_lt();
    bench_prefill(4, cc_emulated() ? 1 : 32, 0);
    bench_prefill(1, cc_emulated() ? 1 : 16, cc_emulated() ? 128 : 1024);
    bench_step(1, cc_emulated() ? 1 : 32);
    bench_step(cc_emulated() ? 2 : 64, cc_emulated() ? 1 : 32);
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (int64_t n = 1; n <= 64; n *= 64) {
            bench_product(types[t], width, width, n);
            bench_product(types[t], glu, width, n);
        }
}
