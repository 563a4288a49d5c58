/* The progress line. Quick jobs never show one: the first appears after half a second. */
#include "server/cli/progress.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const double FIRST_AFTER = 0.5, BAR_EVERY = 0.1, LINE_EVERY = 10.0;
enum { BAR = 30 };

double cli_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void cli_progress_begin(cli_progress *p, const char *label, const char *unit, double scale) {
    double now = cli_now();
    *p = (cli_progress){.label = label,
                        .unit = unit,
                        .scale = scale,
                        .started = now,
                        .terminal = isatty(STDERR_FILENO) == 1,
                        .printed = now};
}

static void print_line(const cli_progress *p, double share, double rate, int eta) {
    fprintf(stderr, "%s: %.0f%%, %.4g %s/s, %d:%02d left\n", p->label, 100 * share, rate, p->unit,
            eta / 60, eta % 60);
}

static void print_bar(const cli_progress *p, double share, double rate, int eta) {
    static const char full[BAR + 1] = "##############################";
    static const char empty[BAR + 1] = "..............................";
    int n = (int)(share * BAR);
    fprintf(stderr, "\r%s [%.*s%.*s] %3.0f%%  %.4g %s/s  %d:%02d left \033[K", p->label, n, full,
            BAR - n, empty, 100 * share, rate, p->unit, eta / 60, eta % 60);
    fflush(stderr);
}

void cli_progress_update(cli_progress *p, uint64_t done, uint64_t total) {
    double now = cli_now();
    double wait = !p->terminal ? LINE_EVERY : p->shown ? BAR_EVERY : FIRST_AFTER;
    if (now - p->printed < wait || done == 0 || total == 0)
        return;
    double share = done < total ? (double)done / (double)total : 1.0;
    double elapsed = now - p->started;
    double rate = (double)done / p->scale / elapsed;
    double left = elapsed * (1.0 - share) / share;
    int eta = left < 359999 ? (int)(left + 0.5) : 359999;
    if (p->terminal)
        print_bar(p, share, rate, eta);
    else
        print_line(p, share, rate, eta);
    p->printed = now;
    p->shown = true;
}

void cli_progress_end(cli_progress *p) {
    if (p->terminal && p->shown)
        fputs("\r\033[K", stderr);
    p->shown = false;
}
