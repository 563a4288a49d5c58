/* What the two ways of computing a linear operation share: linear_plain_cpu.c multiplies rows of
 * f32 with row-major weights, f8 among them; linear_packed_cpu.c quantised rows with tiles of q8
 * and q4. */
#ifndef TNL_KERNELS_CPU_LINEAR_JOB_H
#define TNL_KERNELS_CPU_LINEAR_JOB_H

#include "kernels/cpu/cpu_ops.h"

/* Up to this many rows, row-major weights are best streamed once. */
#define KN_LINEAR_FEW 6

typedef struct linear_job {
    kn_cpu *c;
    const kn_linear *p;
    /* the input rows, in one of three forms */
    const float *a; /* [N][lda] f32, for the few-row path of row-major weights */
    int64_t lda;
    kn_xrows x;   /* [N] f32 in blocks, for their many-row path */
    kn_qrows q;   /* [N] quantised, for q8 and q4 */
    float *spare; /* [min(N, threads)][cols] a row that is on its way to x or q */
    int64_t panel_outs, panels, block_rows; /* of the plain paths */
} linear_job;

void kn_linear_plain(linear_job *j);
void kn_linear_packed(linear_job *j);

/* Everything that follows a finished sum: tiles t of W a and t2 of W2 a (NULL: no w2), [rows] rows
 * of `outs`, ld apart, for output rows r0.. and columns o0... Overwrites the tiles. */
void kn_linear_finish(const linear_job *j, float *t, float *t2, int64_t ld, int64_t r0,
                      int64_t rows, int64_t o0, int64_t outs);

/* Rows of an item, at most `most`, when an item is a panel for a block of rows: whole multiples of
 * `unit`, and so few that every thread gets many items. What a thread waits for at the end is half
 * an item. */
int64_t kn_linear_block_rows(const linear_job *j, int64_t most, int64_t unit);

static inline int64_t kn_min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

#endif
