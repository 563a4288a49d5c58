/* Timings: best of several runs, and the share of the limit that binds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/peaks.h"
#include "tests/checkkern/ck.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double ck_time(void (*fn)(void *ctx), void *ctx) {
    double best = 1e30, start = now();
    fn(ctx);
    for (int i = 0; i < 3 || (now() - start < 0.4 && i < 10000); i++) {
        double t = now();
        fn(ctx);
        t = now() - t;
        best = t < best ? t : best;
    }
    return best;
}

void ck_bench_line(const ck *k, const char *shape, double seconds, double bytes, double flops,
                   int threads) {
    double gb = bytes / seconds / 1e9, gf = flops / seconds / 1e9;
    printf("%-7s t=%d %-12s %-40s %12.0f ns %8.1f GB/s (%3.0f%%) %8.1f GFLOP/s (%3.0f%%)\n", k->isa,
           threads, k->test, shape, seconds * 1e9, gb, 100 * gb / k->read_gb_s, gf,
           100 * gf / k->fp32_gflop_s);
    fflush(stdout);
}

typedef struct linear_bench {
    kn_backend *be;
    const float *x;
    float *y;
    char *w;
    void *work;
    int64_t n, outs, ins;
    kn_dtype t;
    size_t w_bytes;
    int copies, next;
} linear_bench;

/* A fresh copy of the weights each time, so that they come from memory, as in a model. */
static void linear_once(void *ctx) {
    linear_bench *b = ctx;
    kn_tensor w = {b->w + (size_t)b->next * b->w_bytes, b->t, b->outs, b->ins};
    b->next = (b->next + 1) % b->copies;
    b->be->ops->linear(b->be, &(kn_linear){.n = b->n,
                                           .x = b->x,
                                           .ldx = b->ins,
                                           .w = &w,
                                           .y = b->y,
                                           .ldy = b->outs,
                                           .work = b->work});
}

static void bench_linear_shape(ck *k, kn_backend *be, kn_dtype t, int64_t outs, int64_t ins) {
    static const int64_t rows[] = {1, 2, 4, 8, 16, 32, 128, 512};
    linear_bench b = {.be = be, .outs = outs, .ins = ins, .t = t};
    b.w_bytes = (size_t)outs * (size_t)ins * (size_t)kn_dtypes[t].elem_bytes;
    b.copies = 1 + (int)((192u << 20) / b.w_bytes);
    size_t x_bytes = 512 * (size_t)ins * sizeof(float),
           y_bytes = 512 * (size_t)outs * sizeof(float);
    float *x = be->alloc(be, x_bytes);
    b.y = be->alloc(be, y_bytes);
    b.w = be->alloc(be, b.w_bytes * (size_t)b.copies);
    b.work = be->alloc(be, kn_linear_work_bytes(512, ins));
    if (x && b.y && b.w && b.work) {
        ck_values(k, CK_NORMAL, x, 512 * ins);
        memset(b.w, 0x3c, b.w_bytes * (size_t)b.copies);
        b.x = x;
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            char shape[80];
            b.n = rows[i];
            snprintf(shape, sizeof shape, "%s n=%d %dx%d", kn_dtypes[t].name, (int)b.n, (int)outs,
                     (int)ins);
            double macs = (double)outs * (double)ins * (double)b.n;
            ck_bench_line(k, shape, ck_time(linear_once, &b), (double)b.w_bytes, 2 * macs,
                          be->threads);
        }
    }
    be->free(be, x);
    be->free(be, b.y);
    be->free(be, b.w);
    be->free(be, b.work);
}

typedef struct attn_bench {
    kn_backend *be;
    kn_linattn_dims d;
    float *q, *k, *v, *o, *states;
    size_t state_floats;
    kn_decay decay;
    int64_t len, n_segs, pos;
} attn_bench;

static void attn_once(void *ctx) {
    attn_bench *b = ctx;
    kn_linattn_seg segs[64];
    for (int64_t s = 0; s < b->n_segs; s++)
        segs[s] =
            (kn_linattn_seg){b->states + (size_t)s * b->state_floats, b->pos, s * b->len, b->len};
    int64_t ldk = b->d.H * b->d.Dk, ldv = b->d.H * b->d.Dv;
    b->be->ops->linattn(b->be, b->o, ldv, b->q, ldk, b->k, ldk, b->v, ldv, &b->decay, &b->d, segs,
                        b->n_segs);
    b->pos += b->len;
}

/* A whole block of single steps, so that one fold is in the time. */
static void attn_block_of_steps(void *ctx) {
    attn_bench *b = ctx;
    for (int i = 0; i < b->be->block; i++)
        attn_once(ctx);
}

static void bench_attn(ck *k, kn_backend *be, int H, int Dk, int64_t n_segs, int64_t len) {
    attn_bench b = {.be = be, .d = {H, Dk, 128}, .len = len, .n_segs = n_segs};
    const int B = be->block;
    size_t rows = (size_t)(n_segs * len), h = (size_t)H;
    b.state_floats = kn_linattn_state_floats(&b.d, B);
    float *pow = be->alloc(be, h * (size_t)(B + 1) * 4), *fold = be->alloc(be, h * 4);
    double slope[64];
    for (int i = 0; i < H; i++)
        slope[i] = 0.5 / (1 + i);
    b.q = be->alloc(be, rows * h * (size_t)Dk * 4);
    b.k = be->alloc(be, rows * h * (size_t)Dk * 4);
    b.v = be->alloc(be, rows * h * 128 * 4);
    b.o = be->alloc(be, rows * h * 128 * 4);
    b.states = be->alloc(be, b.state_floats * (size_t)n_segs * 4);
    if (!pow || !fold || !b.q || !b.k || !b.v || !b.o || !b.states)
        abort();
    kn_decay_fill(pow, fold, slope, H, B);
    b.decay = (kn_decay){pow, fold};
    ck_values(k, CK_NORMAL, b.q, (int64_t)rows * H * Dk);
    ck_values(k, CK_NORMAL, b.k, (int64_t)rows * H * Dk);
    ck_values(k, CK_NORMAL, b.v, (int64_t)rows * H * 128);
    char shape[80];
    snprintf(shape, sizeof shape, "B=%d H=%d Dk=%d segs=%d len=%d", B, H, Dk, (int)n_segs,
             (int)len);
    double seconds = len == 1 ? ck_time(attn_block_of_steps, &b) / B : ck_time(attn_once, &b);
    /* per row: q S and its share of the fold, scores and their product with v */
    double macs = 2.0 * Dk * 128 + (B + 1) / 2.0 * (Dk + 128);
    double state = 4.0 * Dk * 128 * (1 + 2.0 / B) + 4.0 * (B / 2.0 + 1) * (Dk + 128);
    ck_bench_line(k, shape, seconds, len == 1 ? state * H * (double)n_segs : 0,
                  2 * macs * H * (double)rows, be->threads);
    be->free(be, pow), be->free(be, fold), be->free(be, b.q), be->free(be, b.k);
    be->free(be, b.v), be->free(be, b.o), be->free(be, b.states);
}

typedef struct row_bench {
    kn_dsp d;
    int which;
    int64_t n;
    float *x, *y;
} row_bench;

static void row_once(void *ctx) {
    row_bench *b = ctx;
    for (int i = 0; i < 64; i++) {
        float *x = b->x, *y = b->y;
        if (b->which == KN_ACT_COUNT)
            b->d.srms(y, x, b->n, 1e-6f);
        else if (b->which == KN_ACT_COUNT + 1)
            b->d.mul(y, x, x, b->n);
        else if (b->which == KN_ACT_COUNT + 2)
            b->d.lrpe(y, x, x, 100000, b->n);
        else
            b->d.act[b->which](y, b->n);
    }
}

static void bench_rows(ck *k) {
    static const char *const names[] = {"none",  "gelu",  "relu", "elu",  "sigmoid", "exp", "leak",
                                        "1+elu", "2+elu", "silu", "sine", "srms",    "mul", "lrpe"};
    row_bench b = {.n = 2048};
    b.x = malloc(2048 * sizeof *b.x);
    b.y = malloc(4096 * sizeof *b.y);
    if (!b.x || !b.y || kn_dsp_init(&b.d, k->isa, NULL) != TNL_OK)
        abort();
    ck_values(k, CK_NORMAL, b.x, 2048);
    for (b.which = 0; b.which < KN_ACT_COUNT + 3; b.which++) {
        ck_values(k, CK_NORMAL, b.y, 4096);
        double s = ck_time(row_once, &b) / 64;
        printf("%-7s     %-12s %-40s %12.0f ns %8.2f ns/element\n", k->isa, "row", names[b.which],
               s * 1e9, s * 1e9 / 2048);
    }
    free(b.x);
    free(b.y);
}

static void bench_backend(ck *k, int threads) {
    kn_backend *be;
    tnl_error err;
    kn_peaks peaks;
    if (kn_cpu_open(&be, threads, k->isa, &err) != TNL_OK ||
        kn_peaks_measure(&peaks, threads, 3, &err) != TNL_OK) {
        fprintf(stderr, "checkkern: %s\n", err.msg);
        exit(1);
    }
    k->read_gb_s = peaks.read_gb_s;
    k->fp32_gflop_s = peaks.fp32_gflop_s;
    printf("limits with %d threads: %.1f GB/s read, %.1f GFLOP/s fp32\n", threads, peaks.read_gb_s,
           peaks.fp32_gflop_s);
    if (ck_section(k, "linear")) {
        static const int64_t shapes[][2] = {{4096, 1024}, {2048, 2048}, {2048, 5632}};
        for (kn_dtype t = KN_F32; t < KN_PLAIN_COUNT; t++)
            for (size_t i = 0; i < 3; i++)
                if (t != KN_F16 || i == 0)
                    bench_linear_shape(k, be, t, shapes[i][0], shapes[i][1]);
    }
    if (ck_section(k, "linattn")) {
        bench_attn(k, be, 16, 128, 1, 1);
        bench_attn(k, be, 16, 128, 16, 1);
        bench_attn(k, be, 16, 256, 16, 1);
        bench_attn(k, be, 16, 128, 1, 512);
        bench_attn(k, be, 16, 256, 1, 512);
        bench_attn(k, be, 16, 128, 4, 128);
    }
    kn_backend_close(be);
}

void ck_bench_all(ck *k) {
    int cpus = 1;
    kn_backend *be;
    if (kn_cpu_open(&be, 0, NULL, NULL) == TNL_OK)
        cpus = be->threads;
    kn_backend_close(be);
    for (int i = 0; i < k->n_isas; i++) {
        k->isa = k->isas[i];
        if (k->n_isas > 1 && strcmp(k->isa, "ref") == 0)
            continue; /* nobody's speed depends on it */
        if (ck_section(k, "row"))
            bench_rows(k);
        bench_backend(k, 1);
        if (cpus > 1)
            bench_backend(k, cpus);
    }
}
