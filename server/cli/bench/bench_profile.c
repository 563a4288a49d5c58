/* `tnl bench --profile`: a row's steps once more, on a backend that counts. */
#include <stdio.h>

#include "kernels/profile.h"
#include "kernels/quant.h"
#include "server/cli/bench/bench.h"

#define PROFILE_SLICES 12 /* and whole cycles of steps */
#define MOST_SLICES 100

typedef struct profile_run {
    const bench_output *o;
    const bench_settings *b;
    const bench_row *row;
    bench_sample total;
    int64_t steps;
    double limits[KN_LIMIT_COUNT];
} profile_run;

/* The mean of a slice before and a slice after. */
static tnl_status add_limits(profile_run *p, tnl_error *err) {
    for (kn_limit kind = 0; kind < KN_LIMIT_COUNT; kind++) {
        double rate;
        TNL_TRY(bench_limits_slice(p->b->limits, &rate, &p->b->peaks[p->row->threads], kind,
                                   p->b->slice, err));
        p->limits[kind] += 0.5 * rate;
    }
    return TNL_OK;
}

static kn_limit arithmetic_of(const kn_profile_row *r) {
    bool integer = r->op == KN_OP_LINEAR && kn_q_integer(r->dtype);
    return integer ? KN_LIMIT_INT8 : KN_LIMIT_FP32;
}

static void print_json(const profile_run *p, const kn_profile_row *r, const char *name) {
    double t = r->seconds;
    kn_limit arith = arithmetic_of(r);
    printf("{\"test\":\"profile\",\"of\":\"%s\",\"weights\":\"%s\",\"threads\":%d,",
           p->row->prefill ? "prefill" : "decode", p->o->weights,
           p->b->peaks[p->row->threads].threads);
    if (p->row->prefill)
        printf("\"tokens\":%lld,\"from\":%lld,", (long long)p->row->tokens,
               (long long)p->row->context);
    else
        printf("\"context\":%lld,\"batch\":%lld,", (long long)p->row->context,
               (long long)p->row->batch);
    printf("\"op\":\"%s\",\"calls\":%.3f,\"us\":%.2f,\"share_of_step\":%.4f,", name,
           (double)r->calls / (double)p->steps, 1e6 * t / (double)p->steps, t / p->total.seconds);
    printf("\"gb_s\":%.2f,\"share_of_bandwidth\":%.4f,\"gop_s\":%.1f,\"limit\":\"%s\","
           "\"share_of_peak\":%.4f}\n",
           r->bytes / t / 1e9, r->bytes / t / 1e9 / p->limits[KN_LIMIT_READ], r->ops / t / 1e9,
           arith == KN_LIMIT_INT8 ? "int8" : "fp32", r->ops / t / 1e9 / p->limits[arith]);
}

static void print_row(const profile_run *p, const kn_profile_row *r, const char *name) {
    if (p->o->json) {
        print_json(p, r, name);
        return;
    }
    double t = r->seconds, calls = (double)r->calls;
    kn_limit arith = arithmetic_of(r);
    printf("  %-26s %8.1f %11.1f %10.2f %6.1f%%", name, calls / (double)p->steps,
           1e6 * t / (double)p->steps, 1e6 * t / calls, 100 * t / p->total.seconds);
    if (r->bytes > 0)
        printf(" %10.3f %7.1f %6.1f%%", r->bytes / 1e6 / (double)p->steps, r->bytes / t / 1e9,
               100 * r->bytes / t / 1e9 / p->limits[KN_LIMIT_READ]);
    if (r->ops > 0)
        printf(" %9.1f %6.1f%% %s", r->ops / t / 1e9, 100 * r->ops / t / 1e9 / p->limits[arith],
               arith == KN_LIMIT_INT8 ? "int8" : "fp32");
    putchar('\n');
}

static void print_title(const profile_run *p) {
    const bench_row *r = p->row;
    if (p->o->json)
        return;
    printf("\nprofile of %s, %s, %d threads, ", r->prefill ? "prefill" : "decode", p->o->weights,
           p->b->peaks[r->threads].threads);
    if (r->prefill)
        printf("%lld tokens from %lld", (long long)r->tokens, (long long)r->context);
    else
        printf("context %lld, batch %lld", (long long)r->context, (long long)r->batch);
    printf(": %lld steps of %.3f ms; reads %.1f GB/s, fp32 %.0f GFLOP/s, int8 %.0f GOP/s\n",
           (long long)p->steps, 1e3 * p->total.seconds / (double)p->steps, p->limits[KN_LIMIT_READ],
           p->limits[KN_LIMIT_FP32], p->limits[KN_LIMIT_INT8]);
    printf("  %-26s %8s %11s %10s %7s %10s %7s %7s %9s %7s\n", "operation", "calls", "us/step",
           "us/call", "share", "MB/step", "GB/s", "share", "GOP/s", "share");
}

static void print_profile(const profile_run *p, const kn_profile *profile) {
    const kn_profile_row *rows;
    int n = kn_profile_rows(profile, &rows);
    kn_profile_row rest = {.seconds = p->total.seconds, .calls = p->steps};
    print_title(p);
    for (int i = 0; i < n; i++) {
        char name[KN_PROFILE_NAME];
        kn_profile_name(name, &rows[i]);
        print_row(p, &rows[i], name);
        rest.seconds -= rows[i].seconds;
    }
    print_row(p, &rest, "between operations");
    fflush(stdout);
}

static tnl_status run_counted(profile_run *p, tnl_error *err) {
    TNL_TRY(add_limits(p, err));
    int64_t cycle = bench_work_cycle(p->row->work, 1e-3);
    double least = PROFILE_SLICES * p->b->slice, most = MOST_SLICES * p->b->slice;
    while (p->total.seconds < least || (p->steps % cycle && p->total.seconds < most)) {
        TNL_TRY(bench_work_step(p->row->work, &p->total, err));
        p->steps++;
    }
    return add_limits(p, err);
}

tnl_status bench_profile_row(const bench_output *o, const bench_settings *b, bench_row *r,
                             tnl_error *err) {
    profile_run p = {.o = o, .b = b, .row = r};
    kn_profile *profile;
    TNL_TRY(kn_profile_open(&profile, b->backends[r->threads], err));
    mdl_model_use_backend(b->model, kn_profile_backend(profile));
    tnl_status s = run_counted(&p, err);
    bench_use_row(b, r);
    if (s == TNL_OK)
        print_profile(&p, profile);
    kn_profile_close(profile);
    return s;
}
