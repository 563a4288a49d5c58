/* SHA-256 for API keys: only digests are kept and compared. Pure; any thread. */
#ifndef TNL_HTTP_SHA256_H
#define TNL_HTTP_SHA256_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/sha256.h"

enum { SRV_SHA256_BYTES = TNL_SHA256_BYTES };

void srv_sha256(uint8_t out[SRV_SHA256_BYTES], const void *data, size_t n);

#endif
