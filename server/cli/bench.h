/* What the parts of `tnl bench` share: one measured row, and the two measurements. */
#ifndef TNL_SERVER_CLI_BENCH_H
#define TNL_SERVER_CLI_BENCH_H

#include "kernels/cpu/peaks.h"
#include "model/model.h"

typedef struct bench_settings {
    mdl_model *model;
    const kn_peaks *peaks;
    int repeats;         /* timed runs; the median counts */
    int64_t step_tokens; /* of a prefill step */
    uint64_t seed;
} bench_settings;

typedef struct bench_row {
    bool prefill;           /* else decode */
    int64_t tokens;         /* prefill: of the prompt */
    int64_t context, batch; /* decode: tokens behind each sequence; sequences in a step */
    double seconds;         /* median: of the whole prefill; of one decode step */
    double tokens_per_s, ms_per_token;
    double share;       /* of the limit: multiply-adds for prefill, bandwidth for decode */
    uint64_t rss_bytes; /* peak of the process so far */
} bench_row;

/* Feed `tokens` random tokens to an empty state. Needed work: two operations for each weight of the
 * layers' matrices and token, and the head once. The attention itself is not counted. */
tnl_status bench_prefill(bench_row *out, const bench_settings *b, int64_t tokens, tnl_error *err);

/* Steps of one token for each of `batch` sequences, from position `context` with random states.
 * Needed bytes: every weight once a step, one embedding row, the state matrices and the pending
 * rows in use of each sequence. What is written is not counted. */
tnl_status bench_decode(bench_row *out, const bench_settings *b, int64_t context, int64_t batch,
                        int64_t steps, tnl_error *err);

/* kn_peaks_measure in a child process, so that its buffer is no part of the peak memory. */
tnl_status bench_machine(kn_peaks *out, int threads, double seconds, tnl_error *err);

#endif
