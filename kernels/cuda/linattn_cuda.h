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
    const float *part; /* [H][2] exp(-s n) and expm1(-s n) of a part of n tokens */
} kn_cuda_decay;

/* Floats of the three tables of H heads, one after the other in the order of kn_cuda_decay. */
size_t kn_cuda_decay_floats(int H);
/* Fill them (host memory) from slopes s [H]. */
void kn_cuda_decay_fill(float *tables, const double *s, int H, int64_t part_tokens);
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
} kn_cuda_linattn;

/* Segments with pos % B + len <= B. One launch; reads S, writes it when the block is full. */
void kn_cuda_linattn_step(const kn_cuda_linattn *a, kn_cuda_stream stream);

/* How segments are cut into parts that are computed beside one another. A part is part_tokens long,
 * counted from the block boundary before pos; the last one is what is left. The sums of a segment
 * depend on its own pos, len and part_tokens alone. */
typedef struct kn_cuda_part {
    int32_t seg, index; /* of the segment, within the segment */
    int32_t of;         /* parts of the segment */
    int32_t slot;       /* of the part's S in the working memory; -1: the only part needs none */
} kn_cuda_part;

typedef struct kn_cuda_plan {
    int64_t part_tokens;       /* a multiple of KN_CUDA_POWERS; 0: one part whatever the length */
    const kn_cuda_part *parts; /* [n_parts] in device memory */
    int64_t n_parts, n_slots;
    float *work; /* [n_slots][H][Dk][Dv] in device memory */
} kn_cuda_plan;

/* Parts of these segments (host memory); parts NULL: count only. Writes n_parts and n_slots. */
void kn_cuda_plan_parts(kn_cuda_plan *plan, kn_cuda_part *parts, const kn_linattn_seg *segs,
                        int64_t n_segs);

/* Segments of any length, in up to four launches: the sums of all parts but the last (parts
 * beside one another), the state at each part's begin (scan), the outputs, the pending rows.
 * Dk <= KN_CUDA_MOST_DK, Dv <= KN_CUDA_MOST_DV. shared_bytes: what a block of the device may have
 * (99 KiB suffice for every size). */
void kn_cuda_linattn_prefill(const kn_cuda_linattn *a, const kn_cuda_plan *plan,
                             size_t shared_bytes, kn_cuda_stream stream);

#ifdef __cplusplus
}
#endif

#endif
