/* Weights on their way from memory to the tensor cores: a lane's share of a piece of a group, which
 * is what it asks for at once. 16 registers a piece in every format, so that as many pieces are
 * under way whatever the format is.
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
 *   0 .. 255;
 * - f8: inputs 16t .. 16t+15 of 64, widened to bf16, for two times two products of 16 inputs.
 *
 * The offset of 128 is taken out with the sum of the row's group. */
#ifndef TNL_CUDA_LINEAR_PIECES_CUH
#define TNL_CUDA_LINEAR_PIECES_CUH

#include "kernels/cuda/linear_common.cuh"

/* Bytes from one row of f8 to the next; its scale lies KN_F8_TAIL before its end. */
KN_DEVICE int64_t kn_f8_bytes(int64_t cols) {
    return (cols + KN_F8_UNIT - 1) / KN_F8_UNIT * KN_F8_UNIT + KN_F8_TAIL;
}

/* A lane's place in a matrix, for a block's 32 outputs. */
struct kn_outs {
    const unsigned char *at; /* bf16, f8: its first bytes; q8, q4: the tile, or 128 bytes on */
    int last;                /* bf16: of its four outputs, the last one that there is */
    int half;                /* q8, q4: which half of the tile's outputs */
};

template <kn_dtype FORMAT>
KN_DEVICE kn_outs kn_outs_at(const kn_linear_args &x, const kn_tensor &w, int64_t out) {
    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    kn_outs o = {(const unsigned char *)w.data, 3, (int)(out / 32 % 2)};
    if (FORMAT == KN_BF16) {
        const int64_t mine = out + 4 * g, most = w.rows - 1, row = mine < most ? mine : most;
        o.last = most - row < 3 ? (int)(most - row) : 3;
        o.at += row * w.cols * 2 + t * 16;
    } else if (FORMAT == KN_F8) {
        o.at += (out + 4 * g) * kn_f8_bytes(w.cols) + t * 16;
    } else {
        o.at += out / KN_Q_OUTS * x.tile_bytes + o.half * 128;
    }
    return o;
}

/* The rows that weights are multiplied with: row g of each eight is the lane's. */
struct kn_row_view {
    const unsigned char *data; /* row 0, the lane's first bytes */
    uint32_t stride;           /* bytes */
    int first, last;           /* the lane's row of the first eight; the last row that there is */
    int filled;                /* inputs that a row has, with its filling */
};

KN_DEVICE const unsigned char *kn_view_row(const kn_row_view &v, int n) {
    const int row = v.first + n * 8;
    return v.data + (uint32_t)(row < v.last ? row : v.last) * v.stride;
}

/* Inputs of packed weights with their filling. */
KN_DEVICE int kn_padded(int cols) {
    return (cols + KN_Q_UNIT - 1) / KN_Q_UNIT * KN_Q_UNIT;
}

/* OF_GROUP: pieces in a group. PACKED: sums are integers, of quantised rows. ROW_BYTES: of an input
 * of a row; LANE_BYTES: what a lane has of a row before the next lane's begins; ROW_TURN: rows in
 * shared memory lie so much more than a multiple of 128 bytes apart, to be read from different
 * banks. d: of a group's last piece, the scale of output `lane`. */
template <kn_dtype FORMAT> struct kn_piece;
template <> struct kn_piece<KN_BF16> {
    enum { OF_GROUP = 4, PACKED = 0, ROW_BYTES = 2, LANE_BYTES = 16, ROW_TURN = 64 };
    uint32_t a[4][4];
    uint16_t d;
};
template <> struct kn_piece<KN_Q8> {
    enum { OF_GROUP = 2, PACKED = 1, ROW_BYTES = 1, LANE_BYTES = 4, ROW_TURN = 16 };
    uint32_t a[2][2][4]; /* of two times 32 inputs, inputs 4t .. and 4t+16 .. */
    uint16_t d;
};
template <> struct kn_piece<KN_Q4> {
    enum { OF_GROUP = 1, PACKED = 1, ROW_BYTES = 1, LANE_BYTES = 8, ROW_TURN = 32 };
    uint32_t a[4][4];
    uint32_t subs; /* factors of inputs 32 (lane / 8) .. of outputs 4 (lane % 8) .. */
    uint16_t d;
};

template <> struct kn_piece<KN_F8> {
    enum { OF_GROUP = 2, PACKED = 0, ROW_BYTES = 2, LANE_BYTES = 32, ROW_TURN = 16 };
    uint32_t a[4][4];
    uint16_t d;
};

/* Bytes of a whole group of a tile. */
template <kn_dtype FORMAT> KN_DEVICE int64_t kn_group_bytes() {
    return KN_Q_SCALES +
           (FORMAT == KN_Q8 ? KN_Q_GROUP * KN_Q_OUTS : 2 * KN_Q_GROUP + KN_Q_GROUP * KN_Q_OUTS / 2);
}

/* ---- bf16 ---- */

KN_DEVICE void kn_fetch(kn_piece<KN_BF16> &p, const kn_outs &o, int cols, int group, int part) {
    const unsigned char *at = o.at + (int64_t)group * KN_Q_GROUP * 2;
    const bool there = group * KN_Q_GROUP + part * 32 + (int)threadIdx.x % 4 * 8 < cols;
    KN_UNROLL
    for (int i = 0; i < 4; i++)
        if (there)
            kn_read_16(p.a[i],
                       at + (uint32_t)(i < o.last ? i : o.last) * ((uint32_t)cols * 2) + part * 64);
        else
            p.a[i][0] = p.a[i][1] = p.a[i][2] = p.a[i][3] = 0;
}

template <int NT>
KN_DEVICE void kn_multiply(float low[NT][4], float high[NT][4], const kn_piece<KN_BF16> &p,
                           const kn_row_view &v, int group, int part) {
    const int at = group * KN_Q_GROUP + part * 32;
    KN_UNROLL
    for (int n = 0; n < NT; n++) {
        uint32_t b[4] = {0, 0, 0, 0};
        if (at + (int)threadIdx.x % 4 * 8 < v.filled)
            kn_load_16(b, kn_view_row(v, n) + at * 2);
        kn_multiply_32(low[n], high[n], p.a, b);
    }
}

/* ---- f8 ---- */

KN_DEVICE void kn_fetch(kn_piece<KN_F8> &p, const kn_outs &o, int cols, int group, int part) {
    const int first = group * KN_Q_GROUP + part * 64;
    const uint32_t bytes = (uint32_t)kn_f8_bytes(cols);
    KN_UNROLL
    for (int i = 0; i < 4; i++)
        if (first + (int)threadIdx.x % 4 * 16 < cols)
            kn_read_16(p.a[i], o.at + (uint32_t)i * bytes + first);
        else
            p.a[i][0] = p.a[i][1] = p.a[i][2] = p.a[i][3] = 0;
}

/* Four codes as bf16, exactly: exponent and mantissa move into place, the factor 2^120 corrects the
 * bias, subnormals too. */
KN_DEVICE void kn_widen_e4m3(uint32_t to[2], uint32_t codes) {
    const uint32_t low = kn_bytes(codes, 0x1404), high = kn_bytes(codes, 0x3424);
    to[0] = kn_mul_bf16((low & 0x80008000u) | (low >> 4 & 0x07F007F0u), 0x7B807B80u);
    to[1] = kn_mul_bf16((high & 0x80008000u) | (high >> 4 & 0x07F007F0u), 0x7B807B80u);
}

template <int NT>
KN_DEVICE void kn_multiply(float low[NT][4], float high[NT][4], const kn_piece<KN_F8> &p,
                           const kn_row_view &v, int group, int part) {
    const int first = group * KN_Q_GROUP + part * 64;
    KN_UNROLL
    for (int half = 0; half < 2; half++) {
        uint32_t a[4][4];
        KN_UNROLL
        for (int i = 0; i < 4; i++) {
            kn_widen_e4m3(a[i], p.a[i][2 * half]);
            kn_widen_e4m3(a[i] + 2, p.a[i][2 * half + 1]);
        }
        KN_UNROLL
        for (int n = 0; n < NT; n++) {
            uint32_t b[4] = {0, 0, 0, 0};
            if (first + (int)threadIdx.x % 4 * 16 + half * 8 < v.filled)
                kn_load_16(b, kn_view_row(v, n) + first * 2 + half * 16);
            kn_multiply_32(low[n], high[n], a, b);
        }
    }
}

/* ---- q8, q4 ---- */

/* 32 inputs: `first` and `second` hold four outputs' bytes of the lane's eight inputs. */
KN_DEVICE void kn_multiply_codes(int32_t low[4], int32_t high[4], const uint32_t first[4],
                                 const uint32_t second[4], const uint32_t b[2]) {
    const uint32_t one[4] = {first[0], first[1], second[0], second[1]};
    const uint32_t two[4] = {first[2], first[3], second[2], second[3]};
    kn_mma_u8s8(low, one, b);
    kn_mma_u8s8(high, two, b);
}

/* at: a group's first bytes, or those of its outputs 32 .. : 128 bytes on in the codes, 64 in the
 * scales. */
KN_DEVICE uint16_t kn_fetch_scale(const unsigned char *at, int half) {
    return kn_read_2(at - half * 64 + threadIdx.x % 32 * 2);
}

KN_DEVICE void kn_fetch(kn_piece<KN_Q8> &p, const kn_outs &o, int cols, int group, int part) {
    const unsigned char *at = o.at + group * kn_group_bytes<KN_Q8>();
    const unsigned char *codes =
        at + KN_Q_SCALES + threadIdx.x % 32 / 4 * 16 + threadIdx.x % 4 * 256;
    KN_UNROLL
    for (int s = 0; s < 2; s++) {
        const int step = part * 2 + s;
        if (group * KN_Q_GROUP + step * 32 >= cols)
            break;
        kn_read_16(p.a[s][0], codes + step * 8 * 256);
        kn_read_16(p.a[s][1], codes + (step * 8 + 4) * 256);
    }
    if (part == 0)
        p.d = kn_fetch_scale(at, o.half);
}

template <int NT>
KN_DEVICE void kn_multiply(int32_t low[NT][4], int32_t high[NT][4], const kn_piece<KN_Q8> &p,
                           const kn_row_view &v, int group, int part) {
    KN_UNROLL
    for (int s = 0; s < 2; s++) {
        const int at = group * KN_Q_GROUP + (part * 2 + s) * 32;
        if (at >= v.filled)
            break;
        KN_UNROLL
        for (int n = 0; n < NT; n++) {
            const unsigned char *q = kn_view_row(v, n) + at;
            const uint32_t b[2] = {*(const uint32_t *)q, *(const uint32_t *)(q + 16)};
            kn_multiply_codes(low[n], high[n], p.a[s][0], p.a[s][1], b);
        }
    }
}

KN_DEVICE void kn_fetch(kn_piece<KN_Q4> &p, const kn_outs &o, int cols, int group, int) {
    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    const int left = kn_padded(cols) - group * KN_Q_GROUP;
    const int inputs = left < KN_Q_GROUP ? left : (int)KN_Q_GROUP;
    const unsigned char *at = o.at + group * kn_group_bytes<KN_Q4>();
    const unsigned char *subs = at + KN_Q_SCALES - o.half * 96 + g / 2 * KN_Q_OUTS;
    const unsigned char *codes = at + KN_Q_SCALES + 2 * inputs + 16 * g + t * 256;
    KN_UNROLL
    for (int s = 0; s < 4; s++) {
        if (s * 32 >= inputs)
            break;
        kn_read_16(p.a[s], codes + s * 4 * 256);
    }
    if (g / 2 * 32 < inputs)
        p.subs = kn_read_4(subs + threadIdx.x % 8 * 4);
    p.d = kn_fetch_scale(at, o.half);
}

/* Eight inputs of an output, weight + 128 in a byte. r: their codes; nibble: their factor. */
KN_DEVICE void kn_expand_q4(uint32_t *first, uint32_t *second, uint32_t r, uint32_t nibble) {
    const uint32_t sub = (nibble ^ 8) - 8, to_128 = 0x01010101u * (128 - 8 * sub);
    *first = (r & 0x0F0F0F0Fu) * sub + to_128;
    *second = (r >> 4 & 0x0F0F0F0Fu) * sub + to_128;
}

template <int NT>
KN_DEVICE void kn_multiply(int32_t low[NT][4], int32_t high[NT][4], const kn_piece<KN_Q4> &p,
                           const kn_row_view &v, int group, int) {
    KN_UNROLL
    for (int s = 0; s < 4; s++) {
        const int at = group * KN_Q_GROUP + s * 32;
        if (at >= v.filled)
            break;
        const uint32_t factors = kn_shfl_bits(p.subs, s * 8 + (int)threadIdx.x % 32 / 4);
        uint32_t first[4], second[4];
        KN_UNROLL
        for (int i = 0; i < 4; i++)
            kn_expand_q4(&first[i], &second[i], p.a[s][i],
                         factors >> (8 * i + threadIdx.x % 4 / 2 * 4) & 15);
        KN_UNROLL
        for (int n = 0; n < NT; n++) {
            uint32_t b[2];
            kn_load_8(b, kn_view_row(v, n) + at);
            kn_multiply_codes(low[n], high[n], first, second, b);
        }
    }
}

#endif
