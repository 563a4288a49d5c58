/* See engine_checks.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/forward.h"
#include "server/engine/states/session.h"
#include "tests/checkcuda/engine_checks.h"
#include "tests/unit/engine_bench.h"
#include "tests/unit/folder.h"

enum { REQUESTS = 6, ROUNDS = 2, MOST = 300, VOCAB = 400, CROWD_MOST = 32 };

ec_setup ec_with;

static const char shape[] =
    "{\"architectures\": [\"TransnormerForCausalLM\"], \"model_type\": \"transnormer\","
    " \"vocab_size\": %d, \"decoder_layers\": 2, \"decoder_embed_dim\": %d,"
    " \"decoder_attention_heads\": %d, \"hidden_dim\": %d, \"glu_dim\": %d,"
    " \"linear_use_lrpe_list\": [1, 0], \"linear_act_fun\": \"swish\","
    " \"norm_type\": \"simplermsnorm\", \"no_scale_embedding\": false, \"bias\": false,"
    " \"add_bos_token\": false, \"pad_token_id\": 0, \"bos_token_id\": 1, \"eos_token_id\": 2,"
    " \"torch_dtype\": \"bfloat16\"}\n";

mdl_model *ec_open_model(void) {
    char path[] = "/tmp/tnl-shape-XXXXXX";
    tnl_error err = {0};
    mdl_model *m = NULL;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_true(
        dprintf(fd, shape, VOCAB, ec_with.width, ec_with.heads, ec_with.width, ec_with.glu) > 0);
    close(fd);
    tnl_status st = mdl_open_random(&m, path, ec_with.weights, "cuda", 1, NULL, 11, &err);
    unlink(path);
    if (st != TNL_OK)
        fail_msg("%s", err.msg);
    return m;
}

void ec_open_engine(struct bench *b, mdl_model *m, int parallel, int64_t step_tokens,
                    size_t prefix_cache) {
    tnl_error err = {0};
    memset(b, 0, sizeof *b);
    eng_open_params_default(&b->o);
    b->o.model = m;
    b->o.parallel = parallel;
    b->o.step_tokens = step_tokens;
    b->o.prefix_cache = prefix_cache;
    b->o.speculate = 7;
    b->o.row_cost = 0.001;
    if (eng_open(&b->e, &b->o, &err) != TNL_OK)
        fail_msg("%s", err.msg);
}

/* Prompts that share 0, 128 (a slice), 200 and 256 tokens; some repeat, which makes guesses. */
static void make_prompt(int32_t *ids, int which) {
    static const int shared[REQUESTS] = {0, 128, 200, 256, 299, 40};
    for (int i = 0; i < MOST; i++)
        ids[i] =
            3 + (i < shared[which] ? i * i % 97 : (i * 7 + which * 31) % (which % 2 ? 9 : 150));
}

static const int lengths[REQUESTS] = {140, 290, 256, 257, 300, 100};

void ec_same_bytes(void **unused) {
    (void)unused;
    static int32_t ids[REQUESTS][MOST];
    static const int64_t steps[ROUNDS] = {16, 400};
    answer *solo[REQUESTS];
    eng_params p;
    bench b;
    mdl_model *m = ec_open_model();
    greedy_params(&p, 12);
    p.logprobs = 1;
    for (int i = 0; i < REQUESTS; i++) {
        make_prompt(ids[i], i);
        ec_open_engine(&b, m, 1, 256, 0);
        solo[i] = run_one(&b, &p, ids[i], (size_t)lengths[i]);
        eng_close(b.e);
    }
    for (int round = 0; round < ROUNDS; round++) {
        ec_open_engine(&b, m, round ? 6 : 3, steps[round], 64 << 20);
        for (int turn = 0; turn < 2; turn++) { /* the second one finds prefixes */
            eng_request *r[REQUESTS];
            for (int i = 0; i < REQUESTS; i++)
                r[i] = submit(&b, &p, ids[i], (size_t)lengths[i]);
            for (int i = 0; i < REQUESTS; i++) {
                answer *a = read_all(r[i]);
                eng_request_release(r[i]);
                assert_same_answer(solo[i], a);
                free(a);
            }
        }
        eng_metrics seen;
        eng_metrics_get(b.e, &seen);
        assert_true(seen.prefix_hits > 0 && seen.prefix_tokens >= 128);
        eng_close(b.e);
    }
    for (int i = 0; i < REQUESTS; i++)
        free(solo[i]);
    mdl_close(m);
}

/* A prompt that goes on where a shorter one, or an answer, ended within a slice: known or not. */
void ec_continued(void **unused) {
    (void)unused;
    enum { SHORT = 100, FIRST = 150, ANSWER = 12 };
    int32_t ids[MOST];
    answer *a, *got[2];
    eng_params p;
    bench b;
    mdl_model *m = ec_open_model();
    greedy_params(&p, ANSWER);
    p.ignore_eos = true;
    for (int known = 0; known < 2; known++) {
        make_prompt(ids, 4);
        ec_open_engine(&b, m, 2, 256, known ? 64 << 20 : 0);
        free(run_one(&b, &p, ids, SHORT));
        a = run_one(&b, &p, ids, FIRST);
        assert_int_equal(a->n, ANSWER);
        memcpy(ids + FIRST, a->id, sizeof *ids * ANSWER);
        free(a);
        got[known] = run_one(&b, &p, ids, MOST);
        eng_close(b.e);
    }
    assert_same_answer(got[0], got[1]);
    free(got[0]), free(got[1]);
    mdl_close(m);
}

/* ---- random requests, all at once ---- */

/* As random as those of tests/unit, prompts no longer than this place has time for. */
static spec *random_specs(void) {
    uint64_t g = 0xBADC0DE5u;
    spec *specs = calloc(CROWD_MOST, sizeof *specs);
    assert_non_null(specs);
    assert_true(ec_with.crowd <= CROWD_MOST);
    for (int i = 0; i < ec_with.crowd; i++) {
        random_spec(&specs[i], &g);
        if (specs[i].n > (size_t)ec_with.crowd_prompt)
            specs[i].n = (size_t)ec_with.crowd_prompt;
        specs[i].p.max_tokens = 1 + specs[i].p.max_tokens % 40;
        specs[i].p.n_stop = 0;
    }
    return specs;
}

void ec_crowd(void **unused) {
    (void)unused;
    spec *specs = random_specs();
    answer *solo[CROWD_MOST];
    eng_request *r[CROWD_MOST];
    bench b;
    mdl_model *m = ec_open_model();
    for (int i = 0; i < ec_with.crowd; i++) {
        ec_open_engine(&b, m, 1, 256, 0);
        solo[i] = run_one(&b, &specs[i].p, specs[i].tokens, specs[i].n);
        eng_close(b.e);
    }
    for (int64_t step = 40; step <= 640; step *= 16) {
        ec_open_engine(&b, m, step == 40 ? 5 : ec_with.crowd, step, 0);
        for (int i = 0; i < ec_with.crowd; i++)
            r[i] = submit(&b, &specs[i].p, specs[i].tokens, specs[i].n);
        for (int i = 0; i < ec_with.crowd; i++) {
            answer *a = read_all(r[i]);
            eng_request_release(r[i]);
            assert_same_answer(solo[i], a);
            free(a);
        }
        check_identity(b.e);
        eng_close(b.e);
    }
    for (int i = 0; i < ec_with.crowd; i++)
        free(solo[i]);
    free(specs);
    mdl_close(m);
}

/* ---- guesses ---- */

/* Tokens said before are guessed, and checked several in a step: with and without, the answer is
 * the same. */
void ec_guesses(void **unused) {
    (void)unused;
    enum { PERIOD = 7, N = 140, ANSWER = 60 };
    int32_t ids[N];
    eng_metrics seen;
    eng_params p;
    bench b;
    mdl_model *m = ec_open_model();
    ec_open_engine(&b, m, 2, 256, 0);
    for (int i = 0; i < N; i++)
        ids[i] = 3 + i % PERIOD * 11;
    greedy_params(&p, ANSWER);
    p.ignore_eos = true;
    p.speculate = 0;
    answer *plain = run_one(&b, &p, ids, N);
    p.speculate = -1;
    answer *guessed = run_one(&b, &p, ids, N);
    assert_same_answer(plain, guessed);
    eng_metrics_get(b.e, &seen);
    assert_true(seen.drafted_tokens > 0);
    print_message("%llu guesses, %llu came true\n", (unsigned long long)seen.drafted_tokens,
                  (unsigned long long)seen.accepted_tokens);
    free(plain), free(guessed);
    eng_close(b.e);
    mdl_close(m);
}

/* ---- who samples ---- */

/* Greedy, and drawn in every way that a device knows. */
static void picked_params(eng_params *p, int which) {
    eng_params_default(p);
    p->max_tokens = 24;
    p->seed = 100 + (uint64_t)which;
    p->has_seed = true;
    p->ignore_eos = true;
    p->temperature = which == 0 ? 0.0f : 0.2f + 0.2f * (float)which;
    p->top_k = which % 2 ? 0 : 9;
    p->top_p = which > 2 ? 0.8f : 1.0f;
    p->min_p = which == 5 ? 0.05f : 0.0f;
}

/* Who wants to see alternatives is sampled for by the host, who does not by the device. Side by
 * side, with guesses that come true: the same tokens, and the same bits of their logprobs. */
void ec_picked(void **unused) {
    (void)unused;
    int32_t ids[REQUESTS][MOST];
    eng_request *r[2][REQUESTS];
    static eng_params p;
    bench b;
    mdl_model *m = ec_open_model();
    assert_true(mdl_can_pick(m));
    ec_open_engine(&b, m, 2 * REQUESTS, 256, 0);
    for (int i = 0; i < REQUESTS; i++) {
        for (int t = 0; t < MOST; t++)
            ids[i][t] = 3 + t % (5 + i) * 11;
        picked_params(&p, i);
        for (p.logprobs = 0; p.logprobs < 2; p.logprobs++)
            r[p.logprobs][i] = submit(&b, &p, ids[i], (size_t)(30 + 40 * i));
    }
    for (int i = 0; i < REQUESTS; i++) {
        answer *device = read_all(r[0][i]), *host = read_all(r[1][i]);
        assert_int_equal(device->n, 24);
        assert_int_equal(host->n, device->n);
        assert_memory_equal(device->id, host->id, sizeof *host->id * 24);
        assert_true(same_floats(device->logprob, host->logprob, 24));
        eng_request_release(r[0][i]);
        eng_request_release(r[1][i]);
        free(device), free(host);
    }
    eng_close(b.e);
    mdl_close(m);
}

/* ---- sessions ---- */

enum { KEY = 7, TURNS = 4 };

static eng_sessions *open_sessions(mdl_model *m, const char *folder) {
    tnl_error err = {0};
    eng_sessions *st = NULL;
    eng_sessions_params p;
    eng_sessions_params_default(&p);
    p.idle_s = 0;
    p.dir = folder;
    if (eng_sessions_open(&st, m, NULL, &p, &err) != TNL_OK)
        fail_msg("%s", err.msg);
    return st;
}

static eng_lease *take_session(eng_sessions *st, const eng_session_id *id) {
    tnl_error err = {0};
    eng_lease *l = NULL;
    tnl_status s = eng_lease_take(&l, st, KEY, id, &err);
    if (s == TNL_OK && eng_lease_cold(l))
        s = eng_lease_warm(l, &err);
    if (s != TNL_OK)
        fail_msg("%s", err.msg);
    return l;
}

static eng_request *submit_turn(bench *b, eng_lease *l, const eng_params *p, const int32_t *ids,
                                int64_t n) {
    tnl_error err = {0};
    eng_request *r = NULL;
    const eng_job job = {
        .tokens = ids, .n_tokens = (size_t)n, .key = KEY, .params = p, .session = l};
    if (eng_submit(&r, b->e, &job, &err) != TNL_OK)
        fail_msg("%s", err.msg);
    return r;
}

/* One turn of a session; free() the answer. */
static answer *take_turn(bench *b, eng_sessions *st, const eng_session_id *id, const int32_t *ids,
                         int64_t n) {
    eng_params p;
    greedy_params(&p, 20);
    p.ignore_eos = true;
    p.logprobs = 1;
    eng_request *r = submit_turn(b, take_session(st, id), &p, ids, n);
    answer *a = read_all(r);
    eng_request_release(r);
    return a;
}

/* The same turns in two engines: alone and in memory; beside another request, with other steps, and
 * back from the disk between two turns. (Sent whole, a text may give other bits on a device: slices
 * of it that an answer had begun would be whole then.) */
void ec_sessions(void **unused) {
    (void)unused;
    static const int lengths_of[TURNS] = {100, 3, 170, 40};
    int32_t ids[MOST];
    answer *alone[TURNS];
    tnl_error err = {0};
    eng_session_id id;
    static eng_params p;
    bench b;
    char *folder = folder_new();
    mdl_model *m = ec_open_model();
    make_prompt(ids, 1);
    greedy_params(&p, 30);
    for (int way = 0; way < 2; way++) {
        ec_open_engine(&b, m, 2, way ? 200 : 64, 0);
        eng_sessions *st = open_sessions(m, way ? folder : NULL);
        assert_int_equal(eng_session_create(st, KEY, &id, &err), TNL_OK);
        for (int i = 0; i < TURNS; i++) {
            eng_request *beside = way ? submit(&b, &p, ids, 140) : NULL;
            answer *a = take_turn(&b, st, &id, ids + i, lengths_of[i]);
            if (way)
                assert_same_answer(alone[i], a), free(alone[i]), free(a);
            else
                alone[i] = a;
            eng_request_release(beside);
            if (way == 0 || i != TURNS / 2)
                continue;
            eng_close(b.e);
            eng_sessions_close(st);
            st = open_sessions(m, folder);
            ec_open_engine(&b, m, 3, 300, 0);
        }
        eng_close(b.e);
        eng_sessions_close(st);
    }
    mdl_close(m);
    folder_free(folder);
}

/* ---- cancelling ---- */

/* One request that never ends by itself, and is cancelled after so many tokens. */
static void cancel_turn(bench *b, eng_lease *l, const int32_t *ids, int tokens) {
    static eng_params endless;
    eng_event ev;
    greedy_params(&endless, 100000);
    endless.ignore_eos = true;
    eng_request *r = submit_turn(b, l, &endless, ids, 130);
    for (int seen = 0; seen < tokens; seen++) {
        assert_true(eng_request_wait(r, &ev, -1));
        eng_event_clear(&ev);
    }
    eng_request_cancel(r);
    while (eng_request_wait(r, &ev, -1) && ev.kind != ENG_EV_DONE)
        eng_event_clear(&ev);
    assert_int_equal(ev.finish, ENG_FINISH_CANCELLED);
    eng_request_release(r);
}

/* Requests that end early, while read or while answered, leave nothing behind: the session stands
 * where it stood, and who ran beside them has the same bytes. */
void ec_cancelled(void **unused) {
    (void)unused;
    int32_t ids[2][MOST];
    eng_session_id id[2];
    answer *next[2];
    static eng_params p;
    bench b;
    tnl_error err = {0};
    mdl_model *m = ec_open_model();
    make_prompt(ids[0], 4);
    make_prompt(ids[1], 1);
    greedy_params(&p, 16);
    ec_open_engine(&b, m, 3, 32, 0);
    answer *solo = run_one(&b, &p, ids[1], 150);
    eng_sessions *st = open_sessions(m, NULL);
    for (int s = 0; s < 2; s++) { /* the second one sees cancelled turns */
        assert_int_equal(eng_session_create(st, KEY, &id[s], &err), TNL_OK);
        free(take_turn(&b, st, &id[s], ids[0], 50));
        for (int tokens = 0; tokens < 3 && s == 1; tokens++) {
            eng_request *beside = submit(&b, &p, ids[1], 150);
            cancel_turn(&b, take_session(st, &id[s]), ids[0], tokens);
            answer *a = read_all(beside);
            eng_request_release(beside);
            assert_same_answer(solo, a);
            free(a);
        }
        next[s] = take_turn(&b, st, &id[s], ids[0] + 3, 30);
    }
    assert_same_answer(next[0], next[1]);
    check_identity(b.e);
    free(solo), free(next[0]), free(next[1]);
    eng_close(b.e);
    eng_sessions_close(st);
    mdl_close(m);
}
