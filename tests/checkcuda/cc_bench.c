/* The speed of kernels, one JSON object a line: for tests/bench/gpu_targets, which prints them
 * beside their targets. Here: timing, random numbers, and the limits of the device. Where kernels
 * are emulated, sizes are tiny and speeds mean nothing; that they run is what is tested. */
#include "tests/checkcuda/cc_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/half.h"
#include "kernels/cuda/blaslt_cuda.h"
#include "kernels/cuda/linattn_cuda.h"
#include "kernels/cuda/peaks_cuda.h"
#include "tests/checkcuda/cc.h"

enum { RUNS = 7, MOST_CALLS = 1 << 16 };

void ccb_must(const char *error) {
    if (!error)
        return;
    fprintf(stderr, "checkcuda: %s\n", error);
    exit(2);
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double ccb_seconds(void (*fn)(void *ctx), void *ctx) {
    const double least = cc_emulated() ? 0 : 0.01;
    const int runs = cc_emulated() ? 1 : RUNS;
    double took[RUNS];
    int64_t calls = 1;
    cc_time(fn, ctx, 1); /* the first call loads code */
    while (calls < MOST_CALLS && cc_time(fn, ctx, calls) < least)
        calls *= 2;
    for (int r = 0; r < runs; r++)
        took[r] = cc_time(fn, ctx, calls) / (double)calls;
    ccb_must(cc_sync());
    qsort(took, (size_t)runs, sizeof took[0], by_value);
    return took[runs / 2];
}

void *ccb_numbers(size_t bytes) {
    const size_t piece = bytes < (size_t)1 << 19 ? bytes : (size_t)1 << 19;
    uint16_t *host = calloc(piece + 2, 1);
    cc c = {.rng = bytes};
    unsigned char *p = cc_device_fill(bytes, 0);
    if (!host)
        ccb_must("no memory");
    for (size_t i = 0; i < (piece + 1) / 2; i++)
        host[i] = tnl_bf16_from_f32((float)cc_normal(&c));
    void *first = cc_device_copy(host, piece);
    cc_device_move(p, first, piece);
    for (size_t have = piece; have < bytes;) { /* twice as much each time */
        const size_t n = have < bytes - have ? have : bytes - have;
        cc_device_move(p + have, p, n);
        have += n;
    }
    ccb_must(cc_sync());
    cc_device_free(first);
    free(host);
    return p;
}

size_t ccb_round_bytes(void) {
    return cc_emulated() ? 1 : (size_t)256 << 20;
}

void ccb_end_line(double seconds, double bytes, double ops) {
    printf(",\"seconds\":%.9g", seconds);
    if (bytes > 0)
        printf(",\"bytes\":%.0f,\"bytes_per_s\":%.6g", bytes, bytes / seconds);
    if (ops > 0)
        printf(",\"ops\":%.0f,\"ops_per_s\":%.6g", ops, ops / seconds);
    printf("}\n");
    fflush(stdout);
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
    r.to = ccb_numbers(r.bytes);
    r.from = ccb_numbers(r.bytes);
    double s = ccb_seconds(run_copy, &r);
    printf("{\"test\":\"copy\"");
    ccb_end_line(s, 2 * (double)r.bytes, 0);
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
    double s = ccb_seconds(run_rate, &r);
    printf("{\"test\":\"mma\"");
    ccb_end_line(s, 0, kn_cuda_mma_ops(r.blocks, r.steps));
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
    ccb_must(kn_lt_run(r->p, r->y, r->a, r->w, NULL, &err) == TNL_OK ? NULL : err.msg);
}

static void time_lt(lt_run *r, const kn_lt_api *api, const kn_lt_shape *s) {
    r->a = ccb_numbers((size_t)(s->rows * s->inputs) * 2);
    r->w = ccb_numbers((size_t)(s->outs * s->inputs) * 2);
    r->y = cc_device((size_t)(s->rows * s->ldy) * sizeof *r->y);
    double seconds = ccb_seconds(run_lt, r);
    printf("{\"test\":\"blaslt\",\"version\":%zu", api->version());
    ccb_end_line(seconds, 0, 2.0 * (double)s->rows * (double)s->outs * (double)s->inputs);
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

void ccb_limits(void) {
    bench_copy();
    bench_rate();
    bench_lt();
}

void cc_bench(void) {
    printf("{\"test\":\"place\",\"name\":\"%s\",\"emulated\":%s}\n", cc_place_name(),
           cc_emulated() ? "true" : "false");
    ccb_limits();
    ccb_attention();
    ccb_prompts();
    ccb_products();
    ccb_pick();
}
