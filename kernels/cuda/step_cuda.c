/* Cutting a step into rounds and runs: see step_cuda.h. */
#include "kernels/cuda/step_cuda.h"

#include <stdlib.h>
#include <string.h>

/* Room for one more element of `size` bytes at *p. */
static bool make_room(void **p, int64_t *room, int64_t n, size_t size) {
    if (n < *room)
        return true;
    int64_t more = *room ? 2 * *room : 64;
    void *grown = realloc(*p, (size_t)more * size);
    if (!grown)
        return false;
    *p = grown;
    *room = more;
    return true;
}

static bool starts_slice(const kn_linattn_seg *left) {
    return left->pos % KN_CUDA_SLICE_ROWS == 0 && left->len >= KN_CUDA_SLICE_ROWS;
}

/* Move the first `n` tokens of `left` to a piece of their own. */
static bool cut_piece(kn_cuda_step *s, kn_linattn_seg *left, int64_t n) {
    if (!make_room((void **)&s->segs, &s->segs_room, s->n_segs, sizeof *s->segs))
        return false;
    kn_linattn_seg *piece = &s->segs[s->n_segs++];
    *piece = *left;
    piece->len = n;
    left->pos += n;
    left->first += n;
    left->len -= n;
    return true;
}

/* What is left of a block of the state, of segments that do not begin with a slice. */
static bool cut_blocks(kn_cuda_step *s, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        kn_linattn_seg *left = &s->left[i];
        const int64_t room = KN_CUDA_BLOCK - left->pos % KN_CUDA_BLOCK;
        if (left->len > 0 && !starts_slice(left) &&
            !cut_piece(s, left, left->len < room ? left->len : room))
            return false;
    }
    return true;
}

/* All whole slices of segments that begin with one, now. */
static bool cut_slices(kn_cuda_step *s, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        kn_linattn_seg *left = &s->left[i];
        if (starts_slice(left) && !cut_piece(s, left, left->len - left->len % KN_CUDA_SLICE_ROWS))
            return false;
    }
    return true;
}

static bool cut_round(kn_cuda_step *s, int64_t n) {
    kn_cuda_round r = {.first = s->n_segs};
    if (!make_room((void **)&s->rounds, &s->rounds_room, s->n_rounds, sizeof *s->rounds) ||
        !cut_blocks(s, n))
        return false;
    r.n_step = s->n_segs - r.first;
    if (!cut_slices(s, n))
        return false;
    r.n_slices = s->n_segs - r.first - r.n_step;
    s->rounds[s->n_rounds++] = r;
    return true;
}

static bool any_left(const kn_cuda_step *s, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (s->left[i].len > 0)
            return true;
    return false;
}

/* The rows of a segment's whole slices. */
static bool add_run(kn_cuda_step *s, const kn_linattn_seg *seg) {
    const int64_t skip = (KN_CUDA_SLICE_ROWS - seg->pos % KN_CUDA_SLICE_ROWS) % KN_CUDA_SLICE_ROWS;
    const int64_t first = seg->first + skip;
    const int64_t n = (seg->len - skip) / KN_CUDA_SLICE_ROWS * KN_CUDA_SLICE_ROWS;
    kn_cuda_run *last = s->n_runs > 0 ? &s->runs[s->n_runs - 1] : NULL;
    if (n <= 0)
        return true;
    if (last && last->first + last->n == first) {
        last->n += n;
        return true;
    }
    if (!make_room((void **)&s->runs, &s->runs_room, s->n_runs, sizeof *s->runs))
        return false;
    s->runs[s->n_runs++] = (kn_cuda_run){first, n};
    return true;
}

static bool take_segments(kn_cuda_step *s, const kn_step *step) {
    const int64_t n = step->n_segs;
    while (s->left_room < n || s->left_room == 0)
        if (!make_room((void **)&s->left, &s->left_room, s->left_room, sizeof *s->left))
            return false;
    s->decode = step->n == n;
    for (int64_t i = 0; i < n; i++) {
        s->left[i] = step->segs[i];
        s->decode &= step->segs[i].len == 1;
        if (!add_run(s, &step->segs[i]))
            return false;
    }
    return true;
}

bool kn_cuda_cut_step(kn_cuda_step *s, const kn_step *step) {
    s->n_segs = s->n_rounds = s->n_runs = 0;
    if (!take_segments(s, step))
        return false;
    while (any_left(s, step->n_segs))
        if (!cut_round(s, step->n_segs))
            return false;
    return true;
}

void kn_cuda_step_free(kn_cuda_step *s) {
    free(s->segs);
    free(s->rounds);
    free(s->runs);
    free(s->left);
    memset(s, 0, sizeof *s);
}
