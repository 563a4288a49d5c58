/* Prompts: Lightning Attention on tensor cores, in chunks of C tokens.
 *
 * A block of threads owns one head of one part of a segment and walks it chunk by chunk with the
 * state in registers: q, k, v are read once, o is written once, nothing else moves. A sequence with
 * few heads would leave most of the GPU idle, so it is cut into parts: `sums` walks all parts but
 * the last from an empty state, `scan` turns the parts' sums into the state at each part's begin,
 * `sweep` walks all parts from there. That reads k and v twice, and costs no more time as long as
 * parts are fewer than what the GPU holds at once.
 *
 * The state is held transposed. Warp w owns value columns 16w .. 16w+15: rows of S^T [Dv][Dk],
 * as accumulators of products m16n8k16, Dk/2 floats a thread. Everything that reads the state has
 * it as left operand, whose registers are those of an accumulator:
 *
 *   O^T [16][C]  = S^T Q^T      S^T split into two bf16, high and low, so that it counts as
 *                               16 bits of mantissa; Q rows are the right operand as they lie
 *   O^T [c]     *= exp(-s (c+1))
 *   P [C][C]     = Q K^T        by all warps together, times exp(-s (i-j)), zero above the
 *                               diagonal, as bf16 to shared memory
 *   O^T         += V^T P^T      V^T fragments by transposing loads, kept for the next product
 *   S^T          = fold(S^T, (V^T exp(-s (C-1-j))) K)   sum of the chunk in f32, eight columns of
 *                               K at a time, then the fold of kernels.h
 *
 * No warp ever needs another's state. q, k and v arrive by asynchronous copies, two chunks deep;
 * rows of shared memory are 16-byte pieces in an order turned by the row (`piece`), so that neither
 * kind of fragment load meets a bank twice.
 *
 * Tokens are counted from the block boundary before the segment: the pending rows come from the
 * state and count as rows before the first, without output. A last chunk folds its whole blocks
 * only, by their true length; `append` then writes the rows that are left over. Dimensions are
 * filled up with zeros to DK and DV. */
#include "kernels/cuda/linattn_common.cuh"

enum { SUMS, SWEEP };

struct prefill_args {
    kn_cuda_linattn a;
    kn_cuda_plan plan;
};

template <int DK_, int DV_, int C_> struct shape {
    enum {
        DK = DK_,
        DV = DV_,
        C = C_,
        WARPS = DV / 16,
        THREADS = WARPS * 32,
        Q_BYTES = C * DK * 2,
        V_BYTES = C * DV * 2,
        STAGE = 2 * Q_BYTES + V_BYTES, /* Q, K, V */
        P_BYTES = C * C * 2,
        TABLE = (C + 1) * 4,
        SHARED = 2 * STAGE + P_BYTES + TABLE
    };
};

/* The 16-byte piece `col` of row `row` in a matrix whose rows have `bytes` bytes. */
template <int bytes> KN_DEVICE unsigned char *piece(unsigned char *base, int row, int col) {
    const int turn = bytes >= 128 ? row & 7 : row >> 1 & 3;
    return base + row * bytes + (col ^ turn) * 16;
}

/* A part of a segment, as the block of threads sees it. */
struct part_view {
    kn_linattn_seg seg;
    kn_cuda_part part;
    kn_head_state state;
    int head, pending;  /* pending rows: tokens before the segment's first */
    int64_t begin, end; /* tokens of this part, from the block boundary before the segment */
    kn_rows q, k, v;
    bool whole; /* rows can be read 16 bytes at a time: copied, or rounded if they are f32 */
};

KN_DEVICE bool reads_whole(const kn_rows &r, int dim) {
    const int unit = r.bf16 ? 8 : 4;
    return dim % 8 == 0 && r.ld % unit == 0 && (uintptr_t)r.p % 16 == 0;
}

KN_DEVICE part_view view_part(const prefill_args &x, int64_t index, int head) {
    part_view p;
    p.part = x.plan.parts[index];
    p.seg = x.a.segs[p.part.seg];
    p.head = head;
    p.state = kn_head_state_at(p.seg.state, x.a.d, head);
    p.pending = (int)(p.seg.pos % KN_CUDA_BLOCK);
    const int64_t all = p.pending + p.seg.len, length = x.plan.part_tokens;
    p.begin = p.part.index * length;
    p.end = p.part.index + 1 < p.part.of ? p.begin + length : all;
    p.q = kn_rows_at(x.a.q, x.a.ldq, x.a.dtype, (int64_t)head * x.a.d.Dk);
    p.k = kn_rows_at(x.a.k, x.a.ldk, x.a.dtype, (int64_t)head * x.a.d.Dk);
    p.v = kn_rows_at(x.a.v, x.a.ldv, x.a.dtype, (int64_t)head * x.a.d.Dv);
    p.whole =
        reads_whole(p.q, x.a.d.Dk) && reads_whole(p.k, x.a.d.Dk) && reads_whole(p.v, x.a.d.Dv);
    return p;
}

/* ---- rows to shared memory ---- */

/* Element (row, col) of q, k or v at token t, whatever its type; pending rows from the state. */
KN_DEVICE float token_value(const part_view &p, const kn_rows &rows, const float *pending, int dim,
                            int64_t t, int col) {
    if (t >= p.end || col >= dim)
        return 0.0f;
    if (t < p.pending)
        return pending ? pending[t * dim + col] : 0.0f;
    return kn_rows_get(rows, p.seg.first + t - p.pending, col);
}

/* Eight elements at p to bf16. */
KN_DEVICE void round_8(uint32_t *to, const float *p) {
    for (int half = 0; half < 2; half++) {
        uint32_t x[4];
        kn_read_16(x, p + 4 * half);
        to[2 * half] = kn_pack_bf16(kn_float_of_bits(x[0]), kn_float_of_bits(x[1]));
        to[2 * half + 1] = kn_pack_bf16(kn_float_of_bits(x[2]), kn_float_of_bits(x[3]));
    }
}

/* C rows from token t on; pending: [B][dim] of the state, NULL for q. */
template <typename T, int D>
KN_DEVICE void fetch(unsigned char *dst, const part_view &p, const kn_rows &rows,
                     const float *pending, int dim, int64_t t) {
    for (int i = (int)threadIdx.x; i < T::C * (D / 8); i += T::THREADS) {
        const int row = i / (D / 8), col = i % (D / 8);
        const int64_t at = t + row;
        uint32_t *to = (uint32_t *)piece<D * 2>(dst, row, col);
        if (p.whole && at >= p.pending && at < p.end && col * 8 < dim) {
            const int64_t from = (p.seg.first + at - p.pending) * rows.ld + col * 8;
            if (rows.bf16)
                kn_copy_async(to, (const kn_bf16 *)rows.p + from);
            else
                round_8(to, (const float *)rows.p + from);
            continue;
        }
        for (int e = 0; e < 4; e++)
            to[e] = kn_pack_bf16(token_value(p, rows, pending, dim, at, col * 8 + 2 * e),
                                 token_value(p, rows, pending, dim, at, col * 8 + 2 * e + 1));
    }
}

template <typename T, int MODE>
KN_DEVICE void fetch_chunk(unsigned char *stage, const part_view &p, const kn_linattn_dims &d,
                           int64_t t) {
    if (MODE == SWEEP)
        fetch<T, T::DK>(stage, p, p.q, nullptr, d.Dk, t);
    fetch<T, T::DK>(stage + T::Q_BYTES, p, p.k, p.state.K, d.Dk, t);
    fetch<T, T::DV>(stage + 2 * T::Q_BYTES, p, p.v, p.state.V, d.Dv, t);
}

/* ---- the state in registers: S^T rows 16 warp + g (+8), columns 8n + 2t (+1) ---- */

template <typename T> KN_DEVICE void load_state(float S[][4], const float *from, int Dk, int Dv) {
    const int warp = (int)threadIdx.x / 32, g = (int)threadIdx.x % 32 / 4;
    const int t = (int)threadIdx.x % 4;
    KN_UNROLL
    for (int n = 0; n < T::DK / 8; n++)
        for (int e = 0; e < 4; e++) {
            const int v = warp * 16 + g + e / 2 * 8, d = n * 8 + 2 * t + e % 2;
            S[n][e] = from && v < Dv && d < Dk ? from[(int64_t)d * Dv + v] : 0.0f;
        }
}

template <typename T> KN_DEVICE void save_state(float *to, const float S[][4], int Dk, int Dv) {
    const int warp = (int)threadIdx.x / 32, g = (int)threadIdx.x % 32 / 4;
    const int t = (int)threadIdx.x % 4;
    KN_UNROLL
    for (int n = 0; n < T::DK / 8; n++)
        for (int e = 0; e < 4; e++) {
            const int v = warp * 16 + g + e / 2 * 8, d = n * 8 + 2 * t + e % 2;
            if (v < Dv && d < Dk)
                to[(int64_t)d * Dv + v] = S[n][e];
        }
}

/* Two bf16 that add up to x, as far as bf16 goes: of a pair of floats. */
KN_DEVICE void split(uint32_t *high, uint32_t *low, float x, float y) {
    *high = kn_pack_bf16(x, y);
    *low = kn_pack_bf16(x - kn_low_bf16(*high), y - kn_high_bf16(*high));
}

/* ---- the products of a chunk ---- */

/* O = S^T Q^T. */
template <typename T>
KN_DEVICE void read_state(float O[][4], const float S[][4], unsigned char *Q) {
    const int lane = (int)threadIdx.x % 32;
    KN_UNROLL
    for (int k = 0; k < T::DK / 16; k++) {
        uint32_t high[4], low[4];
        for (int r = 0; r < 4; r++)
            split(&high[r], &low[r], S[2 * k + r / 2][r % 2 * 2], S[2 * k + r / 2][r % 2 * 2 + 1]);
        KN_UNROLL
        for (int n = 0; n < T::C / 8; n += 2) {
            uint32_t b[4];
            kn_ldmatrix(
                b, piece<T::DK * 2>(Q, n * 8 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
            kn_mma_bf16(O[n], low, b);
            kn_mma_bf16(O[n + 1], low, b + 2);
            kn_mma_bf16(O[n], high, b);
            kn_mma_bf16(O[n + 1], high, b + 2);
        }
    }
}

/* P = decayed, masked Q K^T in bf16: tiles of 16 queries and 8 keys, dealt out to the warps. */
template <typename T>
KN_DEVICE void score(unsigned char *P, unsigned char *Q, unsigned char *K, const float *pow) {
    enum { ROWS = T::C / 16, GROUPS = T::WARPS / ROWS, TILES = T::C / 8 / GROUPS };
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int m = warp % ROWS, first = warp / ROWS * TILES;
    float acc[TILES][4] = {};
    KN_UNROLL
    for (int k = 0; k < T::DK / 16; k += 2) {
        uint32_t a[4], a2[4], b[4];
        kn_ldmatrix(a, piece<T::DK * 2>(Q, m * 16 + lane % 16, k * 2 + lane / 16));
        kn_ldmatrix(a2, piece<T::DK * 2>(Q, m * 16 + lane % 16, k * 2 + 2 + lane / 16));
        KN_UNROLL
        for (int n = 0; n < TILES; n++) {
            if ((first + n) * 8 > m * 16 + 15)
                continue;
            kn_ldmatrix(b, piece<T::DK * 2>(K, (first + n) * 8 + lane % 8, k * 2 + lane / 8));
            kn_mma_bf16(acc[n], a, b);
            kn_mma_bf16(acc[n], a2, b + 2);
        }
    }
    KN_UNROLL
    for (int n = 0; n < TILES; n++)
        for (int e = 0; e < 4; e += 2) {
            const int i = m * 16 + lane / 4 + e * 4, j = (first + n) * 8 + lane % 4 * 2;
            if ((first + n) * 8 > m * 16 + 15)
                continue;
            const float x = j <= i ? acc[n][e] * pow[i - j] : 0.0f;
            const float y = j + 1 <= i ? acc[n][e + 1] * pow[i - j - 1] : 0.0f;
            ((uint32_t *)piece<T::C * 2>(P, i, first + n))[lane % 4] = kn_pack_bf16(x, y);
        }
}

/* V^T of the warp's 16 columns as left operands, 16 keys each. */
template <typename T> KN_DEVICE void load_values(uint32_t a[][4], unsigned char *V) {
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    KN_UNROLL
    for (int k = 0; k < T::C / 16; k++)
        kn_ldmatrix_trans(
            a[k], piece<T::DV * 2>(V, k * 16 + lane % 8 + lane / 16 * 8, warp * 2 + lane / 8 % 2));
}

/* O += V^T P^T; a query meets keys up to itself only. */
template <typename T>
KN_DEVICE void add_chunk(float O[][4], const uint32_t V[][4], unsigned char *P) {
    const int lane = (int)threadIdx.x % 32;
    KN_UNROLL
    for (int n = 0; n < T::C / 8; n += 2)
        KN_UNROLL
    for (int k = 0; k <= n / 2; k++) {
        uint32_t b[4];
        kn_ldmatrix(b, piece<T::C * 2>(P, n * 8 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
        kn_mma_bf16(O[n], V[k], b);
        kn_mma_bf16(O[n + 1], V[k], b + 2);
    }
}

/* Values times exp(-s (rows-1-j)), none from `rows` on. */
template <typename T> KN_DEVICE void decay_values(uint32_t V[][4], const float *pow, int rows) {
    const int t = (int)threadIdx.x % 4;
    KN_UNROLL
    for (int k = 0; k < T::C / 16; k++)
        for (int r = 0; r < 4; r++) {
            const int j = k * 16 + r / 2 * 8 + 2 * t;
            const float x = j < rows ? kn_low_bf16(V[k][r]) * pow[rows - 1 - j] : 0.0f;
            const float y = j + 1 < rows ? kn_high_bf16(V[k][r]) * pow[rows - 2 - j] : 0.0f;
            V[k][r] = kn_pack_bf16(x, y);
        }
}

/* S = fold(S, V^T K) with decayed values. */
template <typename T>
KN_DEVICE void fold_chunk(float S[][4], const uint32_t V[][4], unsigned char *K, float pow,
                          float less) {
    const int lane = (int)threadIdx.x % 32;
    KN_UNROLL
    for (int n = 0; n < T::DK / 8; n += 2) {
        float sum[2][4] = {};
        KN_UNROLL
        for (int k = 0; k < T::C / 16; k++) {
            uint32_t b[4];
            kn_ldmatrix_trans(b, piece<T::DK * 2>(K, k * 16 + lane % 16, n + lane / 16));
            kn_mma_bf16(sum[0], V[k], b);
            kn_mma_bf16(sum[1], V[k], b + 2);
        }
        for (int e = 0; e < 8; e++)
            S[n + e / 4][e % 4] = kn_fold(S[n + e / 4][e % 4], sum[e / 4][e % 4], pow, less);
    }
}

/* o of the tokens from t on. A bf16 tile is turned in registers, so that a token's columns lie side
 * by side: 32 bytes a warp. */
template <typename T>
KN_DEVICE void store_outputs(const kn_cuda_linattn &a, const part_view &p, const float O[][4],
                             int64_t t) {
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const bool bf16 = a.dtype == KN_BF16;
    KN_UNROLL
    for (int n = 0; n < T::C / 8; n++)
        for (int half = 0; half < 2; half++) {
            float x = O[n][half * 2], y = O[n][half * 2 + 1];
            int64_t at = t + n * 8 + lane % 4 * 2, other = at + 1;
            int col = warp * 16 + half * 8 + lane / 4, col2 = col;
            if (bf16) {
                const uint32_t turned = kn_movmatrix(kn_pack_bf16(x, y));
                x = kn_low_bf16(turned);
                y = kn_high_bf16(turned);
                at = other = t + n * 8 + lane / 4;
                col = warp * 16 + half * 8 + lane % 4 * 2;
                col2 = col + 1;
            }
            const int64_t row = p.seg.first - p.pending;
            const int64_t column = (int64_t)p.head * a.d.Dv;
            if (at >= p.pending && at < p.end && col < a.d.Dv)
                kn_rows_put(a.o, bf16, (row + at) * a.ldo + column + col, x);
            if (other >= p.pending && other < p.end && col2 < a.d.Dv)
                kn_rows_put(a.o, bf16, (row + other) * a.ldo + column + col2, y);
        }
}

/* ---- the kernels ---- */

template <typename T, int MODE>
static __global__ void __launch_bounds__(T::THREADS) walk(prefill_args x) {
    KN_SHARED(shared);
    kn_depend();
    const kn_linattn_dims d = x.a.d;
    const part_view p = view_part(x, blockIdx.x, (int)blockIdx.y);
    if (MODE == SUMS && p.part.index + 1 == p.part.of)
        return;
    unsigned char *const P = shared + 2 * T::STAGE;
    float *const pow = (float *)(P + T::P_BYTES);
    const int64_t table = (int64_t)p.head * (KN_CUDA_POWERS + 1);
    for (int i = (int)threadIdx.x; i <= T::C; i += T::THREADS)
        pow[i] = x.a.decay.pow[table + i];
    fetch_chunk<T, MODE>(shared, p, d, p.begin);
    kn_copy_commit();

    float *const slot = p.part.slot < 0
                            ? nullptr
                            : x.plan.work + ((int64_t)p.part.slot * d.H + p.head) * d.Dk * d.Dv;
    float S[T::DK / 8][4];
    load_state<T>(S, MODE == SUMS ? nullptr : slot ? slot : p.state.S, d.Dk, d.Dv);
    for (int64_t t = p.begin, n = 0; t < p.end; t += T::C, n++) {
        unsigned char *const Q = shared + (n & 1) * T::STAGE;
        unsigned char *const K = Q + T::Q_BYTES, *const V = K + T::Q_BYTES;
        kn_copy_wait<0>();
        kn_sync_block(); /* this chunk has come, the one before is done with */
        if (t + T::C < p.end)
            fetch_chunk<T, MODE>(shared + (~n & 1) * T::STAGE, p, d, t + T::C);
        kn_copy_commit();
        uint32_t values[T::C / 16][4];
        load_values<T>(values, V);
        if (MODE == SWEEP) {
            float O[T::C / 8][4] = {};
            score<T>(P, Q, K, pow);
            read_state<T>(O, S, Q);
            kn_sync_block(); /* P is whole */
            KN_UNROLL
            for (int i = 0; i < T::C / 8; i++)
                for (int e = 0; e < 4; e++)
                    O[i][e] *= pow[i * 8 + (int)threadIdx.x % 4 * 2 + e % 2 + 1];
            add_chunk<T>(O, values, P);
            store_outputs<T>(x.a, p, O, t);
        }
        const int64_t left = p.end - t;
        const int rows = left >= T::C ? T::C : (int)(left - left % KN_CUDA_BLOCK);
        if (rows > 0) {
            decay_values<T>(values, pow, rows);
            fold_chunk<T>(S, values, K, pow[rows], x.a.decay.less[table + rows]);
        }
    }
    if (MODE == SUMS)
        save_state<T>(slot, S, d.Dk, d.Dv);
    else if (p.part.index + 1 == p.part.of)
        save_state<T>(p.state.S, S, d.Dk, d.Dv);
}

enum { SCAN_THREADS = 128 };

/* Slots of a segment's parts: from the sums of the parts to the state at each part's begin. */
static __global__ void __launch_bounds__(SCAN_THREADS) scan(prefill_args x) {
    kn_depend();
    const kn_cuda_part part = x.plan.parts[blockIdx.x];
    if (part.index != 0 || part.of == 1)
        return;
    const int head = (int)blockIdx.y;
    const int64_t size = (int64_t)x.a.d.Dk * x.a.d.Dv;
    const int64_t i = (int64_t)blockIdx.z * SCAN_THREADS + threadIdx.x;
    if (i >= size)
        return;
    const float pow = x.a.decay.part[2 * head], less = x.a.decay.part[2 * head + 1];
    float S = kn_head_state_at(x.a.segs[part.seg].state, x.a.d, head).S[i];
    for (int n = 0; n < part.of; n++) {
        float *slot = x.plan.work + ((int64_t)(part.slot + n) * x.a.d.H + head) * size + i;
        const float sum = n + 1 < part.of ? *slot : 0.0f;
        *slot = S;
        S = kn_fold(S, sum, pow, less);
    }
}

/* The rows after the last whole block become the pending rows. */
static __global__ void __launch_bounds__(SCAN_THREADS) append(kn_cuda_linattn a) {
    kn_depend();
    const kn_linattn_seg seg = a.segs[blockIdx.x];
    const int head = (int)blockIdx.y, Dk = a.d.Dk, Dv = a.d.Dv;
    const int64_t pending = seg.pos % KN_CUDA_BLOCK, all = pending + seg.len;
    const int64_t begin = all - all % KN_CUDA_BLOCK;
    const kn_head_state h = kn_head_state_at(seg.state, a.d, head);
    const kn_rows k = kn_rows_at(a.k, a.ldk, a.dtype, (int64_t)head * Dk);
    const kn_rows v = kn_rows_at(a.v, a.ldv, a.dtype, (int64_t)head * Dv);
    for (int64_t t = begin > pending ? begin : pending; t < all; t++) {
        const int64_t row = seg.first + t - pending;
        /* as bf16, which is what the outputs of this launch were computed from */
        for (int i = (int)threadIdx.x; i < Dk; i += SCAN_THREADS)
            h.K[(t - begin) * Dk + i] = kn_to_float(kn_to_bf16(kn_rows_get(k, row, i)));
        for (int i = (int)threadIdx.x; i < Dv; i += SCAN_THREADS)
            h.V[(t - begin) * Dv + i] = kn_to_float(kn_to_bf16(kn_rows_get(v, row, i)));
    }
}

/* ---- launches ---- */

template <int DK, int DV, int C>
static void launch_walks(const prefill_args &x, bool parts, cudaStream_t stream) {
    typedef shape<DK, DV, C> T;
    const dim3 grid((unsigned)x.plan.n_parts, (unsigned)x.a.d.H);
    const int64_t size = (int64_t)x.a.d.Dk * x.a.d.Dv;
    if (parts) {
        kn_launch(walk<T, SUMS>, grid, dim3(T::THREADS), T::SHARED, stream, x);
        kn_launch(scan, dim3(grid.x, grid.y, (unsigned)((size + SCAN_THREADS - 1) / SCAN_THREADS)),
                  dim3(SCAN_THREADS), 0, stream, x);
    }
    kn_launch(walk<T, SWEEP>, grid, dim3(T::THREADS), T::SHARED, stream, x);
}

template <int DV> static void pick_keys(const prefill_args &x, size_t shared, cudaStream_t stream) {
    const bool parts = x.plan.n_slots > 0;
    if (x.a.d.Dk <= 64)
        launch_walks<64, DV, 64>(x, parts, stream);
    else if (x.a.d.Dk > 128)
        launch_walks<256, DV, 32>(x, parts, stream);
    else if (shape<128, DV, 64>::SHARED <= shared)
        launch_walks<128, DV, 64>(x, parts, stream);
    else
        launch_walks<128, DV, 32>(x, parts, stream);
}

void kn_cuda_linattn_prefill(const kn_cuda_linattn *a, const kn_cuda_plan *plan,
                             size_t shared_bytes, kn_cuda_stream stream) {
    if (plan->n_parts == 0)
        return;
    prefill_args x;
    x.a = *a;
    x.plan = *plan;
    if (a->d.Dv <= 64)
        pick_keys<64>(x, shared_bytes, (cudaStream_t)stream);
    else
        pick_keys<128>(x, shared_bytes, (cudaStream_t)stream);
    kn_launch(append, dim3((unsigned)a->n_segs, (unsigned)a->d.H), dim3(SCAN_THREADS), 0,
              (cudaStream_t)stream, *a);
}
