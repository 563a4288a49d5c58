/* The row passes of rowmath.h, as static functions: included once for each instruction set, and
 * once compiled for it. Inner loops run over 16 lanes so that compilers turn them into vectors
 * whatever the vector's length. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "server/engine/sampling/rowmath.h"

enum { BLOCK = ENG_ROW_BLOCK, LANES = ENG_ROW_LANES };

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float larger(float a, float b) {
    return a > b ? a : b;
}

/* x where the condition holds, else 0: on bits, which no compiler turns into a branch. */
static inline float where(int condition, float x) {
    return float_of(bits_of(x) & (uint32_t)-condition);
}

/* exp(x) = 2^n e^r with n the nearest integer to x / ln 2 and |r| <= ln(2)/2. e^r is a polynomial
 * of degree 5, of the least relative error among those that begin with 1 + r (1.05e-7). n comes
 * out of the low bits of t = x / ln 2 + 1.5 * 2^23, and shifting t's bits leaves n as an exponent
 * to add. Below -87 all of that is meaningless, and dropped. */
static inline float exp_nonpositive(float x) {
    const float magic = 12582912.0f, ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;
    float t = x * 1.44269504f + magic;
    float n = t - magic;
    float r = (x - n * ln2_hi) - n * ln2_lo;
    float p = 0.0083125019f;
    p = p * r + 0.041890334f;
    p = p * r + 0.16667116f;
    p = p * r + 0.4999923f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return where(x >= -87.0f, float_of(bits_of(p) + (bits_of(t) << 23)));
}

/* exp(x) as a multiple of the unit. Those from 2^-15 on are one as they are, for their last bit is
 * worth 2^-38 or more; to others 2^-15 is added and taken away. */
static inline float weight(float x) {
    float e = exp_nonpositive(x), small = 0x1p-15f;
    float to_unit = where(e < small, small);
    return (e + to_unit) - to_unit;
}

static inline int64_t block_end(int64_t at, int64_t n) {
    return n - at < BLOCK ? n : at + BLOCK;
}

/* ---- maxima ---- */

/* Adding one to the exponent carries into the sign bit exactly for infinities and NaNs; OR-ing the
 * sums keeps any such bit. */
static bool finite_block(const float *x, int64_t n) {
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++)
        bad |= (bits_of(x[i]) & 0x7FFFFFFFu) + 0x00800000u;
    return (bad & 0x80000000u) == 0;
}

/* Halves the block until one element is left in each lane. */
static void max_block(float *restrict lane_max, const float *restrict x) {
    float m[BLOCK / 2];
    for (int i = 0; i < BLOCK / 2; i++)
        m[i] = larger(x[i], x[i + BLOCK / 2]);
    for (int half = BLOCK / 4; half >= LANES; half /= 2)
        for (int i = 0; i < half; i++)
            m[i] = larger(m[i], m[i + half]);
    memcpy(lane_max, m, LANES * sizeof *m);
}

static void max_short_block(float *lane_max, const float *x, int64_t n) {
    float padded[BLOCK];
    for (int64_t i = 0; i < BLOCK; i++)
        padded[i] = i < n ? x[i] : -INFINITY;
    max_block(lane_max, padded);
}

static bool maxima(float *lane_max, float *max, const float *x, int64_t n) {
    bool finite = true;
    float best[LANES];
    for (int l = 0; l < LANES; l++)
        best[l] = -INFINITY;
    for (int64_t at = 0; at < n; at += BLOCK, lane_max += LANES) {
        if (n - at >= BLOCK)
            max_block(lane_max, x + at);
        else
            max_short_block(lane_max, x + at, n - at);
        finite &= finite_block(x + at, block_end(at, n) - at);
        for (int l = 0; l < LANES; l++)
            best[l] = larger(lane_max[l], best[l]);
    }
    *max = best[0];
    for (int l = 1; l < LANES; l++)
        *max = larger(best[l], *max);
    return finite;
}

/* ---- sums ---- */

/* A block of at most 512 multiples of 2^-38, each at most 1, adds up without rounding. */
static eng_mass mass_of_block(const float *restrict w, int64_t n) {
    double lane[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] += (double)w[i + l];
    for (; i < n; i++)
        sum += (double)w[i];
    for (int l = 0; l < LANES; l++)
        sum += lane[l];
    return (eng_mass)(sum * (double)(INT64_C(1) << ENG_MASS_BITS));
}

static void exp_block(float *restrict w, const float *restrict x, int64_t n, float max,
                      float inv_t) {
    for (int64_t i = 0; i < n; i++)
        w[i] = weight((x[i] - max) * inv_t);
}

static eng_mass exp_sums(eng_mass *block, float *w, const float *x, int64_t n, float max,
                         float inv_t) {
    float scratch[BLOCK];
    eng_mass sum = 0;
    for (int64_t at = 0; at < n; at += BLOCK) {
        float *to = w ? w + at : scratch;
        exp_block(to, x + at, block_end(at, n) - at, max, inv_t);
        block[at / BLOCK] = mass_of_block(to, block_end(at, n) - at);
        sum += block[at / BLOCK];
    }
    return sum;
}

static eng_mass sums(eng_mass *block, const float *w, int64_t n) {
    eng_mass sum = 0;
    for (int64_t at = 0; at < n; at += BLOCK) {
        block[at / BLOCK] = mass_of_block(w + at, block_end(at, n) - at);
        sum += block[at / BLOCK];
    }
    return sum;
}

/* Element i into lane i mod LANES, then the lanes in order, in double. */
static double sum_block(const float *restrict w, int64_t n) {
    float lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] += w[i + l];
    for (; i < n; i++)
        lane[i % LANES] += w[i];
    double sum = 0;
    for (int l = 0; l < LANES; l++)
        sum += (double)lane[l];
    return sum;
}

static double mean_sum(const float *w, const float *x, int64_t n, float max, float inv_t) {
    float scratch[BLOCK];
    double sum = 0;
    for (int64_t at = 0; at < n; at += BLOCK) {
        int64_t len = block_end(at, n) - at;
        for (int64_t i = 0; i < len; i++)
            scratch[i] = w[at + i] * larger((x[at + i] - max) * inv_t, -87.0f);
        sum += sum_block(scratch, len);
    }
    return sum;
}

static int64_t count_from(const float *key, int64_t n, float from) {
    int64_t count = 0;
    for (int64_t at = 0; at < n; at += BLOCK) {
        int32_t hits = 0, len = (int32_t)(block_end(at, n) - at);
        for (int32_t i = 0; i < len; i++)
            hits += key[at + i] >= from;
        count += hits;
    }
    return count;
}

static eng_mass mass_from(int64_t *count, const float *key, const float *w, int64_t n, float from) {
    float scratch[BLOCK];
    eng_mass sum = 0;
    *count = 0;
    if (!w)
        return *count = count_from(key, n, from);
    for (int64_t at = 0; at < n; at += BLOCK) {
        int32_t hits = 0, len = (int32_t)(block_end(at, n) - at);
        for (int32_t i = 0; i < len; i++) {
            scratch[i] = where(key[at + i] >= from, w[at + i]);
            hits += key[at + i] >= from;
        }
        *count += hits;
        sum += mass_of_block(scratch, len);
    }
    return sum;
}

/* ---- choosing elements ---- */

static inline int any_between(const float *x, int n, float from, float below) {
    int hit = 0;
    for (int l = 0; l < n; l++)
        hit |= (x[l] >= from) & (x[l] < below);
    return hit;
}

/* First which stretches hold any, then those element by element: neither loop has a branch that
 * would be guessed wrong. */
static int64_t collect(int32_t *at, const float *x, const float *lane_max, int64_t n, float from,
                       float below) {
    enum { LOOK = 32 };
    int64_t found = 0;
    for (int64_t b = 0; b < n; b += BLOCK) {
        int64_t first[BLOCK / LOOK + 1], hits = 0, i = b, end = block_end(b, n);
        if (lane_max && !any_between(lane_max + b / BLOCK * LANES, LANES, from, INFINITY))
            continue;
        for (; i + LOOK <= end; i += LOOK) {
            first[hits] = i;
            hits += any_between(x + i, LOOK, from, below);
        }
        first[hits] = i;
        hits += i < end;
        for (int64_t h = 0; h < hits; h++) {
            int64_t stop = first[h] + LOOK < end ? first[h] + LOOK : end;
            for (int64_t j = first[h]; j < stop; j++) {
                at[found] = (int32_t)j;
                found += (x[j] >= from) & (x[j] < below);
            }
        }
    }
    return found;
}

static void distances(float *key, const float *x, int64_t n, float max, float inv_t, float about) {
    for (int64_t i = 0; i < n; i++)
        key[i] = -fabsf((x[i] - max) * inv_t - about);
}

/* x where key reaches `from` (or passes it, when `past`), else `other`. */
static void keep_block(float *restrict to, const float *x, const float *key, int64_t n, float from,
                       int past, float other) {
    for (int64_t i = 0; i < n; i++) {
        int kept = past ? key[i] > from : key[i] >= from;
        to[i] = float_of((bits_of(x[i]) & (uint32_t)-kept) | (bits_of(other) & ~(uint32_t)-kept));
    }
}

static void keep(float *to, const float *x, const float *key, int64_t n, float from, int64_t last,
                 float other) {
    float scratch[BLOCK];
    for (int64_t at = 0, len; at < n; at += len) {
        int past = at > last;
        int64_t end = block_end(at, n);
        len = (!past && last + 1 < end ? last + 1 : end) - at;
        keep_block(scratch, x + at, key + at, len, from, past, other);
        memcpy(to + at, scratch, (size_t)len * sizeof *to);
    }
}

#define ROWMATH_TABLE(label)                                                                       \
    {                                                                                              \
        .name = (label), .maxima = maxima, .exp_sums = exp_sums, .sums = sums,                     \
        .mean_sum = mean_sum, .mass_from = mass_from, .collect = collect, .distances = distances,  \
        .keep = keep                                                                               \
    }
