/* checkkern: holds every microkernel and every operation to an oracle, and times them.
 *
 * A check draws sizes and inputs from the context's generator, calls the body under test on
 * guarded buffers and compares. What a body must not touch is poisoned: memory around a buffer,
 * gaps between rows and unwritten outputs hold one NaN pattern, buffers end at (or begin after) a
 * page that may not be read, inputs are frozen, and ck_buffers_done finds any byte that changed. */
#ifndef TNL_CHECKKERN_H
#define TNL_CHECKKERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cpu/dsp.h"
#include "kernels/kernels.h"

#define CK_MOST_BUFS 128
#define CK_MOST_ISAS 5

typedef struct ck_buf {
    unsigned char *map, *begin; /* of the readable part and of the buffer */
    size_t map_bytes, readable, bytes;
    int64_t rows, cols, ld, elem; /* columns beyond cols are gaps */
} ck_buf;

typedef struct ck {
    uint64_t seed, rng;
    const char *filter;
    const char *isas[CK_MOST_ISAS];
    int n_isas;
    bool bench;
    /* now running */
    const char *test, *isa;
    long cases, failures;
    ck_buf bufs[CK_MOST_BUFS];
    int n_bufs;
} ck;

/* Random numbers. */
uint64_t ck_random(ck *k);
int64_t ck_between(ck *k, int64_t lo, int64_t hi); /* both included */
double ck_uniform(ck *k);                          /* [0, 1) */

/* Shapes of data. */
typedef enum ck_fill {
    CK_NORMAL, /* about -3..3 */
    CK_ZEROS,  /* +0 and -0 */
    CK_SUBNORMAL,
    CK_OUTLIERS, /* small with a few of 1e4 */
    CK_LARGE,    /* 1e15: squares and products stay below overflow */
    CK_SAME,     /* one value */
    CK_FILLS
} ck_fill;
const char *ck_fill_name(ck_fill f);
void ck_values(ck *k, ck_fill f, float *x, int64_t n);

/* Guarded buffers of rows x cols elements, ld apart; all bytes start poisoned. Matrices of 2-byte
 * elements start at any 2-byte address, f32 at any 4-byte address. */
void *ck_matrix(ck *k, int64_t rows, int64_t cols, int64_t ld, int64_t elem);
float *ck_f32(ck *k, int64_t rows, int64_t cols, int64_t ld); /* poisoned */
float *ck_filled(ck *k, ck_fill f, int64_t rows, int64_t cols, int64_t ld);
/* A weight matrix of values of about `size`, of any type. */
kn_tensor ck_weights(ck *k, kn_dtype t, int64_t rows, int64_t cols, double size);
/* From now on nobody may write to any buffer that there is. */
void ck_freeze(ck *k);
/* Check what lies around all buffers and free them; what: parameters for the message. */
void ck_buffers_done(ck *k, const char *what);

float ck_weight(const kn_tensor *w, int64_t row, int64_t col);
float *ck_weights_f32(const kn_tensor *w); /* [rows][cols], to be freed */

/* q8 and q4, read by the letter of quant.h: a weight is *d times the integer. */
kn_tensor ck_packed(ck *k, kn_dtype t, int64_t rows, int64_t cols, double size);
int ck_packed_weight(const kn_tensor *w, int64_t row, int64_t col, float *d);
/* One row of inputs quantised with scalar arithmetic; q [kn_q_padded(n)]. */
void ck_quantise(int8_t *q, float *scale, int32_t *sum, const float *x, int64_t n);
/* A packed matrix taken apart. */
typedef struct ck_ints {
    int16_t *code; /* [rows][cols] */
    float *d;      /* [rows][groups] */
} ck_ints;
ck_ints ck_unpack(const kn_tensor *w);
void ck_ints_free(ck_ints *u);
/* Its products with a quantised row, y [rows]. */
void ck_packed_dots(float *y, const kn_tensor *w, const ck_ints *u, const int8_t *q,
                    const float *scale);

/* f8, by the letter of quant.h too: the value of a code, the scale of its row. */
kn_tensor ck_f8(ck *k, int64_t rows, int64_t cols, double size);
float ck_f8_value(const kn_tensor *w, int64_t row, int64_t col);
float ck_f8_scale(const kn_tensor *w, int64_t row);

/* Comparisons; each counts as one case and reports its first difference. */
typedef struct ck_tol {
    double rel; /* of the expected value */
    double abs; /* always allowed */
} ck_tol;
/* An activation in double (not KN_ACT_EXP), and what its bodies may be off. */
double ck_act(kn_act kind, double x);
ck_tol ck_act_tol(kn_act kind);
bool ck_near(ck *k, const char *what, const float *got, const double *want, int64_t n, ck_tol tol);
bool ck_same_bits(ck *k, const char *what, const float *got, const float *want, int64_t n);
bool ck_same_rows(ck *k, const char *what, const float *got, const float *want, int64_t rows,
                  int64_t cols, int64_t ld);
void ck_expect(ck *k, bool ok, const char *what);
bool ck_section(ck *k, const char *name); /* does the filter want it? sets the name */

/* The parts, one file each. */
void ck_check_dots(ck *k);
void ck_check_outer(ck *k);
void ck_check_rows(ck *k);
void ck_check_act(ck *k);
void ck_check_lrpe(ck *k);
void ck_check_packed(ck *k);
void ck_check_linear(ck *k);
void ck_check_simple_ops(ck *k);
void ck_check_linattn(ck *k);
void ck_check_pool(ck *k);
void ck_check_open(ck *k);
void ck_bench_all(ck *k);

#endif
