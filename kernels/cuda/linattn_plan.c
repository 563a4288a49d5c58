/* Lightning Attention on a device, the host's share: decay tables and the cut into parts. */
#include <assert.h>
#include <math.h>

#include "kernels/cuda/linattn_cuda.h"

enum { TABLE = KN_CUDA_POWERS + 1 };

size_t kn_cuda_decay_floats(int H) {
    return (size_t)H * 2 * TABLE;
}

kn_cuda_decay kn_cuda_decay_at(const float *p, int H) {
    return (kn_cuda_decay){p, p + (size_t)H * TABLE};
}

void kn_cuda_decay_fill(float *tables, const double *s, int H) {
    float *pow = tables, *less = pow + (size_t)H * TABLE;
    for (int h = 0; h < H; h++)
        for (int n = 0; n < TABLE; n++) {
            pow[h * TABLE + n] = (float)exp(-s[h] * n);
            less[h * TABLE + n] = (float)expm1(-s[h] * n);
        }
}

/* ---- parts ---- */

/* Tokens from the block boundary before the segment. */
static int64_t tokens_of(const kn_linattn_seg *seg) {
    return seg->len == 0 ? 0 : seg->pos % KN_CUDA_BLOCK + seg->len;
}

static int64_t parts_of(const kn_linattn_seg *seg, int64_t part_tokens) {
    const int64_t all = tokens_of(seg);
    return part_tokens == 0 ? all > 0 : (all + part_tokens - 1) / part_tokens;
}

static int64_t count_parts(const kn_linattn_seg *segs, int64_t n_segs, int64_t part_tokens) {
    int64_t n = 0;
    for (int64_t s = 0; s < n_segs; s++)
        n += parts_of(&segs[s], part_tokens);
    return n;
}

/* Parts, each of all heads, that a device computes at once: a multiprocessor holds eight warps,
 * one for 16 columns of values. */
static int64_t parts_at_once(const kn_linattn_dims *d, int processors) {
    const int64_t blocks = (int64_t)processors * (d->Dv <= 64 ? 2 : 1);
    return blocks > d->H ? blocks / d->H : 1;
}

void kn_cuda_plan_cut(kn_cuda_plan *plan, const kn_linattn_seg *segs, int64_t n_segs,
                      const kn_linattn_dims *d, int processors) {
    const int64_t most = parts_at_once(d, processors), least = count_parts(segs, n_segs, 0);
    int64_t low = 1, high = 1; /* in units of KN_CUDA_POWERS */
    plan->part_tokens = 0;
    if (least >= most)
        return;
    for (int64_t s = 0; s < n_segs; s++) {
        const int64_t units = (tokens_of(&segs[s]) + KN_CUDA_POWERS - 1) / KN_CUDA_POWERS;
        high = units > high ? units : high;
    }
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (count_parts(segs, n_segs, middle * KN_CUDA_POWERS) <= most)
            high = middle;
        else
            low = middle + 1;
    }
    if (count_parts(segs, n_segs, low * KN_CUDA_POWERS) > least)
        plan->part_tokens = low * KN_CUDA_POWERS;
}

int64_t kn_cuda_plan_most_parts(const kn_linattn_dims *d, int processors, int64_t n_segs) {
    const int64_t at_once = parts_at_once(d, processors);
    return n_segs > at_once ? n_segs : at_once;
}

size_t kn_cuda_plan_most_floats(const kn_linattn_dims *d, int processors) {
    const kn_cuda_plan plan = {.n_slots = parts_at_once(d, processors)};
    return kn_cuda_plan_floats(&plan, d);
}

size_t kn_cuda_plan_floats(const kn_cuda_plan *plan, const kn_linattn_dims *d) {
    return (size_t)plan->n_slots * (size_t)d->H * (size_t)d->Dk * (size_t)d->Dv;
}

void kn_cuda_plan_parts(kn_cuda_plan *plan, kn_cuda_part *parts, const kn_linattn_seg *segs,
                        int64_t n_segs) {
    assert(plan->part_tokens % KN_CUDA_POWERS == 0);
    plan->n_parts = plan->n_slots = plan->n_tails = 0;
    for (int64_t s = 0; s < n_segs; s++) {
        const int64_t all = tokens_of(&segs[s]), of = parts_of(&segs[s], plan->part_tokens);
        assert(all < INT32_MAX / 2);
        for (int64_t i = 0; parts && i < of; i++)
            parts[plan->n_parts + i] = (kn_cuda_part){
                .seg = (int32_t)s,
                .index = (int32_t)i,
                .of = (int32_t)of,
                .slot = of > 1 ? (int32_t)(plan->n_slots + i) : -1,
            };
        plan->n_parts += of;
        plan->n_slots += of > 1 ? of : 0;
        plan->n_tails += all % KN_CUDA_BLOCK != 0;
    }
}
