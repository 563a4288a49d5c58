/* Passes over one row of logits. Each is written once, in plain C (rowmath_tmpl.c), and compiled
 * for several instruction sets. Nothing is contracted, and weights are whole multiples of
 * 2^-ENG_MASS_BITS, whose sums are exact: in whatever order they are added, by whichever processor
 * or device, the bits are the same. Choosing one changes the time, never the token.
 *
 * A row's elements are finite or -infinity (a token that is forbidden or was dropped), with at
 * least one finite; only maxima and finite take anything. Blocks are ENG_ROW_BLOCK elements, the
 * last one may be shorter. */
#ifndef TNL_SERVER_ENGINE_ROWMATH_H
#define TNL_SERVER_ENGINE_ROWMATH_H

#include <stdbool.h>
#include <stdint.h>

enum {
    ENG_ROW_BLOCK = 512, /* elements per partial sum */
    ENG_ROW_LANES = 16,
    ENG_MASS_BITS = 38, /* a row of 2^24 likeliest tokens has a mass below 2^63 */
};

/* A sum of weights, in units of 2^-ENG_MASS_BITS; a weight is at most 1. */
typedef int64_t eng_mass;

static inline eng_mass eng_mass_of(float w) {
    return (eng_mass)((double)w * (double)(INT64_C(1) << ENG_MASS_BITS));
}

static inline double eng_mass_value(eng_mass m) {
    return (double)m / (double)(INT64_C(1) << ENG_MASS_BITS);
}

typedef struct eng_rowmath {
    const char *name;

    /* lane_max[b * 16 + l] = the largest of block b's elements with index l mod 16 (-infinity if
     * there are none), *max = the largest of all. False: there is a NaN or an infinity. */
    bool (*maxima)(float *lane_max, float *max, const float *x, int64_t n);

    /* w[i] = exp((x[i] - max) * inv_t), relative error of the exponential below 2e-7, rounded to
     * the unit of masses; block[b] = the sum of block b. Returns the sum of all. w may be NULL. */
    eng_mass (*exp_sums)(eng_mass *block, float *w, const float *x, int64_t n, float max,
                         float inv_t);

    /* The same sums of a w that exists already. */
    eng_mass (*sums)(eng_mass *block, const float *w, int64_t n);

    /* Sum of w[i] z[i], z = (x[i] - max) * inv_t, not below -87. Element i of a block is summed in
     * lane i mod 16, lanes then in order, in double, and so are the blocks. */
    double (*mean_sum)(const float *w, const float *x, int64_t n, float max, float inv_t);

    /* Sum of w[i] over key[i] >= from, and how many there are. w NULL: the sum is the count. */
    eng_mass (*mass_from)(int64_t *count, const float *key, const float *w, int64_t n, float from);

    /* Indices of the elements with from <= x[i] < below, ascending; at [n]. lane_max: that of this
     * row, to skip what cannot hold any, or NULL. */
    int64_t (*collect)(int32_t *at, const float *x, const float *lane_max, int64_t n, float from,
                       float below);

    /* key[i] = -|z - about|, z = (x[i] - max) * inv_t. */
    void (*distances)(float *key, const float *x, int64_t n, float max, float inv_t, float about);

    /* to[i] = x[i] where key[i] > from, or key[i] == from and i <= last; else `other`. to may be x
     * or key. */
    void (*keep)(float *to, const float *x, const float *key, int64_t n, float from, int64_t last,
                 float other);
} eng_rowmath;

extern const eng_rowmath eng_rowmath_generic;
/* The one for this processor. */
const eng_rowmath *eng_rowmath_best(void);
/* The i-th that this processor can run, the generic one first; NULL past the last. */
const eng_rowmath *eng_rowmath_at(int i);

/* exp(x) for x <= 0 as in exp_sums before rounding to the unit; exactly 0 below -87. */
float eng_exp(float x);

/* Natural logarithm of a positive, normal x, error below 1e-15 + 4e-16 |ln x|; the C library's
 * may differ from one processor to the next. */
double eng_log(double x);

#endif
