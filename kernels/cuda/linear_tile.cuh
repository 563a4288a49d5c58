/* What the products of many rows share: a block's tile of 128 outputs and 128 rows, of which a warp
 * has 32 outputs and 64 rows, and how it is finished. */
#ifndef TNL_CUDA_LINEAR_TILE_CUH
#define TNL_CUDA_LINEAR_TILE_CUH

#include "kernels/cuda/linear_common.cuh"

enum {
    KN_TILE = 128,    /* outputs, rows */
    KN_TILE_ROWS = 8, /* of a warp, in eights */
    KN_TILE_LD = KN_TILE + 4,
    KN_TILE_FINISH_BYTES = KN_TILE / 2 * KN_TILE_LD * 4,
};

/* y[n][e]: of eight rows n rows 2t + e % 2 of output 4g + e / 2. Through shared memory,
 * KN_TILE_FINISH_BYTES, half of the rows at a time, so that outputs beside one another are
 * written together. */
KN_DEVICE void kn_finish_tile(const kn_linear_args &x, float *shared,
                              const float y[KN_TILE_ROWS][8], int64_t out0, int64_t row0) {
    const int warp = (int)threadIdx.x / 32, g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    for (int half = 0; half < 2; half++) {
        kn_sync_block(); /* what was there is done with */
        if (warp / 4 == half) {
            KN_UNROLL
            for (int n = 0; n < KN_TILE_ROWS; n++) {
                float *to = shared + (n * 8 + 2 * t) * KN_TILE_LD + warp % 4 * 32 + 4 * g;
                KN_UNROLL
                for (int e = 0; e < 8; e++)
                    to[e % 2 * KN_TILE_LD + e / 2] = y[n][e];
            }
        }
        kn_sync_block();
        for (int i = (int)threadIdx.x; i < KN_TILE / 2 * KN_TILE; i += PRODUCT_THREADS) {
            const int64_t row = row0 + half * (KN_TILE / 2) + i / KN_TILE, out = out0 + i % KN_TILE;
            if (row < x.p.n && out < x.w.rows)
                kn_linear_finish(x, shared[i / KN_TILE * KN_TILE_LD + i % KN_TILE], 0, out, row);
        }
    }
}

#endif
