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
    d->processors = p.multiProcessorCount;
    d->memory = p.totalGlobalMem;
    d->shared_bytes = p.sharedMemPerBlockOptin;
    if (d->major < 8)
        return tnl_fail(err, TNL_E_UNAVAILABLE,
                        "cuda:%d: %s has compute capability %d.%d, expected 8.0 or later", d->index,
                        d->name, d->major, d->minor);
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

/* The first failure of what was not waited for, for the next wait. */
static void keep_failure(kn_cuda_device *d, cudaError_t e) {
    if (e != cudaSuccess && d->failure == cudaSuccess)
        d->failure = e;
}

/* Engines run on threads of their own, and the current device is a thread's. */
static cudaError_t make_current(const kn_cuda_device *d) {
    return cudaSetDevice(d->index);
}

/* ---- memory ---- */

void *kn_cuda_device_alloc(kn_cuda_device *d, size_t bytes) {
    void *p = NULL;
    if (make_current(d) == cudaSuccess && cudaMalloc(&p, bytes ? bytes : 1) == cudaSuccess &&
        cudaMemsetAsync(p, 0, bytes ? bytes : 1, d->stream) == cudaSuccess)
        return p;
    cudaGetLastError(); /* the caller is told by NULL */
    kn_cuda_device_free(d, p);
    return NULL;
}

void kn_cuda_device_free(kn_cuda_device *d, void *p) {
    if (p && make_current(d) == cudaSuccess)
        cudaFree(p);
}

void *kn_cuda_host_alloc(kn_cuda_device *d, size_t bytes) {
    void *p = NULL;
    if (make_current(d) == cudaSuccess &&
        cudaHostAlloc(&p, bytes ? bytes : 1, cudaHostAllocDefault) == cudaSuccess) {
        memset(p, 0, bytes);
        return p;
    }
    cudaGetLastError();
    return NULL;
}

void kn_cuda_host_free(kn_cuda_device *d, void *p) {
    if (p && make_current(d) == cudaSuccess)
        cudaFreeHost(p);
}

/* A failure is not lost: see keep_failure. */
void kn_cuda_device_copy(kn_cuda_device *d, void *dst, size_t dst_pitch, const void *src,
                         size_t src_pitch, size_t width, size_t rows) {
    cudaError_t e = make_current(d);
    if (width == 0 || rows == 0)
        return;
    if (e == cudaSuccess && rows == 1)
        e = cudaMemcpyAsync(dst, src, width, cudaMemcpyDefault, d->stream);
    else if (e == cudaSuccess)
        e = cudaMemcpy2DAsync(dst, dst_pitch, src, src_pitch, width, rows, cudaMemcpyDefault,
                              d->stream);
    keep_failure(d, e);
}

void kn_cuda_device_clear(kn_cuda_device *d, void *p, size_t bytes) {
    cudaError_t e = make_current(d);
    if (e == cudaSuccess)
        e = cudaMemsetAsync(p, 0, bytes, d->stream);
    keep_failure(d, e);
}

/* ---- waiting ---- */

tnl_status kn_cuda_device_wait(kn_cuda_device *d, tnl_error *err) {
    keep_failure(d, cudaGetLastError()); /* of a launch */
    const cudaError_t launched = (cudaError_t)d->failure, e = cudaStreamSynchronize(d->stream);
    d->failure = cudaSuccess;
    if (e != cudaSuccess)
        return failed(d, TNL_E_INTERNAL, "lost", e, err);
    if (launched == cudaErrorMemoryAllocation)
        return failed(d, TNL_E_NOMEM, "out of memory", launched, err);
    return launched == cudaSuccess ? TNL_OK : failed(d, TNL_E_IO, "refused", launched, err);
}

/* ---- recording ---- */

bool kn_cuda_record(kn_cuda_device *d) {
    /* of this thread alone: another engine's device may allocate meanwhile */
    if (cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess)
        return true;
    cudaGetLastError();
    return false;
}

kn_cuda_graph kn_cuda_record_end(kn_cuda_device *d) {
    cudaGraph_t graph = NULL;
    cudaGraphExec_t made = NULL;
    if (cudaStreamEndCapture(d->stream, &graph) != cudaSuccess ||
        cudaGraphInstantiate(&made, graph, 0) != cudaSuccess)
        made = NULL;
    if (graph)
        cudaGraphDestroy(graph);
    if (!made)
        cudaGetLastError();
    return made;
}

void kn_cuda_graph_launch(kn_cuda_device *d, kn_cuda_graph graph) {
    keep_failure(d, cudaGraphLaunch(graph, d->stream));
}

void kn_cuda_graph_free(kn_cuda_device *d, kn_cuda_graph graph) {
    if (graph && make_current(d) == cudaSuccess)
        cudaGraphExecDestroy(graph);
}
