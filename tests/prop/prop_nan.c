/* A state gone bad stays with its owner: that segment is flagged, its 31 neighbours give the bytes
 * they give alone, and the slot is sound again after a reset. Denormal states give the same bytes
 * on every path. */
#include "prop.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEGS = PROP_SANITIZED ? 8 : 32, HISTORY = 75, BAD_VALUES = PROP_SANITIZED ? 1 : 3 };

/* 32 sequences in the middle of their lives, and what each must give next. */
typedef struct crowd {
    prop_run runs[SEGS];
    int64_t next[SEGS]; /* tokens of the coming step */
    mdl_state *states[SEGS];
    mdl_state *saved[SEGS]; /* as of HISTORY */
} crowd;

static void gather(crowd *c, const prop_model *p, prop_rng *r, bool decode) {
    for (int i = 0; i < SEGS; i++) {
        c->next[i] = decode ? 1 : 1 + prop_below(r, 20);
        c->runs[i] = prop_oracle(p, r, HISTORY + c->next[i]);
        c->saved[i] = prop_state(p);
        c->states[i] = prop_state(p);
        prop_step(p, c->saved[i], c->runs[i].tokens, HISTORY, MDL_WANT_NONE);
    }
}

static void scatter(crowd *c, const prop_model *p) {
    for (int i = 0; i < SEGS; i++) {
        prop_run_free(&c->runs[i]);
        prop_drop(p, c->states[i]);
        prop_drop(p, c->saved[i]);
    }
}

static mdl_seg segment(crowd *c, int i, mdl_want want) {
    return (mdl_seg){.state = c->states[i],
                     .tokens = c->runs[i].tokens + HISTORY,
                     .n_tokens = c->next[i],
                     .want = want};
}

/* Step all with one bad state; check who is flagged and what the others give. */
static void check_poisoned(crowd *c, const prop_model *p, prop_rng *r, int layer, prop_part part,
                           float bad, mdl_want want) {
    const kn_linattn_dims *d = &mdl_model_spec(p->m)->layers[layer].dims;
    int victim = (int)prop_below(r, SEGS), head = (int)prop_below(r, d->H);
    int rows = part == PROP_S ? d->Dk : HISTORY % p->block;
    int cols = part == PROP_K ? d->Dk : d->Dv;
    mdl_seg segs[SEGS];
    tnl_error err = {0};
    for (int i = 0; i < SEGS; i++) {
        mdl_state_copy(p->m, c->states[i], c->saved[i]);
        segs[i] = segment(c, i, i == victim ? want : MDL_WANT_ALL);
    }
    *prop_element(p, c->states[victim], layer, head, part, (int)prop_below(r, rows),
                  (int)prop_below(r, cols)) = bad;
    assert_int_equal(mdl_forward(p->ctx, segs, SEGS, &err), TNL_OK);
    for (int i = 0; i < SEGS; i++) {
        if (segs[i].nonfinite != (i == victim))
            fail_msg("segment %d is%s flagged, the bad one is %d (layer %d, part %d, %f)", i,
                     segs[i].nonfinite ? "" : " not", victim, layer, part, (double)bad);
        if (i == victim)
            continue;
        prop_same_rows(p, &c->runs[i], HISTORY, &segs[i], "beside a bad state");
        prop_same_state(p, c->runs[i].state, c->states[i], "beside a bad state");
    }
    /* the slot is sound again */
    mdl_state_reset(p->m, c->states[victim]);
    mdl_seg again = prop_step(p, c->states[victim], c->runs[victim].tokens, c->runs[victim].n,
                              MDL_WANT_ALL);
    assert_false(again.nonfinite);
    prop_same_rows(p, &c->runs[victim], 0, &again, "slot reused");
    prop_same_state(p, c->runs[victim].state, c->states[victim], "slot reused");
}

static void test_containment(void **unused) {
    (void)unused;
    int n;
    const prop_case *cases = prop_cases(&n);
    const float bad[] = {NAN, INFINITY, -INFINITY};
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        prop_rng r = {prop_seed() + 5000 + (uint64_t)i};
        prop_model p = prop_open(&cases[i], 1 + i % 2);
        for (int decode = 0; decode < 2; decode++) {
            crowd c;
            gather(&c, &p, &r, decode);
            for (int layer = 0; layer < cases[i].layers; layer++)
                for (int part = PROP_S; part <= PROP_V; part++)
                    for (int b = 0; b < BAD_VALUES; b++)
                        check_poisoned(&c, &p, &r, layer, (prop_part)part, bad[b],
                                       (mdl_want)prop_below(&r, 3));
            scatter(&c, &p);
        }
        prop_close(&p);
    }
}

/* A bad value among pending rows is folded into S at the block's end: it must stay flagged. */
static void test_flag_survives_the_fold(void **unused) {
    (void)unused;
    int n;
    const prop_case *cases = prop_cases(&n);
    for (int i = 0; i < n; i++) {
        prop_rng r = {prop_seed() + 6000 + (uint64_t)i};
        prop_model p = prop_open(&cases[i], 1);
        mdl_state *s = prop_state(&p);
        int32_t tokens[300];
        prop_tokens(&r, tokens, 300, p.vocab);
        prop_step(&p, s, tokens, p.block - 2, MDL_WANT_NONE);
        *prop_element(&p, s, 0, 0, PROP_V, 0, 0) = NAN;
        for (int t = 0; t < 5; t++)
            assert_true(prop_step(&p, s, tokens + t, 1, MDL_WANT_NONE).nonfinite);
        assert_true(prop_step(&p, s, tokens, 300, MDL_WANT_LAST).nonfinite);
        prop_drop(&p, s);
        prop_close(&p);
    }
}

/* S scaled down to where floats lose digits: whole and one by one, on one thread and two. */
static void test_denormals(void **unused) {
    (void)unused;
    int n;
    const prop_case *cases = prop_cases(&n);
    int32_t tokens[150];
    for (int i = 0; i < n; i++) {
        prop_rng r = {prop_seed() + 7000 + (uint64_t)i};
        prop_model one = prop_open(&cases[i], 1), two = prop_open(&cases[i], 2);
        mdl_state *a = prop_state(&one), *b = prop_state(&one), *c = prop_state(&two);
        const kn_linattn_dims *d = &mdl_model_spec(one.m)->layers[0].dims;
        prop_tokens(&r, tokens, 150, one.vocab);
        prop_step(&one, a, tokens, one.block, MDL_WANT_NONE);
        for (int h = 0; h < d->H; h++) {
            float *S = prop_element(&one, a, 0, h, PROP_S, 0, 0);
            for (int j = 0; j < d->Dk * d->Dv; j++)
                S[j] *= 1e-38f;
        }
        mdl_state_copy(one.m, b, a);
        mdl_state_copy(one.m, c, a);
        assert_false(prop_step(&one, a, tokens, 150, MDL_WANT_NONE).nonfinite);
        for (int t = 0; t < 150; t++)
            prop_step(&one, b, tokens + t, 1, MDL_WANT_NONE);
        prop_step(&two, c, tokens, 150, MDL_WANT_NONE);
        void *want = prop_export(&one, a);
        prop_same_state(&one, want, b, "denormals, one by one");
        prop_same_state(&two, want, c, "denormals, two threads");
        free(want);
        prop_drop(&one, a);
        prop_drop(&one, b);
        prop_drop(&two, c);
        prop_close(&one);
        prop_close(&two);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_containment),
        cmocka_unit_test(test_flag_survives_the_fold),
        cmocka_unit_test(test_denormals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
