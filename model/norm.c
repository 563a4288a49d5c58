/* The norm of this model, whichever kind it is. */
#include "model/internal.h"

kn_norm mdl_norm(const mdl_model *m, const float *w, const float *b) {
    return (kn_norm){.kind = m->spec.norm == MDL_NORM_SRMS ? KN_NORM_SRMS : KN_NORM_LAYER,
                     .eps = m->spec.norm_eps,
                     .w = w,
                     .b = b};
}

void mdl_expect(const mdl_model *m, const kn_tensor *w) {
    uint64_t bytes = 0;
    if (w->data && kn_dtype_matrix_bytes(&bytes, w->dtype, (uint64_t)w->rows, (uint64_t)w->cols))
        m->be->ops->expect(m->be, w->data, (size_t)bytes);
}
