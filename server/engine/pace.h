/* Which guesses are worth checking. A guess costs a row of the step and gives, with some chance, a
 * token that would have cost a step of its own. While a step waits for weights from memory a row is
 * nearly free; once it multiplies, rows cost what they give. Where between the two a machine, a
 * model and a batch stand is measured as steps go by. One thread. */
#ifndef TNL_SERVER_ENGINE_PACE_H
#define TNL_SERVER_ENGINE_PACE_H

#include "server/engine/sched.h"

/* Time of a step as a line over its rows, fitted to the latest steps. */
typedef struct eng_pace {
    double n, rows, seconds, rows2, product; /* decayed sums */
    double fixed;                            /* row cost given, not measured; 0: measured */
} eng_pace;

/* A step without prompt tokens had so many rows and took so long. */
void eng_pace_observe(eng_pace *p, int64_t rows, double seconds);

/* Cost of a further row, as a share of a step of one row. */
double eng_pace_row_cost(const eng_pace *p);

/* Set slots[].draft: of their guesses, those that pay, `rows` at most in all. Rows go one by one to
 * the slot whose next guess is likeliest, while that gives more tokens a second than the step does
 * without it. Prompt tokens of the step are no part of the account: beside a prompt a row adds
 * little to what the readers of the other sequences wait for anyway. */
void eng_pace_deal(const eng_pace *p, eng_sched_slot *slots, int n_slots, int64_t rows);

#endif
