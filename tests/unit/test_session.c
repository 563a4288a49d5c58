/* Sessions over the fake model: an answer that continues one is, bit for bit, that of sending the
 * whole text; what is cancelled has not happened; one request at a time; keys do not meet; bounds
 * hold; what was saved comes back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine_bench.h"
#include "folder.h"
#include "server/engine/states/session.h"

enum { KEY = 7, TEXT_MAX = 4096 };

/* ---- harness ---- */

static void params(eng_sessions_params *p) {
    eng_sessions_params_default(p);
    p->idle_s = 0;
}

static eng_sessions *open_with(bench *b, const eng_sessions_params *p) {
    tnl_error err = {0};
    eng_sessions *st = NULL;
    if (eng_sessions_open(&st, b->m, b->t, p, &err) != TNL_OK)
        fail_msg("%s", err.msg);
    return st;
}

static eng_sessions *open_plain(bench *b) {
    eng_sessions_params p;
    params(&p);
    return open_with(b, &p);
}

static eng_lease *take(eng_sessions *st, const eng_session_id *id) {
    tnl_error err = {0};
    eng_lease *l = NULL;
    tnl_status s = eng_lease_take(&l, st, KEY, id, &err);
    if (s == TNL_E_LIMIT) { /* the writer is behind */
        eng_sessions_flush(st);
        s = eng_lease_take(&l, st, KEY, id, &err);
    }
    if (s == TNL_OK && eng_lease_cold(l))
        s = eng_lease_warm(l, &err);
    if (s != TNL_OK)
        fail_msg("%s", err.msg);
    return l;
}

static eng_request *submit_in(bench *b, eng_lease *l, const eng_params *p, const int32_t *tokens,
                              size_t n) {
    tnl_error err = {0};
    eng_request *r = NULL;
    const eng_job job = {.tokens = tokens, .n_tokens = n, .key = KEY, .params = p, .session = l};
    if (eng_submit(&r, b->e, &job, &err) != TNL_OK)
        fail_msg("%s", err.msg);
    return r;
}

static answer *run_in(bench *b, eng_lease *l, const eng_params *p, const int32_t *tokens,
                      size_t n) {
    eng_request *r = submit_in(b, l, p, tokens, n);
    answer *a = read_all(r);
    eng_request_release(r);
    check_identity(b->e);
    return a;
}

static eng_session_id create(eng_sessions *st) {
    eng_session_id id;
    tnl_error err;
    assert_int_equal(eng_session_create(st, KEY, &id, &err), TNL_OK);
    return id;
}

static eng_session_info info_of(eng_sessions *st, const eng_session_id *id) {
    eng_session_info info = {0};
    assert_int_equal(eng_session_get(st, KEY, id, &info), TNL_OK);
    return info;
}

/* A text as a test believes it to be. */
typedef struct text {
    int32_t id[TEXT_MAX];
    int64_t n;
} text;

static void add(text *t, const int32_t *ids, int64_t n) {
    assert_true(t->n + n <= TEXT_MAX);
    if (n > 0)
        memcpy(t->id + t->n, ids, (size_t)n * sizeof *ids);
    t->n += n;
}

static void expect_text(eng_sessions *st, const eng_session_id *id, const text *want) {
    int32_t *got;
    int64_t n;
    tnl_error err = {0};
    assert_int_equal(eng_session_tokens(st, KEY, id, &got, &n, &err), TNL_OK);
    assert_int_equal(n, want->n);
    assert_memory_equal(got, want->id, (size_t)n * sizeof *got);
    assert_int_equal(info_of(st, id).tokens, n);
    free(got);
}

/* One turn, held against the same request with the whole text in one prompt. */
static void turn(bench *b, eng_sessions *st, const eng_session_id *id, text *t, const eng_params *p,
                 const int32_t *tokens, int64_t n) {
    eng_params cold = *p;
    int64_t before = t->n;
    answer *a = run_in(b, take(st, id), p, tokens, (size_t)n);
    add(t, tokens, n);
    cold.cache_prompt = false;
    if (p->max_tokens > 0) {
        answer *whole = run_one(b, &cold, t->id, (size_t)t->n);
        assert_same_answer(a, whole);
        free(whole);
    }
    assert_int_equal(a->done.prompt_tokens, t->n);
    assert_true(a->done.cached_tokens >= (before - 1) / FAKE_BLOCK * FAKE_BLOCK ||
                p->max_tokens == 0 || before == 0);
    add(t, a->id, a->n);
    assert_int_equal(a->done.session_tokens, t->n);
    expect_text(st, id, t);
    free(a);
}

static int64_t random_tokens(int32_t *out, int64_t most, uint64_t *g) {
    int64_t n = 1 + (int64_t)(next_random(g) % (uint64_t)most);
    for (int64_t i = 0; i < n; i++)
        out[i] = 3 + (int32_t)(next_random(g) % 200);
    return n;
}

static void random_params(eng_params *p, uint64_t *g) {
    eng_params_default(p);
    p->max_tokens = (int64_t)(next_random(g) % 40);
    p->temperature = next_random(g) % 2 ? 0.0f : 0.9f;
    p->repetition_penalty = next_random(g) % 2 ? 1.3f : 1.0f;
    p->presence_penalty = next_random(g) % 2 ? 0.5f : 0.0f;
    p->seed = next_random(g);
    p->has_seed = true;
    p->logprobs = (int)(next_random(g) % 3);
    p->speculate = next_random(g) % 3 ? -1 : 0;
    p->cache_prompt = next_random(g) % 2;
}

/* ---- tests ---- */

static void test_ids(void **unused) {
    (void)unused;
    eng_session_id id = {{0x01, 0xab}}, back;
    char s[ENG_SESSION_ID_TEXT];
    static const char *const bad[] = {"",
                                      "01",
                                      "01ab000000000000000000000000000",
                                      "01ab00000000000000000000000000000",
                                      "01AB0000000000000000000000000000",
                                      "../../../../../../../../etc/pass",
                                      "01ab/000000000000000000000000000"};
    eng_session_id_write(s, &id);
    assert_string_equal(s, "01ab0000000000000000000000000000");
    assert_true(eng_session_id_read(&back, s));
    assert_memory_equal(&id, &back, sizeof id);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(eng_session_id_read(&back, bad[i]));
}

/* Many turns of several sessions, of every kind, at every place within a block. */
static void test_turns_are_as_if_sent_whole(void **unused) {
    (void)unused;
    uint64_t g = 20250701;
    print_message("seed %llu\n", (unsigned long long)g);
    for (int round = 0; round < 6; round++) {
        bench b;
        bench_open_guessing(&b, 2, 8, 48, round % 2 ? 8 : 0, round % 2 ? 0.1 : 0);
        fake_model_repeat(b.m, round < 3 ? 0 : 20);
        eng_sessions *st = open_plain(&b);
        eng_session_id id = create(st);
        text *t = calloc(1, sizeof *t);
        assert_non_null(t);
        for (int i = 0; i < 25; i++) {
            eng_params p;
            int32_t tokens[90];
            random_params(&p, &g);
            int64_t n = random_tokens(tokens, i % 3 ? 5 : 90, &g);
            turn(&b, st, &id, t, &p, tokens, n);
        }
        free(t);
        eng_close(b.e);
        b.e = NULL;
        eng_sessions_close(st);
        bench_close(&b);
    }
}

static void test_empty_prompt_goes_on(void **unused) {
    (void)unused;
    bench b;
    bench_open(&b, 1, 4, 64);
    eng_sessions *st = open_plain(&b);
    eng_session_id id = create(st);
    static text t;
    t.n = 0;
    eng_params p;
    tnl_error err;
    greedy_params(&p, 7);
    p.ignore_eos = true;
    eng_lease *l = take(st, &id);
    eng_request *r;
    const eng_job job = {.n_tokens = 0, .key = KEY, .params = &p, .session = l};
    assert_int_equal(eng_submit(&r, b.e, &job, &err), TNL_E_USAGE); /* nothing at all */
    eng_lease_release(l);
    turn(&b, st, &id, &t, &p, (const int32_t[]){5, 6}, 2);
    for (int i = 0; i < 12; i++)
        turn(&b, st, &id, &t, &p, NULL, 0);
    eng_sessions_close(st);
    bench_close(&b);
}

/* Answers of the fork and of the original go their own ways. */
static void test_fork(void **unused) {
    (void)unused;
    bench b;
    bench_open(&b, 2, 4, 64);
    eng_sessions *st = open_plain(&b);
    eng_session_id id = create(st), other;
    static text t;
    t.n = 0;
    eng_params p;
    int32_t tokens[70];
    uint64_t g = 3;
    tnl_error err;
    greedy_params(&p, 20);
    turn(&b, st, &id, &t, &p, tokens, random_tokens(tokens, 70, &g));
    eng_session_stats before, after;
    eng_sessions_stats(st, &before);
    eng_lease *l = take(st, &id);
    assert_int_equal(eng_lease_fork(l, &other, &err), TNL_OK);
    eng_lease_release(l);
    eng_sessions_stats(st, &after);
    assert_int_equal(before.bytes, after.bytes); /* shared, not copied */
    assert_memory_not_equal(&id, &other, sizeof id);
    static text u;
    u = t;
    turn(&b, st, &id, &t, &p, (const int32_t[]){9}, 1);
    turn(&b, st, &other, &u, &p, (const int32_t[]){10, 11}, 2);
    turn(&b, st, &id, &t, &p, (const int32_t[]){12}, 1);
    assert_int_equal(eng_session_delete(st, KEY, &id), TNL_OK);
    turn(&b, st, &other, &u, &p, (const int32_t[]){13}, 1);
    eng_sessions_close(st);
    bench_close(&b);
}

static void test_keys_do_not_meet(void **unused) {
    (void)unused;
    bench b;
    bench_open(&b, 1, 4, 64);
    eng_sessions *st = open_plain(&b);
    eng_session_id id = create(st), unknown = {{1}};
    const eng_session_id *ids[] = {&id, &unknown};
    for (int i = 0; i < 2; i++) {
        uint64_t key = i == 0 ? KEY + 1 : KEY;
        eng_session_info info;
        eng_lease *l;
        int32_t *tokens;
        int64_t n;
        tnl_error one = {0}, two = {0};
        assert_int_equal(eng_session_get(st, key, ids[i], &info), TNL_E_NO_INPUT);
        assert_int_equal(eng_session_delete(st, key, ids[i]), TNL_E_NO_INPUT);
        assert_int_equal(eng_lease_take(&l, st, key, ids[i], &one), TNL_E_NO_INPUT);
        assert_int_equal(eng_session_tokens(st, key, ids[i], &tokens, &n, &two), TNL_E_NO_INPUT);
        assert_string_equal(one.msg, two.msg);
    }
    eng_sessions_close(st);
    bench_close(&b);
}

static void test_one_at_a_time(void **unused) {
    (void)unused;
    bench b;
    bench_open(&b, 2, 4, 64);
    eng_sessions *st = open_plain(&b);
    eng_session_id id = create(st);
    eng_params p;
    eng_lease *l;
    tnl_error err;
    greedy_params(&p, 4);
    fake_model_hold(b.m);
    eng_request *r = submit_in(&b, take(st, &id), &p, (const int32_t[]){5}, 1);
    assert_int_equal(eng_lease_take(&l, st, KEY, &id, &err), TNL_E_BUSY);
    assert_true(info_of(st, &id).busy);
    fake_model_open(b.m);
    free(read_all(r));
    eng_lease_release(take(st, &id)); /* free as soon as the last event is out */
    eng_request_release(r);
    assert_false(info_of(st, &id).busy);
    eng_sessions_close(st);
    bench_close(&b);
}

/* Cancelled in the queue, while the prompt is read and while the answer is made; failed. */
static void test_cancel_rolls_back(void **unused) {
    (void)unused;
    bench b;
    bench_open(&b, 1, 4, 16);
    eng_sessions *st = open_plain(&b);
    eng_session_id id = create(st);
    static text t;
    t.n = 0;
    eng_params p;
    int32_t tokens[70];
    uint64_t g = 11;
    greedy_params(&p, 20);
    p.ignore_eos = true;
    turn(&b, st, &id, &t, &p, tokens, random_tokens(tokens, 70, &g));
    for (int steps = 0; steps < 12; steps++) {
        fake_model_hold(b.m);
        int64_t begun = fake_model_begun(b.m);
        int64_t n = random_tokens(tokens, 70, &g);
        eng_request *r = submit_in(&b, take(st, &id), &p, tokens, (size_t)n);
        fake_model_let(b.m, steps);
        fake_model_wait_begun(b.m, begun + steps + 1);
        eng_request_cancel(r);
        fake_model_open(b.m);
        answer *a = read_all(r);
        if (a->done.finish == ENG_FINISH_CANCELLED)
            assert_int_equal(a->done.session_tokens, t.n);
        else
            fail_msg("not cancelled");
        free(a);
        eng_request_release(r);
        expect_text(st, &id, &t);
    }
    answer *a = run_in(&b, take(st, &id), &p, (const int32_t[]){FAKE_NAN}, 1);
    assert_int_equal(a->done.finish, ENG_FINISH_ERROR);
    assert_int_equal(a->done.session_tokens, t.n);
    free(a);
    expect_text(st, &id, &t);
    turn(&b, st, &id, &t, &p, tokens, random_tokens(tokens, 70, &g));
    eng_sessions_close(st);
    bench_close(&b);
}

static void test_queued_is_not_lost(void **unused) {
    (void)unused;
    bench b;
    bench_open(&b, 1, 4, 16);
    eng_sessions *st = open_plain(&b);
    eng_session_id one = create(st), two = create(st);
    eng_params p;
    greedy_params(&p, 4);
    fake_model_hold(b.m);
    eng_request *r = submit_in(&b, take(st, &one), &p, (const int32_t[]){5}, 1);
    fake_model_wait_begun(b.m, 1);
    eng_request *q = submit_in(&b, take(st, &two), &p, (const int32_t[]){5}, 1);
    eng_request_cancel(q);
    fake_model_open(b.m);
    free(read_all(q));
    free(read_all(r));
    eng_request_release(q);
    eng_request_release(r);
    assert_int_equal(info_of(st, &one).tokens, 5);
    assert_int_equal(info_of(st, &two).tokens, 0);
    assert_false(info_of(st, &two).busy);
    eng_sessions_close(st);
    bench_close(&b);
}

static void test_delete_ends_a_request(void **unused) {
    (void)unused;
    bench b;
    bench_open(&b, 1, 4, 16);
    eng_sessions *st = open_plain(&b);
    eng_session_id id = create(st);
    eng_params p;
    eng_session_info info;
    greedy_params(&p, 1000);
    p.ignore_eos = true;
    fake_model_hold(b.m);
    eng_request *r = submit_in(&b, take(st, &id), &p, (const int32_t[]){5}, 1);
    fake_model_wait_begun(b.m, 1);
    assert_int_equal(eng_session_delete(st, KEY, &id), TNL_OK);
    assert_int_equal(eng_session_get(st, KEY, &id, &info), TNL_E_NO_INPUT);
    fake_model_open(b.m);
    answer *a = read_all(r);
    assert_int_equal(a->done.finish, ENG_FINISH_CANCELLED);
    free(a);
    eng_request_release(r);
    eng_session_stats s;
    eng_sessions_stats(st, &s);
    assert_int_equal(s.bytes, 0);
    eng_sessions_close(st);
    bench_close(&b);
}

static void test_new_that_fails_is_gone(void **unused) {
    (void)unused;
    bench b;
    bench_open(&b, 1, 4, 16);
    eng_sessions *st = open_plain(&b);
    eng_params p;
    eng_session_stats s;
    greedy_params(&p, 4);
    answer *a = run_in(&b, take(st, NULL), &p, (const int32_t[]){FAKE_NAN}, 1);
    assert_int_equal(a->done.finish, ENG_FINISH_ERROR);
    free(a);
    eng_sessions_stats(st, &s);
    assert_int_equal(s.in_memory, 0);
    eng_lease_release(take(st, NULL));
    eng_sessions_stats(st, &s);
    assert_int_equal(s.in_memory, 0);
    free(run_in(&b, take(st, NULL), &p, (const int32_t[]){5}, 1));
    eng_sessions_stats(st, &s);
    assert_int_equal(s.in_memory, 1);
    eng_sessions_close(st);
    bench_close(&b);
}

/* The longest idle makes room, of the key that has most; held ones stay. */
static void test_count_is_bounded(void **unused) {
    (void)unused;
    bench b;
    bench_open(&b, 1, 4, 16);
    eng_sessions_params p;
    params(&p);
    p.most = 4;
    p.key_most = 3;
    eng_sessions *st = open_with(&b, &p);
    eng_session_id id[8], other;
    eng_session_info info;
    tnl_error err;
    assert_int_equal(eng_session_create(st, KEY + 1, &other, &err), TNL_OK);
    for (int i = 0; i < 8; i++)
        id[i] = create(st);
    for (int i = 0; i < 5; i++)
        assert_int_equal(eng_session_get(st, KEY, &id[i], &info), TNL_E_NO_INPUT);
    for (int i = 5; i < 8; i++)
        assert_int_equal(eng_session_get(st, KEY, &id[i], &info), TNL_OK);
    assert_int_equal(eng_session_get(st, KEY + 1, &other, &info), TNL_OK);
    eng_lease *held[3];
    for (int i = 0; i < 3; i++)
        held[i] = take(st, &id[5 + i]);
    assert_int_equal(eng_session_create(st, KEY, &id[0], &err), TNL_E_LIMIT);
    for (int i = 0; i < 3; i++)
        eng_lease_release(held[i]);
    eng_lease_release(take(st, &id[5])); /* of use: the next to go is another */
    create(st);
    assert_int_equal(eng_session_get(st, KEY, &id[5], &info), TNL_OK);
    assert_int_equal(eng_session_get(st, KEY, &id[6], &info), TNL_E_NO_INPUT);
    eng_sessions_close(st);
    bench_close(&b);
}

static void test_memory_is_bounded(void **unused) {
    (void)unused;
    bench b;
    bench_open(&b, 2, 4, 64);
    eng_sessions_params p;
    params(&p);
    p.memory = 4000;
    eng_sessions *st = open_with(&b, &p);
    eng_params q;
    eng_session_stats s;
    int32_t tokens[200];
    uint64_t g = 5;
    greedy_params(&q, 3);
    for (int i = 0; i < 30; i++) {
        free(run_in(&b, take(st, NULL), &q, tokens, (size_t)random_tokens(tokens, 200, &g)));
        eng_sessions_stats(st, &s);
        assert_true(s.bytes <= 4000);
    }
    assert_true(s.dropped > 0 && s.in_memory > 0);
    eng_sessions_close(st);
    bench_close(&b);
}

/* ---- the disk ---- */

static void remove_all(const char *dir) {
    char path[512];
    DIR *d = opendir(dir);
    const struct dirent *e;
    while (d && (e = readdir(d))) {
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (e->d_name[0] != '.')
            unlink(path);
    }
    if (d)
        closedir(d);
    rmdir(dir);
}

static int count_files(const char *dir, const char *ending) {
    int n = 0;
    DIR *d = opendir(dir);
    const struct dirent *e;
    while (d && (e = readdir(d))) {
        size_t len = strlen(e->d_name), k = strlen(ending);
        n += len > k && strcmp(e->d_name + len - k, ending) == 0;
    }
    if (d)
        closedir(d);
    return n;
}

static void test_saved_and_found(void **unused) {
    (void)unused;
    char dir[] = "/tmp/tnl-session-XXXXXX";
    assert_non_null(mkdtemp(dir));
    uint64_t g = 77;
    print_message("seed %llu\n", (unsigned long long)g);
    eng_session_id id = {{0}};
    text *t = calloc(1, sizeof *t);
    assert_non_null(t);
    for (int life = 0; life < 8; life++) {
        bench b;
        bench_open(&b, 2, 4, 64);
        eng_sessions_params p;
        params(&p);
        p.dir = dir;
        eng_sessions *st = open_with(&b, &p);
        if (life == 0)
            id = create(st);
        else
            assert_false(info_of(st, &id).in_memory);
        for (int i = 0; i < 3; i++) {
            eng_params q;
            int32_t tokens[60];
            random_params(&q, &g);
            int64_t n = random_tokens(tokens, 60, &g);
            turn(&b, st, &id, t, &q, tokens, n);
        }
        if (life % 2) { /* else closing writes what is left */
            eng_sessions_flush(st);
            assert_true(info_of(st, &id).saved);
        }
        eng_sessions_close(st);
        assert_int_equal(count_files(dir, ".session"), 1);
        assert_int_equal(count_files(dir, ".tmp"), 0);
        bench_close(&b);
    }
    free(t);
    remove_all(dir);
}

static void test_memory_goes_to_disk(void **unused) {
    (void)unused;
    char dir[] = "/tmp/tnl-session-XXXXXX";
    assert_non_null(mkdtemp(dir));
    bench b;
    bench_open(&b, 2, 4, 64);
    eng_sessions_params p;
    params(&p);
    p.dir = dir;
    p.memory = 3000;
    eng_sessions *st = open_with(&b, &p);
    enum { N = 12 };
    eng_session_id id[N];
    text *t = calloc(N, sizeof *t);
    assert_non_null(t);
    uint64_t g = 9;
    for (int i = 0; i < N; i++)
        id[i] = create(st);
    for (int i = 0; i < 60; i++) {
        eng_params q;
        int32_t tokens[60];
        int k = (int)(next_random(&g) % N);
        random_params(&q, &g);
        int64_t n = random_tokens(tokens, 60, &g);
        turn(&b, st, &id[k], &t[k], &q, tokens, n);
    }
    eng_sessions_flush(st);
    eng_session_stats s;
    eng_sessions_stats(st, &s);
    assert_true(s.on_disk > 0 && s.restores > 0 && s.bytes <= 3000);
    assert_int_equal(s.dropped, 0);
    assert_int_equal(s.in_memory + s.on_disk, N);
    for (int i = 0; i < N; i++)
        assert_int_equal(eng_session_delete(st, KEY, &id[i]), TNL_OK);
    eng_sessions_stats(st, &s);
    assert_int_equal(s.disk_bytes, 0);
    assert_int_equal(count_files(dir, ".session"), 0);
    free(t);
    eng_sessions_close(st);
    bench_close(&b);
    remove_all(dir);
}

static void test_disk_is_bounded(void **unused) {
    (void)unused;
    char dir[] = "/tmp/tnl-session-XXXXXX";
    assert_non_null(mkdtemp(dir));
    bench b;
    bench_open(&b, 1, 4, 64);
    eng_sessions_params p;
    params(&p);
    p.dir = dir;
    p.disk_bytes = 4000;
    eng_sessions *st = open_with(&b, &p);
    eng_params q;
    int32_t tokens[60];
    uint64_t g = 9;
    greedy_params(&q, 3);
    for (int i = 0; i < 30; i++)
        free(run_in(&b, take(st, NULL), &q, tokens, (size_t)random_tokens(tokens, 60, &g)));
    eng_sessions_flush(st);
    eng_session_stats s;
    eng_sessions_stats(st, &s);
    assert_true(s.disk_bytes <= 4000 && s.dropped > 0);
    assert_int_equal(count_files(dir, ".session"), s.in_memory + s.on_disk);
    eng_sessions_close(st);
    bench_close(&b);
    remove_all(dir);
}

/* Another model leaves the files alone; the same one finds them again. */
static void test_next_model(void **unused) {
    (void)unused;
    char dir[] = "/tmp/tnl-session-XXXXXX";
    assert_non_null(mkdtemp(dir));
    bench b;
    bench_open(&b, 1, 4, 64);
    eng_sessions_params p;
    params(&p);
    p.dir = dir;
    eng_sessions *st = open_with(&b, &p), *same, *other, *again;
    eng_session_id id = create(st);
    static text t;
    t.n = 0;
    eng_params q;
    eng_session_info info;
    tnl_error err = {0};
    greedy_params(&q, 20);
    turn(&b, st, &id, &t, &q, (const int32_t[]){5, 6, 7}, 3);
    eng_sessions_flush(st);
    assert_int_equal(eng_sessions_open(&other, b.m, b.t, &p, &err), TNL_E_UNAVAILABLE); /* locked */
    assert_int_equal(eng_sessions_next(&same, st, b.m, b.t, &err), TNL_OK);
    assert_ptr_equal(same, st);
    eng_sessions_close(same);
    turn(&b, st, &id, &t, &q, (const int32_t[]){8}, 1);
    eng_sessions_flush(st);
    mdl_model *m = fake_model_new();
    fake_model_identity(m, 1);
    assert_int_equal(eng_sessions_next(&other, st, m, b.t, &err), TNL_OK);
    assert_ptr_not_equal(other, st);
    assert_int_equal(eng_session_get(other, KEY, &id, &info), TNL_E_NO_INPUT);
    turn(&b, st, &id, &t, &q, (const int32_t[]){9}, 1);
    eng_sessions_close(st);
    assert_int_equal(eng_sessions_next(&again, other, b.m, b.t, &err), TNL_OK);
    eng_sessions_close(other);
    turn(&b, again, &id, &t, &q, (const int32_t[]){10}, 1);
    eng_sessions_close(again);
    fake_model_free(m);
    bench_close(&b);
    remove_all(dir);
}

static void test_left_alone_too_long(void **unused) {
    (void)unused;
    char dir[] = "/tmp/tnl-session-XXXXXX";
    assert_non_null(mkdtemp(dir));
    bench b;
    bench_open(&b, 1, 4, 64);
    eng_sessions_params p;
    params(&p);
    p.dir = dir;
    eng_sessions *st = open_with(&b, &p);
    eng_session_id id = create(st);
    static text t;
    t.n = 0;
    eng_params q;
    greedy_params(&q, 3);
    turn(&b, st, &id, &t, &q, (const int32_t[]){5}, 1);
    eng_sessions_close(st);
    sleep(2);
    p.idle_s = 1;
    st = open_with(&b, &p);
    eng_session_info info;
    assert_int_equal(eng_session_get(st, KEY, &id, &info), TNL_E_NO_INPUT);
    assert_int_equal(count_files(dir, ".session"), 0);
    eng_sessions_close(st);
    bench_close(&b);
    remove_all(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_turns_are_as_if_sent_whole),
        cmocka_unit_test(test_empty_prompt_goes_on),
        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_keys_do_not_meet),
        cmocka_unit_test(test_one_at_a_time),
        cmocka_unit_test(test_cancel_rolls_back),
        cmocka_unit_test(test_queued_is_not_lost),
        cmocka_unit_test(test_delete_ends_a_request),
        cmocka_unit_test(test_new_that_fails_is_gone),
        cmocka_unit_test(test_count_is_bounded),
        cmocka_unit_test(test_memory_is_bounded),
        cmocka_unit_test(test_saved_and_found),
        cmocka_unit_test(test_memory_goes_to_disk),
        cmocka_unit_test(test_disk_is_bounded),
        cmocka_unit_test(test_next_model),
        cmocka_unit_test(test_left_alone_too_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
