/* Embedding, rotation, finiteness and gathering of rows: a block of threads for a row. */
#include "kernels/cuda/rows_cuda.h"

#include "kernels/cuda/row_math.cuh"
extern "C" {
#include "kernels/quant.h"
}

/* ---- embedding ---- */

struct embed_args {
    float *x;
    int64_t ldx, tile_bytes;
    kn_tensor table;
    const int32_t *ids;
    float scale;
};

/* Element (row, i) of f8: quant.h. */
KN_DEVICE float f8_element(const kn_tensor &w, int64_t row, int64_t i) {
    const int64_t padded = (w.cols + KN_F8_UNIT - 1) / KN_F8_UNIT * KN_F8_UNIT;
    const unsigned char *codes = (const unsigned char *)w.data + row * (padded + KN_F8_TAIL);
    const uint32_t code = codes[i], bits = (code & 0x80u) << 24 | (code & 0x7Fu) << 20;
    return *(const float *)(codes + padded) * (kn_float_of_bits(bits) * 0x1p120f);
}

/* Element (row, i) of q8 and q4. */
KN_DEVICE float packed_element(const kn_tensor &w, int64_t tile_bytes, int64_t row, int64_t i) {
    const bool q8 = w.dtype == KN_Q8;
    const int64_t bytes = KN_Q_SCALES + (q8 ? 64 * KN_Q_GROUP : 34 * KN_Q_GROUP);
    const unsigned char *group =
        (const unsigned char *)w.data + row / KN_Q_OUTS * tile_bytes + i / KN_Q_GROUP * bytes;
    const int64_t padded = (w.cols + KN_Q_UNIT - 1) / KN_Q_UNIT * KN_Q_UNIT;
    const int64_t left = padded - i / KN_Q_GROUP * KN_Q_GROUP;
    const int64_t inputs = left < KN_Q_GROUP ? left : (int64_t)KN_Q_GROUP;
    const int64_t o = row % KN_Q_OUTS;
    const float d = kn_float_of_bits((uint32_t)((const uint16_t *)group)[o] << 16);
    const unsigned char *subs = group + KN_Q_SCALES;
    i %= KN_Q_GROUP;
    if (q8)
        return d * (float)(subs[i / 4 * 256 + 4 * o + i % 4] - 128);
    const int pair = subs[2 * inputs + i / 8 * 256 + 4 * o + i % 4];
    const int two = subs[i / 32 * KN_Q_OUTS + o];
    const int code = i % 8 < 4 ? pair & 15 : pair >> 4, sub = i / 16 % 2 ? two >> 4 : two & 15;
    return d * (float)((sub < 8 ? sub : sub - 16) * (code - 8));
}

KN_DEVICE float table_element(const embed_args &e, int64_t row, int64_t i) {
    if (e.table.dtype == KN_F8)
        return f8_element(e.table, row, i);
    return e.table.dtype >= KN_PLAIN_COUNT ? packed_element(e.table, e.tile_bytes, row, i)
                                           : kn_plain_weight(e.table, row * e.table.cols + i);
}

static __global__ void __launch_bounds__(ROW_THREADS) embed(embed_args e) {
    kn_depend();
    const int64_t row = blockIdx.x, id = e.ids[row];
    for (int64_t i = threadIdx.x; i < e.table.cols; i += ROW_THREADS)
        e.x[row * e.ldx + i] = table_element(e, id, i) * e.scale;
}

void kn_cuda_embed(float *x, int64_t ldx, const kn_tensor *table, const int32_t *ids, int64_t n,
                   float scale, kn_cuda_stream stream) {
    embed_args e = {x, ldx, 0, *table, ids, scale};
    if (table->dtype >= KN_PLAIN_COUNT)
        e.tile_bytes = kn_q_tile_bytes(table->dtype, table->cols);
    if (n > 0)
        kn_launch(embed, dim3((unsigned)n), dim3(ROW_THREADS), 0, (cudaStream_t)stream, e);
}

/* ---- rotation ---- */

struct lrpe_args {
    float *y;
    int64_t ldy;
    const float *x;
    int64_t ldx;
    const float *theta;
    const int64_t *pos;
    int H, dh;
};

static __global__ void __launch_bounds__(ROW_THREADS) lrpe(lrpe_args a) {
    kn_depend();
    const int64_t row = blockIdx.x;
    const double pos = (double)a.pos[row], turn = 6.283185307179586476925;
    for (int i = (int)threadIdx.x; i < a.H * a.dh; i += ROW_THREADS) {
        const double phase = (double)a.theta[i] * pos;
        /* within half a turn of zero, where f32 has digits enough */
        const float near = (float)fma(-rint(phase / turn), turn, phase);
        const float x = a.x[row * a.ldx + i];
        float *y = a.y + row * a.ldy + 2 * (int64_t)(i / a.dh) * a.dh + i % a.dh;
        y[0] = x * cosf(near);
        y[a.dh] = x * sinf(near);
    }
}

void kn_cuda_lrpe(float *y, int64_t ldy, const float *x, int64_t ldx, const float *theta,
                  const int64_t *pos, int64_t n, int H, int dh, kn_cuda_stream stream) {
    const lrpe_args a = {y, ldy, x, ldx, theta, pos, H, dh};
    if (n > 0)
        kn_launch(lrpe, dim3((unsigned)n), dim3(ROW_THREADS), 0, (cudaStream_t)stream, a);
}

/* ---- finiteness, gathering ---- */

struct rows_args {
    float *y;
    int64_t ldy;
    const float *x;
    int64_t ldx;
    const int64_t *rows;
    bool *ok;
    int64_t dim;
};

static __global__ void __launch_bounds__(ROW_THREADS) finite_rows(rows_args a) {
    KN_SHARED(shared);
    kn_depend();
    const float *x = a.x + blockIdx.x * a.ldx;
    float bad = 0;
    for (int64_t i = threadIdx.x; i < a.dim; i += ROW_THREADS)
        bad += (kn_bits_of_float(x[i]) & 0x7F800000u) == 0x7F800000u ? 1.0f : 0.0f;
    bad = kn_block_sum(bad, (float *)shared);
    if (threadIdx.x == 0)
        a.ok[blockIdx.x] = bad == 0;
}

void kn_cuda_finite_rows(bool *ok, const float *x, int64_t ldx, int64_t n, int64_t dim,
                         kn_cuda_stream stream) {
    rows_args a = {};
    a.ok = ok;
    a.x = x;
    a.ldx = ldx;
    a.dim = dim;
    if (n > 0)
        kn_launch(finite_rows, dim3((unsigned)n), dim3(ROW_THREADS), ROW_WARPS * sizeof(float),
                  (cudaStream_t)stream, a);
}

static __global__ void __launch_bounds__(ROW_THREADS) gather_rows(rows_args a) {
    kn_depend();
    const int64_t row = blockIdx.x;
    for (int64_t i = threadIdx.x; i < a.dim; i += ROW_THREADS)
        a.y[row * a.ldy + i] = a.x[a.rows[row] * a.ldx + i];
}

void kn_cuda_gather_rows(float *y, int64_t ldy, const float *x, int64_t ldx, const int64_t *rows,
                         int64_t n, int64_t dim, kn_cuda_stream stream) {
    const rows_args a = {y, ldy, x, ldx, rows, nullptr, dim};
    if (n > 0)
        kn_launch(gather_rows, dim3((unsigned)n), dim3(ROW_THREADS), 0, (cudaStream_t)stream, a);
}
