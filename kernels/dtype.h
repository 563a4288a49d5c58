/* Element formats as rows of data. A format is fully described here and in quantised formats'
 * block structs; adding one means a row, a scalar definition and a dot microkernel. */
#ifndef TNL_DTYPE_H
#define TNL_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kn_dtype { KN_F32, KN_F16, KN_BF16, KN_DTYPE_COUNT } kn_dtype;

typedef struct kn_dtype_row {
    const char *name;      /* as flags and tables spell it: "f32" */
    const char *st_name;   /* as safetensors spells it: "F32" */
    const char *torch_storage; /* as torch pickles spell it: "FloatStorage" */
    int block_elems;       /* elements per block; 1 for plain formats */
    int block_bytes;       /* bytes per block */
} kn_dtype_row;

extern const kn_dtype_row kn_dtypes[KN_DTYPE_COUNT];

/* Bytes of a [rows][cols] matrix; cols must be a multiple of block_elems. False on overflow. */
bool kn_dtype_matrix_bytes(uint64_t *out, kn_dtype t, uint64_t rows, uint64_t cols);

/* Widen n elements at src (aligned to its element or not) to f32. The format's definition. */
void kn_dtype_to_f32(float *dst, const void *src, kn_dtype t, size_t n);

#ifdef __cplusplus
}
#endif
#endif
