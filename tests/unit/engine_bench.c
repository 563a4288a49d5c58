/* See engine_bench.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <unistd.h>

#include "engine_bench.h"

static uint64_t settled(const eng_metrics *m) {
    uint64_t sum = 0;
    for (int i = 0; i <= ENG_FINISH_ERROR; i++)
        sum += m->finished[i];
    return sum;
}

/* accepted = ended + running + queued, at any moment */
void check_identity(eng_engine *e) {
    eng_metrics m;
    eng_metrics_get(e, &m);
    assert_int_equal(m.accepted, settled(&m) + (uint64_t)m.running + (uint64_t)m.queued);
    assert_int_equal(m.finished[ENG_FINISH_CANCELLED],
                     m.cancelled_queue + m.cancelled_prefill + m.cancelled_decode);
}

/* ---- answers ---- */

static void add_event(answer *a, const eng_event *ev) {
    assert_true(a->n < ANSWER_MAX);
    assert_int_equal(ev->index, a->n);
    a->id[a->n] = ev->id;
    a->logprob[a->n] = ev->logprob;
    a->first_alt[a->n] = ev->n_alts > 0 ? ev->alts[0] : (eng_alt){-1, 0};
    a->n_prompt_events += ev->prompt;
    a->n++;
    assert_true(a->text_len + ev->text_len < sizeof a->text);
    if (ev->text_len > 0)
        memcpy(a->text + a->text_len, ev->text, ev->text_len);
    a->text_len += ev->text_len;
    a->text[a->text_len] = '\0';
}

answer *read_all(eng_request *r) {
    answer *a = calloc(1, sizeof *a);
    assert_non_null(a);
    eng_event ev;
    while (eng_request_wait(r, &ev, -1)) {
        if (ev.kind == ENG_EV_DONE) {
            a->done = ev;
            break;
        }
        add_event(a, &ev);
        eng_event_clear(&ev);
    }
    assert_int_equal(a->done.kind, ENG_EV_DONE);
    assert_int_equal(a->done.completion_tokens, a->n - a->n_prompt_events);
    assert_true(a->done.queue_ms >= 0 && a->done.prefill_ms >= 0 && a->done.decode_ms >= 0);
    assert_false(eng_request_poll(r, &ev)); /* done comes once */
    assert_false(eng_request_wait(r, &ev, -1));
    return a;
}

eng_request *submit(bench *b, const eng_params *p, const int32_t *tokens, size_t n) {
    return submit_as(b, 0, p, tokens, n);
}

eng_request *submit_as(bench *b, uint64_t key, const eng_params *p, const int32_t *tokens,
                       size_t n) {
    tnl_error err = {0};
    eng_request *r = NULL;
    const eng_job job = {.tokens = tokens, .n_tokens = n, .key = key, .params = p};
    tnl_status st = eng_submit(&r, b->e, &job, &err);
    if (st != TNL_OK)
        print_message("submit: %s\n", err.msg);
    assert_int_equal(st, TNL_OK);
    return r;
}

answer *run_one(bench *b, const eng_params *p, const int32_t *tokens, size_t n) {
    eng_request *r = submit(b, p, tokens, n);
    answer *a = read_all(r);
    eng_request_release(r);
    check_identity(b->e);
    return a;
}

bool same_floats(const float *a, const float *b, int64_t n) {
    return memcmp(a, b, (size_t)n * sizeof *a) == 0;
}

void assert_same_answer(const answer *a, const answer *b) {
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->id, b->id, (size_t)a->n * sizeof a->id[0]);
    assert_true(same_floats(a->logprob, b->logprob, a->n));
    assert_memory_equal(a->first_alt, b->first_alt, (size_t)a->n * sizeof a->first_alt[0]);
    assert_int_equal(a->text_len, b->text_len);
    assert_memory_equal(a->text, b->text, a->text_len);
    assert_int_equal(a->done.finish, b->done.finish);
}

void greedy_params(eng_params *p, int64_t max_tokens) {
    eng_params_default(p);
    p->temperature = 0;
    p->max_tokens = max_tokens;
}

void wait_running(bench *b, int running, int queued) {
    eng_metrics m;
    do {
        usleep(200);
        eng_metrics_get(b->e, &m);
    } while (m.running != running || m.queued != queued);
}

uint64_t next_random(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

void random_spec(spec *sp, uint64_t *g) {
    static const char *const stops[] = {"qq", "ab", "xyz", "m"};
    sp->n = 1 + (size_t)(next_random(g) % (next_random(g) % 4 ? 40 : 1200));
    for (size_t i = 0; i < sp->n; i++)
        sp->tokens[i] = (int32_t)(next_random(g) % (FAKE_BREAK - 1)) + 1;
    size_t period = 1 + (size_t)(next_random(g) % 40);
    for (size_t i = period; i < sp->n && period > 8; i++)
        if (next_random(g) % 9) /* repeats itself, but not faithfully */
            sp->tokens[i] = sp->tokens[i - period];
    eng_params_default(&sp->p);
    sp->p.max_tokens = (int64_t)(next_random(g) % 60);
    sp->p.temperature = (float)(next_random(g) % 3) * 0.6f;
    sp->p.top_k = next_random(g) % 2 ? (int32_t)(next_random(g) % 50) : 0;
    sp->p.top_p = next_random(g) % 2 ? 0.8f : 1.0f;
    sp->p.repetition_penalty = next_random(g) % 2 ? 1.2f : 1.0f;
    sp->p.presence_penalty = next_random(g) % 2 ? 0.5f : 0.0f;
    sp->p.seed = next_random(g);
    sp->p.has_seed = true;
    sp->p.logprobs = (int)(next_random(g) % 4);
    sp->p.echo = next_random(g) % 5 == 0;
    sp->p.speculate = next_random(g) % 3 ? -1 : (int)(next_random(g) % 20);
    sp->p.ignore_eos = next_random(g) % 2 == 0;
#ifdef TNL_HAVE_TOKENIZER
    sp->p.n_stop = next_random(g) % 3 == 0;
#endif
    if (sp->p.n_stop)
        snprintf(sp->p.stop[0], sizeof sp->p.stop[0], "%s", stops[next_random(g) % 4]);
}
