/* SHA-256 (FIPS 180-4), for API keys: only digests are kept and compared. Pure; any thread. */
#ifndef TNL_HTTP_SHA256_H
#define TNL_HTTP_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { SRV_SHA256_BYTES = 32 };

void srv_sha256(uint8_t out[SRV_SHA256_BYTES], const void *data, size_t n);

#endif
