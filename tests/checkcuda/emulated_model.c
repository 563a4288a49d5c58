/* The CUDA backend under the model, its kernels run by the host: what model_checks.h checks, names
 * of devices, and the device's failures as clear errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/checkcuda/model_checks.h"
#include "tests/checkcuda/runtime_emulated.h"

static void expect_open(const char *device, tnl_status status, const char *words) {
    kn_backend *be;
    tnl_error err = {0};
    assert_int_equal(kn_open(&be, device, 1, NULL, &err), status);
    if (status != TNL_OK) {
        assert_null(be);
        if (!strstr(err.msg, words))
            fail_msg("\"%s\" does not say \"%s\"", err.msg, words);
        return;
    }
    assert_string_equal(be->name, words);
    kn_backend_close(be);
}

static void test_names(void **unused) {
    (void)unused;
    expect_open(NULL, TNL_OK, "cpu");
    expect_open("cpu", TNL_OK, "cpu");
    expect_open("cuda", TNL_OK, "cuda");
    expect_open("cuda:0", TNL_OK, "cuda");
    expect_open("auto", TNL_OK, "cuda");
    expect_open("cuda:1", TNL_E_UNAVAILABLE, "cuda:1: found 1 GPU");
    static const char *const bad[] = {
        "", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cuda:99999999999", "CUDA"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_open(bad[i], TNL_E_USAGE, "expected auto, cpu, cuda or cuda:N");
}

/* Refused when the model is opened, not when it first computes. */
static void test_large_heads(void **unused) {
    (void)unused;
    char path[] = "/tmp/tnl-large-heads-XXXXXX";
    const char *text = "{\"architectures\":[\"TransnormerForCausalLM\"],\"vocab_size\":64,"
                       "\"decoder_layers\":2,\"decoder_embed_dim\":64,"
                       "\"decoder_attention_heads\":1,\"hidden_dim\":160,\"glu_dim\":64,"
                       "\"linear_use_lrpe_list\":[0,0],\"linear_act_fun\":\"swish\","
                       "\"norm_type\":\"simplermsnorm\"}";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    mdl_model *m;
    tnl_error err = {0};
    assert_int_equal(mdl_open_random(&m, path, KN_BF16, "cuda", 1, NULL, 1, &err),
                     TNL_E_UNSUPPORTED);
    unlink(path);
    assert_null(m);
    if (!strstr(err.msg, "160 values, cuda takes at most 256 and 128"))
        fail_msg("%s", err.msg);
}

static void test_out_of_memory(void **unused) {
    (void)unused;
    static const int at[] = {1, 2, 10};
    for (int i = 0; i < 3; i++) {
        mdl_model *m;
        tnl_error err = {0};
        emu_runtime.allocations = at[i];
        assert_int_equal(mc_try_model(&m, "cuda", &err), TNL_E_NOMEM);
        assert_null(m);
        assert_non_null(strstr(err.msg, "cuda: no memory for the weights"));
    }
    mdl_model *m = mc_open_model("cuda");
    mdl_ctx *ctx;
    emu_runtime.allocations = 1;
    assert_int_equal(mdl_ctx_open(&ctx, m, 16, 1, NULL), TNL_E_NOMEM);
    emu_runtime.allocations = 1;
    assert_null(mdl_state_new(m));
    mdl_close(m);
}

/* A device that goes away during a step: an error then and ever after, nothing to clean up. */
static void test_lost_device(void **unused) {
    (void)unused;
    int32_t ids[4];
    mc_token_ids(ids, 4, 9);
    mdl_model *m = mc_open_model("cuda");
    mdl_ctx *ctx = mc_open_ctx(m);
    mdl_state *s = mdl_state_new(m);
    free(mc_feed(ctx, m, s, ids, 2));
    emu_runtime.waits = 1;
    for (int i = 0; i < 2; i++) {
        tnl_error err = {0};
        mdl_seg seg = {.state = s, .tokens = ids + 2, .n_tokens = 2, .want = MDL_WANT_LAST};
        assert_int_equal(mdl_forward(ctx, &seg, 1, &err), TNL_E_INTERNAL);
        assert_non_null(strstr(err.msg, "cuda:0: lost"));
        assert_int_equal(mdl_state_pos(s), 2);
    }
    mdl_state_free(m, s);
    mdl_ctx_close(ctx);
    mdl_close(m);
}

/* No memory for what attention needs beside its operands. */
static void test_no_memory_in_a_step(void **unused) {
    (void)unused;
    int32_t ids[2] = {5, 6};
    mdl_model *m = mc_open_model("cuda");
    mdl_ctx *ctx = mc_open_ctx(m);
    mdl_state *s = mdl_state_new(m);
    tnl_error err = {0};
    emu_runtime.allocations = 1;
    mdl_seg seg = {.state = s, .tokens = ids, .n_tokens = 2, .want = MDL_WANT_LAST};
    assert_int_equal(mdl_forward(ctx, &seg, 1, &err), TNL_E_NOMEM);
    assert_non_null(strstr(err.msg, "cuda:0: "));
    assert_int_equal(mdl_state_pos(s), 0);
    mdl_state_reset(m, s); /* and the next step starts afresh */
    assert_int_equal(mdl_forward(ctx, &seg, 1, &err), TNL_OK);
    mdl_state_free(m, s);
    mdl_ctx_close(ctx);
    mdl_close(m);
}

/* ---- recordings ---- */

enum { TEXTS = 3, STEPS = 5 };

/* The last logits of texts that go on a token at a time, side by side; in between, one alone. */
static float *decode(mdl_model *m, int *recorded, int *replayed) {
    const size_t vocab = (size_t)mdl_model_spec(m)->vocab;
    float *logits = malloc(TEXTS * vocab * sizeof *logits);
    mdl_ctx *ctx = mc_open_ctx(m);
    mdl_state *s[TEXTS];
    int32_t ids[TEXTS][STEPS];
    const emu_faults before = emu_runtime;
    assert_non_null(logits);
    for (int i = 0; i < TEXTS; i++) {
        s[i] = mdl_state_new(m);
        mc_token_ids(ids[i], STEPS, 20 + (uint32_t)i);
        free(mc_feed(ctx, m, s[i], ids[i], 1 + i));
    }
    for (int t = 0; t < STEPS; t++) {
        mdl_seg segs[TEXTS];
        for (int i = 0; i < TEXTS; i++)
            segs[i] = (mdl_seg){
                .state = s[i], .tokens = &ids[i][t], .n_tokens = 1, .want = MDL_WANT_LAST};
        assert_int_equal(mdl_forward(ctx, segs, TEXTS, NULL), TNL_OK);
        for (int i = 0; i < TEXTS; i++)
            memcpy(logits + (size_t)i * vocab, segs[i].logits, vocab * sizeof *logits);
        free(mc_feed(ctx, m, s[t % TEXTS], ids[0], 1));
    }
    for (int i = 0; i < TEXTS; i++)
        mdl_state_free(m, s[i]);
    mdl_ctx_close(ctx);
    *recorded = emu_runtime.recorded - before.recorded;
    *replayed = emu_runtime.replayed - before.replayed;
    return logits;
}

/* A step that is recorded and launched again gives the bytes of one that is not; what refuses to be
 * recorded is launched as ever; what worked in freed memory is forgotten. */
static void test_recordings(void **unused) {
    (void)unused;
    static const struct {
        emu_refusal refused;
        int recorded, replayed;
    } ways[] = {{EMU_NEVER, 2, 9}, {EMU_AT_BEGIN, 2, 0}, {EMU_AT_END, 2, 0}, {EMU_NEVER, 2, 9}};
    mdl_model *m = mc_open_model("cuda");
    const size_t bytes = TEXTS * (size_t)mdl_model_spec(m)->vocab * sizeof(float);
    float *first = NULL;
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        int recorded, replayed;
        emu_runtime.record_refused = ways[w].refused;
        float *got = decode(m, &recorded, &replayed);
        assert_int_equal(recorded, ways[w].recorded);
        assert_int_equal(replayed, ways[w].replayed);
        if (first)
            assert_memory_equal(got, first, bytes);
        else
            first = got;
        if (got != first)
            free(got);
    }
    emu_runtime.record_refused = EMU_NEVER;
    free(first);
    mdl_close(m);
}

/* ---- sampling ---- */

static int32_t largest(const float *x, int64_t n) {
    int64_t at = 0;
    for (int64_t i = 1; i < n; i++)
        at = x[i] > x[at] ? i : at;
    return (int32_t)at;
}

/* One token of each text, sampled beside the model as `how` says; NULL: by nobody. Returns the
 * bytes that were copied. */
static size_t pick_step(mdl_ctx *ctx, mdl_model *m, mdl_state *const *s, mdl_seg *segs,
                        const kn_pick_how *const *how) {
    static const int32_t ids[TEXTS] = {50, 60, 70};
    const size_t before = emu_runtime.copied;
    for (int i = 0; i < TEXTS; i++) {
        mdl_state_reset(m, s[i]);
        segs[i] = (mdl_seg){.state = s[i],
                            .tokens = &ids[i],
                            .n_tokens = 1,
                            .want = MDL_WANT_LAST,
                            .picks = how[i]};
    }
    assert_int_equal(mdl_forward(ctx, segs, TEXTS, NULL), TNL_OK);
    return emu_runtime.copied - before;
}

/* Rows that are sampled beside the model stay there; the others are as they were. */
static void test_picks(void **unused) {
    (void)unused;
    static const kn_pick_how greedy = {.kind = KN_PICK_GREEDY}, only_look = {.kind = KN_PICK_LOOK};
    static const kn_pick_how *const nobody[TEXTS];
    static const kn_pick_how *const all[TEXTS] = {&greedy, &greedy, &greedy};
    static const kn_pick_how *const some[TEXTS] = {&greedy, NULL, &only_look};
    mdl_model *m = mc_open_model("cuda");
    mdl_ctx *ctx = mc_open_ctx(m);
    const int64_t vocab = mdl_model_spec(m)->vocab;
    const size_t bytes = (size_t)vocab * sizeof(float);
    float *logits = malloc(TEXTS * bytes);
    mdl_state *s[TEXTS];
    mdl_seg segs[TEXTS];
    assert_non_null(logits);
    assert_true(mdl_can_pick(m));
    for (int i = 0; i < TEXTS; i++)
        s[i] = mdl_state_new(m);
    assert_true(pick_step(ctx, m, s, segs, nobody) > TEXTS * bytes);
    for (int i = 0; i < TEXTS; i++) {
        assert_null(segs[i].picked);
        memcpy(logits + i * vocab, segs[i].logits, bytes);
    }
    assert_true(pick_step(ctx, m, s, segs, all) < bytes);
    for (int i = 0; i < TEXTS; i++) {
        assert_true(segs[i].picked[0].finite && segs[i].picked[0].logprob < 0);
        assert_int_equal(segs[i].picked[0].id, largest(logits + i * vocab, vocab));
    }
    const size_t copied = pick_step(ctx, m, s, segs, some);
    assert_true(copied > 2 * bytes && copied < 3 * bytes);
    assert_int_equal(segs[0].picked[0].id, largest(logits, vocab));
    assert_null(segs[1].picked);
    assert_int_equal(segs[2].picked[0].id, -1);
    for (int i = 1; i < TEXTS; i++)
        assert_memory_equal(segs[i].logits, logits + i * vocab, bytes);
    for (int i = 0; i < TEXTS; i++)
        mdl_state_free(m, s[i]);
    free(logits);
    mdl_ctx_close(ctx);
    mdl_close(m);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fputs("usage: emulated_model MODEL_DIR|CONFIG.json\n", stderr);
        return 2;
    }
    mc_source = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mc_near_cpu),      cmocka_unit_test(mc_same_bytes),
        cmocka_unit_test(mc_prompt_slices), cmocka_unit_test(test_names),
        cmocka_unit_test(test_large_heads), cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_lost_device), cmocka_unit_test(test_no_memory_in_a_step),
        cmocka_unit_test(test_recordings),  cmocka_unit_test(test_picks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
