/* The tensor directory as its readers build it: tensors.c owns it, safetensors.c and torch_zip.c
 * add files' tensors to it. Private to model/. */
#ifndef TNL_MODEL_TENSOR_DIR_H
#define TNL_MODEL_TENSOR_DIR_H

#include "model/file.h"
#include "model/json_read.h"
#include "model/tensors.h"

enum { MDL_MAX_NAME = 512, MDL_MAX_HEADER = 16 << 20, MDL_MAX_SHARDS = 1024 };

typedef struct mdl_tensor_file {
    char *name; /* base name */
    mdl_map map;
} mdl_tensor_file;

struct mdl_tensors {
    mdl_tensor_file *files;
    int n_files;
    mdl_tensor_view *views;
    int64_t count, cap;
    uint32_t *table; /* index + 1 by hash of the name; power of two, at most half full */
    size_t table_size;
    void **copies; /* aligned memory of tensors that were not */
    int64_t n_copies;
};

/* What a reader found out about one tensor; everything is checked again by mdl_dir_add. */
typedef struct mdl_tensor_found {
    json_str name;
    kn_dtype dtype;
    int rank;
    uint64_t dims[MDL_MAX_RANK];
    uint64_t offset, bytes; /* range in the file */
} mdl_tensor_found;

/* Bytes of a shape; false on overflow, which a dimension of 0 does not hide. */
bool mdl_shape_bytes(uint64_t *out, kn_dtype dtype, int rank, const uint64_t *dims);

/* Add a tensor of files[file]. Checks name, range, size and uniqueness; copies the data when the
 * file has it misaligned. */
tnl_status mdl_dir_add(mdl_tensors *t, int file, const mdl_tensor_found *f, tnl_error *err);

/* Element format by a name in a column of the format table. */
bool mdl_dtype_by_st(kn_dtype *out, json_str name);
/* The packed type that a tensor stored as bytes ("U8") has by the end of its name. */
bool mdl_dtype_by_suffix(kn_dtype *out, json_str name);
bool mdl_dtype_by_storage(kn_dtype *out, const char *name, size_t n);

/* Read files[file] into the directory. */
tnl_status mdl_safetensors_read(mdl_tensors *t, int file, tnl_error *err);
tnl_status mdl_torch_zip_read(mdl_tensors *t, int file, tnl_error *err);

#endif
