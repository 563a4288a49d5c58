/* What the parts of `tnl bench` share.
 *
 * A machine that others share changes its speed within seconds, so nothing is timed by itself. Rows
 * of the table are measured in turns, round after round; a turn is cut into slices of some
 * milliseconds, and before, between and after them the limit that the row is held against is
 * measured with the same number of threads. A share is a ratio within one turn; of the turns, the
 * median and the best are reported.
 *
 * Speed also depends on the pages that memory came in. So decode is held, besides, against a plain
 * loop over the very weights that it reads. */
#ifndef TNL_SERVER_CLI_BENCH_H
#define TNL_SERVER_CLI_BENCH_H

#include "kernels/cpu/peaks.h"
#include "model/model.h"

/* ---- the machine: bench_limits.c ---- */

/* A child process that measures limits, so that its buffer is no part of this process's memory. To
 * be opened before any thread is started. */
typedef struct bench_limits bench_limits;

tnl_status bench_limits_open(bench_limits **out, int max_threads, tnl_error *err);
void bench_limits_close(bench_limits *l); /* NULL allowed */
tnl_status bench_limits_choose(bench_limits *l, kn_peaks *out, int threads, double seconds,
                               tnl_error *err);
tnl_status bench_limits_slice(bench_limits *l, double *rate, const kn_peaks *p, kn_limit kind,
                              double seconds, tnl_error *err);

/* A busy process bound to the last processor that we may use. It stands still until it is woken. */
typedef struct bench_neighbour {
    int pid; /* 0: none */
} bench_neighbour;

tnl_status bench_neighbour_open(bench_neighbour *n, tnl_error *err);
void bench_neighbour_wake(const bench_neighbour *n, bool busy);
void bench_neighbour_close(bench_neighbour *n);

/* ---- rows ---- */

enum { BENCH_MAX_THREADS = 8 };

typedef struct bench_settings {
    mdl_model *model;
    bench_limits *limits;
    kn_limits *weights; /* reads the weights; NULL: too small, no decode, or on a device */
    bool device;        /* computes elsewhere: the processor's limits say nothing */
    const bench_neighbour *neighbour;
    int n_threads; /* thread counts to measure with */
    kn_peaks peaks[BENCH_MAX_THREADS];
    kn_backend *backends[BENCH_MAX_THREADS];
    int64_t repeats;      /* turns of a row, at least */
    int64_t decode_steps; /* of a turn, at least */
    int64_t step_tokens;  /* of a prefill step */
    double slice;         /* seconds */
    double row_seconds;   /* of work, after which a row takes no more turns */
    uint64_t seed;
} bench_settings;

/* What one turn gave. */
typedef struct bench_sample {
    double seconds, tokens;
    double needed;    /* 1e9 bytes or operations */
    double limit;     /* 1e9 a second, mean of the slices of this turn; 0: not measured */
    double plain;     /* decode: 1e9 bytes a second of a plain loop over the weights, or 0 */
    double disturbed; /* tokens a second beside a busy neighbour; 0: not asked for */
    double idle;      /* seconds in which a device waited for the next step to begin */
} bench_sample;

typedef struct bench_work bench_work;

typedef struct bench_row {
    bool prefill;    /* else decode */
    int64_t tokens;  /* prefill: of the prompt */
    int64_t context; /* tokens behind each sequence at the start */
    int64_t batch;   /* decode: sequences in a step */
    int threads;     /* index into the settings' thread counts */
    kn_limit limit;
    bench_work *work; /* while its group runs */
    int64_t turns;    /* wanted */
    int n_samples;
    bench_sample *samples;
    size_t state_bytes, working_bytes; /* of all sequences; of a step */
} bench_row;

/* Of a row's samples. "best" is the fastest turn over the fastest turn of the limit. */
typedef struct bench_result {
    double tokens_per_s, best_tokens_per_s;
    double limit, best_limit; /* 1e9 a second */
    double share, best_share;
    double plain, plain_share; /* of a plain loop over the weights */
    double kept, best_kept;    /* share of the speed kept beside a neighbour; 0: not asked for */
    double needed;             /* bytes or operations a token */
    double host_share;         /* of the time, in which a device waited for the host */
    double tokens;             /* of all turns */
} bench_result;

bench_result bench_row_result(const bench_row *r);

/* A reader of the model's weights; *out NULL when they are too small. */
tnl_status bench_weights_open(kn_limits **out, const mdl_model *m, int max_threads, tnl_error *err);

/* Operations or bytes in use: "reads 47.1 GB/s". Into name. */
void bench_limit_text(char *out, size_t n, kn_limit kind, double rate);

/* Bytes of the largest resident set so far. */
uint64_t bench_peak_rss(void);

/* ---- the work of a row: bench_work.c ---- */

/* Prefill feeds random tokens, a prompt after another, each to an empty state; or, from a context,
 * on and on to a random one. Needed: two operations for each weight of the layers' matrices and
 * token, and the head once a prompt; attention is not counted. Decode goes on from position
 * `context` with random states. Needed: every weight once a step, one embedding row for each
 * sequence, and of each sequence the state matrices and the pending rows in use. What is written is
 * not counted. */
tnl_status bench_work_open(bench_work **out, const bench_settings *b, bench_row *row,
                           tnl_error *err);
void bench_work_close(bench_work *w); /* NULL allowed */

/* One step; adds to seconds, tokens and needed of *s. */
tnl_status bench_work_step(bench_work *w, bench_sample *s, tnl_error *err);

/* Steps after which a row has met every position of a block, or a whole short prompt: a turn is a
 * multiple of that. `step_seconds` keeps it from growing beyond a second. */
int64_t bench_work_cycle(const bench_work *w, double step_seconds);
int64_t bench_work_steps(const bench_work *w); /* of a prompt */

/* ---- groups of rows: bench_turns.c ---- */

/* Measure rows in turns; the caller has zeroed what is not "what". Opens their work. */
tnl_status bench_group_run(const bench_settings *b, const char *label, bench_row *rows, int n,
                           tnl_error *err);
void bench_group_close(bench_row *rows, int n);

/* Make the model compute with a row's threads. */
void bench_use_row(const bench_settings *b, const bench_row *r);

/* ---- output: bench_print.c ---- */

typedef struct bench_output {
    bool json, neighbour;
    const char *weights; /* their type's name */
} bench_output;

void bench_print_machine(const bench_output *o, const kn_peaks *p);
void bench_print_head(const bench_output *o, const bench_settings *b, const char *name);
void bench_print_row(const bench_output *o, const bench_settings *b, const bench_row *r);
/* Rows that differ in one thing from an earlier one: their speed over that one's. */
void bench_print_ratios(const bench_output *o, const bench_settings *b, const bench_row *rows,
                        int n);

/* ---- where the time goes: bench_profile.c ---- */

tnl_status bench_profile_row(const bench_output *o, const bench_settings *b, bench_row *r,
                             tnl_error *err);

#endif
