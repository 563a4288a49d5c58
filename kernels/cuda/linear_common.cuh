/* What the kernels of a product share: their arguments, and what follows a finished sum. */
#ifndef TNL_CUDA_LINEAR_COMMON_CUH
#define TNL_CUDA_LINEAR_COMMON_CUH

#include "kernels/cuda/linear_cuda.h"
#include "kernels/cuda/row_math.cuh"
extern "C" {
#include "kernels/quant.h"
}

/* Threads of a block of products. */
enum { PRODUCT_WARPS = 8, PRODUCT_THREADS = PRODUCT_WARPS * 32 };

struct kn_linear_args {
    kn_linear p; /* p.w and p.w2 are the host's */
    kn_tensor w, w2;
    bool two, packed;
    bool times; /* the outputs are there already, and multiplied with */
    int64_t groups, tile_bytes, lda;
    kn_qrows q;
    uint16_t *half; /* [N][lda] rows in bf16 */
    const float *a; /* [N][lda] rows in f32 */
};

static inline unsigned kn_ceil_div(int64_t n, int64_t by) {
    return (unsigned)((n + by - 1) / by);
}

/* What follows a finished sum: z is that of w2. */
KN_DEVICE void kn_linear_finish(const kn_linear_args &x, float y, float z, int64_t out,
                                int64_t row) {
    const kn_linear &p = x.p;
    if (p.bias)
        y += p.bias[out];
    if (out < p.act_cols && p.act != KN_ACT_EXP)
        y = kn_activate(p.act, y);
    if (x.two)
        y *= p.bias2 ? z + p.bias2[out] : z;
    float *to = p.y + row * p.ldy + out;
    if (x.times)
        y *= *to;
    *to = p.epi == KN_ADD ? *to + y : y;
}

/* What a lane multiplies of bf16: 32 inputs of its four outputs, 8t .. 8t+7 in each a[i], with
 * those of a row. */
KN_DEVICE void kn_multiply_32(float low[4], float high[4], const uint32_t a[4][4],
                              const uint32_t b[4]) {
    KN_UNROLL
    for (int half = 0; half < 4; half += 2) {
        const uint32_t first[4] = {a[0][half], a[1][half], a[0][half + 1], a[1][half + 1]};
        const uint32_t other[4] = {a[2][half], a[3][half], a[2][half + 1], a[3][half + 1]};
        kn_mma_bf16(low, first, b + half);
        kn_mma_bf16(high, other, b + half);
    }
}

/* ---- launches ---- */

/* The input rows, as the products want them (linear_rows.cu). */
void kn_linear_make_rows(const kn_linear_args &x, cudaStream_t stream);
/* exp(y - max of its group) on the columns that are to have it (linear_rows.cu). */
void kn_linear_act_exp(const kn_linear_args &x, cudaStream_t stream);
/* Products of up to 64 rows, and of any number (linear_few.cu). */
void kn_linear_few(const kn_linear_args &x, cudaStream_t stream);
/* Products of many rows (linear_tiles.cu), where the weights lie as these want them. */
bool kn_linear_fits_tiles(const kn_linear_args &x);
void kn_linear_tiles(const kn_linear_args &x, cudaStream_t stream);

#endif
