/* A library in the place of cuBLASLt, under its names: computes on the host, fails when it is told
 * to, and counts what it has handed out. It knows the two kinds of product that are asked of it,
 * and refuses others. Its algorithms are numbered from 1; the first ones have the faults that a
 * test asks for: of each, sums in two pieces in an order of its own. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/blaslt_cuda.h"
#include "tests/checkcuda/fake_lt.h"

#define EXPORT __attribute__((visibility("default")))
enum { REFUSED = 7, NO_MEMORY = 3, NOTHING_FITS = 15 };

typedef struct object {
    int type, transposed;
    uint64_t rows, cols;
    int64_t ld;
    size_t memory;
    uint32_t reductions;
} object;

EXPORT fake_lt_state fake_lt = {.version = 130000, .offered = 3};

static int may_fail(void) {
    return fake_lt.fail_at > 0 && --fake_lt.fail_at == 0 ? NO_MEMORY : KN_LT_OK;
}

static int make(void **out, object value) {
    if (may_fail() != KN_LT_OK)
        return NO_MEMORY;
    object *o = malloc(sizeof *o);
    if (!o)
        return NO_MEMORY;
    *o = value;
    *out = o;
    fake_lt.live++;
    return KN_LT_OK;
}

static int destroy(void *o) {
    free(o);
    fake_lt.live--;
    return KN_LT_OK;
}

EXPORT size_t cublasLtGetVersion(void);
EXPORT int cublasLtCreate(void **lt);
EXPORT int cublasLtDestroy(void *lt);
EXPORT int cublasLtMatmulDescCreate(void **desc, int sum_type, int scale_type);
EXPORT int cublasLtMatmulDescDestroy(void *desc);
EXPORT int cublasLtMatmulDescSetAttribute(void *desc, int what, const void *value, size_t bytes);
EXPORT int cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t cols,
                                      int64_t ld);
EXPORT int cublasLtMatrixLayoutDestroy(void *layout);
EXPORT int cublasLtMatrixLayoutSetAttribute(void *layout, int what, const void *value,
                                            size_t bytes);
EXPORT int cublasLtMatmulPreferenceCreate(void **pref);
EXPORT int cublasLtMatmulPreferenceDestroy(void *pref);
EXPORT int cublasLtMatmulPreferenceSetAttribute(void *pref, int what, const void *value,
                                                size_t bytes);
EXPORT int cublasLtMatmulAlgoGetHeuristic(void *lt, void *desc, void *a, void *b, void *c, void *d,
                                          void *pref, int room, kn_lt_choice *to, int *n);
EXPORT int cublasLtMatmulAlgoConfigGetAttribute(const kn_lt_algo *algo, int what, void *value,
                                                size_t bytes, size_t *written);
EXPORT int cublasLtMatmul(void *lt, void *desc, const void *alpha, const void *a, void *a_layout,
                          const void *b, void *b_layout, const void *beta, const void *c,
                          void *c_layout, void *d, void *d_layout, const kn_lt_algo *algo,
                          void *memory, size_t bytes, kn_cuda_stream stream);

size_t cublasLtGetVersion(void) {
    return fake_lt.version;
}

int cublasLtCreate(void **lt) {
    return make(lt, (object){0});
}

int cublasLtDestroy(void *lt) {
    return destroy(lt);
}

int cublasLtMatmulDescCreate(void **desc, int sum_type, int scale_type) {
    return sum_type == KN_LT_SUM_F32 && scale_type == KN_LT_F32 ? make(desc, (object){0}) : REFUSED;
}

int cublasLtMatmulDescDestroy(void *desc) {
    return destroy(desc);
}

int cublasLtMatmulDescSetAttribute(void *desc, int what, const void *value, size_t bytes) {
    if (what != KN_LT_DESC_TRANS_A || bytes != sizeof(int32_t) || may_fail() != KN_LT_OK)
        return REFUSED;
    ((object *)desc)->transposed = *(const int32_t *)value;
    return KN_LT_OK;
}

int cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t cols, int64_t ld) {
    return make(layout, (object){.type = type, .rows = rows, .cols = cols, .ld = ld});
}

int cublasLtMatrixLayoutSetAttribute(void *layout, int what, const void *value, size_t bytes) {
    object *o = layout;
    if (what != KN_LT_LAYOUT_COLS || bytes != sizeof o->cols || may_fail() != KN_LT_OK)
        return REFUSED;
    memcpy(&o->cols, value, bytes);
    return KN_LT_OK;
}

int cublasLtMatrixLayoutDestroy(void *layout) {
    return destroy(layout);
}

int cublasLtMatmulPreferenceCreate(void **pref) {
    return make(pref, (object){.reductions = 7});
}

int cublasLtMatmulPreferenceDestroy(void *pref) {
    return destroy(pref);
}

int cublasLtMatmulPreferenceSetAttribute(void *pref, int what, const void *value, size_t bytes) {
    object *o = pref;
    if (may_fail() != KN_LT_OK)
        return REFUSED;
    if (what == KN_LT_PREF_MEMORY && bytes == sizeof o->memory)
        memcpy(&o->memory, value, bytes);
    else if (what == KN_LT_PREF_REDUCTIONS && bytes == sizeof o->reductions)
        memcpy(&o->reductions, value, bytes);
    else
        return REFUSED;
    return KN_LT_OK;
}

/* D = A' B as the library counts: columns. */
static int fits(const object *desc, const object *a, const object *b, const object *d) {
    const int64_t unit = a->type == KN_LT_E4M3 ? 16 : 8;
    return desc->transposed == KN_LT_TRANSPOSED &&
           (a->type == KN_LT_BF16 || (a->type == KN_LT_E4M3 && a->cols % 16 == 0)) &&
           b->type == a->type && d->type == KN_LT_F32 && a->rows == b->rows &&
           (int64_t)a->rows % unit == 0 && a->ld % unit == 0 && b->ld % unit == 0 &&
           d->rows == a->cols && d->cols == b->cols && a->ld >= (int64_t)a->rows &&
           b->ld >= (int64_t)b->rows && d->ld >= (int64_t)d->rows;
}

int cublasLtMatmulAlgoGetHeuristic(void *lt, void *desc, void *a, void *b, void *c, void *d,
                                   void *pref, int room, kn_lt_choice *to, int *n) {
    const object *o = pref;
    const uint64_t d_cols = d ? ((const object *)d)->cols : 0;
    *n = 0;
    if (!lt || c != d || !fits(desc, a, b, d) || may_fail() != KN_LT_OK)
        return REFUSED;
    if (o->memory < fake_lt.needs || fake_lt.offered == 0)
        return NOTHING_FITS;
    for (; *n < fake_lt.offered && *n < room; ++*n)
        to[*n] = (kn_lt_choice){.algo.data = {(uint64_t)*n + 1, d_cols}, .memory = fake_lt.needs};
    return KN_LT_OK;
}

int cublasLtMatmulAlgoConfigGetAttribute(const kn_lt_algo *algo, int what, void *value,
                                         size_t bytes, size_t *written) {
    const int splits = (int)algo->data[0] - 1 < fake_lt.fit_first;
    if (bytes != sizeof(int32_t) || may_fail() != KN_LT_OK)
        return REFUSED;
    *(int32_t *)value = what == KN_LT_ALGO_SPLITS ? 1 + splits : 2 * splits;
    *written = bytes;
    return KN_LT_OK;
}

static float value_at(const object *o, const void *p, int64_t at) {
    if (o->type == KN_LT_BF16) {
        uint32_t bits = (uint32_t)((const uint16_t *)p)[at] << 16;
        float f;
        memcpy(&f, &bits, sizeof f);
        return f;
    }
    const int code = ((const unsigned char *)p)[at], power = code >> 3 & 15, rest = code & 7;
    const float f = power ? ldexpf((float)(8 + rest), power - 10) : ldexpf((float)rest, -9);
    return (code & 127) == 127 ? NAN : code & 128 ? -f : f;
}

/* Inputs [0, at) are one sum, the others another one. The split is what an algorithm's fault
 * changes: none has the sum of the good ones. */
static int64_t split_of(const kn_lt_algo *algo, int64_t inputs, int64_t rows, int64_t row) {
    const int number = (int)algo->data[0] - 1 - fake_lt.fit_first;
    if (algo->data[1] == (uint64_t)fake_lt.odd_rows)
        return inputs / 2;
    if (number >= 0 && number < fake_lt.by_rows)
        return rows > 128 ? inputs / 2 : inputs;
    if (number >= 0 && number < fake_lt.by_rows + fake_lt.by_place)
        return row >= 128 ? inputs / 2 : inputs;
    return inputs;
}

/* Inputs one after another, all columns of each: sums go over inputs, side by side. */
static float *widen(const object *o, const void *p) {
    float *x = malloc(o->rows * o->cols * sizeof *x);
    for (uint64_t c = 0; x && c < o->cols; c++)
        for (uint64_t r = 0; r < o->rows; r++)
            x[r * o->cols + c] = value_at(o, p, (int64_t)c * o->ld + (int64_t)r);
    return x;
}

/* sums[out] += inputs [from, to) of a row. */
static void add_inputs(float *restrict sums, const float *restrict w, int64_t outs, const float *x,
                       int64_t ldx, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++)
        for (int64_t out = 0; out < outs; out++)
            sums[out] += w[i * outs + out] * x[i * ldx];
}

/* Inputs that are added up at all. */
static int64_t used_inputs(const kn_lt_algo *algo, int64_t inputs) {
    const int number =
        (int)algo->data[0] - 1 - fake_lt.fit_first - fake_lt.by_rows - fake_lt.by_place;
    return number >= 0 && number < fake_lt.too_few ? inputs - inputs / 4 : inputs;
}

static int multiply(const object *A, const void *a, const object *B, const void *b, const object *D,
                    float *d, const kn_lt_algo *algo) {
    const int64_t inputs = (int64_t)A->rows, rows = (int64_t)D->cols, outs = (int64_t)D->rows;
    const int64_t used = used_inputs(algo, inputs);
    float *w = widen(A, a), *x = widen(B, b), *other = malloc((size_t)outs * sizeof *other);
    for (int64_t row = 0; w && x && other && row < rows; row++) {
        const int64_t at = split_of(algo, inputs, rows, row);
        memset(d + row * D->ld, 0, (size_t)outs * sizeof *d);
        memset(other, 0, (size_t)outs * sizeof *other);
        add_inputs(d + row * D->ld, w, outs, x + row, rows, 0, at < used ? at : used);
        add_inputs(other, w, outs, x + row, rows, at, used);
        for (int64_t out = 0; out < outs; out++)
            d[row * D->ld + out] += other[out];
    }
    const int st = w && x && other ? KN_LT_OK : NO_MEMORY;
    free(w);
    free(x);
    free(other);
    return st;
}

int cublasLtMatmul(void *lt, void *desc, const void *alpha, const void *a, void *a_layout,
                   const void *b, void *b_layout, const void *beta, const void *c, void *c_layout,
                   void *d, void *d_layout, const kn_lt_algo *algo, void *memory, size_t bytes,
                   kn_cuda_stream stream) {
    const object *A = a_layout, *B = b_layout, *D = d_layout;
    (void)stream;
    if (!lt || !fits(desc, A, B, D) || c != d || c_layout != d_layout || algo->data[0] == 0 ||
        bytes < fake_lt.needs || (bytes > 0 && !memory) || *(const float *)alpha != 1 ||
        *(const float *)beta != 0 || may_fail() != KN_LT_OK)
        return REFUSED;
    fake_lt.used = (int)algo->data[0] - 1;
    fake_lt.used_for = (long)algo->data[1];
    if (fake_lt.refuses_rows > 0 && (int64_t)D->cols >= fake_lt.refuses_rows)
        return NOTHING_FITS;
    return multiply(A, a, B, b, D, d, algo);
}
