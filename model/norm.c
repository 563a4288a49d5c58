/* The norm of this model, whichever kind it is. */
#include "model/internal.h"

kn_norm mdl_norm(const mdl_model *m, const float *w, const float *b) {
    return (kn_norm){.kind = m->spec.norm == MDL_NORM_SRMS ? KN_NORM_SRMS : KN_NORM_LAYER,
                     .eps = m->spec.norm_eps,
                     .w = w,
                     .b = b};
}
