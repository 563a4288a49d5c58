/* Before and after the products, rows at a time: a block of threads makes an input row, or finishes
 * the outputs of a row. */
#include "kernels/cuda/linear_rows.cuh"

/* ---- input rows ---- */

static __global__ void __launch_bounds__(ROW_THREADS) make_rows(kn_linear_args x) {
    KN_SHARED(shared);
    kn_depend();
    kn_row_room to = {};
    to.plain = x.a;
    to.half = x.half;
    to.q = x.q.q;
    to.scale = x.q.scale;
    to.sum = x.q.sum;
    to.ld = to.filled = x.packed ? x.q.ldq : x.lda;
    kn_make_row(x, to, blockIdx.x, (float *)shared);
}

void kn_linear_make_rows(const kn_linear_args &x, cudaStream_t stream) {
    kn_launch(make_rows, dim3((unsigned)x.p.n), dim3(ROW_THREADS), ROW_WARPS * sizeof(float),
              stream, x);
}

void kn_cuda_linear_rows(const kn_linear *p, kn_cuda_stream stream) {
    kn_linear_args x = {};
    x.p = *p;
    x.w = *p->w;
    x.lda = kn_cuda_linear_lda(x.w.cols);
    x.half = (uint16_t *)p->work;
    if (p->n > 0)
        kn_linear_make_rows(x, (cudaStream_t)stream);
}

/* ---- sums that others made ---- */

struct finish_args {
    kn_linear_args x;
    const float *sums, *sums2;
    int64_t ld;
};

static __global__ void __launch_bounds__(ROW_THREADS) finish_rows(finish_args f) {
    kn_depend();
    const int64_t row = blockIdx.x;
    for (int64_t i = threadIdx.x; i < f.x.w.rows; i += ROW_THREADS) {
        const int64_t at = row * f.ld + i;
        kn_linear_finish(f.x, f.sums[at], f.x.two ? f.sums2[at] : 0, i, row);
    }
}

/* ---- exp(x - max of its group) ---- */

static __global__ void __launch_bounds__(ROW_THREADS) act_exp(kn_linear_args x) {
    kn_depend();
    const int64_t lane = threadIdx.x % 32, group = x.p.act_group;
    for (int64_t at = threadIdx.x / 32 * group; at < x.p.act_cols; at += ROW_WARPS * group) {
        float *y = x.p.y + blockIdx.x * x.p.ldy + at, top = y[0];
        for (int64_t i = lane; i < group; i += 32)
            top = y[i] > top ? y[i] : top;
        for (int apart = 16; apart > 0; apart /= 2) {
            const float other = kn_shfl_xor(top, apart);
            top = other > top ? other : top;
        }
        for (int64_t i = lane; i < group; i += 32)
            y[i] = expf(y[i] - top);
    }
}

void kn_linear_act_exp(const kn_linear_args &x, cudaStream_t stream) {
    if (x.p.act == KN_ACT_EXP && x.p.act_cols > 0)
        kn_launch(act_exp, dim3((unsigned)x.p.n), dim3(ROW_THREADS), 0, stream, x);
}

void kn_cuda_linear_finish(const kn_linear *p, const float *sums, const float *sums2, int64_t ld,
                           kn_cuda_stream stream) {
    finish_args f = {};
    f.x.p = *p;
    f.x.w = *p->w;
    f.x.two = p->w2 != nullptr;
    f.sums = sums;
    f.sums2 = sums2;
    f.ld = ld;
    if (p->n <= 0)
        return;
    kn_launch(finish_rows, dim3((unsigned)p->n), dim3(ROW_THREADS), 0, (cudaStream_t)stream, f);
    kn_linear_act_exp(f.x, (cudaStream_t)stream);
}
