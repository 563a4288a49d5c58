/* Narrowing a distribution: top_k, typical_p, top_p and min_p take a row of logits and leave a row
 * of those that stay, as a list when they are few, else as a copy in which the others are
 * -infinity; then one token is drawn.
 *
 * Each keeps the beginning of an order (key descending, then index ascending), so all there is to
 * find is its last element, the edge. On a row of 64,000 nothing is sorted:
 *   - the elements no smaller than the K-th largest of the lanes' maxima are collected (there are
 *     at least K, seldom many more); for top_k, and for the mass of a peaked row, the edge is
 *     among them;
 *   - else a threshold is closed in from both sides, each step one pass that sums the weights from
 *     it on, by false position with a bisection every third step, until few are left between;
 *   - the edge among few is found by partition with fixed pivots.
 * Which of them it is changes nothing: weights add up exactly (rowmath.h), so there is one edge,
 * however it is looked for, and a device that looks for it in another way finds the same. */
#ifndef TNL_SERVER_ENGINE_ROWCUT_H
#define TNL_SERVER_ENGINE_ROWCUT_H

#include "kernels/base/status.h"
#include "server/engine/sampling/rowmath.h"

typedef struct eng_row {
    const float *x;    /* [n] logits; -infinity: dropped */
    const int32_t *id; /* [n] ascending; NULL: x[i] is token i's */
    int64_t n;
    float max, inv_t; /* the largest x, 1 / temperature */
    const float *w;   /* [n] exp((x - max) * inv_t); NULL: not computed */
    bool summed;      /* block sums and sum are those of w */
    eng_mass sum;
    bool mapped; /* the lanes' maxima are those of x */
} eng_row;

/* An element of an order, with what it weighs. */
typedef struct eng_ranked {
    float key;
    int32_t at;
    eng_mass mass;
} eng_ranked;

/* Working memory for rows of at most `vocab` elements. A row under way points into it, so it
 * serves one row at a time. */
typedef struct eng_cutter {
    const eng_rowmath *math;
    int64_t limit;     /* a partition takes this many without narrowing first */
    float *lane_max;   /* [lanes of vocab] */
    float *select;     /* [2 * lanes of vocab] */
    eng_mass *block;   /* [blocks of vocab] */
    float *w;          /* [vocab] */
    float *key;        /* [vocab] */
    float *kept;       /* [vocab] logits of the row under way */
    int32_t *kept_id;  /* [vocab] */
    int32_t *at;       /* [vocab] */
    eng_ranked *order; /* [vocab] */
} eng_cutter;

tnl_status eng_cutter_open(eng_cutter *c, int64_t vocab); /* on failure it is closed */
void eng_cutter_close(eng_cutter *c);                     /* zeroed or open */

/* Indices in row x [n], c->lane_max being its maxima, of at least k elements (or all), no other
 * one being larger than any of them; ascending, in c->at. Returns how many. */
int64_t eng_cut_head(eng_cutter *c, const float *x, int64_t n, int64_t k);

void eng_cut_top_k(eng_cutter *c, eng_row *r, int64_t k);
/* A share p of a mass is p times it in double, rounded down to the unit, but one unit at least. */
void eng_cut_typical_p(eng_cutter *c, eng_row *r, float p);
/* min_p 0: none. With both, min_p's bound spares top_p the search beyond it. */
void eng_cut_top_p_min_p(eng_cutter *c, eng_row *r, float top_p, float min_p);

/* The first token, in ascending order of ids, with which the mass exceeds a share u, 0 <= u < 1:
 * u times it in double, rounded down to the unit. */
int32_t eng_cut_draw(eng_cutter *c, eng_row *r, double u);

#endif
