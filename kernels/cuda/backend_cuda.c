/* The CUDA backend: one device, one stream, the table of operations.
 *
 * Operations are launched and not waited for; `check`, which ends every step, waits. Weights are
 * copied to the device once (`adopt`) and stay there. Steps: record_cuda.c. Attention:
 * attend_cuda.c.
 *
 * After a failure operations do nothing, until `check` has told of it. */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/cuda_impl.h"
#include "kernels/cuda/linear_cuda.h"
#include "kernels/cuda/pick_cuda.h"
#include "kernels/cuda/rows_cuda.h"

/* ---- operations ---- */

static void cuda_embed(kn_backend *be, float *x, int64_t ldx, const kn_tensor *table,
                       const int32_t *ids, int64_t n, float scale) {
    kn_cuda *c = kn_cuda_of(be);
    if (!kn_cuda_has_failed(c))
        kn_cuda_embed(x, ldx, table, ids, n, scale, c->device.stream);
}

static void cuda_linear(kn_backend *be, const kn_linear *p) {
    kn_cuda *c = kn_cuda_of(be);
    if (kn_cuda_has_failed(c))
        return;
    if (p->in_step && c->step.n_runs > 0)
        kn_cuda_prompts_linear(c->prompts, p, c->step.runs, c->step.n_runs, &c->failure);
    else
        kn_cuda_linear(p, c->device.stream);
}

static void cuda_lrpe(kn_backend *be, float *y, int64_t ldy, const float *x, int64_t ldx,
                      const float *theta, const int64_t *pos, int64_t n, int H, int dh) {
    kn_cuda *c = kn_cuda_of(be);
    if (!kn_cuda_has_failed(c))
        kn_cuda_lrpe(y, ldy, x, ldx, theta, pos, n, H, dh, c->device.stream);
}

static void cuda_gather_rows(kn_backend *be, float *y, int64_t ldy, const float *x, int64_t ldx,
                             const int64_t *rows, int64_t n, int64_t dim) {
    kn_cuda *c = kn_cuda_of(be);
    if (!kn_cuda_has_failed(c))
        kn_cuda_gather_rows(y, ldy, x, ldx, rows, n, dim, c->device.stream);
}

static void cuda_finite_rows(kn_backend *be, bool *ok, const float *x, int64_t ldx, int64_t n,
                             int64_t dim) {
    kn_cuda *c = kn_cuda_of(be);
    if (!kn_cuda_has_failed(c))
        kn_cuda_finite_rows(ok, x, ldx, n, dim, c->device.stream);
}

static void cuda_pick(kn_backend *be, kn_picked *out, const float *x, int64_t ldx, int64_t n,
                      int64_t dim, const kn_pick_how *how) {
    kn_cuda *c = kn_cuda_of(be);
    if (!kn_cuda_has_failed(c))
        kn_cuda_pick(out, x, ldx, n, dim, how, c->device.stream);
}

static void cuda_expect(kn_backend *be, const void *p, size_t bytes) {
    (void)be, (void)p, (void)bytes; /* a stream of launches leaves no gap to fill */
}

static const kn_ops cuda_ops = {
    .embed = cuda_embed,
    .linear = cuda_linear,
    .lrpe = cuda_lrpe,
    .linattn = kn_cuda_attend,
    .gather_rows = cuda_gather_rows,
    .finite_rows = cuda_finite_rows,
    .pick = cuda_pick,
    .expect = cuda_expect,
};

/* ---- the backend ---- */

static const void *cuda_adopt(kn_backend *be, const void *p, size_t bytes) {
    kn_cuda *c = kn_cuda_of(be);
    return kn_cuda_copy_once(c, &c->weights, p, p, bytes);
}

static double cuda_idle_seconds(const kn_backend *be) {
    return ((const kn_cuda *)be)->idle;
}

static void *cuda_alloc(kn_backend *be, size_t bytes, kn_place place) {
    kn_cuda *c = kn_cuda_of(be);
    if (bytes > SIZE_MAX - 64)
        return NULL;
    return place == KN_ON_HOST ? kn_cuda_host_alloc(&c->device, bytes)
                               : kn_cuda_device_alloc(&c->device, bytes);
}

static void cuda_free(kn_backend *be, void *p, kn_place place) {
    kn_cuda *c = kn_cuda_of(be);
    if (!p)
        return;
    kn_cuda_wait(c);
    kn_cuda_forget(c, p);
    if (place == KN_ON_HOST)
        kn_cuda_host_free(&c->device, p);
    else
        kn_cuda_device_free(&c->device, p);
}

static void cuda_copy(kn_backend *be, void *dst, size_t dst_pitch, const void *src,
                      size_t src_pitch, size_t width, size_t rows) {
    kn_cuda *c = kn_cuda_of(be);
    if (!kn_cuda_has_failed(c))
        kn_cuda_device_copy(&c->device, dst, dst_pitch, src, src_pitch, width, rows);
}

static void cuda_clear(kn_backend *be, void *p, size_t bytes) {
    kn_cuda *c = kn_cuda_of(be);
    if (!kn_cuda_has_failed(c))
        kn_cuda_device_clear(&c->device, p, bytes);
}

static void cuda_each(kn_backend *be, int64_t n, tnl_pool_fn fn, void *ctx) {
    tnl_pool_run(kn_cuda_of(be)->pool, n, 1, fn, ctx);
}

/* Who asks without an error to fill does not tell anybody: the failure stays for the next one. */
static tnl_status cuda_check(kn_backend *be, tnl_error *err) {
    kn_cuda *c = kn_cuda_of(be);
    kn_cuda_wait(c);
    const tnl_error failure = c->failure;
    if (err)
        c->failure = (tnl_error){0};
    return failure.code == TNL_OK ? TNL_OK : tnl_fail(err, failure.code, "%s", failure.msg);
}

static void cuda_close(kn_backend *be) {
    kn_cuda *c = kn_cuda_of(be);
    kn_cuda_wait(c);
    kn_cuda_free_copies(c, &c->weights);
    kn_cuda_free_copies(c, &c->decays);
    kn_cuda_forget(c, NULL);
    kn_cuda_free_pair(c, &c->inputs);
    kn_cuda_free_plans(c);
    kn_cuda_step_free(&c->step);
    kn_cuda_prompts_close(c->prompts);
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
        .prompt_slice = KN_CUDA_SLICE_ROWS,
        .threads = threads,
        .most = {.Dk = KN_CUDA_MOST_DK, .Dv = KN_CUDA_MOST_DV},
        .ops = &cuda_ops,
        .alloc = cuda_alloc,
        .free = cuda_free,
        .copy = cuda_copy,
        .clear = cuda_clear,
        .begin = kn_cuda_begin,
        .end = kn_cuda_end,
        .idle_seconds = cuda_idle_seconds,
        .each = cuda_each,
        .adopt = cuda_adopt,
        .check = cuda_check,
        .close = cuda_close,
    };
    tnl_status st = kn_cuda_device_open(&c->device, index, err);
    if (st == TNL_OK)
        st = kn_cuda_prompts_open(&c->prompts, &c->device, err);
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
