/* The packed weight formats q8, q4 and f8, and the quantised activations that q8 and q4 are
 * multiplied with: layout and scalar definition. A quantised file holds exactly these bytes, so
 * that loading it is mapping it (docs: README, "Quantised weights").
 *
 * A matrix [rows = outputs][cols = inputs] is cut into tiles of 64 outputs, one after another; the
 * last one is filled up with zero weights.
 *
 * q8 and q4: the inputs of a tile are cut into groups of 128; the last group holds what is left,
 * filled up with zero weights to a multiple of 32. A group of g inputs is, in this order:
 *
 *   scales  64 bf16            d of each output
 *   subs    g/16 x 32 bytes    q4 only: signed 4-bit factor of each run of 16 inputs. For the pair
 *                              of runs 2t and 2t+1, byte o holds output o's two factors, the first
 *                              in the low half
 *   codes   q8: g/4 x 256 bytes. Step s holds inputs 4s..4s+3: byte 4 o + i is the weight of output
 *               o and input 4s+i, plus 128 (1..255)
 *           q4: g/8 x 256 bytes. Byte 4 o + i of pair t holds the codes (0..15) of inputs 8t+i (low
 *               half) and 8t+4+i (high half)
 *
 *   weight  q8: d (code - 128)        q4: d sub (code - 8), sub in -8..7
 *
 * Four inputs of sixteen outputs fill one 512-bit register in the order that the integer dot
 * instructions want, whether one row of activations passes or many; a group of 8 KiB stays in the
 * first-level cache while rows pass over it. d sub (code - 8) is an int8 times d, so q4 products
 * are q8 products once the codes are expanded.
 *
 * Activations are quantised row by row in the same groups: q = round(x 127 / max|x|), scale
 * max|x| / 127. The dot product of a group is an exact integer in every instruction set; groups
 * are added in ascending order, y = fma(dot, d scale, y). So all bodies give the same bits.
 *
 * f8: a tile is 64 rows, one after another. A row is, in this order:
 *
 *   codes   one byte an input, e4m3 (kernels/base/half.h); zeros up to a multiple of 16 inputs
 *   scale   f32, the row's d: above zero, at most 2^119. A row without weights has 1
 *   zeros   12 bytes
 *
 *   weight  d e4m3(code)       NaN codes (0x7F, 0xFF) do not occur
 *
 * So the codes of a whole matrix are one row-major matrix of fp8 whose rows are a multiple of 16
 * bytes apart: what tensor cores multiply. Activations are not quantised by this format; a device
 * says what it makes of them. The CPU keeps f32: y = d (sum of x e4m3). */
#ifndef TNL_QUANT_H
#define TNL_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/dtype.h"

enum {
    KN_Q_OUTS = 64,    /* outputs of a tile */
    KN_Q_GROUP = 128,  /* inputs that share a scale */
    KN_Q_UNIT = 32,    /* inputs of a group are filled up to a multiple of this */
    KN_Q4_RUN = 16,    /* inputs that share a factor of q4 */
    KN_Q_SCALES = 128, /* bytes of a group's scales */
    KN_F8_UNIT = 16,   /* inputs of a row of f8 are filled up to a multiple of this */
    KN_F8_TAIL = 16,   /* bytes after its codes: the scale and zeros */
};

/* The largest scale of f8: with the largest code the weight is finite. */
#define KN_F8_SCALE_MOST 0x1p119f

static inline int64_t kn_q_groups(int64_t cols) {
    return (cols + KN_Q_GROUP - 1) / KN_Q_GROUP;
}

/* Whether products with these weights are sums of integers: activations are quantised. */
static inline bool kn_q_integer(kn_dtype t) {
    return t == KN_Q8 || t == KN_Q4;
}

/* Inputs of a row of q8 or q4 with its filling. */
static inline int64_t kn_q_padded(int64_t cols) {
    return (cols + KN_Q_UNIT - 1) / KN_Q_UNIT * KN_Q_UNIT;
}

/* Bytes of a group of g inputs of q8 or q4, g a multiple of KN_Q_UNIT: a multiple of 64. */
static inline int64_t kn_q_group_bytes(kn_dtype t, int64_t g) {
    return KN_Q_SCALES + (t == KN_Q8 ? g * KN_Q_OUTS : 2 * g + g * KN_Q_OUTS / 2);
}

/* Codes of a row of f8 with its filling, and bytes from one row to the next: multiples of 16. */
static inline int64_t kn_f8_padded(int64_t cols) {
    return (cols + KN_F8_UNIT - 1) / KN_F8_UNIT * KN_F8_UNIT;
}
static inline int64_t kn_f8_stride(int64_t cols) {
    return kn_f8_padded(cols) + KN_F8_TAIL;
}

/* Bytes of a tile, a multiple of 64; cols >= 1. */
static inline int64_t kn_q_tile_bytes(kn_dtype t, int64_t cols) {
    if (t == KN_F8)
        return KN_Q_OUTS * kn_f8_stride(cols);
    int64_t last = kn_q_padded(cols) - (kn_q_groups(cols) - 1) * KN_Q_GROUP;
    return (kn_q_groups(cols) - 1) * kn_q_group_bytes(t, KN_Q_GROUP) + kn_q_group_bytes(t, last);
}

/* The scale of a row of f8; `row` is its first code. */
static inline float kn_f8_scale(const void *row, int64_t cols) {
    float d;
    memcpy(&d, (const unsigned char *)row + kn_f8_padded(cols), sizeof d);
    return d;
}

/* dst[0..cols) = row `row` of a packed matrix: the definition of the formats. */
void kn_q_row_to_f32(float *dst, const void *data, kn_dtype t, int64_t cols, int64_t row);

/* Quantised rows of activations. */
typedef struct kn_qrows {
    int8_t *q;    /* [N][ldq], ldq = kn_q_padded(cols); the filling is zero */
    float *scale; /* [N][groups] */
    int32_t *sum; /* [N][groups] sum of q over the group */
    int64_t ldq, groups;
} kn_qrows;

/* Bytes of N quantised rows, and the same memory (64-byte aligned) seen as them. Less than N rows
 * of f32 for any cols >= 4. */
size_t kn_qrows_bytes(int64_t n, int64_t cols);
kn_qrows kn_qrows_at(void *memory, int64_t n, int64_t cols);

#endif
