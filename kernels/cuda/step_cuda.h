/* A step as the device sees it: which rows go which way, and everything that launches read of it in
 * one piece of memory. Host code; nothing here computes.
 *
 * Segments are cut at absolute multiples of KN_CUDA_SLICE_ROWS tokens. Slices that are whole go
 * through the tensor cores, any number of them at once; every other token through the step of
 * attention, whose bits are those of one row at a time. So bits depend on which slices were whole,
 * not on how the rest was split. The step of attention stays within a block of the state, so a
 * segment may take several rounds: those of a round are launched together, slices last. */
#ifndef TNL_CUDA_STEP_H
#define TNL_CUDA_STEP_H

#include "kernels/cuda/linattn_cuda.h"
#include "kernels/cuda/prompt_cuda.h"
#include "kernels/kernels.h"

/* Pieces of segments that are launched together, as indices into kn_cuda_step.segs: first those for
 * the step of attention, then runs of whole slices. */
typedef struct kn_cuda_round {
    int64_t first, n_step, n_slices;
} kn_cuda_round;

typedef struct kn_cuda_step {
    kn_linattn_seg *segs; /* [n_segs] pieces, round by round */
    int64_t n_segs;
    kn_cuda_round *rounds; /* [n_rounds] */
    int64_t n_rounds;
    kn_cuda_run *runs; /* [n_runs] ascending, neighbours joined */
    int64_t n_runs;
    bool decode; /* every segment is one token: one round, no run */
    /* the rest is cut_step's own */
    kn_linattn_seg *left;
    int64_t segs_room, rounds_room, runs_room, left_room;
} kn_cuda_step;

/* Cut the segments of `step` (host memory). Memory is kept for the next one. False: out of it. */
bool kn_cuda_cut_step(kn_cuda_step *out, const kn_step *step);
void kn_cuda_step_free(kn_cuda_step *s); /* zeroed or cut */

#endif
