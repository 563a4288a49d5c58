/* Binding: every role is found and its shape checked first, so that a wrong folder fails at once;
 * then one pass over the values finds NaN and infinity and converts where asked. */
#include <stdlib.h>
#include <string.h>

#include "model/arch.h"
#include "model/weights_find.h"

typedef struct binder {
    mdl_weights *w;
    const mdl_spec *spec;
    mdl_weight_mode mode;
    mdl_finder find;
    mdl_pass pass;
    tnl_error *err;
} binder;

static kn_dtype kept_as(mdl_weight_mode mode, const mdl_tensor_view *v) {
    switch (mode) {
    case MDL_W_F32:
        return KN_F32;
    case MDL_W_BF16:
        return KN_BF16;
    case MDL_W_Q8:
        return mdl_packed_type(KN_Q8, v->dtype, v->dims[0], v->dims[1]);
    case MDL_W_Q4:
        return mdl_packed_type(KN_Q4, v->dtype, v->dims[0], v->dims[1]);
    case MDL_W_F8:
        return mdl_packed_type(KN_F8, v->dtype, v->dims[0], v->dims[1]);
    default:
        return v->dtype;
    }
}

/* A folder that is packed already is taken as it is. */
static tnl_status check_mode(const binder *b) {
    static const mdl_weight_mode of[KN_DTYPE_COUNT] = {
        [KN_Q8] = MDL_W_Q8, [KN_Q4] = MDL_W_Q4, [KN_F8] = MDL_W_F8};
    if (!b->spec->quantized || b->mode == MDL_W_AUTO || b->mode == of[b->spec->packed])
        return TNL_OK;
    return tnl_fail(b->err, TNL_E_UNSUPPORTED,
                    "weights: found %s asked of a folder quantised as %s, expected auto or %s",
                    mdl_weight_mode_names[b->mode], kn_dtypes[b->spec->packed].name,
                    kn_dtypes[b->spec->packed].name);
}

static tnl_status copy_to(binder *b, const mdl_tensor_view *v, kn_tensor *out, kn_dtype to) {
    uint64_t bytes;
    void *copy = kn_dtype_matrix_bytes(&bytes, to, (uint64_t)out->rows, (uint64_t)out->cols)
                     ? mdl_weights_alloc(b->w, bytes)
                     : NULL;
    if (!copy)
        return tnl_fail(b->err, TNL_E_NOMEM, "%s: tensor \"%s\": no memory for a copy in %s",
                        v->file, v->name, kn_dtypes[to].name);
    out->data = copy;
    out->dtype = to;
    return mdl_pass_all(&b->pass, v, copy, to);
}

static tnl_status load_matrix(binder *b, const mdl_tensor_view *v, const int64_t *dims,
                              kn_tensor *out) {
    *out = (kn_tensor){.data = v->data, .dtype = v->dtype, .rows = dims[0], .cols = dims[1]};
    if (v->dtype < KN_PLAIN_COUNT && kept_as(b->mode, v) != v->dtype)
        return copy_to(b, v, out, kept_as(b->mode, v));
    b->w->bytes_mapped += v->bytes;
    return v->dtype < KN_PLAIN_COUNT ? mdl_pass_all(&b->pass, v, NULL, v->dtype)
                                     : mdl_pass_packed(&b->pass, v, dims[1]);
}

static tnl_status load_vector(binder *b, const mdl_tensor_view *v, const float **out) {
    uint64_t n = v->bytes / (uint64_t)kn_dtypes[v->dtype].elem_bytes;
    float *copy = mdl_weights_alloc(b->w, n * sizeof *copy);
    if (!copy)
        return tnl_fail(b->err, TNL_E_NOMEM, "%s: tensor \"%s\": no memory for a copy in f32",
                        v->file, v->name);
    *out = copy;
    return mdl_pass_all(&b->pass, v, copy, KN_F32);
}

static tnl_status load_role(void *ctx, const mdl_role_row *row, int layer) {
    binder *b = ctx;
    const mdl_tensor_view *v;
    int64_t dims[3];
    mdl_layer_weights *lw = mdl_weights_of(b->w, layer);
    TNL_TRY(mdl_find_role(&b->find, row, layer, &v));
    if (!v)
        return TNL_OK;
    mdl_role_dims(row, b->spec, layer, dims);
    return row->matrix ? load_matrix(b, v, dims, &lw->m[row->role])
                       : load_vector(b, v, &lw->v[row->role]);
}

static tnl_status bind(binder *b) {
    TNL_TRY(mdl_weights_begin(b->w, b->spec, b->err));
    TNL_TRY(check_mode(b));
    TNL_TRY(mdl_finder_check(&b->find));
    b->pass.total = b->find.bytes;
    if (b->spec->quantized || b->mode >= MDL_W_Q8)
        TNL_TRY(tnl_pool_open(&b->pass.pool, tnl_cpu_count(), b->err));
    TNL_TRY(mdl_weights_each_role(b->spec, load_role, b));
    if (!b->find.head_bound)
        b->w->global.m[MDL_R_HEAD] = b->w->global.m[MDL_R_EMBED];
    mdl_weights_count(b->w, b->spec);
    mdl_finder_report(&b->find);
    return TNL_OK;
}

tnl_status mdl_weights_bind(mdl_weights *out, const mdl_spec *spec, const mdl_tensors *t,
                            mdl_weight_mode mode, mdl_progress_fn progress, void *progress_ctx,
                            tnl_error *err) {
    binder b = {
        .w = out,
        .spec = spec,
        .mode = mode,
        .find = {.spec = spec, .t = t, .err = err},
        .pass = {.t = t, .progress = progress, .progress_ctx = progress_ctx, .err = err},
        .err = err,
    };
    tnl_status s = bind(&b);
    mdl_finder_clear(&b.find);
    tnl_pool_close(b.pass.pool);
    if (s != TNL_OK)
        mdl_weights_clear(out, spec);
    return s;
}
