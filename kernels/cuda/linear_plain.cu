/* Products of weights that the tensor cores are not given: f32 and f16, which no published model
 * needs on a device, and bf16 whose rows do not begin at multiples of 16 bytes. A warp for an
 * output; inputs in f32. */
#include "kernels/cuda/linear_common.cuh"

KN_DEVICE float plain_dot(const kn_linear_args &x, const kn_tensor &w, int64_t out, int64_t row) {
    float sum = 0;
    for (int64_t i = threadIdx.x % 32; i < w.cols; i += 32)
        sum = fmaf(kn_plain_weight(w, out * w.cols + i), x.a[row * x.lda + i], sum);
    for (int apart = 16; apart > 0; apart /= 2)
        sum += kn_shfl_xor(sum, apart);
    return sum;
}

static __global__ void __launch_bounds__(PRODUCT_THREADS) plain_products(kn_linear_args x) {
    kn_depend();
    const int64_t out = (int64_t)blockIdx.x * PRODUCT_WARPS + threadIdx.x / 32;
    if (out >= x.w.rows)
        return;
    for (int64_t row = blockIdx.y; row < x.p.n; row += gridDim.y) {
        const float y = plain_dot(x, x.w, out, row), z = x.two ? plain_dot(x, x.w2, out, row) : 0;
        if (threadIdx.x % 32 == 0)
            kn_linear_finish(x, y, z, out, row);
    }
}

void kn_linear_plain(const kn_linear_args &x, cudaStream_t stream) {
    const dim3 grid(kn_ceil_div(x.w.rows, PRODUCT_WARPS), (unsigned)(x.p.n < 1024 ? x.p.n : 1024));
    kn_launch(plain_products, grid, dim3(PRODUCT_THREADS), 0, stream, x);
}
