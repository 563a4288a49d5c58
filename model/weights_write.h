/* Writing packed weights: a model's tensors as safetensors files that a loader only has to map.
 *
 * Matrices are stored in the layout that the kernels read (kernels/quant.h), the rest as it was.
 * A file begins with its packed tensors, whose sizes and offsets are multiples of 64. */
#ifndef TNL_MODEL_WEIGHTS_WRITE_H
#define TNL_MODEL_WEIGHTS_WRITE_H

#include <signal.h>

#include "model/weights.h"

typedef struct mdl_write {
    const char *dir; /* an existing folder; its files must not exist */
    const mdl_spec *spec;
    const mdl_tensors *tensors; /* the source: plain tensors, read part by part; or NULL and */
    const mdl_weights *weights; /* weights in memory */
    kn_dtype type;              /* KN_Q8, KN_Q4 or KN_F8; narrow matrices stay as they are */
    int threads;                /* 0: one per processor */
    uint64_t shard_bytes;       /* a file ends before the tensor that would exceed this */
    mdl_progress_fn progress;   /* NULL allowed */
    void *progress_ctx;
    const volatile sig_atomic_t *stop; /* not 0: give up; NULL allowed */
} mdl_write;

typedef struct mdl_written {
    int files;
    uint64_t bytes;
} mdl_written;

/* On failure some files may be there. */
tnl_status mdl_weights_write(mdl_written *out, const mdl_write *p, tnl_error *err);

/* A new file with these bytes, on the disk when it returns. */
tnl_status mdl_write_file(const char *dir, const char *name, const void *text, size_t n,
                          tnl_error *err);

#endif
