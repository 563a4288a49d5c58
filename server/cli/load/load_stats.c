/* Buckets by the leading bits of a count of nanoseconds. */
#include "server/cli/load/load_stats.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/base/splitmix.h"
#include "server/cli/client/client_dialect.h"

const char *const cli_load_time_names[] = {"time to first token", "between tokens", "whole request",
                                           "queue, as the server says"};
const char *const cli_load_time_keys[] = {"ttft_ms", "inter_token_ms", "request_ms", "queue_ms"};

/* Below 256 ns one bucket each; above, the octave and the 7 bits after the leading one. */
static size_t bucket_of(uint64_t ns) {
    if (ns < 256)
        return (size_t)ns;
    unsigned octave = 63u - (unsigned)__builtin_clzll(ns);
    size_t i =
        256 + (octave - 8) * (size_t)CLI_HIST_FINE + (size_t)(ns >> (octave - 7)) - CLI_HIST_FINE;
    return i < CLI_HIST_BUCKETS ? i : CLI_HIST_BUCKETS - 1;
}

double cli_hist_edge(size_t i) {
    if (i < 256)
        return 1e-9 * (double)(i + 1);
    size_t octave = (i - 256) / CLI_HIST_FINE, fine = (i - 256) % CLI_HIST_FINE;
    return 1e-9 * ldexp((double)(CLI_HIST_FINE + fine + 1), (int)octave + 1);
}

void cli_hist_add(cli_hist *h, double seconds) {
    double ns = seconds > 0 ? seconds * 1e9 : 0;
    h->bucket[bucket_of(ns < 1e18 ? (uint64_t)ns : (uint64_t)1e18)]++;
    h->count++;
    h->sum += seconds > 0 ? seconds : 0;
    h->largest = seconds > h->largest ? seconds : h->largest;
}

double cli_hist_mean(const cli_hist *h) {
    return h->count ? h->sum / (double)h->count : 0;
}

double cli_hist_percentile(const cli_hist *h, double p) {
    double want = ceil(p * (double)h->count);
    uint64_t rank = want > 1 ? (uint64_t)want : 1, seen = 0;
    for (size_t i = 0; i < CLI_HIST_BUCKETS && h->count; i++) {
        seen += h->bucket[i];
        if (seen < rank)
            continue;
        double low = i ? cli_hist_edge(i - 1) : 0, mid = (low + cli_hist_edge(i)) / 2;
        return mid < h->largest ? mid : h->largest;
    }
    return h->largest;
}

size_t cli_points_count(const cli_points *p) {
    return p->seen < CLI_LOAD_POINTS ? (size_t)p->seen : CLI_LOAD_POINTS;
}

void cli_points_add(cli_points *p, double x, double y) {
    uint64_t at = p->seen++;
    if (at >= CLI_LOAD_POINTS)
        at = tnl_splitmix_next(&p->seed) % p->seen;
    if (at < CLI_LOAD_POINTS) {
        p->x[at] = (float)x;
        p->y[at] = (float)y;
    }
}

void cli_load_stats_error(cli_load_stats *s, const char *label, const char *message) {
    int i = 0;
    while (i < s->n_errors && strcmp(s->errors[i].label, label) != 0)
        i++;
    if (i == CLI_LOAD_ERRORS) { /* the last place is for the rest */
        i--;
        snprintf(s->errors[i].label, sizeof s->errors[i].label, "others");
    } else if (i == s->n_errors) {
        s->n_errors++;
        cli_copy_line(s->errors[i].label, sizeof s->errors[i].label, label);
        cli_copy_line(s->errors[i].message, sizeof s->errors[i].message, message);
    }
    s->errors[i].count++;
}
