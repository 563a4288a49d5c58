/* The launches around products of prompts that cuBLASLt makes (prompt_cuda.h): its input rows, what
 * follows its sums, and what its algorithms are tried on. Pointers are the device's; nothing here
 * waits or fails. */
#ifndef TNL_CUDA_PROMPT_ROWS_H
#define TNL_CUDA_PROMPT_ROWS_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/cuda/linattn_cuda.h"
#include "kernels/kernels.h"

enum {
    KN_CUDA_SLICE_ROWS = 128, /* of a whole slice: kn_backend.prompt_slice */
    KN_CUDA_MAP_RUNS = 64,    /* runs in one launch, which carries them as arguments */
    KN_CUDA_TRIAL_PARTS = 8,  /* of a slice, compared beside one another */
    KN_CUDA_TRIAL_BLOCKS = 128,
};

/* Rows that lie one after another in working memory, in a step run by run: packed rows at[i] ..
 * at[i+1]-1 are the step's rows from row[i]. */
typedef struct kn_cuda_row_map {
    int64_t n_runs;
    int64_t at[KN_CUDA_MAP_RUNS + 1], row[KN_CUDA_MAP_RUNS];
} kn_cuda_row_map;

/* Packed input rows. */
typedef struct kn_cuda_prompt_rows {
    void *a;      /* [n][lda] bf16, or e4m3 where there are scales; filled up with zeros */
    int64_t lda;  /* elements */
    float *scale; /* [n] of e4m3: a row's values are its codes times this */
} kn_cuda_prompt_rows;

/* norm(x) . mul of all packed rows. A row of e4m3 is scaled so that its largest value is 448; one
 * that is not finite gets a NaN for its scale. */
void kn_cuda_prompt_make(const kn_cuda_prompt_rows *to, const kn_linear *p,
                         const kn_cuda_row_map *map, kn_cuda_stream stream);

/* Sums of packed rows [first, first + n): [n][ld], z those of w2. */
typedef struct kn_cuda_prompt_sums {
    const float *y, *z;
    int64_t ld, first, n;
} kn_cuda_prompt_sums;

/* y of these rows: scales where there are any, then all that p asks for. */
void kn_cuda_prompt_finish(const kn_cuda_prompt_sums *s, const kn_cuda_prompt_rows *rows,
                           const kn_linear *p, const kn_cuda_row_map *map, kn_cuda_stream stream);

/* Between the step's rows, ld floats apart, and packed ones of `cols` floats. */
void kn_cuda_prompt_pack(float *packed, const float *rows, int64_t ld, int64_t cols,
                         const kn_cuda_row_map *map, kn_cuda_stream stream);
void kn_cuda_prompt_unpack(float *rows, int64_t ld, const float *packed, int64_t cols,
                           const kn_cuda_row_map *map, kn_cuda_stream stream);

/* n values of both signs and many sizes, the same ones again every `period`: bf16 or e4m3. */
void kn_cuda_trial_fill(void *to, int64_t n, int64_t period, bool e4m3, kn_cuda_stream stream);
/* differs[s][part] = whether slice s of y [slices][KN_CUDA_SLICE_ROWS][ld] has other bits than
 * `want`, the sums of one slice; `outs` of each row are looked at. */
void kn_cuda_trial_compare(uint32_t *differs, const float *y, const float *want, int64_t slices,
                           int64_t outs, int64_t ld, kn_cuda_stream stream);

/* A slice's sums as a trial has them, made from rows a and weights w that kn_cuda_trial_fill made.
 */
typedef struct kn_cuda_trial {
    const void *a, *w;
    int64_t lda, ldw, inputs, outs, ld;
    bool e4m3;
} kn_cuda_trial;

/* differs[KN_CUDA_TRIAL_BLOCKS]: whether a sum of `got` is far from what it should be, of some rows
 * and all outputs. */
void kn_cuda_trial_check(uint32_t *differs, const float *got, const kn_cuda_trial *t,
                         kn_cuda_stream stream);

#ifdef __cplusplus
}
#endif

#endif
