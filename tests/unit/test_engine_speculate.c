/* Guessing ahead changes nothing: over a model that repeats itself, every answer is the same, bit
 * for bit, with and without, in any company, whatever is cancelled; and guesses do come true. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <unistd.h>

#include "engine_bench.h"

/* Guesses are worth a row at almost any chance. */
static void open_guessing(bench *b, int parallel, int64_t step_tokens, int speculate) {
    bench_open_guessing(b, parallel, 32, step_tokens, speculate, 0.001);
    fake_model_repeat(b->m, 23);
}

static eng_metrics metrics(bench *b) {
    eng_metrics m;
    eng_metrics_get(b->e, &m);
    return m;
}

/* ---- steps ---- */

static void a_loop_takes_few_steps(void **state) {
    (void)state;
    bench plain, guessing;
    eng_params p;
    const int32_t prompt[] = {9, 3, 7};
    greedy_params(&p, 400);
    p.ignore_eos = true;
    open_guessing(&plain, 1, 64, 0);
    open_guessing(&guessing, 1, 64, 15);
    answer *a = run_one(&plain, &p, prompt, 3), *b = run_one(&guessing, &p, prompt, 3);
    assert_same_answer(a, b);
    eng_metrics m = metrics(&plain);
    assert_int_equal(m.steps, 400);
    assert_int_equal(m.drafted_tokens, 0);
    m = metrics(&guessing);
    /* each step gives a token, and each guess that came true spares one */
    assert_int_equal(m.steps + m.accepted_tokens, 400);
    assert_true(m.drafted_tokens >= m.accepted_tokens);
    assert_true(m.steps < 80);
    free(a);
    free(b);
    bench_close(&plain);
    bench_close(&guessing);
}

/* What has been guessed after 100 further tokens with the request's wish. */
static eng_metrics with_wish(bench *b, int speculate) {
    static eng_params p; /* too large for the frame it would be inlined into */
    const int32_t prompt[] = {9, 3, 7};
    greedy_params(&p, 100);
    p.ignore_eos = true;
    p.speculate = speculate;
    free(run_one(b, &p, prompt, 3));
    return metrics(b);
}

/* The engine's limit bounds the request's wish. */
static void off_by_request_and_by_engine(void **state) {
    (void)state;
    bench b;
    open_guessing(&b, 1, 64, 15);
    assert_int_equal(with_wish(&b, 0).drafted_tokens, 0);
    eng_metrics m = with_wish(&b, 1);
    assert_true(m.accepted_tokens > 0);
    assert_true(m.accepted_tokens <= 50); /* one in a step */
    bench_close(&b);
    open_guessing(&b, 1, 64, 0);
    assert_int_equal(with_wish(&b, ENG_SPECULATE_MAX).drafted_tokens, 0);
    bench_close(&b);
}

static void wishes_out_of_range(void **state) {
    (void)state;
    bench b;
    eng_params p;
    eng_request *r;
    tnl_error err;
    const int32_t prompt[] = {9};
    const eng_job job = {.tokens = prompt, .n_tokens = 1, .params = &p};
    open_guessing(&b, 1, 64, 15);
    greedy_params(&p, 1);
    p.speculate = -2;
    assert_int_equal(eng_submit(&r, b.e, &job, &err), TNL_E_USAGE);
    p.speculate = ENG_SPECULATE_MAX + 1;
    assert_int_equal(eng_submit(&r, b.e, &job, &err), TNL_E_USAGE);
    bench_close(&b);
}

/* ---- the same answers ---- */

enum { SPECS = 60 };

static spec *random_specs(uint64_t *g) {
    spec *specs = calloc(SPECS, sizeof *specs);
    assert_non_null(specs);
    for (int i = 0; i < SPECS; i++) {
        random_spec(&specs[i], g);
        specs[i].p.max_tokens = 1 + (int64_t)(next_random(g) % 300);
    }
    return specs;
}

/* Some are cancelled on the way; the others must be as they are alone without guesses. */
static void run_crowd(bench *b, const spec *specs, answer *const *want, uint64_t *g) {
    eng_request *r[SPECS / 2];
    bool cancelled[SPECS / 2];
    for (int first = 0; first < SPECS; first += SPECS / 2) {
        for (int i = 0; i < SPECS / 2; i++) {
            const spec *sp = &specs[first + i];
            r[i] = submit(b, &sp->p, sp->tokens, sp->n);
            cancelled[i] = next_random(g) % 5 == 0;
            if (i > 0 && cancelled[i - 1])
                eng_request_cancel(r[i - 1]);
        }
        for (int i = 0; i < SPECS / 2; i++) {
            answer *a = read_all(r[i]);
            if (!cancelled[i])
                assert_same_answer(want[first + i], a);
            free(a);
            eng_request_release(r[i]);
        }
        check_identity(b->e);
    }
}

static void answers_are_the_same(void **state) {
    (void)state;
    static const int limits[] = {1, 4, 15, ENG_SPECULATE_MAX};
    bench plain;
    answer *want[SPECS];
    uint64_t g = 0x0DDBA11u, drafted = 0, accepted = 0;
    print_message("seed %llu\n", (unsigned long long)g);
    spec *specs = random_specs(&g);
    open_guessing(&plain, 1, 256, 0);
    for (int i = 0; i < SPECS; i++)
        want[i] = run_one(&plain, &specs[i].p, specs[i].tokens, specs[i].n);
    bench_close(&plain);
    for (int i = 0; i < 8; i++) {
        bench b;
        open_guessing(&b, 1 + i % 5, 6 + 40 * (i % 3), limits[i % 4]);
        run_crowd(&b, specs, want, &g);
        eng_metrics m = metrics(&b);
        drafted += m.drafted_tokens;
        accepted += m.accepted_tokens;
        assert_int_equal(m.finished[ENG_FINISH_ERROR], 0);
        bench_close(&b);
    }
    print_message("%llu guesses, %llu came true\n", (unsigned long long)drafted,
                  (unsigned long long)accepted);
    assert_true(accepted > 1000 && drafted > accepted);
    for (int i = 0; i < SPECS; i++)
        free(want[i]);
    free(specs);
}

/* A reader who falls behind: the ring bounds what a step may say. */
static void a_slow_reader(void **state) {
    (void)state;
    bench plain, guessing;
    eng_params p;
    const int32_t prompt[] = {9, 3, 7};
    greedy_params(&p, 1500);
    p.ignore_eos = true;
    p.logprobs = 2;
    open_guessing(&plain, 1, 64, 0);
    open_guessing(&guessing, 1, 64, 15);
    answer *a = run_one(&plain, &p, prompt, 3);
    eng_request *r = submit(&guessing, &p, prompt, 3);
    while (metrics(&guessing).paused == 0)
        usleep(200);
    answer *b = read_all(r);
    assert_same_answer(a, b);
    eng_request_release(r);
    free(a);
    free(b);
    bench_close(&plain);
    bench_close(&guessing);
}

/* A guess that makes a NaN ends nothing; only what the model says itself does. */
static void a_bad_guess_is_only_a_guess(void **state) {
    (void)state;
    enum { BAD = 290 };
    bench plain, guessing;
    eng_params p;
    int32_t prompt[] = {0, 0, BAD, 9, 3, 7};
    greedy_params(&p, 100);
    p.ignore_eos = true;
    open_guessing(&plain, 1, 64, 0);
    open_guessing(&guessing, 1, 64, 15);
    answer *a = run_one(&plain, &p, prompt + 3, 3);
    for (int i = 0; i < 100; i++)
        assert_int_not_equal(a->id[i], BAD);
    /* where the answer says these two, BAD is what followed before; there it was harmless */
    prompt[0] = a->id[0];
    prompt[1] = a->id[1];
    fake_model_bomb(plain.m, BAD, 6);
    fake_model_bomb(guessing.m, BAD, 6);
    answer *b = run_one(&plain, &p, prompt, 6), *c = run_one(&guessing, &p, prompt, 6);
    assert_memory_equal(a->id, b->id, 2 * sizeof a->id[0]);
    assert_same_answer(b, c);
    assert_int_equal(c->done.finish, ENG_FINISH_LENGTH);
    free(a);
    free(b);
    free(c);
    fake_model_bomb(plain.m, 7, 2); /* the prompt itself */
    fake_model_bomb(guessing.m, 7, 2);
    b = run_one(&guessing, &p, prompt + 3, 3);
    assert_int_equal(b->done.finish, ENG_FINISH_ERROR);
    assert_int_equal(b->done.error, TNL_E_NONFINITE);
    free(b);
    bench_close(&plain);
    bench_close(&guessing);
}

int main(void) {
    alarm(110);
    setenv("TNL_POISON", "1", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_loop_takes_few_steps), cmocka_unit_test(off_by_request_and_by_engine),
        cmocka_unit_test(wishes_out_of_range),    cmocka_unit_test(answers_are_the_same),
        cmocka_unit_test(a_slow_reader),          cmocka_unit_test(a_bad_guess_is_only_a_guess),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
