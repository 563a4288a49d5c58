/* The CUDA backend: one device, one stream, the table of operations.
 *
 * Operations are launched and not waited for, but finite_rows, which ends every step with an answer
 * to the host. What `alloc` gives is memory that both sides see: states and working memory are
 * plain memory to model/, as long as it touches them between steps. Weights are copied to the
 * device once (`adopt`) and stay there.
 *
 * Segments are cut at absolute multiples of PROMPT_SLICE tokens. A slice that is whole goes through
 * the tensor cores; every other token through the step, whose bits are those of one row at a time.
 * So bits depend on which slices were whole, not on how the rest was split. Launches read segments
 * after the host has gone on, so each gets its copy, in memory that is used again after a wait.
 *
 * The first failure sticks: later operations do nothing, and `check` tells. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/threads.h"
#include "kernels/cuda/linattn_cuda.h"
#include "kernels/cuda/linear_cuda.h"
#include "kernels/cuda/rows_cuda.h"
#include "kernels/cuda/runtime_cuda.h"

enum {
    PART_TOKENS = 1024,        /* more than a slice has: none is cut in parts */
    PROMPT_SLICE = 128,        /* a multiple of KN_CUDA_BLOCK */
    FIRST_SCRATCH = 256 << 10, /* bytes */
};

/* A copy on the device, by the host's address: weights, or the decay tables of a layer. */
typedef struct device_copy {
    const void *of;
    void *copy;
} device_copy;

typedef struct copies {
    device_copy *v;
    size_t n, room;
} copies;

typedef struct kn_cuda {
    kn_backend base; /* first */
    kn_cuda_device device;
    char isa[32];
    tnl_pool *pool;
    copies weights, decays;
    unsigned char *scratch; /* segments and parts that launches read */
    size_t scratch_bytes, scratch_used;
    kn_linattn_seg *left; /* of the segments of an operation */
    int64_t left_room;
    tnl_error failure; /* code TNL_OK: none */
} kn_cuda;

static kn_cuda *cuda_of(kn_backend *be) {
    return (kn_cuda *)be;
}

static bool has_failed(const kn_cuda *c) {
    return c->failure.code != TNL_OK;
}

static void wait_for_device(kn_cuda *c) {
    if (!has_failed(c))
        kn_cuda_device_wait(&c->device, &c->failure);
}

/* ---- copies on the device ---- */

static void *find_copy(const copies *l, const void *of) {
    for (size_t i = 0; i < l->n; i++)
        if (l->v[i].of == of)
            return l->v[i].copy;
    return NULL;
}

static bool make_room(copies *l) {
    if (l->n < l->room)
        return true;
    size_t room = l->room ? 2 * l->room : 64;
    device_copy *v = realloc(l->v, room * sizeof *v);
    if (!v)
        return false;
    l->v = v;
    l->room = room;
    return true;
}

static void *copy_once(kn_cuda *c, copies *l, const void *of, const void *from, size_t bytes) {
    void *copy = find_copy(l, of);
    if (copy || !make_room(l))
        return copy;
    copy = kn_cuda_device_upload(&c->device, from, bytes);
    if (copy)
        l->v[l->n++] = (device_copy){of, copy};
    return copy;
}

static void free_copies(kn_cuda *c, copies *l) {
    for (size_t i = 0; i < l->n; i++)
        kn_cuda_device_free(&c->device, l->v[i].copy);
    free(l->v);
}

static const void *cuda_adopt(kn_backend *be, const void *p, size_t bytes) {
    kn_cuda *c = cuda_of(be);
    return copy_once(c, &c->weights, p, p, bytes);
}

/* A layer's decay tables, made when it first computes. */
static const float *decay_tables(kn_cuda *c, const kn_decay *decay, int H) {
    const float *known = find_copy(&c->decays, decay->pow);
    if (known)
        return known;
    assert(decay->slopes);
    const size_t bytes = kn_cuda_decay_floats(H) * sizeof(float);
    float *tables = malloc(bytes);
    if (tables) {
        kn_cuda_decay_fill(tables, decay->slopes, H, PART_TOKENS);
        known = copy_once(c, &c->decays, decay->pow, tables, bytes);
        free(tables);
    }
    if (!known)
        tnl_fail(&c->failure, TNL_E_NOMEM, "cuda:%d: out of memory", c->device.index);
    return known;
}

/* ---- memory that launches read ---- */

/* At least `bytes`; what was there is lost. */
static bool grow(kn_cuda *c, void **p, size_t *have, size_t bytes) {
    if (*have >= bytes)
        return true;
    wait_for_device(c);
    kn_cuda_device_free(&c->device, *p);
    *p = kn_cuda_device_alloc(&c->device, bytes);
    *have = *p ? bytes : 0;
    if (!*p && !has_failed(c))
        tnl_fail(&c->failure, TNL_E_NOMEM, "cuda:%d: no memory for %zu bytes of attention",
                 c->device.index, bytes);
    return *p != NULL;
}

/* NULL after a failure. */
static void *scratch(kn_cuda *c, size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    if (c->scratch_used + bytes > c->scratch_bytes) {
        wait_for_device(c);
        c->scratch_used = 0;
        size_t least = bytes > FIRST_SCRATCH ? bytes : FIRST_SCRATCH;
        void *p = c->scratch;
        bool good = grow(c, &p, &c->scratch_bytes, least);
        c->scratch = p;
        if (!good)
            return NULL;
    }
    void *p = c->scratch + c->scratch_used;
    c->scratch_used += bytes;
    return p;
}

/* ---- attention ---- */

/* Pieces of segments, in rounds: those of a round are launched together, a segment has one in each
 * until its end. The step takes what lies in one block of the state, the tensor cores a slice. */
typedef struct round_of {
    kn_linattn_seg *step, *slice; /* [n_segs] each */
    int64_t n_step, n_slice;
} round_of;

static int64_t piece_of(const kn_linattn_seg *left) {
    const int64_t room = KN_CUDA_BLOCK - left->pos % KN_CUDA_BLOCK;
    if (left->pos % PROMPT_SLICE == 0 && left->len >= PROMPT_SLICE)
        return PROMPT_SLICE;
    return left->len < room ? left->len : room;
}

/* Move the first piece of `left` to the round. */
static void cut_piece(round_of *r, kn_linattn_seg *left) {
    const int64_t n = piece_of(left);
    if (n == 0)
        return;
    kn_linattn_seg *piece = n > KN_CUDA_BLOCK ? &r->slice[r->n_slice++] : &r->step[r->n_step++];
    *piece = *left;
    piece->len = n;
    left->pos += n;
    left->first += n;
    left->len -= n;
}

/* One piece of scratch for segments and parts: another one could put an end to the first. False
 * after a failure, and when nothing is left; `left` is what remains of the segments. */
static bool next_round(kn_cuda *c, round_of *r, kn_cuda_plan *plan, kn_linattn_seg *left,
                       int64_t n) {
    int64_t tokens = 0;
    for (int64_t i = 0; i < n; i++)
        tokens += left[i].len;
    if (tokens == 0)
        return false;
    const size_t bytes = 2 * (size_t)n * sizeof(kn_linattn_seg);
    unsigned char *room = scratch(c, bytes + (size_t)n * sizeof(kn_cuda_part));
    if (!room)
        return false;
    kn_linattn_seg *segs = (kn_linattn_seg *)room;
    kn_cuda_part *parts = (kn_cuda_part *)(room + bytes);
    *r = (round_of){.step = segs, .slice = segs + n};
    for (int64_t i = 0; i < n; i++)
        cut_piece(r, &left[i]);
    /* a slice is a part of its own: its sums know nothing of the slices beside it */
    *plan = (kn_cuda_plan){.part_tokens = PART_TOKENS, .parts = parts};
    kn_cuda_plan_parts(plan, parts, r->slice, r->n_slice);
    return true;
}

/* A copy to be used up; NULL after a failure. */
static kn_linattn_seg *segments_left(kn_cuda *c, const kn_linattn_seg *segs, int64_t n) {
    if (n > c->left_room) {
        free(c->left);
        c->left = malloc((size_t)n * sizeof *c->left);
        c->left_room = c->left ? n : 0;
        if (!c->left)
            tnl_fail(&c->failure, TNL_E_NOMEM, "cuda:%d: out of memory", c->device.index);
    }
    if (c->left && n > 0)
        memcpy(c->left, segs, (size_t)n * sizeof *segs);
    return c->left;
}

static void cuda_linattn(kn_backend *be, float *o, int64_t ldo, const float *q, int64_t ldq,
                         const float *k, int64_t ldk, const float *v, int64_t ldv,
                         const kn_decay *decay, const kn_linattn_dims *d,
                         const kn_linattn_seg *segs, int64_t n_segs) {
    kn_cuda *c = cuda_of(be);
    round_of r;
    kn_cuda_plan plan;
    if (has_failed(c))
        return;
    assert(d->Dk <= KN_CUDA_MOST_DK && d->Dv <= KN_CUDA_MOST_DV);
    const float *tables = decay_tables(c, decay, d->H);
    kn_linattn_seg *left = tables ? segments_left(c, segs, n_segs) : NULL;
    if (!left)
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
                         .decay = kn_cuda_decay_at(tables, d->H)};
    while (next_round(c, &r, &plan, left, n_segs)) {
        a.segs = r.step;
        a.n_segs = r.n_step;
        kn_cuda_linattn_step(&a, c->device.stream);
        a.segs = r.slice;
        a.n_segs = r.n_slice;
        kn_cuda_linattn_prefill(&a, &plan, c->device.shared_bytes, c->device.stream);
    }
}

/* ---- the other operations ---- */

static void cuda_embed(kn_backend *be, float *x, int64_t ldx, const kn_tensor *table,
                       const int32_t *ids, int64_t n, float scale) {
    kn_cuda *c = cuda_of(be);
    if (!has_failed(c))
        kn_cuda_embed(x, ldx, table, ids, n, scale, c->device.stream);
}

static void cuda_linear(kn_backend *be, const kn_linear *p) {
    kn_cuda *c = cuda_of(be);
    if (!has_failed(c))
        kn_cuda_linear(p, c->device.stream);
}

static void cuda_lrpe(kn_backend *be, float *y, int64_t ldy, const float *x, int64_t ldx,
                      const float *theta, const int64_t *pos, int64_t n, int H, int dh) {
    kn_cuda *c = cuda_of(be);
    if (!has_failed(c))
        kn_cuda_lrpe(y, ldy, x, ldx, theta, pos, n, H, dh, c->device.stream);
}

/* The answer is the host's to read: this waits. */
static void cuda_finite_rows(kn_backend *be, bool *ok, const float *x, int64_t ldx, int64_t n,
                             int64_t dim) {
    kn_cuda *c = cuda_of(be);
    if (!has_failed(c))
        kn_cuda_finite_rows(ok, x, ldx, n, dim, c->device.stream);
    wait_for_device(c);
    c->scratch_used = 0;
    for (int64_t i = 0; has_failed(c) && i < n; i++)
        ok[i] = false;
}

static void cuda_expect(kn_backend *be, const void *p, size_t bytes) {
    (void)be, (void)p, (void)bytes; /* a stream of launches leaves no gap to fill */
}

static const kn_ops cuda_ops = {
    .embed = cuda_embed,
    .linear = cuda_linear,
    .lrpe = cuda_lrpe,
    .linattn = cuda_linattn,
    .finite_rows = cuda_finite_rows,
    .expect = cuda_expect,
};

/* ---- the backend ---- */

static void *cuda_alloc(kn_backend *be, size_t bytes) {
    return bytes > SIZE_MAX - 64 ? NULL : kn_cuda_device_alloc(&cuda_of(be)->device, bytes);
}

static void cuda_free(kn_backend *be, void *p) {
    kn_cuda *c = cuda_of(be);
    wait_for_device(c);
    kn_cuda_device_free(&c->device, p);
}

static void cuda_each(kn_backend *be, int64_t n, tnl_pool_fn fn, void *ctx) {
    tnl_pool_run(cuda_of(be)->pool, n, 1, fn, ctx);
}

static tnl_status cuda_check(kn_backend *be, tnl_error *err) {
    kn_cuda *c = cuda_of(be);
    wait_for_device(c);
    return has_failed(c) ? tnl_fail(err, c->failure.code, "%s", c->failure.msg) : TNL_OK;
}

static void cuda_close(kn_backend *be) {
    kn_cuda *c = cuda_of(be);
    wait_for_device(c);
    free_copies(c, &c->weights);
    free_copies(c, &c->decays);
    kn_cuda_device_free(&c->device, c->scratch);
    free(c->left);
    kn_cuda_device_close(&c->device);
    tnl_pool_close(c->pool);
    free(c);
}

tnl_status kn_cuda_open(kn_backend **out, int index, int threads, tnl_error *err) {
    *out = NULL;
    if (threads == 0)
        threads = tnl_cpu_count();
    kn_cuda *c = calloc(1, sizeof *c);
    if (!c)
        return tnl_fail(err, TNL_E_NOMEM, "cuda backend: out of memory");
    c->base = (kn_backend){
        .name = "cuda",
        .isa = c->isa,
        .block = KN_CUDA_BLOCK,
        .prompt_slice = PROMPT_SLICE,
        .threads = threads,
        .most = {.Dk = KN_CUDA_MOST_DK, .Dv = KN_CUDA_MOST_DV},
        .ops = &cuda_ops,
        .alloc = cuda_alloc,
        .free = cuda_free,
        .each = cuda_each,
        .adopt = cuda_adopt,
        .check = cuda_check,
        .close = cuda_close,
    };
    tnl_status st = kn_cuda_device_open(&c->device, index, err);
    if (st == TNL_OK)
        st = tnl_pool_open(&c->pool, threads, err);
    if (st != TNL_OK) {
        cuda_close(&c->base);
        return st;
    }
    snprintf(c->isa, sizeof c->isa, "sm_%d%d", c->device.major, c->device.minor);
    *out = &c->base;
    return TNL_OK;
}
