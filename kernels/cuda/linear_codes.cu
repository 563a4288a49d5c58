/* Products of many rows with q8 and q4 weights. A block owns 128 outputs of 128 rows, a warp 32 of
 * 64. A group of 128 inputs at a time comes to shared memory by asynchronous copies, while the one
 * before is multiplied. The dot products of a group are exact integers, whatever the order within
 * it, and groups are added as in linear_few.cu: the same bits.
 *
 * Lane t of four takes inputs 32t .. 32t+31 of a group, eight in each of four steps, so that it
 * reads its share of a row as two pieces of 16 bytes. Its weights stay in registers while eight
 * rows after another pass; their sums begin so that they end as floats: a dot product of less than
 * 2^22, added to the bits of 1.5 x 2^23, is that float plus the dot product. */
#include "kernels/cuda/linear_pieces.cuh"
#include "kernels/cuda/linear_tile.cuh"

enum { CODES_SUBS = 256 }; /* bytes of a group of a tile's outputs */

template <kn_dtype FORMAT> struct codes_stage {
    enum {
        CODE_ROWS = FORMAT == KN_Q8 ? 32 : 16, /* of 256 bytes of codes */
        TILE_BYTES = CODE_ROWS * 256,
        SUBS_AT = 2 * TILE_BYTES,
        D_AT = SUBS_AT + (FORMAT == KN_Q4 ? 2 * CODES_SUBS : 0),
        X_AT = D_AT + 2 * KN_Q_SCALES,
        SCALES_AT = X_AT + KN_TILE * KN_Q_GROUP, /* scales of rows, then sums */
        BYTES = SCALES_AT + KN_TILE * 8
    };
};

/* 16-byte pieces in an order that keeps the reads of eight lanes on different banks: lane (g, t)
 * reads piece g of row 8t (q4: 4t) + step of the codes, pieces 2t and 2t+1 of row g of the inputs.
 */
template <kn_dtype FORMAT> KN_DEVICE int codes_piece(int row, int piece) {
    return row * 256 + (piece ^ row / (codes_stage<FORMAT>::CODE_ROWS / 4) * 2) * 16;
}

KN_DEVICE int inputs_piece(int row, int piece) {
    return row * KN_Q_GROUP + (piece ^ (row & 1)) * 16;
}

/* ---- to shared memory ---- */

/* n pieces of 16 bytes, in their order. */
KN_DEVICE void fetch_pieces(unsigned char *to, const unsigned char *from, int n) {
    for (int i = (int)threadIdx.x; i < n; i += PRODUCT_THREADS)
        kn_copy_async(to + i * 16, from + i * 16);
}

template <kn_dtype FORMAT>
KN_DEVICE void fetch_codes(unsigned char *stage, const kn_linear_args &x, int64_t tile, int which,
                           int64_t group, int inputs) {
    typedef codes_stage<FORMAT> S;
    const int64_t last = (x.w.rows - 1) / KN_Q_OUTS, of = tile + which < last ? tile + which : last;
    const unsigned char *at =
        (const unsigned char *)x.w.data + of * x.tile_bytes + group * kn_group_bytes<FORMAT>();
    const unsigned char *codes = at + KN_Q_SCALES + (FORMAT == KN_Q4 ? 2 * inputs : 0);
    unsigned char *to = stage + which * S::TILE_BYTES;
    for (int i = (int)threadIdx.x; i < S::CODE_ROWS * inputs / KN_Q_GROUP * 16;
         i += PRODUCT_THREADS)
        kn_copy_async(to + codes_piece<FORMAT>(i / 16, i % 16), codes + i * 16);
    fetch_pieces(stage + S::D_AT + which * KN_Q_SCALES, at, KN_Q_SCALES / 16);
    if (FORMAT == KN_Q4)
        fetch_pieces(stage + S::SUBS_AT + which * CODES_SUBS, at + KN_Q_SCALES, inputs / 8);
}

KN_DEVICE void fetch_inputs(unsigned char *to, const kn_linear_args &x, int64_t first,
                            int64_t group) {
    for (int i = (int)threadIdx.x; i < KN_TILE * 8; i += PRODUCT_THREADS) {
        const int row = i / 8;
        const int64_t k = group * KN_Q_GROUP + i % 8 * 16;
        const int64_t r = first + row < x.p.n ? first + row : x.p.n - 1;
        uint32_t *piece = (uint32_t *)(to + inputs_piece(row, i % 8));
        if (k < x.q.ldq)
            kn_copy_async(piece, x.q.q + r * x.q.ldq + k);
        else
            piece[0] = piece[1] = piece[2] = piece[3] = 0;
    }
}

/* The thread's share of the rows' scales and sums, which lie apart: one word. */
KN_DEVICE uint32_t read_scale(const kn_linear_args &x, int64_t first, int64_t group) {
    const int64_t row = first + threadIdx.x % KN_TILE, r = row < x.p.n ? row : x.p.n - 1;
    return threadIdx.x < KN_TILE ? kn_bits_of_float(x.q.scale[r * x.groups + group])
                                 : (uint32_t)x.q.sum[r * x.groups + group];
}

template <kn_dtype FORMAT>
KN_DEVICE uint32_t fetch_group(unsigned char *stage, const kn_linear_args &x, int64_t tile,
                               int64_t first, int64_t group) {
    const int64_t left = x.q.ldq - group * KN_Q_GROUP;
    const int inputs = (int)(left < KN_Q_GROUP ? left : (int64_t)KN_Q_GROUP);
    fetch_codes<FORMAT>(stage, x, tile, 0, group, inputs);
    fetch_codes<FORMAT>(stage, x, tile, 1, group, inputs);
    fetch_inputs(stage + codes_stage<FORMAT>::X_AT, x, first, group);
    kn_copy_commit();
    return read_scale(x, first, group);
}

/* ---- one group ---- */

/* A lane's weights + 128: of four outputs and eight inputs, in each step. */
struct lane_codes {
    uint32_t first[4][4], second[4][4];
};

template <kn_dtype FORMAT>
KN_DEVICE void read_lane_codes(lane_codes *w, const unsigned char *stage, int warp) {
    typedef codes_stage<FORMAT> S;
    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    const int tile = warp % 4 / 2, half = warp % 2;
    const unsigned char *codes = stage + tile * S::TILE_BYTES;
    const uint32_t factors = FORMAT == KN_Q4
                                 ? *(const uint32_t *)(stage + S::SUBS_AT + tile * CODES_SUBS +
                                                       t * KN_Q_OUTS + half * 32 + 4 * g)
                                 : 0;
    KN_UNROLL
    for (int s = 0; s < 4; s++) {
        if (FORMAT == KN_Q8) {
            kn_load_16(w->first[s], codes + codes_piece<FORMAT>(8 * t + 2 * s, half * 8 + g));
            kn_load_16(w->second[s], codes + codes_piece<FORMAT>(8 * t + 2 * s + 1, half * 8 + g));
            continue;
        }
        uint32_t r[4];
        kn_load_16(r, codes + codes_piece<FORMAT>(4 * t + s, half * 8 + g));
        KN_UNROLL
        for (int i = 0; i < 4; i++)
            kn_expand_q4(&w->first[s][i], &w->second[s][i], r[i],
                         factors >> (8 * i + s / 2 * 4) & 15);
    }
}

/* y of 32 outputs and 64 rows after one more group. */
template <kn_dtype FORMAT>
KN_DEVICE void multiply_group(float y[KN_TILE_ROWS][8], const unsigned char *stage) {
    typedef codes_stage<FORMAT> S;
    const int warp = (int)threadIdx.x / 32, g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    const unsigned char *scales = stage + S::SCALES_AT;
    lane_codes w;
    uint32_t pairs[2];
    read_lane_codes<FORMAT>(&w, stage, warp);
    kn_load_8(pairs, stage + S::D_AT + (warp % 4 * 32 + 4 * g) * 2);
    const float d[4] = {kn_low_bf16(pairs[0]), kn_high_bf16(pairs[0]), kn_low_bf16(pairs[1]),
                        kn_high_bf16(pairs[1])};
    KN_UNROLL
    for (int n = 0; n < KN_TILE_ROWS; n++) {
        const int row = warp / 4 * 64 + n * 8;
        uint32_t b[8], scale[2], sum[2];
        kn_load_16(b, stage + S::X_AT + inputs_piece(row + g, 2 * t));
        kn_load_16(b + 4, stage + S::X_AT + inputs_piece(row + g, 2 * t + 1));
        kn_load_8(scale, scales + (row + 2 * t) * 4);
        kn_load_8(sum, scales + (KN_TILE + row + 2 * t) * 4);
        const int32_t begin[2] = {(int32_t)(0x4B400000u - 128 * sum[0]),
                                  (int32_t)(0x4B400000u - 128 * sum[1])};
        int32_t low[4] = {begin[0], begin[1], begin[0], begin[1]};
        int32_t high[4] = {begin[0], begin[1], begin[0], begin[1]};
        KN_UNROLL
        for (int s = 0; s < 4; s++)
            kn_multiply_codes(low, high, w.first[s], w.second[s], b + 2 * s);
        KN_UNROLL
        for (int e = 0; e < 8; e++) { /* low: outputs 4g, 4g+1, rows 2t, 2t+1; high: the next two */
            const uint32_t bits = (uint32_t)(e < 4 ? low[e] : high[e - 4]);
            const float dot = kn_float_of_bits(bits) - 12582912.0f;
            y[n][e] = fmaf(dot, d[e / 2] * kn_float_of_bits(scale[e % 2]), y[n][e]);
        }
    }
}

/* ---- the kernel ---- */

template <kn_dtype FORMAT>
static __global__ void __launch_bounds__(PRODUCT_THREADS) tile_codes(kn_linear_args x) {
    KN_SHARED(shared);
    kn_depend();
    typedef codes_stage<FORMAT> S;
    const int64_t tile = (int64_t)blockIdx.x * (KN_TILE / KN_Q_OUTS);
    const int64_t first = (int64_t)blockIdx.y * KN_TILE;
    float y[KN_TILE_ROWS][8] = {};
    uint32_t mine = fetch_group<FORMAT>(shared, x, tile, first, 0);
    for (int64_t group = 0; group < x.groups; group++) {
        unsigned char *stage = shared + group % 2 * S::BYTES;
        ((uint32_t *)(stage + S::SCALES_AT))[threadIdx.x] = mine;
        kn_copy_wait<0>();
        kn_sync_block(); /* this group has come, the one before is done with */
        if (group + 1 < x.groups)
            mine =
                fetch_group<FORMAT>(shared + (group + 1) % 2 * S::BYTES, x, tile, first, group + 1);
        multiply_group<FORMAT>(y, stage);
    }
    kn_finish_tile(x, (float *)shared, y, (int64_t)blockIdx.x * KN_TILE, first);
}

void kn_linear_tile_codes(const kn_linear_args &x, cudaStream_t stream) {
    static_assert((int)PRODUCT_THREADS == 2 * (int)KN_TILE, "a thread has one scale or sum");
    const bool q8 = x.w.dtype == KN_Q8;
    kn_launch(q8 ? tile_codes<KN_Q8> : tile_codes<KN_Q4>,
              dim3(kn_ceil_div(x.w.rows, KN_TILE), kn_ceil_div(x.p.n, KN_TILE)),
              dim3(PRODUCT_THREADS),
              2 * (q8 ? (size_t)codes_stage<KN_Q8>::BYTES : (size_t)codes_stage<KN_Q4>::BYTES),
              stream, x);
}
