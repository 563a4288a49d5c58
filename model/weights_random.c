/* Weights of a published shape without the download: every row is a function of the seed, its role
 * and its number, so the bytes do not depend on how many threads write them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/checked.h"
#include "kernels/base/half.h"
#include "kernels/base/threads.h"
#include "model/arch.h"
#include "model/weights_memory.h"

typedef struct maker {
    mdl_weights *w;
    const mdl_spec *spec;
    kn_dtype dtype;
    uint64_t seed, bytes;
    tnl_pool *pool;
    tnl_error *err;
} maker;

/* One matrix being filled. */
typedef struct fill {
    void *data;
    kn_dtype dtype;
    int64_t cols;
    float scale; /* of the uniform range: variance 1/cols keeps a product of order one */
    uint64_t seed;
} fill;

static uint64_t splitmix(uint64_t x) {
    x += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

/* A counter hashed to 32 bits: no state from one element to the next, so it vectorises. Finaliser
 * of MurmurHash3 (public domain constants). */
static uint32_t noise(uint32_t i, uint32_t row) {
    uint32_t h = i * 0x9E3779B1u + row;
    h = (h ^ h >> 16) * 0x85EBCA6Bu;
    h = (h ^ h >> 13) * 0xC2B2AE35u;
    return h ^ h >> 16;
}

static float uniform(uint32_t i, uint32_t row, float scale) {
    return (float)(int32_t)noise(i, row) * scale;
}

static void fill_rows(void *ctx, int64_t begin, int64_t end, int worker) {
    const fill *f = ctx;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        uint32_t row = (uint32_t)splitmix(f->seed + (uint64_t)r);
        if (f->dtype == KN_F32) {
            float *x = (float *)f->data + r * f->cols;
            for (int64_t i = 0; i < f->cols; i++)
                x[i] = uniform((uint32_t)i, row, f->scale);
        } else {
            uint16_t *x = (uint16_t *)f->data + r * f->cols;
            for (int64_t i = 0; i < f->cols; i++)
                x[i] = tnl_bf16_from_f32(uniform((uint32_t)i, row, f->scale));
        }
    }
}

static tnl_status make_matrix(maker *m, const mdl_role_row *row, int layer, int64_t rows,
                              int64_t cols) {
    uint64_t bytes;
    void *data = kn_dtype_matrix_bytes(&bytes, m->dtype, (uint64_t)rows, (uint64_t)cols)
                     ? mdl_weights_alloc(m->w, bytes)
                     : NULL;
    if (!data)
        return tnl_fail(m->err, TNL_E_NOMEM, "no memory for random weights");
    fill f = {.data = data,
              .dtype = m->dtype,
              .cols = cols,
              .scale = (float)(sqrt(3.0 / (double)cols) * 0x1p-31),
              .seed = splitmix(m->seed ^ splitmix(((uint64_t)(uint32_t)layer << 32) + row->role))};
    int64_t grain = (1 << 16) / cols + 1;
    tnl_pool_run(m->pool, rows, grain, fill_rows, &f);
    mdl_weights_of(m->w, layer)->m[row->role] =
        (kn_tensor){.data = data, .dtype = m->dtype, .rows = rows, .cols = cols};
    return TNL_OK;
}

static bool is_norm_weight(mdl_role r) {
    return r == MDL_R_FINAL_NORM_W || r == MDL_R_TOKEN_NORM_W || r == MDL_R_CHANNEL_NORM_W ||
           r == MDL_R_MIXER_NORM_W;
}

/* Norms are the identity, biases zero, theta starts as in the published code. */
static tnl_status make_vector(maker *m, const mdl_role_row *row, int layer, int64_t n) {
    float *v = mdl_weights_alloc(m->w, (uint64_t)n * sizeof *v);
    if (!v)
        return tnl_fail(m->err, TNL_E_NOMEM, "no memory for random weights");
    for (int64_t i = 0; i < n; i++) {
        v[i] = is_norm_weight(row->role) ? 1.0f : 0.0f;
        if (row->role == MDL_R_THETA)
            v[i] = (float)pow(10000.0, -2.0 * (double)i / (double)n);
    }
    mdl_weights_of(m->w, layer)->v[row->role] = v;
    return TNL_OK;
}

static tnl_status make_role(void *ctx, const mdl_role_row *row, int layer) {
    maker *m = ctx;
    int64_t dims[3];
    int rank = mdl_role_dims(row, m->spec, layer, dims);
    int64_t n = 1;
    for (int i = 0; i < rank; i++)
        n *= dims[i];
    return row->matrix ? make_matrix(m, row, layer, dims[0], dims[1])
                       : make_vector(m, row, layer, n);
}

static tnl_status add_bytes(void *ctx, const mdl_role_row *row, int layer) {
    maker *m = ctx;
    int64_t dims[3];
    int rank = mdl_role_dims(row, m->spec, layer, dims);
    uint64_t n = (uint64_t)kn_dtypes[row->matrix ? m->dtype : KN_F32].elem_bytes;
    for (int i = 0; i < rank; i++)
        if (!tnl_mul_u64(&n, n, (uint64_t)dims[i]))
            return tnl_fail(m->err, TNL_E_LIMIT, "the size of the weights overflows");
    return tnl_add_u64(&m->bytes, m->bytes, n)
               ? TNL_OK
               : tnl_fail(m->err, TNL_E_LIMIT, "the size of the weights overflows");
}

/* Asking for more than the machine has would end in the kernel's killer, not in an error. */
static tnl_status check_memory(maker *m) {
    TNL_TRY(mdl_weights_each_role(m->spec, add_bytes, m));
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    uint64_t have = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : UINT64_MAX;
    if (m->bytes > have)
        return tnl_fail(m->err, TNL_E_NOMEM,
                        "random weights of this shape take %llu bytes, this machine has %llu",
                        (unsigned long long)m->bytes, (unsigned long long)have);
    return TNL_OK;
}

static tnl_status make_all(maker *m) {
    if (m->dtype != KN_F32 && m->dtype != KN_BF16)
        return tnl_fail(m->err, TNL_E_USAGE, "random weights: found %s, expected f32 or bf16",
                        kn_dtypes[m->dtype].name);
    TNL_TRY(check_memory(m));
    TNL_TRY(mdl_weights_begin(m->w, m->spec, m->err));
    TNL_TRY(tnl_pool_open(&m->pool, tnl_cpu_count(), m->err));
    TNL_TRY(mdl_weights_each_role(m->spec, make_role, m));
    if (m->spec->tied)
        m->w->global.m[MDL_R_HEAD] = m->w->global.m[MDL_R_EMBED];
    mdl_weights_count(m->w, m->spec);
    return TNL_OK;
}

tnl_status mdl_weights_random(mdl_weights *out, const mdl_spec *spec, kn_dtype dtype, uint64_t seed,
                              tnl_error *err) {
    maker m = {.w = out, .spec = spec, .dtype = dtype, .seed = seed, .err = err};
    memset(out, 0, sizeof *out);
    tnl_status s = make_all(&m);
    tnl_pool_close(m.pool);
    if (s != TNL_OK)
        mdl_weights_clear(out, spec);
    return s;
}
