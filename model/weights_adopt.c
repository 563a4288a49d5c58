/* Weights for a device: every matrix and vector is handed over once, in the order of the files. */
#include "model/arch.h"
#include "model/weights_memory.h"

typedef struct adopter {
    mdl_weights *w;
    const mdl_spec *spec;
    kn_backend *be;
    tnl_error *err;
    uint64_t bytes; /* handed over so far */
} adopter;

static tnl_status hand_over(adopter *a, const void **p, uint64_t bytes) {
    const void *copy = a->be->adopt(a->be, *p, (size_t)bytes);
    if (!copy)
        return tnl_fail(a->err, TNL_E_NOMEM,
                        "%s: no memory for the weights: %.1f MB are there, %.1f MB more do not fit",
                        a->be->name, (double)a->bytes / 1e6, (double)bytes / 1e6);
    a->bytes += bytes;
    *p = copy;
    return TNL_OK;
}

static tnl_status adopt_role(void *ctx, const mdl_role_row *row, int layer) {
    adopter *a = ctx;
    mdl_layer_weights *l = mdl_weights_of(a->w, layer);
    kn_tensor *m = &l->m[row->role];
    uint64_t bytes = sizeof(float);
    int64_t dims[3];
    if (row->matrix) {
        if (!m->data ||
            !kn_dtype_matrix_bytes(&bytes, m->dtype, (uint64_t)m->rows, (uint64_t)m->cols))
            return TNL_OK;
        return hand_over(a, &m->data, bytes);
    }
    const void *v = l->v[row->role];
    if (!v)
        return TNL_OK;
    for (int i = mdl_role_dims(row, a->spec, layer, dims); i > 0; i--)
        bytes *= (uint64_t)dims[i - 1];
    TNL_TRY(hand_over(a, &v, bytes));
    l->v[row->role] = v;
    return TNL_OK;
}

tnl_status mdl_weights_adopt(mdl_weights *w, const mdl_spec *spec, kn_backend *be, tnl_error *err) {
    adopter a = {w, spec, be, err, 0};
    if (!be->adopt)
        return TNL_OK;
    const void *embed = w->global.m[MDL_R_EMBED].data;
    TNL_TRY(mdl_weights_each_role(spec, adopt_role, &a));
    if (w->global.m[MDL_R_HEAD].data == embed) /* tied: the same matrix */
        w->global.m[MDL_R_HEAD].data = w->global.m[MDL_R_EMBED].data;
    return TNL_OK;
}
