/* tnl bench: tokens per second, and which share that is of what the machine can do. Decode reads
 * every weight for each step, so memory bandwidth is its limit; prefill uses a weight for many
 * tokens, so multiply-adds are: of fp32, or of int8 where weights are q8 or q4. The limits are
 * measured beside every row (bench.h). */
#include "server/cli/bench/bench.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/threads.h"
#include "kernels/quant.h"
#include "server/cli/bench/bench_engine.h"
#include "server/cli/cli.h"

typedef struct settings {
    cli_model_opts model;
    const char *random;
    cli_list prefill, prefill_from, context, batch, threads;
    int64_t decode, repeats, step_tokens, speculate, prefix;
    double machine_seconds, slice, row_seconds;
    uint64_t seed;
    bool json, profile, neighbour;
} settings;

#define AT(field) .offset = offsetof(settings, field)

static const cli_opt options[] = {
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
    {.flag = "prefill-from",
     .type = CLI_INT_LIST,
     AT(prefill_from),
     .min = 0,
     .max = 1e15,
     .dflt = "0",
     .arg = "N,...",
     .help = "positions where prompts begin; beyond 0: with a random state"},
    {.flag = "decode",
     .type = CLI_INT,
     AT(decode),
     .min = 0,
     .max = 1e6,
     .dflt = "1",
     .arg = "N",
     .help = "decode steps of one turn, at least; 0: no decode"},
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
     .max = 1000,
     .dflt = "7",
     .arg = "N",
     .help = "turns of each row after a warm-up; a long prompt takes more"},
    {.flag = "slice",
     .type = CLI_REAL,
     AT(slice),
     .min = 0.001,
     .max = 10,
     .dflt = "0.04",
     .arg = "S",
     .help = "seconds of work between two looks at the limit"},
    {.flag = "row-seconds",
     .type = CLI_REAL,
     AT(row_seconds),
     .min = 0.001,
     .max = 1e6,
     .dflt = "1000000",
     .arg = "S",
     .help = "a row that has worked for so long takes no more turns"},
    {.flag = "step-tokens",
     .type = CLI_INT,
     AT(step_tokens),
     .min = 1,
     .max = 65536,
     .dflt = "256",
     .arg = "N",
     .help = "prompt tokens in one step"},
    {.flag = "neighbour",
     .type = CLI_BOOL,
     AT(neighbour),
     .help = "also beside a busy process on one processor: the speed kept"},
    {.flag = "profile",
     .type = CLI_BOOL,
     AT(profile),
     .help = "then time, bytes and operations of each kind of operation"},
    {.flag = "speculate",
     .type = CLI_INT,
     AT(speculate),
     .min = 0,
     .max = ENG_SPECULATE_MAX,
     .dflt = "0",
     .arg = "N",
     .help = "instead: decode speed with at most N tokens guessed ahead, and without"},
    {.flag = "prefix",
     .type = CLI_INT,
     AT(prefix),
     .min = 0,
     .max = 1e8,
     .dflt = "0",
     .arg = "N",
     .help = "instead: ten questions about a document of N tokens, time to first token"},
    {.flag = "machine-seconds",
     .type = CLI_REAL,
     AT(machine_seconds),
     .min = 0.01,
     .max = 600,
     .dflt = "3",
     .arg = "S",
     .help = "time to find the fastest loops, for each number of threads"},
    {.flag = "seed",
     .type = CLI_U64,
     AT(seed),
     .dflt = "1",
     .arg = "N",
     .help = "of random weights, states and tokens"},
    {.flag = "json", .type = CLI_BOOL, AT(json), .help = "one JSON object a line"},
    {.flag = "device",
     .type = CLI_STRING,
     AT(model.device),
     .dflt = "cpu",
     .arg = "NAME",
     .env = "TNL_DEVICE",
     .help = "what computes: cpu, cuda, cuda:N or auto; limits are measured for cpu only"},
    {.flag = "threads",
     .letter = 't',
     .type = CLI_INT_LIST,
     AT(threads),
     .min = 0,
     .max = 1024,
     .dflt = "0",
     .arg = "N,...",
     .env = "TNL_THREADS",
     .help = "threads that compute; 0: one per processor; 1,2: both, and the ratio"},
    {.flag = "weights",
     .type = CLI_CHOICE,
     AT(model.weights),
     .choices = cli_weight_names,
     .dflt = "auto",
     .env = "TNL_WEIGHTS",
     .help = "how matrices are kept in memory; auto: as stored, random: bf16"},
    {.flag = "load",
     .type = CLI_CHOICE,
     AT(model.load),
     .choices = cli_load_names,
     .dflt = "map",
     .env = "TNL_LOAD",
     .help = "map the files, or read them into memory"},
};

static const cli_spec spec = {
    .name = "tnl bench",
    .args = "MODEL_DIR",
    .about = "Speed of prefill and decode, each with its share of the machine's measured limit.\n"
             "A context is a position and a random state: the cost does not depend on the text.",
    .rows = options,
    .n_rows = sizeof options / sizeof options[0],
    .min_args = 0,
    .max_args = 1,
    .notes =
        "A shared machine changes its speed within seconds. So rows are measured in turns, and\n"
        "within a turn slices of work alternate with slices of the limit, on as many threads. A\n"
        "row shows the median turn and its share, then the best turn over the best turn of the\n"
        "limit. Ratios of rows follow from turns taken side by side.\n"
        "\n"
        "Limits. Decode: read bandwidth, the best of several loops with and without prefetch.\n"
        "Needed: the bytes of every weight once a step and, of each sequence, one embedding row,\n"
        "the state matrices and the pending rows in use; what is written is not counted. The\n"
        "column \"plain\" is the share of what a loop reaches that only reads these weights, in\n"
        "the pages that they came in.\n"
        "Prefill: multiply-adds, of int8 for q8 and q4 weights, else of fp32. Needed: two\n"
        "operations for each weight of the layers' matrices and token, and the head once a\n"
        "prompt; attention is not counted.\n"
        "\n"
        "--speculate runs whole requests of 300 tokens: \"loop\" goes on with the likeliest token\n"
        "after a prompt said three times, \"sample\" at temperature 1, \"chance\" says 32 tokens "
        "at\n"
        "random, so that every pair has been said before and what followed means nothing.\n"
        "\n"
        "Peak memory grows from row to row: it is the process's. A model that fits in the cache\n"
        "can read faster than memory: shares above 100% are that.\n",
    .examples =
        "  tnl bench configs/tales --batch 1,4,16\n"
        "  tnl bench --random configs/shapes/tnl-385m.json --weights bf16 --json\n"
        "  tnl bench --random configs/shapes/tnl-385m.json --prefill 512 --threads 1,2 --profile\n",
};

/* ---- rows ---- */

typedef struct run {
    const settings *o;
    bench_settings b;
    bench_output out;
    bench_neighbour neighbour;
    const char *name;
    mdl_model *model;
} run;

static tnl_status measure_group(run *r, const char *label, bench_row *rows, int n, tnl_error *err) {
    tnl_status s = bench_group_run(&r->b, label, rows, n, err);
    for (int i = 0; i < n && s == TNL_OK; i++)
        bench_print_row(&r->out, &r->b, &rows[i]);
    if (s == TNL_OK)
        bench_print_ratios(&r->out, &r->b, rows, n);
    for (int i = 0; i < n && s == TNL_OK && r->o->profile; i++)
        s = bench_profile_row(&r->out, &r->b, &rows[i], err);
    bench_group_close(rows, n);
    return s;
}

static tnl_status prefill_rows(run *r, tnl_error *err) {
    const cli_list *p = &r->o->prefill, *f = &r->o->prefill_from;
    kn_dtype t = mdl_model_weights(r->model)->dtype;
    kn_limit limit = kn_q_integer(t) ? KN_LIMIT_INT8 : KN_LIMIT_FP32;
    int n = 0;
    bench_row *rows = calloc((size_t)(p->n * f->n * r->b.n_threads), sizeof *rows);
    if (!rows)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    for (int i = 0; i < p->n; i++)
        for (int j = 0; j < f->n && p->v[i] > 0; j++)
            for (int k = 0; k < r->b.n_threads; k++)
                rows[n++] = (bench_row){.prefill = true,
                                        .tokens = p->v[i],
                                        .context = f->v[j],
                                        .batch = 1,
                                        .threads = k,
                                        .limit = limit};
    tnl_status s = n > 0 ? measure_group(r, "prefill", rows, n, err) : TNL_OK;
    free(rows);
    return s;
}

static tnl_status decode_rows(run *r, tnl_error *err) {
    const cli_list *c = &r->o->context, *g = &r->o->batch;
    int n = 0;
    if (r->o->decode == 0)
        return TNL_OK;
    bench_row *rows = calloc((size_t)(c->n * g->n * r->b.n_threads), sizeof *rows);
    if (!rows)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    for (int i = 0; i < c->n; i++)
        for (int j = 0; j < g->n; j++)
            for (int k = 0; k < r->b.n_threads; k++)
                rows[n++] = (bench_row){
                    .context = c->v[i], .batch = g->v[j], .threads = k, .limit = KN_LIMIT_READ};
    tnl_status s = n > 0 ? measure_group(r, "decode", rows, n, err) : TNL_OK;
    free(rows);
    return s;
}

/* ---- the run ---- */

static tnl_status read_threads(bench_settings *b, const settings *o, int *most, tnl_error *err) {
    *most = 1;
    for (int i = 0; i < o->threads.n; i++) {
        int threads = o->threads.v[i] ? (int)o->threads.v[i] : tnl_cpu_count();
        if (b->n_threads == BENCH_MAX_THREADS)
            return tnl_fail(err, TNL_E_USAGE, "--threads: at most %d values", BENCH_MAX_THREADS);
        b->peaks[b->n_threads++].threads = threads;
        *most = threads > *most ? threads : *most;
    }
    if (b->n_threads == 0)
        return tnl_fail(err, TNL_E_USAGE, "--threads: no value");
    return TNL_OK;
}

/* A random model's weights: the type of that name; auto and unknown ones are bf16. */
static kn_dtype random_dtype(int weights) {
    for (kn_dtype t = 0; t < KN_DTYPE_COUNT; t++)
        if (strcmp(kn_dtypes[t].name, cli_weight_names[weights]) == 0)
            return t;
    return KN_BF16;
}

static tnl_status open_model(run *r, const cli_args *a, tnl_error *err) {
    const settings *o = r->o;
    cli_model_opts opts = o->model;
    opts.threads = r->b.peaks[0].threads;
    if (!o->random)
        return cli_open_model(&r->model, &opts, a->v[0], err);
    if (isatty(STDERR_FILENO) == 1)
        fputs("making random weights\r", stderr);
    return mdl_open_random(&r->model, o->random, random_dtype(o->model.weights), opts.device,
                           (int)opts.threads, NULL, o->seed, err);
}

/* A backend for each further number of threads; all compute with the same weights. */
static tnl_status open_backends(run *r, tnl_error *err) {
    r->b.model = r->model;
    r->b.backends[0] = mdl_model_backend(r->model);
    r->b.device = strcmp(r->b.backends[0]->name, "cpu") != 0;
    if (r->b.n_threads > 1 && r->b.device)
        return tnl_fail(err, TNL_E_USAGE, "--threads: one value where --device is not cpu");
    if (r->o->profile && r->b.device)
        return tnl_fail(err, TNL_E_USAGE,
                        "--profile: only with --device cpu: %s computes while the caller goes on",
                        r->b.backends[0]->name);
    for (int i = 1; i < r->b.n_threads; i++)
        TNL_TRY(kn_cpu_open(&r->b.backends[i], r->b.peaks[i].threads, NULL, err));
    return TNL_OK;
}

static tnl_status measure_machine(run *r, tnl_error *err) {
    for (int i = 0; i < r->b.n_threads && !r->b.device; i++) {
        TNL_TRY(bench_limits_choose(r->b.limits, &r->b.peaks[i], r->b.peaks[i].threads,
                                    r->o->machine_seconds, err));
        bench_print_machine(&r->out, &r->b.peaks[i]);
    }
    return TNL_OK;
}

static tnl_status open_weights(run *r, int most, tnl_error *err) {
    return r->o->decode > 0 && !r->b.device ? bench_weights_open(&r->b.weights, r->model, most, err)
                                            : TNL_OK;
}

static tnl_status measure_engine(run *r, tnl_error *err) {
    enum { TOKENS = 300 };
    const bench_engine_opts e = {.model = r->model,
                                 .step_tokens = r->o->step_tokens,
                                 .repeats = r->o->repeats,
                                 .seed = r->o->seed,
                                 .json = r->o->json};
    if (r->o->prefix > 0)
        TNL_TRY(bench_prefix(&e, r->o->prefix, err));
    if (r->o->speculate == 0)
        return TNL_OK;
    return bench_speculate(&e, (int)r->o->speculate, TOKENS, err);
}

static tnl_status bench(run *r, const cli_args *a, tnl_error *err) {
    int most;
    if ((a->n == 1) == (r->o->random != NULL))
        return tnl_fail(err, TNL_E_USAGE, "give either MODEL_DIR or --random SHAPE.json");
    TNL_TRY(read_threads(&r->b, r->o, &most, err));
    TNL_TRY(bench_limits_open(&r->b.limits, most, err));
    if (r->o->neighbour)
        TNL_TRY(bench_neighbour_open(&r->neighbour, err));
    TNL_TRY(open_model(r, a, err));
    TNL_TRY(open_backends(r, err));
    r->out.weights = kn_dtypes[mdl_model_weights(r->model)->dtype].name;
    TNL_TRY(measure_machine(r, err));
    if (r->o->speculate > 0 || r->o->prefix > 0)
        return measure_engine(r, err);
    bench_print_head(&r->out, &r->b, r->o->random ? r->o->random : a->v[0]);
    TNL_TRY(prefill_rows(r, err));
    TNL_TRY(open_weights(r, most, err));
    return decode_rows(r, err);
}

static void close_run(run *r) {
    if (r->b.backends[0])
        mdl_model_use_backend(r->model, r->b.backends[0]);
    for (int i = 1; i < r->b.n_threads; i++)
        kn_backend_close(r->b.backends[i]);
    kn_limits_close(r->b.weights);
    mdl_close(r->model);
    bench_neighbour_close(&r->neighbour);
    bench_limits_close(r->b.limits);
}

int cli_bench(int argc, char **argv) {
    settings o;
    cli_args a;
    int code;
    if (cli_begin(&a, &spec, &o, argc, argv, &code)) {
        tnl_error err = {0};
        run r = {.o = &o,
                 .b = {.repeats = o.repeats,
                       .decode_steps = o.decode,
                       .step_tokens = o.step_tokens,
                       .slice = o.slice,
                       .row_seconds = o.row_seconds,
                       .seed = o.seed},
                 .out = {.json = o.json, .neighbour = o.neighbour}};
        r.b.neighbour = &r.neighbour;
        tnl_status s = bench(&r, &a, &err);
        close_run(&r);
        if (s != TNL_OK)
            code = cli_report(&spec, s, &err);
    }
    cli_args_clear(&a);
    return code;
}
