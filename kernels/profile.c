/* The counting backend: each slot times the real one and adds to the row of its shape. */
#include "kernels/profile.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/threads.h"

struct kn_profile {
    kn_backend base; /* first: a kn_backend pointer of this kind is a kn_profile pointer */
    kn_backend *inner;
    int n;
    kn_profile_row rows[KN_PROFILE_ROWS];
};

static kn_profile *profile_of(kn_backend *be) {
    return (kn_profile *)be;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Of an operation that began at `start`, its end waited for. */
static double seconds_since(kn_profile *p, double start) {
    if (p->inner->check)
        (void)p->inner->check(p->inner, NULL); /* a failure stays, and the step's end tells */
    return now() - start;
}

static bool same_shape(const kn_profile_row *a, const kn_profile_row *b) {
    return a->op == b->op && a->dtype == b->dtype && a->rows == b->rows && a->cols == b->cols &&
           a->heads == b->heads && a->norm == b->norm && a->mul == b->mul && a->two == b->two &&
           a->add == b->add;
}

static void count(kn_profile *p, const kn_profile_row *call) {
    int i = 0;
    while (i < p->n && !same_shape(&p->rows[i], call))
        i++;
    if (i == KN_PROFILE_ROWS)
        i--;
    kn_profile_row *r = &p->rows[i];
    if (i == p->n) {
        *r = *call;
        r->calls = 0;
        r->seconds = r->bytes = r->ops = 0;
        p->n++;
    }
    r->calls++;
    r->seconds += call->seconds;
    r->bytes += call->bytes;
    r->ops += call->ops;
}

static double matrix_bytes(const kn_tensor *w) {
    uint64_t n = 0;
    (void)kn_dtype_matrix_bytes(&n, w->dtype, (uint64_t)w->rows, (uint64_t)w->cols);
    return (double)n;
}

/* ---- slots ---- */

static void embed(kn_backend *be, float *x, int64_t ldx, const kn_tensor *table, const int32_t *ids,
                  int64_t n, float scale) {
    kn_profile *p = profile_of(be);
    double start = now();
    p->inner->ops->embed(p->inner, x, ldx, table, ids, n, scale);
    count(p, &(kn_profile_row){.op = KN_OP_EMBED,
                               .dtype = table->dtype,
                               .cols = table->cols,
                               .seconds = seconds_since(p, start),
                               .bytes = matrix_bytes(table) / (double)table->rows * (double)n});
}

static void linear(kn_backend *be, const kn_linear *q) {
    kn_profile *p = profile_of(be);
    double start = now();
    p->inner->ops->linear(p->inner, q);
    double seconds = seconds_since(p, start), products = q->w2 ? 2 : 1;
    count(p, &(kn_profile_row){.op = KN_OP_LINEAR,
                               .dtype = q->w->dtype,
                               .rows = q->w->rows,
                               .cols = q->w->cols,
                               .norm = q->norm.kind != KN_NORM_NONE,
                               .mul = q->mul != NULL,
                               .two = q->w2 != NULL,
                               .add = q->epi == KN_ADD,
                               .seconds = seconds,
                               .bytes = products * matrix_bytes(q->w),
                               .ops = products * 2.0 * (double)q->n * (double)q->w->rows *
                                      (double)q->w->cols});
}

static void lrpe(kn_backend *be, float *y, int64_t ldy, const float *x, int64_t ldx,
                 const float *theta, const int64_t *pos, int64_t n, int H, int dh) {
    kn_profile *p = profile_of(be);
    double start = now();
    p->inner->ops->lrpe(p->inner, y, ldy, x, ldx, theta, pos, n, H, dh);
    count(p, &(kn_profile_row){
                 .op = KN_OP_LRPE, .heads = H, .cols = dh, .seconds = seconds_since(p, start)});
}

/* Multiply-adds of one head over a segment, times two: q S and the pending pairs of each token, and
 * the fold of each block that it fills. */
static double attention_ops(const kn_linattn_dims *d, int block, int64_t pos, int64_t len) {
    double dk = d->Dk, dv = d->Dv, ops = 0;
    for (int64_t t = pos; t < pos + len; t++)
        ops += 2 * (dk * dv + (double)(t % block + 1) * (dk + dv));
    int64_t folds = (pos + len) / block - pos / block;
    return ops + 2.0 * (double)folds * (block + 1) * dk * dv;
}

static void linattn(kn_backend *be, float *o, int64_t ldo, const float *q, int64_t ldq,
                    const float *k, int64_t ldk, const float *v, int64_t ldv, const kn_decay *decay,
                    const kn_linattn_dims *d, const kn_step *step, size_t state_offset) {
    kn_profile *p = profile_of(be);
    double start = now();
    p->inner->ops->linattn(p->inner, o, ldo, q, ldq, k, ldk, v, ldv, decay, d, step, state_offset);
    kn_profile_row r = {.op = KN_OP_LINATTN,
                        .rows = d->Dk,
                        .cols = d->Dv,
                        .heads = d->H,
                        .seconds = seconds_since(p, start)};
    for (const kn_linattn_seg *s = step->segs; s < step->segs + step->n_segs; s++) {
        if (s->len == 0)
            continue;
        double pending = (double)(s->pos % be->block) * (d->Dk + d->Dv);
        r.bytes += sizeof(float) * d->H * ((double)d->Dk * d->Dv + pending);
        r.ops += d->H * attention_ops(d, be->block, s->pos, s->len);
    }
    count(p, &r);
}

static void gather_rows(kn_backend *be, float *y, int64_t ldy, const float *x, int64_t ldx,
                        const int64_t *rows, int64_t n, int64_t dim) {
    kn_profile *p = profile_of(be);
    double start = now();
    p->inner->ops->gather_rows(p->inner, y, ldy, x, ldx, rows, n, dim);
    count(p,
          &(kn_profile_row){.op = KN_OP_GATHER, .cols = dim, .seconds = seconds_since(p, start)});
}

static void finite_rows(kn_backend *be, bool *ok, const float *x, int64_t ldx, int64_t n,
                        int64_t dim) {
    kn_profile *p = profile_of(be);
    double start = now();
    p->inner->ops->finite_rows(p->inner, ok, x, ldx, n, dim);
    count(p,
          &(kn_profile_row){.op = KN_OP_FINITE, .cols = dim, .seconds = seconds_since(p, start)});
}

static void expect(kn_backend *be, const void *at, size_t bytes) {
    kn_profile *p = profile_of(be);
    p->inner->ops->expect(p->inner, at, bytes);
}

static const kn_ops counting_ops = {.embed = embed,
                                    .linear = linear,
                                    .lrpe = lrpe,
                                    .linattn = linattn,
                                    .gather_rows = gather_rows,
                                    .finite_rows = finite_rows,
                                    .expect = expect};

/* ---- the backend ---- */

static void *forward_alloc(kn_backend *be, size_t bytes, kn_place place) {
    kn_backend *inner = profile_of(be)->inner;
    return inner->alloc(inner, bytes, place);
}

static void forward_free(kn_backend *be, void *memory, kn_place place) {
    kn_backend *inner = profile_of(be)->inner;
    inner->free(inner, memory, place);
}

static void forward_copy(kn_backend *be, void *dst, size_t dst_pitch, const void *src,
                         size_t src_pitch, size_t width, size_t rows) {
    kn_backend *inner = profile_of(be)->inner;
    inner->copy(inner, dst, dst_pitch, src, src_pitch, width, rows);
}

static void forward_clear(kn_backend *be, void *memory, size_t bytes) {
    kn_backend *inner = profile_of(be)->inner;
    inner->clear(inner, memory, bytes);
}

/* Without an owner nothing is recorded: each operation is to be timed. */
static bool forward_begin(kn_backend *be, kn_step *step) {
    kn_backend *inner = profile_of(be)->inner;
    step->owner = NULL;
    return inner->begin(inner, step);
}

static bool forward_end(kn_backend *be) {
    kn_backend *inner = profile_of(be)->inner;
    return inner->end(inner);
}

static double forward_idle_seconds(const kn_backend *be) {
    const kn_backend *inner = ((const kn_profile *)be)->inner;
    return inner->idle_seconds(inner);
}

static void forward_each(kn_backend *be, int64_t n, tnl_pool_fn fn, void *ctx) {
    kn_backend *inner = profile_of(be)->inner;
    inner->each(inner, n, fn, ctx);
}

static const void *forward_adopt(kn_backend *be, const void *p, size_t bytes) {
    kn_backend *inner = profile_of(be)->inner;
    return inner->adopt(inner, p, bytes);
}

static tnl_status forward_check(kn_backend *be, tnl_error *err) {
    kn_backend *inner = profile_of(be)->inner;
    return inner->check(inner, err);
}

static void keep_open(kn_backend *be) {
    (void)be;
}

tnl_status kn_profile_open(kn_profile **out, kn_backend *inner, tnl_error *err) {
    kn_profile *p = *out = calloc(1, sizeof *p);
    if (!p)
        return tnl_fail(err, TNL_E_NOMEM, "no memory for a profile");
    p->inner = inner;
    p->base = *inner;
    p->base.ops = &counting_ops;
    p->base.alloc = forward_alloc;
    p->base.free = forward_free;
    p->base.copy = inner->copy ? forward_copy : NULL;
    p->base.clear = inner->clear ? forward_clear : NULL;
    p->base.begin = inner->begin ? forward_begin : NULL;
    p->base.end = inner->end ? forward_end : NULL;
    p->base.idle_seconds = inner->idle_seconds ? forward_idle_seconds : NULL;
    p->base.each = inner->each ? forward_each : NULL;
    p->base.adopt = inner->adopt ? forward_adopt : NULL;
    p->base.check = inner->check ? forward_check : NULL;
    p->base.close = keep_open;
    return TNL_OK;
}

void kn_profile_close(kn_profile *p) {
    free(p);
}

kn_backend *kn_profile_backend(kn_profile *p) {
    return &p->base;
}

void kn_profile_reset(kn_profile *p) {
    p->n = 0;
}

int kn_profile_rows(const kn_profile *p, const kn_profile_row **rows) {
    *rows = p->rows;
    return p->n;
}

void kn_profile_name(char name[KN_PROFILE_NAME], const kn_profile_row *r) {
    switch (r->op) {
    case KN_OP_EMBED:
        snprintf(name, KN_PROFILE_NAME, "embed %s", kn_dtypes[r->dtype].name);
        break;
    case KN_OP_LINEAR:
        snprintf(name, KN_PROFILE_NAME, "%s%s%s%" PRId64 "x%" PRId64 "%s", r->norm ? "norm " : "",
                 r->mul ? "gate " : "", r->two ? "glu 2x" : "product ", r->rows, r->cols,
                 r->add ? " add" : "");
        break;
    case KN_OP_LRPE:
        snprintf(name, KN_PROFILE_NAME, "lrpe %" PRId64 "x%" PRId64, r->heads, r->cols);
        break;
    case KN_OP_LINATTN:
        snprintf(name, KN_PROFILE_NAME, "attention %" PRId64 "x%" PRId64 "x%" PRId64, r->heads,
                 r->rows, r->cols);
        break;
    case KN_OP_GATHER:
        snprintf(name, KN_PROFILE_NAME, "gather %" PRId64, r->cols);
        break;
    default:
        snprintf(name, KN_PROFILE_NAME, "finite %" PRId64, r->cols);
        break;
    }
}
