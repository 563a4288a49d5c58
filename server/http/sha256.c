/* See kernels/base/sha256.h. */
#include "server/http/sha256.h"

void srv_sha256(uint8_t out[SRV_SHA256_BYTES], const void *data, size_t n) {
    tnl_sha256_of(out, data, n);
}
