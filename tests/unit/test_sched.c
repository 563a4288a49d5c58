/* The scheduler by tables, and its promises on random slots: budgets kept, decoders always served,
 * prompts alike, nobody starved. No model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/engine/sched.h"

enum { MOST = 1 << 30 };

#define FREE                                                                                       \
    { 0 }
#define DECODE                                                                                     \
    { .used = true, .most = MOST }
#define PREFILL(n)                                                                                 \
    { .used = true, .prompt_left = (n), .most = MOST }
#define GUESS(n)                                                                                   \
    { .used = true, .most = MOST, .guesses = (n), .draft = (n) }
#define ECHO(n, room)                                                                              \
    { .used = true, .all_rows = true, .prompt_left = (n), .most = (room) }
#define PAUSED(n)                                                                                  \
    { .used = true, .paused = true, .prompt_left = (n), .most = MOST }

typedef struct row {
    const char *what;
    eng_sched_slot slots[4];
    int64_t tokens, rows;
    int cursor;
    int64_t give[4];
    int cursor_after;
} row;

static const row table[] = {
    {"nothing", {FREE, FREE, FREE, FREE}, 256, 36, 2, {0, 0, 0, 0}, 2},
    {"decoders only", {DECODE, DECODE, FREE, DECODE}, 256, 36, 0, {1, 1, 0, 1}, 0},
    {"one prompt takes all", {PREFILL(1000), FREE, FREE, FREE}, 256, 36, 0, {256, 0, 0, 0}, 0},
    {"a short prompt", {PREFILL(7), FREE, FREE, FREE}, 256, 36, 0, {7, 0, 0, 0}, 0},
    {"decoders first", {DECODE, PREFILL(1000), DECODE, FREE}, 64, 36, 0, {1, 62, 1, 0}, 1},
    {"halves", {PREFILL(1000), PREFILL(1000), FREE, FREE}, 128, 36, 0, {64, 64, 0, 0}, 1},
    {"thirds, odd ones behind the cursor",
     {PREFILL(1000), PREFILL(1000), PREFILL(1000), FREE},
     128,
     36,
     0,
     {42, 43, 43, 0},
     1},
    {"the cursor moves on",
     {PREFILL(1000), PREFILL(1000), PREFILL(1000), FREE},
     128,
     36,
     1,
     {43, 42, 43, 0},
     2},
    {"a short one leaves the rest to the long",
     {PREFILL(5), PREFILL(1000), FREE, FREE},
     128,
     36,
     3,
     {5, 123, 0, 0},
     0},
    {"paused gets nothing",
     {PAUSED(0), PAUSED(50), DECODE, PREFILL(9)},
     128,
     36,
     0,
     {0, 0, 1, 9},
     3},
    {"budget of one token", {PREFILL(9), PREFILL(9), FREE, FREE}, 1, 36, 0, {0, 1, 0, 0}, 1},
    {"tight: all decode but one", {DECODE, DECODE, DECODE, PREFILL(99)}, 4, 4, 0, {1, 1, 1, 1}, 3},
    {"echo bounded by rows", {ECHO(1000, 255), FREE, FREE, FREE}, 256, 36, 0, {36, 0, 0, 0}, 0},
    {"echo leaves a row to each",
     {ECHO(1000, 255), DECODE, PREFILL(500), DECODE},
     256,
     36,
     3,
     {33, 1, 221, 1},
     0},
    {"echo bounded by room", {ECHO(1000, 10), FREE, FREE, FREE}, 256, 36, 0, {10, 0, 0, 0}, 0},
    {"echo without room", {ECHO(1000, 0), PREFILL(3), FREE, FREE}, 256, 36, 0, {0, 3, 0, 0}, 1},
    {"guesses beside the token", {GUESS(5), DECODE, FREE, GUESS(2)}, 256, 36, 0, {6, 1, 0, 3}, 0},
    {"guesses leave room to a prompt",
     {GUESS(15), PREFILL(100), GUESS(15), PREFILL(100)},
     24,
     36,
     0,
     {16, 1, 6, 1},
     1},
    {"guesses bounded by rows",
     {GUESS(15), ECHO(100, 255), GUESS(15), FREE},
     256,
     20,
     0,
     {16, 1, 3, 0},
     1},
    {"echo, rows used up",
     {ECHO(90, 255), ECHO(90, 255), DECODE, DECODE},
     256,
     4,
     0,
     {1, 1, 1, 1},
     1},
    {"echo, rows in turn",
     {ECHO(90, 255), ECHO(90, 255), DECODE, DECODE},
     256,
     36,
     1,
     {33, 1, 1, 1},
     0},
};

static void rules_by_table(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const row *t = &table[i];
        int64_t give[4] = {-1, -1, -1, -1}, sum = 0;
        int cursor = t->cursor;
        eng_sched_budget budget = {t->tokens, t->rows};
        int64_t total = eng_sched_step(give, t->slots, 4, &budget, &cursor);
        if (memcmp(give, t->give, sizeof give) != 0 || cursor != t->cursor_after)
            print_message("%s: %d %d %d %d, cursor %d\n", t->what, (int)give[0], (int)give[1],
                          (int)give[2], (int)give[3], cursor);
        for (int s = 0; s < 4; s++)
            sum += t->give[s];
        assert_memory_equal(give, t->give, sizeof give);
        assert_int_equal(cursor, t->cursor_after);
        assert_int_equal(total, sum);
    }
}

static void admission(void **state) {
    (void)state;
    const eng_sched_slot slots[4] = {DECODE, FREE, PREFILL(4), FREE};
    assert_int_equal(eng_sched_admit(slots, 4, 0), 0);
    assert_int_equal(eng_sched_admit(slots, 4, 1), 1);
    assert_int_equal(eng_sched_admit(slots, 4, 2), 2);
    assert_int_equal(eng_sched_admit(slots, 4, 100), 2);
    assert_int_equal(eng_sched_admit(slots, 1, 5), 0);
}

static uint64_t next(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* A long prompt beside decoders: each step gives every decoder its token and the prompt moves. */
static void a_long_prompt_stalls_nobody(void **state) {
    (void)state;
    eng_sched_slot slots[16];
    int64_t give[16];
    int cursor = 0, steps = 0;
    eng_sched_budget budget = {256, 48};
    for (int i = 0; i < 16; i++)
        slots[i] = (eng_sched_slot)DECODE;
    slots[3] = (eng_sched_slot)PREFILL(1000000);
    while (slots[3].prompt_left > 0) {
        assert_true(eng_sched_step(give, slots, 16, &budget, &cursor) <= 256);
        for (int i = 0; i < 16; i++)
            if (i != 3)
                assert_int_equal(give[i], 1);
        assert_true(give[3] == 241 || give[3] == slots[3].prompt_left);
        slots[3].prompt_left -= give[3];
        steps++;
    }
    assert_int_equal(steps, (1000000 + 240) / 241);
}

/* Equal prompts advance alike: at most a token apart in a step, and over time. */
static void prompts_share_alike(void **state) {
    (void)state;
    for (int64_t tokens = 4; tokens < 300; tokens++) {
        eng_sched_slot slots[7];
        int64_t give[7], got[7] = {0};
        int cursor = 0;
        eng_sched_budget budget = {tokens, 39};
        memset(slots, 0, sizeof slots);
        for (int i = 0; i < 7; i += 2)
            slots[i] = (eng_sched_slot)PREFILL(100000);
        for (int step = 0; step < 100; step++) {
            assert_int_equal(eng_sched_step(give, slots, 7, &budget, &cursor), tokens);
            int64_t low = INT64_MAX, high = 0;
            for (int i = 0; i < 7; i += 2) {
                got[i] += give[i];
                low = got[i] < low ? got[i] : low;
                high = got[i] > high ? got[i] : high;
                assert_true(give[i] == tokens / 4 || give[i] == tokens / 4 + 1);
            }
            assert_true(high - low <= 3);
        }
    }
}

static eng_sched_slot random_slot(uint64_t *s) {
    eng_sched_slot slot = {.used = next(s) % 4 != 0};
    if (!slot.used)
        return slot;
    slot.paused = next(s) % 5 == 0;
    slot.prompt_left = next(s) % 2 ? 0 : 1 + (int64_t)(next(s) % 300);
    slot.all_rows = slot.prompt_left > 0 && next(s) % 3 == 0;
    slot.most = slot.all_rows ? (int64_t)(next(s) % 256) : MOST;
    return slot;
}

static void promises_hold_for_random_slots(void **state) {
    (void)state;
    uint64_t s = 88172645463325252u;
    print_message("seed %llu\n", (unsigned long long)s);
    for (int c = 0; c < 20000; c++) {
        int n = 1 + (int)(next(&s) % 20);
        eng_sched_slot slots[20];
        int64_t give[20], sum = 0, rows = 0, wanting = 0;
        for (int i = 0; i < n; i++)
            slots[i] = random_slot(&s);
        eng_sched_budget budget = {n + (int64_t)(next(&s) % 300), n + (int64_t)(next(&s) % 40)};
        int cursor = (int)(next(&s) % (uint64_t)n);
        int64_t total = eng_sched_step(give, slots, n, &budget, &cursor);
        for (int i = 0; i < n; i++) {
            const eng_sched_slot *t = &slots[i];
            bool run = t->used && !t->paused && t->most > 0;
            assert_true(give[i] >= 0 && (run || give[i] == 0));
            if (run && t->prompt_left == 0)
                assert_int_equal(give[i], 1);
            if (run && t->prompt_left > 0) {
                assert_true(give[i] <= t->prompt_left && give[i] <= t->most);
                wanting += give[i] < t->prompt_left && give[i] < t->most && !t->all_rows;
            }
            rows += t->all_rows ? give[i] : give[i] > 0;
            sum += give[i];
        }
        assert_int_equal(total, sum);
        assert_true(total <= budget.tokens && rows <= budget.rows);
        if (wanting > 0)
            assert_int_equal(total, budget.tokens); /* nothing is left over while somebody wants */
        assert_in_range(cursor, 0, n - 1);
    }
}

/* However the rest behaves, a prompt that may run is served within n steps. */
static void nobody_starves(void **state) {
    (void)state;
    uint64_t s = 362436069u;
    enum { N = 8 };
    eng_sched_slot slots[N];
    int64_t give[N];
    int cursor = 0, waited[N] = {0};
    for (int i = 0; i < N; i++)
        slots[i] = (eng_sched_slot)PREFILL(MOST);
    for (int step = 0; step < 20000; step++) {
        eng_sched_budget budget = {N, N};
        for (int i = 0; i < N; i++) {
            bool decode = next(&s) % 3 == 0;
            slots[i].prompt_left = decode ? 0 : 1 + (int64_t)(next(&s) % 50);
            if (decode)
                waited[i] = 0;
        }
        eng_sched_step(give, slots, N, &budget, &cursor);
        for (int i = 0; i < N; i++) {
            waited[i] = give[i] > 0 ? 0 : waited[i] + 1;
            assert_true(waited[i] <= N);
        }
    }
}

/* Prompts of all lengths, new ones all the time: each share ends where it may, and a long prompt
 * among short ones gets through. */
static void whole_slices(void **state) {
    (void)state;
    enum { SLOTS = 6, P = 128, LONG = 4096 };
    eng_sched_slot slots[SLOTS] = {{0}};
    int64_t give[SLOTS];
    const eng_sched_budget budget = {P + 38, 38};
    int cursor = 0, done = 0;
    uint64_t g = 0x5EED1;
    print_message("seed %llu\n", (unsigned long long)g);
    for (int step = 0; step < 4000; step++) {
        for (int i = 0; i < SLOTS; i++)
            if (slots[i].prompt_left == 0) {
                done += i == 0 && step > 0;
                slots[i] = (eng_sched_slot){.used = true,
                                            .most = INT64_MAX,
                                            .slice = P,
                                            .at = i == 1 ? 40 : 0,
                                            .prompt_left = i < 2 ? LONG : 1 + next(&g) % 200};
            }
        assert_true(eng_sched_step(give, slots, SLOTS, &budget, &cursor) <= budget.tokens);
        for (int i = 0; i < SLOTS; i++) {
            const int64_t all = slots[i].at + slots[i].prompt_left;
            const int64_t end = slots[i].at + give[i], begin = end / P * P;
            assert_true(give[i] >= 0 && give[i] <= slots[i].prompt_left);
            if (give[i] > 0 && end % P != 0 && begin + P <= all)
                assert_true(begin < slots[i].at); /* that slice was begun before */
            slots[i].at = end;
            slots[i].prompt_left -= give[i];
        }
    }
    assert_true(done > 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules_by_table),
        cmocka_unit_test(admission),
        cmocka_unit_test(a_long_prompt_stalls_nobody),
        cmocka_unit_test(prompts_share_alike),
        cmocka_unit_test(promises_hold_for_random_slots),
        cmocka_unit_test(nobody_starves),
        cmocka_unit_test(whole_slices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
