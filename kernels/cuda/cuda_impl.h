/* The CUDA backend from the inside: what its files share. One thread at a time, like the backend.
 */
#ifndef TNL_CUDA_IMPL_H
#define TNL_CUDA_IMPL_H

#include "kernels/base/threads.h"
#include "kernels/cuda/runtime_cuda.h"
#include "kernels/cuda/step_cuda.h"
#include "kernels/kernels.h"

enum {
    KN_CUDA_GRAPHS = 128, /* kept; the oldest goes first */
    KN_CUDA_PLANS = 4,    /* shapes of attention layers in a model */
};

/* A copy on the device, by the host's address: weights, or the decay tables of a layer. */
typedef struct kn_cuda_copy {
    const void *of;
    void *copy;
} kn_cuda_copy;

typedef struct kn_cuda_copies {
    kn_cuda_copy *v;
    size_t n, room;
} kn_cuda_copies;

/* Memory of the host, and as much of the device that it is copied to. */
typedef struct kn_cuda_pair {
    unsigned char *host, *device;
    size_t bytes;
} kn_cuda_pair;

/* How the slices of the step under way are cut into parts, for attention of these dimensions. */
typedef struct kn_cuda_step_plan {
    kn_linattn_dims d;    /* H 0: not made for this step */
    kn_cuda_plan *rounds; /* [n_rounds] */
    int64_t rounds_room;
    kn_cuda_pair parts;
} kn_cuda_step_plan;

/* Steps of one shape. */
typedef struct kn_cuda_recording {
    const void *owner; /* NULL: free */
    int64_t n, n_wanted;
    bool refused; /* the device does not record it */
    kn_cuda_graph graph;
} kn_cuda_recording;

typedef struct kn_cuda {
    kn_backend base; /* first: kn_backend pointers of this backend are kn_cuda pointers */
    kn_cuda_device device;
    char isa[32];
    tnl_pool *pool;
    kn_cuda_copies weights, decays;
    kn_cuda_prompts *prompts;
    tnl_error failure; /* the first one since the last check; code TNL_OK: none */
    /* the step under way */
    kn_cuda_step step;
    kn_cuda_pair inputs;
    const kn_linattn_seg *segs; /* step.segs on the device */
    kn_cuda_step_plan plans[KN_CUDA_PLANS];
    float *work; /* of the plans, on the device */
    size_t work_bytes;
    /* what was recorded */
    kn_cuda_recording recordings[KN_CUDA_GRAPHS];
    int oldest;
    kn_cuda_recording *recording; /* under way */
    /* idleness, in seconds */
    bool step_ended;         /* and not waited for yet */
    double idle, idle_since; /* idle_since 0: a step is under way, or none was */
} kn_cuda;

static inline kn_cuda *kn_cuda_of(kn_backend *be) {
    return (kn_cuda *)be;
}

static inline bool kn_cuda_has_failed(const kn_cuda *c) {
    return c->failure.code != TNL_OK;
}

/* ---- memory_cuda.c ---- */

void kn_cuda_wait(kn_cuda *c);
/* The device has something to do again: ends the idleness that began with the wait after a step. */
void kn_cuda_busy(kn_cuda *c);
/* The failure of an allocation. */
void kn_cuda_fail_memory(kn_cuda *c, size_t bytes);

/* The copy of `bytes` at `from` that is known by `of`, made once. NULL: no memory. */
void *kn_cuda_copy_once(kn_cuda *c, kn_cuda_copies *l, const void *of, const void *from,
                        size_t bytes);
void *kn_cuda_find_copy(const kn_cuda_copies *l, const void *of);
void kn_cuda_free_copies(kn_cuda *c, kn_cuda_copies *l);

/* At least `bytes`; what was there is lost. Waits if it has to allocate. False after a failure. */
bool kn_cuda_grow(kn_cuda *c, void **p, size_t *have, size_t bytes);
bool kn_cuda_grow_pair(kn_cuda *c, kn_cuda_pair *p, size_t bytes);
void kn_cuda_upload(kn_cuda *c, const kn_cuda_pair *p, size_t bytes);
void kn_cuda_free_pair(kn_cuda *c, kn_cuda_pair *p);

/* ---- record_cuda.c ---- */

bool kn_cuda_begin(kn_backend *be, kn_step *step);
bool kn_cuda_end(kn_backend *be);
/* Recordings of this owner; NULL: all. */
void kn_cuda_forget(kn_cuda *c, const void *owner);

/* ---- attend_cuda.c ---- */

void kn_cuda_attend(kn_backend *be, float *o, int64_t ldo, const float *q, int64_t ldq,
                    const float *k, int64_t ldk, const float *v, int64_t ldv, const kn_decay *decay,
                    const kn_linattn_dims *d, const kn_step *step, size_t state_offset);
/* The plans of the step before are no longer right. */
void kn_cuda_drop_plans(kn_cuda *c);
void kn_cuda_free_plans(kn_cuda *c);

#endif
