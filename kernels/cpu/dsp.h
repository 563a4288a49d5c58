/* The microkernels of the CPU backend: what an instruction set must bring. Operations are written
 * once, in portable C, over this table; dsp_init.c fills it.
 *
 * Order of operations, the same for every number of rows and every register tile:
 *   lane order  16 virtual lanes; lane j sums i = j, j+16, j+32.. ascending with fma, missing
 *               elements of the last group count as zero; then one tree: lane j + lane j+8, then
 *               j+4, j+2, j+1.
 *   step order  one accumulator per output, i ascending, one fma a step.
 * avx2 and avx512 follow it to the bit. ref is the oracle: sums in double (lane order) or one
 * rounded step after the other (step order), so it keeps the promise too, with other bits. Products
 * of q8 and q4 weights are integers within a group: there all bodies, ref too, give the same bits.
 *
 * Pointers may be unaligned. Sizes are >= 1 unless said otherwise. No function reads or writes
 * beyond the elements named in its shapes. The floating-point environment is the default one on
 * every thread: round to nearest, subnormals kept.
 */
#ifndef TNL_KERNELS_CPU_DSP_H
#define TNL_KERNELS_CPU_DSP_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/dtype.h"
#include "kernels/kernels.h"
#include "kernels/quant.h"

/* Most rows of one call of dot_few, and most outputs of one panel of dot_many. */
#define KN_FEW_ROWS 6
#define KN_PANEL_OUTS 40

/* What dot_few and dot_many take an e4m3 code for: its value as an f16 of the same bits. */
#define KN_F8_DOT 0x1p-8f

/* Rows of activations, in blocks of inputs: element (r, i) lies at
 * x[i / block * next + r * ld + i % block]. A few rows of one block stay in the first-level cache
 * while the weights pass by. */
typedef struct kn_xrows {
    const float *x;
    int64_t ld, block, next; /* floats; block is a multiple of 16, or all inputs are one block */
} kn_xrows;

typedef struct kn_dsp {
    const char *isa;

    /* dst[i] = src[i] * scale, src of the row's dtype. */
    void (*widen[KN_PLAIN_COUNT])(float *dst, const void *src, int64_t n, float scale);

    /* y[r][o] = sum over i of x[r][i] w[o][i], lane order; rows <= KN_FEW_ROWS; w [n_out][n_in]
     * as stored: of f8 the codes alone, KN_F8_DOT of their values. Not for q8 and q4. Reads w once,
     * front to back: the kernel for when memory is the limit. */
    void (*dot_few[KN_DTYPE_COUNT])(float *y, int64_t ldy, const float *x, int64_t ldx,
                                    int64_t rows, const void *w, int64_t n_out, int64_t n_in);

    /* The same sums, same bits, for any number of rows, row0.. of x; n_out <= KN_PANEL_OUTS. For
     * when multiply-adds are the limit: w stays in the second-level cache while the rows pass over
     * it. Meanwhile asks memory for next_bytes at next (the next panel of weights; may be 0). */
    void (*dot_many[KN_DTYPE_COUNT])(float *y, int64_t ldy, const kn_xrows *x, int64_t row0,
                                     int64_t rows, const void *w, int64_t n_out, int64_t n_in,
                                     const void *next, int64_t next_bytes);

    /* One row of activations, n >= 1 inputs: q [kn_q_padded(n)], scale and sum [kn_q_groups(n)], as
     * quant.h defines them:
     *   m = max|x| of the group; s = m / 127; q = x * (127 / m) rounded to the nearest integer,
     * ties to even. m below 2^-100: s and q are zero. A NaN or infinity in the group: s is NaN and
     * q zero, so that the outputs are NaN and the request ends. */
    void (*quant_row)(int8_t *q, float *scale, int32_t *sum, const float *x, int64_t n);

    /* y[r][o] = dot products of rows row0.. of x with the 64 outputs of a tile of q8 or q4, any
     * number of rows; y [rows][64], 64-byte aligned. Per group, ascending: y = fma(dot, d s, y)
     * with d s rounded to f32, starting at zero. Asks memory for what follows the tile. */
    void (*qdot[KN_DTYPE_COUNT])(float *y, const kn_qrows *x, int64_t row0, int64_t rows,
                                 const void *tile, int64_t cols);

    /* c[r][j] = (add ? c[r][j] : 0) + sum over i of a[r a_row + i a_col] b[i][j], step order;
     * r < rows, i < n, j < cols. n may be 0. */
    void (*outer)(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_col,
                  const float *b, int64_t ldb, int64_t rows, int64_t n, int64_t cols, bool add);

    /* slow: s[i] += fma(s[i], f, a[i]); fast: s[i] = fma(s[i], f, a[i]) */
    void (*fold_slow)(float *s, const float *a, int64_t n, float f);
    void (*fold_fast)(float *s, const float *a, int64_t n, float f);

    /* y[i] = x[i] * f; y may be x. */
    void (*scale)(float *y, const float *x, int64_t n, float f);

    /* One row of srms and layernorm, see kn_ops; y may be x. */
    void (*srms)(float *y, const float *x, int64_t n, float eps);
    void (*layernorm)(float *y, const float *x, const float *w, const float *b, int64_t n,
                      float eps);

    /* In place on n elements; for KN_ACT_EXP these are one group. */
    void (*act[KN_ACT_COUNT])(float *x, int64_t n);

    /* y[i] = a[i] * b[i]; y may be a or b. */
    void (*mul)(float *y, const float *a, const float *b, int64_t n);

    /* y[i] = x[i] cos(theta[i] pos), y[n+i] = x[i] sin(theta[i] pos); |pos| <= 2^40. */
    void (*lrpe)(float *y, const float *x, const float *theta, int64_t pos, int64_t n);

    bool (*all_finite)(const float *x, int64_t n);
} kn_dsp;

/* Fill *d for an instruction set: "ref", "avx2", "avxvnni", "avx512", "avx512vnni", or NULL for the
 * best there is. A name that is unknown, not built in, or not available on this processor is an
 * error. */
tnl_status kn_dsp_init(kn_dsp *d, const char *isa, tnl_error *err);

/* Names of the instruction sets that kn_dsp_init would accept here, worst first. */
int kn_dsp_available(const char *names[], int cap);

/* The rungs; each overwrites what it has better bodies for. */
void kn_dsp_fill_ref(kn_dsp *d);
void kn_dsp_fill_avx2(kn_dsp *d);
void kn_dsp_fill_avxvnni(kn_dsp *d);
void kn_dsp_fill_avx512(kn_dsp *d);
void kn_dsp_fill_avx512vnni(kn_dsp *d);

#endif
