/* The engine over a small real model with random weights (and a real tokenizer): an answer is the
 * same bits alone, among others, whatever the step size, the slot and the number of threads, and
 * whether or not its tokens were guessed; a slot that somebody has used gives what a fresh process
 * gives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <unistd.h>

#include "engine_bench.h"

static const char shape[] =
    "{\"architectures\": [\"TransnormerForCausalLM\"], \"model_type\": \"transnormer\","
    " \"vocab_size\": 700, \"decoder_layers\": 3, \"decoder_embed_dim\": 48,"
    " \"decoder_attention_heads\": 3, \"hidden_dim\": 48, \"glu_dim\": 64,"
    " \"linear_use_lrpe_list\": [1, 0, 0], \"linear_act_fun\": \"swish\","
    " \"norm_type\": \"simplermsnorm\", \"no_scale_embedding\": false, \"bias\": false,"
    " \"add_bos_token\": false, \"pad_token_id\": 0, \"bos_token_id\": 1, \"eos_token_id\": 2,"
    " \"torch_dtype\": \"bfloat16\"}\n";

static tok_model *open_tokenizer(void) {
#ifdef TNL_HAVE_TOKENIZER
    char dir[512];
    tok_model *t = NULL;
    tnl_error err = {0};
    const char *root = getenv("TNL_TEST_ROOT");
    snprintf(dir, sizeof dir, "%s/tests/data/tok_bpe", root ? root : ".");
    if (tok_open(&t, dir, &err) != TNL_OK)
        fail_msg("%s", err.msg);
    return t;
#else
    return NULL;
#endif
}

static void close_tokenizer(tok_model *t) {
#ifdef TNL_HAVE_TOKENIZER
    tok_close(t);
#else
    assert_null(t);
#endif
}

static mdl_model *open_model(kn_dtype dtype, int threads) {
    char path[] = "/tmp/tnl-shape-XXXXXX";
    tnl_error err = {0};
    mdl_model *m = NULL;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, shape, sizeof shape - 1), sizeof shape - 1);
    close(fd);
    tnl_status st = mdl_open_random(&m, path, dtype, NULL, threads, NULL, 11, &err);
    unlink(path);
    if (st != TNL_OK)
        fail_msg("%s", err.msg);
    return m;
}

/* Guesses, if any, are worth a row at almost any chance. */
static void open_engine(bench *b, mdl_model *m, tok_model *t, int parallel, int64_t step_tokens,
                        int speculate) {
    tnl_error err = {0};
    memset(b, 0, sizeof *b);
    eng_open_params_default(&b->o);
    b->o.model = m;
    b->o.tokenizer = t;
    b->o.parallel = parallel;
    b->o.step_tokens = step_tokens;
    b->o.speculate = speculate;
    b->o.row_cost = 0.001;
    if (eng_open(&b->e, &b->o, &err) != TNL_OK)
        fail_msg("%s", err.msg);
}

enum { REQUESTS = 16 };

static spec *random_specs(void) {
    uint64_t g = 0xBADC0DE5u;
    print_message("seed %llu\n", (unsigned long long)g);
    spec *specs = calloc(REQUESTS, sizeof *specs);
    assert_non_null(specs);
    for (int i = 0; i < REQUESTS; i++) {
        random_spec(&specs[i], &g);
        specs[i].p.max_tokens = 1 + (int64_t)(next_random(&g) % (i % 4 ? 50 : 200));
    }
    return specs;
}

static void run_crowd(bench *b, const spec *specs, answer **out) {
    eng_request *r[REQUESTS];
    for (int i = 0; i < REQUESTS; i++)
        r[i] = submit(b, &specs[i].p, specs[i].tokens, specs[i].n);
    for (int i = 0; i < REQUESTS; i++) {
        out[i] = read_all(r[i]);
        eng_request_release(r[i]);
    }
    check_identity(b->e);
}

static uint64_t accepted_tokens(bench *b) {
    eng_metrics m;
    eng_metrics_get(b->e, &m);
    return m.accepted_tokens;
}

static void compare(kn_dtype dtype) {
    tok_model *t = open_tokenizer();
    spec *specs = random_specs();
    answer *solo[REQUESTS], *crowd[REQUESTS];
    uint64_t accepted = 0;
    for (int threads = 1; threads <= 2; threads++) {
        bench b;
        mdl_model *m = open_model(dtype, threads);
        for (int i = 0; i < REQUESTS && threads == 1; i++) {
            open_engine(&b, m, t, 1, 256, 0); /* a fresh engine for each: the plain truth */
            solo[i] = run_one(&b, &specs[i].p, specs[i].tokens, specs[i].n);
            eng_close(b.e);
        }
        for (int64_t step = 16; step <= 400; step = step * 3 + 1) {
            open_engine(&b, m, t, step == 16 ? 5 : 16, step, step == 49 ? 4 : 15);
            run_crowd(&b, specs, crowd);
            accepted += accepted_tokens(&b);
            for (int i = 0; i < REQUESTS; i++) {
                assert_same_answer(solo[i], crowd[i]);
                free(crowd[i]);
            }
            eng_close(b.e);
        }
        mdl_close(m);
    }
    print_message("%llu guesses came true\n", (unsigned long long)accepted);
    assert_true(accepted > 100);
    size_t bytes = 0;
    for (int i = 0; i < REQUESTS; i++) {
        bytes += solo[i]->text_len;
        free(solo[i]);
    }
    assert_true(bytes > 0 || !t);
    free(specs);
    close_tokenizer(t);
}

static void f32_answers(void **state) {
    (void)state;
    compare(KN_F32);
}

static void bf16_answers(void **state) {
    (void)state;
    compare(KN_BF16);
}

int main(void) {
    alarm(110);
    setenv("TNL_POISON", "1", 1); /* states given back are NaNs until reset */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_answers),
        cmocka_unit_test(bf16_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
