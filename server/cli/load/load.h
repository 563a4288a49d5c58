/* tnl load, its parts: the run, the report, the plot. One thread. */
#ifndef TNL_SERVER_CLI_LOAD_H
#define TNL_SERVER_CLI_LOAD_H

#include <signal.h>
#include <stdio.h>

#include "server/cli/client/client.h"
#include "server/cli/client/client_dialect.h"
#include "server/cli/load/load_prompt.h"
#include "server/cli/load/load_stats.h"

enum { CLI_LOAD_MAX_CLIENTS = 16384 };

/* One run. Open loop (rate > 0): requests are due at random times that do not depend on answers,
 * and every time counts from when a request was due, whether or not a connection was free then.
 * Closed loop: each client sends its next request when it has its answer. */
typedef struct cli_load_plan {
    cli_client *client;
    cli_dialect_id dialect;
    const char *model, *extra; /* of the body; NULL: none */
    const cli_prompts *prompts;
    uint64_t first; /* number of the first prompt */
    int64_t max_tokens;
    int64_t clients;  /* requests in flight at most */
    double rate;      /* requests a second; 0: closed loop */
    int64_t requests; /* 0: no limit */
    double seconds;   /* no request begins later; 0: no limit */
    double cancel;    /* share of requests whose client leaves midway */
    uint64_t seed;
    FILE *csv;                         /* NULL: none */
    bool progress;                     /* a live line on standard error */
    const volatile sig_atomic_t *stop; /* set: end now */
} cli_load_plan;

/* *out is zeroed first. A failed request is a count in *out, not a failure of the run. */
tnl_status cli_load_run(cli_load_stats *out, const cli_load_plan *plan, tnl_error *err);

/* ---- load_report.c ---- */

void cli_load_csv_head(FILE *f);
void cli_load_table(FILE *f, const cli_load_plan *p, const cli_load_stats *s);
void cli_load_json(FILE *f, const cli_load_plan *p, const cli_load_stats *s); /* one line */
void cli_load_sweep_head(FILE *f);
void cli_load_sweep_row(FILE *f, const cli_load_plan *p, const cli_load_stats *s);

/* ---- load_plot.c ---- */

/* A self-contained SVG file: shares of times, and times to the first token over the run. */
void cli_load_plot(FILE *f, const char *title, const cli_load_stats *s);

#endif
