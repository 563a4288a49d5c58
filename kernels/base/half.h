/* bf16 and f16 to f32, one element at a time: the definition that vector code is held to. */
#ifndef TNL_BASE_HALF_H
#define TNL_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float tnl_f32_from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t tnl_bits_from_f32(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float tnl_f32_from_bf16(uint16_t h) {
    return tnl_f32_from_bits((uint32_t)h << 16);
}

/* Round to nearest, ties to even; a NaN stays a (quiet) NaN. */
static inline uint16_t tnl_bf16_from_f32(float f) {
    uint32_t b = tnl_bits_from_f32(f);
    if ((b & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)((b >> 16) | 0x0040u);
    return (uint16_t)((b + 0x7FFFu + ((b >> 16) & 1u)) >> 16);
}

static inline float tnl_f32_from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exp = (h >> 10) & 0x1Fu, man = h & 0x3FFu;
    if (exp == 0x1F)
        return tnl_f32_from_bits(sign | 0x7F800000u | (man << 13));
    if (exp != 0)
        return tnl_f32_from_bits(sign | ((exp + 112u) << 23) | (man << 13));
    float tiny = (float)man * 0x1p-24f; /* zero and subnormals are exact in f32 */
    return sign ? -tiny : tiny;
}

#endif
