/* Prompts: Lightning Attention on tensor cores, in chunks of C tokens.
 *
 * A block of threads owns one head of one part of a segment and walks it chunk by chunk with the
 * state in registers: q, k, v are read once, o is written once, nothing else moves (`walk`). A
 * sequence with few heads would leave most of the GPU idle, so it is cut into parts, and `carry`
 * first finds the state at each part's begin. It walks keys and values alone, all parts but the
 * last, and shares the state out in tiles of 64 x 64 among blocks, since each of its elements is a
 * chain of its own. Its folds are those of `walk`, product by product, so parts change no bit.
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
 *   S^T          = fold(S^T, (V^T exp(-s (C-1-j))) K)   sum of the chunk in f32, some columns of
 *                               K at a time, then the fold of kernels.h
 *
 * No warp ever needs another's state. The next chunk's rows travel while this one is computed:
 * bf16 by asynchronous copies, f32 through registers, a share of them beside each of the four
 * products (linattn_rows.cuh).
 *
 * Tokens are counted from the block boundary before the segment: the pending rows come from the
 * state and count as rows before the first, without output. A last chunk folds its whole blocks
 * only, by their true length; `append` then writes the rows that are left over. Dimensions are
 * filled up with zeros to DK and DV. */
#include "kernels/cuda/linattn_rows.cuh"

struct prefill_args {
    kn_cuda_linattn a;
    kn_cuda_plan plan;
    bool whole; /* rows are bf16, and 16 bytes can be copied at a time */
};

/* What a block of threads works on: DK x DV of the state, a warp owns 16 columns of DV and KEYS of
 * DK. ROUND: rows are f32, and 16 bytes can be read at a time. */
template <int DK_, int DV_, int C_, int KEYS_, bool ROUND_> struct tile {
    enum {
        DK = DK_,
        DV = DV_,
        C = C_,
        KEYS = KEYS_,
        ROUND = ROUND_,
        STRIPS = DV / 16,
        WARPS = STRIPS * (DK / KEYS),
        THREADS = WARPS * 32,
        K_BYTES = C * DK * 2,
        V_BYTES = C * DV * 2,
        P_BYTES = C * C * 2,
        TABLE = (C + 1) * 4,
        K_QUADS = quads<DK, C, THREADS>::COUNT,
        V_QUADS = quads<DV, C, THREADS>::COUNT,
    };
};

/* One head of a part of a segment, as a block of threads sees it: keys from column k0 of the head
 * on, values from v0 on. */
struct part_view {
    kn_cuda_part part;
    kn_head_state state;
    token_rows q, k, v;
    token_span span;
    int begin; /* tokens begin .. span.end-1 */
};

KN_DEVICE token_rows rows_of(const prefill_args &x, const void *p, int64_t ld, int head, int dim,
                             int first) {
    token_rows m;
    m.own = kn_rows_at(p, ld, x.a.dtype, (int64_t)head * dim + first);
    m.pending = nullptr;
    m.ld_pending = dim;
    m.dim = dim - first;
    return m;
}

KN_DEVICE part_view view_part(const prefill_args &x, int64_t index, int head, int k0, int v0) {
    part_view p;
    p.part = x.plan.parts[index];
    const kn_linattn_seg seg = x.a.segs[p.part.seg];
    const int length = (int)x.plan.part_tokens;
    p.state = kn_head_state_at(x.a, seg, head);
    p.span.pending = (int)(seg.pos % KN_CUDA_BLOCK);
    p.span.row = seg.first - p.span.pending;
    p.span.end = p.span.pending + (int)seg.len;
    p.begin = p.part.index * length;
    if (p.part.index + 1 < p.part.of)
        p.span.end = p.begin + length;
    p.q = rows_of(x, x.a.q, x.a.ldq, head, x.a.d.Dk, 0);
    p.k = rows_of(x, x.a.k, x.a.ldk, head, x.a.d.Dk, k0);
    p.v = rows_of(x, x.a.v, x.a.ldv, head, x.a.d.Dv, v0);
    p.k.pending = p.state.K + k0;
    p.v.pending = p.state.V + v0;
    return p;
}

/* The part's S in the working memory. */
KN_DEVICE float *slot_of(const prefill_args &x, int slot, int head) {
    return x.plan.work + ((int64_t)slot * x.a.d.H + head) * x.a.d.Dk * x.a.d.Dv;
}

/* ---- the state in registers: S^T rows 16 strip + g (+8), columns first + 8n + 2t (+1) ---- */

/* The warp's columns of values, and the first of its keys, in a tile. */
template <typename T> KN_DEVICE int my_strip() {
    return (int)threadIdx.x / 32 % T::STRIPS;
}

template <typename T> KN_DEVICE int my_keys() {
    return T::KEYS == T::DK ? 0 : (int)threadIdx.x / 32 / T::STRIPS * T::KEYS;
}

/* Of a tile that has Dk x Dv elements of a matrix [..][ld]. */
template <typename T>
KN_DEVICE void load_state(float S[][4], const float *from, int ld, int Dk, int Dv) {
    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    KN_UNROLL
    for (int n = 0; n < T::KEYS / 8; n++)
        for (int e = 0; e < 4; e++) {
            const int v = my_strip<T>() * 16 + g + e / 2 * 8;
            const int d = my_keys<T>() + n * 8 + 2 * t + e % 2;
            S[n][e] = v < Dv && d < Dk ? from[d * ld + v] : 0.0f;
        }
}

template <typename T>
KN_DEVICE void save_state(float *to, const float S[][4], int ld, int Dk, int Dv) {
    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    KN_UNROLL
    for (int n = 0; n < T::KEYS / 8; n++)
        for (int e = 0; e < 4; e++) {
            const int v = my_strip<T>() * 16 + g + e / 2 * 8;
            const int d = my_keys<T>() + n * 8 + 2 * t + e % 2;
            if (v < Dv && d < Dk)
                to[d * ld + v] = S[n][e];
        }
}

/* Two bf16 that add up to x, as far as bf16 goes: of a pair of floats. */
KN_DEVICE void split(uint32_t *high, uint32_t *low, float x, float y) {
    *high = kn_pack_bf16(x, y);
    *low = kn_pack_bf16(x - kn_low_bf16(*high), y - kn_high_bf16(*high));
}

/* ---- the products of a chunk ---- */

/* O = S^T Q^T. */
template <typename T> KN_DEVICE void read_state(float O[][4], const float S[][4], uint32_t Q) {
    const int lane = (int)threadIdx.x % 32;
    const uint32_t q = piece<T::DK * 2>(Q, lane % 8 + lane / 16 * 8, lane / 8 % 2);
    KN_UNROLL
    for (int k = 0; k < T::DK / 16; k++) {
        uint32_t high[4], low[4];
        for (int r = 0; r < 4; r++)
            split(&high[r], &low[r], S[2 * k + r / 2][r % 2 * 2], S[2 * k + r / 2][r % 2 * 2 + 1]);
        KN_UNROLL
        for (int n = 0; n < T::C / 8; n += 2) {
            uint32_t b[4];
            kn_ldmatrix(b, shared_at(beside<T::DK * 2>(q, n * 8, k * 2)));
            kn_mma_bf16(O[n], low, b);
            kn_mma_bf16(O[n + 1], low, b + 2);
            kn_mma_bf16(O[n], high, b);
            kn_mma_bf16(O[n + 1], high, b + 2);
        }
    }
}

/* P = decayed, masked Q K^T in bf16: tiles of 16 queries and 8 keys, dealt out to the warps. */
template <typename T> KN_DEVICE void score(uint32_t P, uint32_t Q, uint32_t K, const float *pow) {
    enum { ROWS = T::C / 16, GROUPS = T::WARPS / ROWS, TILES = T::C / 8 / GROUPS };
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int m = warp % ROWS, first = warp / ROWS * TILES;
    const uint32_t q = piece<T::DK * 2>(Q, m * 16 + lane % 16, lane / 16);
    const uint32_t keys = piece<T::DK * 2>(K, first * 8 + lane % 8, lane / 8);
    const uint32_t to = piece<T::C * 2>(P, m * 16 + lane / 4, first) + lane % 4 * 4;
    float acc[TILES][4] = {};
    KN_UNROLL
    for (int k = 0; k < T::DK / 16; k += 2) {
        uint32_t a[4], a2[4], b[4];
        kn_ldmatrix(a, shared_at(beside<T::DK * 2>(q, 0, k * 2)));
        kn_ldmatrix(a2, shared_at(beside<T::DK * 2>(q, 0, k * 2 + 2)));
        KN_UNROLL
        for (int n = 0; n < TILES; n++) {
            if ((first + n) * 8 > m * 16 + 15)
                continue;
            kn_ldmatrix(b, shared_at(beside<T::DK * 2>(keys, n * 8, k * 2)));
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
            *(uint32_t *)shared_at(beside<T::C * 2>(to, e * 4, n)) = kn_pack_bf16(x, y);
        }
}

/* V^T of the warp's 16 columns as left operands, 16 keys each. */
template <typename T> KN_DEVICE void load_values(uint32_t a[][4], uint32_t V) {
    const int lane = (int)threadIdx.x % 32, col = my_strip<T>() * 2 + lane / 8 % 2;
    const uint32_t v = piece<T::DV * 2>(V, lane % 8 + lane / 16 * 8, col);
    KN_UNROLL
    for (int k = 0; k < T::C / 16; k++)
        kn_ldmatrix_trans(a[k], shared_at(beside<T::DV * 2>(v, k * 16, 0)));
}

/* O += V^T P^T; a query meets keys up to itself only. */
template <typename T> KN_DEVICE void add_chunk(float O[][4], const uint32_t V[][4], uint32_t P) {
    const int lane = (int)threadIdx.x % 32;
    const uint32_t p = piece<T::C * 2>(P, lane % 8 + lane / 16 * 8, lane / 8 % 2);
    KN_UNROLL
    for (int n = 0; n < T::C / 8; n += 2)
        KN_UNROLL
    for (int k = 0; k <= n / 2; k++) {
        uint32_t b[4];
        kn_ldmatrix(b, shared_at(beside<T::C * 2>(p, n * 8, k * 2)));
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
KN_DEVICE void fold_chunk(float S[][4], const uint32_t V[][4], uint32_t K, float pow, float less) {
    const int lane = (int)threadIdx.x % 32;
    const uint32_t keys = piece<T::DK * 2>(K, lane % 16, my_keys<T>() / 8 + lane / 16);
    KN_UNROLL
    for (int n = 0; n < T::KEYS / 8; n += 2) {
        float sum[2][4] = {};
        KN_UNROLL
        for (int k = 0; k < T::C / 16; k++) {
            uint32_t b[4];
            kn_ldmatrix_trans(b, shared_at(beside<T::DK * 2>(keys, k * 16, n)));
            kn_mma_bf16(sum[0], V[k], b);
            kn_mma_bf16(sum[1], V[k], b + 2);
        }
        for (int e = 0; e < 8; e++)
            S[n + e / 4][e % 4] = kn_fold(S[n + e / 4][e % 4], sum[e / 4][e % 4], pow, less);
    }
}

/* Where a thread's outputs go. */
struct output_rows {
    void *p; /* row 0 */
    int64_t ld;
    bool bf16, pairs; /* pairs: two bf16 can be written at once */
};

KN_DEVICE void put_pair(const output_rows &o, int64_t row, int col, uint32_t pair, int dim) {
    kn_bf16 *p = (kn_bf16 *)o.p + row * o.ld + col;
    if (o.pairs && col < dim) {
        *(uint32_t *)p = pair;
        return;
    }
    for (int e = 0; e < 2; e++, pair >>= 16)
        if (col + e < dim)
            p[e].bits = (uint16_t)pair;
}

/* o of the tokens from t on. A bf16 tile is turned in registers, so that a token's columns lie side
 * by side: 16 bytes of four lanes. */
template <typename T>
KN_DEVICE void store_outputs(const output_rows &o, const token_span &s, const float O[][4], int t,
                             int Dv) {
    const int lane = (int)threadIdx.x % 32;
    KN_UNROLL
    for (int n = 0; n < T::C / 8; n++)
        for (int half = 0; half < 2; half++) {
            const int first = my_strip<T>() * 16 + half * 8, from = t + n * 8;
            const float x = O[n][half * 2], y = O[n][half * 2 + 1];
            if (!T::ROUND && o.bf16) {
                const uint32_t pair = kn_movmatrix(kn_pack_bf16(x, y));
                const int at = from + lane / 4;
                if (at >= s.pending && at < s.end)
                    put_pair(o, s.row + at, first + lane % 4 * 2, pair, Dv);
                continue;
            }
            const int at = from + lane % 4 * 2, col = first + lane / 4;
            float *p = (float *)o.p + (s.row + at) * o.ld + col;
            if (at >= s.pending && at < s.end && col < Dv)
                p[0] = x;
            if (at + 1 >= s.pending && at + 1 < s.end && col < Dv)
                p[o.ld] = y;
        }
}

/* ---- the state at each part's begin ---- */

/* Keys and values of the chunk at t, if there is one, all at once. */
template <typename T> struct carry_rows { uint32_t k[T::K_QUADS][4], v[T::V_QUADS][4]; };

template <typename T>
KN_DEVICE void load_carry(carry_rows<T> *r, uint32_t stage, const part_view &p, bool whole, int t) {
    if constexpr (T::ROUND) {
        KN_UNROLL
        for (int n = 0; n < T::K_QUADS; n++)
            load_quad<T::DK, T::C, T::THREADS>(r->k[n], p.k, p.span, t, n);
        KN_UNROLL
        for (int n = 0; n < T::V_QUADS; n++)
            load_quad<T::DV, T::C, T::THREADS>(r->v[n], p.v, p.span, t, n);
    } else {
        if (t < p.span.end) {
            fetch<T::DK, T::C, T::THREADS>(stage, p.k, p.span, whole, t);
            fetch<T::DV, T::C, T::THREADS>(stage + T::K_BYTES, p.v, p.span, whole, t);
        }
        kn_copy_commit(); /* a group for each chunk, since groups are counted */
    }
}

template <typename T> KN_DEVICE void store_carry(uint32_t stage, const carry_rows<T> &r) {
    if constexpr (T::ROUND) {
        KN_UNROLL
        for (int n = 0; n < T::K_QUADS; n++)
            store_quad<T::DK, T::C, T::THREADS>(stage, r.k[n], n);
        KN_UNROLL
        for (int n = 0; n < T::V_QUADS; n++)
            store_quad<T::DV, T::C, T::THREADS>(stage + T::K_BYTES, r.v[n], n);
    }
}

/* The factors exp(-s (C-1-j)) of a thread's values, which are the same in every chunk. */
template <typename T> KN_DEVICE void load_fades(float f[][4], const float *pow) {
    const int t = (int)threadIdx.x % 4;
    KN_UNROLL
    for (int k = 0; k < T::C / 16; k++)
        for (int e = 0; e < 4; e++)
            f[k][e] = pow[T::C - 1 - (k * 16 + e / 2 * 8 + 2 * t + e % 2)];
}

/* decay_values of a full chunk. */
template <typename T> KN_DEVICE void fade_values(uint32_t V[][4], const float f[][4]) {
    KN_UNROLL
    for (int k = 0; k < T::C / 16; k++)
        for (int r = 0; r < 4; r++)
            V[k][r] = kn_pack_bf16(kn_low_bf16(V[k][r]) * f[k][r / 2 * 2],
                                   kn_high_bf16(V[k][r]) * f[k][r / 2 * 2 + 1]);
}

/* How many chunks are in shared memory or on their way there; f32 rows wait in registers. */
template <typename T> struct carry_size {
    enum {
        STAGES = T::ROUND ? 2 : 4,
        AHEAD = T::ROUND ? 1 : 3,
        STAGE = T::K_BYTES + T::V_BYTES,
        SHARED = STAGES * STAGE
    };
};

/* Slots of a segment's parts, a tile of each. A chunk takes a fraction of the time that its rows
 * need to come, so several are on their way. */
template <typename T>
static __global__ void __launch_bounds__(T::THREADS, 1) carry(prefill_args x) {
    typedef carry_size<T> Z;
    kn_depend_early();
    const int head = (int)blockIdx.y, across = (x.a.d.Dk + T::DK - 1) / T::DK;
    const int k0 = (int)blockIdx.z % across * T::DK, v0 = (int)blockIdx.z / across * T::DV;
    const int Dk = x.a.d.Dk - k0, Dv = x.a.d.Dv - v0, ld = x.a.d.Dv;
    part_view p = view_part(x, blockIdx.x, head, k0, v0);
    const int64_t table = (int64_t)head * (KN_CUDA_POWERS + 1);
    const float pow = x.a.decay.pow[table + T::C], less = x.a.decay.less[table + T::C];
    float fades[T::C / 16][4];
    load_fades<T>(fades, x.a.decay.pow + table);
    kn_depend_wait(); /* parts, segments and tables are copied, not computed */
    if (p.part.index != 0 || p.part.of == 1)
        return;
    const int length = (int)x.plan.part_tokens;
    const int64_t corner = (int64_t)k0 * ld + v0;
    p.span.end = (p.part.of - 1) * length;

    carry_rows<T> rows;
    for (uint32_t i = 0; i < Z::AHEAD; i++)
        load_carry<T>(&rows, i * Z::STAGE, p, x.whole, (int)i * T::C);
    float S[T::KEYS / 8][4];
    load_state<T>(S, p.state.S + corner, ld, Dk, Dv);
    uint32_t n = 0;
    for (int t = 0, slot = p.part.slot; t < p.span.end; t += T::C, n++) {
        const uint32_t K = n % Z::STAGES * Z::STAGE, V = K + T::K_BYTES;
        if (t % length == 0)
            save_state<T>(slot_of(x, slot++, head) + corner, S, ld, Dk, Dv);
        store_carry<T>(K, rows);
        kn_copy_wait<Z::AHEAD - 1>();
        kn_sync_block(); /* this chunk has come, the one before is done with */
        load_carry<T>(&rows, (n + Z::AHEAD) % Z::STAGES * Z::STAGE, p, x.whole,
                      t + Z::AHEAD * T::C);
        uint32_t values[T::C / 16][4];
        load_values<T>(values, V);
        fade_values<T>(values, fades);
        fold_chunk<T>(S, values, K, pow, less);
    }
    save_state<T>(slot_of(x, p.part.slot + p.part.of - 1, head) + corner, S, ld, Dk, Dv);
}

/* ---- the outputs ---- */

enum { SHARES = 4 }; /* of a chunk's f32 rows, each read beside one of its products */

template <typename T> struct walk_size {
    enum {
        STAGE = 2 * T::K_BYTES + T::V_BYTES, /* Q, K, V */
        QUADS = 2 * T::K_QUADS + T::V_QUADS,
        SHARE = (QUADS + SHARES - 1) / SHARES,
        SHARED = 2 * STAGE + T::P_BYTES + T::TABLE
    };
};

/* Quads first .. first+count-1 of a thread's in a chunk: of Q, then K, then V. */
template <typename T, int first, int count>
KN_DEVICE void load_quads(uint32_t r[][4], const part_view &p, int t) {
    if constexpr (T::ROUND) {
        KN_UNROLL
        for (int i = 0; i < count; i++) {
            const int n = first + i;
            if (n < T::K_QUADS)
                load_quad<T::DK, T::C, T::THREADS>(r[i], p.q, p.span, t, n);
            else if (n < 2 * T::K_QUADS)
                load_quad<T::DK, T::C, T::THREADS>(r[i], p.k, p.span, t, n - T::K_QUADS);
            else if (n < walk_size<T>::QUADS)
                load_quad<T::DV, T::C, T::THREADS>(r[i], p.v, p.span, t, n - 2 * T::K_QUADS);
        }
    }
}

template <typename T, int first, int count>
KN_DEVICE void store_quads(uint32_t stage, const uint32_t r[][4]) {
    if constexpr (T::ROUND) {
        KN_UNROLL
        for (int i = 0; i < count; i++) {
            const int n = first + i;
            if (n < T::K_QUADS)
                store_quad<T::DK, T::C, T::THREADS>(stage, r[i], n);
            else if (n < 2 * T::K_QUADS)
                store_quad<T::DK, T::C, T::THREADS>(stage + T::K_BYTES, r[i], n - T::K_QUADS);
            else if (n < walk_size<T>::QUADS)
                store_quad<T::DV, T::C, T::THREADS>(stage + 2 * T::K_BYTES, r[i],
                                                    n - 2 * T::K_QUADS);
        }
    }
}

template <typename T>
KN_DEVICE void fetch_chunk(uint32_t stage, const part_view &p, bool whole, int t) {
    if constexpr (!T::ROUND) {
        if (t < p.span.end) {
            fetch<T::DK, T::C, T::THREADS>(stage, p.q, p.span, whole, t);
            fetch<T::DK, T::C, T::THREADS>(stage + T::K_BYTES, p.k, p.span, whole, t);
            fetch<T::DV, T::C, T::THREADS>(stage + 2 * T::K_BYTES, p.v, p.span, whole, t);
        }
        kn_copy_commit();
    }
}

KN_DEVICE output_rows outputs_of(const prefill_args &x, int head) {
    const kn_rows o = kn_rows_at(x.a.o, x.a.ldo, x.a.dtype, (int64_t)head * x.a.d.Dv);
    output_rows r;
    r.p = (void *)o.p;
    r.ld = o.ld;
    r.bf16 = o.bf16;
    r.pairs = o.bf16 && x.a.d.Dv % 2 == 0 && o.ld % 2 == 0 && (uintptr_t)o.p % 4 == 0;
    return r;
}

template <typename T> static __global__ void __launch_bounds__(T::THREADS) walk(prefill_args x) {
    typedef walk_size<T> W;
    enum { SHARE = W::SHARE };
    kn_depend_early();
    const int head = (int)blockIdx.y, Dk = x.a.d.Dk, Dv = x.a.d.Dv;
    const part_view p = view_part(x, blockIdx.x, head, 0, 0);
    const uint32_t P = 2 * W::STAGE;
    float *const pow = (float *)shared_at(P + T::P_BYTES);
    const int64_t table = (int64_t)head * (KN_CUDA_POWERS + 1);
    for (int i = (int)threadIdx.x; i <= T::C; i += T::THREADS)
        pow[i] = x.a.decay.pow[table + i];
    kn_depend_wait(); /* parts, segments and tables are copied, not computed */
    uint32_t first[T::ROUND ? W::QUADS : 1][4];
    float S[T::DK / 8][4];
    fetch_chunk<T>(0, p, x.whole, p.begin);
    load_quads<T, 0, W::QUADS>(first, p, p.begin);
    load_state<T>(S, p.part.slot < 0 ? p.state.S : slot_of(x, p.part.slot, head), Dv, Dk, Dv);
    store_quads<T, 0, W::QUADS>(0, first);
    uint32_t n = 0;
    for (int t = p.begin; t < p.span.end; t += T::C, n++) {
        const uint32_t Q = (n & 1) * W::STAGE, K = Q + T::K_BYTES, V = K + T::K_BYTES;
        const uint32_t next = (~n & 1) * W::STAGE;
        kn_copy_wait<0>();
        kn_sync_block(); /* this chunk has come, the one before is done with */
        fetch_chunk<T>(next, p, x.whole, t + T::C);
        uint32_t rows[T::ROUND ? SHARE : 1][4], values[T::C / 16][4];
        float O[T::C / 8][4] = {};
        load_quads<T, 0, SHARE>(rows, p, t + T::C);
        load_values<T>(values, V);
        score<T>(P, Q, K, pow);
        store_quads<T, 0, SHARE>(next, rows);
        load_quads<T, SHARE, SHARE>(rows, p, t + T::C);
        read_state<T>(O, S, Q);
        store_quads<T, SHARE, SHARE>(next, rows);
        load_quads<T, 2 * SHARE, SHARE>(rows, p, t + T::C);
        kn_sync_block(); /* P is whole */
        KN_UNROLL
        for (int i = 0; i < T::C / 8; i++)
            for (int e = 0; e < 4; e++)
                O[i][e] *= pow[i * 8 + (int)threadIdx.x % 4 * 2 + e % 2 + 1];
        add_chunk<T>(O, values, P);
        store_outputs<T>(outputs_of(x, head), p.span, O, t, Dv);
        store_quads<T, 2 * SHARE, SHARE>(next, rows);
        load_quads<T, 3 * SHARE, SHARE>(rows, p, t + T::C);
        const int left = p.span.end - t;
        const int folded = left >= T::C ? T::C : left - left % KN_CUDA_BLOCK;
        if (folded > 0) {
            decay_values<T>(values, pow, folded);
            fold_chunk<T>(S, values, K, pow[folded], x.a.decay.less[table + folded]);
        }
        store_quads<T, 3 * SHARE, SHARE>(next, rows);
    }
    if (p.part.index + 1 == p.part.of)
        save_state<T>(p.state.S, S, Dv, Dk, Dv);
}

/* ---- what is left over ---- */

enum { APPEND_THREADS = 128 };

/* The rows after the last whole block become the pending rows. */
static __global__ void __launch_bounds__(APPEND_THREADS) append(kn_cuda_linattn a) {
    kn_depend();
    const kn_linattn_seg seg = a.segs[blockIdx.x];
    const int head = (int)blockIdx.y, Dk = a.d.Dk, Dv = a.d.Dv;
    const int64_t pending = seg.pos % KN_CUDA_BLOCK, all = pending + seg.len;
    const int64_t begin = all - all % KN_CUDA_BLOCK;
    const kn_head_state h = kn_head_state_at(a, seg, head);
    const kn_rows k = kn_rows_at(a.k, a.ldk, a.dtype, (int64_t)head * Dk);
    const kn_rows v = kn_rows_at(a.v, a.ldv, a.dtype, (int64_t)head * Dv);
    for (int64_t t = begin > pending ? begin : pending; t < all; t++) {
        const int64_t row = seg.first + t - pending;
        /* as bf16, which is what the outputs of this launch were computed from */
        for (int i = (int)threadIdx.x; i < Dk; i += APPEND_THREADS)
            h.K[(t - begin) * Dk + i] = kn_to_float(kn_to_bf16(kn_rows_get(k, row, i)));
        for (int i = (int)threadIdx.x; i < Dv; i += APPEND_THREADS)
            h.V[(t - begin) * Dv + i] = kn_to_float(kn_to_bf16(kn_rows_get(v, row, i)));
    }
}

/* ---- launches ---- */

template <int C, bool ROUND> static void launch_carry(const prefill_args &x, cudaStream_t stream) {
    typedef tile<64, 64, C, 32, ROUND> T;
    const int tiles = (x.a.d.Dk + T::DK - 1) / T::DK * ((x.a.d.Dv + T::DV - 1) / T::DV);
    kn_launch(carry<T>, dim3((unsigned)x.plan.n_parts, (unsigned)x.a.d.H, (unsigned)tiles),
              dim3(T::THREADS), carry_size<T>::SHARED, stream, x);
}

template <int DK, int DV, int C, bool ROUND>
static void launch_parts(const prefill_args &x, cudaStream_t stream) {
    typedef tile<DK, DV, C, DK, ROUND> T;
    if (x.plan.n_slots > 0)
        launch_carry<C, ROUND>(x, stream);
    kn_launch(walk<T>, dim3((unsigned)x.plan.n_parts, (unsigned)x.a.d.H), dim3(T::THREADS),
              walk_size<T>::SHARED, stream, x);
}

template <int DV, bool ROUND>
static void pick_keys(const prefill_args &x, size_t shared, cudaStream_t stream) {
    if (x.a.d.Dk <= 64)
        launch_parts<64, DV, 64, ROUND>(x, stream);
    else if (walk_size<tile<128, DV, 64, 128, ROUND>>::SHARED <= shared)
        launch_parts<128, DV, 64, ROUND>(x, stream);
    else
        launch_parts<128, DV, 32, ROUND>(x, stream);
}

template <bool ROUND>
static void pick_sizes(const prefill_args &x, size_t shared, cudaStream_t stream) {
    if (x.a.d.Dk > 128)
        launch_parts<256, 128, 32, ROUND>(x, stream);
    else if (x.a.d.Dv > 64)
        pick_keys<128, ROUND>(x, shared, stream);
    else
        pick_keys<64, ROUND>(x, shared, stream);
}

/* Rows that can be read 16 bytes at a time. */
static bool is_aligned(const void *p, int64_t ld, int dim, kn_dtype dtype) {
    const int unit = dtype == KN_BF16 ? 8 : 4;
    return dim % 8 == 0 && ld % unit == 0 && (uintptr_t)p % 16 == 0;
}

void kn_cuda_linattn_prefill(const kn_cuda_linattn *a, const kn_cuda_plan *plan,
                             size_t shared_bytes, kn_cuda_stream stream) {
    if (plan->n_parts == 0)
        return;
    const bool aligned = is_aligned(a->q, a->ldq, a->d.Dk, a->dtype) &&
                         is_aligned(a->k, a->ldk, a->d.Dk, a->dtype) &&
                         is_aligned(a->v, a->ldv, a->d.Dv, a->dtype);
    prefill_args x;
    x.a = *a;
    x.plan = *plan;
    x.whole = aligned && a->dtype == KN_BF16;
    if (aligned && a->dtype == KN_F32)
        pick_sizes<true>(x, shared_bytes, (cudaStream_t)stream);
    else
        pick_sizes<false>(x, shared_bytes, (cudaStream_t)stream);
    if (plan->n_tails > 0)
        kn_launch(append, dim3((unsigned)a->n_segs, (unsigned)a->d.H), dim3(APPEND_THREADS), 0,
                  (cudaStream_t)stream, *a);
}
