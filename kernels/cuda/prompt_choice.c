/* Trying algorithms out. The rows of a trial are the same 128 again and again, so that every slice
 * has the sums of the first one; which are those of 128 rows alone by the same algorithm, and near
 * what we add up ourselves. */
#include "kernels/cuda/prompt_choice.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/log.h"

enum {
    MOST_TRIED = 16,
    TRIED_FOR_FEWER = 4,
    MOST_DIFFERS = KN_CUDA_TILE_SLICES * KN_CUDA_TRIAL_PARTS, /* and KN_CUDA_TRIAL_BLOCKS */
};

typedef struct trial {
    kn_cuda_device *device;
    kn_lt_product *product;
    kn_lt_shape shape;
    unsigned char *memory;
    void *a, *w; /* in it */
    float *want; /* the sums of one slice */
    uint32_t *differs;
    float *sums;
    tnl_error lost; /* code TNL_OK: the device is there */
} trial;

static size_t whole(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

static tnl_status open_trial(trial *t, tnl_error *err) {
    const kn_lt_shape *s = &t->shape;
    const size_t unit = s->e4m3 ? 1 : 2, rows = (size_t)s->rows, outs = (size_t)s->outs;
    const size_t a = whole(rows * (size_t)s->lda * unit), w = whole(outs * (size_t)s->ldw * unit);
    const size_t want = whole(KN_CUDA_SLICE_ROWS * (size_t)s->ldy * sizeof(float));
    const size_t all = a + w + want + MOST_DIFFERS * sizeof(uint32_t);
    t->memory = kn_cuda_device_alloc(t->device, all);
    if (!t->memory)
        return tnl_fail(err, TNL_E_NOMEM,
                        "cuda:%d: no memory for %zu bytes to try cuBLASLt's algorithms with",
                        t->device->index, all);
    t->a = t->memory;
    t->w = t->memory + a;
    t->want = (float *)(t->memory + a + w);
    t->differs = (uint32_t *)(t->memory + a + w + want);
    kn_cuda_trial_fill(t->a, s->rows * s->lda, KN_CUDA_SLICE_ROWS * s->lda, s->e4m3,
                       t->device->stream);
    kn_cuda_trial_fill(t->w, s->outs * s->ldw, s->outs * s->ldw, s->e4m3, t->device->stream);
    return TNL_OK;
}

/* So many slices into `to`, which is cleared first: what another algorithm left is no answer. */
static bool multiply(trial *t, const kn_lt_algo *algo, int64_t n, float *to) {
    const size_t bytes = (size_t)(n * KN_CUDA_SLICE_ROWS * t->shape.ldy) * sizeof *to;
    kn_cuda_device_clear(t->device, to, bytes);
    return t->lost.code == TNL_OK && kn_lt_run_rows(t->product, algo, n * KN_CUDA_SLICE_ROWS, to,
                                                    t->a, t->w, t->device->stream, NULL) == TNL_OK;
}

/* Whether none of the first n answers of a launch is yes. */
static bool none_differs(trial *t, size_t n) {
    uint32_t differs[MOST_DIFFERS], any = 0;
    const size_t bytes = n * sizeof *differs;
    kn_cuda_device_copy(t->device, differs, bytes, t->differs, bytes, bytes, 1);
    if (kn_cuda_device_wait(t->device, &t->lost) != TNL_OK)
        return false;
    for (size_t i = 0; i < n; i++)
        any |= differs[i];
    return any == 0;
}

/* Whether n slices by this algorithm have the sums of t->want, each of them. */
static bool agrees(trial *t, const kn_lt_algo *algo, int64_t n) {
    if (!multiply(t, algo, n, t->sums))
        return false;
    kn_cuda_trial_compare(t->differs, t->sums, t->want, n, t->shape.outs, t->shape.ldy,
                          t->device->stream);
    return none_differs(t, (size_t)n * KN_CUDA_TRIAL_PARTS);
}

/* t->want by this algorithm; false where these are not the sums that they should be. */
static bool multiplies(trial *t, const kn_lt_algo *algo) {
    const kn_lt_shape *s = &t->shape;
    const kn_cuda_trial sums = {.a = t->a,
                                .w = t->w,
                                .lda = s->lda,
                                .ldw = s->ldw,
                                .inputs = s->inputs,
                                .outs = s->outs,
                                .ld = s->ldy,
                                .e4m3 = s->e4m3};
    if (!multiply(t, algo, 1, t->want))
        return false;
    kn_cuda_trial_check(t->differs, t->want, &sums, t->device->stream);
    return none_differs(t, KN_CUDA_TRIAL_BLOCKS);
}

/* Whether the algorithm gives every slice the same bits, whatever their number. */
static bool passes(trial *t, const kn_lt_algo *algo, int64_t slices) {
    bool good = multiplies(t, algo);
    for (int64_t n = slices; good && n > 0; n--)
        good = agrees(t, algo, n);
    return good;
}

static bool find_for_all(trial *t, kn_cuda_choice *c) {
    kn_lt_algo list[MOST_TRIED];
    const int n = kn_lt_choices(t->product, t->shape.rows, list, MOST_TRIED);
    for (int i = 0; i < n; i++)
        if (passes(t, &list[i], c->slices)) {
            for (int64_t s = 0; s < c->slices; s++)
                c->algos[s] = list[i];
            return true;
        }
    return false;
}

/* For fewer slices, the first of the library's own list for them that has the same bits. */
static void find_for_fewer(trial *t, kn_cuda_choice *c) {
    kn_lt_algo list[TRIED_FOR_FEWER];
    for (int64_t n = 1; n < c->slices; n++) {
        const int found = kn_lt_choices(t->product, n * KN_CUDA_SLICE_ROWS, list, TRIED_FOR_FEWER);
        for (int i = 0; i < found; i++)
            if (memcmp(&list[i], &c->algos[n - 1], sizeof *list) == 0 || agrees(t, &list[i], n)) {
                c->algos[n - 1] = list[i];
                break;
            }
    }
}

static tnl_status try_all(kn_cuda_choice *c, trial *t, const kn_lt_api *api, tnl_error *err) {
    TNL_TRY(open_trial(t, err));
    const bool found = find_for_all(t, c);
    if (found)
        find_for_fewer(t, c);
    if (t->lost.code != TNL_OK)
        return tnl_fail(err, t->lost.code, "%s", t->lost.msg);
    if (found) {
        c->product = t->product;
        t->product = NULL;
        return TNL_OK;
    }
    tnl_log(TNL_LOG_WARN,
            "prompts go through our own products: no algorithm of cuBLASLt %zu gives rows of %lld "
            "outputs and %lld inputs the right sums with the same bits in any number of rows",
            api->version(), (long long)t->shape.outs, (long long)t->shape.inputs);
    return TNL_OK;
}

tnl_status kn_cuda_choose(kn_cuda_choice *c, const kn_lt_api *api, const kn_lt_shape *shape,
                          float *sums, kn_cuda_device *device, tnl_error *err) {
    trial t = {.device = device, .shape = *shape, .sums = sums};
    tnl_error why = {0};
    *c = (kn_cuda_choice){.slices = shape->rows / KN_CUDA_SLICE_ROWS};
    tnl_status st = kn_lt_open(&t.product, api, shape, NULL, 0, &why);
    if (st == TNL_OK)
        st = try_all(c, &t, api, err);
    else if (st == TNL_E_UNAVAILABLE) {
        tnl_log(TNL_LOG_WARN, "prompts go through our own products: %s", why.msg);
        st = TNL_OK;
    } else
        tnl_fail(err, st, "%s", why.msg);
    kn_cuda_device_free(device, t.memory);
    kn_lt_close(t.product);
    return st;
}
