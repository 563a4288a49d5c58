/* Large products by NVIDIA's cuBLASLt, of bf16 or of e4m3 with sums in f32. The library is looked
 * for when a program runs and never linked with. prompt_cuda.c multiplies prompts with it; the
 * benchmark takes one product as a limit beside the rate of mma.sync. What is used of the library's
 * interface is declared here by hand, since not every toolkit brings its header; where there is
 * one, blaslt_header.c holds these declarations to it while compiling.
 *
 * A product's algorithms are a function of its shape, the device and the library's version: those
 * of the library's own list, nothing is timed, that sum in one piece (no split of the inputs, no
 * reduction afterwards). So the bytes are the same from run to run. They are not those of
 * kn_cuda_linear, whose order of sums is its own. */
#ifndef TNL_CUDA_BLASLT_H
#define TNL_CUDA_BLASLT_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/base/status.h"
#include "kernels/cuda/linattn_cuda.h"

/* ---- the library's interface ---- */

enum {
    KN_LT_OLDEST = 120000, /* 12.0.0 */
    KN_LT_OK = 0,
    KN_LT_F32 = 0, /* cudaDataType */
    KN_LT_BF16 = 14,
    KN_LT_E4M3 = 28,
    KN_LT_SUM_F32 = 68,     /* cublasComputeType_t */
    KN_LT_TRANSPOSED = 1,   /* cublasOperation_t */
    KN_LT_DESC_TRANS_A = 3, /* attribute: int32 */
    KN_LT_LAYOUT_COLS = 3,  /* attribute: uint64 */
    KN_LT_PREF_MEMORY = 1,  /* attributes: size_t, uint32 */
    KN_LT_PREF_REDUCTIONS = 3,
    KN_LT_ALGO_SPLITS = 2, /* attributes: int32, uint32 */
    KN_LT_ALGO_REDUCTION = 3,
};

typedef struct kn_lt_algo {
    uint64_t data[8];
} kn_lt_algo;

typedef struct kn_lt_choice {
    kn_lt_algo algo;
    size_t memory; /* that it works in */
    int state;
    float waves;
    int reserved[4];
} kn_lt_choice;

/* Handles, descriptors and layouts are pointers that only the library follows. Functions return a
 * status. */
typedef struct kn_lt_api {
    size_t (*version)(void);
    int (*create)(void **lt);
    int (*destroy)(void *lt);
    int (*desc_create)(void **desc, int sum_type, int scale_type);
    int (*desc_destroy)(void *desc);
    int (*desc_set)(void *desc, int what, const void *value, size_t bytes);
    int (*layout_create)(void **layout, int type, uint64_t rows, uint64_t cols, int64_t ld);
    int (*layout_destroy)(void *layout);
    int (*layout_set)(void *layout, int what, const void *value, size_t bytes);
    int (*pref_create)(void **pref);
    int (*pref_destroy)(void *pref);
    int (*pref_set)(void *pref, int what, const void *value, size_t bytes);
    int (*choices)(void *lt, void *desc, void *a, void *b, void *c, void *d, void *pref, int room,
                   kn_lt_choice *to, int *n);
    int (*algo_get)(const kn_lt_algo *algo, int what, void *value, size_t bytes, size_t *written);
    int (*multiply)(void *lt, void *desc, const void *alpha, const void *a, void *a_layout,
                    const void *b, void *b_layout, const void *beta, const void *c, void *c_layout,
                    void *d, void *d_layout, const kn_lt_algo *algo, void *memory, size_t bytes,
                    kn_cuda_stream stream);
} kn_lt_api;

/* Finds the library: the file that TNL_CUBLASLT names, else libcublasLt.so.13 or .12 where the
 * loader looks, in $CUDA_HOME/lib64 and in /usr/local/cuda/lib64. It stays loaded.
 * TNL_E_UNAVAILABLE, saying why, where there is none or it lacks a function. */
tnl_status kn_lt_load(kn_lt_api *api, tnl_error *err);

/* ---- one product ---- */

/* y [rows][ldy] f32 = a [rows][lda] times w [outs][ldw], transposed, both of `inputs` columns. */
typedef struct kn_lt_shape {
    int64_t rows; /* as many as there will be */
    int64_t outs, inputs, ldy;
    int64_t lda, ldw; /* 0: inputs */
    bool e4m3;        /* a and w; else bf16 */
} kn_lt_shape;

typedef struct kn_lt_product kn_lt_product;

/* A product that may be repeated. memory: `bytes` of the device's for the algorithm to work in, 256
 * bytes aligned, which outlive the product; NULL and 0: none. TNL_E_UNAVAILABLE where the library
 * is older than KN_LT_OLDEST or knows no algorithm that will do. Needs inputs, lda and ldw in whole
 * 16 bytes and ldy % 4 == 0, of e4m3 outs % 16 == 0 as well; w, a and y 256 bytes aligned. */
tnl_status kn_lt_open(kn_lt_product **out, const kn_lt_api *api, const kn_lt_shape *shape,
                      void *memory, size_t bytes, tnl_error *err);
/* All rows, by the first algorithm of the library's list. Launched, not waited for. */
tnl_status kn_lt_run(const kn_lt_product *p, float *y, const void *a, const void *w,
                     kn_cuda_stream stream, tnl_error *err);
/* Algorithms that will do for so many rows, in the library's order; returns how many. */
int kn_lt_choices(kn_lt_product *p, int64_t rows, kn_lt_algo *to, int room);
/* So many rows by this algorithm, whichever number it was chosen for. */
tnl_status kn_lt_run_rows(const kn_lt_product *p, const kn_lt_algo *algo, int64_t rows, float *y,
                          const void *a, const void *w, kn_cuda_stream stream, tnl_error *err);
/* NULL allowed. Everything launched has been waited for. */
void kn_lt_close(kn_lt_product *p);

#ifdef __cplusplus
}
#endif

#endif
