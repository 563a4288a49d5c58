/* Who computes what in the next step: a pure function of plain numbers.
 *
 * Rules. Every decoding request that is not paused gets one token. Then come guessed tokens that
 * are to be checked (pace.h); they leave a token and a row to each prompt under way. What is left
 * of the token budget is shared alike among those prompts; what a short one leaves goes to the
 * others. Shares that do not divide begin with another slot each step, so none is starved. A
 * paused request gets nothing. Waiting requests enter free slots in order of arrival.
 *
 * Where a model wants a prompt's slices whole (mdl_prompt_slice), a prompt's share is cut back to
 * where it may end; what that leaves goes, a slice or more at once, to the prompts in turn.
 *
 * Rows of logits are a second budget: each request with work has one row kept for it; a request
 * that wants a row for every prompt token (echo) takes further ones from what remains. */
#ifndef TNL_SERVER_ENGINE_SCHED_H
#define TNL_SERVER_ENGINE_SCHED_H

#include <stdbool.h>
#include <stdint.h>

/* One slot. A free slot is all zeros. */
typedef struct eng_sched_slot {
    bool used;
    bool paused;
    bool all_rows;       /* every prompt token wants its row of logits */
    int64_t prompt_left; /* prompt tokens still to absorb; 0: decoding */
    int64_t slice, at;   /* prompt: to be whole, 0: any; tokens absorbed */
    int64_t most;        /* no more than this many tokens now (room for events); decode: >= 1 */
    /* decoding */
    int64_t guesses; /* guessed tokens there are, < most */
    float chance;    /* that one is true, given those before it */
    int64_t draft;   /* how many are to be checked: eng_pace_deal */
} eng_sched_slot;

typedef struct eng_sched_budget {
    int64_t tokens; /* of one step, >= number of slots */
    int64_t rows;   /* of logits, >= number of slots */
} eng_sched_budget;

/* The most tokens <= n that a prompt may take now, so that no slice [k slice, (k+1) slice) that
 * lies in front of it and within the prompt is cut. Nor does a share go on behind the last whole
 * slice: a state is worth keeping there. */
int64_t eng_sched_cut(const eng_sched_slot *s, int64_t n);

/* How many of n_waiting requests enter now, given the used flags. */
int eng_sched_admit(const eng_sched_slot *slots, int n_slots, int n_waiting);

/* Rows and tokens that guesses may use in this step. */
int64_t eng_sched_spare(const eng_sched_slot *slots, int n_slots, const eng_sched_budget *budget);

/* give[i]: tokens of slot i in this step. *cursor is the prompt served first, kept by the
 * caller between steps (start with 0); the next step begins behind it. Returns the sum of give; 0
 * means there is nothing to do. */
int64_t eng_sched_step(int64_t *give, const eng_sched_slot *slots, int n_slots,
                       const eng_sched_budget *budget, int *cursor);

#endif
