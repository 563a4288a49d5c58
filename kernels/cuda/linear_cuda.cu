/* y (+)= act(W norm(x) . mul + bias), in two launches: `make_rows` writes the input rows as the
 * products want them (bf16, or quantised as quant.h says), `products` does everything else.
 *
 * A block of `products` owns 32 outputs of up to 8 NT rows. Inputs are cut into groups of 128 that
 * are dealt to the warps. For its group a warp multiplies 32 outputs x 128 inputs with the rows on
 * tensor cores, weights as left operand straight from memory, rows as right operand, eight at a
 * time; so one row costs the same reads of weights as sixty-four. The sums of groups go to shared
 * memory. Then every thread takes NT pairs (output, row) and adds their groups up, ascending:
 *
 *   packed  y = fma(dot, d scale, y)   dot is exact, so these are the bits of every other backend
 *   bf16    y += sum of the group
 *
 * Neither depends on NT, on the number of rows or on the place of a row among them. With many
 * groups this goes in rounds of 64 KiB of sums. What follows a product is done on the finished
 * sums.
 *
 * Which lane reads what. An instruction's operands are read 16 bytes a lane where they lie: the sum
 * over inputs may run in any order within a group as long as both operands agree on it, and the
 * left operand's rows may be any outputs. Lane (g, t) takes outputs 4g .. 4g+3, as rows g and g+8
 * of two operands, and bf16    inputs 8t .. 8t+7 of 32: two products of 16 inputs q8      steps t
 * and t+4 of eight (quant.h): four inputs each, 16 bytes of four outputs q4      pair t of four:
 * inputs 8t .. 8t+7, expanded to weight + 128 in a byte, as in q8: sub (code - 8) + 128 = sub code
 * + (128 - 8 sub), four bytes in one multiplication, since no byte leaves 0 .. 255 The offset of
 * 128 is taken out with the sum of the row's group. f16 and f32 weights, which no published model
 * needs on a device, go through `plain_products`, a warp for an output. */
#include "kernels/cuda/linear_cuda.h"

#include "kernels/cuda/row_math.cuh"
extern "C" {
#include "kernels/quant.h"
}

enum { OUTS = 32, WARPS_OF_OUTS = 8, PRODUCT_THREADS = WARPS_OF_OUTS * 32, ROUND_WORDS = 16384 };

struct linear_args {
    kn_linear p; /* p.w and p.w2 are the host's */
    kn_tensor w, w2;
    bool two, packed;
    bool times; /* the outputs are there already, and multiplied with */
    int64_t groups, tile_bytes, lda;
    kn_qrows q;
    uint16_t *half; /* [N][lda] rows in bf16 */
    const float *a; /* [N][lda] rows in f32 */
};

/* ---- input rows ---- */

/* What norm(x) . mul is made from: a = (x - mean) f. */
struct row_norm {
    float mean, f;
};

KN_DEVICE row_norm measure_row(const kn_linear &p, const float *x, int64_t cols, float *parts) {
    row_norm n = {0, 1};
    if (p.norm.kind == KN_NORM_NONE)
        return n;
    float sum = 0;
    if (p.norm.kind == KN_NORM_LAYER) {
        for (int64_t i = threadIdx.x; i < cols; i += ROW_THREADS)
            sum += x[i];
        n.mean = kn_block_sum(sum, parts) / (float)cols;
        sum = 0;
    }
    for (int64_t i = threadIdx.x; i < cols; i += ROW_THREADS)
        sum = fmaf(x[i] - n.mean, x[i] - n.mean, sum);
    n.f = 1 / sqrtf(kn_block_sum(sum, parts) / (float)cols + p.norm.eps);
    return n;
}

KN_DEVICE float row_value(const kn_linear &p, row_norm n, int64_t row, int64_t i) {
    float a = p.x[row * p.ldx + i];
    if (p.norm.kind != KN_NORM_NONE)
        a = (a - n.mean) * n.f;
    if (p.norm.kind == KN_NORM_LAYER)
        a = a * p.norm.w[i] + p.norm.b[i];
    return p.mul ? a * p.mul[row * p.ldmul + i] : a;
}

/* One group of a row, by one warp: four inputs a lane. See kn_qrows. */
KN_DEVICE void quantise_group(const linear_args &x, row_norm n, int64_t row, int64_t group) {
    const int64_t cols = x.w.cols, lane = threadIdx.x % 32, at = group * KN_Q_GROUP + lane * 4;
    float a[4];
    uint32_t top = 0; /* as integers magnitudes are ordered, and NaN and infinity are largest */
    for (int i = 0; i < 4; i++) {
        a[i] = at + i < cols ? row_value(x.p, n, row, at + i) : 0.0f;
        const uint32_t bits = kn_bits_of_float(a[i]) & 0x7FFFFFFFu;
        top = bits > top ? bits : top;
    }
    for (int apart = 16; apart > 0; apart /= 2) {
        const uint32_t other = kn_shfl_xor_bits(top, apart);
        top = other > top ? other : top;
    }
    const float most = kn_float_of_bits(top), factor = 127 / most;
    const bool none = top >= 0x7F800000u || most < 0x1p-100f;
    uint32_t codes = 0;
    int32_t sum = 0;
    for (int i = 0; i < 4 && !none; i++) {
        const int32_t code = (int32_t)rintf(a[i] * factor);
        codes |= ((uint32_t)code & 0xFFu) << 8 * i;
        sum += code;
    }
    for (int apart = 16; apart > 0; apart /= 2)
        sum += (int32_t)kn_shfl_xor_bits((uint32_t)sum, apart);
    if (at < x.q.ldq)
        *(uint32_t *)(x.q.q + row * x.q.ldq + at) = codes;
    if (lane == 0) {
        x.q.sum[row * x.groups + group] = sum;
        x.q.scale[row * x.groups + group] = top >= 0x7F800000u ? kn_float_of_bits(0x7FC00000u)
                                            : none             ? 0
                                                               : most / 127;
    }
}

static __global__ void __launch_bounds__(ROW_THREADS) make_rows(linear_args x) {
    KN_SHARED(shared);
    const int64_t row = blockIdx.x, cols = x.w.cols;
    const row_norm n = measure_row(x.p, x.p.x + row * x.p.ldx, cols, (float *)shared);
    if (x.packed) {
        for (int64_t g = threadIdx.x / 32; g < x.groups; g += ROW_WARPS)
            quantise_group(x, n, row, g);
        return;
    }
    for (int64_t i = threadIdx.x; i < x.lda; i += ROW_THREADS) {
        const float a = i < cols ? row_value(x.p, n, row, i) : 0.0f;
        if (x.half)
            x.half[row * x.lda + i] = kn_to_bf16(a).bits;
        else
            ((float *)x.p.work)[row * x.lda + i] = a;
    }
}

/* ---- sums of one group ---- */

/* Where the lane's four outputs of a row of the left operands' products belong. */
template <typename D, int NT>
KN_DEVICE void put_sums(D *parts, const D low[NT][4], const D high[NT][4]) {
    const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    KN_UNROLL
    for (int n = 0; n < NT; n++)
        for (int e = 0; e < 2; e++) {
            D *to = parts + (n * 8 + 2 * t + e) * OUTS + 4 * g;
            to[0] = low[n][e];
            to[1] = low[n][2 + e];
            to[2] = high[n][e];
            to[3] = high[n][2 + e];
        }
}

/* 8 bf16 of a row of weights; zeros beyond its end. */
KN_DEVICE void read_weights(uint32_t r[4], const uint16_t *row, int64_t at, int64_t cols,
                            bool whole) {
    if (whole && at < cols) {
        kn_read_16(r, row + at);
        return;
    }
    for (int i = 0; i < 4; i++) {
        const int64_t k = at + 2 * i;
        r[i] = (k < cols ? row[k] : 0u) | (k + 1 < cols ? (uint32_t)row[k + 1] : 0u) << 16;
    }
}

/* 32 inputs of the lane's four outputs times those of a row. */
KN_DEVICE void multiply_32(float low[4], float high[4], const uint32_t a[4][4],
                           const uint32_t b[4]) {
    KN_UNROLL
    for (int half = 0; half < 4; half += 2) {
        const uint32_t first[4] = {a[0][half], a[1][half], a[0][half + 1], a[1][half + 1]};
        const uint32_t other[4] = {a[2][half], a[3][half], a[2][half + 1], a[3][half + 1]};
        kn_mma_bf16(low, first, b + half);
        kn_mma_bf16(high, other, b + half);
    }
}

template <int NT>
KN_DEVICE void sum_bf16(float *parts, const linear_args &x, const kn_tensor &w, int64_t group,
                        int64_t out, int64_t first) {
    const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint16_t *rows[4];
    for (int i = 0; i < 4; i++) {
        const int64_t row = out + 4 * g + i;
        rows[i] = (const uint16_t *)w.data + (row < w.rows ? row : w.rows - 1) * w.cols;
    }
    const bool whole = w.cols % 8 == 0 && (uintptr_t)w.data % 16 == 0;
    float low[NT][4] = {}, high[NT][4] = {};
    KN_UNROLL
    for (int step = 0; step < KN_Q_GROUP / 32; step++) {
        const int64_t at = group * KN_Q_GROUP + step * 32 + 8 * t;
        uint32_t a[4][4];
        KN_UNROLL
        for (int i = 0; i < 4; i++)
            read_weights(a[i], rows[i], at, w.cols, whole);
        KN_UNROLL
        for (int n = 0; n < NT; n++) {
            const int64_t row = first + n * 8 + g;
            const uint16_t *from = x.half + (row < x.p.n ? row : x.p.n - 1) * x.lda + at;
            uint32_t b[4] = {0, 0, 0, 0};
            if (at < x.lda)
                for (int i = 0; i < 4; i++)
                    b[i] = ((const uint32_t *)from)[i];
            multiply_32(low[n], high[n], a, b);
        }
    }
    put_sums<float, NT>(parts, low, high);
}

/* Four outputs' weights + 128 of inputs (.., 0) and (.., 1): the lane's share of 32 inputs. */
template <kn_dtype FORMAT>
KN_DEVICE void read_codes(uint32_t a[4][2], const unsigned char *group, int64_t inputs, int half,
                          int step) {
    const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t r[4], s[4];
    if (FORMAT == KN_Q8) {
        const unsigned char *codes = group + KN_Q_SCALES + half * 128 + 16 * g;
        kn_read_16(r, codes + (step * 8 + t) * 256);
        kn_read_16(s, codes + (step * 8 + 4 + t) * 256);
        for (int i = 0; i < 4; i++) {
            a[i][0] = r[i];
            a[i][1] = s[i];
        }
        return;
    }
    const unsigned char *subs = group + KN_Q_SCALES, *codes = subs + 2 * inputs;
    kn_read_16(r, codes + (step * 4 + t) * 256 + half * 128 + 16 * g);
    const uint32_t factors = *(const uint32_t *)(subs + step * KN_Q_OUTS + half * 32 + 4 * g);
    for (int i = 0; i < 4; i++) {
        const uint32_t nibble = factors >> (8 * i + t / 2 * 4) & 15;
        const uint32_t sub = nibble < 8 ? nibble : nibble - 16,
                       to_128 = 0x01010101u * (128 - 8 * sub);
        a[i][0] = (r[i] & 0x0F0F0F0Fu) * sub + to_128;
        a[i][1] = (r[i] >> 4 & 0x0F0F0F0Fu) * sub + to_128;
    }
}

template <kn_dtype FORMAT, int NT>
KN_DEVICE void sum_packed(int32_t *parts, const linear_args &x, const unsigned char *group,
                          int64_t number, int half, int64_t first) {
    const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int64_t left = x.q.ldq - number * KN_Q_GROUP;
    const int64_t inputs = left < KN_Q_GROUP ? left : (int64_t)KN_Q_GROUP;
    int32_t low[NT][4] = {}, high[NT][4] = {};
    KN_UNROLL
    for (int step = 0; step < KN_Q_GROUP / 32; step++) {
        if (step * 32 >= inputs)
            break;
        uint32_t a[4][2];
        read_codes<FORMAT>(a, group, inputs, half, step);
        const uint32_t first_rows[4] = {a[0][0], a[1][0], a[0][1], a[1][1]};
        const uint32_t other_rows[4] = {a[2][0], a[3][0], a[2][1], a[3][1]};
        KN_UNROLL
        for (int n = 0; n < NT; n++) {
            const int64_t row = first + n * 8 + g;
            const int8_t *q =
                x.q.q + (row < x.p.n ? row : x.p.n - 1) * x.q.ldq + number * KN_Q_GROUP + step * 32;
            const int8_t *one = FORMAT == KN_Q8 ? q + 4 * t : q + 8 * t;
            const int8_t *two = FORMAT == KN_Q8 ? q + 4 * t + 16 : q + 8 * t + 4;
            const uint32_t b[2] = {*(const uint32_t *)one, *(const uint32_t *)two};
            kn_mma_u8s8(low[n], first_rows, b);
            kn_mma_u8s8(high[n], other_rows, b);
        }
    }
    put_sums<int32_t, NT>(parts, low, high);
}

/* ---- all groups ---- */

KN_DEVICE const unsigned char *group_at(const linear_args &x, const kn_tensor &w, int64_t out,
                                        int64_t group) {
    const int64_t bytes =
        KN_Q_SCALES +
        (w.dtype == KN_Q8 ? KN_Q_GROUP * KN_Q_OUTS : 2 * KN_Q_GROUP + KN_Q_GROUP * KN_Q_OUTS / 2);
    return (const unsigned char *)w.data + out / KN_Q_OUTS * x.tile_bytes + group * bytes;
}

template <kn_dtype FORMAT, int NT>
KN_DEVICE void sum_group(void *parts, const linear_args &x, const kn_tensor &w, int64_t group,
                         int64_t out, int64_t first) {
    if (FORMAT == KN_BF16)
        sum_bf16<NT>((float *)parts, x, w, group, out, first);
    else
        sum_packed<FORMAT, NT>((int32_t *)parts, x, group_at(x, w, out, group), group,
                               (int)(out / OUTS % 2), first);
}

/* y after one more group of an output and a row. */
template <kn_dtype FORMAT>
KN_DEVICE float add_group(float y, const void *part, const linear_args &x, const kn_tensor &w,
                          int64_t group, int64_t out, int64_t row) {
    if (FORMAT == KN_BF16)
        return y + *(const float *)part;
    const int64_t at = row * x.groups + group;
    const int32_t dot = *(const int32_t *)part - 128 * x.q.sum[at];
    const uint16_t d = ((const uint16_t *)group_at(x, w, out, group))[out % KN_Q_OUTS];
    return fmaf((float)dot, kn_float_of_bits((uint32_t)d << 16) * x.q.scale[at], y);
}

template <kn_dtype FORMAT, int NT>
KN_DEVICE void sum_matrix(float y[NT], const linear_args &x, const kn_tensor &w, uint32_t *parts,
                          int64_t out0, int64_t first) {
    enum { WORDS = NT * 8 * OUTS, ROUND = ROUND_WORDS / WORDS };
    const int64_t out = out0 + threadIdx.x % OUTS;
    for (int64_t begin = 0; begin < x.groups; begin += ROUND) {
        const int64_t end = begin + ROUND < x.groups ? begin + ROUND : x.groups;
        kn_sync_block(); /* the round before has been added up */
        for (int64_t g = begin + threadIdx.x / 32; g < end; g += WARPS_OF_OUTS)
            sum_group<FORMAT, NT>(parts + (g - begin) * WORDS, x, w, g, out0, first);
        kn_sync_block();
        KN_UNROLL
        for (int i = 0; i < NT; i++) {
            const int at = (int)threadIdx.x + i * PRODUCT_THREADS;
            const int64_t row = first + at / OUTS;
            if (row >= x.p.n || out >= w.rows)
                continue;
            for (int64_t g = begin; g < end; g++)
                y[i] = add_group<FORMAT>(y[i], parts + (g - begin) * WORDS + at, x, w, g, out, row);
        }
    }
}

/* What follows a finished sum: z is that of w2. */
KN_DEVICE void finish(const linear_args &x, float y, float z, int64_t out, int64_t row) {
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

template <kn_dtype FORMAT, int NT>
static __global__ void __launch_bounds__(PRODUCT_THREADS) products(linear_args x) {
    KN_SHARED(shared);
    const int64_t out0 = (int64_t)blockIdx.x * OUTS, first = (int64_t)blockIdx.y * NT * 8;
    float y[NT] = {}, z[NT] = {};
    sum_matrix<FORMAT, NT>(y, x, x.w, (uint32_t *)shared, out0, first);
    if (x.two)
        sum_matrix<FORMAT, NT>(z, x, x.w2, (uint32_t *)shared, out0, first);
    KN_UNROLL
    for (int i = 0; i < NT; i++) {
        const int at = (int)threadIdx.x + i * PRODUCT_THREADS;
        const int64_t out = out0 + at % OUTS, row = first + at / OUTS;
        if (out < x.w.rows && row < x.p.n)
            finish(x, y[i], z[i], out, row);
    }
}

/* ---- many rows, bf16 weights ---- */

/* A block owns 128 outputs of 128 rows, a warp 32 of 64. Weights and rows come to shared memory by
 * asynchronous copies, 64 inputs a stage. A lane reads there what it would read in `sum_bf16` from
 * memory, groups begin at zero and are added up ascending: the same sums as of few rows. */
enum {
    TILE = 128, /* outputs, rows */
    TILE_INPUTS = 64,
    TILE_BYTES = TILE * TILE_INPUTS * 2,
    STAGES = 3,
    WARP_TILES = 8, /* of eight rows */
};

/* 16-byte pieces of a row in an order that keeps the reads of eight lanes on different banks: those
 * of weights are of rows 4g + i, those of inputs of rows g. */
KN_DEVICE unsigned char *tile_piece(unsigned char *tile, int row, int piece, bool weights) {
    const int turn = weights ? row & 7 : (row & 1) * 4 + (row >> 1 & 3);
    return tile + row * TILE_INPUTS * 2 + (piece ^ turn) * 16;
}

KN_DEVICE void fetch_tile(unsigned char *tile, const uint16_t *from, int64_t ld, int64_t first,
                          int64_t rows, int64_t at, bool weights) {
    for (int i = (int)threadIdx.x; i < TILE * 8; i += PRODUCT_THREADS) {
        const int row = i / 8, piece = i % 8;
        const int64_t k = at + piece * 8, r = first + row < rows ? first + row : rows - 1;
        uint32_t *to = (uint32_t *)tile_piece(tile, row, piece, weights);
        if (k < ld)
            kn_copy_async(to, from + r * ld + k);
        else
            to[0] = to[1] = to[2] = to[3] = 0;
    }
}

KN_DEVICE void fetch_stage(unsigned char *shared, const linear_args &x, int64_t stage, int64_t out,
                           int64_t row) {
    unsigned char *at = shared + stage % STAGES * 2 * TILE_BYTES;
    if (stage * TILE_INPUTS < x.w.cols) {
        fetch_tile(at, (const uint16_t *)x.w.data, x.w.cols, out, x.w.rows, stage * TILE_INPUTS,
                   true);
        fetch_tile(at + TILE_BYTES, x.half, x.lda, row, x.p.n, stage * TILE_INPUTS, false);
    }
    kn_copy_commit();
}

KN_DEVICE void multiply_stage(float low[][4], float high[][4], unsigned char *W, unsigned char *X) {
    const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int warp = (int)threadIdx.x / 32, out = warp % 4 * 32, row = warp / 4 * 64;
    KN_UNROLL
    for (int step = 0; step < 2; step++) {
        uint32_t a[4][4], b[4];
        KN_UNROLL
        for (int i = 0; i < 4; i++)
            kn_read_shared_16(a[i], tile_piece(W, out + 4 * g + i, step * 4 + t, true));
        KN_UNROLL
        for (int n = 0; n < WARP_TILES; n++) {
            kn_read_shared_16(b, tile_piece(X, row + n * 8 + g, step * 4 + t, false));
            multiply_32(low[n], high[n], a, b);
        }
    }
}

/* y += sum, which begins again. */
KN_DEVICE void close_group(float y[][4], float sum[][4]) {
    KN_UNROLL
    for (int n = 0; n < WARP_TILES; n++)
        for (int e = 0; e < 4; e++) {
            y[n][e] += sum[n][e];
            sum[n][e] = 0;
        }
}

KN_DEVICE void finish_tile(const linear_args &x, const float y[][4], int64_t out, int64_t row) {
    const int t = (int)threadIdx.x % 4;
    KN_UNROLL
    for (int n = 0; n < WARP_TILES; n++)
        for (int e = 0; e < 4;
             e++) { /* y[n][0], [1]: one output, rows 2t, 2t+1; [2], [3]: the next */
            const int64_t r = row + n * 8 + 2 * t + e % 2, o = out + e / 2;
            if (r < x.p.n && o < x.w.rows)
                finish(x, y[n][e], 0, o, r);
        }
}

static __global__ void __launch_bounds__(PRODUCT_THREADS) tile_products(linear_args x) {
    KN_SHARED(shared);
    const int64_t out = (int64_t)blockIdx.x * TILE, row = (int64_t)blockIdx.y * TILE;
    float low[WARP_TILES][4] = {}, high[WARP_TILES][4] = {};
    float y_low[WARP_TILES][4] = {}, y_high[WARP_TILES][4] = {};
    for (int stage = 0; stage < STAGES - 1; stage++)
        fetch_stage(shared, x, stage, out, row);
    for (int64_t stage = 0; stage * TILE_INPUTS < x.w.cols; stage++) {
        kn_copy_wait<STAGES - 2>();
        kn_sync_block(); /* this stage has come, the one before is done with */
        fetch_stage(shared, x, stage + STAGES - 1, out, row);
        unsigned char *at = shared + stage % STAGES * 2 * TILE_BYTES;
        multiply_stage(low, high, at, at + TILE_BYTES);
        if (stage % 2 == 1 || (stage + 1) * TILE_INPUTS >= x.w.cols) {
            close_group(y_low, low);
            close_group(y_high, high);
        }
    }
    const int warp = (int)threadIdx.x / 32, g = (int)threadIdx.x % 32 / 4;
    finish_tile(x, y_low, out + warp % 4 * 32 + 4 * g, row + warp / 4 * 64);
    finish_tile(x, y_high, out + warp % 4 * 32 + 4 * g + 2, row + warp / 4 * 64);
}

/* ---- f32 and f16 weights ---- */

KN_DEVICE float plain_dot(const linear_args &x, const kn_tensor &w, int64_t out, int64_t row) {
    float sum = 0;
    for (int64_t i = threadIdx.x % 32; i < w.cols; i += 32)
        sum = fmaf(kn_plain_weight(w, out * w.cols + i), x.a[row * x.lda + i], sum);
    for (int apart = 16; apart > 0; apart /= 2)
        sum += kn_shfl_xor(sum, apart);
    return sum;
}

static __global__ void __launch_bounds__(PRODUCT_THREADS) plain_products(linear_args x) {
    const int64_t out = (int64_t)blockIdx.x * WARPS_OF_OUTS + threadIdx.x / 32;
    if (out >= x.w.rows)
        return;
    for (int64_t row = blockIdx.y; row < x.p.n; row += gridDim.y) {
        const float y = plain_dot(x, x.w, out, row), z = x.two ? plain_dot(x, x.w2, out, row) : 0;
        if (threadIdx.x % 32 == 0)
            finish(x, y, z, out, row);
    }
}

/* ---- exp(x - max of its group) ---- */

static __global__ void __launch_bounds__(ROW_THREADS) act_exp(linear_args x) {
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

/* ---- launches ---- */

static unsigned ceil_div(int64_t n, int64_t by) {
    return (unsigned)((n + by - 1) / by);
}

template <kn_dtype FORMAT, int NT>
static void launch_rows(const linear_args &x, cudaStream_t stream) {
    const int64_t words = (int64_t)NT * 8 * OUTS * x.groups;
    kn_launch(products<FORMAT, NT>, dim3(ceil_div(x.w.rows, OUTS), ceil_div(x.p.n, NT * 8)),
              dim3(PRODUCT_THREADS),
              sizeof(float) * (size_t)(words < ROUND_WORDS ? words : (int64_t)ROUND_WORDS), stream,
              x);
}

template <kn_dtype FORMAT> static void launch_products(const linear_args &x, cudaStream_t stream) {
    if (x.p.n <= 8)
        launch_rows<FORMAT, 1>(x, stream);
    else if (x.p.n <= 16)
        launch_rows<FORMAT, 2>(x, stream);
    else if (x.p.n <= 32)
        launch_rows<FORMAT, 4>(x, stream);
    else
        launch_rows<FORMAT, 8>(x, stream);
}

static bool fits_tiles(const linear_args &x) {
    return x.p.n > 64 && x.w.cols % 8 == 0 && (uintptr_t)x.w.data % 16 == 0 &&
           (!x.two || ((uintptr_t)x.w2.data % 16 == 0 && x.p.epi == KN_STORE));
}

/* Of two matrices the second is multiplied with what the first has left. */
static void launch_tiles(linear_args x, cudaStream_t stream) {
    const dim3 grid(ceil_div(x.w.rows, TILE), ceil_div(x.p.n, TILE));
    const bool two = x.two;
    x.two = false;
    kn_launch(tile_products, grid, dim3(PRODUCT_THREADS), (size_t)STAGES * 2 * TILE_BYTES, stream,
              x);
    if (!two)
        return;
    x.w = x.w2;
    x.p.bias = x.p.bias2;
    x.p.act = KN_ACT_NONE;
    x.times = true;
    kn_launch(tile_products, grid, dim3(PRODUCT_THREADS), (size_t)STAGES * 2 * TILE_BYTES, stream,
              x);
}

static linear_args prepare(const kn_linear *p) {
    linear_args x = {};
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
        x.lda = (x.w.cols + 7) / 8 * 8;
        x.half = (uint16_t *)p->work;
    } else {
        x.a = (const float *)p->work;
    }
    return x;
}

void kn_cuda_linear(const kn_linear *p, kn_cuda_stream where) {
    if (p->n <= 0)
        return;
    const linear_args x = prepare(p);
    cudaStream_t stream = (cudaStream_t)where;
    kn_launch(make_rows, dim3((unsigned)p->n), dim3(ROW_THREADS), ROW_WARPS * sizeof(float), stream,
              x);
    if (x.w.dtype == KN_BF16 && fits_tiles(x))
        launch_tiles(x, stream);
    else if (x.w.dtype == KN_BF16)
        launch_products<KN_BF16>(x, stream);
    else if (x.w.dtype == KN_Q8)
        launch_products<KN_Q8>(x, stream);
    else if (x.w.dtype == KN_Q4)
        launch_products<KN_Q4>(x, stream);
    else
        kn_launch(plain_products,
                  dim3(ceil_div(x.w.rows, WARPS_OF_OUTS), (unsigned)(p->n < 1024 ? p->n : 1024)),
                  dim3(PRODUCT_THREADS), 0, stream, x);
    if (p->act == KN_ACT_EXP && p->act_cols > 0)
        kn_launch(act_exp, dim3((unsigned)p->n), dim3(ROW_THREADS), 0, stream, x);
}
