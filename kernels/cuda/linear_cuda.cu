/* Which way a product goes. The input rows come first, in a launch of their own; the products do
 * everything else. */
#include "kernels/cuda/linear_common.cuh"

static kn_linear_args prepare(const kn_linear *p) {
    kn_linear_args x = {};
    x.p = *p;
    x.w = *p->w;
    x.two = p->w2 != nullptr;
    if (x.two)
        x.w2 = *p->w2;
    x.packed = x.w.dtype >= KN_PLAIN_COUNT;
    x.groups = kn_q_groups(x.w.cols);
    x.lda = x.w.cols;
    if (x.packed) {
        x.q = kn_qrows_at(p->work, p->n, x.w.cols);
        x.tile_bytes = kn_q_tile_bytes(x.w.dtype, x.w.cols);
    } else if (x.w.dtype == KN_BF16) {
        x.lda = kn_cuda_linear_lda(x.w.cols);
        x.half = (uint16_t *)p->work;
    } else {
        x.a = (const float *)p->work;
    }
    return x;
}

void kn_cuda_linear(const kn_linear *p, kn_cuda_stream where) {
    if (p->n <= 0)
        return;
    const kn_linear_args x = prepare(p);
    cudaStream_t stream = (cudaStream_t)where;
    kn_linear_make_rows(x, stream);
    if (kn_linear_fits_tiles(x))
        kn_linear_tiles(x, stream);
    else
        kn_linear_few(x, stream);
    kn_linear_act_exp(x, stream);
}
