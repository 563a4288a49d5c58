/* Lightning Attention on a CUDA device, over the canonical state of kernels.h. All pointers are
 * device memory; nothing here allocates, waits for the device or fails: a launch that the device
 * refuses shows as its sticky error.
 *
 * Two ways: `step` for decodes and guesses (a segment stays within one block of the state), f32
 * arithmetic in one order whatever the batch; `prefill` for prompts of any length on tensor cores,
 * q, k, v in bf16, sums and state in f32. Their outputs agree to bf16 rounding, not in bits: what
 * goes through which is a function of a segment alone.
 *
 * Letters as in kernels.h. */
#ifndef TNL_CUDA_LINATTN_H
#define TNL_CUDA_LINATTN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/kernels.h"

enum {
    KN_CUDA_BLOCK = 32,   /* B: see kernels/cpu/cpu_ops.h; a decode reads B/2 pending rows */
    KN_CUDA_POWERS = 128, /* decays are tabled for up to so many tokens: the largest chunk */
    KN_CUDA_MOST_DK = 256,
    KN_CUDA_MOST_DV = 128,
};

/* A CUDA stream; NULL: the default stream. */
typedef void *kn_cuda_stream;

/* Decay tables of one layer in device memory, made by kn_cuda_decay_fill. */
typedef struct kn_cuda_decay {
    const float *pow;  /* [H][KN_CUDA_POWERS+1] exp(-s n) */
    const float *less; /* [H][KN_CUDA_POWERS+1] expm1(-s n) */
} kn_cuda_decay;

/* Floats of the two tables of H heads, one after the other in the order of kn_cuda_decay. */
size_t kn_cuda_decay_floats(int H);
/* Fill them (host memory) from slopes s [H]. */
void kn_cuda_decay_fill(float *tables, const double *s, int H);
/* The struct for tables that lie at p. */
kn_cuda_decay kn_cuda_decay_at(const float *p, int H);

/* One layer's attention over ragged segments. */
typedef struct kn_cuda_linattn {
    kn_dtype dtype;    /* of q, k, v and o: KN_F32 or KN_BF16 */
    void *o;           /* [N][H][Dv] */
    const void *q, *k; /* [N][H][Dk] */
    const void *v;     /* [N][H][Dv] */
    int64_t ldo, ldq, ldk, ldv;
    kn_linattn_dims d;
    kn_cuda_decay decay;
    const kn_linattn_seg *segs; /* [n_segs], in device memory */
    int64_t n_segs;
    int64_t state_offset; /* floats from a segment's `state` to this layer's, a multiple of 16 */
    /* For step: nobody has written these states since the stream's last copy or the begin of its
     * last graph (so no prefill of the same layer before), and they may be read while the launch in
     * front of this one still runs. false is always right. */
    bool settled;
} kn_cuda_linattn;

/* Segments with pos % B + len <= B. One launch; reads S, writes it when the block is full. */
void kn_cuda_linattn_step(const kn_cuda_linattn *a, kn_cuda_stream stream);

/* How segments are cut into parts that are computed beside one another, so that few heads fill a
 * device. A part is part_tokens long, counted from the block boundary before pos; the last one is
 * what is left.
 *
 * Parts change no bit. Tokens are taken in chunks of 32 or 64 (which depends on Dk and on
 * shared_bytes alone), and the state after a chunk is the fold of the state before it and the sum
 * of that chunk: a chain, whoever walks it. So a run of tokens that begins at a multiple of
 * KN_CUDA_POWERS may also be cut into segments at such multiples and handed over in as many calls
 * as one likes, in order: outputs and states are the same bits, beside whatever other segments. A
 * step that is too large for something is computed in several calls. */
typedef struct kn_cuda_part {
    int32_t seg, index; /* of the segment, within the segment */
    int32_t of;         /* parts of the segment */
    int32_t slot;       /* of the part's S in the working memory; -1: the only part needs none */
} kn_cuda_part;

typedef struct kn_cuda_plan {
    int64_t part_tokens;       /* a multiple of KN_CUDA_POWERS; 0: one part whatever the length */
    const kn_cuda_part *parts; /* [n_parts] in device memory */
    int64_t n_parts, n_slots;
    int64_t n_tails; /* segments that end within a block and so leave pending rows */
    float *work;     /* [n_slots][H][Dk][Dv] in device memory */
} kn_cuda_plan;

/* Choose plan->part_tokens for these segments (host memory): the shortest with which all parts run
 * at once on a device of so many multiprocessors. A plan serves all layers of a step, whose heads
 * may differ in Dk: d and plan.work are those of the largest. */
void kn_cuda_plan_cut(kn_cuda_plan *plan, const kn_linattn_seg *segs, int64_t n_segs,
                      const kn_linattn_dims *d, int processors);
/* Floats of plan->work that are enough for every plan so cut: 17 MB for 128 x 128 on an H100. */
size_t kn_cuda_plan_most_floats(const kn_linattn_dims *d, int processors);
/* And how many parts it has at most. */
int64_t kn_cuda_plan_most_parts(const kn_linattn_dims *d, int processors, int64_t n_segs);

/* Parts of these segments (host memory) for plan->part_tokens; parts NULL: count only. Writes
 * n_parts, n_slots and n_tails. A segment has less than 2^30 tokens. */
void kn_cuda_plan_parts(kn_cuda_plan *plan, kn_cuda_part *parts, const kn_linattn_seg *segs,
                        int64_t n_segs);
/* Floats of plan->work for n_slots. */
size_t kn_cuda_plan_floats(const kn_cuda_plan *plan, const kn_linattn_dims *d);

/* Segments of any length, in up to three launches: the state at each part's begin, where a segment
 * has several (`carry`); the outputs and the state after (`walk`); the pending rows (`append`).
 * Dk <= KN_CUDA_MOST_DK, Dv <= KN_CUDA_MOST_DV. shared_bytes: what a block of the device may have
 * (99 KiB suffice for every size). f32 rows are rounded to bf16 on their way in; they travel 16
 * bytes at a time where dimensions are multiples of 8 and rows are aligned to 16 bytes. */
void kn_cuda_linattn_prefill(const kn_cuda_linattn *a, const kn_cuda_plan *plan,
                             size_t shared_bytes, kn_cuda_stream stream);

#ifdef __cplusplus
}
#endif

#endif
