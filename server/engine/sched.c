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

int64_t eng_sched_cut(const eng_sched_slot *s, int64_t n) {
    if (s->slice == 0)
        return n;
    const int64_t first = (s->at + s->slice - 1) / s->slice * s->slice; /* that can be whole */
    const int64_t last = (s->at + s->prompt_left) / s->slice * s->slice;
    const int64_t end = s->at + n;
    if (first >= last)
        return n;
    if (end >= last)
        return last - s->at;
    return end < first ? n : end / s->slice * s->slice - s->at;
}

/* One prompt that is to have a whole slice gets it before others share: between short prompts it
 * would wait for ever. Those that want one take turns. */
static int64_t deal_slice(int64_t *give, const eng_sched_slot *slots, int n_slots, int64_t left,
                          int *turn) {
    for (int k = 1; k <= n_slots; k++) {
        const int i = (*turn + k) % n_slots;
        const eng_sched_slot *s = &slots[i];
        if (s->slice == 0 || s->slice > left || can_take(s, 0, 0) < s->slice ||
            eng_sched_cut(s, s->slice) < s->slice)
            continue;
        give[i] = s->slice;
        *turn = i;
        return s->slice;
    }
    return 0;
}

/* Shares cut back to where they may end, and what that frees given away in turn. Returns what is
 * left. */
static int64_t cut_shares(int64_t *give, const eng_sched_slot *slots, int n_slots, int64_t left,
                          int turn) {
    for (int i = 0; i < n_slots; i++) {
        if (slots[i].slice == 0 || slots[i].prompt_left == 0)
            continue;
        const int64_t n = eng_sched_cut(&slots[i], give[i]);
        left += give[i] - n;
        give[i] = n;
    }
    for (int k = 1; k <= n_slots; k++) {
        const int i = (turn + k) % n_slots;
        const int64_t more = min64(can_take(&slots[i], give[i], 0), left);
        if (slots[i].slice == 0 || more <= 0)
            continue;
        const int64_t n = eng_sched_cut(&slots[i], give[i] + more);
        left -= n - give[i];
        give[i] = n;
    }
    return left;
}

/* As deal, for prompts of which some want their slices whole. */
static int64_t deal_slices(int64_t *give, const eng_sched_slot *slots, int n_slots, int64_t tokens,
                           int64_t rows, int *cursor) {
    int turn = *cursor;
    int64_t first = deal_slice(give, slots, n_slots, tokens, &turn);
    int64_t left = tokens - first;
    left -= deal(give, slots, n_slots, left, rows, cursor);
    if (first > 0)
        *cursor = turn;
    return tokens - cut_shares(give, slots, n_slots, left, turn);
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
    bool sliced = false;
    for (int i = 0; i < n_slots; i++)
        sliced |= slots[i].slice > 0 && slots[i].prompt_left > 0;
    return decoded + (sliced ? deal_slices : deal)(give, slots, n_slots, budget->tokens - decoded,
                                                   budget->rows - decoded - prompts, cursor);
}
