/* The scheduler: see sched.h for the rules. */
#include "server/engine/sched.h"

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static bool runnable(const eng_sched_slot *s) {
    return s->used && !s->paused && s->most > 0;
}

int eng_sched_admit(const eng_sched_slot *slots, int n_slots, int n_waiting) {
    int n_free = 0;
    for (int i = 0; i < n_slots; i++)
        n_free += !slots[i].used;
    return n_free < n_waiting ? n_free : n_waiting;
}

/* What slot s, which has `given` tokens, can take besides. One row is kept for each slot with work,
 * so only a slot that wants all its rows draws on *rows, and not for its first token. */
static int64_t can_take(const eng_sched_slot *s, int64_t given, int64_t rows) {
    if (!runnable(s) || s->prompt_left == 0)
        return 0;
    int64_t n = min64(s->prompt_left, s->most) - given;
    return s->all_rows ? min64(n, (given == 0) + rows) : n;
}

static int count_wanting(const int64_t *give, const eng_sched_slot *slots, int n_slots,
                         int64_t rows) {
    int n = 0;
    for (int i = 0; i < n_slots; i++)
        n += can_take(&slots[i], give[i], rows) > 0;
    return n;
}

/* Equal shares, round after round, until the tokens are gone or nobody can take more. */
static int64_t deal(int64_t *give, const eng_sched_slot *slots, int n_slots, int64_t tokens,
                    int64_t rows, int *cursor) {
    int64_t left = tokens;
    int wanting, start = *cursor, first = -1;
    while (left > 0 && (wanting = count_wanting(give, slots, n_slots, rows)) > 0) {
        int64_t share = left / wanting > 0 ? left / wanting : 1;
        for (int k = 1; k <= n_slots; k++) {
            int i = (start + k) % n_slots;
            int64_t n = min64(min64(share, left), can_take(&slots[i], give[i], rows));
            if (n <= 0)
                continue;
            if (slots[i].all_rows)
                rows -= n - (give[i] == 0);
            give[i] += n;
            left -= n;
            first = first < 0 ? i : first;
        }
    }
    *cursor = first < 0 ? start : first;
    return tokens - left;
}

/* One token of each slot that runs. */
static int64_t count_running(const eng_sched_slot *slots, int n_slots) {
    int64_t n = 0;
    for (int i = 0; i < n_slots; i++)
        n += runnable(&slots[i]);
    return n;
}

int64_t eng_sched_spare(const eng_sched_slot *slots, int n_slots, const eng_sched_budget *budget) {
    return min64(budget->tokens, budget->rows) - count_running(slots, n_slots);
}

int64_t eng_sched_step(int64_t *give, const eng_sched_slot *slots, int n_slots,
                       const eng_sched_budget *budget, int *cursor) {
    int64_t decoded = 0, prompts = 0, spare = eng_sched_spare(slots, n_slots, budget);
    for (int i = 0; i < n_slots; i++) {
        bool run = runnable(&slots[i]), decode = run && slots[i].prompt_left == 0;
        int64_t draft = decode ? min64(slots[i].draft, spare) : 0;
        give[i] = decode + draft;
        spare -= draft;
        decoded += give[i];
        prompts += run && !decode;
    }
    return decoded + deal(give, slots, n_slots, budget->tokens - decoded,
                          budget->rows - decoded - prompts, cursor);
}
