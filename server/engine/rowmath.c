/* Row passes of the sampler: see rowmath.h. */
#include "server/engine/rowmath.h"

#include <string.h>

enum { LANES = 16 };

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

/* exp(x) = 2^n e^r with n the nearest integer to x / ln 2 and |r| <= ln(2)/2; e^r by its Taylor
 * series to degree 7. n comes out of the low bits of x / ln 2 + 1.5 * 2^23. The limit at -87 is
 * done on the bits of |x|: a comparison of floats would keep compilers from vectorising. */
static inline float exp_nonpositive(float x) {
    const float magic = 12582912.0f, ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;
    const uint32_t limit = 0x42AE0000u; /* 87 */
    uint32_t size = bits_of(x) & 0x7FFFFFFFu;
    uint32_t beyond = (int32_t)size > (int32_t)limit ? 0xFFFFFFFFu : 0u;
    float c = -float_of((size & ~beyond) | (limit & beyond));
    float t = c * 1.44269504f + magic;
    float n = t - magic;
    float r = (c - n * ln2_hi) - n * ln2_lo;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    float scale = float_of((bits_of(t) - 0x4B400000u + 127u) << 23);
    return float_of(bits_of(p * scale) & ~beyond);
}

float eng_exp(float x) {
    return exp_nonpositive(x);
}

float eng_row_max(const float *x, int64_t n) {
    float lane[LANES];
    for (int l = 0; l < LANES; l++)
        lane[l] = x[0];
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] = lane[l] > x[i + l] ? lane[l] : x[i + l];
    for (; i < n; i++)
        lane[0] = lane[0] > x[i] ? lane[0] : x[i];
    for (int l = 1; l < LANES; l++)
        lane[0] = lane[0] > lane[l] ? lane[0] : lane[l];
    return lane[0];
}

/* Adding the largest finite exponent's distance to all ones carries into the sign bit exactly for
 * infinities and NaNs; OR-ing the sums keeps any such bit. */
bool eng_row_finite(const float *x, int64_t n) {
    uint32_t lane[LANES] = {0}, bits;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            memcpy(&bits, &x[i + l], sizeof bits);
            lane[l] |= (bits & 0x7FFFFFFFu) + 0x00800000u;
        }
    for (; i < n; i++) {
        memcpy(&bits, &x[i], sizeof bits);
        lane[0] |= (bits & 0x7FFFFFFFu) + 0x00800000u;
    }
    for (int l = 1; l < LANES; l++)
        lane[0] |= lane[l];
    return (lane[0] & 0x80000000u) == 0;
}

/* One block: floats in LANES accumulators (at most 32 terms each), then doubles. */
static double block_sum(const float *x, int64_t n, float max, float inv_t) {
    float lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] += exp_nonpositive((x[i + l] - max) * inv_t);
    for (; i < n; i++)
        lane[i % LANES] += exp_nonpositive((x[i] - max) * inv_t);
    double sum = 0;
    for (int l = 0; l < LANES; l++)
        sum += (double)lane[l];
    return sum;
}

double eng_row_exp_sums(double *block, const float *x, int64_t n, float max, float inv_t) {
    double sum = 0;
    for (int64_t b = 0; b * ENG_ROW_BLOCK < n; b++) {
        int64_t at = b * ENG_ROW_BLOCK;
        int64_t len = n - at < ENG_ROW_BLOCK ? n - at : ENG_ROW_BLOCK;
        block[b] = block_sum(x + at, len, max, inv_t);
        sum += block[b];
    }
    return sum;
}

int64_t eng_row_argmax(const float *x, int64_t n) {
    float max = eng_row_max(x, n);
    int64_t i = 0;
    while (x[i] != max)
        i++;
    return i;
}
