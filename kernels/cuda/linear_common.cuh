/* What the kernels of a product share: their arguments, and what follows a finished sum. */
#ifndef TNL_CUDA_LINEAR_COMMON_CUH
#define TNL_CUDA_LINEAR_COMMON_CUH

#include "kernels/cuda/exact.cuh"
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
    bool two;
    bool packed; /* q8, q4: rows are quantised */
    bool plain;  /* rows are in f32: weights are, or in f16, or bf16 not in 16-byte pieces */
    bool times;  /* the outputs are there already, and multiplied with */
    int64_t groups, tile_bytes, lda;
    kn_qrows q;
    uint16_t *half; /* [N][lda] rows in bf16 */
    float *a;       /* [N][lda] rows in f32 */
};

static inline unsigned kn_ceil_div(int64_t n, int64_t by) {
    return (unsigned)((n + by - 1) / by);
}

/* What an output is finished with, besides its sums. */
struct kn_out_extras {
    float bias, bias2, before;
};

KN_DEVICE kn_out_extras kn_linear_extras(const kn_linear_args &x, int64_t out, int64_t row) {
    kn_out_extras e;
    e.bias = x.p.bias ? x.p.bias[out] : 0.0f;
    e.bias2 = x.p.bias2 ? x.p.bias2[out] : 0.0f;
    e.before = x.times || x.p.epi == KN_ADD ? x.p.y[row * x.p.ldy + out] : 0.0f;
    return e;
}

/* What follows a finished sum: z is that of w2. Sums are rounded by themselves (exact.cuh), lest
 * one kernel does so and another one rounds once for a product and its sum. */
KN_DEVICE void kn_linear_finish(const kn_linear_args &x, const kn_out_extras &e, float y, float z,
                                int64_t out, int64_t row) {
    const kn_linear &p = x.p;
    if (p.bias)
        y = kn_add(y, e.bias);
    if (out < p.act_cols && p.act != KN_ACT_EXP)
        y = kn_activate(p.act, y);
    if (x.two)
        y *= p.bias2 ? kn_add(z, e.bias2) : z;
    if (x.times)
        y *= e.before;
    p.y[row * p.ldy + out] = p.epi == KN_ADD ? kn_add(e.before, y) : y;
}

KN_DEVICE void kn_linear_finish(const kn_linear_args &x, float y, float z, int64_t out,
                                int64_t row) {
    kn_linear_finish(x, kn_linear_extras(x, out, row), y, z, out, row);
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
/* Products of any number of rows, made for up to 64 (linear_few.cu), of rows made before. */
void kn_linear_few(const kn_linear_args &x, cudaStream_t stream);
/* Products that make the rows themselves, for up to eight, where a block has room for them. Not
 * where y overlaps what rows are made from: one block would write what another one reads. */
bool kn_linear_fits_one(const kn_linear_args &x);
/* Whether that is the faster way. */
bool kn_linear_wants_one(const kn_linear_args &x);
void kn_linear_in_one(const kn_linear_args &x, cudaStream_t stream);
/* Weights that no tensor core multiplies (linear_plain.cu). */
void kn_linear_plain(const kn_linear_args &x, cudaStream_t stream);
/* Products of many rows (linear_tiles.cu), where there are kernels for them. */
bool kn_linear_fits_tiles(const kn_linear_args &x);
void kn_linear_tiles(const kn_linear_args &x, cudaStream_t stream);
/* One matrix of q8 or q4 (linear_codes.cu). */
void kn_linear_tile_codes(const kn_linear_args &x, cudaStream_t stream);

#endif
