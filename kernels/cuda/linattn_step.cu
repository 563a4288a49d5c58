/* Decode: rows of one block of the canonical state, fed one after another.
 *
 * A block of threads owns one head of one segment and 32 columns of S, so that even one sequence
 * keeps a GPU's memory busy; nothing is shared between blocks, for all sums of a column of o use
 * that column of S and V alone. Everything it needs of the state - its columns of S, the pending
 * rows of K and of its columns of V - is asked for at once by asynchronous copies: the pending rows
 * first, so that the scores are computed while S arrives. For each new row, at place r of its
 * block,
 *
 *   1. q, k and the columns of v come to shared memory and are appended to the pending rows (the
 *      block of the first columns writes k);
 *   2. scores: one warp per pending row i <= r, lanes along Dk, a tree over the lanes, times
 *      exp(-s (r-i));
 *   3. q S: a lane sums every sixteenth row of four columns; then a tree over the lanes, then the
 *      warps in order; times exp(-s (r+1));
 *   4. scores V is added, i ascending;
 *   5. a full block folds into S, j ascending, and S is written: once in B tokens.
 *
 * The order of every sum depends on Dk, r and B only. Nobody reads from the state a row that this
 * launch writes, so blocks need no order among them. */
#include "kernels/cuda/linattn_common.cuh"

enum { COLS = 32, WARPS = 4, THREADS = WARPS * 32, LANE_COLS = 4, ROW_LANES = COLS / LANE_COLS };

struct step_view {
    float *S, *K, *V;         /* shared: [Dk][COLS], [B][Dk], [B][COLS] */
    float *q, *scores, *sums; /* shared: [Dk], [B], [WARPS][COLS] */
    kn_head_state state;
    int Dk, Dv, first, cols; /* columns first .. first+cols of Dv */
    const float *pow;
};

static size_t step_shared_bytes(int Dk) {
    const size_t B = KN_CUDA_BLOCK, D = (size_t)(Dk + 3) / 4 * 4;
    return sizeof(float) * (D * COLS + B * D + B * COLS + D + B + WARPS * COLS);
}

KN_DEVICE void carve(step_view *w, unsigned char *shared) {
    const int D = (w->Dk + 3) / 4 * 4;
    w->S = (float *)shared;
    w->K = w->S + D * COLS;
    w->V = w->K + KN_CUDA_BLOCK * D;
    w->q = w->V + KN_CUDA_BLOCK * COLS;
    w->scores = w->q + D;
    w->sums = w->scores + KN_CUDA_BLOCK;
}

/* Ask for rows of `cols` floats, 16 bytes at a time where all addresses allow it. */
KN_DEVICE void fetch_rows(float *dst, int ld_dst, const float *src, int ld_src, int rows,
                          int cols) {
    const bool whole = cols % 4 == 0 && ld_src % 4 == 0 && (uintptr_t)src % 16 == 0;
    const int per_row = whole ? cols / 4 : cols;
    for (int i = (int)threadIdx.x; i < rows * per_row; i += THREADS) {
        const int row = i / per_row, at = i % per_row;
        if (whole)
            kn_copy_async(dst + row * ld_dst + at * 4, src + (int64_t)row * ld_src + at * 4);
        else
            dst[row * ld_dst + at] = src[(int64_t)row * ld_src + at];
    }
    kn_copy_commit();
}

/* q, k and the columns of v of a row; k and v also to the pending rows of the state. */
KN_DEVICE void take_row(const step_view &w, const kn_rows &q, const kn_rows &k, const kn_rows &v,
                        int64_t row, int r) {
    const int D = (w.Dk + 3) / 4 * 4;
    for (int d = (int)threadIdx.x; d < w.Dk; d += THREADS) {
        const float x = kn_rows_get(k, row, d);
        w.q[d] = kn_rows_get(q, row, d);
        w.K[r * D + d] = x;
        if (w.first == 0)
            w.state.K[(int64_t)r * w.Dk + d] = x;
    }
    for (int c = (int)threadIdx.x; c < w.cols; c += THREADS) {
        const float x = kn_rows_get(v, row, w.first + c);
        w.V[r * COLS + c] = x;
        w.state.V[(int64_t)r * w.Dv + w.first + c] = x;
    }
}

KN_DEVICE void score_rows(const step_view &w, int r) {
    const int D = (w.Dk + 3) / 4 * 4, lane = (int)threadIdx.x % 32;
    for (int i = (int)threadIdx.x / 32; i <= r; i += WARPS) {
        float dot = 0;
        for (int d = lane; d < w.Dk; d += 32)
            dot = fmaf(w.q[d], w.K[i * D + d], dot);
        for (int apart = 16; apart > 0; apart /= 2)
            dot += kn_shfl_xor(dot, apart);
        if (lane == 0)
            w.scores[i] = dot * w.pow[r - i];
    }
}

/* sums[warp][column] = the warp's share of q S. */
KN_DEVICE void read_state(const step_view &w) {
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int col = lane % ROW_LANES * LANE_COLS, stride = THREADS / ROW_LANES;
    float sum[LANE_COLS] = {0, 0, 0, 0};
    for (int d = (int)threadIdx.x / ROW_LANES; d < w.Dk; d += stride) {
        const float q = w.q[d];
        for (int c = 0; c < LANE_COLS; c++)
            sum[c] = fmaf(q, w.S[d * COLS + col + c], sum[c]);
    }
    for (int c = 0; c < LANE_COLS; c++) {
        for (int apart = 16; apart >= ROW_LANES; apart /= 2)
            sum[c] += kn_shfl_xor(sum[c], apart);
        if (lane < ROW_LANES)
            w.sums[warp * COLS + col + c] = sum[c];
    }
}

KN_DEVICE float output_of(const step_view &w, int r, int c) {
    float x = 0;
    for (int i = 0; i < WARPS; i++)
        x += w.sums[i * COLS + c];
    x *= w.pow[r + 1];
    for (int i = 0; i <= r; i++)
        x = fmaf(w.scores[i], w.V[i * COLS + c], x);
    return x;
}

KN_DEVICE void fold_block(const step_view &w, float less) {
    const int D = (w.Dk + 3) / 4 * 4, B = KN_CUDA_BLOCK;
    for (int i = (int)threadIdx.x; i < w.Dk * COLS; i += THREADS) {
        const int d = i / COLS, c = i % COLS;
        if (c >= w.cols)
            continue;
        float sum = 0;
        for (int j = 0; j < B; j++)
            sum = fmaf(w.pow[B - 1 - j] * w.K[j * D + d], w.V[j * COLS + c], sum);
        const float S = kn_fold(w.S[i], sum, w.pow[B], less);
        w.S[i] = S;
        w.state.S[(int64_t)d * w.Dv + w.first + c] = S;
    }
}

static __global__ void __launch_bounds__(THREADS) linattn_step(kn_cuda_linattn a) {
    KN_SHARED(shared);
    kn_depend();
    const kn_linattn_seg seg = a.segs[blockIdx.x];
    const int head = (int)blockIdx.y;
    step_view w;
    w.Dk = a.d.Dk;
    w.Dv = a.d.Dv;
    w.first = (int)blockIdx.z * COLS;
    w.cols = w.Dv - w.first < COLS ? w.Dv - w.first : COLS;
    w.pow = a.decay.pow + (int64_t)head * (KN_CUDA_POWERS + 1);
    w.state = kn_head_state_at(a, seg, head);
    carve(&w, shared);

    const int r0 = (int)(seg.pos % KN_CUDA_BLOCK), D = (w.Dk + 3) / 4 * 4;
    fetch_rows(w.K, D, w.state.K, w.Dk, r0, w.Dk);
    fetch_rows(w.V, COLS, w.state.V + w.first, w.Dv, r0, w.cols);
    fetch_rows(w.S, COLS, w.state.S + w.first, w.Dv, w.Dk, w.cols);
    const kn_rows q = kn_rows_at(a.q, a.ldq, a.dtype, (int64_t)head * w.Dk);
    const kn_rows k = kn_rows_at(a.k, a.ldk, a.dtype, (int64_t)head * w.Dk);
    const kn_rows v = kn_rows_at(a.v, a.ldv, a.dtype, (int64_t)head * w.Dv);
    for (int64_t i = 0; i < seg.len; i++) {
        const int r = r0 + (int)i;
        take_row(w, q, k, v, seg.first + i, r);
        kn_copy_wait<1>(); /* the pending rows, not S */
        kn_sync_block();
        score_rows(w, r);
        kn_copy_wait<0>();
        kn_sync_block();
        read_state(w);
        kn_sync_block();
        for (int c = (int)threadIdx.x; c < w.cols; c += THREADS)
            kn_rows_put(a.o, a.dtype == KN_BF16,
                        (seg.first + i) * a.ldo + (int64_t)head * w.Dv + w.first + c,
                        output_of(w, r, c));
        kn_sync_block();
    }
    if (r0 + (int)seg.len == KN_CUDA_BLOCK)
        fold_block(w, a.decay.less[(int64_t)head * (KN_CUDA_POWERS + 1) + KN_CUDA_BLOCK]);
}

void kn_cuda_linattn_step(const kn_cuda_linattn *a, kn_cuda_stream stream) {
    if (a->n_segs == 0)
        return;
    const dim3 grid((unsigned)a->n_segs, (unsigned)a->d.H, (unsigned)((a->d.Dv + COLS - 1) / COLS));
    kn_launch(linattn_step, grid, dim3(THREADS), step_shared_bytes(a->d.Dk), (cudaStream_t)stream,
              *a);
}
