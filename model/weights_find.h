/* Tensor names to roles, and passes over tensors' values: what binding (weights_bind.c) and writing
 * (weights_write.c) share. Private to model/. */
#ifndef TNL_MODEL_WEIGHTS_FIND_H
#define TNL_MODEL_WEIGHTS_FIND_H

#include "kernels/base/threads.h"
#include "model/weights_memory.h"

/* ---- names and shapes ---- */

typedef struct mdl_finder {
    const mdl_spec *spec;
    const mdl_tensors *t;
    bool *used;                   /* [tensors], owned */
    bool head_bound;              /* the file has a head and we take it */
    bool head_ignored;            /* the file has one that differs, and we do not */
    const mdl_tensor_view *other; /* a matrix whose dtype is not torch_dtype; NULL: none */
    uint64_t bytes;               /* of all tensors that have a role */
    tnl_error *err;
} mdl_finder;

/* Check presence and shape of everything, so that a wrong folder fails at once. f->spec, t and err
 * are set by the caller; mdl_finder_clear after a failure too. */
tnl_status mdl_finder_check(mdl_finder *f);
void mdl_finder_clear(mdl_finder *f);

/* The tensor of a role, plain or packed, its shape checked. A head that is not there is the
 * embedding: *out is NULL. */
tnl_status mdl_find_role(mdl_finder *f, const struct mdl_role_row *row, int layer,
                         const mdl_tensor_view **out);

/* Name of a role's tensor when it is kept as `type`. */
enum { MDL_ROLE_NAME = 128 };
void mdl_role_name(char out[MDL_ROLE_NAME], const struct mdl_role_row *row, int layer,
                   kn_dtype type);

/* Log what is odd but legal. After success only: a refusal is one line. */
void mdl_finder_report(const mdl_finder *f);

/* ---- values ---- */

typedef struct mdl_pass {
    const mdl_tensors *t;
    tnl_pool *pool; /* NULL: one thread */
    mdl_progress_fn progress;
    void *progress_ctx;
    uint64_t done, total;
    tnl_error *err;
} mdl_pass;

/* Rows and columns of a tensor; a vector is one row. */
int64_t mdl_view_rows(const mdl_tensor_view *v);
int64_t mdl_view_cols(const mdl_tensor_view *v);

/* How many rows of a plain tensor make a convenient part: whole tiles. */
int64_t mdl_pass_part(const mdl_tensor_view *v);

/* Look at rows [first, first + n) of a plain tensor; NaN or infinity is an error that names it.
 * With dst, convert them to `to` (any type; first a multiple of KN_Q_OUTS for a packed one) and
 * give the pages of the source back. */
tnl_status mdl_pass_rows(mdl_pass *p, const mdl_tensor_view *v, int64_t first, int64_t n, void *dst,
                         kn_dtype to);

/* The same for all rows. */
tnl_status mdl_pass_all(mdl_pass *p, const mdl_tensor_view *v, void *dst, kn_dtype to);

/* The scales of a packed tensor of a matrix with `cols` inputs are finite, and f8 has no NaN. */
tnl_status mdl_pass_packed(mdl_pass *p, const mdl_tensor_view *v, int64_t cols);

/* What a plain matrix becomes when packing is asked for: `type`, or `stored` where that would not
 * be smaller than bf16 (a narrow matrix is mostly filling). */
kn_dtype mdl_packed_type(kn_dtype type, kn_dtype stored, int64_t rows, int64_t cols);

#endif
