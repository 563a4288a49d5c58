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
 * of two operands. Of their inputs it takes
 *
 * - bf16: inputs 8t .. 8t+7 of 32, for two products of 16 inputs;
 * - q8: steps t and t+4 of eight (quant.h), four inputs each, 16 bytes of four outputs;
 * - q4: pair t of four, inputs 8t .. 8t+7, expanded to weight + 128 in a byte, as in q8: sub (code
 *   - 8) + 128 = sub code + (128 - 8 sub), four bytes in one multiplication, since no byte leaves
 *   0 .. 255.
 *
 * The offset of 128 is taken out with the sum of the row's group. f16 and f32 weights, which no
 * published model needs on a device, go through `plain_products`, a warp for an output. */
#include "kernels/cuda/linear_common.cuh"

enum { OUTS = 32, ROUND_WORDS = 16384 };

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

template <int NT>
KN_DEVICE void sum_bf16(float *parts, const kn_linear_args &x, const kn_tensor &w, int64_t group,
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
            kn_multiply_32(low[n], high[n], a, b);
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
KN_DEVICE void sum_packed(int32_t *parts, const kn_linear_args &x, const unsigned char *group,
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

KN_DEVICE const unsigned char *group_at(const kn_linear_args &x, const kn_tensor &w, int64_t out,
                                        int64_t group) {
    const int64_t bytes =
        KN_Q_SCALES +
        (w.dtype == KN_Q8 ? KN_Q_GROUP * KN_Q_OUTS : 2 * KN_Q_GROUP + KN_Q_GROUP * KN_Q_OUTS / 2);
    return (const unsigned char *)w.data + out / KN_Q_OUTS * x.tile_bytes + group * bytes;
}

template <kn_dtype FORMAT, int NT>
KN_DEVICE void sum_group(void *parts, const kn_linear_args &x, const kn_tensor &w, int64_t group,
                         int64_t out, int64_t first) {
    if (FORMAT == KN_BF16)
        sum_bf16<NT>((float *)parts, x, w, group, out, first);
    else
        sum_packed<FORMAT, NT>((int32_t *)parts, x, group_at(x, w, out, group), group,
                               (int)(out / OUTS % 2), first);
}

/* y after one more group of an output and a row. */
template <kn_dtype FORMAT>
KN_DEVICE float add_group(float y, const void *part, const kn_linear_args &x, const kn_tensor &w,
                          int64_t group, int64_t out, int64_t row) {
    if (FORMAT == KN_BF16)
        return y + *(const float *)part;
    const int64_t at = row * x.groups + group;
    const int32_t dot = *(const int32_t *)part - 128 * x.q.sum[at];
    const uint16_t d = ((const uint16_t *)group_at(x, w, out, group))[out % KN_Q_OUTS];
    return fmaf((float)dot, kn_float_of_bits((uint32_t)d << 16) * x.q.scale[at], y);
}

template <kn_dtype FORMAT, int NT>
KN_DEVICE void sum_matrix(float y[NT], const kn_linear_args &x, const kn_tensor &w, uint32_t *parts,
                          int64_t out0, int64_t first) {
    enum { WORDS = NT * 8 * OUTS, ROUND = ROUND_WORDS / WORDS };
    const int64_t out = out0 + threadIdx.x % OUTS;
    for (int64_t begin = 0; begin < x.groups; begin += ROUND) {
        const int64_t end = begin + ROUND < x.groups ? begin + ROUND : x.groups;
        kn_sync_block(); /* the round before has been added up */
        for (int64_t g = begin + threadIdx.x / 32; g < end; g += PRODUCT_WARPS)
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

template <kn_dtype FORMAT, int NT>
static __global__ void __launch_bounds__(PRODUCT_THREADS) products(kn_linear_args x) {
    KN_SHARED(shared);
    kn_depend();
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
            kn_linear_finish(x, y[i], z[i], out, row);
    }
}

/* ---- f32 and f16 weights ---- */

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

/* ---- launches ---- */

template <kn_dtype FORMAT, int NT>
static void launch_rows(const kn_linear_args &x, cudaStream_t stream) {
    const int64_t words = (int64_t)NT * 8 * OUTS * x.groups;
    kn_launch(products<FORMAT, NT>, dim3(kn_ceil_div(x.w.rows, OUTS), kn_ceil_div(x.p.n, NT * 8)),
              dim3(PRODUCT_THREADS),
              sizeof(float) * (size_t)(words < ROUND_WORDS ? words : (int64_t)ROUND_WORDS), stream,
              x);
}

template <kn_dtype FORMAT>
static void launch_products(const kn_linear_args &x, cudaStream_t stream) {
    if (x.p.n <= 8)
        launch_rows<FORMAT, 1>(x, stream);
    else if (x.p.n <= 16)
        launch_rows<FORMAT, 2>(x, stream);
    else if (x.p.n <= 32)
        launch_rows<FORMAT, 4>(x, stream);
    else
        launch_rows<FORMAT, 8>(x, stream);
}

void kn_linear_few(const kn_linear_args &x, cudaStream_t stream) {
    if (x.w.dtype == KN_BF16)
        launch_products<KN_BF16>(x, stream);
    else if (x.w.dtype == KN_Q8)
        launch_products<KN_Q8>(x, stream);
    else if (x.w.dtype == KN_Q4)
        launch_products<KN_Q4>(x, stream);
    else
        kn_launch(
            plain_products,
            dim3(kn_ceil_div(x.w.rows, PRODUCT_WARPS), (unsigned)(x.p.n < 1024 ? x.p.n : 1024)),
            dim3(PRODUCT_THREADS), 0, stream, x);
}
