/* Lightning Attention on a device, the host's share: decay tables and the cut into parts. */
#include <assert.h>
#include <math.h>

#include "kernels/cuda/linattn_cuda.h"

enum { TABLE = KN_CUDA_POWERS + 1 };

size_t kn_cuda_decay_floats(int H) {
    return (size_t)H * (2 * TABLE + 2);
}

kn_cuda_decay kn_cuda_decay_at(const float *p, int H) {
    const size_t n = (size_t)H * TABLE;
    return (kn_cuda_decay){p, p + n, p + 2 * n};
}

void kn_cuda_decay_fill(float *tables, const double *s, int H, int64_t part_tokens) {
    float *pow = tables, *less = pow + (size_t)H * TABLE, *part = less + (size_t)H * TABLE;
    for (int h = 0; h < H; h++) {
        for (int n = 0; n < TABLE; n++) {
            pow[h * TABLE + n] = (float)exp(-s[h] * n);
            less[h * TABLE + n] = (float)expm1(-s[h] * n);
        }
        part[2 * h] = (float)exp(-s[h] * (double)part_tokens);
        part[2 * h + 1] = (float)expm1(-s[h] * (double)part_tokens);
    }
}

static int64_t parts_of(const kn_linattn_seg *seg, int64_t part_tokens) {
    const int64_t all = seg->pos % KN_CUDA_BLOCK + seg->len;
    if (seg->len == 0)
        return 0;
    return part_tokens == 0 ? 1 : (all + part_tokens - 1) / part_tokens;
}

void kn_cuda_plan_parts(kn_cuda_plan *plan, kn_cuda_part *parts, const kn_linattn_seg *segs,
                        int64_t n_segs) {
    assert(plan->part_tokens % KN_CUDA_POWERS == 0);
    plan->n_parts = plan->n_slots = 0;
    for (int64_t s = 0; s < n_segs; s++) {
        const int64_t of = parts_of(&segs[s], plan->part_tokens);
        for (int64_t i = 0; parts && i < of; i++)
            parts[plan->n_parts + i] = (kn_cuda_part){
                .seg = (int32_t)s,
                .index = (int32_t)i,
                .of = (int32_t)of,
                .slot = of > 1 ? (int32_t)(plan->n_slots + i) : -1,
            };
        plan->n_parts += of;
        plan->n_slots += of > 1 ? of : 0;
    }
}
