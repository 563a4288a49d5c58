/* The measurements of `tnl bench`. Each is warmed up, repeated, and reported as the median. */
#include "server/cli/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "model/forward.h"
#include "server/cli/progress.h"

enum { MAX_REPEATS = 99, WARM_UP_STEPS = 2 };

/* ---- what is needed ---- */

/* Weights in the matrices that every token passes: all but embedding and head. */
static double layer_weights(const mdl_model *m) {
    const mdl_weights *w = mdl_model_weights(m);
    double n = 0;
    for (int l = 0; l < mdl_model_spec(m)->n_layers; l++)
        for (int r = MDL_R_GLOBAL_COUNT; r < MDL_R_COUNT; r++) {
            const kn_tensor *t = &w->layers[l].m[r];
            n += t->data ? (double)t->rows * (double)t->cols : 0;
        }
    return n;
}

static double prefill_ops(const mdl_model *m, int64_t tokens) {
    const mdl_spec *s = mdl_model_spec(m);
    return 2.0 * (layer_weights(m) * (double)tokens + (double)s->vocab * (double)s->width);
}

/* Bytes of one sequence's state that the step at position p must read. */
static double state_bytes_at(const mdl_model *m, int64_t p) {
    const mdl_spec *s = mdl_model_spec(m);
    int64_t block = mdl_model_backend((mdl_model *)m)->block;
    double floats = 0;
    for (int l = 0; l < s->n_layers; l++) {
        const kn_linattn_dims *d = &s->layers[l].dims;
        floats += (double)d->H * ((double)d->Dk * d->Dv + (double)(p % block) * (d->Dk + d->Dv));
    }
    return floats * sizeof(float);
}

static double decode_bytes(const mdl_model *m, int64_t p, int64_t batch) {
    const mdl_spec *s = mdl_model_spec(m);
    const mdl_weights *w = mdl_model_weights(m);
    uint64_t row = 0;
    (void)kn_dtype_matrix_bytes(&row, w->global.m[MDL_R_EMBED].dtype, 1, (uint64_t)s->width);
    return (double)w->bytes_read_per_token + (double)(batch - 1) * (double)row +
           (double)batch * state_bytes_at(m, p);
}

/* ---- small things ---- */

static uint64_t peak_rss(void) {
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

/* splitmix64 */
static uint64_t next_random(uint64_t *x) {
    uint64_t z = *x += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static void fill_tokens(int32_t *ids, int64_t n, int64_t vocab, uint64_t *seed) {
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)(next_random(seed) % (uint64_t)vocab);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
}

static int clamp_repeats(int n) {
    return n < 1 ? 1 : n > MAX_REPEATS ? MAX_REPEATS : n;
}

/* ---- one run: states, segments, tokens ---- */

typedef struct run {
    const bench_settings *b;
    mdl_ctx *ctx;
    int64_t n_states;
    mdl_state **states;
    mdl_seg *segs;
    int32_t *ids;
    uint64_t seed;
} run;

static tnl_status run_open(run *r, const bench_settings *b, int64_t n_states, int64_t step_tokens,
                           tnl_error *err) {
    *r = (run){.b = b, .seed = b->seed};
    TNL_TRY(mdl_ctx_open(&r->ctx, b->model, step_tokens, n_states, err));
    r->states = calloc((size_t)n_states, sizeof *r->states);
    r->segs = calloc((size_t)n_states, sizeof *r->segs);
    r->ids = calloc((size_t)step_tokens, sizeof *r->ids);
    if (!r->states || !r->segs || !r->ids)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    for (; r->n_states < n_states; r->n_states++) {
        r->states[r->n_states] = mdl_state_new(b->model);
        if (!r->states[r->n_states])
            return tnl_fail(err, TNL_E_NOMEM, "no memory for %lld states of %zu bytes",
                            (long long)n_states, mdl_state_bytes(b->model));
    }
    return TNL_OK;
}

static void run_close(run *r) {
    for (int64_t i = 0; i < r->n_states; i++)
        mdl_state_free(r->b->model, r->states[i]);
    free(r->states);
    free(r->segs);
    free(r->ids);
    mdl_ctx_close(r->ctx);
}

/* One step: n tokens for each state, logits after the last when `want`. */
static tnl_status step(run *r, int64_t n, bool want, tnl_error *err) {
    fill_tokens(r->ids, n * r->n_states, mdl_model_spec(r->b->model)->vocab, &r->seed);
    for (int64_t i = 0; i < r->n_states; i++)
        r->segs[i] = (mdl_seg){.state = r->states[i],
                               .tokens = r->ids + i * n,
                               .n_tokens = n,
                               .want = want ? MDL_WANT_LAST : MDL_WANT_NONE};
    TNL_TRY(mdl_forward(r->ctx, r->segs, r->n_states, err));
    for (int64_t i = 0; i < r->n_states; i++)
        if (r->segs[i].nonfinite)
            return tnl_fail(err, TNL_E_NONFINITE, "logits or state are not finite");
    return TNL_OK;
}

/* ---- prefill ---- */

static tnl_status feed(run *r, int64_t tokens, tnl_error *err) {
    mdl_state_reset(r->b->model, r->states[0]);
    for (int64_t at = 0; at < tokens;) {
        int64_t n = tokens - at < r->b->step_tokens ? tokens - at : r->b->step_tokens;
        TNL_TRY(step(r, n, at + n == tokens, err));
        at += n;
    }
    return TNL_OK;
}

static tnl_status time_prefill(run *r, double *seconds, int64_t tokens, tnl_error *err) {
    double t[MAX_REPEATS];
    int n = clamp_repeats(r->b->repeats);
    int64_t warm = tokens < r->b->step_tokens ? tokens : r->b->step_tokens;
    TNL_TRY(feed(r, warm, err));
    for (int i = 0; i < n; i++) {
        double start = cli_now();
        TNL_TRY(feed(r, tokens, err));
        t[i] = cli_now() - start;
    }
    *seconds = median(t, n);
    return TNL_OK;
}

tnl_status bench_prefill(bench_row *out, const bench_settings *b, int64_t tokens, tnl_error *err) {
    run r;
    *out = (bench_row){.prefill = true, .tokens = tokens};
    tnl_status s = run_open(&r, b, 1, tokens < b->step_tokens ? tokens : b->step_tokens, err);
    if (s == TNL_OK)
        s = time_prefill(&r, &out->seconds, tokens, err);
    run_close(&r);
    out->tokens_per_s = (double)tokens / out->seconds;
    out->ms_per_token = 1e3 * out->seconds / (double)tokens;
    out->share = prefill_ops(b->model, tokens) / out->seconds / (1e9 * b->peaks->fp32_gflop_s);
    out->rss_bytes = peak_rss();
    return s;
}

/* ---- decode ---- */

/* Median seconds of one step; *bytes is the mean of what the timed steps needed. */
static tnl_status time_decode(run *r, double *seconds, double *bytes, int64_t steps,
                              tnl_error *err) {
    double t[MAX_REPEATS], needed = 0;
    int n = clamp_repeats(r->b->repeats);
    for (int i = 0; i < WARM_UP_STEPS; i++)
        TNL_TRY(step(r, 1, true, err));
    for (int i = 0; i < n; i++) {
        double start = cli_now();
        for (int64_t k = 0; k < steps; k++) {
            needed += decode_bytes(r->b->model, mdl_state_pos(r->states[0]), r->n_states);
            TNL_TRY(step(r, 1, true, err));
        }
        t[i] = (cli_now() - start) / (double)steps;
    }
    *seconds = median(t, n);
    *bytes = needed / (double)(n * steps);
    return TNL_OK;
}

tnl_status bench_decode(bench_row *out, const bench_settings *b, int64_t context, int64_t batch,
                        int64_t steps, tnl_error *err) {
    run r;
    double bytes = 0;
    *out = (bench_row){.context = context, .batch = batch};
    tnl_status s = run_open(&r, b, batch, batch, err);
    for (int64_t i = 0; i < r.n_states; i++)
        mdl_state_randomize(b->model, r.states[i], context, b->seed + (uint64_t)i);
    if (s == TNL_OK)
        s = time_decode(&r, &out->seconds, &bytes, steps, err);
    run_close(&r);
    out->tokens_per_s = (double)batch / out->seconds;
    out->ms_per_token = 1e3 * out->seconds / (double)batch;
    out->share = bytes / out->seconds / (1e9 * b->peaks->read_gb_s);
    out->rss_bytes = peak_rss();
    return s;
}

/* ---- machine ---- */

typedef struct machine_answer {
    tnl_status status;
    tnl_error err;
    kn_peaks peaks; /* the names are literals: the same addresses in parent and child */
} machine_answer;

tnl_status bench_machine(kn_peaks *out, int threads, double seconds, tnl_error *err) {
    int fd[2];
    if (pipe(fd))
        return tnl_fail(err, TNL_E_IO, "cannot make a pipe");
    pid_t child = fork();
    if (child == 0) {
        machine_answer a;
        memset(&a, 0, sizeof a);
        a.status = kn_peaks_measure(&a.peaks, threads, seconds, &a.err);
        _exit(write(fd[1], &a, sizeof a) == (ssize_t)sizeof a ? 0 : 1);
    }
    close(fd[1]);
    machine_answer a;
    ssize_t got = child > 0 ? read(fd[0], &a, sizeof a) : -1;
    close(fd[0]);
    if (child > 0)
        waitpid(child, NULL, 0);
    if (got != (ssize_t)sizeof a)
        return tnl_fail(err, TNL_E_INTERNAL, "measuring the machine failed");
    if (a.status != TNL_OK)
        return tnl_fail(err, a.status, "%s", a.err.msg);
    *out = a.peaks;
    return TNL_OK;
}
