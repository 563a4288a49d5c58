/* The packer over matrices: tiles are shared out over the pool. */
#include "kernels/quant_pack.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "kernels/quant_tile.h"

#define TNL_TILE_FN kn_q_tile_base
#include "kernels/quant_tile_tmpl.c"

/* All bodies give the same bytes, so no flag chooses between them. */
static kn_q_tile_fn tile_fn(void) {
#ifdef HAVE_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
        return kn_q_tile_avx512;
#endif
#ifdef HAVE_AVX2
    if (__builtin_cpu_supports("avx2"))
        return kn_q_tile_avx2;
#endif
    return kn_q_tile_base;
}

/* ---- matrices ---- */

static void run(tnl_pool *pool, int64_t items, int64_t grain, tnl_pool_fn fn, void *ctx) {
    if (pool)
        tnl_pool_run(pool, items, grain, fn, ctx);
    else if (items > 0)
        fn(ctx, 0, items, 0);
}

typedef struct pack_job {
    unsigned char *dst;
    const char *src;
    kn_dtype to, from;
    int64_t n, cols;
    kn_q_tile_fn tile;
} pack_job;

static void pack_tiles(void *ctx, int64_t begin, int64_t end, int worker) {
    const pack_job *j = ctx;
    const int64_t row_bytes = j->cols * kn_dtypes[j->from].elem_bytes;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        int64_t row = t * KN_Q_OUTS, left = j->n - row;
        j->tile(j->dst + t * kn_q_tile_bytes(j->to, j->cols), j->to, j->src + row * row_bytes,
                j->from, left < KN_Q_OUTS ? left : KN_Q_OUTS, j->cols);
    }
}

void kn_q_pack(tnl_pool *pool, void *dst, kn_dtype to, const void *src, kn_dtype from, int64_t n,
               int64_t cols) {
    assert(to >= KN_PLAIN_COUNT && from < KN_PLAIN_COUNT && cols >= 1);
    pack_job j = {
        .dst = dst, .src = src, .to = to, .from = from, .n = n, .cols = cols, .tile = tile_fn()};
    run(pool, (n + KN_Q_OUTS - 1) / KN_Q_OUTS, 1, pack_tiles, &j);
}

static void clear_f8_filling(unsigned char *row, int64_t outs, int64_t cols) {
    const int64_t stride = kn_f8_stride(cols);
    const float one = 1;
    for (int64_t o = 0; o < KN_Q_OUTS; o++, row += stride) {
        unsigned char *tail = row + kn_f8_padded(cols);
        if (o >= outs) {
            memset(row, 0, (size_t)stride);
            memcpy(tail, &one, sizeof one);
        }
        memset(row + cols, 0, (size_t)(tail - row - cols));
        memset(tail + sizeof one, 0, KN_F8_TAIL - sizeof one);
    }
}

void kn_q_clear_filling(void *tile, kn_dtype t, int64_t outs, int64_t cols) {
    if (t == KN_F8) {
        clear_f8_filling(tile, outs, cols);
        return;
    }
    unsigned char *group = tile;
    const int shift = t == KN_Q4 ? 8 : 4; /* inputs of a step of 256 bytes */
    for (int64_t at = 0; at < cols; at += KN_Q_GROUP) {
        int64_t left = cols - at, g = kn_q_padded(left < KN_Q_GROUP ? left : KN_Q_GROUP);
        unsigned char *codes = group + kn_q_group_bytes(t, g) - g / shift * 256;
        for (int64_t o = outs; o < KN_Q_OUTS; o++) {
            memset(group + 2 * o, 0, 2);
            for (int64_t r = 0; t == KN_Q4 && r < g / (2 * RUN); r++)
                group[KN_Q_SCALES + r * KN_Q_OUTS + o] = 0;
        }
        for (int64_t i = 0; i < g; i++)
            for (int64_t o = at + i < cols ? outs : 0; o < KN_Q_OUTS; o++) {
                unsigned char *c = &codes[i / shift * 256 + 4 * o + i % 4];
                *c = t == KN_Q8      ? 128
                     : i % shift < 4 ? (unsigned char)((*c & 0xF0) | 8)
                                     : (unsigned char)((*c & 15) | 0x80);
            }
        group += kn_q_group_bytes(t, g);
    }
}

/* ---- checking ---- */

typedef struct scan_job {
    const char *tiles;
    kn_dtype type;
    int64_t cols;
    _Atomic int64_t bad;
} scan_job;

/* bf16 is not finite when all exponent bits are set: the largest as integers. */
static bool tile_finite(const char *group, kn_dtype t, int64_t cols) {
    uint16_t top = 0;
    for (int64_t at = 0; at < cols; at += KN_Q_GROUP) {
        int64_t left = cols - at, g = kn_q_padded(left < KN_Q_GROUP ? left : KN_Q_GROUP);
        uint16_t d[KN_Q_OUTS];
        memcpy(d, group, sizeof d);
        for (int o = 0; o < KN_Q_OUTS; o++) {
            uint16_t e = d[o] & 0x7F80;
            top = e > top ? e : top;
        }
        group += kn_q_group_bytes(t, g);
    }
    return top != 0x7F80;
}

/* A scale that is not a number fails both comparisons. */
static bool f8_tile_finite(const char *row, int64_t cols) {
    const int64_t padded = kn_f8_padded(cols);
    uint8_t top = 0;
    bool sound = true;
    for (int o = 0; o < KN_Q_OUTS; o++, row += padded + KN_F8_TAIL) {
        const uint8_t *codes = (const uint8_t *)row;
        float d = kn_f8_scale(row, cols);
        sound &= d > 0 && d <= KN_F8_SCALE_MOST;
        for (int64_t i = 0; i < padded; i++) {
            uint8_t c = codes[i] & 0x7F;
            top = c > top ? c : top;
        }
    }
    return sound && top != 0x7F;
}

static void scan_tiles(void *ctx, int64_t begin, int64_t end, int worker) {
    scan_job *j = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        const char *tile = j->tiles + t * kn_q_tile_bytes(j->type, j->cols);
        if (j->type == KN_F8 ? f8_tile_finite(tile, j->cols) : tile_finite(tile, j->type, j->cols))
            continue;
        int64_t seen = atomic_load(&j->bad);
        while (t < seen && !atomic_compare_exchange_weak(&j->bad, &seen, t))
            ;
        return;
    }
}

bool kn_q_tiles_finite(tnl_pool *pool, const void *tiles, kn_dtype t, int64_t n_tiles, int64_t cols,
                       int64_t *bad) {
    scan_job j = {.tiles = tiles, .type = t, .cols = cols, .bad = INT64_MAX};
    run(pool, n_tiles, 4, scan_tiles, &j);
    *bad = atomic_load(&j.bad);
    return *bad == INT64_MAX;
}
