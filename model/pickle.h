/* The part of Python's pickle format that a saved state dict needs, and nothing more.
 *
 * A pickle is a program for a stack machine. Ours knows the opcodes that torch.save writes and
 * builds plain values only: nothing is imported, nothing is called. Three globals have a meaning
 * (an ordered dict, rebuilding a tensor, the storage types); every other global and every other
 * opcode is refused by name. Memory is bounded by a small multiple of the pickle's bytes. */
#ifndef TNL_MODEL_PICKLE_H
#define TNL_MODEL_PICKLE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "kernels/dtype.h"
#include "model/tensors.h"

typedef struct mdl_pickled_tensor {
    const char *name, *storage; /* into the pickle, not NUL-terminated */
    size_t name_len, storage_len;
    kn_dtype dtype;
    uint64_t storage_elems; /* as the pickle says */
    uint64_t offset;        /* elements into the storage */
    int rank;
    uint64_t dims[MDL_MAX_RANK], strides[MDL_MAX_RANK]; /* elements */
} mdl_pickled_tensor;

typedef tnl_status (*mdl_pickle_fn)(void *ctx, const mdl_pickled_tensor *t, tnl_error *err);

/* Run the pickle at p and hand each tensor of the dict it builds to fn, in order. Entries that are
 * not tensors are ignored. `file` is named in messages. */
tnl_status mdl_pickle_tensors(const unsigned char *p, size_t n, const char *file, mdl_pickle_fn fn,
                              void *ctx, tnl_error *err);

#endif
