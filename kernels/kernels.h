/* THE kernel interface: what a device must be able to compute. model/ sees this file, dtype.h, the
 * packed formats (quant.h, quant_pack.h) and kernels/base, nothing else of kernels/.
 *
 * Letters used in every shape comment:
 *   N  packed rows of a step (tokens of all sequences, one after another)
 *   C  model width          H  heads            Dk, Dv  key and value size of one head
 *   F  GLU width            V  vocabulary       G  rank of a low-rank gate
 *   B  block length of the canonical state (kn_backend.block)
 * Activations are f32, row-major, with a leading dimension in elements ("ld") per matrix.
 *
 * The promise all slots keep: every output row is a function of its own input row (and of its own
 * sequence's state), computed in one fixed order of operations. Not of N, not of the row's
 * position in the batch, not of the number of threads. The model's promise that bytes of logits
 * depend on the token sequence alone stands on this.
 *
 * Sizes are validated where a model is loaded; slots cannot fail and only assert.
 * A backend is used by one thread at a time (the engine's); it spreads work over its own pool.
 */
#ifndef TNL_KERNELS_H
#define TNL_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "kernels/dtype.h"
#include "kernels/pick.h"

typedef struct kn_backend kn_backend;

/* A weight matrix [rows = outputs][cols = inputs]: row-major as published, `data` aligned to its
 * element at least; or packed (quant.h), `data` aligned to 64 bytes. The memory belongs to whoever
 * loaded it. */
typedef struct kn_tensor {
    const void *data;
    kn_dtype dtype;
    int64_t rows, cols;
} kn_tensor;

typedef enum kn_act {
    KN_ACT_NONE,
    KN_ACT_GELU, /* exact: x * Phi(x) with erf */
    KN_ACT_RELU,
    KN_ACT_ELU, /* alpha 1 */
    KN_ACT_SIGMOID,
    KN_ACT_EXP,  /* exp(x - max of the group): see act_group */
    KN_ACT_LEAK, /* leaky relu, slope 0.01 */
    KN_ACT_1PELU,
    KN_ACT_2PELU,
    KN_ACT_SILU,
    KN_ACT_SINE,
    KN_ACT_COUNT
} kn_act;

/* What linear does with a finished output. */
typedef enum kn_epilogue {
    KN_STORE, /* y  = W x (+ bias) */
    KN_ADD,   /* y += W x (+ bias): the residual */
} kn_epilogue;

typedef enum kn_norm_kind {
    KN_NORM_NONE,
    KN_NORM_SRMS,  /* a = x rsqrt(mean(x^2) + eps) */
    KN_NORM_LAYER, /* a = (x - mean) / sqrt(var + eps) w + b */
} kn_norm_kind;

typedef struct kn_norm {
    kn_norm_kind kind;
    float eps;
    const float *w, *b; /* [dim] KN_NORM_LAYER only */
} kn_norm;

/* y (+)= act(W a + bias), a = norm(x) . mul, with what belongs before and after a product done in
 * the same pass. Every field that is zero is left out; n, x, w, y and work are always needed. The
 * steps are those of the separate operations, in this order, rounded the same. */
typedef struct kn_linear {
    int64_t n; /* N rows */
    /* the input rows */
    const float *x; /* [N][w->cols] */
    int64_t ldx;
    kn_norm norm;
    const float *mul; /* [N][w->cols], NULL: none. a = norm(x) . mul: the gate */
    int64_t ldmul;
    /* the products */
    const kn_tensor *w;
    const float *bias;   /* [w->rows], NULL: none */
    const kn_tensor *w2; /* as w; NULL: none. y = (W a + bias) . (W2 a + bias2): the GLU */
    const float *bias2;
    /* the outputs */
    kn_act act; /* in place on columns [0, act_cols) of W a + bias */
    int64_t act_cols;
    int64_t act_group; /* KN_ACT_EXP takes the maximum over each run of so many columns (divides
                          act_cols); needs KN_STORE and no w2. The others ignore it */
    kn_epilogue epi;
    float *y; /* [N][w->rows]; not x (unless there is a norm), mul or work */
    int64_t ldy;
    /* The rows are those of the step (kn_step), all of them in order: those of whole slices may go
     * their own way (kn_backend.prompt_slice) */
    bool in_step;
    /* kn_linear_work_bytes(be, n, w->cols) bytes, 64-byte aligned: holds a */
    void *work;
} kn_linear;

/* Bytes of kn_linear.work, enough for every weight type. */
size_t kn_linear_work_bytes(const kn_backend *be, int64_t n, int64_t cols);

typedef struct kn_linattn_dims {
    int H, Dk, Dv;
} kn_linattn_dims;

/* Decay tables of one layer, built in double (kn_decay_fill). s[h] > 0 is the head's slope. */
typedef struct kn_decay {
    const float *pow;  /* [H][B+1]  exp(-s n), n = 0..B */
    const float *fold; /* [H]       expm1(-s B): the complement, see kn_linattn in ops */
    /* [H] s itself, for a device that makes tables of its own. pow says which layer it is: it lives
     * as long as the backend */
    const double *slopes;
} kn_decay;

/* One sequence's share of a step.
 *
 * The canonical state of a layer after p tokens, per head h (head-major, one run of memory):
 *   S [Dk][Dv]  everything up to the last block boundary b = floor(p/B) B
 *   K [B][Dk], V [B][Dv]  the pending rows of tokens b..p-1; rows beyond are not read
 * kn_linattn_state_floats() elements in all, 64-byte aligned. A sequence's state is that of all its
 * layers, one after another. */
typedef struct kn_linattn_seg {
    float *state;       /* of this sequence, updated in place */
    int64_t pos;        /* p: tokens absorbed before this step */
    int64_t first, len; /* rows [first, first+len) of the packed batch; len 0 is legal */
} kn_linattn_seg;

/* f32 elements in one layer's state of one sequence; a multiple of 16. */
size_t kn_linattn_state_floats(const kn_linattn_dims *d, int block);

/* Fill decay tables: pow [H][B+1], fold [H], from slopes s [H] (double). */
void kn_decay_fill(float *pow, float *fold, const double *s, int H, int block);

/* A step: what its operations compute on. The caller fills it in, in memory of the host. */
typedef struct kn_step {
    const void *owner;          /* the memory on the device that its operations work in */
    int64_t n;                  /* N rows */
    const int32_t *ids;         /* [N] tokens */
    const int64_t *pos;         /* [N] absolute positions */
    const kn_linattn_seg *segs; /* [n_segs] all rows in order */
    int64_t n_segs;
    const int64_t *wanted; /* [n_wanted] rows whose logits are wanted, ascending */
    int64_t n_wanted;
    const kn_pick_how *how; /* [n_wanted] of their logits; NULL: `pick` is not called */
} kn_step;

typedef struct kn_ops {
    /* x[n][:] = table[ids[n]][:] * scale.  table [V][C] any weight dtype; x [N][C] ld. */
    void (*embed)(kn_backend *be, float *x, int64_t ldx, const kn_tensor *table, const int32_t *ids,
                  int64_t n, float scale);

    /* See kn_linear. Each output sums over the inputs in an order that depends on w alone. Packed
     * weights multiply activations quantised row by row (quant.h). */
    void (*linear)(kn_backend *be, const kn_linear *p);

    /* LRPE: y [N][H][2 dh] = [x cos(theta p) | x sin(theta p)] from x [N][H][dh] (row stride ldx),
     * theta [H][dh] f32, pos [N] absolute positions. The phase is formed and reduced in double. */
    void (*lrpe)(kn_backend *be, float *y, int64_t ldy, const float *x, int64_t ldx,
                 const float *theta, const int64_t *pos, int64_t n, int H, int dh);

    /* Lightning Attention over the step's segments, in the layer whose state begins state_offset
     * floats into the sequence's. q, k rows [H][Dk] (stride ldq, ldk), v, o rows [H][Dv] (ldv,
     * ldo). For the token at r = p mod B in its block, per head: o = exp(-s (r+1)) * (q S) + sum
     * over i = 0..r ascending of exp(-s (r-i)) (q . k_i) v_i where q S sums over Dk ascending; a
     * full block folds into the state in one order: a = sum over j ascending of (exp(-s (B-1-j))
     * k_j) v_j^T S += fma(S, expm1(-s B), a)   where expm1(-s B) >= -1/2: a slow head keeps its
     * digits S = fma(S, exp(-s B), a)      else: a fast head forgets, rounding errors included
     * Source: Lightning Attention-2 (arXiv 2401.04658), in the canonical form of ARCHITECTURE.md.
     */
    void (*linattn)(kn_backend *be, float *o, int64_t ldo, const float *q, int64_t ldq,
                    const float *k, int64_t ldk, const float *v, int64_t ldv, const kn_decay *decay,
                    const kn_linattn_dims *d, const kn_step *step, size_t state_offset);

    /* y[n][0..dim) = x[rows[n]][0..dim). */
    void (*gather_rows)(kn_backend *be, float *y, int64_t ldy, const float *x, int64_t ldx,
                        const int64_t *rows, int64_t n, int64_t dim);

    /* ok[n] = every element of x[n][0..dim) is finite. */
    void (*finite_rows)(kn_backend *be, bool *ok, const float *x, int64_t ldx, int64_t n,
                        int64_t dim);

    /* out[n] = what how[n] says of row x[n][0..dim), dim <= KN_PICK_MOST: see pick.h. A function
     * that is NULL: rows of logits are the caller's to sample. */
    void (*pick)(kn_backend *be, kn_picked *out, const float *x, int64_t ldx, int64_t n,
                 int64_t dim, const kn_pick_how *how);

    /* A hint: the operation after the next one begins by reading `bytes` at p, front to back. */
    void (*expect)(kn_backend *be, const void *p, size_t bytes);
} kn_ops;

/* Where memory is: operations work on the device's. Where that is the host itself, it is all one.
 */
typedef enum kn_place {
    KN_ON_DEVICE, /* the host does not touch it, but moves bytes with kn_copy */
    KN_ON_HOST,   /* the host's, from where and to where kn_copy is fastest */
} kn_place;

struct kn_backend {
    const char *name; /* "cpu", "cuda" */
    const char *isa;  /* a rung of cpu/dsp.h: "ref", "avx2", ... "avx512vnni"; or "sm_90" */
    int block;        /* B */
    /* P, a multiple of B; 0: none. A segment's tokens kP .. kP+P-1, where it has all of them, may
     * be computed in an arithmetic of their own (tensor cores); all others in one that knows no
     * slices. The promise above then holds for texts that are cut alike: see model/forward.h. */
    int prompt_slice;
    int threads;
    kn_linattn_dims most; /* Dk and Dv that linattn takes; 0: any */
    const kn_ops *ops;
    /* Zeroed memory, 64-byte aligned. NULL when there is none left. */
    void *(*alloc)(kn_backend *be, size_t bytes, kn_place place);
    void (*free)(kn_backend *be, void *p, kn_place place);
    /* Move `rows` runs of `width` bytes, which begin `pitch` bytes apart, and clear bytes on the
     * device: in the order of operations. Memory of the host is as it should be after `check`. NULL
     * where the device is the host: see kn_copy and kn_clear. */
    void (*copy)(kn_backend *be, void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                 size_t width, size_t rows);
    void (*clear)(kn_backend *be, void *p, size_t bytes);
    /* The operations from here to `end` are those of a step. Its pointers to ids, pos, wanted and
     * how become those of the device's copies. False: operations of such a step were recorded, and
     * are launched again as a whole: the caller leaves them out, and goes on with `end`. A step is
     * like another one if the owner's memory and the numbers of rows are the same, and every
     * segment is one token. What was recorded is forgotten when the owner's memory is freed. A
     * function that is NULL: nothing needs to be done, and it is as if true had come back. */
    bool (*begin)(kn_backend *be, kn_step *step);
    /* False: the operations were to be recorded, and could not: the caller begins again. */
    bool (*end)(kn_backend *be);
    /* Seconds so far in which the device had nothing to do, from the end of a step to the begin of
     * the next. NULL: not counted. */
    double (*idle_seconds)(const kn_backend *be);
    /* Call fn(ctx, begin, end, worker), worker in 0..threads-1 and no two at once with the same, on
     * ranges that make up [0, n); returns when all are done. For what the caller computes between
     * operations. NULL: this backend has no threads to lend. */
    void (*each)(kn_backend *be, int64_t n,
                 void (*fn)(void *ctx, int64_t begin, int64_t end, int worker), void *ctx);
    /* Weights that operations may read, for `bytes` at p: a device's copy, which lives as long as
     * the backend, one for each p. NULL when there is no memory left. A function that is NULL:
     * weights are read where they are. */
    const void *(*adopt)(kn_backend *be, const void *p, size_t bytes);
    /* Waits until all operations are done; what went wrong since the last check. TNL_E_INTERNAL:
     * the device is lost, and will not compute again. Else, memory that was short for instance,
     * what the operations should have written is worth nothing, and the next ones start afresh.
     * With err NULL a failure is kept for the next check. A function that is NULL: operations are
     * done when they return. */
    tnl_status (*check)(kn_backend *be, tnl_error *err);
    void (*close)(kn_backend *be);
};

/* Open the CPU backend. threads 0: one per available processor. isa NULL: the value of TNL_CPU,
 * else the best this processor has; a name it does not have is an error. */
tnl_status kn_cpu_open(kn_backend **out, int threads, const char *isa, tnl_error *err);

/* Open CUDA device `index`; threads as above, for `each`. TNL_E_UNAVAILABLE, saying why, where
 * there is no such device, no driver, or where this program was built without CUDA. */
tnl_status kn_cuda_open(kn_backend **out, int index, int threads, tnl_error *err);

/* Open a backend by name: "cpu" (or NULL), "cuda" (the first device), "cuda:N", or "auto": the
 * first CUDA device, else the CPU. isa is the CPU's. */
tnl_status kn_open(kn_backend **out, const char *device, int threads, const char *isa,
                   tnl_error *err);

/* be->copy and be->clear, on any backend. */
void kn_copy(kn_backend *be, void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
             size_t width, size_t rows);
void kn_clear(kn_backend *be, void *p, size_t bytes);

/* NULL allowed. */
void kn_backend_close(kn_backend *be);

#endif
