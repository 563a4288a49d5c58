/* What one element of a row of logits weighs and where it stands in the order, to the bit as
 * server/engine/sampling/rowmath.h defines them, and the scans over a block of threads that
 * sampling needs. Masses are whole numbers of 2^-38: any order of adding them up will do. */
#ifndef TNL_CUDA_PICK_ROW_CUH
#define TNL_CUDA_PICK_ROW_CUH

#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/cuda/exact.cuh"

enum { PICK_WARP = 32, PICK_MOST_WARPS = 32 };

/* ---- order ---- */

/* Order of floats as order of integers; both zeros are 0. */
KN_DEVICE int32_t pick_ordinal(float x) {
    const int32_t bits = (int32_t)kn_bits_of_float(x);
    return bits < 0 ? INT32_MIN - bits : bits;
}

KN_DEVICE float pick_of_ordinal(int32_t k) {
    return kn_float_of_bits((uint32_t)(k < 0 ? INT32_MIN - k : k));
}

/* A row, and of its elements those that are still in the choice: up to and with the edge in the
 * order of descending keys, then ascending indices. */
struct pick_row {
    const float *x; /* [n] */
    int n;
    float max, inv_t;
    int32_t edge_key; /* an ordinal; INT32_MIN: all stay */
    int edge_at;
};

KN_DEVICE bool pick_kept(const pick_row &r, float x, int i) {
    const int32_t key = pick_ordinal(x);
    return key > r.edge_key || (key == r.edge_key && i <= r.edge_at);
}

/* ---- weights ---- */

/* As exp_nonpositive in rowmath_tmpl.c, operation by operation. */
KN_DEVICE float pick_exp(float x) {
    const float magic = 12582912.0f, ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;
    const float t = kn_add(kn_mul(x, 1.44269504f), magic);
    const float n = kn_sub(t, magic);
    const float r = kn_sub(kn_sub(x, kn_mul(n, ln2_hi)), kn_mul(n, ln2_lo));
    float p = 0.0083125019f;
    p = kn_add(kn_mul(p, r), 0.041890334f);
    p = kn_add(kn_mul(p, r), 0.16667116f);
    p = kn_add(kn_mul(p, r), 0.4999923f);
    p = kn_add(kn_mul(p, r), 1.0f);
    p = kn_add(kn_mul(p, r), 1.0f);
    const float e = kn_float_of_bits(kn_bits_of_float(p) + (kn_bits_of_float(t) << 23));
    return x >= -87.0f ? e : 0.0f;
}

/* A mass as hi 2^-16 + lo 2^-38, so that the sum of a few fits into 32 bits each. */
struct pick_parts {
    int32_t hi, lo;
};

enum { PICK_LOW_BITS = 22, PICK_MASS_BITS = 38 };

/* A weight, rounded to the unit: adding 128 leaves its multiple of 2^-16 in the last bits; what
 * remains is exact, and adding 1.5 2^-15 leaves that in units of 2^-38, to even as the host's. */
KN_DEVICE pick_parts pick_weight(const pick_row &r, float x) {
    const float e = pick_exp(kn_mul(kn_sub(x, r.max), r.inv_t));
    const float high = 128.0f, low = 1.5f * 0x1p-15f, t = kn_add(e, high);
    const float rest = kn_sub(e, kn_sub(t, high));
    const uint32_t hi = kn_bits_of_float(t) - kn_bits_of_float(high);
    const uint32_t lo = kn_bits_of_float(kn_add(rest, low)) - kn_bits_of_float(low);
    return pick_parts{(int32_t)hi, (int32_t)lo};
}

KN_DEVICE uint64_t pick_mass(pick_parts p) {
    return (uint64_t)((int64_t)p.hi * (1 << PICK_LOW_BITS) + p.lo);
}

KN_DEVICE double pick_mass_value(uint64_t mass) {
    return kn_mul((double)mass, 0x1p-38);
}

/* u of a mass, rounded down to the unit, below the mass itself. */
KN_DEVICE uint64_t pick_share(double u, uint64_t mass) {
    const uint64_t share = (uint64_t)kn_mul(u, (double)mass);
    return share < mass ? share : mass - 1;
}

/* As eng_log. */
KN_DEVICE double pick_log(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    const int64_t e = (int64_t)(bits - 0x3FE6A09E667F3BCDu) >> 52; /* bits of 1/sqrt 2 */
    bits -= (uint64_t)e << 52;
    double m, sum = 0;
    memcpy(&m, &bits, sizeof m);
    const double s = kn_div(kn_sub(m, 1.0), kn_add(m, 1.0)), s2 = kn_mul(s, s);
    KN_UNROLL
    for (int k = 21; k > 1; k -= 2)
        sum = kn_mul(kn_add(sum, 1.0 / k), s2);
    const double twice = kn_mul(2.0, s);
    return kn_add(kn_mul((double)e, 0.693147180559945286), kn_add(kn_mul(twice, sum), twice));
}

/* ---- scans ---- */

KN_DEVICE int pick_lane() {
    return (int)(threadIdx.x % PICK_WARP);
}

KN_DEVICE int pick_warp() {
    return (int)(threadIdx.x / PICK_WARP);
}

KN_DEVICE int pick_warps() {
    return (int)(blockDim.x / PICK_WARP);
}

KN_DEVICE uint64_t pick_xor(uint64_t x, int mask) {
    const uint32_t low = kn_shfl_xor_bits((uint32_t)x, mask);
    return (uint64_t)kn_shfl_xor_bits((uint32_t)(x >> 32), mask) << 32 | low;
}

/* What lanes, or threads, before this one have, and all together. */
struct pick_scan {
    uint64_t before, all;
};

KN_DEVICE pick_scan pick_scan_warp(uint64_t mine) {
    pick_scan s = {0, mine};
    KN_UNROLL
    for (int apart = 1; apart < PICK_WARP; apart *= 2) {
        const uint64_t other = pick_xor(s.all, apart);
        s.before += pick_lane() & apart ? other : 0;
        s.all += other;
    }
    return s;
}

/* parts: shared, [PICK_MOST_WARPS]. What the block wrote to shared memory before can be read
 * after. */
KN_DEVICE pick_scan pick_scan_block(uint64_t mine, uint64_t *parts) {
    pick_scan s = pick_scan_warp(mine);
    kn_sync_block(); /* an earlier scan has been read */
    if (pick_lane() == 0)
        parts[pick_warp()] = s.all;
    kn_sync_block();
    s.all = 0;
    for (int i = 0; i < pick_warps(); i++) {
        s.before += i < pick_warp() ? parts[i] : 0;
        s.all += parts[i];
    }
    return s;
}

#endif
