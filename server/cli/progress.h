/* A progress line on stderr: a bar with rate and time left on a terminal, a plain line every ten
 * seconds otherwise. */
#ifndef TNL_SERVER_CLI_PROGRESS_H
#define TNL_SERVER_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct cli_progress {
    const char *label; /* "loading" */
    const char *unit;  /* "tokens" */
    double scale;      /* shown value = count / scale */
    bool terminal;
    bool shown;
    double started, printed; /* seconds of CLOCK_MONOTONIC */
} cli_progress;

void cli_progress_begin(cli_progress *p, const char *label, const char *unit, double scale);
void cli_progress_update(cli_progress *p, uint64_t done, uint64_t total);
void cli_progress_end(cli_progress *p); /* wipes the bar */

/* Seconds of CLOCK_MONOTONIC. */
double cli_now(void);

#endif
