/* What the backend needs of the CUDA runtime, and nothing more, so that a test can put the host in
 * its place. A device belongs to one thread at a time. What is launched, copied or cleared happens
 * in that order, and is not waited for. */
#ifndef TNL_CUDA_RUNTIME_H
#define TNL_CUDA_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/base/status.h"
#include "kernels/cuda/linattn_cuda.h"

typedef struct kn_cuda_device {
    int index;
    char name[256];      /* as the driver spells it */
    int major, minor;    /* compute capability */
    int processors;      /* multiprocessors */
    size_t memory;       /* bytes in all */
    size_t shared_bytes; /* that a block may have */
    kn_cuda_stream stream;
    int failure; /* of the runtime, not told yet; 0: none */
} kn_cuda_device;

/* Open device `index`. TNL_E_UNAVAILABLE, saying why, without a driver, without that device or with
 * one older than compute capability 8.0. */
tnl_status kn_cuda_device_open(kn_cuda_device *d, int index, tnl_error *err);
/* All memory has been freed before. */
void kn_cuda_device_close(kn_cuda_device *d);

/* Zeroed memory of the device, which the host cannot touch. NULL when there is none left. */
void *kn_cuda_device_alloc(kn_cuda_device *d, size_t bytes);
void kn_cuda_device_free(kn_cuda_device *d, void *p);
/* Zeroed memory of the host that the device copies from and to without help. NULL likewise. */
void *kn_cuda_host_alloc(kn_cuda_device *d, size_t bytes);
void kn_cuda_host_free(kn_cuda_device *d, void *p);

/* Move `rows` runs of `width` bytes, which begin `pitch` bytes apart, between any two places.
 * Memory of the host is read, or holds what it should, after kn_cuda_device_wait. */
void kn_cuda_device_copy(kn_cuda_device *d, void *dst, size_t dst_pitch, const void *src,
                         size_t src_pitch, size_t width, size_t rows);
void kn_cuda_device_clear(kn_cuda_device *d, void *p, size_t bytes);

/* Wait for everything so far. TNL_E_INTERNAL: the device is lost to this process, and every wait
 * from here on says so. Else the first failure since the last wait: TNL_E_NOMEM, or TNL_E_IO for
 * what the device refused to do. */
tnl_status kn_cuda_device_wait(kn_cuda_device *d, tnl_error *err);

/* Launches that were recorded, to be launched again as one. */
typedef void *kn_cuda_graph;

/* From here on launches are recorded, not run. False: the device does not want to. */
bool kn_cuda_record(kn_cuda_device *d);
/* Until here. NULL: what came between cannot be launched as one. Nothing of it has run. */
kn_cuda_graph kn_cuda_record_end(kn_cuda_device *d);
void kn_cuda_graph_launch(kn_cuda_device *d, kn_cuda_graph graph);
void kn_cuda_graph_free(kn_cuda_device *d, kn_cuda_graph graph); /* NULL allowed */

#endif
