/* Which way a product goes. */
#include "kernels/cuda/linear_common.cuh"

/* In 16-byte pieces, or not for the tensor cores. */
static bool is_plain(const kn_tensor &w) {
    return w.dtype < KN_PLAIN_COUNT &&
           (w.dtype != KN_BF16 || w.cols % 8 != 0 || (uintptr_t)w.data % 16 != 0);
}

static kn_linear_args prepare(const kn_linear *p) {
    kn_linear_args x = {};
    x.p = *p;
    x.w = *p->w;
    x.two = p->w2 != nullptr;
    if (x.two)
        x.w2 = *p->w2;
    x.packed = x.w.dtype == KN_Q8 || x.w.dtype == KN_Q4;
    x.plain = is_plain(x.w) || (x.two && is_plain(x.w2));
    x.groups = kn_q_groups(x.w.cols);
    x.lda = x.w.cols;
    if (x.packed) {
        x.q = kn_qrows_at(p->work, p->n, x.w.cols);
        x.tile_bytes = kn_q_tile_bytes(x.w.dtype, x.w.cols);
    } else if (x.plain) {
        x.a = (float *)p->work;
    } else {
        x.lda = kn_cuda_linear_lda(x.w.cols);
        x.half = (uint16_t *)p->work;
    }
    return x;
}

void kn_cuda_linear_by(const kn_linear *p, kn_cuda_way way, kn_cuda_stream where) {
    if (p->n <= 0)
        return;
    const kn_linear_args x = prepare(p);
    cudaStream_t stream = (cudaStream_t)where;
    if (way != KN_CUDA_ROWS_FIRST && kn_linear_fits_one(x) &&
        (way == KN_CUDA_IN_ONE || kn_linear_wants_one(x))) {
        kn_linear_in_one(x, stream);
    } else {
        kn_linear_make_rows(x, stream);
        if (x.plain)
            kn_linear_plain(x, stream);
        else if (kn_linear_fits_tiles(x))
            kn_linear_tiles(x, stream);
        else
            kn_linear_few(x, stream);
    }
    kn_linear_act_exp(x, stream);
}

void kn_cuda_linear(const kn_linear *p, kn_cuda_stream stream) {
    kn_cuda_linear_by(p, KN_CUDA_ANY_WAY, stream);
}
