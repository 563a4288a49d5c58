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

/* Tokens for one turn of a prefilling slot that has `given` already. The first row of each slot is
 * kept for it, so only an all_rows slot draws on *rows. */
static int64_t turn(const eng_sched_slot *s, int64_t given, int64_t tokens, int64_t *rows) {
    int64_t n = min64(ENG_SCHED_QUANTUM, tokens);
    n = min64(n, min64(s->prompt_left, s->most) - given);
    if (!s->all_rows || n <= 0)
        return n;
    int64_t own = given == 0;
    n = min64(n, own + *rows);
    *rows -= n - min64(own, n);
    return n;
}

/* Deal what is left to prompts, round after round, until nobody can take more. */
static int64_t deal(int64_t *give, const eng_sched_slot *slots, int n_slots, int64_t tokens,
                    int64_t rows, int *cursor) {
    int64_t dealt = 0;
    int last = *cursor, idle = 0;
    while (idle < n_slots && tokens > 0) {
        last = (last + 1) % n_slots;
        const eng_sched_slot *s = &slots[last];
        int64_t n = 0;
        if (runnable(s) && s->prompt_left > 0)
            n = turn(s, give[last], tokens, &rows);
        if (n <= 0) {
            idle++;
            continue;
        }
        idle = 0;
        give[last] += n;
        dealt += n;
        tokens -= n;
        *cursor = last;
    }
    return dealt;
}

int64_t eng_sched_step(int64_t *give, const eng_sched_slot *slots, int n_slots,
                       const eng_sched_budget *budget, int *cursor) {
    int64_t decoders = 0, prompts = 0;
    for (int i = 0; i < n_slots; i++) {
        bool run = runnable(&slots[i]);
        give[i] = run && slots[i].prompt_left == 0;
        decoders += give[i];
        prompts += run && slots[i].prompt_left > 0;
    }
    return decoders + deal(give, slots, n_slots, budget->tokens - decoders,
                           budget->rows - decoders - prompts, cursor);
}
