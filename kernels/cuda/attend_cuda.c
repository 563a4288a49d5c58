/* Lightning Attention of the CUDA backend: the pieces of a step, each on its way, and the plan by
 * which its slices are cut into parts. */
#include <assert.h>
#include <stdlib.h>

#include "kernels/cuda/cuda_impl.h"

/* A layer's decay tables, made when it first computes. */
static const float *decay_tables(kn_cuda *c, const kn_decay *decay, int H) {
    const float *known = kn_cuda_find_copy(&c->decays, decay->pow);
    if (known)
        return known;
    assert(decay->slopes);
    const size_t bytes = kn_cuda_decay_floats(H) * sizeof(float);
    float *tables = malloc(bytes);
    if (tables) {
        kn_cuda_decay_fill(tables, decay->slopes, H);
        known = kn_cuda_copy_once(c, &c->decays, decay->pow, tables, bytes);
        free(tables);
    }
    if (!known)
        kn_cuda_fail_memory(c, bytes);
    return known;
}

/* ---- plans ---- */

static const kn_linattn_seg *slices_of(const kn_cuda *c, const kn_cuda_round *r) {
    return c->step.segs + r->first + r->n_step;
}

/* Cut every round's slices into parts; parts NULL: count them. */
static int64_t cut_parts(kn_cuda *c, kn_cuda_step_plan *p, kn_cuda_part *parts) {
    int64_t n = 0;
    for (int64_t i = 0; i < c->step.n_rounds; i++) {
        const kn_cuda_round *r = &c->step.rounds[i];
        kn_cuda_plan *round = &p->rounds[i];
        *round = (kn_cuda_plan){0};
        kn_cuda_plan_cut(round, slices_of(c, r), r->n_slices, &p->d, c->device.processors);
        kn_cuda_plan_parts(round, parts ? parts + n : NULL, slices_of(c, r), r->n_slices);
        round->parts = (const kn_cuda_part *)p->parts.device + n;
        n += round->n_parts;
    }
    return n;
}

static bool grow_work(kn_cuda *c, const kn_cuda_step_plan *p) {
    size_t floats = 0;
    for (int64_t i = 0; i < c->step.n_rounds; i++) {
        const size_t n = kn_cuda_plan_floats(&p->rounds[i], &p->d);
        floats = n > floats ? n : floats;
    }
    void *work = c->work;
    const bool good = kn_cuda_grow(c, &work, &c->work_bytes, floats * sizeof *c->work);
    c->work = work;
    return good;
}

static bool make_plan(kn_cuda *c, kn_cuda_step_plan *p, const kn_linattn_dims *d) {
    const size_t rounds = (size_t)c->step.n_rounds * sizeof *p->rounds;
    if (p->rounds_room < c->step.n_rounds) {
        free(p->rounds);
        p->rounds = malloc(rounds);
        p->rounds_room = p->rounds ? c->step.n_rounds : 0;
    }
    if (!p->rounds) {
        kn_cuda_fail_memory(c, rounds);
        return false;
    }
    p->d = *d;
    const size_t bytes = (size_t)cut_parts(c, p, NULL) * sizeof(kn_cuda_part);
    if (!kn_cuda_grow_pair(c, &p->parts, bytes) || !grow_work(c, p))
        return false;
    cut_parts(c, p, (kn_cuda_part *)p->parts.host);
    kn_cuda_upload(c, &p->parts, bytes);
    return true;
}

/* The step's plan for these dimensions; NULL after a failure. Where a model has layers of more
 * shapes than there are plans, the last plan serves the others in turn. */
static kn_cuda_step_plan *plan_for(kn_cuda *c, const kn_linattn_dims *d) {
    int i = 0;
    for (; i < KN_CUDA_PLANS && c->plans[i].d.H > 0; i++) {
        const kn_linattn_dims *have = &c->plans[i].d;
        if (have->H == d->H && have->Dk == d->Dk && have->Dv == d->Dv)
            return &c->plans[i];
    }
    if (i == KN_CUDA_PLANS) {
        kn_cuda_wait(c); /* launches read the parts that are written next */
        i--;
    }
    return make_plan(c, &c->plans[i], d) ? &c->plans[i] : NULL;
}

void kn_cuda_drop_plans(kn_cuda *c) {
    for (int i = 0; i < KN_CUDA_PLANS; i++)
        c->plans[i].d.H = 0;
}

void kn_cuda_free_plans(kn_cuda *c) {
    for (int i = 0; i < KN_CUDA_PLANS; i++) {
        kn_cuda_free_pair(c, &c->plans[i].parts);
        free(c->plans[i].rounds);
    }
    kn_cuda_device_free(&c->device, c->work);
}

/* ---- the operation ---- */

static void attend_slices(kn_cuda *c, kn_cuda_linattn *a, int64_t round) {
    const kn_cuda_round *r = &c->step.rounds[round];
    kn_cuda_step_plan *p = r->n_slices > 0 ? plan_for(c, &a->d) : NULL;
    if (!p)
        return;
    a->segs = c->segs + r->first + r->n_step;
    a->n_segs = r->n_slices;
    p->rounds[round].work = c->work;
    kn_cuda_linattn_prefill(a, &p->rounds[round], c->device.shared_bytes, c->device.stream);
}

/* The step itself was cut when it began. */
void kn_cuda_attend(kn_backend *be, float *o, int64_t ldo, const float *q, int64_t ldq,
                    const float *k, int64_t ldk, const float *v, int64_t ldv, const kn_decay *decay,
                    const kn_linattn_dims *d, const kn_step *step, size_t state_offset) {
    kn_cuda *c = kn_cuda_of(be);
    (void)step;
    if (kn_cuda_has_failed(c))
        return;
    assert(d->Dk <= KN_CUDA_MOST_DK && d->Dv <= KN_CUDA_MOST_DV);
    const float *tables = decay_tables(c, decay, d->H);
    if (!tables)
        return;
    kn_cuda_linattn a = {.dtype = KN_F32,
                         .o = o,
                         .q = q,
                         .k = k,
                         .v = v,
                         .ldo = ldo,
                         .ldq = ldq,
                         .ldk = ldk,
                         .ldv = ldv,
                         .d = *d,
                         .decay = kn_cuda_decay_at(tables, d->H),
                         .state_offset = (int64_t)state_offset};
    for (int64_t i = 0; i < c->step.n_rounds && !kn_cuda_has_failed(c); i++) {
        const kn_cuda_round *r = &c->step.rounds[i];
        a.segs = c->segs + r->first;
        a.n_segs = r->n_step;
        a.settled = i == 0; /* a step begins with a copy or as a graph */
        kn_cuda_linattn_step(&a, c->device.stream);
        attend_slices(c, &a, i);
    }
}
