/* cuBLASLt: finding the library, choosing an algorithm, one product. The library counts in columns:
 * our rows of outputs are columns of its D, our rows of weights columns of an A that it
 * transposes. */
#include "kernels/cuda/blaslt_cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_CHOICES = 16 };

/* ---- the library ---- */

static const struct {
    const char *name;
    size_t at; /* in kn_lt_api */
} functions[] = {
    {"cublasLtGetVersion", offsetof(kn_lt_api, version)},
    {"cublasLtCreate", offsetof(kn_lt_api, create)},
    {"cublasLtDestroy", offsetof(kn_lt_api, destroy)},
    {"cublasLtMatmulDescCreate", offsetof(kn_lt_api, desc_create)},
    {"cublasLtMatmulDescDestroy", offsetof(kn_lt_api, desc_destroy)},
    {"cublasLtMatmulDescSetAttribute", offsetof(kn_lt_api, desc_set)},
    {"cublasLtMatrixLayoutCreate", offsetof(kn_lt_api, layout_create)},
    {"cublasLtMatrixLayoutDestroy", offsetof(kn_lt_api, layout_destroy)},
    {"cublasLtMatrixLayoutSetAttribute", offsetof(kn_lt_api, layout_set)},
    {"cublasLtMatmulPreferenceCreate", offsetof(kn_lt_api, pref_create)},
    {"cublasLtMatmulPreferenceDestroy", offsetof(kn_lt_api, pref_destroy)},
    {"cublasLtMatmulPreferenceSetAttribute", offsetof(kn_lt_api, pref_set)},
    {"cublasLtMatmulAlgoGetHeuristic", offsetof(kn_lt_api, choices)},
    {"cublasLtMatmulAlgoConfigGetAttribute", offsetof(kn_lt_api, algo_get)},
    {"cublasLtMatmul", offsetof(kn_lt_api, multiply)},
};

static void *open_in(const char *folder) {
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
    char path[4096];
    void *found = NULL;
    for (size_t i = 0; !found && i < sizeof names / sizeof *names; i++) {
        int n = snprintf(path, sizeof path, "%s%s", folder, names[i]);
        if (n > 0 && (size_t)n < sizeof path)
            found = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    }
    return found;
}

static void *open_library(void) {
    const char *named = secure_getenv("TNL_CUBLASLT"), *home = secure_getenv("CUDA_HOME");
    char folder[3072];
    if (named && *named)
        return dlopen(named, RTLD_NOW | RTLD_LOCAL);
    void *found = open_in("");
    if (!found && home && *home) {
        int n = snprintf(folder, sizeof folder, "%s/lib64/", home);
        if (n > 0 && (size_t)n < sizeof folder)
            found = open_in(folder);
    }
    return found ? found : open_in("/usr/local/cuda/lib64/");
}

tnl_status kn_lt_load(kn_lt_api *api, tnl_error *err) {
    memset(api, 0, sizeof *api);
    void *library = open_library();
    if (!library)
        return tnl_fail(err, TNL_E_UNAVAILABLE,
                        "cuBLASLt: neither libcublasLt.so.13 nor .12 can be loaded");
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *f = dlsym(library, functions[i].name);
        if (!f) {
            dlclose(library);
            return tnl_fail(err, TNL_E_UNAVAILABLE, "cuBLASLt: the library found has no %s",
                            functions[i].name);
        }
        memcpy((char *)api + functions[i].at, &f, sizeof f);
    }
    return TNL_OK;
}

/* ---- one product ---- */

struct kn_lt_product {
    kn_lt_api api;
    kn_lt_shape shape;
    void *lt, *desc, *w, *a, *y; /* the last three: layouts */
    kn_lt_algo algo;             /* of all rows */
    void *memory;
    size_t bytes;
};

static tnl_status make_descriptors(kn_lt_product *p, tnl_error *err) {
    const kn_lt_api *f = &p->api;
    const kn_lt_shape *s = &p->shape;
    const uint64_t rows = (uint64_t)s->rows, outs = (uint64_t)s->outs, inputs = (uint64_t)s->inputs;
    const int32_t transposed = KN_LT_TRANSPOSED, type = s->e4m3 ? KN_LT_E4M3 : KN_LT_BF16;
    int st = f->create(&p->lt);
    if (st == KN_LT_OK)
        st = f->desc_create(&p->desc, KN_LT_SUM_F32, KN_LT_F32);
    if (st == KN_LT_OK)
        st = f->desc_set(p->desc, KN_LT_DESC_TRANS_A, &transposed, sizeof transposed);
    if (st == KN_LT_OK)
        st = f->layout_create(&p->w, type, inputs, outs, s->ldw);
    if (st == KN_LT_OK)
        st = f->layout_create(&p->a, type, inputs, rows, s->lda);
    if (st == KN_LT_OK)
        st = f->layout_create(&p->y, KN_LT_F32, outs, rows, s->ldy);
    return st == KN_LT_OK
               ? TNL_OK
               : tnl_fail(err, TNL_E_UNAVAILABLE, "cuBLASLt: cannot begin: status %d", st);
}

static int set_rows(const kn_lt_product *p, int64_t rows) {
    const uint64_t n = (uint64_t)rows;
    const int st = p->api.layout_set(p->a, KN_LT_LAYOUT_COLS, &n, sizeof n);
    return st == KN_LT_OK ? p->api.layout_set(p->y, KN_LT_LAYOUT_COLS, &n, sizeof n) : st;
}

/* One sum for each output: nothing is split and added up afterwards. */
static bool sums_at_once(const kn_lt_product *p, const kn_lt_choice *c) {
    int32_t splits = 0;
    uint32_t reduction = 0;
    size_t n = 0;
    return c->state == KN_LT_OK && c->memory <= p->bytes &&
           p->api.algo_get(&c->algo, KN_LT_ALGO_SPLITS, &splits, sizeof splits, &n) == KN_LT_OK &&
           p->api.algo_get(&c->algo, KN_LT_ALGO_REDUCTION, &reduction, sizeof reduction, &n) ==
               KN_LT_OK &&
           splits <= 1 && reduction == 0;
}

static int list_choices(kn_lt_product *p, void *pref, kn_lt_algo *to, int room) {
    kn_lt_choice found[MOST_CHOICES];
    const uint32_t no_reduction = 0;
    int n = 0, good = 0;
    if (p->api.pref_set(pref, KN_LT_PREF_MEMORY, &p->bytes, sizeof p->bytes) != KN_LT_OK ||
        p->api.pref_set(pref, KN_LT_PREF_REDUCTIONS, &no_reduction, sizeof no_reduction) !=
            KN_LT_OK ||
        p->api.choices(p->lt, p->desc, p->w, p->a, p->y, p->y, pref, MOST_CHOICES, found, &n) !=
            KN_LT_OK)
        return 0;
    for (int i = 0; i < n && i < MOST_CHOICES && good < room; i++)
        if (sums_at_once(p, &found[i]))
            to[good++] = found[i].algo;
    return good;
}

int kn_lt_choices(kn_lt_product *p, int64_t rows, kn_lt_algo *to, int room) {
    void *pref = NULL;
    int n = 0;
    if (set_rows(p, rows) == KN_LT_OK && p->api.pref_create(&pref) == KN_LT_OK)
        n = list_choices(p, pref, to, room);
    if (pref)
        p->api.pref_destroy(pref);
    return n;
}

/* In whole 16 bytes, which every algorithm can read. */
static bool is_whole(const kn_lt_shape *s) {
    const int64_t unit = s->e4m3 ? 16 : 8;
    return s->rows >= 1 && s->outs >= 1 && s->inputs >= 1 && s->inputs % unit == 0 &&
           s->lda >= s->inputs && s->lda % unit == 0 && s->ldw >= s->inputs && s->ldw % unit == 0 &&
           s->ldy >= s->outs && s->ldy % 4 == 0 && (!s->e4m3 || s->outs % 16 == 0);
}

static tnl_status check(const kn_lt_product *p, tnl_error *err) {
    const kn_lt_shape *s = &p->shape;
    const size_t version = p->api.version();
    if (version < KN_LT_OLDEST)
        return tnl_fail(err, TNL_E_UNAVAILABLE, "cuBLASLt: found version %zu, expected %d or later",
                        version, KN_LT_OLDEST);
    if (!is_whole(s))
        return tnl_fail(err, TNL_E_UNAVAILABLE,
                        "cuBLASLt: found %lld inputs and rows of %lld outputs, expected multiples "
                        "of %d and 4",
                        (long long)s->inputs, (long long)s->ldy, s->e4m3 ? 16 : 8);
    return TNL_OK;
}

static tnl_status open_product(kn_lt_product *p, tnl_error *err) {
    const kn_lt_shape *s = &p->shape;
    TNL_TRY(check(p, err));
    TNL_TRY(make_descriptors(p, err));
    return kn_lt_choices(p, s->rows, &p->algo, 1) == 1
               ? TNL_OK
               : tnl_fail(err, TNL_E_UNAVAILABLE,
                          "cuBLASLt: no algorithm for %lld rows times %lld x %lld in one sum",
                          (long long)s->rows, (long long)s->outs, (long long)s->inputs);
}

tnl_status kn_lt_open(kn_lt_product **out, const kn_lt_api *api, const kn_lt_shape *shape,
                      void *memory, size_t bytes, tnl_error *err) {
    *out = NULL;
    kn_lt_product *p = calloc(1, sizeof *p);
    if (!p)
        return tnl_fail(err, TNL_E_NOMEM, "cuBLASLt: out of memory");
    p->api = *api;
    p->shape = *shape;
    p->memory = memory;
    p->bytes = bytes;
    if (p->shape.lda == 0)
        p->shape.lda = p->shape.inputs;
    if (p->shape.ldw == 0)
        p->shape.ldw = p->shape.inputs;
    tnl_status st = open_product(p, err);
    if (st != TNL_OK) {
        kn_lt_close(p);
        return st;
    }
    *out = p;
    return TNL_OK;
}

tnl_status kn_lt_run(const kn_lt_product *p, float *y, const void *a, const void *w,
                     kn_cuda_stream stream, tnl_error *err) {
    return kn_lt_run_rows(p, &p->algo, p->shape.rows, y, a, w, stream, err);
}

tnl_status kn_lt_run_rows(const kn_lt_product *p, const kn_lt_algo *algo, int64_t rows, float *y,
                          const void *a, const void *w, kn_cuda_stream stream, tnl_error *err) {
    const float one = 1, zero = 0;
    int st = set_rows(p, rows);
    if (st == KN_LT_OK)
        st = p->api.multiply(p->lt, p->desc, &one, w, p->w, a, p->a, &zero, y, p->y, y, p->y, algo,
                             p->memory, p->bytes, stream);
    return st == KN_LT_OK
               ? TNL_OK
               : tnl_fail(err, TNL_E_INTERNAL, "cuBLASLt: product failed: status %d", st);
}

void kn_lt_close(kn_lt_product *p) {
    if (!p)
        return;
    void *layouts[] = {p->w, p->a, p->y};
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        if (layouts[i])
            p->api.layout_destroy(layouts[i]);
    if (p->desc)
        p->api.desc_destroy(p->desc);
    if (p->lt)
        p->api.destroy(p->lt);
    free(p);
}
