/* The norm of this model, whichever kind it is. */
#include "model/internal.h"

void mdl_norm(const mdl_model *m, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t n,
              int64_t dim, const float *w, const float *b) {
    kn_backend *be = m->be;
    if (m->spec.norm == MDL_NORM_SRMS)
        be->ops->srms(be, y, ldy, x, ldx, n, dim, m->spec.norm_eps);
    else
        be->ops->layernorm(be, y, ldy, x, ldx, w, b, n, dim, m->spec.norm_eps);
}
