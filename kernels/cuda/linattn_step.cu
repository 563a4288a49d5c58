/* Decode: rows of one block of the canonical state, fed one after another.
 *
 * A block of threads owns one head of one segment and 32 columns of S, so that even one sequence
 * keeps a GPU's memory busy; nothing is shared between blocks, for all sums of a column of o use
 * that column of S and V alone. Blocks of a head come one after another, so that the pending keys,
 * which each of them reads, come from the cache. Everything a block needs of the state - its
 * columns of S, the pending rows of K and of its columns of V - is asked for at once by
 * asynchronous copies: the pending rows first, so that the scores are computed while S arrives. For
 * each new row, at place r of its block,
 *
 *   1. q, k and the columns of v come to shared memory and are appended to the pending rows (the
 *      block of the first columns writes k);
 *   2. scores: four lanes for each pending row i <= r, all rows at once; a lane sums every fourth
 *      quad of Dk in four chains, which are added pairwise, then the lanes; times exp(-s (r-i));
 *   3. o: a lane has four columns and every sixteenth row of S and of V. It sums q S and scores V,
 *      each ascending, and adds the first, times exp(-s (r+1)), to the second; then a tree over
 *      the lanes, then the warps in order;
 *   4. a full block folds into S, j ascending, and S is written: once in B tokens.
 *
 * The order of every sum depends on Dk, r and B only. Nobody reads from the state a row that this
 * launch writes, so blocks need no order among them. */
#include "kernels/cuda/linattn_common.cuh"

enum {
    COLS = 32,
    WARPS = 4,
    THREADS = WARPS * 32,
    QUAD = 4,                            /* columns of a lane */
    ROW_LANES = COLS / QUAD,             /* lanes of a row of S */
    ROWS = THREADS / ROW_LANES,          /* of S, at a time */
    KEY_LANES = THREADS / KN_CUDA_BLOCK, /* lanes of a pending row */
    FOLD_ROWS = 8,                       /* of a lane, at a time */
};

struct step_args {
    kn_cuda_linattn a;
    int ld_K;
};

struct step_view {
    float *S, *K, *V;         /* shared: [Dk][COLS], [B][ld_K], [B][COLS] */
    float *q, *scores, *sums; /* shared: [ld_K], [B], [WARPS][COLS] */
    kn_head_state state;
    int Dk, Dv, ld_K, first, cols; /* columns first .. first+cols of Dv */
    const float *pow;
};

/* Sixteen more than a multiple of 32: quads of four lanes in two neighbouring rows, which are read
 * at once, meet no bank twice. */
static int key_stride(int Dk) {
    return (Dk + 15) / 32 * 32 + 16;
}

static size_t step_shared_bytes(int Dk) {
    const size_t B = KN_CUDA_BLOCK, ld_K = (size_t)key_stride(Dk);
    return sizeof(float) * ((size_t)Dk * COLS + B * ld_K + B * COLS + ld_K + B + WARPS * COLS);
}

KN_DEVICE void carve(step_view *w, unsigned char *shared) {
    w->S = (float *)shared;
    w->K = w->S + w->Dk * COLS;
    w->V = w->K + KN_CUDA_BLOCK * w->ld_K;
    w->q = w->V + KN_CUDA_BLOCK * COLS;
    w->scores = w->q + w->ld_K;
    w->sums = w->scores + KN_CUDA_BLOCK;
}

/* ---- what comes in ---- */

/* Ask for rows of `cols` floats, 16 bytes at a time where all addresses allow it. */
KN_DEVICE void fetch_rows(float *dst, int ld_dst, const float *src, int ld_src, int rows,
                          int cols) {
    const bool whole = cols % 4 == 0 && ld_src % 4 == 0 && (uintptr_t)src % 16 == 0;
    const int per_row = whole ? cols / 4 : cols, at_once = THREADS / per_row;
    const int first = (int)threadIdx.x / per_row, at = (int)threadIdx.x % per_row;
    if (whole && at_once > 0) {
        for (int row = first; row < rows && first < at_once; row += at_once)
            kn_copy_async(dst + row * ld_dst + at * 4, src + (int64_t)row * ld_src + at * 4);
    } else {
        for (int row = 0; row < rows; row++)
            for (int c = (int)threadIdx.x; c < cols; c += THREADS)
                dst[row * ld_dst + c] = src[(int64_t)row * ld_src + c];
    }
    kn_copy_commit();
}

/* q, k and the columns of v of a row; k and v also to the pending rows of the state. */
KN_DEVICE void take_row(const step_view &w, const kn_rows &q, const kn_rows &k, const kn_rows &v,
                        int64_t row, int r) {
    for (int d = (int)threadIdx.x; d < w.Dk; d += THREADS) {
        const float x = kn_rows_get(k, row, d);
        w.q[d] = kn_rows_get(q, row, d);
        w.K[r * w.ld_K + d] = x;
        if (w.first == 0)
            w.state.K[(int64_t)r * w.Dk + d] = x;
    }
    for (int c = (int)threadIdx.x; c < w.cols; c += THREADS) {
        const float x = kn_rows_get(v, row, w.first + c);
        w.V[r * COLS + c] = x;
        w.state.V[(int64_t)r * w.Dv + w.first + c] = x;
    }
}

/* ---- what is computed ---- */

KN_DEVICE void shared_quad(float x[QUAD], const float *shared) {
    uint32_t r[QUAD];
    kn_load_16(r, shared);
    for (int e = 0; e < QUAD; e++)
        x[e] = kn_float_of_bits(r[e]);
}

KN_DEVICE void score_rows(const step_view &w, int r) {
    const int i = (int)threadIdx.x / KEY_LANES, lane = (int)threadIdx.x % KEY_LANES;
    const float *K = w.K + i * w.ld_K;
    float dot[QUAD] = {0, 0, 0, 0}, q[QUAD], k[QUAD];
    for (int d = lane * QUAD; i <= r && d < w.Dk; d += KEY_LANES * QUAD) {
        shared_quad(q, w.q + d);
        shared_quad(k, K + d);
        for (int e = 0; e < QUAD; e++)
            if (d + e < w.Dk)
                dot[e] = fmaf(q[e], k[e], dot[e]);
    }
    float sum = (dot[0] + dot[1]) + (dot[2] + dot[3]);
    for (int apart = KEY_LANES / 2; apart > 0; apart /= 2)
        sum += kn_shfl_xor(sum, apart);
    if (lane == 0 && i <= r)
        w.scores[i] = sum * w.pow[r - i];
}

/* sum[c] += f[i] m[i][col+c] over a lane's rows i < n. */
KN_DEVICE void add_rows(float sum[QUAD], const float *f, const float *m, int n) {
    const int col = (int)threadIdx.x % ROW_LANES * QUAD;
    for (int i = (int)threadIdx.x / ROW_LANES; i < n; i += ROWS) {
        float x[QUAD];
        shared_quad(x, m + i * COLS + col);
        for (int c = 0; c < QUAD; c++)
            sum[c] = fmaf(f[i], x[c], sum[c]);
    }
}

/* sums[warp][column] = the warp's share of o. */
KN_DEVICE void sum_outputs(const step_view &w, int r) {
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    float of_S[QUAD] = {0, 0, 0, 0}, sum[QUAD] = {0, 0, 0, 0};
    add_rows(of_S, w.q, w.S, w.Dk);
    add_rows(sum, w.scores, w.V, r + 1);
    for (int c = 0; c < QUAD; c++) {
        float x = fmaf(of_S[c], w.pow[r + 1], sum[c]);
        for (int apart = 16; apart >= ROW_LANES; apart /= 2)
            x += kn_shfl_xor(x, apart);
        if (lane < ROW_LANES)
            w.sums[warp * COLS + lane * QUAD + c] = x;
    }
}

KN_DEVICE void store_output(const step_view &w, const kn_cuda_linattn &a, int64_t row, int head) {
    const int c = (int)threadIdx.x;
    if (c >= w.cols)
        return;
    float x = 0;
    for (int i = 0; i < WARPS; i++)
        x += w.sums[i * COLS + c];
    kn_rows_put(a.o, a.dtype == KN_BF16, row * a.ldo + (int64_t)head * w.Dv + w.first + c, x);
}

/* A lane's rows d0, d0 + ROWS, ... of S, at most FOLD_ROWS. */
KN_DEVICE void fold_rows(const step_view &w, float less, int d0) {
    const int col = (int)threadIdx.x % ROW_LANES * QUAD, B = KN_CUDA_BLOCK;
    float sum[FOLD_ROWS][QUAD] = {}, v[QUAD];
    for (int j = 0; j < B; j++) {
        shared_quad(v, w.V + j * COLS + col);
        KN_UNROLL
        for (int n = 0; n < FOLD_ROWS; n++) {
            const int d = d0 + n * ROWS;
            const float k = d < w.Dk ? w.pow[B - 1 - j] * w.K[j * w.ld_K + d] : 0.0f;
            for (int c = 0; c < QUAD; c++)
                sum[n][c] = fmaf(k, v[c], sum[n][c]);
        }
    }
    KN_UNROLL
    for (int n = 0; n < FOLD_ROWS; n++)
        for (int c = 0; c < QUAD; c++) {
            const int d = d0 + n * ROWS;
            if (d < w.Dk && col + c < w.cols)
                w.state.S[(int64_t)d * w.Dv + w.first + col + c] =
                    kn_fold(w.S[d * COLS + col + c], sum[n][c], w.pow[B], less);
        }
}

static __global__ void __launch_bounds__(THREADS) linattn_step(step_args x) {
    KN_SHARED(shared);
    kn_depend_early();
    const kn_cuda_linattn &a = x.a;
    const kn_linattn_seg seg = a.segs[blockIdx.z];
    const int head = (int)blockIdx.y;
    step_view w;
    w.Dk = a.d.Dk;
    w.Dv = a.d.Dv;
    w.ld_K = x.ld_K;
    w.first = (int)blockIdx.x * COLS;
    w.cols = w.Dv - w.first < COLS ? w.Dv - w.first : COLS;
    w.pow = a.decay.pow + (int64_t)head * (KN_CUDA_POWERS + 1);
    w.state = kn_head_state_at(a, seg, head);
    carve(&w, shared);

    const int r0 = (int)(seg.pos % KN_CUDA_BLOCK);
    if (!a.settled)
        kn_depend_wait();
    fetch_rows(w.K, w.ld_K, w.state.K, w.Dk, r0, w.Dk);
    fetch_rows(w.V, COLS, w.state.V + w.first, w.Dv, r0, w.cols);
    fetch_rows(w.S, COLS, w.state.S + w.first, w.Dv, w.Dk, w.cols);
    if (a.settled)
        kn_depend_wait();
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
        sum_outputs(w, r);
        kn_sync_block();
        store_output(w, a, seg.first + i, head);
    }
    if (r0 + (int)seg.len == KN_CUDA_BLOCK) {
        const float less = a.decay.less[(int64_t)head * (KN_CUDA_POWERS + 1) + KN_CUDA_BLOCK];
        for (int d = (int)threadIdx.x / ROW_LANES; d < w.Dk; d += ROWS * FOLD_ROWS)
            fold_rows(w, less, d);
    }
}

void kn_cuda_linattn_step(const kn_cuda_linattn *a, kn_cuda_stream stream) {
    if (a->n_segs == 0)
        return;
    step_args x;
    x.a = *a;
    x.ld_K = key_stride(a->d.Dk);
    const dim3 grid((unsigned)((a->d.Dv + COLS - 1) / COLS), (unsigned)a->d.H, (unsigned)a->n_segs);
    kn_launch(linattn_step, grid, dim3(THREADS), step_shared_bytes(a->d.Dk), (cudaStream_t)stream,
              x);
}
