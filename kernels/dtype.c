/* The rows, and the scalar definition of each format. */
#include "kernels/dtype.h"

#include <string.h>

#include "kernels/base/checked.h"
#include "kernels/base/half.h"

const kn_dtype_row kn_dtypes[KN_DTYPE_COUNT] = {
    [KN_F32] = {"f32", "F32", "FloatStorage", 1, 4},
    [KN_F16] = {"f16", "F16", "HalfStorage", 1, 2},
    [KN_BF16] = {"bf16", "BF16", "BFloat16Storage", 1, 2},
};

bool kn_dtype_matrix_bytes(uint64_t *out, kn_dtype t, uint64_t rows, uint64_t cols) {
    const kn_dtype_row *row = &kn_dtypes[t];
    uint64_t blocks = cols / (uint64_t)row->block_elems;
    return tnl_mul_u64(&blocks, blocks, rows) &&
           tnl_mul_u64(out, blocks, (uint64_t)row->block_bytes);
}

void kn_dtype_to_f32(float *dst, const void *src, kn_dtype t, size_t n) {
    const unsigned char *p = src;
    if (t == KN_F32) {
        memcpy(dst, src, n * sizeof *dst);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, sizeof h);
        dst[i] = t == KN_BF16 ? tnl_f32_from_bf16(h) : tnl_f32_from_f16(h);
    }
}
