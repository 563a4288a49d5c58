/* What a launch asks of the runtime beforehand: once for each kernel, since it is the host's time.
 * What has been asked is remembered by the thread that asked (thread_local: engines run on threads
 * of their own), for the device that is current; another thread asks again. So every thread asks
 * for the same, all that a block may have: what one asks for binds the others too. */
#include "kernels/cuda/device.cuh"

namespace {

enum { MOST_KERNELS = 256 };

struct launch_memory {
    bool known, dependent;
    int device, most_shared, n;
    const void *asked[MOST_KERNELS];
};

thread_local launch_memory memory;

void know_device(launch_memory *m) {
    int device = 0, major = 0;
    cudaGetDevice(&device);
    if (m->known && m->device == device)
        return;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&m->most_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    m->known = true;
    m->device = device;
    m->dependent = major >= 9;
    m->n = 0;
}

bool has_asked(const launch_memory *m, const void *kernel) {
    for (int i = 0; i < m->n; i++)
        if (m->asked[i] == kernel)
            return true;
    return false;
}

/* Kernels have dynamic memory only, or what the compiler adds. */
void ask_for_all(launch_memory *m, const void *kernel) {
    cudaFuncAttributes a = {};
    cudaFuncGetAttributes(&a, kernel);
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         m->most_shared - (int)a.sharedSizeBytes);
    if (m->n < MOST_KERNELS)
        m->asked[m->n++] = kernel;
}

} // namespace

bool kn_launch_prepare(const void *kernel, size_t shared) {
    const size_t without_asking = 48 << 10;
    know_device(&memory);
    if (shared > without_asking && !has_asked(&memory, kernel))
        ask_for_all(&memory, kernel);
    return memory.dependent;
}
