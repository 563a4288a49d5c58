/* Kernels run on the first CUDA device. */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/checkcuda/cc.h"

static struct cudaDeviceProp properties;

static void must(cudaError_t e, const char *what) {
    if (e == cudaSuccess)
        return;
    fprintf(stderr, "checkcuda: %s: %s\n", what, cudaGetErrorString(e));
    exit(2);
}

const char *cc_place_open(uint64_t seed) {
    (void)seed;
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess)
        return cudaGetErrorString(e);
    if (n == 0)
        return "no CUDA device";
    must(cudaSetDevice(0), "device 0");
    must(cudaGetDeviceProperties(&properties, 0), "device 0");
    return NULL;
}

const char *cc_place_name(void) {
    return properties.name;
}

size_t cc_shared_bytes(void) {
    return properties.sharedMemPerBlockOptin;
}

int cc_processors(void) {
    return properties.multiProcessorCount;
}

bool cc_emulated(void) {
    return false;
}

void *cc_device(size_t bytes) {
    return cc_device_fill(bytes, 0xFF);
}

void cc_device_move(void *to, const void *from, size_t bytes) {
    must(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, NULL), "copy");
}

void *cc_device_fill(size_t bytes, int byte) {
    void *p = NULL;
    must(cudaMalloc(&p, bytes ? bytes : 1), "memory");
    must(cudaMemset(p, byte, bytes ? bytes : 1), "memory");
    return p;
}

void *cc_device_copy(const void *host, size_t bytes) {
    void *p = cc_device(bytes);
    must(cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice), "upload");
    return p;
}

void cc_fetch(void *host, const void *device, size_t bytes) {
    must(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost), "download");
}

struct fake_lt_state *cc_fake_lt(void) {
    return NULL;
}

void cc_fail_allocation(int n) {
    (void)n;
}

void cc_device_free(void *p) {
    must(cudaFree(p), "free");
}

const char *cc_sync(void) {
    cudaError_t e = cudaDeviceSynchronize();
    return e == cudaSuccess ? NULL : cudaGetErrorString(e);
}

double cc_time(void (*fn)(void *ctx), void *ctx, int64_t calls) {
    cudaEvent_t begin, end;
    float ms = 0;
    must(cudaEventCreate(&begin), "event");
    must(cudaEventCreate(&end), "event");
    must(cudaEventRecord(begin, NULL), "event");
    for (int64_t i = 0; i < calls; i++)
        fn(ctx);
    must(cudaGetLastError(), "launch");
    must(cudaEventRecord(end, NULL), "event");
    must(cudaEventSynchronize(end), "kernel");
    must(cudaEventElapsedTime(&ms, begin, end), "event");
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return 1e-3 * (double)ms;
}
