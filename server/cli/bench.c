/* tnl bench: tokens per second, and which share that is of what the machine can do. Decode reads
 * every weight for each step, so memory bandwidth is its limit; prefill uses a weight for many
 * tokens, so multiply-adds are. The limits are measured in the same run. */
#include "server/cli/bench.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/threads.h"
#include "server/cli/cli.h"

typedef struct settings {
    cli_model_opts model;
    const char *random;
    cli_list prefill, context, batch;
    int64_t decode, repeats, step_tokens;
    double machine_seconds;
    uint64_t seed;
    bool json;
} settings;

#define AT(field) .offset = offsetof(settings, field)

static const cli_opt rows[] = {
    {.flag = "random",
     .type = CLI_STRING,
     AT(random),
     .arg = "SHAPE.json",
     .help = "random weights of this config.json's shape instead of MODEL_DIR"},
    {.flag = "prefill",
     .type = CLI_INT_LIST,
     AT(prefill),
     .min = 0,
     .max = 1e9,
     .dflt = "32,512",
     .arg = "N,...",
     .help = "prompt lengths; 0: none"},
    {.flag = "decode",
     .type = CLI_INT,
     AT(decode),
     .min = 0,
     .max = 1e6,
     .dflt = "32",
     .arg = "N",
     .help = "decode steps of one timed run; 0: none"},
    {.flag = "context",
     .type = CLI_INT_LIST,
     AT(context),
     .min = 0,
     .max = 1e15,
     .dflt = "0,1000000",
     .arg = "N,...",
     .help = "positions to decode from"},
    {.flag = "batch",
     .type = CLI_INT_LIST,
     AT(batch),
     .min = 1,
     .max = 4096,
     .dflt = "1,8",
     .arg = "N,...",
     .help = "sequences decoded together"},
    {.flag = "repeats",
     .type = CLI_INT,
     AT(repeats),
     .min = 1,
     .max = 99,
     .dflt = "3",
     .arg = "N",
     .help = "timed runs of each row after a warm-up; the median counts"},
    {.flag = "step-tokens",
     .type = CLI_INT,
     AT(step_tokens),
     .min = 1,
     .max = 65536,
     .dflt = "256",
     .arg = "N",
     .help = "prompt tokens in one step"},
    {.flag = "machine-seconds",
     .type = CLI_REAL,
     AT(machine_seconds),
     .min = 0.01,
     .max = 600,
     .dflt = "5",
     .arg = "S",
     .help = "time spent on measuring the machine's limits"},
    {.flag = "seed",
     .type = CLI_U64,
     AT(seed),
     .dflt = "1",
     .arg = "N",
     .help = "of random weights, states and tokens"},
    {.flag = "json", .type = CLI_BOOL, AT(json), .help = "one JSON object a line"},
    CLI_MODEL_ROWS(settings, model),
};

static const cli_spec spec = {
    .name = "tnl bench",
    .args = "MODEL_DIR",
    .about = "Speed of prefill and decode, each with its share of the machine's measured limit.\n"
             "A context is a position and a random state: the cost does not depend on the text.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .min_args = 0,
    .max_args = 1,
    .notes = "share: prefill, two operations for each weight of the layers' matrices and token\n"
             "(the head once), against the fp32 multiply-add peak; decode, the bytes of weights\n"
             "and states that a step must read, against the read bandwidth. Peak memory grows\n"
             "from row to row: it is the process's. A model that fits in the cache can read\n"
             "faster than memory: shares above 100% are that. --random takes --weights\n"
             "f32 or bf16 (auto: bf16).\n",
    .examples = "  tnl bench configs/tales --batch 1,4,16\n"
                "  tnl bench --random configs/shapes/tnl-385m.json --weights bf16 --json\n",
};

/* ---- output ---- */

static void print_machine(const settings *o, const kn_peaks *p, int threads) {
    if (o->json) {
        printf("{\"test\":\"machine\",\"read_gb_s\":%.2f,\"fp32_gflop_s\":%.1f,"
               "\"int8_gop_s\":%.1f}\n",
               p->read_gb_s, p->fp32_gflop_s, p->int8_gop_s);
        return;
    }
    printf("machine, %d thread%s: reads %.1f GB/s (%s), fp32 %.0f GFLOP/s (%s), int8 %.0f GOP/s "
           "(%s)\n",
           threads, threads == 1 ? "" : "s", p->read_gb_s, p->read_loop, p->fp32_gflop_s,
           p->fp32_loop, p->int8_gop_s, p->int8_loop);
}

static void print_head(const settings *o, const mdl_model *m, const char *name) {
    if (o->json)
        return;
    printf("model: %s, %.1f million parameters%s, %s kernels, state %.2f MB a sequence\n"
           "a context is a position and a random state\n\n",
           name, (double)mdl_model_weights(m)->params / 1e6, o->random ? ", random weights" : "",
           mdl_model_backend((mdl_model *)m)->isa, (double)mdl_state_bytes(m) / 1e6);
    printf("%-8s %-7s %7s %8s %9s %6s %11s %10s %10s  %-12s %6s %9s\n", "test", "weights",
           "threads", "tokens", "context", "batch", "tokens/s", "ms/token", "ms/step", "limit",
           "share", "peak MB");
}

static void print_json(const bench_row *r, const char *weights, int threads) {
    printf("{\"test\":\"%s\",\"weights\":\"%s\",\"threads\":%d,", r->prefill ? "prefill" : "decode",
           weights, threads);
    if (r->prefill)
        printf("\"tokens\":%" PRId64 ",", r->tokens);
    else
        printf("\"context\":%" PRId64 ",\"batch\":%" PRId64 ",", r->context, r->batch);
    printf("\"tokens_per_s\":%.3f,\"ms_per_token\":%.4f,\"limit\":\"%s\",\"share_of_limit\":%.4f,"
           "\"rss_bytes\":%" PRIu64 "}\n",
           r->tokens_per_s, r->ms_per_token, r->prefill ? "multiply-add" : "bandwidth", r->share,
           r->rss_bytes);
}

static void print_table(const bench_row *r, const char *weights, int threads) {
    printf("%-8s %-7s %7d ", r->prefill ? "prefill" : "decode", weights, threads);
    if (r->prefill)
        printf("%8" PRId64 " %9s %6s ", r->tokens, "", "");
    else
        printf("%8s %9" PRId64 " %6" PRId64 " ", "", r->context, r->batch);
    printf("%11.2f %10.3f ", r->tokens_per_s, r->ms_per_token);
    if (r->prefill)
        printf("%10s  %-12s ", "", "multiply-add");
    else
        printf("%10.3f  %-12s ", 1e3 * r->seconds, "bandwidth");
    printf("%5.1f%% %9.1f\n", 100 * r->share, (double)r->rss_bytes / 1e6);
}

static void print_row(const settings *o, const mdl_model *m, const bench_row *r) {
    const char *weights = kn_dtypes[mdl_model_weights(m)->dtype].name;
    int threads = mdl_model_backend((mdl_model *)m)->threads;
    if (o->json)
        print_json(r, weights, threads);
    else
        print_table(r, weights, threads);
    fflush(stdout);
}

/* What is going on, on a terminal: a line that the next one overwrites, wiped by "". */
static void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void note(const char *fmt, ...) {
    if (isatty(STDERR_FILENO) != 1)
        return;
    va_list ap;
    va_start(ap, fmt);
    fputs("\r\033[K", stderr);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
}

static void wipe(void) {
    note("%s", "");
}

/* ---- the run ---- */

static tnl_status open_model(mdl_model **out, const settings *o, const cli_args *a,
                             tnl_error *err) {
    if (!o->random)
        return cli_open_model(out, &o->model, a->v[0], err);
    note("making random weights");
    kn_dtype t = o->model.weights == MDL_W_F32 ? KN_F32 : KN_BF16;
    return mdl_open_random(out, o->random, t, (int)o->model.threads, NULL, o->seed, err);
}

static tnl_status run_rows(const settings *o, const bench_settings *b, tnl_error *err) {
    bench_row r;
    for (int i = 0; i < o->prefill.n; i++) {
        if (o->prefill.v[i] == 0)
            continue;
        note("prefill %" PRId64, o->prefill.v[i]);
        TNL_TRY(bench_prefill(&r, b, o->prefill.v[i], err));
        wipe();
        print_row(o, b->model, &r);
    }
    for (int i = 0; i < o->context.n && o->decode; i++)
        for (int j = 0; j < o->batch.n; j++) {
            note("decode at %" PRId64 ", batch %" PRId64, o->context.v[i], o->batch.v[j]);
            TNL_TRY(bench_decode(&r, b, o->context.v[i], o->batch.v[j], o->decode, err));
            wipe();
            print_row(o, b->model, &r);
        }
    return TNL_OK;
}

static tnl_status bench(mdl_model **model, const settings *o, const cli_args *a, tnl_error *err) {
    int threads = o->model.threads ? (int)o->model.threads : tnl_cpu_count();
    kn_peaks peaks;
    if ((a->n == 1) == (o->random != NULL))
        return tnl_fail(err, TNL_E_USAGE, "give either MODEL_DIR or --random SHAPE.json");
    note("measuring the machine");
    TNL_TRY(bench_machine(&peaks, threads, o->machine_seconds, err));
    TNL_TRY(open_model(model, o, a, err));
    wipe();
    print_machine(o, &peaks, threads);
    print_head(o, *model, o->random ? o->random : a->v[0]);
    bench_settings b = {.model = *model,
                        .peaks = &peaks,
                        .repeats = (int)o->repeats,
                        .step_tokens = o->step_tokens,
                        .seed = o->seed};
    return run_rows(o, &b, err);
}

int cli_bench(int argc, char **argv) {
    settings o;
    cli_args a;
    int code;
    if (cli_begin(&a, &spec, &o, argc, argv, &code)) {
        tnl_error err = {0};
        mdl_model *m = NULL;
        tnl_status s = bench(&m, &o, &a, &err);
        if (s != TNL_OK)
            code = cli_report(&spec, s, &err);
        mdl_close(m);
    }
    cli_args_clear(&a);
    return code;
}
