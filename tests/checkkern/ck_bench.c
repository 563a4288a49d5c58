/* Timings. The limits of a shared machine move within seconds, so each line measures them in slices
 * between slices of its work, and compares best with best. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/threads.h"
#include "kernels/cpu/peaks.h"
#include "tests/checkkern/ck.h"

enum { SLICES = 8 };
#define SLICE_S 0.015 /* of work; its limits take half of that each */
#define WEIGHT_BYTES ((size_t)256 << 20)

/* What a line of the bench times. */
typedef struct bench_work {
    void (*fn)(void *ctx);
    void *ctx;
    double bytes, ops; /* of one call; multiplications and additions count one each */
    kn_limit limit;    /* of its arithmetic */
} bench_work;

/* Limits of this machine for one number of threads. What is read to find them is the memory that
 * the weights lie in. */
typedef struct bench_limits {
    kn_limits *source;
    kn_peaks peaks;
    char *weights; /* [WEIGHT_BYTES] */
} bench_limits;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of a call, over a slice. */
static double work_slice(const bench_work *w, double seconds) {
    double start = now(), t;
    int calls = 0;
    do {
        w->fn(w->ctx);
        calls++;
        t = now() - start;
    } while (t < seconds);
    return t / calls;
}

static double more(double a, double b) {
    return a > b ? a : b;
}

static void bench_line(const ck *k, bench_limits *l, const char *what, const char *shape,
                       const bench_work *w) {
    double best = work_slice(w, 0), read = 0, ops = 0; /* the first one warms up */
    for (int i = 0; i < SLICES; i++) {
        double t = work_slice(w, SLICE_S);
        best = t < best ? t : best;
        if (w->bytes > 0)
            read = more(read, kn_limits_slice(l->source, &l->peaks, KN_LIMIT_READ, SLICE_S / 2));
        ops = more(ops, kn_limits_slice(l->source, &l->peaks, w->limit, SLICE_S / 2));
    }
    double gb = w->bytes / best / 1e9, go = w->ops / best / 1e9;
    printf("%-10s t=%d %-8s %-34s %11.0f ns", k->isa, l->peaks.threads, what, shape, best * 1e9);
    if (w->bytes > 0)
        printf(" %7.1f GB/s %3.0f%%", gb, 100 * gb / read);
    else
        printf(" %17s", "");
    printf(" %8.1f G%s/s %3.0f%%\n", go, w->limit == KN_LIMIT_INT8 ? "OP" : "FLOP", 100 * go / ops);
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

static void linear_lines(ck *k, bench_limits *l, linear_bench *b) {
    static const int64_t rows[] = {1, 6, 32, 512};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char shape[80];
        b->n = rows[i];
        snprintf(shape, sizeof shape, "%s n=%d %dx%d", kn_dtypes[b->t].name, (int)b->n,
                 (int)b->outs, (int)b->ins);
        bench_line(k, l, "linear", shape,
                   &(bench_work){linear_once, b, (double)b->w_bytes,
                                 2.0 * (double)b->outs * (double)b->ins * (double)b->n,
                                 kn_q_integer(b->t) ? KN_LIMIT_INT8 : KN_LIMIT_FP32});
    }
}

static void bench_linear(ck *k, bench_limits *l, kn_backend *be, kn_dtype t, int64_t outs,
                         int64_t ins) {
    linear_bench b = {.be = be, .outs = outs, .ins = ins, .t = t};
    uint64_t bytes;
    if (!kn_dtype_matrix_bytes(&bytes, t, (uint64_t)outs, (uint64_t)ins))
        abort();
    b.w_bytes = (size_t)bytes;
    b.copies = (int)(WEIGHT_BYTES / b.w_bytes);
    b.w = l->weights;
    float *x = be->alloc(be, 512 * (size_t)ins * sizeof(float), KN_ON_DEVICE);
    b.y = be->alloc(be, 512 * (size_t)outs * sizeof(float), KN_ON_DEVICE);
    b.work = be->alloc(be, kn_linear_work_bytes(be, 512, ins), KN_ON_DEVICE);
    if (!x || !b.y || !b.work)
        abort();
    ck_values(k, CK_NORMAL, x, 512 * ins);
    b.x = x;
    linear_lines(k, l, &b);
    be->free(be, x, KN_ON_DEVICE);
    be->free(be, b.y, KN_ON_DEVICE);
    be->free(be, b.work, KN_ON_DEVICE);
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
    b->be->ops->linattn(b->be, b->o, ldv, b->q, ldk, b->k, ldk, b->v, ldv, &b->decay, &b->d,
                        &(kn_step){.segs = segs, .n_segs = b->n_segs}, 0);
    b->pos += b->len;
}

/* A whole block of single steps, so that one fold is in the time. */
static void attn_block_of_steps(void *ctx) {
    attn_bench *b = ctx;
    for (int i = 0; i < b->be->block; i++)
        attn_once(ctx);
}

static void bench_attn(ck *k, bench_limits *l, kn_backend *be, int H, int Dk, int64_t n_segs,
                       int64_t len) {
    attn_bench b = {.be = be, .d = {H, Dk, 128}, .len = len, .n_segs = n_segs};
    const int B = be->block;
    size_t rows = (size_t)(n_segs * len), h = (size_t)H;
    b.state_floats = kn_linattn_state_floats(&b.d, B);
    float *pow = be->alloc(be, h * (size_t)(B + 1) * 4, KN_ON_DEVICE),
          *fold = be->alloc(be, h * 4, KN_ON_DEVICE);
    double slope[64];
    for (int i = 0; i < H; i++)
        slope[i] = 0.5 / (1 + i);
    b.q = be->alloc(be, rows * h * (size_t)Dk * 4, KN_ON_DEVICE);
    b.k = be->alloc(be, rows * h * (size_t)Dk * 4, KN_ON_DEVICE);
    b.v = be->alloc(be, rows * h * 128 * 4, KN_ON_DEVICE);
    b.o = be->alloc(be, rows * h * 128 * 4, KN_ON_DEVICE);
    b.states = be->alloc(be, b.state_floats * (size_t)n_segs * 4, KN_ON_DEVICE);
    if (!pow || !fold || !b.q || !b.k || !b.v || !b.o || !b.states)
        abort();
    kn_decay_fill(pow, fold, slope, H, B);
    b.decay = (kn_decay){.pow = pow, .fold = fold};
    ck_values(k, CK_NORMAL, b.q, (int64_t)rows * H * Dk);
    ck_values(k, CK_NORMAL, b.k, (int64_t)rows * H * Dk);
    ck_values(k, CK_NORMAL, b.v, (int64_t)rows * H * 128);
    char shape[80];
    snprintf(shape, sizeof shape, "B=%d H=%d Dk=%d segs=%d len=%d", B, H, Dk, (int)n_segs,
             (int)len);
    /* per row: q S and its share of the fold, scores and their product with v */
    double macs = 2.0 * Dk * 128 + (B + 1) / 2.0 * (Dk + 128);
    double state = 4.0 * Dk * 128 * (1 + 2.0 / B) + 4.0 * (B / 2.0 + 1) * (Dk + 128);
    int calls = len == 1 ? B : 1;
    bench_line(k, l, "linattn", shape,
               &(bench_work){len == 1 ? attn_block_of_steps : attn_once, &b,
                             len == 1 ? state * H * (double)n_segs * calls : 0,
                             2 * macs * H * (double)rows * calls, KN_LIMIT_FP32});
    be->free(be, pow, KN_ON_DEVICE), be->free(be, fold, KN_ON_DEVICE),
        be->free(be, b.q, KN_ON_DEVICE), be->free(be, b.k, KN_ON_DEVICE);
    be->free(be, b.v, KN_ON_DEVICE), be->free(be, b.o, KN_ON_DEVICE),
        be->free(be, b.states, KN_ON_DEVICE);
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
        double s = work_slice(&(bench_work){.fn = row_once, .ctx = &b}, 0.05) / 64;
        printf("%-10s     %-8s %-34s %11.0f ns %7.2f ns/element\n", k->isa, "row", names[b.which],
               s * 1e9, s * 1e9 / 2048);
    }
    free(b.x);
    free(b.y);
}

static void bench_backend(ck *k, bench_limits *l) {
    kn_backend *be;
    tnl_error err;
    if (kn_cpu_open(&be, l->peaks.threads, k->isa, &err) != TNL_OK) {
        fprintf(stderr, "checkkern: %s\n", err.msg);
        exit(1);
    }
    if (ck_section(k, "linear")) {
        for (kn_dtype t = KN_F32; t < KN_DTYPE_COUNT; t++)
            bench_linear(k, l, be, t, 4096, 1024);
        bench_linear(k, l, be, KN_Q8, 1024, 2816);
        bench_linear(k, l, be, KN_Q4, 1024, 2816);
    }
    if (ck_section(k, "linattn")) {
        bench_attn(k, l, be, 16, 128, 1, 1);
        bench_attn(k, l, be, 16, 128, 16, 1);
        bench_attn(k, l, be, 16, 256, 16, 1);
        bench_attn(k, l, be, 16, 128, 1, 512);
        bench_attn(k, l, be, 16, 256, 1, 512);
        bench_attn(k, l, be, 16, 128, 4, 128);
    }
    kn_backend_close(be);
}

static void bench_isas(ck *k, bench_limits *l) {
    const kn_peaks *p = &l->peaks;
    printf("limits of %d thread%s: %.1f GB/s read (%s), %.0f GFLOP/s fp32 (%s), %.0f GOP/s int8 "
           "(%s)\n",
           p->threads, p->threads > 1 ? "s" : "", p->rate[KN_LIMIT_READ], p->loop[KN_LIMIT_READ],
           p->rate[KN_LIMIT_FP32], p->loop[KN_LIMIT_FP32], p->rate[KN_LIMIT_INT8],
           p->loop[KN_LIMIT_INT8]);
    for (int i = 0; i < k->n_isas; i++) {
        k->isa = k->isas[i];
        if (k->n_isas > 1 && strcmp(k->isa, "ref") == 0)
            continue; /* nobody's speed depends on it */
        if (p->threads == 1 && ck_section(k, "row"))
            bench_rows(k);
        bench_backend(k, l);
    }
}

void ck_bench_all(ck *k) {
    const int cpus = tnl_cpu_count();
    bench_limits l = {.weights = aligned_alloc(64, WEIGHT_BYTES)};
    tnl_error err = {.msg = "no memory for weights"};
    if (l.weights)
        memset(l.weights, 0x3c, WEIGHT_BYTES);
    const kn_region all = {l.weights, WEIGHT_BYTES};
    if (!l.weights || kn_limits_open(&l.source, cpus, &all, 1, &err) != TNL_OK) {
        fprintf(stderr, "checkkern: %s\n", err.msg);
        exit(1);
    }
    for (int threads = 1; threads <= cpus; threads = threads < cpus ? cpus : cpus + 1) {
        kn_limits_choose(l.source, &l.peaks, threads, 2);
        bench_isas(k, &l);
    }
    kn_limits_close(l.source);
    free(l.weights);
}
