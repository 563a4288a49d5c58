/* What guessing ahead and known prefixes rest on. Guesses, true and wrong ones and ones that make a
 * NaN, are absorbed behind a sure token and forgotten; rows and state stay those of the sequence
 * read token by token. A state kept as its matrices alone goes on from the last block boundary. */
#include "prop.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH = PROP_SANITIZED ? 120 : 300, MAX_GUESSES = 80 };

/* Guesses behind token `at`: true for a while, then not. Returns how many are true. */
static int64_t guess(const prop_model *p, prop_rng *r, const prop_run *want, int64_t at,
                     int32_t *feed, int64_t n) {
    int64_t good = prop_below(r, n + 1);
    prop_tokens(r, feed + 1, n, p->vocab);
    feed[0] = want->tokens[at];
    for (int64_t i = 1; i <= good; i++)
        feed[i] = at + i < want->n ? want->tokens[at + i] : feed[i];
    for (good = 0; good < n && at + good + 1 < want->n; good++)
        if (feed[good + 1] != want->tokens[at + good + 1])
            break;
    return good;
}

static int64_t most_guesses(const prop_model *p, int64_t at, int64_t length) {
    int64_t spare = mdl_state_spare(p->m, at + 1);
    assert_true(spare >= 0 && spare < p->block && spare <= MAX_GUESSES);
    assert_int_equal((at + 1 + spare) % p->block, p->block - 1);
    return spare < length - at - 1 ? spare : length - at - 1;
}

static bool check_guesses(const prop_model *p, prop_rng *r) {
    int32_t feed[1 + MAX_GUESSES];
    prop_run want = prop_oracle(p, r, LENGTH);
    mdl_state *s = prop_state(p);
    int64_t wrong = 0;
    for (int64_t at = 0; at < LENGTH;) {
        int64_t n = prop_below(r, most_guesses(p, at, LENGTH) + 1);
        int64_t good = guess(p, r, &want, at, feed, n);
        prop_poison_unused(p, s);
        mdl_seg seg = prop_step(p, s, feed, 1 + n, MDL_WANT_ALL);
        assert_false(seg.nonfinite);
        assert_int_equal(seg.n_finite, 1 + n);
        seg.n_tokens = 1 + good; /* rows behind them are not the sequence's */
        prop_same_rows(p, &want, at, &seg, "beside guesses");
        assert_int_equal(mdl_state_truncate(p->m, s, at + 1 + good), TNL_OK);
        wrong += n - good;
        at += 1 + good;
    }
    assert_true(wrong > 20);
    prop_same_state(p, want.state, s, "after guesses");
    prop_drop(p, s);
    prop_run_free(&want);
    return true;
}

/* A weight of the embedding row of one token is made a NaN: a guess of it must do no harm. Where
 * that row is a row of the head too, logits are not asked for. */
static bool check_bad_guess(const prop_model *p, prop_rng *r) {
    int32_t feed[1 + MAX_GUESSES], tokens[LENGTH], bad = (int32_t)(p->vocab - 1);
    const kn_tensor *table = &mdl_model_weights(p->m)->global.m[MDL_R_EMBED];
    if (table->dtype != KN_F32)
        return false;
    prop_tokens(r, tokens, LENGTH, p->vocab - 1);
    prop_run want = prop_oracle_of(p, tokens, LENGTH);
    mdl_want rows = mdl_model_spec(p->m)->tied ? MDL_WANT_NONE : MDL_WANT_ALL;
    float *weight = (float *)(uintptr_t)table->data + (int64_t)bad * table->cols, was = *weight;
    mdl_state *s = prop_state(p);
    for (int64_t at = 0; at < LENGTH;) {
        int64_t n = most_guesses(p, at, LENGTH), first = n > 0 ? prop_below(r, n) : 0;
        for (int64_t i = 0; i <= n; i++)
            feed[i] = want.tokens[at + i];
        if (n > 0)
            feed[1 + first] = bad;
        *weight = NAN;
        mdl_seg seg = prop_step(p, s, feed, 1 + n, rows);
        *weight = was;
        assert_int_equal(seg.nonfinite, n > 0);
        int64_t sound = n > 0 ? 1 + first : 1;
        assert_int_equal(seg.n_finite, sound);
        seg.n_tokens = sound;
        if (rows == MDL_WANT_ALL)
            prop_same_rows(p, &want, at, &seg, "in front of a bad guess");
        assert_int_equal(mdl_state_truncate(p->m, s, at + sound), TNL_OK);
        at += sound;
    }
    prop_same_state(p, want.state, s, "after bad guesses");
    prop_drop(p, s);
    prop_run_free(&want);
    return true;
}

static bool check_core(const prop_model *p, prop_rng *r) {
    prop_run want = prop_oracle(p, r, LENGTH);
    mdl_state *s = prop_state(p), *t = prop_state(p);
    size_t bytes = mdl_state_core_bytes(p->m);
    void *core = malloc(bytes);
    assert_non_null(core);
    assert_int_equal(mdl_state_block(p->m), p->block);
    assert_true(bytes < mdl_state_bytes(p->m));
    for (int i = 0; i < 6; i++) {
        int64_t at = prop_below(r, LENGTH), boundary = at / p->block * p->block;
        mdl_state_reset(p->m, s);
        if (at > 0)
            prop_step(p, s, want.tokens, at, MDL_WANT_NONE);
        prop_poison_unused(p, s);
        mdl_state_core_save(p->m, s, core);
        prop_poison_state(p, t);
        mdl_state_reset(p->m, t);
        mdl_state_core_load(p->m, t, core, boundary);
        prop_poison_unused(p, t);
        assert_int_equal(mdl_state_pos(t), boundary);
        mdl_seg seg = prop_step(p, t, want.tokens + boundary, LENGTH - boundary, MDL_WANT_ALL);
        prop_same_rows(p, &want, boundary, &seg, "from a kept state");
        prop_same_state(p, want.state, t, "from a kept state");
    }
    free(core);
    prop_drop(p, s);
    prop_drop(p, t);
    prop_run_free(&want);
    return true;
}

/* A check says whether the model was one for it. */
static void for_all_models(bool (*check)(const prop_model *p, prop_rng *r)) {
    int n, checked = 0;
    const prop_case *cases = prop_cases(&n);
    for (int i = 0; i < n; i++) {
        prop_rng r = {prop_seed() + (uint64_t)i};
        prop_model p = prop_open(&cases[i], 1 + i % 2);
        checked += check(&p, &r);
        prop_close(&p);
    }
    assert_true(checked > 0);
}

static void test_guesses(void **unused) {
    (void)unused;
    for_all_models(check_guesses);
}

static void test_bad_guesses(void **unused) {
    (void)unused;
    for_all_models(check_bad_guess);
}

static void test_cores(void **unused) {
    (void)unused;
    for_all_models(check_core);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_guesses),
        cmocka_unit_test(test_bad_guesses),
        cmocka_unit_test(test_cores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
