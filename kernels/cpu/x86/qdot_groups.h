/* Walking through packed products, the same for every register width: a tile group by group, the
 * rows of a block a register tile at a time (quant.h has the layout, dsp.h the contract). The
 * bodies bring what is done with the rows of a group. */
#ifndef TNL_KERNELS_CPU_QDOT_GROUPS_H
#define TNL_KERNELS_CPU_QDOT_GROUPS_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/x86/dsp_x86.h"

#define FN static inline __attribute__((always_inline))

enum {
    ROWS = 6,   /* most rows of a register tile */
    STEP = 256, /* bytes of codes of one step of four inputs */
};

/* One group of a tile, for rows of one block. */
typedef struct group_args {
    const unsigned char *scales, *subs, *codes;
    const unsigned char *ahead; /* memory to ask for meanwhile */
    int64_t steps;              /* of four inputs */
    const int8_t *q;            /* [rows][ldq] this group's inputs */
    int64_t ldq;
    const float *s;     /* [rows][groups] */
    const int32_t *sum; /* likewise */
    int64_t groups;
    float *y; /* [rows][64] */
} group_args;

typedef void group_fn(const group_args *g, int64_t rows);

/* fn(g, R) with R known to the compiler, as fn_some(g, rows); more than ROWS count as ROWS. */
#define ROW_SWITCH(fn)                                                                             \
    static __attribute__((noinline)) void fn##_some(const group_args *g, int64_t rows) {           \
        switch (rows) {                                                                            \
        case 1:                                                                                    \
            fn(g, 1);                                                                              \
            break;                                                                                 \
        case 2:                                                                                    \
            fn(g, 2);                                                                              \
            break;                                                                                 \
        case 3:                                                                                    \
            fn(g, 3);                                                                              \
            break;                                                                                 \
        case 4:                                                                                    \
            fn(g, 4);                                                                              \
            break;                                                                                 \
        case 5:                                                                                    \
            fn(g, 5);                                                                              \
            break;                                                                                 \
        default:                                                                                   \
            fn(g, 6);                                                                              \
            break;                                                                                 \
        }                                                                                          \
    }

/* The rows from `done` on, `most` at a time. Their weights are in the first-level cache; what is at
 * g.ahead is fetched meanwhile. */
FN void rest_of_rows(group_args g, int64_t done, int64_t rows, const int64_t most, group_fn *some) {
    for (; done < rows; done += most, g.ahead += g.steps * 64) {
        group_args h = g;
        h.q += done * g.ldq;
        h.s += done * g.groups;
        h.sum += done * g.groups;
        h.y += done * KN_Q_OUTS;
        some(&h, rows - done < most ? rows - done : most);
    }
}

/* Groups of a tile, one after the other; of each, memory is asked `ahead` bytes further on, headers
 * included. */
FN void qdot(float *y, const kn_qrows *x, int64_t row0, int64_t rows, const void *tile,
             int64_t cols, const kn_dtype t, const int64_t ahead, group_fn *group) {
    const unsigned char *at = tile;
    memset(y, 0, (size_t)(rows * KN_Q_OUTS) * sizeof *y);
    for (int64_t i = 0, k = 0; i < cols; i += KN_Q_GROUP, k++) {
        int64_t n = kn_q_padded(cols - i < KN_Q_GROUP ? cols - i : KN_Q_GROUP);
        const unsigned char *codes = at + KN_Q_SCALES + (t == KN_Q4 ? 2 * n : 0);
        for (int64_t h = 0; h < codes - at; h += 64)
            _mm_prefetch((const char *)at + ahead + h, _MM_HINT_T0);
        group_args g = {.scales = at,
                        .subs = at + KN_Q_SCALES,
                        .codes = codes,
                        .ahead = codes + ahead,
                        .steps = n / 4,
                        .q = x->q + row0 * x->ldq + i,
                        .ldq = x->ldq,
                        .s = x->scale + row0 * x->groups + k,
                        .sum = x->sum + row0 * x->groups + k,
                        .groups = x->groups,
                        .y = y};
        group(&g, rows);
        at += kn_q_group_bytes(t, n);
    }
}

/* A row of activations, group by group: whole groups with sizes known to the compiler. */
FN void quant_groups(int8_t *q, float *scale, int32_t *sum, const float *x, int64_t n,
                     float (*group)(int8_t *q, int32_t *sum, const float *x, int64_t n,
                                    int64_t padded)) {
    for (int64_t i = 0, k = 0; i < n; i += KN_Q_GROUP, k++) {
        int64_t left = n - i < KN_Q_GROUP ? n - i : KN_Q_GROUP;
        scale[k] = left == KN_Q_GROUP ? group(q + i, sum + k, x + i, KN_Q_GROUP, KN_Q_GROUP)
                                      : group(q + i, sum + k, x + i, left, kn_q_padded(left));
    }
}

#endif
