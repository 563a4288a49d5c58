/* The host in the place of the CUDA runtime (kernels/cuda/runtime_cuda.h): one device, whose
 * allocations and waits fail when emu_runtime says so. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/runtime_cuda.h"
#include "tests/checkcuda/runtime_emulated.h"

emu_faults emu_runtime;

tnl_status kn_cuda_device_open(kn_cuda_device *d, int index, tnl_error *err) {
    memset(d, 0, sizeof *d);
    d->index = index;
    if (index > 0)
        return tnl_fail(err, TNL_E_UNAVAILABLE, "cuda:%d: found 1 GPU, counted from 0", index);
    snprintf(d->name, sizeof d->name, "emulated");
    d->major = 8;
    d->memory = (size_t)1 << 30;
    d->shared_bytes = 99 << 10;
    return TNL_OK;
}

void kn_cuda_device_close(kn_cuda_device *d) {
    (void)d;
}

void *kn_cuda_device_alloc(kn_cuda_device *d, size_t bytes) {
    (void)d;
    void *p = NULL;
    if (emu_runtime.allocations > 0 && --emu_runtime.allocations == 0)
        return NULL;
    if (posix_memalign(&p, 256, bytes ? bytes : 1) != 0)
        return NULL;
    memset(p, 0, bytes);
    return p;
}

void *kn_cuda_device_upload(kn_cuda_device *d, const void *from, size_t bytes) {
    void *p = kn_cuda_device_alloc(d, bytes);
    if (p)
        memcpy(p, from, bytes);
    return p;
}

void kn_cuda_device_free(kn_cuda_device *d, void *p) {
    (void)d;
    free(p);
}

tnl_status kn_cuda_device_wait(kn_cuda_device *d, tnl_error *err) {
    if (emu_runtime.waits > 0 && --emu_runtime.waits == 0)
        return tnl_fail(err, TNL_E_INTERNAL, "cuda:%d: lost: unspecified launch failure", d->index);
    return TNL_OK;
}
