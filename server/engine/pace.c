/* The measured cost of a row, and the rows that pay: see pace.h. */
#include "server/engine/pace.h"

#include <stddef.h>

/* What is assumed before anything is measured, and how many observations (times the variance of
 * their rows) that assumption weighs. */
#define PRESUMED_COST 0.1
#define PRESUMED_WEIGHT 8.0

#define KEEP 0.98 /* of the old sums, at each step: about fifty steps count */

/* A step that something else on the machine held up counts as no more than this times what the line
 * says. */
#define OUTLIER 2.0

#define MIN_COST 0.005
#define MAX_COST 1.0

/* A row must give this much more than it costs: the estimates are not exact, and nobody minds a
 * guess that was not made. */
#define MARGIN 1.15

/* The line through what was measured and what was presumed, each by its weight: time of a step of
 * one row, and the cost of a further row as a share of it. */
static double fit(const eng_pace *p, double *cost) {
    *cost = p->fixed > 0 ? p->fixed : PRESUMED_COST;
    if (p->n < 1)
        return 0;
    double x = p->rows / p->n, y = p->seconds / p->n;
    double unit = y / (1 + *cost * (x - 1)); /* makes the slopes comparable */
    if (p->fixed > 0 || unit <= 0)
        return unit;
    double xx = p->rows2 - p->n * x * x, xy = (p->product - p->n * x * y) / unit;
    double slope = (xy + PRESUMED_WEIGHT * PRESUMED_COST) / (xx + PRESUMED_WEIGHT);
    double one = y / unit - slope * (x - 1);
    *cost = one > 0 && slope < MAX_COST * one ? slope / one : MAX_COST;
    *cost = *cost < MIN_COST ? MIN_COST : *cost;
    return one > 0 ? one * unit : y / x;
}

double eng_pace_row_cost(const eng_pace *p) {
    double cost;
    fit(p, &cost);
    return cost;
}

void eng_pace_observe(eng_pace *p, int64_t rows, double seconds) {
    double x = (double)rows, cost, one = fit(p, &cost);
    double most = OUTLIER * one * (1 + cost * (x - 1));
    if (p->n >= 1 && seconds > most)
        seconds = most;
    p->n = KEEP * p->n + 1;
    p->rows = KEEP * p->rows + x;
    p->seconds = KEEP * p->seconds + seconds;
    p->rows2 = KEEP * p->rows2 + x * x;
    p->product = KEEP * p->product + x * seconds;
}

static double next_chance(const eng_sched_slot *s) {
    double p = 1;
    for (int64_t i = 0; i <= s->draft; i++)
        p *= (double)s->chance;
    return p;
}

/* The slot whose next guess is likeliest, NULL: there is none. */
static eng_sched_slot *likeliest(eng_sched_slot *slots, int n_slots, double *chance) {
    eng_sched_slot *best = NULL;
    *chance = 0;
    for (int i = 0; i < n_slots; i++) {
        double p = slots[i].draft < slots[i].guesses ? next_chance(&slots[i]) : 0;
        if (p > *chance) {
            best = &slots[i];
            *chance = p;
        }
    }
    return best;
}

void eng_pace_deal(const eng_pace *p, eng_sched_slot *slots, int n_slots, int64_t rows) {
    double decoders = 0, cost = eng_pace_row_cost(p), chance;
    for (int i = 0; i < n_slots; i++) {
        slots[i].draft = 0;
        decoders += slots[i].used && !slots[i].paused && slots[i].prompt_left == 0;
    }
    double tokens = decoders, time = 1 + cost * (decoders - 1);
    for (eng_sched_slot *s; rows > 0 && (s = likeliest(slots, n_slots, &chance)); rows--) {
        if (chance * time < MARGIN * cost * tokens)
            return;
        s->draft++;
        tokens += chance;
        time += cost;
    }
}
