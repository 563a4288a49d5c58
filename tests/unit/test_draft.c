/* Guesses: where they are looked for, how far they go, what is learnt from them; and on random
 * texts, that each one is what really followed an earlier place with the same tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/engine/draft.h"

static void add_all(eng_draft *d, const int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++)
        eng_draft_add(d, ids[i]);
}

#define ADD(d, ...) add_all(d, (const int32_t[]){__VA_ARGS__}, sizeof((int32_t[]){__VA_ARGS__}) / 4)

static void assert_guess(eng_draft *d, int64_t most, const int32_t *want, int n) {
    assert_int_equal(eng_draft_propose(d, most), n);
    if (n > 0)
        assert_memory_equal(d->guess, want, (size_t)n * sizeof *want);
}

#define GUESS(d, most, ...)                                                                        \
    assert_guess(d, most, (const int32_t[]){__VA_ARGS__}, sizeof((int32_t[]){__VA_ARGS__}) / 4)

static void by_example(void **state) {
    (void)state;
    eng_draft d = {0};
    assert_int_equal(eng_draft_propose(&d, 8), 0); /* never begun */
    eng_draft_add(&d, 3);
    assert_true(eng_draft_begin(&d, 100));
    assert_int_equal(eng_draft_propose(&d, 8), 0);
    ADD(&d, 1, 2, 3, 4, 5, 6, 7);
    assert_int_equal(eng_draft_propose(&d, 8), 0); /* nothing said twice */
    ADD(&d, 2);
    assert_int_equal(eng_draft_propose(&d, 8), 0); /* one token is no context */
    ADD(&d, 3);
    GUESS(&d, 3, 4, 5, 6);
    GUESS(&d, 1, 4);
    assert_int_equal(eng_draft_propose(&d, 0), 0);
    assert_int_equal(eng_draft_propose(&d, -1), 0);
    ADD(&d, 9, 2, 3);
    GUESS(&d, 3, 9, 2, 3); /* the newest place, not 4 5 6 */
    eng_draft_close(&d);
}

/* Four equal tokens far back say more than two near by. */
static void the_longer_match_wins(void **state) {
    (void)state;
    eng_draft d = {0};
    assert_true(eng_draft_begin(&d, 100));
    ADD(&d, 1, 2, 3, 4, 50, 60, 3, 4, 70, 80, 1, 2, 3, 4);
    GUESS(&d, 2, 50, 60);
    float far = eng_draft_chance(&d);
    ADD(&d, 99, 3, 4);
    GUESS(&d, 1, 99);
    assert_true(eng_draft_chance(&d) < far);
    eng_draft_close(&d);
}

/* The place may overlap the end: a loop is guessed for as long as is asked. */
static void a_loop_goes_on(void **state) {
    (void)state;
    eng_draft d = {0};
    assert_true(eng_draft_begin(&d, 100));
    ADD(&d, 7, 8, 9, 7, 8, 9, 7, 8);
    GUESS(&d, 7, 9, 7, 8, 9, 7, 8, 9);
    assert_int_equal(eng_draft_propose(&d, 10000), ENG_SPECULATE_MAX);
    eng_draft_close(&d);
    assert_true(eng_draft_begin(&d, 100));
    ADD(&d, 5, 5, 5);
    GUESS(&d, 4, 5, 5, 5, 5);
    eng_draft_close(&d);
}

static void an_end_leaves_nothing(void **state) {
    (void)state;
    eng_draft d = {0};
    assert_true(eng_draft_begin(&d, 200));
    for (int i = 0; i < 300; i++)
        eng_draft_add(&d, 1000 + i % 11);
    eng_draft_propose(&d, 4);
    eng_draft_learn(&d, 4, 0);
    float low = eng_draft_chance(&d);
    eng_draft_end(&d);
    assert_int_equal(eng_draft_propose(&d, 4), 0);
    for (size_t i = 0; i < d.cap; i++) {
        assert_int_equal(d.token[i], 0);
        for (int g = 0; g < ENG_DRAFT_GRAMS; g++)
            assert_int_equal(d.place[g][i], 0);
    }
    size_t cap = d.cap;
    assert_true(eng_draft_begin(&d, 10));
    assert_int_equal(d.cap, cap); /* memory is kept, what was learnt is not */
    assert_true(d.window < cap);
    for (int i = 0; i < 40; i++)
        eng_draft_add(&d, 1000 + i % 11);
    eng_draft_propose(&d, 4);
    assert_true(eng_draft_chance(&d) > low);
    eng_draft_close(&d);
}

static void memory_is_bounded(void **state) {
    (void)state;
    eng_draft d = {0};
    assert_true(eng_draft_begin(&d, INT64_MAX));
    assert_int_equal(d.window, ENG_DRAFT_WINDOW);
    eng_draft_close(&d);
    assert_true(eng_draft_begin(&d, 1));
    assert_true(d.window <= 64);
    for (int i = 0; i < 3 * ENG_DRAFT_WINDOW; i++)
        eng_draft_add(&d, i % 100000);
    assert_int_equal(d.window, ENG_DRAFT_WINDOW);
    assert_int_equal(d.cap, ENG_DRAFT_WINDOW);
    eng_draft_end(&d);
    assert_true(d.cap <= ENG_DRAFT_WINDOW / 8);
    eng_draft_close(&d);
}

/* A text that outgrows its memory is still known from its beginning. */
static void memory_grows_with_the_text(void **state) {
    (void)state;
    eng_draft d = {0};
    assert_true(eng_draft_begin(&d, 1));
    for (int i = 0; i < 1000; i++)
        eng_draft_add(&d, 10 + i);
    assert_int_equal(d.window, 1024);
    ADD(&d, 10, 11, 12, 13);
    GUESS(&d, 3, 14, 15, 16);
    eng_draft_close(&d);
}

static void chances_follow_what_happens(void **state) {
    (void)state;
    eng_draft d = {0};
    assert_true(eng_draft_begin(&d, 100));
    ADD(&d, 1, 2, 3, 1, 2);
    for (int i = 0; i < 60; i++) {
        assert_int_equal(eng_draft_propose(&d, 4), 4);
        eng_draft_learn(&d, 1, 0);
    }
    assert_true(eng_draft_chance(&d) < 0.02f);
    for (int i = 0; i < 60; i++)
        eng_draft_learn(&d, 4, 4);
    assert_true(eng_draft_chance(&d) > 0.95f && eng_draft_chance(&d) <= 1.0f);
    for (int i = 0; i < 200; i++)
        eng_draft_learn(&d, 15, 3); /* three of four guesses that were reached */
    assert_true(eng_draft_chance(&d) > 0.6f && eng_draft_chance(&d) < 0.9f);
    eng_draft_close(&d);
}

/* ---- against the whole text ---- */

static uint64_t next_random(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

enum { TEXT = 3000 };

/* What follows place `at`, the text being repeated behind its end. */
static bool follows(const int32_t *text, int64_t n, int64_t at, const int32_t *guess, int n_guess) {
    for (int i = 0; i < n_guess; i++)
        if (guess[i] != (at + i < n ? text[at + i] : guess[at + i - n]))
            return false;
    return true;
}

/* There is a place with the same two last tokens that these guesses follow; *any: there is a place
 * at all. */
static bool is_true_of(const int32_t *text, int64_t n, int64_t window, const eng_draft *d,
                       bool *any) {
    int64_t oldest = n > window ? n - window : 0;
    *any = false;
    for (int64_t at = n - 1; at >= oldest + 2; at--) {
        if (text[at - 1] != text[n - 1] || text[at - 2] != text[n - 2])
            continue;
        *any = true;
        if (follows(text, n, at, d->guess, d->n_guess))
            return true;
    }
    return false;
}

static void guesses_are_what_followed(void **state) {
    (void)state;
    int32_t *text = calloc(TEXT, sizeof *text);
    uint64_t g = 0x5EEDu;
    int64_t missed = 0, found = 0;
    assert_non_null(text);
    print_message("seed %llu\n", (unsigned long long)g);
    for (int round = 0; round < 12; round++) {
        eng_draft d = {0};
        uint64_t alphabet = 3 + next_random(&g) % 60;
        assert_true(eng_draft_begin(&d, (int64_t)(next_random(&g) % 700)));
        for (int64_t n = 0; n < TEXT; n++) {
            bool any, copy = n > 100 && next_random(&g) % 8;
            text[n] = copy ? text[n - 97] : (int32_t)(next_random(&g) % alphabet);
            eng_draft_add(&d, text[n]);
            int got = eng_draft_propose(&d, (int64_t)(next_random(&g) % 20));
            bool good = is_true_of(text, n + 1, (int64_t)d.window, &d, &any);
            assert_true(got == 0 || good);
            found += any && d.n_guess > 0;
            missed += any && d.n_guess == 0;
        }
        eng_draft_close(&d);
    }
    print_message("%lld found, %lld missed\n", (long long)found, (long long)missed);
    assert_true(missed < found / 4); /* hashes that meet, and a wish for 0 guesses in 20 */
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_example),
        cmocka_unit_test(the_longer_match_wins),
        cmocka_unit_test(a_loop_goes_on),
        cmocka_unit_test(an_end_leaves_nothing),
        cmocka_unit_test(memory_is_bounded),
        cmocka_unit_test(memory_grows_with_the_text),
        cmocka_unit_test(chances_follow_what_happens),
        cmocka_unit_test(guesses_are_what_followed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
