/* What the backend needs of the CUDA runtime, and nothing more, so that a test can put the host in
 * its place. A device belongs to one thread at a time. */
#ifndef TNL_CUDA_RUNTIME_H
#define TNL_CUDA_RUNTIME_H

#include <stddef.h>

#include "kernels/base/status.h"
#include "kernels/cuda/linattn_cuda.h"

typedef struct kn_cuda_device {
    int index;
    char name[256];      /* as the driver spells it */
    int major, minor;    /* compute capability */
    size_t memory;       /* bytes in all */
    size_t shared_bytes; /* that a block may have */
    kn_cuda_stream stream;
} kn_cuda_device;

/* Open device `index`. TNL_E_UNAVAILABLE, saying why, without a driver, without that device or with
 * one older than compute capability 8.0. */
tnl_status kn_cuda_device_open(kn_cuda_device *d, int index, tnl_error *err);
/* All memory has been freed before. */
void kn_cuda_device_close(kn_cuda_device *d);

/* Memory that host and device both see, zeroed; the host touches it only after
 * kn_cuda_device_wait. NULL when there is none left. */
void *kn_cuda_device_alloc(kn_cuda_device *d, size_t bytes);
/* Memory that only the device sees, filled from the host's. NULL likewise. */
void *kn_cuda_device_upload(kn_cuda_device *d, const void *from, size_t bytes);
void kn_cuda_device_free(kn_cuda_device *d, void *p);

/* Wait for everything that was launched. An error stays: a device that failed once computes nothing
 * any more for this process. */
tnl_status kn_cuda_device_wait(kn_cuda_device *d, tnl_error *err);

#endif
