/* tnl bench --prefix: a long document and ten questions about it, each a request of its own:
 * document, question, a few tokens of answer. The first reads the document, the others begin with a
 * state that it left behind. At the end the first question is asked again: answered from a known
 * prefix, it must say what it said when everything was read. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/splitmix.h"
#include "server/cli/bench/bench_engine.h"
#include "server/engine/engine.h"

enum { QUESTIONS = 10, QUESTION = 32, ANSWER = 16 };

typedef struct asked {
    double first_token_ms;
    int64_t cached;
    int32_t answer[ANSWER];
} asked;

typedef struct task {
    const bench_engine_opts *o;
    eng_engine *engine;
    eng_params *params;
    int32_t *prompt; /* [document + QUESTION] */
    int64_t document;
    asked asked[QUESTIONS + 1];
} task;

static void fill(const task *t, int32_t *ids, int64_t n, uint64_t seed) {
    uint64_t vocab = (uint64_t)mdl_model_spec(t->o->model)->vocab;
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)(tnl_splitmix_next(&seed) % vocab);
}

/* Question i; the last one is the first again. */
static tnl_status ask(task *t, int i, tnl_error *err) {
    eng_request *r;
    eng_event ev = {0};
    asked *a = &t->asked[i];
    fill(t, t->prompt + t->document, QUESTION, t->o->seed + 1 + (uint64_t)(i % QUESTIONS));
    const eng_job job = {
        .tokens = t->prompt, .n_tokens = (size_t)(t->document + QUESTION), .params = t->params};
    TNL_TRY(eng_submit(&r, t->engine, &job, err));
    while (ev.kind != ENG_EV_DONE) {
        eng_event_clear(&ev);
        (void)eng_request_wait(r, &ev, -1);
        if (ev.kind == ENG_EV_TOKEN)
            a->answer[ev.index] = ev.id;
    }
    eng_request_release(r);
    if (ev.finish == ENG_FINISH_ERROR)
        return tnl_fail(err, ev.error, "a request ended with an error: %s",
                        tnl_status_str(ev.error));
    a->first_token_ms = ev.queue_ms + ev.prefill_ms;
    a->cached = ev.cached_tokens;
    return TNL_OK;
}

static void print_asked(const task *t, int i) {
    const asked *a = &t->asked[i];
    double share = a->first_token_ms / t->asked[0].first_token_ms;
    if (t->o->json)
        printf("{\"test\":\"prefix\",\"document\":%" PRId64
               ",\"question\":%d,\"first_token_ms\":%.3f,\"share_of_first\":%.5f,"
               "\"cached_tokens\":%" PRId64 "}\n",
               t->document, i + 1, a->first_token_ms, share, a->cached);
    else
        printf("%8d %16.2f %14.3f%% %10" PRId64 "%s\n", i + 1, a->first_token_ms, 100 * share,
               a->cached, i == QUESTIONS ? "   the first again: same answer" : "");
    fflush(stdout);
}

static void print_head(const task *t) {
    if (!t->o->json)
        printf("\ndocument of %" PRId64 " tokens, questions of %d\n%8s %16s %15s %10s\n",
               t->document, QUESTION, "question", "first token, ms", "of the first", "cached");
}

static void print_cache(const task *t) {
    eng_metrics m;
    eng_metrics_get(t->engine, &m);
    if (t->o->json)
        printf("{\"test\":\"prefix_cache\",\"states\":%" PRId64 ",\"bytes\":%zu}\n",
               m.prefix_states, m.prefix_bytes);
    else
        printf("kept: %" PRId64 " states, %.1f MB\n", m.prefix_states,
               (double)m.prefix_bytes / 1e6);
}

static tnl_status ask_all(task *t, tnl_error *err) {
    print_head(t);
    fill(t, t->prompt, t->document, t->o->seed);
    for (int i = 0; i <= QUESTIONS; i++) {
        TNL_TRY(ask(t, i, err));
        if (i == QUESTIONS &&
            memcmp(t->asked[0].answer, t->asked[i].answer, sizeof t->asked[0].answer) != 0)
            return tnl_fail(err, TNL_E_INTERNAL, "a known prefix has changed an answer");
        print_asked(t, i);
    }
    print_cache(t);
    return TNL_OK;
}

static tnl_status open_task(task *t, tnl_error *err) {
    eng_open_params p;
    t->params = calloc(1, sizeof *t->params);
    t->prompt = calloc((size_t)(t->document + QUESTION), sizeof *t->prompt);
    if (!t->params || !t->prompt)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    eng_params_default(t->params);
    t->params->max_tokens = ANSWER;
    t->params->temperature = 0;
    t->params->ignore_eos = true;
    eng_open_params_default(&p);
    p.model = t->o->model;
    p.parallel = 1;
    p.step_tokens = t->o->step_tokens;
    p.max_prompt_tokens = t->document + QUESTION;
    return eng_open(&t->engine, &p, err);
}

tnl_status bench_prefix(const bench_engine_opts *o, int64_t document, tnl_error *err) {
    task *t = calloc(1, sizeof *t);
    if (!t)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    t->o = o;
    t->document = document;
    tnl_status s = open_task(t, err);
    if (s == TNL_OK)
        s = ask_all(t, err);
    eng_close(t->engine);
    free(t->params);
    free(t->prompt);
    free(t);
    return s;
}
