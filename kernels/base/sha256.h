/* SHA-256 (FIPS 180-4), whole or piece by piece, and HMAC over it (RFC 2104). Pure; any thread. */
#ifndef TNL_BASE_SHA256_H
#define TNL_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { TNL_SHA256_BYTES = 32 };

typedef struct tnl_sha256 {
    uint32_t h[8];
    uint64_t n;       /* bytes so far */
    uint8_t tail[64]; /* n mod 64 of them wait for a whole block */
} tnl_sha256;

void tnl_sha256_begin(tnl_sha256 *s);
void tnl_sha256_add(tnl_sha256 *s, const void *data, size_t n);
void tnl_sha256_end(tnl_sha256 *s, uint8_t out[TNL_SHA256_BYTES]);

void tnl_sha256_of(uint8_t out[TNL_SHA256_BYTES], const void *data, size_t n);

/* `key` is a whole digest's worth of secret bytes. */
void tnl_hmac_sha256(uint8_t out[TNL_SHA256_BYTES], const uint8_t key[TNL_SHA256_BYTES],
                     const void *data, size_t n);

#endif
