/* Rows of whole slices around products of cuBLASLt. A block makes one input row, or finishes a few
 * outputs of a few rows, so that what belongs to an output is read once for them. */
#include "kernels/cuda/prompt_rows.h"

#include "kernels/cuda/linear_rows.cuh"

enum { FINISH_ROWS = 8, FINISH_OUTS = 4 /* of a thread */ };

KN_DEVICE int64_t row_of(const kn_cuda_row_map &map, int64_t packed) {
    int run = 0;
    while (packed >= map.at[run + 1])
        run++;
    return map.row[run] + packed - map.at[run];
}

/* ---- input rows ---- */

struct prompt_make_args {
    kn_linear p;
    kn_cuda_row_map map;
    kn_cuda_prompt_rows to;
    int64_t cols;
};

/* The largest of x over a block of ROW_THREADS, as kn_block_sum. Floats that are not negative are
 * in the order of their bits, with infinity and NaN at the end. */
KN_DEVICE uint32_t block_most(uint32_t x, uint32_t *parts) {
    for (int apart = 16; apart > 0; apart /= 2) {
        const uint32_t other = kn_shfl_xor_bits(x, apart);
        x = other > x ? other : x;
    }
    kn_sync_block();
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = x;
    kn_sync_block();
    for (int i = 0; i < ROW_WARPS; i++)
        x = parts[i] > x ? parts[i] : x;
    return x;
}

/* |x| <= 448, to nearest even. */
KN_DEVICE uint32_t e4m3_of(float x) {
    const uint32_t bits = kn_bits_of_float(x), sign = bits >> 24 & 0x80u, size = bits & 0x7FFFFFFFu;
    if (size < 0x3C800000u) /* below 2^-6: in steps of 2^-9 */
        return sign | (uint32_t)rintf(kn_float_of_bits(size) * 512);
    const uint32_t code = ((size + 0x7FFFFu + (size >> 20 & 1)) >> 20) - (120u << 3);
    return sign | (code < 0x7Eu ? code : 0x7Eu);
}

static __global__ void __launch_bounds__(ROW_THREADS) make_bf16(prompt_make_args f) {
    KN_SHARED(shared);
    kn_depend();
    const int64_t packed = blockIdx.x, row = row_of(f.map, packed);
    const row_norm n = measure_row(f.p, f.p.x + row * f.p.ldx, f.cols, (float *)shared);
    kn_bf16 *to = (kn_bf16 *)f.to.a + packed * f.to.lda;
    for (int64_t i = threadIdx.x; i < f.to.lda; i += ROW_THREADS)
        to[i] = kn_to_bf16(i < f.cols ? row_value(f.p, n, row, i) : 0.0f);
}

static __global__ void __launch_bounds__(ROW_THREADS) make_e4m3(prompt_make_args f) {
    KN_SHARED(shared);
    kn_depend();
    const int64_t packed = blockIdx.x, row = row_of(f.map, packed);
    const row_norm n = measure_row(f.p, f.p.x + row * f.p.ldx, f.cols, (float *)shared);
    uint32_t top = 0;
    for (int64_t i = threadIdx.x; i < f.cols; i += ROW_THREADS) {
        const uint32_t size = kn_bits_of_float(row_value(f.p, n, row, i)) & 0x7FFFFFFFu;
        top = size > top ? size : top;
    }
    top = block_most(top, (uint32_t *)shared);
    const bool finite = top < 0x7F800000u, none = !finite || kn_float_of_bits(top) < 0x1p-100f;
    const float factor = none ? 0 : 448 / kn_float_of_bits(top);
    uint32_t *to = (uint32_t *)((unsigned char *)f.to.a + packed * f.to.lda);
    for (int64_t i = threadIdx.x * 4; i < f.to.lda; i += ROW_THREADS * 4) {
        uint32_t codes = 0;
        for (int e = 0; e < 4; e++)
            if (i + e < f.cols && !none)
                codes |= e4m3_of(row_value(f.p, n, row, i + e) * factor) << 8 * e;
        to[i / 4] = codes;
    }
    if (threadIdx.x == 0)
        f.to.scale[packed] = !finite ? kn_float_of_bits(0x7FC00000u)
                             : none  ? 0
                                     : kn_float_of_bits(top) / 448;
}

void kn_cuda_prompt_make(const kn_cuda_prompt_rows *to, const kn_linear *p,
                         const kn_cuda_row_map *map, kn_cuda_stream stream) {
    const prompt_make_args f = {*p, *map, *to, p->w->cols};
    const int64_t n = map->at[map->n_runs];
    if (n > 0)
        kn_launch(to->scale ? make_e4m3 : make_bf16, dim3((unsigned)n), dim3(ROW_THREADS),
                  ROW_WARPS * sizeof(float), (cudaStream_t)stream, f);
}

/* ---- finished sums ---- */

struct prompt_finish_args {
    kn_linear_args x;
    kn_cuda_row_map map;
    kn_cuda_prompt_sums s;
    const float *row_scale; /* of packed rows, NULL: none, and weights without scales */
    int64_t codes, stride;  /* bytes of a row of f8 before its scale, and from row to row */
};

/* Scales of a thread's outputs: of f8 they lie after each row's codes. */
KN_DEVICE void read_scales(float scales[FINISH_OUTS], const prompt_finish_args &f,
                           const kn_tensor &w, int64_t out0) {
    KN_UNROLL
    for (int i = 0; i < FINISH_OUTS; i++) {
        const int64_t out = out0 + i * ROW_THREADS;
        const unsigned char *row = (const unsigned char *)w.data + out * f.stride;
        scales[i] = out < w.rows ? *(const float *)(row + f.codes) : 0;
    }
}

/* A thread's sums of a row, all asked for before the first is used. */
KN_DEVICE void read_sums(float sums[FINISH_OUTS], const float *row, int64_t out0, int64_t outs) {
    KN_UNROLL
    for (int i = 0; i < FINISH_OUTS; i++) {
        const int64_t out = out0 + i * ROW_THREADS;
        sums[i] = row && out < outs ? row[out] : 0;
    }
}

template <bool SCALED>
static __global__ void __launch_bounds__(ROW_THREADS) finish_sums(prompt_finish_args f) {
    kn_depend();
    const int64_t out0 = (int64_t)blockIdx.x * ROW_THREADS * FINISH_OUTS + threadIdx.x;
    const int64_t first = (int64_t)blockIdx.y * FINISH_ROWS, outs = f.x.w.rows;
    float d[FINISH_OUTS] = {}, d2[FINISH_OUTS] = {};
    if (SCALED)
        read_scales(d, f, f.x.w, out0);
    if (SCALED && f.x.two)
        read_scales(d2, f, f.x.w2, out0);
    for (int64_t r = first; r < first + FINISH_ROWS && r < f.s.n; r++) {
        const int64_t row = row_of(f.map, f.s.first + r);
        const float a = SCALED ? f.row_scale[f.s.first + r] : 1;
        float y[FINISH_OUTS], z[FINISH_OUTS];
        read_sums(y, f.s.y + r * f.s.ld, out0, outs);
        read_sums(z, f.x.two ? f.s.z + r * f.s.ld : nullptr, out0, outs);
        KN_UNROLL
        for (int i = 0; i < FINISH_OUTS; i++)
            if (out0 + i * ROW_THREADS < outs)
                kn_linear_finish(f.x, SCALED ? y[i] * a * d[i] : y[i],
                                 SCALED ? z[i] * a * d2[i] : z[i], out0 + i * ROW_THREADS, row);
    }
}

/* KN_ACT_EXP, run by run. */
static void finish_exp(kn_linear_args x, const kn_cuda_row_map *map, int64_t first, int64_t n,
                       cudaStream_t stream) {
    float *y = x.p.y;
    for (int64_t i = 0; i < map->n_runs; i++) {
        const int64_t from = map->at[i] > first ? map->at[i] : first;
        const int64_t to = map->at[i + 1] < first + n ? map->at[i + 1] : first + n;
        if (from >= to)
            continue;
        x.p.n = to - from;
        x.p.y = y + (map->row[i] + from - map->at[i]) * x.p.ldy;
        kn_linear_act_exp(x, stream);
    }
}

void kn_cuda_prompt_finish(const kn_cuda_prompt_sums *s, const kn_cuda_prompt_rows *rows,
                           const kn_linear *p, const kn_cuda_row_map *map, kn_cuda_stream stream) {
    prompt_finish_args f = {};
    f.x.p = *p;
    f.x.w = *p->w;
    f.x.two = p->w2 != nullptr;
    if (f.x.two)
        f.x.w2 = *p->w2;
    f.map = *map;
    f.s = *s;
    f.row_scale = rows->scale;
    f.codes = kn_f8_padded(p->w->cols);
    f.stride = kn_f8_stride(p->w->cols);
    if (s->n <= 0)
        return;
    void (*const kernel)(prompt_finish_args) = rows->scale ? finish_sums<true> : finish_sums<false>;
    kn_launch(
        kernel,
        dim3(kn_ceil_div(p->w->rows, ROW_THREADS * FINISH_OUTS), kn_ceil_div(s->n, FINISH_ROWS)),
        dim3(ROW_THREADS), 0, (cudaStream_t)stream, f);
    finish_exp(f.x, map, s->first, s->n, (cudaStream_t)stream);
}

/* ---- rows beside slices ---- */

static __global__ void __launch_bounds__(ROW_THREADS)
    move_rows(float *to, int64_t to_ld, const float *from, int64_t from_ld, int64_t cols, bool pack,
              kn_cuda_row_map map) {
    kn_depend();
    const int64_t packed = blockIdx.x, row = row_of(map, packed);
    to += (pack ? packed : row) * to_ld;
    from += (pack ? row : packed) * from_ld;
    for (int64_t i = threadIdx.x; i < cols; i += ROW_THREADS)
        to[i] = from[i];
}

void kn_cuda_prompt_pack(float *packed, const float *rows, int64_t ld, int64_t cols,
                         const kn_cuda_row_map *map, kn_cuda_stream stream) {
    kn_launch(move_rows, dim3((unsigned)map->at[map->n_runs]), dim3(ROW_THREADS), 0,
              (cudaStream_t)stream, packed, cols, rows, ld, cols, true, *map);
}

void kn_cuda_prompt_unpack(float *rows, int64_t ld, const float *packed, int64_t cols,
                           const kn_cuda_row_map *map, kn_cuda_stream stream) {
    kn_launch(move_rows, dim3((unsigned)map->at[map->n_runs]), dim3(ROW_THREADS), 0,
              (cudaStream_t)stream, rows, ld, packed, cols, cols, false, *map);
}

/* ---- trials ---- */

KN_DEVICE uint32_t mixed(uint32_t x) {
    x = (x ^ x >> 16) * 0x7FEB352Du;
    x = (x ^ x >> 15) * 0x846CA68Bu;
    return x ^ x >> 16;
}

/* Magnitudes over eight powers of two, so that the order of a sum shows. */
static __global__ void __launch_bounds__(ROW_THREADS)
    fill_trial(void *to, int64_t n, int64_t period, bool e4m3) {
    kn_depend();
    const int64_t stride = (int64_t)gridDim.x * ROW_THREADS;
    for (int64_t i = (int64_t)blockIdx.x * ROW_THREADS + threadIdx.x; i < n; i += stride) {
        const uint32_t x = mixed((uint32_t)(i % period) + 1), power = x >> 20 & 7;
        if (e4m3)
            ((unsigned char *)to)[i] = (unsigned char)((x & 0x87u) | (4 + power) << 3);
        else
            ((uint16_t *)to)[i] = (uint16_t)((x & 0x807Fu) | (120 + power) << 7);
    }
}

void kn_cuda_trial_fill(void *to, int64_t n, int64_t period, bool e4m3, kn_cuda_stream stream) {
    const int64_t blocks = (n + ROW_THREADS * 16 - 1) / (ROW_THREADS * 16);
    kn_launch(fill_trial, dim3((unsigned)(blocks < 2048 ? blocks : 2048)), dim3(ROW_THREADS), 0,
              (cudaStream_t)stream, to, n, period, e4m3);
}

static __global__ void __launch_bounds__(ROW_THREADS)
    compare_slices(uint32_t *differs, const float *y, const float *want, int64_t outs, int64_t ld) {
    KN_SHARED(shared);
    kn_depend();
    const int64_t rows = KN_CUDA_SLICE_ROWS / KN_CUDA_TRIAL_PARTS, first = blockIdx.y * rows;
    const uint32_t *a = (const uint32_t *)y + blockIdx.x * KN_CUDA_SLICE_ROWS * ld;
    const uint32_t *b = (const uint32_t *)want;
    uint32_t differ = 0;
    for (int64_t row = first; row < first + rows; row++)
        for (int64_t out = threadIdx.x; out < outs; out += ROW_THREADS)
            differ |= a[row * ld + out] != b[row * ld + out];
    differ = block_most(differ, (uint32_t *)shared);
    if (threadIdx.x == 0)
        differs[blockIdx.x * KN_CUDA_TRIAL_PARTS + blockIdx.y] = differ;
}

void kn_cuda_trial_compare(uint32_t *differs, const float *y, const float *want, int64_t slices,
                           int64_t outs, int64_t ld, kn_cuda_stream stream) {
    kn_launch(compare_slices, dim3((unsigned)slices, KN_CUDA_TRIAL_PARTS), dim3(ROW_THREADS),
              ROW_WARPS * sizeof(uint32_t), (cudaStream_t)stream, differs, y, want, outs, ld);
}

/* Codes of fill_trial have no subnormals. */
KN_DEVICE float trial_value(const void *p, int64_t at, bool e4m3) {
    if (!e4m3)
        return kn_to_float(((const kn_bf16 *)p)[at]);
    const uint32_t code = ((const unsigned char *)p)[at];
    return kn_float_of_bits((code & 0x80u) << 24 | (((code & 0x7Fu) << 20) + (120u << 23)));
}

KN_DEVICE float warp_sum(float x) {
    for (int apart = 16; apart > 0; apart /= 2)
        x += kn_shfl_xor(x, apart);
    return x;
}

/* A warp for an output and four rows of the slice. Far is what no rounding explains. */
static __global__ void __launch_bounds__(ROW_THREADS)
    check_sums(uint32_t *differs, const float *got, kn_cuda_trial t) {
    KN_SHARED(shared);
    kn_depend();
    const int64_t lane = threadIdx.x % 32, stride = KN_CUDA_TRIAL_BLOCKS * ROW_WARPS;
    uint32_t differ = 0;
    for (int64_t out = blockIdx.x * ROW_WARPS + threadIdx.x / 32; out < t.outs; out += stride)
        for (int64_t row = 0; row < KN_CUDA_SLICE_ROWS; row += KN_CUDA_SLICE_ROWS / 3 - 1) {
            float sum = 0, most = 0;
            for (int64_t i = lane; i < t.inputs; i += 32) {
                const float x = trial_value(t.a, row * t.lda + i, t.e4m3) *
                                trial_value(t.w, out * t.ldw + i, t.e4m3);
                sum += x;
                most += fabsf(x);
            }
            sum = warp_sum(sum);
            most = warp_sum(most);
            differ |= !(fabsf(got[row * t.ld + out] - sum) <= most * 0x1p-9f);
        }
    differ = block_most(differ, (uint32_t *)shared);
    if (threadIdx.x == 0)
        differs[blockIdx.x] = differ;
}

void kn_cuda_trial_check(uint32_t *differs, const float *got, const kn_cuda_trial *t,
                         kn_cuda_stream stream) {
    kn_launch(check_sums, dim3(KN_CUDA_TRIAL_BLOCKS), dim3(ROW_THREADS),
              ROW_WARPS * sizeof(uint32_t), (cudaStream_t)stream, differs, got, *t);
}
