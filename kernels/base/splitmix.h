/* splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014):
 * for seeds, random weights and measurements; tokens are drawn with
 * server/engine/sampling/rng.h. */
#ifndef TNL_BASE_SPLITMIX_H
#define TNL_BASE_SPLITMIX_H

#include <stdint.h>

/* The generator's first number from this seed: also a hash. */
static inline uint64_t tnl_splitmix(uint64_t seed) {
    uint64_t z = seed + UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/* The next number. */
static inline uint64_t tnl_splitmix_next(uint64_t *state) {
    uint64_t z = tnl_splitmix(*state);
    *state += UINT64_C(0x9E3779B97F4A7C15);
    return z;
}

#endif
