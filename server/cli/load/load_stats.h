/* What a load run measured, in memory that does not grow with the run.
 *
 * Times go into buckets whose width is under 0.8% of their value, from a nanosecond to days, so
 * that a percentile is right to 0.4% however many samples there were; mean and largest are exact.
 * Plain data; one thread. */
#ifndef TNL_SERVER_CLI_LOAD_STATS_H
#define TNL_SERVER_CLI_LOAD_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CLI_HIST_FINE = 128,                               /* buckets of an octave */
    CLI_HIST_BUCKETS = 256 + (50 - 8) * CLI_HIST_FINE, /* up to 2^50 ns, 13 days */
    CLI_LOAD_ERRORS = 24,                              /* kinds kept apart */
    CLI_LOAD_POINTS = 2048,                            /* of a metric over time */
};

typedef struct cli_hist {
    uint64_t bucket[CLI_HIST_BUCKETS];
    uint64_t count;
    double sum, largest; /* seconds */
} cli_hist;

void cli_hist_add(cli_hist *h, double seconds);
double cli_hist_mean(const cli_hist *h); /* 0 when empty, as below */
/* The value that a share p (0..1) of the samples does not exceed. */
double cli_hist_percentile(const cli_hist *h, double p);
/* Upper end of bucket i, seconds. */
double cli_hist_edge(size_t i);

/* A fair sample of a stream of points (x, y): every one is as likely to be kept as any other. */
typedef struct cli_points {
    float x[CLI_LOAD_POINTS], y[CLI_LOAD_POINTS];
    uint64_t seen;
    uint64_t seed;
} cli_points;

void cli_points_add(cli_points *p, double x, double y);
size_t cli_points_count(const cli_points *p);

typedef enum cli_load_time {
    CLI_LOAD_TTFT,  /* to the first token */
    CLI_LOAD_GAP,   /* between tokens */
    CLI_LOAD_WHOLE, /* to the end */
    CLI_LOAD_QUEUE, /* in the server's queue, by its own account */
    CLI_LOAD_TIMES
} cli_load_time;

extern const char *const cli_load_time_names[]; /* for people */
extern const char *const cli_load_time_keys[];  /* for JSON */

typedef struct cli_load_error {
    char label[48];
    char message[200]; /* of the first one */
    uint64_t count;
} cli_load_error;

typedef struct cli_load_stats {
    uint64_t started, ok, failed, cancelled;
    uint64_t late; /* open loop: began more than 10 ms after they were due */
    uint64_t unsent; /* due before the end, but no connection was free; about so many */
    double latest; /* by so many seconds at most */
    uint64_t prompt_tokens, cached_tokens, tokens; /* of the requests that told */
    bool knows_prompt, knows_cached;
    double seconds; /* from the first request's start to the last one's end */
    cli_hist time[CLI_LOAD_TIMES];
    cli_points over_time; /* x: second of the run, y: seconds to the first token */
    cli_load_error errors[CLI_LOAD_ERRORS];
    int n_errors;
} cli_load_stats;

void cli_load_stats_error(cli_load_stats *s, const char *label, const char *message);

#endif
