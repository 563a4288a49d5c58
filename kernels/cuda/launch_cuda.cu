/* What a launch asks of the runtime beforehand: once for each kernel, since it is the host's time.
 * What has been asked is remembered by the thread that asked (thread_local: engines run on threads
 * of their own), for the device that is current; another thread asks again. */
#include "kernels/cuda/device.cuh"

namespace {

enum { MOST_KERNELS = 128 };

struct asked {
    const void *kernel;
    size_t shared;
};

struct launch_memory {
    bool known, dependent;
    int device, n;
    asked kernels[MOST_KERNELS];
};

thread_local launch_memory memory;

void know_device(launch_memory *m) {
    int device = 0, major = 0;
    cudaGetDevice(&device);
    if (m->known && m->device == device)
        return;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    m->known = true;
    m->device = device;
    m->dependent = major >= 9;
    m->n = 0;
}

/* True where the kernel has been given as much. */
bool has_asked(launch_memory *m, const void *kernel, size_t shared) {
    for (int i = 0; i < m->n; i++)
        if (m->kernels[i].kernel == kernel) {
            const bool enough = m->kernels[i].shared >= shared;
            m->kernels[i].shared = enough ? m->kernels[i].shared : shared;
            return enough;
        }
    if (m->n < MOST_KERNELS)
        m->kernels[m->n++] = {kernel, shared};
    return false;
}

} // namespace

bool kn_launch_prepare(const void *kernel, size_t shared) {
    const size_t without_asking = 48 << 10;
    know_device(&memory);
    if (shared > without_asking && !has_asked(&memory, kernel, shared))
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    return memory.dependent;
}
