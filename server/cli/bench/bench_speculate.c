/* tnl bench --speculate: what guessing ahead gains on text that repeats itself, and costs on text
 * that does not. Kinds of text:
 *   loop     a prompt of tokens at random, said three times, continued with the likeliest token,
 *            penalties off: what repeats, and how much, is up to the model
 *   sample   the same prompt said once, continued at temperature 1
 *   chance   the worst case: answers drawn from 32 tokens at random, so that every pair of tokens
 *            has been said before, and what followed means nothing
 * Each is run without and with guesses in turns, since a shared machine changes its speed. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/splitmix.h"
#include "server/cli/bench/bench_engine.h"
#include "server/engine/engine.h"

enum { PROMPT = 96, TIMES = 3, ALPHABET = 32, MAX_TURNS = 99 };

typedef enum kind { LOOP, SAMPLE, CHANCE, N_KINDS } kind;

static const char *const kind_names[N_KINDS] = {"loop", "sample", "chance"};

typedef struct turn {
    double tokens_per_s[2]; /* without, with */
    double ratio;
} turn;

typedef struct task {
    const bench_engine_opts *o;
    eng_engine *engine[2]; /* without, with */
    eng_params *params;
    int32_t *prompt;
    int64_t n_prompt, n_answer;
    int32_t *answer[2]; /* [params->max_tokens] */
    turn turns[MAX_TURNS];
} task;

/* ---- texts ---- */

static int32_t random_token(const task *t, uint64_t *g) {
    return (int32_t)(tnl_splitmix_next(g) % (uint64_t)mdl_model_spec(t->o->model)->vocab);
}

static void make_text(task *t, kind k, int64_t tokens) {
    uint64_t g = t->o->seed;
    eng_params *p = t->params;
    eng_params_default(p);
    p->max_tokens = tokens;
    p->ignore_eos = true;
    p->has_seed = true;
    p->seed = g;
    p->temperature = k == LOOP ? 0 : 1;
    t->n_prompt = k == LOOP ? TIMES * PROMPT : PROMPT;
    for (int64_t i = 0; i < t->n_prompt; i++)
        t->prompt[i] = i < PROMPT ? random_token(t, &g) : t->prompt[i - PROMPT];
    if (k != CHANCE)
        return;
    p->n_bias = ALPHABET;
    for (int i = 0; i < ALPHABET; i++) {
        p->bias_id[i] = t->prompt[i];
        p->bias[i] = 100;
    }
    p->temperature = 100; /* so that these few are nearly alike */
}

/* ---- runs ---- */

static void keep_answer(task *t, int which, const eng_event *ev) {
    t->answer[which][ev->index] = ev->id;
    t->n_answer = ev->index + 1;
}

static tnl_status run_one(task *t, int which, double *tokens_per_s, tnl_error *err) {
    const eng_job job = {.tokens = t->prompt, .n_tokens = (size_t)t->n_prompt, .params = t->params};
    eng_request *r;
    eng_event ev = {0};
    TNL_TRY(eng_submit(&r, t->engine[which], &job, err));
    while (ev.kind != ENG_EV_DONE) {
        eng_event_clear(&ev);
        (void)eng_request_wait(r, &ev, -1);
        if (ev.kind == ENG_EV_TOKEN)
            keep_answer(t, which, &ev);
    }
    eng_request_release(r);
    if (ev.finish == ENG_FINISH_ERROR)
        return tnl_fail(err, ev.error, "a request ended with an error: %s",
                        tnl_status_str(ev.error));
    *tokens_per_s = 1e3 * (double)(ev.completion_tokens - 1) / ev.decode_ms;
    return TNL_OK;
}

static tnl_status run_turn(task *t, int i, tnl_error *err) {
    turn *u = &t->turns[i];
    for (int k = 0; k < 2; k++) {
        int which = (i + k) % 2; /* who goes first changes */
        TNL_TRY(run_one(t, which, &u->tokens_per_s[which], err));
    }
    u->ratio = u->tokens_per_s[1] / u->tokens_per_s[0];
    if (memcmp(t->answer[0], t->answer[1], (size_t)t->n_answer * sizeof *t->answer[0]) != 0)
        return tnl_fail(err, TNL_E_INTERNAL, "the answers differ with and without guesses");
    return TNL_OK;
}

/* ---- results ---- */

static int by_ratio(const void *a, const void *b) {
    double x = ((const turn *)a)->ratio, y = ((const turn *)b)->ratio;
    return (x > y) - (x < y);
}

static double best(const task *t, int n, int which) {
    double x = 0;
    for (int i = 0; i < n; i++)
        x = t->turns[i].tokens_per_s[which] > x ? t->turns[i].tokens_per_s[which] : x;
    return x;
}

typedef struct result {
    const char *text;
    int64_t tokens;
    turn mid; /* of the median ratio */
    double best[2], ratio_of_bests;
    double checked, agreed; /* guesses, per token of the answer */
} result;

static result result_of(task *t, kind k, int n, const eng_metrics *was) {
    eng_metrics is;
    eng_metrics_get(t->engine[1], &is);
    double all = (double)(is.generated_tokens - was->generated_tokens);
    result r = {.text = kind_names[k], .tokens = t->params->max_tokens};
    for (int which = 0; which < 2; which++)
        r.best[which] = best(t, n, which);
    r.ratio_of_bests = r.best[1] / r.best[0];
    r.checked = (double)(is.drafted_tokens - was->drafted_tokens) / all;
    r.agreed = (double)(is.accepted_tokens - was->accepted_tokens) / all;
    qsort(t->turns, (size_t)n, sizeof t->turns[0], by_ratio);
    r.mid = t->turns[n / 2];
    return r;
}

static void print_result(const bench_engine_opts *o, const result *r) {
    const double *mid = r->mid.tokens_per_s;
    if (o->json)
        printf("{\"test\":\"speculate\",\"text\":\"%s\",\"tokens\":%" PRId64
               ",\"tokens_per_s_without\":%.2f,\"tokens_per_s_with\":%.2f,\"ratio\":%.4f,"
               "\"best_without\":%.2f,\"best_with\":%.2f,\"ratio_of_bests\":%.4f,"
               "\"checked\":%.4f,\"true\":%.4f}\n",
               r->text, r->tokens, mid[0], mid[1], r->mid.ratio, r->best[0], r->best[1],
               r->ratio_of_bests, r->checked, r->agreed);
    else
        printf("%-8s %7" PRId64 " %10.2f %10.2f %6.3f %11.2f %10.2f %6.3f %9.3f %9.3f\n", r->text,
               r->tokens, mid[0], mid[1], r->mid.ratio, r->best[0], r->best[1], r->ratio_of_bests,
               r->checked, r->agreed);
    fflush(stdout);
}

static void print_head(const bench_engine_opts *o, int speculate) {
    if (!o->json)
        printf("\ntokens/s of one sequence without guesses and with up to %d: turn of the median "
               "ratio, then the best turns.\nguesses checked and true, per token of the answer\n"
               "%-8s %7s %10s %10s %6s %11s %10s %6s %9s %9s\n",
               speculate, "text", "tokens", "without", "with", "ratio", "best: w/o", "with",
               "ratio", "checked", "true");
}

static tnl_status measure(task *t, kind k, int64_t tokens, tnl_error *err) {
    eng_metrics was;
    int n = t->o->repeats < MAX_TURNS ? (int)t->o->repeats : MAX_TURNS;
    make_text(t, k, tokens);
    TNL_TRY(run_turn(t, 0, err)); /* warms up */
    eng_metrics_get(t->engine[1], &was);
    for (int i = 0; i < n; i++)
        TNL_TRY(run_turn(t, i, err));
    const result r = result_of(t, k, n, &was);
    print_result(t->o, &r);
    return TNL_OK;
}

static tnl_status open_task(task *t, int speculate, int64_t tokens, tnl_error *err) {
    t->params = calloc(1, sizeof *t->params);
    t->prompt = calloc(TIMES * PROMPT, sizeof *t->prompt);
    for (int i = 0; i < 2; i++)
        t->answer[i] = calloc((size_t)tokens, sizeof *t->answer[i]);
    if (!t->params || !t->prompt || !t->answer[0] || !t->answer[1])
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    for (int i = 0; i < 2; i++) {
        eng_open_params p;
        eng_open_params_default(&p);
        p.model = t->o->model;
        p.parallel = 1;
        p.step_tokens = t->o->step_tokens;
        p.speculate = i == 0 ? 0 : speculate;
        p.prefix_cache = 0;
        TNL_TRY(eng_open(&t->engine[i], &p, err));
    }
    return TNL_OK;
}

tnl_status bench_speculate(const bench_engine_opts *o, int speculate, int64_t tokens,
                           tnl_error *err) {
    task *t = calloc(1, sizeof *t);
    if (!t)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    t->o = o;
    tnl_status s = open_task(t, speculate, tokens, err);
    if (s == TNL_OK)
        print_head(o, speculate);
    for (int k = 0; k < N_KINDS && s == TNL_OK; k++)
        s = measure(t, (kind)k, tokens, err);
    for (int i = 0; i < 2; i++) {
        eng_close(t->engine[i]);
        free(t->answer[i]);
    }
    free(t->params);
    free(t->prompt);
    free(t);
    return s;
}
