/* The output of `tnl bench`: a table, or one JSON object a line. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "server/cli/bench/bench.h"

static const char *const limit_keys[KN_LIMIT_COUNT] = {"bandwidth", "multiply-add", "multiply-add"};
static const char *const limit_types[KN_LIMIT_COUNT] = {"bytes", "fp32", "int8"};

void bench_limit_text(char *out, size_t n, kn_limit kind, double rate) {
    switch (kind) {
    case KN_LIMIT_READ:
        snprintf(out, n, "reads %.1f GB/s", rate);
        break;
    case KN_LIMIT_FP32:
        snprintf(out, n, "fp32 %.0f GFLOP/s", rate);
        break;
    default:
        snprintf(out, n, "int8 %.0f GOP/s", rate);
        break;
    }
}

uint64_t bench_peak_rss(void) {
    char line[128];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %llu kB", &kib) == 1)
            break;
    if (f)
        fclose(f);
    struct rusage u;
    if (!kib && getrusage(RUSAGE_SELF, &u) == 0)
        kib = (unsigned long long)u.ru_maxrss;
    return (uint64_t)kib * 1024;
}

/* ---- the machine ---- */

void bench_print_machine(const bench_output *o, const kn_peaks *p) {
    if (o->json) {
        printf("{\"test\":\"machine\",\"threads\":%d,\"read_gb_s\":%.2f,\"fp32_gflop_s\":%.1f,"
               "\"int8_gop_s\":%.1f}\n",
               p->threads, p->rate[KN_LIMIT_READ], p->rate[KN_LIMIT_FP32], p->rate[KN_LIMIT_INT8]);
        return;
    }
    printf("machine, %d thread%s: reads %.1f GB/s (%s), fp32 %.0f GFLOP/s (%s), int8 %.0f GOP/s "
           "(%s)\n",
           p->threads, p->threads == 1 ? "" : "s", p->rate[KN_LIMIT_READ], p->loop[KN_LIMIT_READ],
           p->rate[KN_LIMIT_FP32], p->loop[KN_LIMIT_FP32], p->rate[KN_LIMIT_INT8],
           p->loop[KN_LIMIT_INT8]);
}

void bench_print_head(const bench_output *o, const bench_settings *b, const char *name) {
    if (o->json)
        return;
    printf("model: %s, %.1f million parameters%s, %s kernels, state %.2f MB a sequence\n"
           "a context is a position and a random state; median of the turns, and the best\n\n",
           name, (double)mdl_model_weights(b->model)->params / 1e6,
           mdl_model_tensors(b->model) ? "" : ", random weights", b->backends[0]->isa,
           (double)mdl_state_bytes(b->model) / 1e6);
    printf("%-8s %-7s %7s %8s %9s %6s %10s %10s %10s %10s  %-18s %6s %6s %6s%s %9s\n", "test",
           "weights", "threads", "tokens", "context", "batch", "tokens/s", "best", "ms/token",
           "ms/step", "limit", "share", "best", "plain", o->neighbour ? "   kept" : "", "peak MB");
}

/* ---- rows ---- */

static void print_json(const bench_output *o, const bench_settings *b, const bench_row *r,
                       const bench_result *v) {
    printf("{\"test\":\"%s\",\"weights\":\"%s\",\"threads\":%d,", r->prefill ? "prefill" : "decode",
           o->weights, b->peaks[r->threads].threads);
    if (r->prefill)
        printf("\"tokens\":%" PRId64 ",\"from\":%" PRId64 ",", r->tokens, r->context);
    else
        printf("\"context\":%" PRId64 ",\"batch\":%" PRId64 ",", r->context, r->batch);
    printf("\"turns\":%d,\"tokens_per_s\":%.3f,\"best_tokens_per_s\":%.3f,\"ms_per_token\":%.5f,"
           "\"best_ms_per_token\":%.5f,",
           r->n_samples, v->tokens_per_s, v->best_tokens_per_s, 1e3 / v->tokens_per_s,
           1e3 / v->best_tokens_per_s);
    printf("\"measured_tokens\":%.0f,\"needed_per_token\":%.0f,", v->tokens, v->needed);
    if (v->limit > 0)
        printf(
            "\"limit\":\"%s\",\"limit_type\":\"%s\",\"limit_rate\":%.2f,\"best_limit_rate\":%.2f,"
            "\"share_of_limit\":%.4f,\"best_share_of_limit\":%.4f,",
            limit_keys[r->limit], limit_types[r->limit], v->limit, v->best_limit, v->share,
            v->best_share);
    if (!r->prefill && v->limit > 0)
        printf("\"plain_rate\":%.2f,\"share_of_plain\":%.4f,", v->plain, v->plain_share);
    if (b->backends[0]->idle_seconds)
        printf("\"host_share\":%.5f,", v->host_share);
    if (o->neighbour)
        printf("\"kept\":%.4f,\"best_kept\":%.4f,", v->kept, v->best_kept);
    printf("\"state_bytes\":%zu,\"working_bytes\":%zu,\"rss_bytes\":%" PRIu64 "}\n", r->state_bytes,
           r->working_bytes, bench_peak_rss());
}

static void print_host(const bench_settings *b, const bench_result *v) {
    if (b->backends[0]->idle_seconds)
        printf("%-8s the device waited for the host in %.2f%% of the time\n", "",
               100 * v->host_share);
}

static void print_table(const bench_output *o, const bench_settings *b, const bench_row *r,
                        const bench_result *v) {
    char limit[32];
    bench_limit_text(limit, sizeof limit, r->limit, v->limit);
    printf("%-8s %-7s %7d ", r->prefill ? "prefill" : "decode", o->weights,
           b->peaks[r->threads].threads);
    if (r->prefill)
        printf("%8" PRId64 " %9" PRId64 " %6s ", r->tokens, r->context, "");
    else
        printf("%8s %9" PRId64 " %6" PRId64 " ", "", r->context, r->batch);
    printf("%10.2f %10.2f %10.4f ", v->tokens_per_s, v->best_tokens_per_s, 1e3 / v->tokens_per_s);
    if (r->prefill)
        printf("%10s  ", "");
    else
        printf("%10.3f  ", 1e3 * (double)r->batch / v->tokens_per_s);
    if (v->limit > 0)
        printf("%-18s %5.1f%% %5.1f%%", limit, 100 * v->share, 100 * v->best_share);
    else
        printf("%-18s %6s %6s", "not measured", "", "");
    if (v->plain > 0)
        printf(" %5.1f%%", 100 * v->plain_share);
    else
        printf(" %6s", "");
    if (o->neighbour)
        printf(" %5.1f%%", 100 * v->kept);
    printf(" %9.1f\n", (double)bench_peak_rss() / 1e6);
    print_host(b, v);
}

void bench_print_row(const bench_output *o, const bench_settings *b, const bench_row *r) {
    bench_result v = bench_row_result(r);
    if (o->json)
        print_json(o, b, r, &v);
    else
        print_table(o, b, r, &v);
    fflush(stdout);
}

/* ---- ratios ---- */

/* What two rows differ in, when it is one thing only. */
static const char *difference(const bench_settings *b, const bench_row *x, const bench_row *y,
                              int64_t *from, int64_t *to) {
    const struct {
        const char *name;
        int64_t x, y;
    } parts[] = {
        {"threads", b->peaks[x->threads].threads, b->peaks[y->threads].threads},
        {"tokens", x->tokens, y->tokens},
        {x->prefill ? "from" : "context", x->context, y->context},
        {"batch", x->batch, y->batch},
    };
    const char *name = NULL;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (parts[i].x == parts[i].y)
            continue;
        if (name)
            return NULL;
        name = parts[i].name;
        *from = parts[i].x;
        *to = parts[i].y;
    }
    return name;
}

static void print_ratio(const bench_output *o, const bench_settings *b, const bench_row *x,
                        const bench_row *y) {
    int64_t from = 0, to = 0;
    const char *by = difference(b, x, y, &from, &to), *of = x->prefill ? "prefill" : "decode";
    if (!by)
        return;
    bench_result u = bench_row_result(x), v = bench_row_result(y);
    double mid = v.tokens_per_s / u.tokens_per_s, best = v.best_tokens_per_s / u.best_tokens_per_s;
    if (o->json) {
        printf("{\"test\":\"ratio\",\"of\":\"%s\",\"weights\":\"%s\",\"by\":\"%s\","
               "\"from\":%" PRId64 ",\"to\":%" PRId64 ",\"threads\":%d,",
               of, o->weights, by, from, to, b->peaks[y->threads].threads);
        if (x->prefill)
            printf("\"tokens\":%" PRId64 ",\"at\":%" PRId64 ",", y->tokens, y->context);
        else
            printf("\"context\":%" PRId64 ",\"batch\":%" PRId64 ",", y->context, y->batch);
        printf("\"speed\":%.4f,\"best_speed\":%.4f}\n", mid, best);
        return;
    }
    printf("ratio    %s, %s %" PRId64 " over %" PRId64 ": tokens/s x %.3f, best x %.3f", of, by, to,
           from, mid, best);
    if (strcmp(by, "threads") != 0)
        printf(", %d threads", b->peaks[y->threads].threads);
    if (x->prefill && strcmp(by, "tokens") != 0)
        printf(", %" PRId64 " tokens", y->tokens);
    if (x->prefill && strcmp(by, "from") != 0 && y->context > 0)
        printf(", from %" PRId64, y->context);
    if (!x->prefill && strcmp(by, "context") != 0)
        printf(", context %" PRId64, y->context);
    if (!x->prefill && strcmp(by, "batch") != 0)
        printf(", batch %" PRId64, y->batch);
    putchar('\n');
}

/* Each row against the first one that differs from it in one thing, for each such thing. */
void bench_print_ratios(const bench_output *o, const bench_settings *b, const bench_row *rows,
                        int n) {
    for (int i = 0; i < n; i++) {
        const char *seen[4];
        int n_seen = 0;
        for (int j = 0; j < i; j++) {
            int64_t from, to;
            bool again = false;
            const char *by = difference(b, &rows[j], &rows[i], &from, &to);
            for (int k = 0; k < n_seen; k++)
                again |= by == seen[k];
            if (!by || again)
                continue;
            seen[n_seen++] = by;
            print_ratio(o, b, &rows[j], &rows[i]);
        }
    }
    fflush(stdout);
}
