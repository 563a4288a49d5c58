/* The tensors of a model folder: one validated directory over safetensors files or torch zip
 * archives (sharded or not), memory-mapped read-only.
 *
 * After mdl_tensors_open every entry's bytes lie inside its file's map, shape times element size
 * equals the byte range, and no name appears twice. Values are not looked at here. Views live as
 * long as the directory. Any one thread. */
#ifndef TNL_MODEL_TENSORS_H
#define TNL_MODEL_TENSORS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "kernels/dtype.h"

enum { MDL_MAX_RANK = 8 };

/* Packed matrices (kernels/quant.h) are stored as bytes, dims [tiles][bytes of a tile], under a
 * name that ends with their type: "....l1.q8" instead of "....l1.weight". Then dtype is KN_Q8,
 * KN_Q4 or KN_F8. */
typedef struct mdl_tensor_view {
    const char *name;
    const char *file; /* base name of the file it lies in, for messages */
    const void *data; /* inside the map, or a copy: aligned to its element, packed to 64 bytes */
    uint64_t bytes;
    uint64_t file_offset;
    kn_dtype dtype;
    int rank;
    int64_t dims[MDL_MAX_RANK];
} mdl_tensor_view;

typedef struct mdl_tensors mdl_tensors;

typedef enum mdl_load_mode {
    MDL_LOAD_MAP,  /* map the files */
    MDL_LOAD_READ, /* read them into private memory: immune to a file changing underneath */
} mdl_load_mode;

/* Looks in DIR for model.safetensors.index.json, model.safetensors, pytorch_model.bin.index.json,
 * pytorch_model.bin, in this order. */
tnl_status mdl_tensors_open(mdl_tensors **out, const char *dir, mdl_load_mode mode, tnl_error *err);
void mdl_tensors_close(mdl_tensors *t); /* NULL allowed */

int64_t mdl_tensors_count(const mdl_tensors *t);
const mdl_tensor_view *mdl_tensors_at(const mdl_tensors *t, int64_t i);
const mdl_tensor_view *mdl_tensors_find(const mdl_tensors *t, const char *name); /* or NULL */
uint64_t mdl_tensors_file_bytes(const mdl_tensors *t); /* sum of all mapped files */

/* [p, p + bytes) of a tensor will not be looked at again soon: a mapped file gives its pages back
 * to the page cache. They stay readable. */
void mdl_tensors_release(const mdl_tensors *t, const void *p, uint64_t bytes);

/* The mapped file that holds address p, or NULL: for the SIGBUS handler (async-signal-safe). */
const char *mdl_tensors_file_of(const mdl_tensors *t, const void *p);

#endif
