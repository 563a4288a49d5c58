/* The engine over the CUDA backend, its kernels run by the host: a request gives the same bytes
 * alone and among others, with small and large steps, and whether or not the beginning of its
 * prompt is known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/engine_bench.h"

enum { REQUESTS = 6, ROUNDS = 2, MOST = 300 };

static const char shape[] =
    "{\"architectures\": [\"TransnormerForCausalLM\"], \"model_type\": \"transnormer\","
    " \"vocab_size\": 200, \"decoder_layers\": 2, \"decoder_embed_dim\": 32,"
    " \"decoder_attention_heads\": 2, \"hidden_dim\": 32, \"glu_dim\": 32,"
    " \"linear_use_lrpe_list\": [1, 0], \"linear_act_fun\": \"swish\","
    " \"norm_type\": \"simplermsnorm\", \"no_scale_embedding\": false, \"bias\": false,"
    " \"add_bos_token\": false, \"pad_token_id\": 0, \"bos_token_id\": 1, \"eos_token_id\": 2,"
    " \"torch_dtype\": \"bfloat16\"}\n";

static mdl_model *open_model(void) {
    char path[] = "/tmp/tnl-shape-XXXXXX";
    tnl_error err = {0};
    mdl_model *m = NULL;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, shape, sizeof shape - 1), sizeof shape - 1);
    close(fd);
    tnl_status st = mdl_open_random(&m, path, KN_BF16, "cuda", 1, NULL, 11, &err);
    unlink(path);
    if (st != TNL_OK)
        fail_msg("%s", err.msg);
    return m;
}

static void open_engine(bench *b, mdl_model *m, int parallel, int64_t step_tokens,
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

static void same_bytes(void **unused) {
    (void)unused;
    static int32_t ids[REQUESTS][MOST];
    static const int64_t steps[ROUNDS] = {16, 400};
    answer *solo[REQUESTS];
    eng_params p;
    bench b;
    mdl_model *m = open_model();
    greedy_params(&p, 12);
    p.logprobs = 1;
    for (int i = 0; i < REQUESTS; i++) {
        make_prompt(ids[i], i);
        open_engine(&b, m, 1, 256, 0);
        solo[i] = run_one(&b, &p, ids[i], (size_t)lengths[i]);
        eng_close(b.e);
    }
    for (int round = 0; round < ROUNDS; round++) {
        open_engine(&b, m, round ? 6 : 3, steps[round], 64 << 20);
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
static void continued(void **unused) {
    (void)unused;
    enum { SHORT = 100, FIRST = 150, ANSWER = 12 };
    int32_t ids[MOST];
    answer *a, *got[2];
    eng_params p;
    bench b;
    mdl_model *m = open_model();
    greedy_params(&p, ANSWER);
    p.ignore_eos = true;
    for (int known = 0; known < 2; known++) {
        make_prompt(ids, 4);
        open_engine(&b, m, 2, 256, known ? 64 << 20 : 0);
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

int main(void) {
    alarm(250);
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_bytes), cmocka_unit_test(continued)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
