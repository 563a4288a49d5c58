/* Known prefixes change nothing: every answer is the same, bit for bit, with and without, wherever
 * texts part, whatever is cancelled, forgotten or guessed; and they do spare work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <unistd.h>

#include "engine_bench.h"

static void open_remembering(bench *b, int parallel, int64_t step_tokens, size_t prefix_cache) {
    bench_open_with(b, parallel, 64, step_tokens, 15, 0.001, prefix_cache);
    fake_model_repeat(b->m, 23);
}

/* As they are now; until the next call. */
static const eng_metrics *metrics(bench *b) {
    static eng_metrics m;
    eng_metrics_get(b->e, &m);
    return &m;
}

static int32_t *make_tokens(int64_t n, uint64_t seed) {
    int32_t *t = calloc((size_t)n, sizeof *t);
    assert_non_null(t);
    for (int64_t i = 0; i < n; i++)
        t[i] = 3 + (int32_t)(next_random(&seed) % 250);
    return t;
}

static int64_t cached_of(bench *b, uint64_t key, const eng_params *p, const int32_t *tokens,
                         int64_t n) {
    eng_request *r = submit_as(b, key, p, tokens, (size_t)n);
    answer *a = read_all(r);
    int64_t cached = a->done.cached_tokens;
    assert_int_equal(a->done.prompt_tokens, n);
    eng_request_release(r);
    free(a);
    return cached;
}

/* ---- what is kept ---- */

/* The next turn of a conversation begins with all of the last one. */
static void a_conversation_goes_on(void **state) {
    (void)state;
    bench b;
    eng_params p;
    int32_t *t = make_tokens(200, 5);
    open_remembering(&b, 2, 256, 1 << 20);
    greedy_params(&p, 30);
    p.ignore_eos = true;
    answer *a = run_one(&b, &p, t, 40);
    assert_int_equal(a->done.cached_tokens, 0);
    for (int i = 0; i < 30; i++)
        t[40 + i] = a->id[i];
    free(a);
    uint64_t before = metrics(&b)->prompt_tokens;
    assert_int_equal(cached_of(&b, 0, &p, t, 80), 64); /* of 69 absorbed */
    assert_int_equal(metrics(&b)->prompt_tokens - before, 16);
    assert_int_equal(cached_of(&b, 0, &p, t, 41), 32); /* the prompt again and a word more */
    free(t);
    bench_close(&b);
}

static void off_by_request_key_and_engine(void **state) {
    (void)state;
    bench b;
    eng_params p;
    int32_t *t = make_tokens(100, 6);
    open_remembering(&b, 1, 256, 1 << 20);
    greedy_params(&p, 3);
    p.cache_prompt = false;
    assert_int_equal(cached_of(&b, 0, &p, t, 100), 0);
    assert_int_equal(metrics(&b)->prefix_states, 0);
    p.cache_prompt = true;
    assert_int_equal(cached_of(&b, 0, &p, t, 100), 0);
    eng_metrics m = *metrics(&b);
    assert_true(m.prefix_states > 0 && m.prefix_bytes > 0 && m.prefix_bytes <= m.prefix_budget);
    assert_int_equal(cached_of(&b, 7, &p, t, 100), 0); /* somebody else */
    assert_int_equal(cached_of(&b, 0, &p, t, 100), 96);
    p.cache_prompt = false;
    assert_int_equal(cached_of(&b, 0, &p, t, 100), 0);
    m = *metrics(&b);
    assert_int_equal(m.prefix_queries, 3);
    assert_int_equal(m.prefix_hits, 1);
    assert_int_equal(m.prefix_tokens, 96);
    bench_close(&b);
    open_remembering(&b, 1, 256, 0);
    p.cache_prompt = true;
    assert_int_equal(cached_of(&b, 0, &p, t, 100), 0);
    assert_int_equal(cached_of(&b, 0, &p, t, 100), 0);
    free(t);
    bench_close(&b);
}

/* A request that ends as it enters a slot finds somebody else's state there, and leaves it alone.
 */
static void nothing_is_kept_of_nothing(void **state) {
    (void)state;
    bench b;
    eng_params p;
    int32_t *t = make_tokens(100, 16), *u = make_tokens(100, 17);
    open_remembering(&b, 1, 256, 1 << 20);
    greedy_params(&p, 3);
    assert_int_equal(cached_of(&b, 0, &p, t, 100), 0);
    int64_t states = metrics(&b)->prefix_states;
    greedy_params(&p, 0);
    assert_int_equal(cached_of(&b, 0, &p, u, 100), 0);
    assert_int_equal(metrics(&b)->prefix_states, states);
    greedy_params(&p, 3);
    assert_int_equal(cached_of(&b, 0, &p, u, 100), 0);
    free(t);
    free(u);
    bench_close(&b);
}

/* The third text with the same beginning finds it: the second has shown where texts part. */
static void a_shared_beginning(void **state) {
    (void)state;
    bench b;
    eng_params p;
    int32_t *t = make_tokens(260, 7);
    open_remembering(&b, 1, 256, 1 << 20);
    greedy_params(&p, 3);
    for (int i = 0; i < 4; i++) {
        for (int k = 200; k < 260; k++)
            t[k] = 3 + (k * 7 + i * 31) % 250;
        assert_int_equal(cached_of(&b, 0, &p, t, 260), i < 2 ? 0 : 192);
    }
    free(t);
    bench_close(&b);
}

/* The second question about a long document reads little more than itself. */
static void questions_about_a_document(void **state) {
    (void)state;
    enum { DOCUMENT = 20000, QUESTION = 40 };
    bench b;
    eng_params p;
    int32_t *t = make_tokens(DOCUMENT + QUESTION, 8);
    open_remembering(&b, 1, 64, 1 << 20);
    greedy_params(&p, 3);
    for (int i = 0; i < 5; i++) {
        for (int k = DOCUMENT; k < DOCUMENT + QUESTION; k++)
            t[k] = 3 + (k * 7 + i * 31) % 250;
        uint64_t before = metrics(&b)->prompt_tokens;
        int64_t cached = cached_of(&b, 0, &p, t, DOCUMENT + QUESTION);
        uint64_t read = metrics(&b)->prompt_tokens - before;
        assert_int_equal(read + (uint64_t)cached, DOCUMENT + QUESTION);
        assert_true(i == 0 ? cached == 0 : read <= 256);
    }
    assert_true(metrics(&b)->prefix_states < 30);
    free(t);
    bench_close(&b);
}

/* Answers to one prompt that are asked for at the same time read it once. */
static void a_crowd_with_one_prompt(void **state) {
    (void)state;
    enum { N = 500, ASKED = 8 };
    bench plain, b;
    eng_params p;
    eng_request *r[ASKED];
    int32_t *t = make_tokens(N, 11);
    bench_open_with(&plain, 1, 4, 256, 0, 0, 0);
    fake_model_repeat(plain.m, 23);
    open_remembering(&b, ASKED, 64, 1 << 20);
    fake_model_hold(b.m);
    greedy_params(&p, 12);
    p.temperature = 0.8f;
    p.has_seed = true;
    p.presence_penalty = 0.5f;
    for (int i = 0; i < ASKED; i++) {
        p.seed = (uint64_t)i;
        r[i] = submit(&b, &p, t, (size_t)(N - i));
    }
    fake_model_open(b.m);
    for (int i = 0; i < ASKED; i++) {
        p.seed = (uint64_t)i;
        answer *want = run_one(&plain, &p, t, (size_t)(N - i)), *got = read_all(r[i]);
        assert_same_answer(want, got);
        free(want);
        free(got);
        eng_request_release(r[i]);
    }
    /* what is read by each besides: the rest of a block and the last token */
    assert_true(metrics(&b)->prompt_tokens <= N + ASKED * 2 * FAKE_BLOCK);
    assert_int_equal(metrics(&b)->prefix_queries, ASKED);
    assert_int_equal(metrics(&b)->prefix_hits, ASKED - 1);
    free(t);
    bench_close(&plain);
    bench_close(&b);
}

/* The one that reads for the others leaves: they go on from where it was. */
static void a_leader_leaves(void **state) {
    (void)state;
    enum { N = 1000, FOLLOWERS = 3 };
    bench plain, b;
    eng_params p;
    eng_request *first, *r[FOLLOWERS];
    int32_t *t = make_tokens(N, 12);
    bench_open_with(&plain, 1, 4, 256, 0, 0, 0);
    fake_model_repeat(plain.m, 23);
    open_remembering(&b, 1 + FOLLOWERS, 64, 1 << 20);
    greedy_params(&p, 5);
    answer *want = run_one(&plain, &p, t, N);
    fake_model_hold(b.m);
    first = submit(&b, &p, t, N);
    fake_model_wait_begun(b.m, 1);
    for (int i = 0; i < FOLLOWERS; i++)
        r[i] = submit(&b, &p, t, N);
    fake_model_let(b.m, 5); /* 320 tokens or so */
    fake_model_wait_begun(b.m, 6);
    eng_request_cancel(first);
    fake_model_open(b.m);
    for (int i = 0; i < FOLLOWERS; i++) {
        answer *got = read_all(r[i]);
        assert_same_answer(want, got);
        free(got);
        eng_request_release(r[i]);
    }
    answer *gone = read_all(first);
    assert_int_equal(gone->done.finish, ENG_FINISH_CANCELLED);
    free(gone);
    eng_request_release(first);
    assert_true(metrics(&b)->prompt_tokens <= N + 64 + FOLLOWERS * 3 * FAKE_BLOCK);
    free(want);
    free(t);
    bench_close(&plain);
    bench_close(&b);
}

/* ---- the same answers ---- */

enum { SPECS = 80, DOCUMENTS = 4, CROWD = 20 };

static spec *related_specs(uint64_t *g) {
    spec *specs = calloc(SPECS, sizeof *specs);
    int32_t *doc[DOCUMENTS];
    assert_non_null(specs);
    for (int i = 0; i < DOCUMENTS; i++)
        doc[i] = make_tokens(1200, 100 + (uint64_t)i);
    for (int i = 0; i < SPECS; i++) {
        spec *sp = &specs[i];
        random_spec(sp, g);
        sp->p.max_tokens = 1 + (int64_t)(next_random(g) % 60);
        sp->p.cache_prompt = next_random(g) % 8 != 0;
        size_t keep = (size_t)(next_random(g) % 500), more = 1 + (size_t)(next_random(g) % 50);
        memmove(sp->tokens + keep, sp->tokens, more * sizeof sp->tokens[0]);
        for (size_t k = keep; k < keep + more; k++)
            sp->tokens[k] = sp->tokens[k] < 3 ? 3 : sp->tokens[k];
        memcpy(sp->tokens, doc[next_random(g) % DOCUMENTS], keep * sizeof sp->tokens[0]);
        sp->n = keep + more;
    }
    for (int i = 0; i < DOCUMENTS; i++)
        free(doc[i]);
    return specs;
}

typedef struct reader {
    pthread_t thread;
    eng_request *r;
    answer *a;
} reader;

static void *read_one(void *arg) {
    reader *x = arg;
    x->a = read_all(x->r);
    return NULL;
}

/* All are read at the same time: keys take turns, so what came first need not end first. */
static void run_crowd(bench *b, const spec *specs, answer *const *want, uint64_t *g) {
    reader r[CROWD];
    bool cancelled[CROWD];
    for (int first = 0; first < SPECS; first += CROWD) {
        for (int i = 0; i < CROWD; i++) {
            const spec *sp = &specs[first + i];
            r[i].r = submit_as(b, next_random(g) % 2, &sp->p, sp->tokens, sp->n);
            cancelled[i] = next_random(g) % 4 == 0;
            if (i > 2 && cancelled[i - 3])
                eng_request_cancel(r[i - 3].r);
            assert_int_equal(pthread_create(&r[i].thread, NULL, read_one, &r[i]), 0);
        }
        for (int i = 0; i < CROWD; i++) {
            pthread_join(r[i].thread, NULL);
            answer *a = r[i].a;
            if (!cancelled[i])
                assert_same_answer(want[first + i], a);
            assert_true(a->done.cached_tokens < a->done.prompt_tokens);
            assert_true(a->done.cached_tokens == 0 || specs[first + i].p.cache_prompt);
            free(a);
            eng_request_release(r[i].r);
        }
        check_identity(b->e);
    }
}

static void answers_are_the_same(void **state) {
    (void)state;
    bench plain;
    answer *want[SPECS];
    uint64_t g = 0xCAC4Eu, hits = 0, evicted = 0;
    print_message("seed %llu\n", (unsigned long long)g);
    spec *specs = related_specs(&g);
    bench_open_with(&plain, 1, 64, 256, 0, 0, 0);
    fake_model_repeat(plain.m, 23);
    for (int i = 0; i < SPECS; i++)
        want[i] = run_one(&plain, &specs[i].p, specs[i].tokens, specs[i].n);
    bench_close(&plain);
    for (int i = 0; i < 8; i++) {
        bench b;
        open_remembering(&b, 1 + i % 5, 6 + 60 * (i % 3), i % 2 ? 6000 : 1 << 20);
        for (int round = 0; round < 2; round++)
            run_crowd(&b, specs, want, &g);
        eng_metrics m = *metrics(&b);
        hits += m.prefix_hits;
        evicted += m.prefix_evicted;
        assert_true(m.prefix_bytes <= m.prefix_budget);
        assert_int_equal(m.finished[ENG_FINISH_ERROR], 0);
        bench_close(&b);
    }
    print_message("%llu hits, %llu states evicted\n", (unsigned long long)hits,
                  (unsigned long long)evicted);
    assert_true(hits > 300 && evicted > 100);
    for (int i = 0; i < SPECS; i++)
        free(want[i]);
    free(specs);
}

/* Every length of the common beginning. */
static void every_split(void **state) {
    (void)state;
    enum { N = 100 };
    bench plain, b;
    eng_params p;
    greedy_params(&p, 20);
    p.temperature = 0.7f;
    p.has_seed = true;
    p.repetition_penalty = 1.3f; /* looks at the tokens that were not read */
    p.logprobs = 1;
    int32_t *t = make_tokens(N, 9);
    bench_open_with(&plain, 1, 4, 256, 0, 0, 0);
    open_remembering(&b, 1, 256, 1 << 20);
    fake_model_repeat(plain.m, 23);
    free(run_one(&b, &p, t, N));
    for (int at = 0; at < N; at++) {
        t[at] = 3 + (t[at] + 100) % 250;
        answer *x = run_one(&plain, &p, t, N), *y = run_one(&b, &p, t, N);
        assert_same_answer(x, y);
        free(x);
        free(y);
        t[at] = 3 + (t[at] + 144) % 250; /* not what it was: a new text next time */
    }
    assert_true(metrics(&b)->prefix_hits > 10);
    free(t);
    bench_close(&plain);
    bench_close(&b);
}

int main(void) {
    alarm(110);
    setenv("TNL_POISON", "1", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_conversation_goes_on),
        cmocka_unit_test(off_by_request_key_and_engine),
        cmocka_unit_test(nothing_is_kept_of_nothing),
        cmocka_unit_test(a_shared_beginning),
        cmocka_unit_test(questions_about_a_document),
        cmocka_unit_test(a_crowd_with_one_prompt),
        cmocka_unit_test(a_leader_leaves),
        cmocka_unit_test(answers_are_the_same),
        cmocka_unit_test(every_split),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
