/* The rows, and the scalar definition of each format. */
#include "kernels/dtype.h"

#include <string.h>

#include "kernels/base/checked.h"
#include "kernels/base/half.h"
#include "kernels/quant.h"

const kn_dtype_row kn_dtypes[KN_DTYPE_COUNT] = {
    [KN_F32] = {"f32", "F32", "FloatStorage", 4},
    [KN_F16] = {"f16", "F16", "HalfStorage", 2},
    [KN_BF16] = {"bf16", "BF16", "BFloat16Storage", 2},
    [KN_Q8] = {"q8", NULL, NULL, 0},
    [KN_Q4] = {"q4", NULL, NULL, 0},
    [KN_F8] = {"f8", NULL, NULL, 0},
};

bool kn_dtype_matrix_bytes(uint64_t *out, kn_dtype t, uint64_t rows, uint64_t cols) {
    uint64_t n;
    if (t < KN_PLAIN_COUNT)
        return tnl_mul_u64(&n, rows, cols) &&
               tnl_mul_u64(out, n, (uint64_t)kn_dtypes[t].elem_bytes);
    if (cols < 1 || cols > (uint64_t)1 << 48 || rows > UINT64_MAX - KN_Q_OUTS)
        return false;
    uint64_t tiles = (rows + KN_Q_OUTS - 1) / KN_Q_OUTS;
    return tnl_mul_u64(out, tiles, (uint64_t)kn_q_tile_bytes(t, (int64_t)cols));
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
