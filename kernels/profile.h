/* A backend that counts: it forwards every operation to another one and keeps, for each kind of
 * operation and shape, calls, time, and the bytes and operations needed. Who does not open one pays
 * nothing.
 *
 * What is counted as needed:
 *   linear     bytes of the weights; two operations for each weight and row
 *   linattn    bytes of the state matrices once a segment and of its pending rows; two operations
 *              for each multiply-add of the formulas in kernels.h
 *   embed      bytes of the rows looked up
 * Activations and what is written are not counted: they stay in the caches, or should.
 *
 * Used by one thread at a time, like the backend it wraps. */
#ifndef TNL_KERNELS_PROFILE_H
#define TNL_KERNELS_PROFILE_H

#include "kernels/kernels.h"

typedef enum kn_profile_op {
    KN_OP_EMBED,
    KN_OP_LINEAR,
    KN_OP_LRPE,
    KN_OP_LINATTN,
    KN_OP_GATHER,
    KN_OP_FINITE,
    KN_OP_COUNT
} kn_profile_op;

typedef struct kn_profile_row {
    kn_profile_op op;
    kn_dtype dtype;           /* of the weights (embed, linear) */
    int64_t rows, cols;       /* linear: of the matrix. linattn: Dk, Dv. Others: the row */
    int64_t heads;            /* linattn, lrpe */
    bool norm, mul, two, add; /* linear: what is fused into it */
    int64_t calls;
    double seconds, bytes, ops;
} kn_profile_row;

enum { KN_PROFILE_ROWS = 64, KN_PROFILE_NAME = 64 };

typedef struct kn_profile kn_profile;

/* `inner` stays the caller's and must outlive the profile. */
tnl_status kn_profile_open(kn_profile **out, kn_backend *inner, tnl_error *err);
void kn_profile_close(kn_profile *p); /* NULL allowed; inner stays open */

/* The counting backend; its close slot does nothing. */
kn_backend *kn_profile_backend(kn_profile *p);

void kn_profile_reset(kn_profile *p);

/* The rows so far, in the order of their first call; valid until the next operation. Shapes beyond
 * KN_PROFILE_ROWS share the last row. */
int kn_profile_rows(const kn_profile *p, const kn_profile_row **rows);

/* "norm product 4096x1024 q8": for tables. */
void kn_profile_name(char name[KN_PROFILE_NAME], const kn_profile_row *row);

#endif
