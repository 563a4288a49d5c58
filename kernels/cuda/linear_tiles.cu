/* Products of many rows with bf16 weights. A block owns 128 outputs of 128 rows, a warp 32 of 64.
 * Weights and rows come to shared memory by asynchronous copies, 64 inputs a stage. A lane reads
 * there what it would read in linear_few.cu from memory, groups begin at zero and are added up
 * ascending: the same sums as of few rows. */
#include "kernels/cuda/linear_tile.cuh"

enum {
    TILE_INPUTS = 64,
    TILE_BYTES = KN_TILE * TILE_INPUTS * 2,
    STAGES = 3,
};

/* 16-byte pieces of a row in an order that keeps the reads of eight lanes on different banks: those
 * of weights are of rows 4g + i, those of inputs of rows g. */
KN_DEVICE unsigned char *tile_piece(unsigned char *tile, int row, int piece, bool weights) {
    const int turn = weights ? row & 7 : (row & 1) * 4 + (row >> 1 & 3);
    return tile + row * TILE_INPUTS * 2 + (piece ^ turn) * 16;
}

KN_DEVICE void fetch_tile(unsigned char *tile, const uint16_t *from, int64_t ld, int64_t first,
                          int64_t rows, int64_t at, bool weights) {
    for (int i = (int)threadIdx.x; i < KN_TILE * 8; i += PRODUCT_THREADS) {
        const int row = i / 8, piece = i % 8;
        const int64_t k = at + piece * 8, r = first + row < rows ? first + row : rows - 1;
        uint32_t *to = (uint32_t *)tile_piece(tile, row, piece, weights);
        if (k < ld)
            kn_copy_async(to, from + r * ld + k);
        else
            to[0] = to[1] = to[2] = to[3] = 0;
    }
}

KN_DEVICE void fetch_stage(unsigned char *shared, const kn_linear_args &x, int64_t stage,
                           int64_t out, int64_t row) {
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
            kn_load_16(a[i], tile_piece(W, out + 4 * g + i, step * 4 + t, true));
        KN_UNROLL
        for (int n = 0; n < KN_TILE_ROWS; n++) {
            kn_load_16(b, tile_piece(X, row + n * 8 + g, step * 4 + t, false));
            kn_multiply_32(low[n], high[n], a, b);
        }
    }
}

/* y += sum, which begins again. */
KN_DEVICE void close_group(float y[][8], float low[][4], float high[][4]) {
    KN_UNROLL
    for (int n = 0; n < KN_TILE_ROWS; n++)
        KN_UNROLL
    for (int e = 0; e < 4; e++) {
        y[n][e] += low[n][e];
        y[n][4 + e] += high[n][e];
        low[n][e] = high[n][e] = 0;
    }
}

static __global__ void __launch_bounds__(PRODUCT_THREADS) tile_products(kn_linear_args x) {
    KN_SHARED(shared);
    kn_depend();
    const int64_t out = (int64_t)blockIdx.x * KN_TILE, row = (int64_t)blockIdx.y * KN_TILE;
    float low[KN_TILE_ROWS][4] = {}, high[KN_TILE_ROWS][4] = {}, y[KN_TILE_ROWS][8] = {};
    for (int stage = 0; stage < STAGES - 1; stage++)
        fetch_stage(shared, x, stage, out, row);
    for (int64_t stage = 0; stage * TILE_INPUTS < x.w.cols; stage++) {
        kn_copy_wait<STAGES - 2>();
        kn_sync_block(); /* this stage has come, the one before is done with */
        fetch_stage(shared, x, stage + STAGES - 1, out, row);
        unsigned char *at = shared + stage % STAGES * 2 * TILE_BYTES;
        multiply_stage(low, high, at, at + TILE_BYTES);
        if (stage % 2 == 1 || (stage + 1) * TILE_INPUTS >= x.w.cols)
            close_group(y, low, high);
    }
    kn_finish_tile(x, (float *)shared, y, out, row);
}

bool kn_linear_fits_tiles(const kn_linear_args &x) {
    return !x.plain && x.w.dtype != KN_F8 && x.p.n > 64 && (!x.two || x.p.epi == KN_STORE);
}

static void launch_tiles(const kn_linear_args &x, cudaStream_t stream) {
    if (x.packed) {
        kn_linear_tile_codes(x, stream);
        return;
    }
    kn_launch(tile_products, dim3(kn_ceil_div(x.w.rows, KN_TILE), kn_ceil_div(x.p.n, KN_TILE)),
              dim3(PRODUCT_THREADS), (size_t)STAGES * 2 * TILE_BYTES, stream, x);
}

/* Of two matrices the second is multiplied with what the first has left. */
void kn_linear_tiles(const kn_linear_args &x, cudaStream_t stream) {
    kn_linear_args one = x;
    one.two = false;
    launch_tiles(one, stream);
    if (!x.two)
        return;
    one.w = x.w2;
    one.p.bias = x.p.bias2;
    one.p.act = KN_ACT_NONE;
    one.times = true;
    launch_tiles(one, stream);
}
