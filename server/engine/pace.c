/* The measured time of steps, and the rows that pay: see pace.h. */
#include "server/engine/pace.h"

#include <stddef.h>

/* Presumed cost of a further row: low, so that a number of rows that was never measured is tried
 * when the guesses are good. */
#define PRESUMED_COST 0.04

/* A step that something else on the machine held up counts as no more than this times what was
 * expected. */
#define OUTLIER 2.5

/* What is added to the time of a row, and what a chance is held to be worth: neither is known
 * exactly, and nobody minds a guess that was not made. */
#define ROW_MARGIN 0.03
#define CHANCE_WORTH 0.9

enum {
    LAST_WEIGHT = 8, /* the latest measurement counts one part in so many, at least */
    UNIT_WEIGHT = 8,
    MEMORY = 1000, /* steps */
};

/* ---- time ---- */

static bool measured(const eng_pace *p, int64_t rows) {
    return p->seen[rows] > 0 && p->steps - p->last[rows] < MEMORY;
}

/* Between two numbers of rows that were measured, a line; beyond the last one, the presumed cost.
 */
double eng_pace_time(const eng_pace *p, int64_t rows) {
    int64_t lo = rows, hi = rows;
    if (p->fixed > 0)
        return 1 + p->fixed * (double)(rows - 1);
    while (lo > 1 && !measured(p, lo))
        lo--;
    while (hi <= ENG_PACE_ROWS && !measured(p, hi))
        hi++;
    double below = measured(p, lo) ? p->time[lo] : 1;
    if (hi == lo)
        return below;
    if (hi > ENG_PACE_ROWS)
        return below * (1 + PRESUMED_COST * (double)(rows - lo));
    return below + (p->time[hi] - below) * (double)(rows - lo) / (double)(hi - lo);
}

/* One row is the unit; what is seen at other numbers of rows moves the unit only once they are
 * known, else a unit that is too small could never be told from rows that cost much. */
void eng_pace_observe(eng_pace *p, int64_t rows, double seconds) {
    if (rows < 1 || rows > ENG_PACE_ROWS || !(seconds > 0))
        return;
    if (p->unit <= 0)
        p->unit = seconds / eng_pace_time(p, rows);
    double units = seconds / p->unit, expected = eng_pace_time(p, rows);
    if (!measured(p, rows))
        p->seen[rows] = 0;
    units = units > OUTLIER * expected ? OUTLIER * expected : units;
    if (rows == 1 || p->seen[rows] >= LAST_WEIGHT / 2)
        p->unit *= 1 + (units / expected - 1) / UNIT_WEIGHT;
    int weight = p->seen[rows] + 1;
    if (rows == 1)
        p->time[rows] = 1;
    else
        p->time[rows] += (units - p->time[rows]) / weight;
    p->seen[rows] += weight < LAST_WEIGHT;
    p->last[rows] = p->steps++;
}

/* ---- dealing ---- */

static bool decodes(const eng_sched_slot *s) {
    return s->used && !s->paused && s->prompt_left == 0;
}

/* The chance that the next guess is true, and all before it. */
static double next_chance(const eng_sched_slot *s) {
    double p = 1;
    for (int64_t i = 0; i <= s->draft; i++)
        p *= (double)s->chance;
    return p;
}

/* One more guess for the slot whose next one is likeliest; returns the chance, 0: there is none. */
static double add_guess(eng_sched_slot *slots, int n_slots) {
    eng_sched_slot *best = NULL;
    double chance = 0;
    for (int i = 0; i < n_slots; i++) {
        double p = slots[i].draft < slots[i].guesses ? next_chance(&slots[i]) : 0;
        if (p > chance) {
            best = &slots[i];
            chance = p;
        }
    }
    if (best)
        best->draft++;
    return chance;
}

static int64_t clear_drafts(eng_sched_slot *slots, int n_slots) {
    int64_t decoders = 0;
    for (int i = 0; i < n_slots; i++) {
        slots[i].draft = 0;
        decoders += decodes(&slots[i]);
    }
    return decoders;
}

/* Guesses are added in one order; how many, is read off first and done again. */
void eng_pace_deal(const eng_pace *p, eng_sched_slot *slots, int n_slots, int64_t rows) {
    int64_t decoders = clear_drafts(slots, n_slots), taken = 0;
    if (decoders == 0 || decoders > ENG_PACE_ROWS)
        return;
    double tokens = (double)decoders, chance;
    double best = tokens / eng_pace_time(p, decoders);
    rows = rows < ENG_PACE_ROWS - decoders ? rows : ENG_PACE_ROWS - decoders;
    for (int64_t n = 1; n <= rows && (chance = add_guess(slots, n_slots)) > 0; n++) {
        tokens += CHANCE_WORTH * chance;
        double rate = tokens / (eng_pace_time(p, decoders + n) + ROW_MARGIN * (double)n);
        if (rate > best) {
            best = rate;
            taken = n;
        }
    }
    clear_drafts(slots, n_slots);
    while (taken-- > 0)
        add_guess(slots, n_slots);
}
