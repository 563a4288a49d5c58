/* Straight from the standard: schedule of 64 words, 64 rounds, big-endian lengths. */
#include "kernels/base/sha256.h"

#include <string.h>

static const uint32_t round_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotr(uint32_t x, int n) {
    return x >> n | x << (32 - n);
}

static uint32_t load_be(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void block(uint32_t h[8], const uint8_t *p) {
    uint32_t w[64], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], k = h[7];
    for (int i = 0; i < 16; i++)
        w[i] = load_be(p + 4 * i);
    for (int i = 16; i < 64; i++) {
        uint32_t s0 = rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    for (int i = 0; i < 64; i++) {
        uint32_t s1 = rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25);
        uint32_t t1 = k + s1 + ((e & f) ^ (~e & g)) + round_k[i] + w[i];
        uint32_t s0 = rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22);
        uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
        k = g, g = f, f = e, e = d + t1;
        d = c, c = b, b = a, a = t1 + t2;
    }
    const uint32_t v[8] = {a, b, c, d, e, f, g, k};
    for (int i = 0; i < 8; i++)
        h[i] += v[i];
}

void tnl_sha256_begin(tnl_sha256 *s) {
    static const uint32_t first[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(s->h, first, sizeof first);
    s->n = 0;
}

void tnl_sha256_add(tnl_sha256 *s, const void *data, size_t n) {
    const uint8_t *p = data;
    size_t have = s->n % 64;
    s->n += n;
    if (have > 0) {
        size_t more = 64 - have < n ? 64 - have : n;
        memcpy(s->tail + have, p, more);
        p += more;
        n -= more;
        if (have + more < 64)
            return;
        block(s->h, s->tail);
    }
    for (; n >= 64; n -= 64, p += 64)
        block(s->h, p);
    if (n)
        memcpy(s->tail, p, n);
}

void tnl_sha256_end(tnl_sha256 *s, uint8_t out[TNL_SHA256_BYTES]) {
    static const uint8_t pad[64] = {0x80};
    uint64_t bits = s->n * 8;
    uint8_t length[8];
    size_t have = s->n % 64;
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)(bits >> (56 - 8 * i));
    tnl_sha256_add(s, pad, have < 56 ? 56 - have : 120 - have);
    tnl_sha256_add(s, length, sizeof length);
    for (int i = 0; i < 8; i++)
        for (int b = 0; b < 4; b++)
            out[4 * i + b] = (uint8_t)(s->h[i] >> (24 - 8 * b));
}

void tnl_sha256_of(uint8_t out[TNL_SHA256_BYTES], const void *data, size_t n) {
    tnl_sha256 s;
    tnl_sha256_begin(&s);
    tnl_sha256_add(&s, data, n);
    tnl_sha256_end(&s, out);
}

void tnl_hmac_sha256(uint8_t out[TNL_SHA256_BYTES], const uint8_t key[TNL_SHA256_BYTES],
                     const void *data, size_t n) {
    uint8_t pad[64], inner[TNL_SHA256_BYTES];
    tnl_sha256 s;
    for (int i = 0; i < 64; i++)
        pad[i] = 0x36 ^ (i < TNL_SHA256_BYTES ? key[i] : 0);
    tnl_sha256_begin(&s);
    tnl_sha256_add(&s, pad, sizeof pad);
    tnl_sha256_add(&s, data, n);
    tnl_sha256_end(&s, inner);
    for (int i = 0; i < 64; i++)
        pad[i] ^= 0x36 ^ 0x5c;
    tnl_sha256_begin(&s);
    tnl_sha256_add(&s, pad, sizeof pad);
    tnl_sha256_add(&s, inner, sizeof inner);
    tnl_sha256_end(&s, out);
}
