/* The CUDA runtime behind runtime_cuda.h. Nothing is asked of the driver before a device is opened,
 * so that the program starts where there is none. */
#include "kernels/cuda/runtime_cuda.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <string.h>

static tnl_status failed(const kn_cuda_device *d, tnl_status status, const char *what,
                         cudaError_t e, tnl_error *err) {
    return tnl_fail(err, status, "cuda:%d: %s: %s", d->index, what, cudaGetErrorString(e));
}

static tnl_status find_device(kn_cuda_device *d, tnl_error *err) {
    int n = 0, built = CUDART_VERSION;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaErrorInsufficientDriver)
        return tnl_fail(err, TNL_E_UNAVAILABLE,
                        "cuda:%d: the NVIDIA driver is missing or older than CUDA %d.%d needs",
                        d->index, built / 1000, built % 1000 / 10);
    if (e == cudaErrorNoDevice || (e == cudaSuccess && n == 0))
        return tnl_fail(err, TNL_E_UNAVAILABLE, "cuda:%d: no NVIDIA GPU found", d->index);
    if (e != cudaSuccess)
        return failed(d, TNL_E_UNAVAILABLE, "cannot look for GPUs", e, err);
    if (d->index >= n)
        return tnl_fail(err, TNL_E_UNAVAILABLE, "cuda:%d: found %d GPU%s, counted from 0", d->index,
                        n, n == 1 ? "" : "s");
    return TNL_OK;
}

static tnl_status read_properties(kn_cuda_device *d, tnl_error *err) {
    struct cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceProperties(&p, d->index);
    if (e != cudaSuccess)
        return failed(d, TNL_E_UNAVAILABLE, "cannot read its properties", e, err);
    snprintf(d->name, sizeof d->name, "%s", p.name);
    d->major = p.major;
    d->minor = p.minor;
    d->memory = p.totalGlobalMem;
    d->shared_bytes = p.sharedMemPerBlockOptin;
    if (d->major < 8)
        return tnl_fail(err, TNL_E_UNAVAILABLE,
                        "cuda:%d: %s has compute capability %d.%d, expected 8.0 or later", d->index,
                        d->name, d->major, d->minor);
    if (!p.managedMemory || !p.concurrentManagedAccess)
        return tnl_fail(err, TNL_E_UNAVAILABLE,
                        "cuda:%d: %s: no memory that host and device share at a time", d->index,
                        d->name);
    return TNL_OK;
}

tnl_status kn_cuda_device_open(kn_cuda_device *d, int index, tnl_error *err) {
    memset(d, 0, sizeof *d);
    d->index = index;
    TNL_TRY(find_device(d, err));
    TNL_TRY(read_properties(d, err));
    cudaStream_t stream;
    cudaError_t e = cudaSetDevice(index);
    if (e == cudaSuccess)
        e = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (e != cudaSuccess)
        return failed(d, TNL_E_UNAVAILABLE, "cannot be used", e, err);
    d->stream = stream;
    return TNL_OK;
}

void kn_cuda_device_close(kn_cuda_device *d) {
    if (d->stream)
        cudaStreamDestroy(d->stream);
    d->stream = NULL;
}

/* Engines run on threads of their own, and the current device is a thread's. */
static cudaError_t make_current(const kn_cuda_device *d) {
    return cudaSetDevice(d->index);
}

void *kn_cuda_device_alloc(kn_cuda_device *d, size_t bytes) {
    void *p = NULL;
    if (make_current(d) == cudaSuccess &&
        cudaMallocManaged(&p, bytes ? bytes : 1, cudaMemAttachGlobal) == cudaSuccess &&
        cudaMemsetAsync(p, 0, bytes ? bytes : 1, d->stream) == cudaSuccess &&
        cudaStreamSynchronize(d->stream) == cudaSuccess)
        return p;
    cudaGetLastError(); /* the caller is told by NULL */
    kn_cuda_device_free(d, p);
    return NULL;
}

void *kn_cuda_device_upload(kn_cuda_device *d, const void *from, size_t bytes) {
    void *p = NULL;
    if (make_current(d) == cudaSuccess && cudaMalloc(&p, bytes ? bytes : 1) == cudaSuccess &&
        cudaMemcpyAsync(p, from, bytes, cudaMemcpyHostToDevice, d->stream) == cudaSuccess &&
        cudaStreamSynchronize(d->stream) == cudaSuccess)
        return p;
    cudaGetLastError();
    kn_cuda_device_free(d, p);
    return NULL;
}

void kn_cuda_device_free(kn_cuda_device *d, void *p) {
    if (p && make_current(d) == cudaSuccess)
        cudaFree(p);
}

tnl_status kn_cuda_device_wait(kn_cuda_device *d, tnl_error *err) {
    cudaError_t e = cudaGetLastError(); /* of a launch */
    if (e == cudaSuccess)
        e = cudaStreamSynchronize(d->stream);
    if (e == cudaErrorMemoryAllocation)
        return failed(d, TNL_E_NOMEM, "out of memory", e, err);
    return e == cudaSuccess ? TNL_OK : failed(d, TNL_E_INTERNAL, "lost", e, err);
}
