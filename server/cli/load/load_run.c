/* The run: who is due, who is under way, what they see.
 *
 * Memory is a slot for each client. In open loop the arrivals are a sequence of times computed one
 * after another: a backlog is nothing but a next time that lies in the past. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/splitmix.h"
#include "server/cli/load/load.h"
#include "server/cli/progress.h"

static const double PAUSE = 0.1; /* a client of the closed loop whose request failed waits */
static const double LATE = 0.01, TICK = 0.2;

typedef struct run run;

typedef struct slot {
    run *r;
    cli_call *call;
    srv_buf prompt, body;
    cli_splitter split;
    double due, sent, first, last, gap_sum, gap_max, ready;
    int64_t tokens, leave_after; /* 0: stays */
    bool ended, left, broken;
    int64_t prompt_tokens, cached_tokens, completion_tokens;
    double queue_ms;
    char label[48], message[256]; /* of what broke */
} slot;

struct run {
    const cli_load_plan *plan;
    cli_load_stats *out;
    slot *slots;
    slot **idle;   /* [clients], a stack */
    slot **paused; /* [clients], a ring, soonest first: all wait equally long */
    size_t n_slots, n_idle, n_paused, paused_at;
    uint64_t state; /* of the random numbers */
    double begin, end, next_due, shown;
    uint64_t sent;
    tnl_status status;
    tnl_error err;
};

static double uniform(run *r) { /* in (0, 1] */
    return ((double)(tnl_splitmix_next(&r->state) >> 11) + 1) * 0x1p-53;
}

/* ---- one request ---- */

static void take_token(slot *s, double now) {
    cli_hist *h = s->r->out->time;
    if (s->tokens++ == 0) {
        s->first = now;
        cli_hist_add(&h[CLI_LOAD_TTFT], now - s->due);
        cli_points_add(&s->r->out->over_time, s->due - s->r->begin, now - s->due);
    } else {
        double gap = now - s->last;
        cli_hist_add(&h[CLI_LOAD_GAP], gap);
        s->gap_sum += gap;
        s->gap_max = gap > s->gap_max ? gap : s->gap_max;
    }
    s->last = now;
}

static void note_break(slot *s, const char *label, const char *message) {
    s->broken = true;
    cli_copy_line(s->label, sizeof s->label, label);
    cli_copy_line(s->message, sizeof s->message, message);
}

static void take_usage(slot *s, const cli_piece *p) {
    s->prompt_tokens = p->prompt_tokens >= 0 ? p->prompt_tokens : s->prompt_tokens;
    s->cached_tokens = p->cached_tokens >= 0 ? p->cached_tokens : s->cached_tokens;
    s->completion_tokens = p->completion_tokens >= 0 ? p->completion_tokens : s->completion_tokens;
    s->queue_ms = p->queue_ms >= 0 ? p->queue_ms : s->queue_ms;
}

static tnl_status take_item(void *user, const char *item, size_t n, tnl_error *err) {
    slot *s = user;
    cli_piece p;
    if (s->ended)
        return TNL_OK;
    TNL_TRY(cli_piece_read(&p, s->r->plan->dialect, item, n, err));
    if (*p.problem)
        note_break(s, p.problem, p.message);
    if (p.tokens)
        take_token(s, cli_now());
    take_usage(s, &p);
    s->ended = p.last;
    cli_piece_clear(&p);
    return TNL_OK;
}

static bool on_data(void *user, const char *bytes, size_t n) {
    slot *s = user;
    tnl_error err = {0};
    if (cli_splitter_feed(&s->split, bytes, n, take_item, s, &err) != TNL_OK)
        note_break(s, "bad stream", err.msg);
    s->left = !s->broken && !s->ended && s->leave_after && s->tokens >= s->leave_after;
    return !s->broken && !s->left;
}

static void write_row(const slot *s, const char *outcome, double now, int code) {
    FILE *f = s->r->plan->csv;
    if (!f)
        return;
    double gap = s->tokens > 1 ? s->gap_sum / (double)(s->tokens - 1) : 0;
    fprintf(f, "%.6f,%.6f,%s,%d,%lld,%lld,%lld,%.3f,%.3f,%.3f,%.3f,%.3f\n", s->due - s->r->begin,
            s->sent - s->r->begin, outcome, code, (long long)s->prompt_tokens,
            (long long)s->cached_tokens, (long long)s->tokens, s->queue_ms,
            s->tokens ? 1000 * (s->first - s->due) : -1.0, 1000 * gap, 1000 * s->gap_max,
            1000 * (now - s->due));
}

static void count_tokens(cli_load_stats *out, const slot *s) {
    int64_t said = s->completion_tokens;
    out->tokens += (uint64_t)(said >= 0 ? said : s->tokens);
    if (s->prompt_tokens >= 0) {
        out->prompt_tokens += (uint64_t)s->prompt_tokens;
        out->knows_prompt = true;
    }
    if (s->cached_tokens >= 0) {
        out->cached_tokens += (uint64_t)s->cached_tokens;
        out->knows_cached = true;
    }
}

static void count_ok(slot *s, double now) {
    cli_load_stats *out = s->r->out;
    out->ok++;
    cli_hist_add(&out->time[CLI_LOAD_WHOLE], now - s->due);
    if (s->queue_ms >= 0)
        cli_hist_add(&out->time[CLI_LOAD_QUEUE], s->queue_ms / 1000);
}

static void rest(slot *s, bool failed, double now) {
    run *r = s->r;
    s->call = NULL;
    if (!failed || r->plan->rate > 0) {
        r->idle[r->n_idle++] = s;
        return;
    }
    s->ready = now + PAUSE;
    r->paused[(r->paused_at + r->n_paused++) % r->n_slots] = s;
}

static void on_done(void *user, const cli_ending *end) {
    slot *s = user;
    cli_load_stats *out = s->r->out;
    double now = cli_now();
    tnl_error err = {0};
    if (end->status == TNL_OK && !end->stopped &&
        cli_splitter_end(&s->split, take_item, s, &err) != TNL_OK)
        note_break(s, "bad stream", err.msg);
    if (!s->broken && !s->ended && !s->left)
        note_break(s, end->status ? end->label : "cut short",
                   end->status ? end->message : "the stream ended without its last item");
    bool failed = s->broken;
    if (failed) {
        out->failed++;
        cli_load_stats_error(out, s->label, s->message);
    } else if (s->left) {
        out->cancelled++;
    } else {
        count_ok(s, now);
    }
    count_tokens(out, s);
    write_row(s, failed ? s->label : s->left ? "cancelled" : "ok", now, end->code);
    s->r->end = now;
    rest(s, failed, now);
}

static void clear_slot(slot *s, double due, double now) {
    s->due = due;
    s->sent = now;
    s->first = s->last = s->gap_sum = s->gap_max = 0;
    s->tokens = s->leave_after = 0;
    s->ended = s->left = s->broken = false;
    s->prompt_tokens = s->cached_tokens = s->completion_tokens = -1;
    s->queue_ms = -1;
}

static tnl_status start(run *r, double due) {
    const cli_load_plan *p = r->plan;
    slot *s = r->idle[--r->n_idle];
    double now = cli_now();
    clear_slot(s, p->rate > 0 ? due : now, now);
    if (p->rate > 0 && now - due > LATE)
        r->out->late++;
    r->out->latest = fmax(r->out->latest, now - s->due);
    if (uniform(r) <= p->cancel)
        s->leave_after = 1 + (int64_t)(uniform(r) * (double)(p->max_tokens - 1));
    srv_buf_clear(&s->prompt);
    srv_buf_clear(&s->body);
    cli_prompts_write(&s->prompt, p->prompts, p->first + r->sent++);
    cli_ask ask = {.model = p->model,
                   .text = s->prompt.data,
                   .text_len = s->prompt.len,
                   .max_tokens = p->max_tokens,
                   .extra = p->extra};
    cli_ask_write(&s->body, p->dialect, &ask);
    if (s->prompt.failed || s->body.failed)
        return tnl_fail(&r->err, TNL_E_NOMEM, "out of memory for a prompt");
    cli_splitter_begin(&s->split, cli_dialects[p->dialect].framing);
    cli_sink sink = {.data = on_data, .done = on_done, .user = s};
    r->out->started++;
    return cli_call_start(&s->call, p->client, cli_dialects[p->dialect].path, s->body.data,
                          s->body.len, &sink, &r->err);
}

/* ---- the run ---- */

/* No further request begins. */
static bool closed(const run *r, double now) {
    const cli_load_plan *p = r->plan;
    double when = p->rate > 0 && r->next_due > now ? r->next_due : now;
    return (p->stop && *p->stop) || (p->requests && r->sent >= (uint64_t)p->requests) ||
           (p->seconds > 0 && when - r->begin >= p->seconds);
}

/* Open loop: what was due before the end and found no connection until then. */
static uint64_t count_unsent(const run *r) {
    const cli_load_plan *p = r->plan;
    double left = p->seconds - (r->next_due - r->begin);
    if (p->rate <= 0 || p->seconds <= 0 || left <= 0 || (p->stop && *p->stop) ||
        (p->requests && r->sent >= (uint64_t)p->requests))
        return 0;
    return 1 + (uint64_t)(left * p->rate);
}

static void wake_paused(run *r, double now) {
    while (r->n_paused && r->paused[r->paused_at]->ready <= now) {
        r->idle[r->n_idle++] = r->paused[r->paused_at];
        r->paused_at = (r->paused_at + 1) % r->n_slots;
        r->n_paused--;
    }
}

static tnl_status start_due(run *r) {
    double now = cli_now();
    wake_paused(r, now);
    bool open = r->plan->rate > 0;
    while (r->n_idle && (!open || r->next_due <= now) && !closed(r, now)) {
        TNL_TRY(start(r, r->next_due));
        if (open)
            r->next_due -= log(uniform(r)) / r->plan->rate;
    }
    return TNL_OK;
}

static double next_moment(const run *r) {
    double t = cli_now() + TICK;
    if (r->plan->rate > 0 && r->n_idle)
        t = fmin(t, r->next_due);
    if (r->n_paused)
        t = fmin(t, r->paused[r->paused_at]->ready);
    return t;
}

static size_t in_flight(const run *r) {
    return r->n_slots - r->n_idle - r->n_paused;
}

static void show(run *r, double now) {
    const cli_load_stats *s = r->out;
    if (!r->plan->progress || now - r->shown < TICK)
        return;
    double t = now - r->begin;
    uint64_t received = s->time[CLI_LOAD_TTFT].count + s->time[CLI_LOAD_GAP].count;
    fprintf(stderr,
            "\r%.0f s  %llu done, %llu failed, %zu under way  %.1f tokens/s  first token p50 %.1f "
            "ms\033[K",
            t, (unsigned long long)(s->ok + s->cancelled), (unsigned long long)s->failed,
            in_flight(r), t > 0 ? (double)received / t : 0,
            1000 * cli_hist_percentile(&s->time[CLI_LOAD_TTFT], 0.5));
    fflush(stderr);
    r->shown = now;
}

static tnl_status drive(run *r) {
    const cli_load_plan *p = r->plan;
    for (;;) {
        TNL_TRY(start_due(r));
        if ((closed(r, cli_now()) && in_flight(r) == 0) || (p->stop && *p->stop))
            return TNL_OK;
        cli_client_wait(p->client, next_moment(r));
        show(r, cli_now());
    }
}

static tnl_status open_run(run *r, tnl_error *err) {
    size_t n = (size_t)r->plan->clients;
    r->slots = calloc(n, sizeof *r->slots);
    r->idle = calloc(n, sizeof *r->idle);
    r->paused = calloc(n, sizeof *r->paused);
    if (!r->slots || !r->idle || !r->paused)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory for %zu clients", n);
    r->n_slots = n;
    for (size_t i = 0; i < n; i++) {
        r->slots[i].r = r;
        r->idle[r->n_idle++] = &r->slots[n - 1 - i];
    }
    return TNL_OK;
}

static void close_run(run *r) {
    for (size_t i = 0; i < r->n_slots; i++) {
        cli_call_cancel(r->slots[i].call);
        srv_buf_free(&r->slots[i].prompt);
        srv_buf_free(&r->slots[i].body);
        cli_splitter_free(&r->slots[i].split);
    }
    free(r->slots);
    free(r->idle);
    free(r->paused);
}

tnl_status cli_load_run(cli_load_stats *out, const cli_load_plan *plan, tnl_error *err) {
    memset(out, 0, sizeof *out);
    out->over_time.seed = plan->seed;
    run r = {.plan = plan, .out = out, .state = tnl_splitmix(plan->seed ^ 0x10ad)};
    tnl_status s = open_run(&r, &r.err);
    r.begin = r.end = cli_now();
    r.next_due = r.begin;
    if (s == TNL_OK)
        s = drive(&r);
    out->unsent = count_unsent(&r);
    out->seconds = (plan->stop && *plan->stop ? cli_now() : r.end) - r.begin;
    if (plan->progress && r.shown > 0)
        fputs("\r\033[K", stderr);
    close_run(&r);
    if (s != TNL_OK && err)
        *err = r.err;
    return s;
}
