/* The CUDA backend under the model: logits near the CPU's; decodes that do not depend on the batch
 * or on slices; states that can be copied, undone, exported and imported. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/forward.h"
#include "tests/checkcuda/model_checks.h"

const char *mc_source;

tnl_status mc_try_model(mdl_model **out, const char *device, tnl_error *err) {
    const size_t n = strlen(mc_source);
    if (n > 5 && strcmp(mc_source + n - 5, ".json") == 0)
        return mdl_open_random(out, mc_source, KN_BF16, device, 1, NULL, 11, err);
    return mdl_open(out, &(mdl_open_params){.dir = mc_source, .device = device, .threads = 1}, err);
}

mdl_model *mc_open_model(const char *device) {
    mdl_model *m;
    tnl_error err = {0};
    if (mc_try_model(&m, device, &err) != TNL_OK)
        fail_msg("%s", err.msg);
    return m;
}

mdl_ctx *mc_open_ctx(mdl_model *m) {
    mdl_ctx *ctx;
    assert_int_equal(mdl_ctx_open(&ctx, m, 320, 8, NULL), TNL_OK);
    return ctx;
}

void mc_token_ids(int32_t *ids, int n, uint32_t seed) {
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)((seed = seed * 1664525u + 1013904223u) >> 8) % 500 + 3;
}

/* The logits after these tokens, malloc'd. */
float *mc_feed(mdl_ctx *ctx, const mdl_model *m, mdl_state *s, const int32_t *ids, int n) {
    mdl_seg seg = {.state = s, .tokens = ids, .n_tokens = n, .want = MDL_WANT_LAST};
    tnl_error err = {0};
    if (mdl_forward(ctx, &seg, 1, &err) != TNL_OK)
        fail_msg("%s", err.msg);
    assert_false(seg.nonfinite);
    const size_t bytes = (size_t)mdl_model_spec(m)->vocab * sizeof(float);
    float *copy = malloc(bytes);
    assert_non_null(copy);
    memcpy(copy, seg.logits, bytes);
    return copy;
}

static void assert_near(const float *a, const float *b, int64_t n, double share) {
    double off = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        off += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    if (!(off <= share * share * size))
        fail_msg("off by %g of the logits, allowed %g", sqrt(off / size), share);
}

void mc_near_cpu(void **unused) {
    (void)unused;
    enum { N = 50 };
    static const int slices[] = {45, 1, 3, 1};
    int32_t ids[N];
    mc_token_ids(ids, N, 5);
    mdl_model *m[2] = {mc_open_model("cpu"), mc_open_model("cuda")};
    float *logits[2][4];
    for (int d = 0; d < 2; d++) {
        mdl_ctx *ctx = mc_open_ctx(m[d]);
        mdl_state *s = mdl_state_new(m[d]);
        for (int i = 0, at = 0; i < 4; at += slices[i++])
            logits[d][i] = mc_feed(ctx, m[d], s, ids + at, slices[i]);
        assert_int_equal(mdl_state_pos(s), N);
        mdl_state_free(m[d], s);
        mdl_ctx_close(ctx);
    }
    for (int i = 0; i < 4; i++) {
        assert_near(logits[1][i], logits[0][i], mdl_model_spec(m[0])->vocab, 0.02);
        free(logits[0][i]);
        free(logits[1][i]);
    }
    mdl_close(m[0]);
    mdl_close(m[1]);
}

/* Up to a block at a time, a text gives the same bytes whole, row by row and beside others; also
 * when a part of it was guessed, forgotten and fed again. */
void mc_same_bytes(void **unused) {
    (void)unused;
    enum { N = 12 };
    int32_t ids[2][N];
    mc_token_ids(ids[0], N, 1);
    mc_token_ids(ids[1], N, 2);
    mdl_model *m = mc_open_model("cuda");
    mdl_ctx *ctx = mc_open_ctx(m);
    const size_t bytes = (size_t)mdl_model_spec(m)->vocab * sizeof(float);
    mdl_state *s[4];
    for (int i = 0; i < 4; i++)
        s[i] = mdl_state_new(m);
    float *whole = mc_feed(ctx, m, s[0], ids[0], N), *by_row = NULL;
    for (int i = 0; i < N; i++) {
        free(by_row);
        by_row = mc_feed(ctx, m, s[1], ids[0] + i, 1);
    }
    assert_memory_equal(whole, by_row, bytes);
    free(mc_feed(ctx, m, s[2], ids[0], N - 3));
    mdl_state_copy(m, s[3], s[2]);
    free(mc_feed(ctx, m, s[3], ids[1], 3)); /* a wrong guess */
    assert_int_equal(mdl_state_truncate(m, s[3], N - 3), TNL_OK);
    mdl_seg segs[2] = {
        {.state = s[3], .tokens = ids[0] + N - 3, .n_tokens = 3, .want = MDL_WANT_LAST},
        {.state = s[2], .tokens = ids[1], .n_tokens = N, .want = MDL_WANT_LAST}};
    assert_int_equal(mdl_forward(ctx, segs, 2, NULL), TNL_OK);
    assert_memory_equal(segs[0].logits, whole, bytes);

    const size_t n = mdl_state_export_bytes(m);
    void *a = malloc(n), *b = malloc(n);
    assert_true(a && b);
    mdl_state_export(m, s[0], a);
    mdl_state_export(m, s[3], b);
    assert_memory_equal(a, b, n);
    assert_int_equal(mdl_state_import(m, s[2], a, n, NULL), TNL_OK);
    float *from_file = mc_feed(ctx, m, s[2], ids[1], 1), *direct = mc_feed(ctx, m, s[0], ids[1], 1);
    assert_memory_equal(from_file, direct, bytes);
    free(a), free(b), free(whole), free(by_row), free(from_file), free(direct);
    for (int i = 0; i < 4; i++)
        mdl_state_free(m, s[i]);
    mdl_ctx_close(ctx);
    mdl_close(m);
}

/* Bytes depend on which slices were whole, not on what else a segment held nor what lay beside it;
 * and whole slices are near the CPU's. */
void mc_prompt_slices(void **unused) {
    (void)unused;
    enum { WAYS = 3, N = 150 };
    static const int cuts[WAYS][5] = {{N}, {128, 22}, {128, 3, 18, 1}};
    int32_t ids[N];
    mc_token_ids(ids, N, 3);
    mdl_model *m = mc_open_model("cuda"), *cpu = mc_open_model("cpu");
    assert_int_equal(mdl_prompt_slice(m), 128);
    assert_int_equal(mdl_prompt_slice(cpu), 0);
    mdl_ctx *ctx = mc_open_ctx(m), *cpu_ctx = mc_open_ctx(cpu);
    const int64_t vocab = mdl_model_spec(m)->vocab;
    mdl_state *s = mdl_state_new(m), *other = mdl_state_new(m), *cpu_s = mdl_state_new(cpu);
    float *plain = mc_feed(cpu_ctx, cpu, cpu_s, ids, N), *first = NULL;
    for (int w = 0; w < WAYS; w++) {
        float *got = NULL;
        mdl_state_reset(m, s);
        for (int i = 0, at = 0; at < N; at += cuts[w][i++]) {
            free(got);
            got = mc_feed(ctx, m, s, ids + at, cuts[w][i]);
        }
        assert_near(got, plain, vocab, 0.02);
        if (first)
            assert_memory_equal(got, first, (size_t)vocab * sizeof *got);
        else
            first = got;
        if (got != first)
            free(got);
    }
    mdl_state_reset(m, s);
    mdl_seg segs[2] = {{.state = other, .tokens = ids + 5, .n_tokens = 137, .want = MDL_WANT_LAST},
                       {.state = s, .tokens = ids, .n_tokens = N, .want = MDL_WANT_LAST}};
    assert_int_equal(mdl_forward(ctx, segs, 2, NULL), TNL_OK);
    assert_memory_equal(segs[1].logits, first, (size_t)vocab * sizeof *first);
    free(first), free(plain);
    mdl_state_free(m, s), mdl_state_free(m, other), mdl_state_free(cpu, cpu_s);
    mdl_ctx_close(ctx), mdl_ctx_close(cpu_ctx);
    mdl_close(m), mdl_close(cpu);
}
