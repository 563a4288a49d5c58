/* Prompts: rows of q, k and v on their way to shared memory, as bf16.
 *
 * bf16 rows are copied past the registers (`fetch`). f32 rows have to be rounded, so they pass
 * through them: a thread reads quads of four columns (`load_quad`) and writes them to shared memory
 * (`store_quad`) some hundred instructions later, when they have come. Rows of shared memory are
 * 16-byte pieces in an order turned by the row (`piece`), so that no kind of fragment load meets a
 * bank twice. */
#ifndef TNL_CUDA_LINATTN_ROWS_CUH
#define TNL_CUDA_LINATTN_ROWS_CUH

#include "kernels/cuda/linattn_common.cuh"

/* Places in shared memory are offsets: what a lane adds to them is one exclusive or away from
 * offset to offset, where pointers would fill registers. */
KN_DEVICE unsigned char *shared_at(uint32_t offset) {
    KN_SHARED(shared);
    return shared + offset;
}

/* The 16-byte piece `col` of row `row` in a matrix whose rows have `bytes` bytes; base is a
 * multiple of 128. */
template <int bytes> KN_DEVICE uint32_t piece(uint32_t base, int row, int col) {
    const int turn = bytes >= 128 ? row & 7 : row >> 1 & 3;
    return base + (uint32_t)(row * bytes + (col ^ turn) * 16);
}

/* The piece `rows` below and `cols` to the right of the one at `at`; rows is a multiple of 8, and
 * cols has no bit that the column of `at` has. */
template <int bytes> KN_DEVICE uint32_t beside(uint32_t at, int rows, int cols) {
    const int turned = cols & (bytes >= 128 ? 7 : 3);
    return (at ^ (uint32_t)(turned * 16)) + (uint32_t)(rows * bytes + (cols - turned) * 16);
}

/* q, k or v of a segment, some columns of one head. Tokens are counted from the block boundary
 * before the segment: the first ones are pending rows of the state. */
struct token_rows {
    kn_rows own;
    const float *pending; /* [B][ld_pending]; NULL: zeros, which nobody looks at */
    int ld_pending, dim;
};

/* Where a segment's tokens lie. */
struct token_span {
    int64_t row;      /* of token 0, if it were not pending */
    int pending, end; /* own tokens are pending .. end-1; from `end` on rows are zeros */
};

/* ---- as they are, or one element at a time ---- */

KN_DEVICE float token_value(const token_rows &m, const token_span &s, int t, int col) {
    if (t >= s.end || col >= m.dim)
        return 0.0f;
    if (t < s.pending)
        return m.pending ? m.pending[t * m.ld_pending + col] : 0.0f;
    return kn_rows_get(m.own, s.row + t, col);
}

/* D columns of C rows from token t on. `whole`: rows are bf16 and aligned to 16 bytes. */
template <int D, int C, int THREADS>
KN_DEVICE void fetch(uint32_t dst, const token_rows &m, const token_span &s, bool whole, int t) {
    for (int i = (int)threadIdx.x; i < C * (D / 8); i += THREADS) {
        const int row = i / (D / 8), col = i % (D / 8) * 8, at = t + row;
        uint32_t *to = (uint32_t *)shared_at(piece<D * 2>(dst, row, col / 8));
        if (whole && at >= s.pending && at < s.end && col < m.dim) {
            kn_copy_async(to, (const kn_bf16 *)m.own.p + (s.row + at) * m.own.ld + col);
            continue;
        }
        for (int e = 0; e < 4; e++)
            to[e] = kn_pack_bf16(token_value(m, s, at, col + 2 * e),
                                 token_value(m, s, at, col + 2 * e + 1));
    }
}

/* ---- f32, through registers ---- */

/* D columns of C rows, as quads dealt out to THREADS threads: a thread's lie below one another. */
template <int D, int C, int THREADS> struct quads {
    enum { PER_ROW = D / 4, STEP = THREADS / PER_ROW, COUNT = C / STEP };
};

/* Not as memory that never changes: the launch before may have written it while this one began. */
KN_DEVICE void read_quad(uint32_t r[4], const float *p) {
    const uint32_t *aligned = (const uint32_t *)__builtin_assume_aligned(p, 16);
    for (int i = 0; i < 4; i++)
        r[i] = aligned[i];
}

template <int D, int C, int THREADS>
KN_DEVICE void load_quad(uint32_t r[4], const token_rows &m, const token_span &s, int t, int n) {
    typedef quads<D, C, THREADS> Q;
    const int col = (int)threadIdx.x % Q::PER_ROW * 4;
    const int at = t + n * Q::STEP + (int)threadIdx.x / Q::PER_ROW;
    r[0] = r[1] = r[2] = r[3] = 0;
    if (at >= s.end || col >= m.dim)
        return;
    if (at >= s.pending)
        read_quad(r, (const float *)m.own.p + (s.row + at) * m.own.ld + col);
    else if (m.pending)
        read_quad(r, m.pending + at * m.ld_pending + col);
}

template <int D, int C, int THREADS>
KN_DEVICE void store_quad(uint32_t dst, const uint32_t r[4], int n) {
    typedef quads<D, C, THREADS> Q;
    const int col = (int)threadIdx.x % Q::PER_ROW;
    const int row = n * Q::STEP + (int)threadIdx.x / Q::PER_ROW;
    const uint64_t low = kn_pack_bf16(kn_float_of_bits(r[0]), kn_float_of_bits(r[1]));
    const uint64_t high = kn_pack_bf16(kn_float_of_bits(r[2]), kn_float_of_bits(r[3]));
    ((uint64_t *)shared_at(piece<D * 2>(dst, row, col / 2)))[col % 2] = low | high << 32;
}

#endif
