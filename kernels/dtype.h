/* Element formats as rows of data. Plain formats are fully described here, packed ones in quant.h;
 * adding one means a row, a scalar definition and its dot microkernels. */
#ifndef TNL_DTYPE_H
#define TNL_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kn_dtype {
    KN_F32,
    KN_F16,
    KN_BF16,
    KN_Q8, /* packed, see quant.h */
    KN_Q4,
    KN_F8,
    KN_DTYPE_COUNT,
    KN_PLAIN_COUNT = KN_Q8 /* those before are plain: row-major elements */
} kn_dtype;

typedef struct kn_dtype_row {
    const char *name;          /* as flags and tables spell it: "f32" */
    const char *st_name;       /* as safetensors spells it: "F32"; NULL for packed formats */
    const char *torch_storage; /* as torch pickles spell it: "FloatStorage"; NULL likewise */
    int elem_bytes; /* bytes of an element; 0 for packed formats, whose tiles quant.h has */
} kn_dtype_row;

extern const kn_dtype_row kn_dtypes[KN_DTYPE_COUNT];

/* Bytes of a [rows][cols] matrix, padding of packed formats included. False on overflow. */
bool kn_dtype_matrix_bytes(uint64_t *out, kn_dtype t, uint64_t rows, uint64_t cols);

/* Widen n elements of a plain format at src (aligned to its element or not) to f32. */
void kn_dtype_to_f32(float *dst, const void *src, kn_dtype t, size_t n);

#ifdef __cplusplus
}
#endif
#endif
