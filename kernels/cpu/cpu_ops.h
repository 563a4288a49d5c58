/* The CPU backend from the inside: what the operation files share. */
#ifndef TNL_KERNELS_CPU_OPS_H
#define TNL_KERNELS_CPU_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/threads.h"
#include "kernels/cpu/dsp.h"
#include "kernels/kernels.h"

/* Block length of the canonical state, see kernels.h. Measured 16, 32, 64, 128 (16 heads of 128,
 * AVX-512, one thread): a decode step over 64 sequences costs 45, 50, 65, 100 us a row, a prompt
 * 6.5, 6.6, 7.0, 8.8 us a row, and the state takes 1.25, 1.5, 2, 3 times S. The drift of the
 * slowest head after a million tokens is 3.6e-6, 2.6e-6, 1.7e-6, 1.4e-6. */
#define KN_CPU_BLOCK 32

/* Elements of one step of an elementwise operation that are worth a second thread. */
#define KN_CPU_GRAIN 8192

/* Rows of one tile of outputs when many rows pass over the weights. */
#ifndef KN_CPU_TILE_ROWS
#define KN_CPU_TILE_ROWS 72
#endif

/* Floats of scratch per thread: two tiles of outputs (linear); or the scores of a block and a tile
 * of the fold (linattn). */
#define KN_CPU_SCRATCH (2 * KN_CPU_TILE_ROWS * KN_Q_OUTS)

typedef struct kn_cpu {
    kn_backend base; /* first: kn_backend pointers of this backend are kn_cpu pointers */
    kn_dsp dsp;
    tnl_pool *pool;
    int64_t panel_bytes; /* of weights that stay in the second-level cache */
    int64_t x_block;     /* inputs of a row that stay in the first-level cache, at most */
    float *scratch;      /* [threads][KN_CPU_SCRATCH], 64-byte aligned */
} kn_cpu;

static inline kn_cpu *kn_cpu_of(kn_backend *be) {
    return (kn_cpu *)be;
}

static inline float *kn_cpu_scratch(const kn_cpu *c, int worker) {
    return c->scratch + (size_t)worker * KN_CPU_SCRATCH;
}

/* Rows of `dim` elements that make one chunk of an elementwise operation. */
static inline int64_t kn_cpu_row_grain(int64_t dim) {
    return dim >= KN_CPU_GRAIN ? 1 : KN_CPU_GRAIN / dim;
}

/* The slots, one file per family. */
void kn_cpu_embed(kn_backend *be, float *x, int64_t ldx, const kn_tensor *table, const int32_t *ids,
                  int64_t n, float scale);
void kn_cpu_linear(kn_backend *be, const kn_linear *p);
void kn_cpu_lrpe(kn_backend *be, float *y, int64_t ldy, const float *x, int64_t ldx,
                 const float *theta, const int64_t *pos, int64_t n, int H, int dh);
void kn_cpu_linattn(kn_backend *be, float *o, int64_t ldo, const float *q, int64_t ldq,
                    const float *k, int64_t ldk, const float *v, int64_t ldv, const kn_decay *decay,
                    const kn_linattn_dims *d, const kn_step *step, size_t state_offset);
void kn_cpu_gather_rows(kn_backend *be, float *y, int64_t ldy, const float *x, int64_t ldx,
                        const int64_t *rows, int64_t n, int64_t dim);
/* Not a slot: what linear does with KN_ACT_EXP. In place on columns [0, dim) of x. */
void kn_cpu_act_exp(kn_cpu *c, float *x, int64_t ldx, int64_t n, int64_t dim, int64_t group);
void kn_cpu_finite_rows(kn_backend *be, bool *ok, const float *x, int64_t ldx, int64_t n,
                        int64_t dim);

#endif
