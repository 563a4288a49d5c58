/* The begin and the end of a step, and steps that are recorded.
 *
 * A step begins with one copy of all that its launches read besides weights and activations. If
 * every segment is one token, it is recorded the second time it comes, as a graph for its number of
 * rows, and launched as one from then on: what differs from step to step lies in memory that the
 * graph reads. In the first one everything that needs memory gets it. */
#include <string.h>

#include "kernels/cuda/cuda_impl.h"

/* ---- recordings ---- */

static void forget(kn_cuda *c, kn_cuda_recording *r) {
    kn_cuda_graph_free(&c->device, r->graph);
    *r = (kn_cuda_recording){0};
}

void kn_cuda_forget(kn_cuda *c, const void *owner) {
    for (int i = 0; i < KN_CUDA_GRAPHS; i++)
        if (c->recordings[i].owner && (!owner || c->recordings[i].owner == owner))
            forget(c, &c->recordings[i]);
}

/* NULL: a step like this one has not come before, but is known from now on. */
static kn_cuda_recording *find_recording(kn_cuda *c, const kn_step *step) {
    for (int i = 0; i < KN_CUDA_GRAPHS; i++) {
        kn_cuda_recording *r = &c->recordings[i];
        if (r->owner == step->owner && r->n == step->n && r->n_wanted == step->n_wanted)
            return r;
    }
    kn_cuda_recording *r = &c->recordings[c->oldest];
    c->oldest = (c->oldest + 1) % KN_CUDA_GRAPHS;
    forget(c, r);
    *r = (kn_cuda_recording){.owner = step->owner, .n = step->n, .n_wanted = step->n_wanted};
    return NULL;
}

/* True: the step has been launched. */
static bool replay(kn_cuda *c, const kn_step *step) {
    if (kn_cuda_has_failed(c) || !step->owner || !c->step.decode)
        return false;
    kn_cuda_recording *r = find_recording(c, step);
    if (r && r->graph) {
        kn_cuda_graph_launch(&c->device, r->graph);
        return true;
    }
    if (r && !r->refused) {
        r->refused = !kn_cuda_record(&c->device);
        c->recording = r->refused ? NULL : r;
    }
    return false;
}

/* ---- inputs ---- */

/* Append n elements of `size` bytes, 64-byte aligned; returns where they will be on the device. */
static const void *append(kn_cuda_pair *p, size_t *used, const void *from, int64_t n, size_t size) {
    const void *there = p->device + *used;
    if (n > 0)
        memcpy(p->host + *used, from, (size_t)n * size);
    *used += ((size_t)n * size + 63) / 64 * 64;
    return there;
}

/* In an order and at places that the numbers of rows and pieces settle. */
static void upload_inputs(kn_cuda *c, kn_step *step) {
    const size_t row = sizeof *step->ids + sizeof *step->pos;
    const size_t wanted = sizeof *step->wanted + sizeof *step->how;
    const size_t bytes = (size_t)step->n * row + (size_t)step->n_wanted * wanted +
                         (size_t)c->step.n_segs * sizeof *c->segs + (size_t)5 * 64;
    kn_cuda_pair *p = &c->inputs;
    size_t used = 0;
    if (p->bytes < bytes)
        kn_cuda_forget(c, NULL); /* recorded launches know where the memory is that gives way */
    if (!kn_cuda_grow_pair(c, p, bytes))
        return;
    step->ids = append(p, &used, step->ids, step->n, sizeof *step->ids);
    step->pos = append(p, &used, step->pos, step->n, sizeof *step->pos);
    step->wanted = append(p, &used, step->wanted, step->n_wanted, sizeof *step->wanted);
    step->how = step->how ? append(p, &used, step->how, step->n_wanted, sizeof *step->how) : NULL;
    c->segs = append(p, &used, c->step.segs, c->step.n_segs, sizeof *c->segs);
    kn_cuda_upload(c, p, used);
}

/* ---- the step ---- */

bool kn_cuda_begin(kn_backend *be, kn_step *step) {
    kn_cuda *c = kn_cuda_of(be);
    kn_cuda_drop_plans(c);
    if (!kn_cuda_has_failed(c) && !kn_cuda_cut_step(&c->step, step))
        kn_cuda_fail_memory(c, (size_t)step->n_segs * sizeof *step->segs);
    if (!kn_cuda_has_failed(c))
        upload_inputs(c, step);
    const bool launched = replay(c, step);
    kn_cuda_busy(c);
    return !launched;
}

bool kn_cuda_end(kn_backend *be) {
    kn_cuda *c = kn_cuda_of(be);
    kn_cuda_recording *r = c->recording;
    c->step_ended = true;
    c->recording = NULL;
    if (!r)
        return true;
    r->graph = kn_cuda_record_end(&c->device);
    r->refused = !r->graph;
    if (r->refused)
        return kn_cuda_has_failed(c);
    kn_cuda_graph_launch(&c->device, r->graph);
    return true;
}
