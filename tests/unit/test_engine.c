/* What an answer of the engine is, over a fake model: endings, text, echo, and that company changes
 * nothing. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <unistd.h>

#include "engine_bench.h"
#include "server/engine/sampling/sampler.h"

/* ---- endings ---- */

static void ends_by_length(void **state) {
    (void)state;
    bench b;
    eng_params p;
    bench_open(&b, 2, 4, 64);
    fake_model_chain(b.m, true);
    greedy_params(&p, 5);
    const int32_t prompt[] = {9, 3};
    answer *a = run_one(&b, &p, prompt, 2);
    assert_int_equal(a->done.finish, ENG_FINISH_LENGTH);
    assert_int_equal(a->done.prompt_tokens, 2);
    assert_int_equal(a->n, 5);
    for (int i = 0; i < 5; i++)
        assert_int_equal(a->id[i], 4 + i);
#ifdef TNL_HAVE_TOKENIZER
    assert_string_equal(a->text, "bcdef");
#else
    assert_string_equal(a->text, "");
#endif
    free(a);
    eng_metrics m;
    eng_metrics_get(b.e, &m);
    assert_int_equal(m.prompt_tokens, 2);
    assert_int_equal(m.generated_tokens, 5);
    assert_int_equal(m.steps, 5); /* the last token is not fed back */
    assert_int_equal(m.ttft_s.count, 1);
    assert_int_equal(m.per_token_s.count, 4);
    assert_int_equal(m.prefill_s.count, 1);
    assert_int_equal(m.decode_s.count, 1);
    assert_int_equal(m.request_prompt.sum, 2);
    assert_int_equal(m.request_generated.sum, 5);
    assert_int_equal(m.request_generated.bucket[1], 1); /* 2 to 5 */
    assert_true(eng_idle(b.e));
    bench_close(&b);
}

static void no_tokens_wanted(void **state) {
    (void)state;
    bench b;
    eng_params p;
    bench_open(&b, 1, 4, 64);
    greedy_params(&p, 0);
    const int32_t prompt[] = {9, 3, 7};
    answer *a = run_one(&b, &p, prompt, 3);
    assert_int_equal(a->done.finish, ENG_FINISH_LENGTH);
    assert_int_equal(a->n, 0);
    assert_int_equal(fake_model_begun(b.m), 0);
    free(a);
    p.echo = true;
    a = run_one(&b, &p, prompt, 3);
    assert_int_equal(a->done.finish, ENG_FINISH_LENGTH);
    assert_int_equal(a->n, 3);
    assert_int_equal(a->n_prompt_events, 3);
    free(a);
    a = run_one(&b, &p, prompt, 1);
    assert_int_equal(a->n, 1);
    assert_true(isnan(a->logprob[0]));
    free(a);
    bench_close(&b);
}

static void ends_by_eos(void **state) {
    (void)state;
    bench b;
    eng_params p;
    bench_open(&b, 1, 4, 64);
    fake_model_chain(b.m, true);
    greedy_params(&p, 10);
    const int32_t prompt[] = {295};
    answer *a = run_one(&b, &p, prompt, 1);
    assert_int_equal(a->done.finish, ENG_FINISH_EOS);
    assert_int_equal(a->n, 3); /* 296 297 eos */
    assert_int_equal(a->id[2], FAKE_EOS);
    free(a);
    p.ignore_eos = true;
    a = run_one(&b, &p, prompt, 1);
    assert_int_equal(a->done.finish, ENG_FINISH_LENGTH);
    assert_int_equal(a->n, 10);
    assert_int_equal(a->id[2], FAKE_EOS);
    assert_int_equal(a->id[3], FAKE_EOS + 1);
    free(a);
    bench_close(&b);
}

#ifdef TNL_HAVE_TOKENIZER

static void stop_strings(void **state) {
    (void)state;
    static const struct {
        const char *stop;
        int64_t max_tokens;
        const char *text;
        int64_t n;
        eng_finish finish;
    } rows[] = {
        /* the chain after id 2+1 reads b c d e f g ... */
        {"ef", 20, "bcd", 5, ENG_FINISH_STOP},
        {"b", 20, "", 1, ENG_FINISH_STOP},
        {"efx", 6, "bcdefg", 6, ENG_FINISH_LENGTH},
        {"fgx", 6, "bcdefg", 6, ENG_FINISH_LENGTH}, /* held back, then released at the end */
        {"fg", 6, "bcde", 6, ENG_FINISH_STOP},      /* on the very last token */
    };
    bench b;
    bench_open(&b, 1, 4, 64);
    fake_model_chain(b.m, true);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        eng_params p;
        greedy_params(&p, rows[i].max_tokens);
        p.n_stop = 1;
        snprintf(p.stop[0], sizeof p.stop[0], "%s", rows[i].stop);
        const int32_t prompt[] = {3};
        answer *a = run_one(&b, &p, prompt, 1);
        assert_int_equal(a->done.finish, rows[i].finish);
        assert_int_equal(a->n, rows[i].n);
        assert_string_equal(a->text, rows[i].text);
        free(a);
    }
    bench_close(&b);
}

/* Characters come out whole; what is left unfinished at the end comes out as U+FFFD, and text held
 * back for a stop string comes out with the last token, also at the end of sequence. */
static void text_is_whole_utf8(void **state) {
    (void)state;
    bench b;
    eng_params p;
    bench_open(&b, 1, 4, 64);
    fake_model_chain(b.m, true);
    fake_tok_set(b.t, 4, "\xE2");
    fake_tok_set(b.t, 5, "\x82");
    fake_tok_set(b.t, 6, "\xAC!\xC3");
    fake_tok_set(b.t, 7, "\xA9");
    const int32_t prompt[] = {3};
    static const char *const want[] = {"\xEF\xBF\xBD", "\xEF\xBF\xBD", "\xE2\x82\xAC!\xEF\xBF\xBD",
                                       "\xE2\x82\xAC!\xC3\xA9"};
    for (int n = 1; n <= 4; n++) {
        greedy_params(&p, n);
        answer *a = run_one(&b, &p, prompt, 1);
        assert_string_equal(a->text, want[n - 1]);
        free(a);
    }
    greedy_params(&p, 4);
    p.n_stop = 1;
    snprintf(p.stop[0], sizeof p.stop[0], "%s", "\xEF\xBF\xBD");
    answer *a = run_one(&b, &p, prompt, 1);
    assert_int_equal(a->done.finish, ENG_FINISH_LENGTH);
    free(a);
    p.max_tokens = 3;
    a = run_one(&b, &p, prompt, 1); /* the replacement character completes the stop string */
    assert_int_equal(a->done.finish, ENG_FINISH_STOP);
    assert_string_equal(a->text, "\xE2\x82\xAC!");
    free(a);
    greedy_params(&p, 50);
    p.n_stop = 1;
    snprintf(p.stop[0], sizeof p.stop[0], "%s", "ijK");
    const int32_t tail[] = {295}; /* ... "h" "i" eos: "i" is held back until eos */
    fake_tok_set(b.t, 296, "h");
    fake_tok_set(b.t, 297, "i");
    a = run_one(&b, &p, tail, 1);
    assert_int_equal(a->done.finish, ENG_FINISH_EOS);
    assert_string_equal(a->text, "hi");
    free(a);
    bench_close(&b);
}

#endif

static void every_token_forbidden(void **state) {
    (void)state;
    bench b;
    eng_params p;
    bench_open(&b, 1, 4, 64);
    eng_params_default(&p);
    for (int i = 0; i < FAKE_VOCAB; i++) {
        p.bias_id[i] = i;
        p.bias[i] = -100;
    }
    p.n_bias = FAKE_VOCAB;
    const int32_t prompt[] = {3};
    answer *a = run_one(&b, &p, prompt, 1);
    assert_int_equal(a->done.finish, ENG_FINISH_ERROR);
    assert_int_equal(a->done.error, TNL_E_USAGE);
    assert_int_equal(a->n, 0);
    free(a);
    bench_close(&b);
}

static void refusals(void **state) {
    (void)state;
    bench b;
    eng_params p;
    tnl_error err;
    eng_request *r;
    bench_open(&b, 1, 0, 64);
    eng_params_default(&p);
    const int32_t good[] = {3}, high[] = {3, FAKE_VOCAB}, low[] = {-1};
    eng_job job = {.tokens = good, .n_tokens = 0, .params = &p};
    assert_int_equal(eng_submit(&r, b.e, &job, &err), TNL_E_USAGE);
    assert_null(r);
    job.n_tokens = (size_t)b.o.max_prompt_tokens + 1;
    assert_int_equal(eng_submit(&r, b.e, &job, &err), TNL_E_LIMIT);
    job = (eng_job){.tokens = high, .n_tokens = 2, .params = &p};
    assert_int_equal(eng_submit(&r, b.e, &job, &err), TNL_E_USAGE);
    job = (eng_job){.tokens = low, .n_tokens = 1, .params = &p};
    assert_int_equal(eng_submit(&r, b.e, &job, &err), TNL_E_USAGE);
    p.temperature = -1;
    job = (eng_job){.tokens = good, .n_tokens = 1, .params = &p};
    assert_int_equal(eng_submit(&r, b.e, &job, &err), TNL_E_USAGE);
    assert_non_null(strstr(err.msg, "temperature"));
    eng_metrics m;
    eng_metrics_get(b.e, &m);
    assert_int_equal(m.accepted, 0);
    bench_close(&b);

    mdl_model *model = fake_model_new();
    eng_open_params o;
    eng_engine *e;
    eng_open_params_default(&o);
    assert_int_equal(eng_open(&e, &o, &err), TNL_E_USAGE);
    o.model = model;
    o.parallel = 0;
    assert_int_equal(eng_open(&e, &o, &err), TNL_E_USAGE);
    o.parallel = 8;
    o.step_tokens = 7;
    assert_int_equal(eng_open(&e, &o, &err), TNL_E_USAGE);
    o.step_tokens = 8;
    assert_int_equal(eng_open(&e, &o, &err), TNL_OK); /* without a tokenizer */
    eng_params_default(&p);
    p.n_stop = 1;
    p.stop[0][0] = 'x';
    assert_int_equal(eng_submit(&r, e, &job, &err), TNL_E_UNSUPPORTED);
    eng_close(e);
    eng_close(NULL);
    fake_model_free(model);
}

/* ---- echo ---- */

static void echo_scores_the_prompt(void **state) {
    (void)state;
    enum { N = 500 };
    bench b;
    eng_params p;
    bench_open(&b, 3, 4, 48);
    int32_t prompt[N];
    float row[FAKE_VOCAB];
    for (int i = 0; i < N; i++)
        prompt[i] = 3 + (i * 7919) % 290;
    greedy_params(&p, 4);
    p.echo = true;
    p.logprobs = 2;
    answer *a = run_one(&b, &p, prompt, N); /* far more events than the ring holds */
    assert_int_equal(a->n, N + 4);
    assert_int_equal(a->n_prompt_events, N);
    assert_true(isnan(a->logprob[0]));
    eng_sampler *s;
    assert_int_equal(eng_sampler_open(&s, FAKE_VOCAB, NULL), TNL_OK);
    for (int i = 1; i < N + 4; i++) {
        eng_pick pick;
        fake_model_row(b.m, row, a->id, i);
        assert_int_equal(eng_score(s, &pick, row, a->id[i], 2), TNL_OK);
        assert_true(same_floats(&pick.logprob, &a->logprob[i], 1));
        assert_memory_equal(&pick.alts[0], &a->first_alt[i], sizeof pick.alts[0]);
    }
    eng_sampler_close(s);
    assert_memory_equal(a->id, prompt, sizeof prompt);
#ifdef TNL_HAVE_TOKENIZER
    size_t letters = 0;
    for (int i = 0; i < N + 4; i++)
        letters += a->id[i] > FAKE_EOS;
    assert_int_equal(a->text_len, letters);
#endif
    free(a);
    bench_close(&b);
}

/* ---- company changes nothing ---- */

static void same_alone_and_among_others(void **state) {
    (void)state;
    enum { N = 48 };
    uint64_t g = 0xC0FFEE;
    print_message("seed %llu\n", (unsigned long long)g);
    bench alone, crowd;
    bench_open(&alone, 1, 0, 256);
    bench_open(&crowd, 16, N, 40);
    spec *specs = calloc(N, sizeof *specs);
    eng_request *r[N];
    answer *solo[N];
    assert_non_null(specs);
    for (int i = 0; i < N; i++) {
        random_spec(&specs[i], &g);
        solo[i] = run_one(&alone, &specs[i].p, specs[i].tokens, specs[i].n);
    }
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++) {
            int k = (i * 13 + round * 5) % N;
            r[k] = submit(&crowd, &specs[k].p, specs[k].tokens, specs[k].n);
        }
        for (int i = 0; i < N; i++) {
            answer *a = read_all(r[i]);
            assert_same_answer(solo[i], a);
            eng_request_release(r[i]);
            free(a);
        }
    }
    check_identity(crowd.e);
    assert_true(eng_idle(crowd.e));
    for (int i = 0; i < N; i++)
        free(solo[i]);
    free(specs);
    bench_close(&alone);
    bench_close(&crowd);
}

static void seeds(void **state) {
    (void)state;
    bench b;
    eng_params p;
    bench_open(&b, 2, 4, 64);
    eng_params_default(&p);
    p.max_tokens = 30;
    p.ignore_eos = true;
    p.has_seed = true;
    const int32_t prompt[] = {3};
    p.seed = 1;
    answer *one = run_one(&b, &p, prompt, 1), *again = run_one(&b, &p, prompt, 1);
    assert_same_answer(one, again);
    p.seed = 2;
    answer *two = run_one(&b, &p, prompt, 1);
    assert_memory_not_equal(one->id, two->id, 30 * sizeof one->id[0]);
    p.has_seed = false;
    answer *x = run_one(&b, &p, prompt, 1), *y = run_one(&b, &p, prompt, 1);
    assert_memory_not_equal(x->id, y->id, 30 * sizeof x->id[0]);
    /* a prompt that is an answer's beginning continues with that answer */
    p.has_seed = true;
    p.seed = 1;
    int32_t longer[11] = {3};
    memcpy(longer + 1, one->id, 10 * sizeof longer[0]);
    p.max_tokens = 20;
    answer *rest = run_one(&b, &p, longer, 11);
    assert_memory_equal(rest->id, one->id + 10, 20 * sizeof rest->id[0]);
    free(one);
    free(again);
    free(two);
    free(x);
    free(y);
    free(rest);
    bench_close(&b);
}

int main(void) {
    alarm(110); /* a lost wake-up must not hang the suite */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_by_length),
        cmocka_unit_test(no_tokens_wanted),
        cmocka_unit_test(ends_by_eos),
#ifdef TNL_HAVE_TOKENIZER
        cmocka_unit_test(stop_strings),
        cmocka_unit_test(text_is_whole_utf8),
#endif
        cmocka_unit_test(every_token_forbidden),
        cmocka_unit_test(refusals),
        cmocka_unit_test(echo_scores_the_prompt),
        cmocka_unit_test(same_alone_and_among_others),
        cmocka_unit_test(seeds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
