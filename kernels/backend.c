/* What all backends share: the layout of the canonical state, decay tables, moving bytes, opening
 * by name. */
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/log.h"
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

void kn_copy(kn_backend *be, void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
             size_t width, size_t rows) {
    if (be->copy) {
        be->copy(be, dst, dst_pitch, src, src_pitch, width, rows);
        return;
    }
    for (size_t i = 0; i < rows; i++)
        memcpy((char *)dst + i * dst_pitch, (const char *)src + i * src_pitch, width);
}

void kn_clear(kn_backend *be, void *p, size_t bytes) {
    if (be->clear)
        be->clear(be, p, bytes);
    else
        memset(p, 0, bytes);
}

/* The number behind "cuda:"; -1: not one. */
static int device_index(const char *device) {
    if (strcmp(device, "cuda") == 0)
        return 0;
    if (strncmp(device, "cuda:", 5) != 0 || device[5] < '0' || device[5] > '9')
        return -1;
    char *end;
    errno = 0;
    long n = strtol(device + 5, &end, 10);
    return *end || errno || n > 1023 ? -1 : (int)n;
}

tnl_status kn_open(kn_backend **out, const char *device, int threads, const char *isa,
                   tnl_error *err) {
    *out = NULL;
    if (!device || strcmp(device, "cpu") == 0)
        return kn_cpu_open(out, threads, isa, err);
    if (strcmp(device, "auto") == 0) {
        tnl_error why;
        if (kn_cuda_open(out, 0, threads, &why) == TNL_OK)
            return TNL_OK;
        tnl_log(TNL_LOG_DEBUG, "computing on the CPU: %s", why.msg);
        return kn_cpu_open(out, threads, isa, err);
    }
    int index = device_index(device);
    if (index < 0)
        return tnl_fail(err, TNL_E_USAGE,
                        "device: found \"%s\", expected auto, cpu, cuda or cuda:N", device);
    return kn_cuda_open(out, index, threads, err);
}

void kn_backend_close(kn_backend *be) {
    if (be)
        be->close(be);
}
