/* Rows in turns, slices of the limit between slices of the work, and what follows from them. */
#include <stdlib.h>
#include <string.h>

#include "server/cli/bench/bench.h"
#include "server/cli/progress.h"

#define NEIGHBOUR_SLICES 5     /* of a turn beside a neighbour: several of its time slices */
#define NEIGHBOUR_SETTLES 0.75 /* slices before that, untimed */
#define COLD_SHARE (1.0 / 3)   /* of a slice: a shorter step may be spent on warming the caches */
#define MAX_TURNS (INT64_C(1) << 20)

void bench_use_row(const bench_settings *b, const bench_row *r) {
    mdl_model_use_backend(b->model, b->backends[r->threads]);
}

/* ---- one turn ---- */

typedef struct turn {
    const bench_settings *b;
    bench_row *row;
    bench_sample sample;
    int64_t steps, cycle;
    double limits, plains; /* sums */
    int n_limits;
    double step_seconds; /* of the steps so far */
} turn;

static tnl_status measure_limit(turn *t, tnl_error *err) {
    double rate;
    t->n_limits++;
    if (t->b->device)
        return TNL_OK;
    TNL_TRY(bench_limits_slice(t->b->limits, &rate, &t->b->peaks[t->row->threads], t->row->limit,
                               0.5 * t->b->slice, err));
    t->limits += rate;
    if (!t->row->prefill && t->b->weights)
        t->plains += kn_limits_slice(t->b->weights, &t->b->peaks[t->row->threads], KN_LIMIT_READ,
                                     0.5 * t->b->slice);
    return TNL_OK;
}

/* The limit's loop has emptied the caches; a decode step of a large model does so itself. */
static tnl_status warm_caches(turn *t, tnl_error *err) {
    bench_sample ignored = {0};
    if (t->b->device || t->row->prefill || t->step_seconds > COLD_SHARE * t->b->slice)
        return TNL_OK;
    return bench_work_step(t->row->work, &ignored, err);
}

/* Steps until about a slice has passed or the turn is complete: whole cycles, a slice at least. */
static tnl_status run_piece(turn *t, bool *complete, tnl_error *err) {
    double start = t->sample.seconds;
    do {
        TNL_TRY(bench_work_step(t->row->work, &t->sample, err));
        t->steps++;
        *complete = t->steps % t->cycle == 0 && t->sample.seconds >= t->b->slice &&
                    (t->row->prefill || t->steps >= t->b->decode_steps);
    } while (!*complete && t->sample.seconds - start < t->b->slice);
    return TNL_OK;
}

/* The same work with the neighbour awake. */
static tnl_status run_disturbed(turn *t, tnl_error *err) {
    bench_sample settle = {0}, s = {0};
    double least = NEIGHBOUR_SLICES * t->b->slice;
    double want = t->sample.seconds > least ? t->sample.seconds : least;
    tnl_status status = TNL_OK;
    bench_neighbour_wake(t->b->neighbour, true);
    while (status == TNL_OK && settle.seconds < NEIGHBOUR_SETTLES * t->b->slice)
        status = bench_work_step(t->row->work, &settle, err);
    for (int64_t i = 0; status == TNL_OK && (s.seconds < want || i % t->cycle); i++)
        status = bench_work_step(t->row->work, &s, err);
    bench_neighbour_wake(t->b->neighbour, false);
    if (status == TNL_OK)
        t->sample.disturbed = s.tokens / s.seconds;
    return status;
}

static tnl_status take_turn(const bench_settings *b, bench_row *r, double step_seconds,
                            tnl_error *err) {
    turn t = {.b = b, .row = r, .step_seconds = step_seconds};
    t.cycle = bench_work_cycle(r->work, step_seconds);
    bench_use_row(b, r);
    TNL_TRY(measure_limit(&t, err));
    for (bool complete = false; !complete;) {
        TNL_TRY(warm_caches(&t, err));
        TNL_TRY(run_piece(&t, &complete, err));
        TNL_TRY(measure_limit(&t, err));
    }
    t.sample.limit = t.limits / t.n_limits;
    t.sample.plain = t.plains / t.n_limits;
    if (b->neighbour->pid)
        TNL_TRY(run_disturbed(&t, err));
    r->samples[r->n_samples++] = t.sample;
    return TNL_OK;
}

/* ---- a group ---- */

/* Warm up, find out how long a step takes, and from that how many turns the row needs: a long
 * prompt is fed once, whole. */
static tnl_status prepare(const bench_settings *b, bench_row *r, double *step_seconds,
                          tnl_error *err) {
    bench_sample s = {0}, ignored = {0};
    bench_use_row(b, r);
    TNL_TRY(bench_work_open(&r->work, b, r, err));
    TNL_TRY(bench_work_step(r->work, &ignored, err));
    TNL_TRY(bench_work_step(r->work, &s, err));
    double step = s.seconds > 1e-7 ? s.seconds : 1e-7;
    int64_t cycle = bench_work_cycle(r->work, step);
    double cycles = b->slice / (step * (double)cycle);
    double per_turn = (double)cycle * (cycles > 1 ? cycles : 1);
    double turns = (double)bench_work_steps(r->work) / per_turn + 1;
    r->turns = turns > (double)b->repeats ? (int64_t)turns : b->repeats;
    r->turns = r->turns > MAX_TURNS ? MAX_TURNS : r->turns;
    r->samples = calloc((size_t)r->turns, sizeof *r->samples);
    if (!r->samples)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    *step_seconds = step;
    return TNL_OK;
}

static double seconds_spent(const bench_row *r) {
    double sum = 0;
    for (int i = 0; i < r->n_samples; i++)
        sum += r->samples[i].seconds;
    return sum;
}

/* Row r's turns, spread evenly over all rounds, as long as it has time. */
static bool is_due(const bench_settings *b, const bench_row *r, int64_t round, int64_t rounds) {
    return r->n_samples < r->turns * (round + 1) / rounds && seconds_spent(r) < b->row_seconds;
}

static tnl_status run_rounds(const bench_settings *b, bench_row *rows, int n, const double *step,
                             cli_progress *bar, tnl_error *err) {
    int64_t rounds = 1, total = 0, done = 0;
    for (int i = 0; i < n; i++) {
        rounds = rows[i].turns > rounds ? rows[i].turns : rounds;
        total += rows[i].turns;
    }
    for (int64_t round = 0; round < rounds; round++)
        for (int i = 0; i < n; i++) {
            if (!is_due(b, &rows[i], round, rounds))
                continue;
            TNL_TRY(take_turn(b, &rows[i], step[i], err));
            cli_progress_update(bar, (uint64_t)++done, (uint64_t)total);
        }
    return TNL_OK;
}

tnl_status bench_group_run(const bench_settings *b, const char *label, bench_row *rows, int n,
                           tnl_error *err) {
    cli_progress bar;
    tnl_status s = TNL_OK;
    double *step = calloc((size_t)n, sizeof *step);
    if (!step)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    cli_progress_begin(&bar, label, "turns", 1);
    for (int i = 0; i < n && s == TNL_OK; i++)
        s = prepare(b, &rows[i], &step[i], err);
    if (s == TNL_OK)
        s = run_rounds(b, rows, n, step, &bar, err);
    cli_progress_end(&bar);
    free(step);
    return s;
}

void bench_group_close(bench_row *rows, int n) {
    for (int i = 0; i < n; i++) {
        bench_work_close(rows[i].work);
        free(rows[i].samples);
        rows[i].work = NULL;
        rows[i].samples = NULL;
    }
}

/* ---- what follows from the samples ---- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
}

enum { SPEED, LIMIT, SHARE, PLAIN, PLAIN_SHARE, DISTURBED, KEPT, HOST, NEEDED, FIGURES };

static double figure(const bench_sample *s, int which) {
    double speed = s->tokens / s->seconds;
    switch (which) {
    case SPEED:
        return speed;
    case LIMIT:
        return s->limit;
    case SHARE:
        return s->limit > 0 ? s->needed / s->seconds / s->limit : 0;
    case PLAIN:
        return s->plain;
    case PLAIN_SHARE:
        return s->plain > 0 ? s->needed / s->seconds / s->plain : 0;
    case DISTURBED:
        return s->disturbed;
    case KEPT:
        return s->disturbed / speed;
    case HOST:
        return s->idle / s->seconds;
    default:
        return 1e9 * s->needed / s->tokens;
    }
}

bench_result bench_row_result(const bench_row *r) {
    double mid[FIGURES] = {0}, best[FIGURES] = {0};
    double *v = calloc((size_t)r->n_samples + 1, sizeof *v);
    for (int f = 0; v && f < FIGURES && r->n_samples; f++) {
        for (int i = 0; i < r->n_samples; i++)
            v[i] = figure(&r->samples[i], f);
        mid[f] = median(v, r->n_samples);
        best[f] = v[r->n_samples - 1];
    }
    free(v);
    bench_result out = {.tokens_per_s = mid[SPEED],
                        .best_tokens_per_s = best[SPEED],
                        .limit = mid[LIMIT],
                        .best_limit = best[LIMIT],
                        .share = mid[SHARE],
                        .plain = mid[PLAIN],
                        .plain_share = mid[PLAIN_SHARE],
                        .kept = mid[KEPT],
                        .host_share = mid[HOST],
                        .needed = mid[NEEDED]};
    for (int i = 0; i < r->n_samples; i++)
        out.tokens += r->samples[i].tokens;
    if (best[LIMIT] > 0)
        out.best_share = best[SPEED] * mid[NEEDED] / 1e9 / best[LIMIT];
    if (best[SPEED] > 0)
        out.best_kept = best[DISTURBED] / best[SPEED];
    return out;
}
