/* Weights of a published shape without the download: every row is a function of the seed, its role
 * and its number, so the bytes do not depend on how many threads write them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/checked.h"
#include "kernels/base/half.h"
#include "kernels/base/splitmix.h"
#include "kernels/quant_pack.h"
#include "model/arch.h"
#include "model/weights_find.h"

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
    int64_t rows, cols;
    float scale; /* of the uniform range, or d: variance 1/cols keeps a product of order one */
    uint64_t seed;
} fill;

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
        uint32_t row = (uint32_t)tnl_splitmix(f->seed + (uint64_t)r);
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

/* ---- packed ---- */

/* Codes are uniform in -127..127 (q8), in -8..7 with factors of 4..7 and -8..-5 (q4), or the
 * nearest to what is uniform in -448..448 (f8); this is the mean square of what d is multiplied
 * with. */
static double code_power(kn_dtype t) {
    return t == KN_Q8 ? 5461.0 : t == KN_Q4 ? 21.5 * 37.5 : 448.0 * 448.0 / 3;
}

/* About f->scale: no two outputs have the same. */
static float random_scale(const fill *f, int o, uint32_t row) {
    return f->scale * (0.75f + 0.5f * (float)(noise((uint32_t)o, ~row) >> 8) * 0x1p-24f);
}

/* bytes of noise at p, four at a time. */
static void fill_bytes(unsigned char *p, int64_t n, uint32_t row) {
    for (int64_t i = 0; i + 4 <= n; i += 4) {
        uint32_t x = noise((uint32_t)i, row);
        memcpy(p + i, &x, sizeof x);
    }
}

static void fill_group(unsigned char *group, const fill *f, int64_t g, uint32_t row) {
    const int64_t bytes = kn_q_group_bytes(f->dtype, g), subs = f->dtype == KN_Q4 ? 2 * g : 0;
    fill_bytes(group + KN_Q_SCALES, bytes - KN_Q_SCALES, row);
    for (int o = 0; o < KN_Q_OUTS; o++) {
        uint16_t h = tnl_bf16_from_f32(random_scale(f, o, row));
        memcpy(group + 2 * o, &h, sizeof h);
    }
    for (unsigned char *p = group + KN_Q_SCALES; p < group + KN_Q_SCALES + subs; p++)
        *p = (unsigned char)((*p & 0xBB) | (~*p >> 1 & 0x44)); /* 4..7 or -8..-5 */
    for (unsigned char *p = group + KN_Q_SCALES; f->dtype == KN_Q8 && p < group + bytes; p++)
        *p |= *p == 0; /* 0 is not a code */
}

static void fill_f8_tile(unsigned char *codes, const fill *f, int64_t tile) {
    for (int o = 0; o < KN_Q_OUTS; o++, codes += kn_f8_stride(f->cols)) {
        uint32_t row = (uint32_t)tnl_splitmix(f->seed + (uint64_t)(tile * KN_Q_OUTS + o));
        float d = random_scale(f, o, row);
        for (int64_t i = 0; i < f->cols; i++)
            codes[i] = tnl_e4m3_from_f32(uniform((uint32_t)i, row, TNL_E4M3_MOST * 0x1p-31f));
        memcpy(codes + kn_f8_padded(f->cols), &d, sizeof d);
    }
}

static void fill_groups(unsigned char *tile, const fill *f, int64_t t) {
    for (int64_t at = 0; at < f->cols; at += KN_Q_GROUP) {
        int64_t left = f->cols - at, g = kn_q_padded(left < KN_Q_GROUP ? left : KN_Q_GROUP);
        fill_group(tile, f, g, (uint32_t)tnl_splitmix(f->seed + (uint64_t)(t << 24 | at)));
        tile += kn_q_group_bytes(f->dtype, g);
    }
}

static void fill_tiles(void *ctx, int64_t begin, int64_t end, int worker) {
    const fill *f = ctx;
    const int64_t bytes = kn_q_tile_bytes(f->dtype, f->cols);
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        unsigned char *tile = (unsigned char *)f->data + t * bytes;
        int64_t outs = f->rows - t * KN_Q_OUTS;
        if (f->dtype == KN_F8)
            fill_f8_tile(tile, f, t);
        else
            fill_groups(tile, f, t);
        if (outs < KN_Q_OUTS || f->cols % KN_Q_UNIT || f->dtype == KN_F8)
            kn_q_clear_filling(tile, f->dtype, outs < KN_Q_OUTS ? outs : KN_Q_OUTS, f->cols);
    }
}

/* ---- roles ---- */

static kn_dtype matrix_type(const maker *m, int64_t rows, int64_t cols) {
    return m->dtype < KN_PLAIN_COUNT ? m->dtype : mdl_packed_type(m->dtype, KN_BF16, rows, cols);
}

static tnl_status make_matrix(maker *m, const mdl_role_row *row, int layer, int64_t rows,
                              int64_t cols) {
    const kn_dtype type = matrix_type(m, rows, cols);
    const double power = 1.0 / (double)cols;
    uint64_t bytes;
    void *data = kn_dtype_matrix_bytes(&bytes, type, (uint64_t)rows, (uint64_t)cols)
                     ? mdl_weights_alloc(m->w, bytes)
                     : NULL;
    if (!data)
        return tnl_fail(m->err, TNL_E_NOMEM, "no memory for random weights");
    fill f = {.data = data,
              .dtype = type,
              .rows = rows,
              .cols = cols,
              .scale = (float)(type < KN_PLAIN_COUNT ? sqrt(3.0 * power) * 0x1p-31
                                                     : sqrt(power / code_power(type))),
              .seed = tnl_splitmix(m->seed ^
                                   tnl_splitmix(((uint64_t)(uint32_t)layer << 32) + row->role))};
    if (type < KN_PLAIN_COUNT)
        tnl_pool_run(m->pool, rows, (1 << 16) / cols + 1, fill_rows, &f);
    else
        tnl_pool_run(m->pool, (rows + KN_Q_OUTS - 1) / KN_Q_OUTS, 1, fill_tiles, &f);
    mdl_weights_of(m->w, layer)->m[row->role] =
        (kn_tensor){.data = data, .dtype = type, .rows = rows, .cols = cols};
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
    uint64_t n = 0, vector = sizeof(float);
    bool fits = true;
    for (int i = 0; i < rank && !row->matrix; i++)
        fits &= tnl_mul_u64(&vector, vector, (uint64_t)dims[i]);
    if (row->matrix)
        fits = kn_dtype_matrix_bytes(&n, matrix_type(m, dims[0], dims[1]), (uint64_t)dims[0],
                                     (uint64_t)dims[1]);
    return fits && tnl_add_u64(&m->bytes, m->bytes, row->matrix ? n : vector)
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
    if (m->dtype == KN_F16 || m->spec->quantized)
        return tnl_fail(m->err, TNL_E_USAGE,
                        "random weights: found %s, expected a plain shape and f32, bf16, q8, q4 "
                        "or f8",
                        m->spec->quantized ? "quantization_config" : kn_dtypes[m->dtype].name);
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
