/* Random numbers as a function of (seed, position): Philox 4x32 with 10 rounds (Salmon, Moraes,
 * Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11).
 *
 * Nothing is carried from token to token, so pausing, batching and resuming cannot shift the
 * stream: key = seed, counter = position of the token in its sequence (prompt included). */
#ifndef TNL_SERVER_ENGINE_RNG_H
#define TNL_SERVER_ENGINE_RNG_H

#include <stdint.h>

static inline void eng_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* Uniform in [0, 1), 53 bits. */
static inline double eng_uniform(uint64_t seed, int64_t position) {
    uint32_t out[4];
    const uint64_t p = (uint64_t)position;
    const uint32_t counter[4] = {(uint32_t)p, (uint32_t)(p >> 32), 0, 0};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    eng_philox(out, counter, key);
    uint64_t bits = ((uint64_t)out[0] << 32 | out[1]) >> 11;
    return (double)bits * 0x1p-53;
}

#endif
