/* bf16, f16 and e4m3 to f32 and back, one element at a time: the definition that vector code is
 * held to. */
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

/* e4m3, the 8-bit float with sign, 4 bits of exponent (bias 7) and 3 of mantissa: up to 448 in
 * steps of an eighth of a binade, down to 2^-9, no infinity; all seven bits set is NaN. */
#define TNL_E4M3_MOST 448.0f

static inline float tnl_f32_from_e4m3(uint8_t c) {
    uint32_t sign = (uint32_t)(c & 0x80u) << 24, rest = c & 0x7Fu;
    if (rest == 0x7F)
        return tnl_f32_from_bits(sign | 0x7FC00000u);
    if (rest >= 8)
        return tnl_f32_from_bits(sign | ((rest << 20) + (120u << 23)));
    float tiny = (float)rest * 0x1p-9f;
    return sign ? -tiny : tiny;
}

/* Round to nearest, ties to even; beyond the largest it is the largest, and NaN stays NaN. */
static inline uint8_t tnl_e4m3_from_f32(float f) {
    uint32_t b = tnl_bits_from_f32(f), sign = b >> 24 & 0x80u, m = b & 0x7FFFFFFFu;
    uint32_t nan = m > 0x7F800000u, most = tnl_bits_from_f32(TNL_E4M3_MOST);
    m = m < most ? m : most;
    /* below 2^-6 steps are 2^-9, the last bit of 2^14: an addition rounds */
    uint32_t small = tnl_bits_from_f32(tnl_f32_from_bits(m) + 0x1p14f) - (141u << 23);
    uint32_t large = ((m + 0x7FFFFu + (m >> 20 & 1u)) >> 20) - (120u << 3);
    return (uint8_t)(sign | (nan ? 0x7Fu : m < 121u << 23 ? small : large));
}

#endif
