/* What a load run says at its end: a table for people, a line of JSON, a row of a sweep. */
#include <inttypes.h>
#include <string.h>

#include "server/cli/cli.h"
#include "server/cli/load/load.h"

static const double shares[] = {0.5, 0.9, 0.99};
static const char *const share_names[] = {"p50", "p90", "p99"};
enum { N_SHARES = 3 };

static double per_second(const cli_load_stats *s, uint64_t n) {
    return s->seconds > 0 ? (double)n / s->seconds : 0;
}

void cli_load_csv_head(FILE *f) {
    fputs("due_s,sent_s,outcome,http,prompt_tokens,cached_tokens,tokens,queue_ms,ttft_ms,"
          "gap_mean_ms,gap_max_ms,total_ms\n",
          f);
}

static void table_times(FILE *f, const cli_load_stats *s) {
    if (!s->time[CLI_LOAD_TTFT].count)
        return;
    fprintf(f, "%-26s%9s%9s%9s%9s%9s\n", "milliseconds", "mean", "p50", "p90", "p99", "max");
    for (int i = 0; i < CLI_LOAD_TIMES; i++) {
        const cli_hist *h = &s->time[i];
        if (!h->count)
            continue;
        fprintf(f, "  %-24s%9.2f", cli_load_time_names[i], 1000 * cli_hist_mean(h));
        for (int k = 0; k < N_SHARES; k++)
            fprintf(f, "%9.2f", 1000 * cli_hist_percentile(h, shares[k]));
        fprintf(f, "%9.2f\n", 1000 * h->largest);
    }
}

static void table_tokens(FILE *f, const cli_load_stats *s) {
    fprintf(f, "throughput    %.2f requests/s, %.1f generated tokens/s", per_second(s, s->ok),
            per_second(s, s->tokens));
    if (s->knows_prompt)
        fprintf(f, ", %.1f prompt tokens/s", per_second(s, s->prompt_tokens));
    if (s->knows_cached && s->prompt_tokens)
        fprintf(f, " (%.0f%% cached)", 100 * (double)s->cached_tokens / (double)s->prompt_tokens);
    fputc('\n', f);
}

void cli_load_table(FILE *f, const cli_load_plan *p, const cli_load_stats *s) {
    if (p->rate > 0)
        fprintf(f, "open loop, %.6g requests/s, at most %" PRId64 " at a time", p->rate,
                p->clients);
    else
        fprintf(f, "closed loop, %" PRId64 " client%s", p->clients, p->clients == 1 ? "" : "s");
    fprintf(f, ", %s, seed %" PRIu64 ", %.2f s\n\n", cli_dialects[p->dialect].path, p->seed,
            s->seconds);
    fprintf(f,
            "requests      %" PRIu64 " answered, %" PRIu64 " failed, %" PRIu64
            " cancelled by the client\n",
            s->ok, s->failed, s->cancelled);
    for (int i = 0; i < s->n_errors; i++)
        fprintf(f, "  %8" PRIu64 "  %s%s%s\n", s->errors[i].count, s->errors[i].label,
                *s->errors[i].message ? ": " : "", s->errors[i].message);
    table_tokens(f, s);
    if (s->late)
        fprintf(f,
                "late          %" PRIu64
                " requests began over 10 ms after they were due, %.2f s at most (no "
                "free\n              connection, or this machine was busy); the wait counts\n",
                s->late, s->latest);
    if (s->unsent)
        fprintf(f,
                "unsent        about %" PRIu64 " requests were due, but no connection was free "
                "until the end:\n              the server does not sustain this rate\n",
                s->unsent);
    fputc('\n', f);
    table_times(f, s);
}

static void json_times(FILE *f, const cli_load_stats *s) {
    for (int i = 0; i < CLI_LOAD_TIMES; i++) {
        const cli_hist *h = &s->time[i];
        if (!h->count) {
            fprintf(f, ",\"%s\":null", cli_load_time_keys[i]);
            continue;
        }
        fprintf(f, ",\"%s\":{\"count\":%" PRIu64 ",\"mean\":%.4f", cli_load_time_keys[i], h->count,
                1000 * cli_hist_mean(h));
        for (int k = 0; k < N_SHARES; k++)
            fprintf(f, ",\"%s\":%.4f", share_names[k], 1000 * cli_hist_percentile(h, shares[k]));
        fprintf(f, ",\"max\":%.4f}", 1000 * h->largest);
    }
}

void cli_load_json(FILE *f, const cli_load_plan *p, const cli_load_stats *s) {
    fprintf(f,
            "{\"loop\":\"%s\",\"clients\":%" PRId64 ",\"rate\":%.9g,\"dialect\":\"%s\","
            "\"seed\":%" PRIu64 ",\"seconds\":%.4f",
            p->rate > 0 ? "open" : "closed", p->clients, p->rate, cli_dialects[p->dialect].name,
            p->seed, s->seconds);
    fprintf(f,
            ",\"answered\":%" PRIu64 ",\"failed\":%" PRIu64 ",\"cancelled\":%" PRIu64
            ",\"late\":%" PRIu64 ",\"unsent\":%" PRIu64 ",\"latest_s\":%.4f,\"errors\":{",
            s->ok, s->failed, s->cancelled, s->late, s->unsent, s->latest);
    for (int i = 0; i < s->n_errors; i++) {
        fputs(i ? "," : "", f);
        cli_json_string(f, s->errors[i].label, strlen(s->errors[i].label));
        fprintf(f, ":%" PRIu64, s->errors[i].count);
    }
    fprintf(f,
            "},\"generated_tokens\":%" PRIu64 ",\"requests_per_s\":%.4f,"
            "\"generated_tokens_per_s\":%.4f",
            s->tokens, per_second(s, s->ok), per_second(s, s->tokens));
    if (s->knows_prompt)
        fprintf(f, ",\"prompt_tokens\":%" PRIu64 ",\"prompt_tokens_per_s\":%.4f", s->prompt_tokens,
                per_second(s, s->prompt_tokens));
    if (s->knows_cached)
        fprintf(f, ",\"cached_tokens\":%" PRIu64, s->cached_tokens);
    json_times(f, s);
    fputs("}\n", f);
}

void cli_load_sweep_head(FILE *f) {
    fprintf(f, "%8s%10s%8s%10s%10s%11s%11s%10s%10s\n", "clients", "answered", "failed", "req/s",
            "tokens/s", "first p50", "first p99", "gap p50", "gap p99");
}

void cli_load_sweep_row(FILE *f, const cli_load_plan *p, const cli_load_stats *s) {
    const cli_hist *first = &s->time[CLI_LOAD_TTFT], *gap = &s->time[CLI_LOAD_GAP];
    fprintf(f,
            "%8" PRId64 "%10" PRIu64 "%8" PRIu64 "%10.2f%10.1f%8.2f ms%8.2f ms%7.2f ms%7.2f ms\n",
            p->clients, s->ok, s->failed, per_second(s, s->ok), per_second(s, s->tokens),
            1000 * cli_hist_percentile(first, 0.5), 1000 * cli_hist_percentile(first, 0.99),
            1000 * cli_hist_percentile(gap, 0.5), 1000 * cli_hist_percentile(gap, 0.99));
    fflush(f);
}
