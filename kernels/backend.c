/* What all backends share: the layout of the canonical state, decay tables, closing. */
#include <assert.h>
#include <math.h>

#include "kernels/kernels.h"

size_t kn_linattn_state_floats(const kn_linattn_dims *d, int block) {
    assert(d->H > 0 && d->Dk > 0 && d->Dv > 0 && block > 0);
    size_t Dk = (size_t)d->Dk, Dv = (size_t)d->Dv, B = (size_t)block;
    size_t n = (size_t)d->H * (Dk * Dv + B * Dk + B * Dv);
    return (n + 15) / 16 * 16;
}

void kn_decay_fill(float *pow, float *fold, const double *s, int H, int block) {
    for (int h = 0; h < H; h++) {
        for (int n = 0; n <= block; n++)
            pow[(size_t)h * ((size_t)block + 1) + (size_t)n] = (float)exp(-s[h] * n);
        fold[h] = (float)expm1(-s[h] * block);
    }
}

void kn_backend_close(kn_backend *be) {
    if (be)
        be->close(be);
}
