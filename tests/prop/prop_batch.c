/* A sequence gives the same bytes alone and in company, whatever the company, the order of the
 * batch, the slot it sits in, who sat there before, and the number of threads. */
#include "prop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COMPANY = 16, MAX_SEGS = 32 };

/* One sequence on its way through a slot. */
typedef struct seat {
    const prop_run *run;
    int64_t done;
    mdl_state *state;
} seat;

static void shuffle(prop_rng *r, int *order, int n) {
    for (int i = 0; i < n; i++)
        order[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int j = (int)prop_below(r, i + 1), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
}

/* A slice for this step: mostly decodes, sometimes nothing, sometimes much. */
static int64_t draw_len(prop_rng *r, int64_t left, int block) {
    int64_t kind = prop_below(r, 8), n;
    if (kind < 4)
        n = 1;
    else if (kind == 4)
        n = 0;
    else if (kind == 5)
        n = block - 1 + prop_below(r, 3);
    else
        n = prop_below(r, 2 * block);
    return n < left ? n : left;
}

/* One step over the seats in a random order; every row that is wanted is compared. */
static void step_seats(const prop_model *p, prop_rng *r, seat *seats, int n, const char *what) {
    int order[MAX_SEGS];
    mdl_seg segs[MAX_SEGS];
    tnl_error err = {0};
    shuffle(r, order, n);
    for (int i = 0; i < n; i++) {
        seat *s = &seats[order[i]];
        segs[i] = (mdl_seg){.state = s->state,
                            .tokens = s->run->tokens + s->done,
                            .n_tokens = draw_len(r, s->run->n - s->done, p->block),
                            .want = (mdl_want)prop_below(r, 3)};
    }
    if (mdl_forward(p->ctx, segs, n, &err) != TNL_OK)
        fail_msg("%s: %s", what, err.msg);
    for (int i = 0; i < n; i++) {
        seat *s = &seats[order[i]];
        assert_false(segs[i].nonfinite);
        prop_same_rows(p, s->run, s->done, &segs[i], what);
        s->done += segs[i].n_tokens;
        assert_int_equal(mdl_state_pos(s->state), s->done);
    }
}

static prop_model open_wide(const prop_case *c, int threads) {
    return prop_open_sized(c, threads, PROP_MAX_TOKENS * 2);
}

/* One among 15 others of mixed lengths, until all are done; oracles from one thread. */
static void check_company(const prop_model *alone, const prop_model *p, prop_rng *r,
                          const char *what) {
    prop_run runs[COMPANY];
    seat seats[COMPANY];
    for (int i = 0; i < COMPANY; i++) {
        runs[i] = prop_oracle(alone, r, 1 + prop_below(r, i % 4 ? 60 : 300));
        seats[i] = (seat){&runs[i], 0, prop_state(p)};
    }
    for (bool more = true; more;) {
        step_seats(p, r, seats, COMPANY, what);
        more = false;
        for (int i = 0; i < COMPANY; i++)
            more |= seats[i].done < seats[i].run->n;
    }
    for (int i = 0; i < COMPANY; i++) {
        prop_same_state(p, runs[i].state, seats[i].state, what);
        prop_drop(p, seats[i].state);
        prop_run_free(&runs[i]);
    }
}

static void test_company_and_threads(void **unused) {
    (void)unused;
    int n;
    const prop_case *cases = prop_cases(&n);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        prop_rng r = {prop_seed() + 1000 + (uint64_t)i};
        prop_model alone = open_wide(&cases[i], 1);
        for (int threads = 1; threads <= (PROP_SANITIZED ? 2 : 3); threads++) {
            char what[96];
            prop_model p = open_wide(&cases[i], threads);
            snprintf(what, sizeof what, "%s %s, %d threads", cases[i].label, cases[i].isa, threads);
            check_company(&alone, &p, &r, what);
            prop_close(&p);
        }
        prop_close(&alone);
    }
}

/* Slots are taken, left half way and taken again by others; before each reuse the slot is filled
 * with NaN, so that anything a reset leaves behind shows. */
static void check_reuse(const prop_model *p, prop_rng *r, int rounds, const char *what) {
    enum { SLOTS = 12, POOL = 20 };
    prop_run pool[POOL];
    seat seats[SLOTS];
    int finished = 0;
    for (int i = 0; i < POOL; i++)
        pool[i] = prop_oracle(p, r, 1 + prop_below(r, 150));
    for (int i = 0; i < SLOTS; i++)
        seats[i] = (seat){&pool[prop_below(r, POOL)], 0, prop_state(p)};
    for (int round = 0; round < rounds; round++) {
        step_seats(p, r, seats, SLOTS, what);
        int cancelled = (int)prop_below(r, SLOTS);
        for (int i = 0; i < SLOTS; i++) {
            seat *s = &seats[i];
            bool done = s->done == s->run->n;
            if (done)
                prop_same_state(p, s->run->state, s->state, what);
            finished += done;
            if (!done && i != cancelled)
                continue;
            prop_poison_state(p, s->state);
            mdl_state_reset(p->m, s->state);
            s->run = &pool[prop_below(r, POOL)];
            s->done = 0;
        }
    }
    assert_true(finished > rounds / 4);
    for (int i = 0; i < SLOTS; i++)
        prop_drop(p, seats[i].state);
    for (int i = 0; i < POOL; i++)
        prop_run_free(&pool[i]);
}

static int rounds_of(const prop_case *c) {
    return c->width > 100 || PROP_SANITIZED ? 20 : 200;
}

static void test_slot_reuse(void **unused) {
    (void)unused;
    int n;
    const prop_case *cases = prop_cases(&n);
    for (int i = 0; i < n; i++) {
        prop_rng r = {prop_seed() + 2000 + (uint64_t)i};
        prop_model p = open_wide(&cases[i], 1 + i % 2);
        check_reuse(&p, &r, rounds_of(&cases[i]), cases[i].label);
        prop_close(&p);
    }
}

/* Segments without tokens leave their states alone, to the last byte, in use or not. */
static void test_empty_segments(void **unused) {
    (void)unused;
    int n;
    const prop_case *cases = prop_cases(&n);
    for (int i = 0; i < n; i++) {
        prop_rng r = {prop_seed() + 3000 + (uint64_t)i};
        prop_model p = open_wide(&cases[i], 2);
        prop_run run = prop_oracle(&p, &r, 90);
        mdl_state *live = prop_state(&p), *idle[MAX_SEGS], *before = prop_state(&p);
        mdl_seg segs[MAX_SEGS];
        tnl_error err = {0};
        for (int j = 0; j < MAX_SEGS; j++) {
            idle[j] = prop_state(&p);
            prop_poison_state(&p, idle[j]);
        }
        mdl_state_copy(p.m, before, idle[0]);
        for (int64_t done = 0; done < run.n; done += 30) {
            int at = (int)prop_below(&r, MAX_SEGS);
            for (int j = 0; j < MAX_SEGS; j++)
                segs[j] = (mdl_seg){.state = idle[j], .want = MDL_WANT_LAST};
            segs[at] = (mdl_seg){
                .state = live, .tokens = run.tokens + done, .n_tokens = 30, .want = MDL_WANT_ALL};
            assert_int_equal(mdl_forward(p.ctx, segs, MAX_SEGS, &err), TNL_OK);
            prop_same_rows(&p, &run, done, &segs[at], "beside empty segments");
            for (int j = 0; j < MAX_SEGS; j++)
                assert_false(segs[j].nonfinite);
        }
        prop_same_state(&p, run.state, live, "beside empty segments");
        for (int j = 0; j < MAX_SEGS; j++) {
            prop_same_memory(&p, before, idle[j]);
            prop_drop(&p, idle[j]);
        }
        assert_int_equal(mdl_forward(p.ctx, segs, 0, &err), TNL_OK); /* a step of nothing */
        prop_drop(&p, live);
        prop_drop(&p, before);
        prop_run_free(&run);
        prop_close(&p);
    }
}

/* A caller's mistake fails the step and touches nothing. */
static void test_refused_steps(void **unused) {
    (void)unused;
    int n;
    const prop_case *cases = prop_cases(&n);
    prop_rng r = {prop_seed() + 4000};
    prop_model p = prop_open_sized(&cases[0], 1, 64);
    prop_run run = prop_oracle(&p, &r, 40);
    mdl_state *a = prop_state(&p), *b = prop_state(&p);
    int32_t bad[] = {3, -1, 3, (int32_t)p.vocab, 3};
    tnl_error err = {0};
    prop_step(&p, a, run.tokens, 20, MDL_WANT_NONE);
    void *before = prop_export(&p, a);
    mdl_seg cases_of_two[][2] = {
        {{.state = a, .tokens = run.tokens, .n_tokens = 3}, /* one state twice */
         {.state = a, .tokens = run.tokens, .n_tokens = 3}},
        {{.state = a, .tokens = run.tokens, .n_tokens = 3}, /* an id below and above the range */
         {.state = b, .tokens = bad, .n_tokens = 2}},
        {{.state = a, .tokens = run.tokens, .n_tokens = 3},
         {.state = b, .tokens = bad + 2, .n_tokens = 2}},
        {{.state = a, .tokens = run.tokens, .n_tokens = 3}, /* a negative length */
         {.state = b, .tokens = run.tokens, .n_tokens = -1}},
        {{.state = a, .tokens = run.tokens, .n_tokens = 30}, /* 65 tokens in a step of 64 */
         {.state = b, .tokens = run.tokens, .n_tokens = 35}},
    };
    for (size_t i = 0; i < sizeof cases_of_two / sizeof *cases_of_two; i++) {
        assert_int_not_equal(mdl_forward(p.ctx, cases_of_two[i], 2, &err), TNL_OK);
        assert_true(err.msg[0] != '\0');
        prop_same_state(&p, before, a, "refused step");
        assert_int_equal(mdl_state_pos(b), 0);
    }
    mdl_seg rest = prop_step(&p, a, run.tokens + 20, 20, MDL_WANT_ALL);
    prop_same_rows(&p, &run, 20, &rest, "after refused steps");
    prop_same_state(&p, run.state, a, "after refused steps");
    free(before);
    prop_drop(&p, a);
    prop_drop(&p, b);
    prop_run_free(&run);
    prop_close(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_company_and_threads),
        cmocka_unit_test(test_slot_reuse),
        cmocka_unit_test(test_empty_segments),
        cmocka_unit_test(test_refused_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
