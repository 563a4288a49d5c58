/* Which guesses are worth checking. A guess costs a row of the step and gives, with some chance, a
 * token that would have cost a step of its own. While a step waits for weights from memory a row is
 * nearly free; once it multiplies, rows cost what they give, and where the kernel for a few rows
 * hands over to the one for many the time jumps. So the time of a step is measured for each number
 * of rows as steps go by, and the number that gives most tokens a second is taken. One thread. */
#ifndef TNL_SERVER_ENGINE_PACE_H
#define TNL_SERVER_ENGINE_PACE_H

#include "server/engine/sched.h"

enum { ENG_PACE_ROWS = 64 }; /* a step of more rows gets no guesses */

/* Times are in units of a step of one row, so that they outlive a change of the machine's speed. */
typedef struct eng_pace {
    double unit; /* seconds; 0: nothing measured */
    double time[ENG_PACE_ROWS + 1];
    int seen[ENG_PACE_ROWS + 1];     /* measurements in time[], up to a bound */
    int64_t last[ENG_PACE_ROWS + 1]; /* step of the last one: an old one is forgotten, or a number
                                        of rows that was held up once would never be tried again */
    int64_t steps;
    double fixed; /* cost of a further row, given and not measured; 0: measured */
} eng_pace;

/* A step without prompt tokens had so many rows and took so long. */
void eng_pace_observe(eng_pace *p, int64_t rows, double seconds);

/* Expected time of a step of 1..ENG_PACE_ROWS rows, in units. */
double eng_pace_time(const eng_pace *p, int64_t rows);

/* Set slots[].draft: of their guesses, those that pay, `rows` at most in all, the likeliest first.
 * Prompt tokens of the step are no part of the account: beside a prompt a row adds little to what
 * the readers of the other sequences wait for anyway. */
void eng_pace_deal(const eng_pace *p, eng_sched_slot *slots, int n_slots, int64_t rows);

#endif
