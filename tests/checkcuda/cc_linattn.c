/* Lightning Attention: outputs against the quadratic form in double, states against the recurrence
 * in double, both computed from the bf16 values that the device gets; the step in bits against
 * itself, alone and beside others; sizes that fill no tile, rows at odd addresses, states that
 * begin anywhere in a block. And whole slices of a prompt in bits, however they are cut into parts
 * and calls. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/half.h"
#include "kernels/cuda/linattn_cuda.h"
#include "tests/checkcuda/cc.h"

enum { MOST_SEGS = 4, B = KN_CUDA_BLOCK };

typedef struct attn_case {
    kn_linattn_dims d;
    kn_dtype dtype;
    int64_t n_segs, pos[MOST_SEGS], len[MOST_SEGS], first[MOST_SEGS], rows, part_tokens;
    int64_t ldq, ldk, ldv, ldo;
    float *q, *k, *v;        /* [rows][ld] the values, whatever the type */
    float *state[MOST_SEGS]; /* before */
    float *after[MOST_SEGS]; /* and as the device left them */
    float *o;                /* [rows][ldo] */
    double slope[8];
    size_t floats;       /* of a state */
    size_t offset;       /* of it in the memory of a sequence */
    size_t shared_bytes; /* of a block of the device */
    char what[160];
} attn_case;

static void *need(size_t n, size_t size) {
    void *p = calloc(n ? n : 1, size);
    if (!p)
        exit(2);
    return p;
}

static float *draw_rows(cc *c, int64_t n, kn_dtype dtype) {
    float *x = need((size_t)n, sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)cc_normal(c);
        if (dtype == KN_BF16)
            x[i] = tnl_f32_from_bf16(tnl_bf16_from_f32(x[i]));
    }
    return x;
}

/* S filled, pending rows in use filled, the others NaN. */
static float *draw_state(cc *c, const attn_case *a, int64_t pos) {
    float *s = draw_rows(c, (int64_t)a->floats, KN_BF16);
    const size_t Dk = (size_t)a->d.Dk, Dv = (size_t)a->d.Dv, used = (size_t)(pos % B);
    for (size_t h = 0; h < (size_t)a->d.H; h++) {
        float *K = s + h * (Dk * Dv + B * (Dk + Dv)) + Dk * Dv, *V = K + B * Dk;
        for (size_t i = used * Dk; i < B * Dk; i++)
            K[i] = NAN;
        for (size_t i = used * Dv; i < B * Dv; i++)
            V[i] = NAN;
    }
    return s;
}

/* Segment s at pos, after the rows of those before it. */
static void draw_seg(cc *c, attn_case *a, int64_t s, int64_t pos, int64_t len) {
    a->pos[s] = pos;
    a->len[s] = len;
    a->first[s] = a->rows;
    a->rows += len + cc_between(c, 0, 1); /* rows of nobody in between */
    a->state[s] = draw_state(c, a, pos);
}

/* A case without segments. */
static void begin_case(cc *c, attn_case *a, int Dk, int Dv) {
    memset(a, 0, sizeof *a);
    a->d = (kn_linattn_dims){(int)cc_between(c, 1, 2), Dk, Dv};
    a->dtype = cc_between(c, 0, 2) ? KN_BF16 : KN_F32;
    a->n_segs = cc_between(c, 1, 3);
    a->floats = kn_linattn_state_floats(&a->d, B);
    a->offset = 16 * (size_t)cc_between(c, 0, 2);
    a->shared_bytes = cc_between(c, 0, 1) ? cc_shared_bytes() : 99 << 10;
    a->part_tokens = cc_between(c, 0, 1) ? 0 : KN_CUDA_POWERS;
}

static void end_case(cc *c, attn_case *a, const char *what) {
    a->rows++;
    const int64_t gap = cc_between(c, 0, 1) ? 8 : cc_between(c, 0, 3);
    a->ldq = a->ldk = a->d.H * a->d.Dk + gap;
    a->ldv = a->ldo = a->d.H * a->d.Dv + gap;
    a->q = draw_rows(c, a->rows * a->ldq, a->dtype);
    a->k = draw_rows(c, a->rows * a->ldk, a->dtype);
    a->v = draw_rows(c, a->rows * a->ldv, a->dtype);
    for (int h = 0; h < a->d.H; h++)
        a->slope[h] = exp(-17 * cc_uniform(c)); /* 1 .. 4e-8 */
    snprintf(a->what, sizeof a->what, "%s H=%d Dk=%d Dv=%d %s segs=%d pos=%d len=%d parts of %d",
             what, a->d.H, a->d.Dk, a->d.Dv, a->dtype == KN_BF16 ? "bf16" : "f32", (int)a->n_segs,
             (int)a->pos[0], (int)a->len[0], (int)a->part_tokens);
}

static void draw_case(cc *c, attn_case *a, bool step, int Dk, int Dv) {
    begin_case(c, a, Dk, Dv);
    for (int64_t s = 0; s < a->n_segs; s++) {
        int64_t pos = cc_between(c, 0, 3) ? cc_between(c, 0, 100) : 0, room = B - pos % B;
        int64_t len = step ? cc_between(c, 0, 2) ? cc_between(c, 0, room < 4 ? room : 4) : room
                      : cc_between(c, 0, 3) ? cc_between(c, 0, 150)
                                            : cc_between(c, 0, 300);
        draw_seg(c, a, s, pos, len);
    }
    end_case(c, a, step ? "step" : "prefill");
}

static void free_case(attn_case *a) {
    free(a->q), free(a->k), free(a->v), free(a->o);
    for (int s = 0; s < MOST_SEGS; s++)
        free(a->state[s]), free(a->after[s]);
}

/* ---- on the device ---- */

static void *upload_rows(const float *x, int64_t n, kn_dtype dtype) {
    if (dtype == KN_F32)
        return cc_device_copy(x, (size_t)n * sizeof *x);
    uint16_t *h = need((size_t)n, sizeof *h);
    for (int64_t i = 0; i < n; i++)
        h[i] = tnl_bf16_from_f32(x[i]);
    void *p = cc_device_copy(h, (size_t)n * sizeof *h);
    free(h);
    return p;
}

static float *fetch_rows(const void *p, int64_t n, kn_dtype dtype) {
    float *x = need((size_t)n, sizeof *x);
    if (dtype == KN_F32) {
        cc_fetch(x, p, (size_t)n * sizeof *x);
        return x;
    }
    uint16_t *h = need((size_t)n, sizeof *h);
    cc_fetch(h, p, (size_t)n * sizeof *h);
    for (int64_t i = 0; i < n; i++)
        x[i] = tnl_f32_from_bf16(h[i]);
    free(h);
    return x;
}

typedef struct on_device {
    kn_cuda_linattn a;
    void *tables, *state[MOST_SEGS];
} on_device;

/* A state amid NaNs, as one layer's lies amid those of others. */
static void *upload_state(const attn_case *a, const float *state) {
    float *all = need(a->offset + a->floats, sizeof *all);
    memset(all, 0xFF, a->offset * sizeof *all);
    memcpy(all + a->offset, state, a->floats * sizeof *all);
    void *p = cc_device_copy(all, (a->offset + a->floats) * sizeof *all);
    free(all);
    return p;
}

static float *fetch_state(cc *c, const attn_case *a, void *p) {
    float *all = need(a->offset + a->floats, sizeof *all);
    bool kept = true;
    cc_fetch(all, p, (a->offset + a->floats) * sizeof *all);
    for (size_t i = 0; i < a->offset; i++)
        kept &= isnan(all[i]);
    cc_expect(c, kept, "%s: wrote to the state of another layer", a->what);
    memmove(all, all + a->offset, a->floats * sizeof *all);
    return all;
}

static void go_up(on_device *g, const attn_case *a) {
    memset(g, 0, sizeof *g);
    float *tables = need(kn_cuda_decay_floats(a->d.H), sizeof *tables);
    kn_cuda_decay_fill(tables, a->slope, a->d.H);
    g->tables = cc_device_copy(tables, kn_cuda_decay_floats(a->d.H) * sizeof *tables);
    free(tables);
    for (int64_t s = 0; s < a->n_segs; s++)
        g->state[s] = upload_state(a, a->state[s]);
    g->a = (kn_cuda_linattn){
        .dtype = a->dtype,
        .o = cc_device((size_t)(a->rows * a->ldo) * (a->dtype == KN_BF16 ? 2 : 4)),
        .q = upload_rows(a->q, a->rows * a->ldq, a->dtype),
        .k = upload_rows(a->k, a->rows * a->ldk, a->dtype),
        .v = upload_rows(a->v, a->rows * a->ldv, a->dtype),
        .ldo = a->ldo,
        .ldq = a->ldq,
        .ldk = a->ldk,
        .ldv = a->ldv,
        .d = a->d,
        .decay = kn_cuda_decay_at(g->tables, a->d.H),
        .state_offset = (int64_t)a->offset,
        .settled = a->offset > 0,
    };
}

static void come_down(cc *c, on_device *g, attn_case *a) {
    a->o = fetch_rows(g->a.o, a->rows * a->ldo, a->dtype);
    for (int64_t s = 0; s < a->n_segs; s++) {
        a->after[s] = fetch_state(c, a, g->state[s]);
        cc_device_free(g->state[s]);
    }
    cc_device_free(g->a.o);
    cc_device_free((void *)(uintptr_t)g->a.q);
    cc_device_free((void *)(uintptr_t)g->a.k);
    cc_device_free((void *)(uintptr_t)g->a.v);
    cc_device_free(g->tables);
}

static void call(cc *c, on_device *g, const attn_case *a, const kn_linattn_seg *segs, int64_t n,
                 bool step, int64_t part_tokens) {
    kn_cuda_plan plan = {.part_tokens = part_tokens};
    kn_cuda_plan_parts(&plan, NULL, segs, n);
    kn_cuda_part *parts = need((size_t)plan.n_parts, sizeof *parts);
    kn_cuda_plan_parts(&plan, parts, segs, n);
    void *on_parts = cc_device_copy(parts, (size_t)plan.n_parts * sizeof *parts);
    void *on_segs = cc_device_copy(segs, (size_t)n * sizeof *segs);
    plan.parts = on_parts;
    plan.work = cc_device(kn_cuda_plan_floats(&plan, &a->d) * sizeof *plan.work);
    g->a.segs = on_segs;
    g->a.n_segs = n;
    if (step)
        kn_cuda_linattn_step(&g->a, NULL);
    else
        kn_cuda_linattn_prefill(&g->a, &plan, a->shared_bytes, NULL);
    const char *error = cc_sync();
    cc_expect(c, !error, "%s: %s", a->what, error ? error : "");
    cc_device_free(on_parts);
    cc_device_free(on_segs);
    cc_device_free(plan.work);
    free(parts);
}

/* All segments, or one of them alone. */
static void run_case(cc *c, attn_case *a, bool step, int64_t only) {
    on_device g;
    kn_linattn_seg segs[MOST_SEGS];
    int64_t n = 0;
    go_up(&g, a);
    for (int64_t s = 0; s < a->n_segs; s++)
        if (only < 0 || s == only)
            segs[n++] = (kn_linattn_seg){g.state[s], a->pos[s], a->first[s], a->len[s]};
    call(c, &g, a, segs, n, step, a->part_tokens);
    come_down(c, &g, a);
}

/* ---- the reference ---- */

typedef struct head_ref {
    const attn_case *a;
    int64_t seg, before, n; /* rows: pending ones, then the segment's; n in all */
    int head;
    const float *S, *K, *V;  /* of the state before */
    double *score, *o, *var; /* [n], [Dv], [Dv] */
} head_ref;

static float round_to(const attn_case *a, bool step, float x) {
    return step || a->dtype == KN_BF16 ? x : tnl_f32_from_bf16(tnl_bf16_from_f32(x));
}

static const float *row_of(const head_ref *r, const float *pending, const float *rows, int64_t ld,
                           int dim, int64_t t) {
    const attn_case *a = r->a;
    return t < r->before ? pending + t * dim
                         : rows + (a->first[r->seg] + t - r->before) * ld + r->head * dim;
}

/* o of row t, and the sum of the squares of all its terms. */
static void reference_row(head_ref *r, int64_t t, bool step) {
    const attn_case *a = r->a;
    const int Dk = a->d.Dk, Dv = a->d.Dv;
    const double s = a->slope[r->head];
    const float *q = row_of(r, NULL, a->q, a->ldq, Dk, t);
    memset(r->o, 0, (size_t)Dv * sizeof *r->o);
    memset(r->var, 0, (size_t)Dv * sizeof *r->var);
    for (int64_t i = -Dk; i <= t; i++) {
        double f;
        const float *v;
        if (i < 0) { /* row Dk + i of S */
            f = (double)round_to(a, step, q[Dk + i]) * exp(-s * (double)(t + 1));
            v = r->S + (Dk + i) * Dv;
        } else {
            const float *k = row_of(r, r->K, a->k, a->ldk, Dk, i);
            v = row_of(r, r->V, a->v, a->ldv, Dv, i);
            f = 0;
            for (int d = 0; d < Dk; d++)
                f += (double)round_to(a, step, q[d]) * (double)round_to(a, step, k[d]);
            f *= exp(-s * (double)(t - i));
        }
        for (int c = 0; c < Dv; c++) {
            double term = f * (double)(i < 0 ? v[c] : round_to(a, step, v[c]));
            r->o[c] += term;
            r->var[c] += term * term;
        }
    }
}

static bool check_output(cc *c, const head_ref *r, int64_t t, bool step) {
    const attn_case *a = r->a;
    const float *got =
        a->o + (a->first[r->seg] + t - r->before) * a->ldo + (int64_t)r->head * a->d.Dv;
    /* Terms of the prefill are rounded to bf16 one by one; those of the step are not. */
    const double of_terms = step ? 4e-6 : 5.0 / 512, of_o = a->dtype == KN_BF16 ? 1.0 / 256 : 1e-6;
    for (int i = 0; i < a->d.Dv; i++) {
        double off = fabs((double)got[i] - r->o[i]);
        double most = of_terms * sqrt(r->var[i]) + of_o * fabs(r->o[i]) + 1e-30;
        if (!(off <= most))
            return cc_expect(c, false, "%s: seg %d head %d row %d col %d: %g, expected %g +- %g",
                             a->what, (int)r->seg, r->head, (int)t, i, (double)got[i], r->o[i],
                             most);
    }
    return cc_expect(c, true, "%s", a->what);
}

/* S after: element (d, c) is the sum over folded rows, and rows after it are as they were given. */
static bool check_state(cc *c, const head_ref *r, const float *after, bool step) {
    const attn_case *a = r->a;
    const int Dk = a->d.Dk, Dv = a->d.Dv;
    const int64_t folded = r->n - r->n % B;
    const double s = a->slope[r->head], rounding = step ? 2e-6 : 5.0 / 512;
    for (int d = 0; d < Dk; d++)
        for (int col = 0; col < Dv; col++) {
            double first = exp(-s * (double)folded) * (double)r->S[d * Dv + col], sum = first;
            double var = 0;
            for (int64_t j = 0; j < folded; j++) {
                double term = (double)round_to(a, step, row_of(r, r->K, a->k, a->ldk, Dk, j)[d]) *
                              (double)round_to(a, step, row_of(r, r->V, a->v, a->ldv, Dv, j)[col]) *
                              exp(-s * (double)(folded - 1 - j));
                sum += term;
                var += term * term;
            }
            double got = (double)after[d * Dv + col];
            double most = rounding * sqrt(var) + 2e-6 * (fabs(first) + fabs(sum)) + 1e-30;
            if (!(fabs(got - sum) <= most))
                return cc_expect(c, false, "%s: seg %d head %d S[%d][%d]: %g, expected %g +- %g",
                                 a->what, (int)r->seg, r->head, d, col, got, sum, most);
        }
    const float *K = after + Dk * Dv, *V = K + B * Dk;
    for (int64_t j = folded; j < r->n; j++) {
        const float *k = row_of(r, r->K, a->k, a->ldk, Dk, j);
        const float *v = row_of(r, r->V, a->v, a->ldv, Dv, j);
        for (int i = 0; i < Dk; i++)
            if (K[(j - folded) * Dk + i] != round_to(a, step, k[i]))
                return cc_expect(c, false, "%s: pending key %d", a->what, (int)j);
        for (int i = 0; i < Dv; i++)
            if (V[(j - folded) * Dv + i] != round_to(a, step, v[i]))
                return cc_expect(c, false, "%s: pending value %d", a->what, (int)j);
    }
    return cc_expect(c, true, "%s", a->what);
}

static void check_head(cc *c, const attn_case *a, int64_t seg, int head, bool step) {
    const size_t Dk = (size_t)a->d.Dk, Dv = (size_t)a->d.Dv;
    const size_t at = (size_t)head * (Dk * Dv + B * (Dk + Dv));
    head_ref r = {.a = a, .seg = seg, .before = a->pos[seg] % B, .head = head};
    r.n = r.before + a->len[seg];
    r.S = a->state[seg] + at;
    r.K = r.S + Dk * Dv;
    r.V = r.K + B * Dk;
    r.o = need(Dv, sizeof *r.o);
    r.var = need(Dv, sizeof *r.var);
    bool good = true;
    for (int64_t t = r.before; good && t < r.n; t++) {
        reference_row(&r, t, step);
        good = check_output(c, &r, t, step);
    }
    if (good)
        check_state(c, &r, a->after[seg] + at, step);
    free(r.o);
    free(r.var);
}

/* Rows of nobody stay as they were. */
static void check_gaps(cc *c, const attn_case *a) {
    bool *ours = need((size_t)(a->rows * a->ldo), sizeof *ours);
    for (int64_t s = 0; s < a->n_segs; s++)
        for (int64_t t = a->first[s]; t < a->first[s] + a->len[s]; t++)
            memset(ours + t * a->ldo, true, (size_t)(a->d.H * a->d.Dv));
    bool good = true;
    for (int64_t i = 0; i < a->rows * a->ldo; i++)
        good &= ours[i] || isnan(a->o[i]);
    cc_expect(c, good, "%s: wrote to a row of nobody", a->what);
    free(ours);
}

/* The same bytes for a segment alone. */
static void check_alone(cc *c, attn_case *a, bool step) {
    const int64_t s = cc_between(c, 0, a->n_segs - 1);
    float *o = a->o, *after = a->after[s];
    for (int64_t i = 0; i < a->n_segs; i++)
        if (i != s)
            free(a->after[i]);
    run_case(c, a, step, s);
    for (int64_t t = a->first[s]; t < a->first[s] + a->len[s]; t++)
        cc_expect(
            c,
            memcmp(o + t * a->ldo, a->o + t * a->ldo, (size_t)(a->d.H * a->d.Dv) * sizeof *o) == 0,
            "%s: row %d of segment %d differs alone", a->what, (int)t, (int)s);
    cc_expect(c, memcmp(after, a->after[s], a->floats * sizeof *after) == 0,
              "%s: the state of segment %d differs alone", a->what, (int)s);
    free(o);
    free(after);
}

static void check_case(cc *c, bool step, int Dk, int Dv) {
    attn_case a;
    draw_case(c, &a, step, Dk, Dv);
    run_case(c, &a, step, -1);
    for (int64_t s = 0; s < a.n_segs; s++)
        for (int h = 0; h < a.d.H; h++)
            check_head(c, &a, s, h, step);
    check_gaps(c, &a);
    check_alone(c, &a, step);
    free_case(&a);
}

/* ---- whole slices ---- */

enum { SLICE = KN_CUDA_POWERS };

/* Some of what is left of each segment, as one call's segments; false when nothing is left. */
static bool take_some(cc *c, const on_device *g, const attn_case *a, int64_t *done,
                      kn_linattn_seg *segs, int64_t *n) {
    bool any = false;
    *n = 0;
    for (int64_t s = 0; s < a->n_segs; s++) {
        const int64_t left = a->len[s] - done[s], len = SLICE * cc_between(c, 0, left / SLICE);
        any |= left > 0;
        if (len > 0 || cc_between(c, 0, 3) == 0)
            segs[(*n)++] =
                (kn_linattn_seg){g->state[s], a->pos[s] + done[s], a->first[s] + done[s], len};
        done[s] += len;
    }
    return any;
}

static void run_in_calls(cc *c, attn_case *a) {
    on_device g;
    kn_linattn_seg segs[MOST_SEGS];
    int64_t done[MOST_SEGS] = {0}, n;
    go_up(&g, a);
    while (take_some(c, &g, a, done, segs, &n))
        if (n > 0)
            call(c, &g, a, segs, n, false, SLICE * cc_between(c, 0, 3));
    come_down(c, &g, a);
}

static void compare_bits(cc *c, const attn_case *a, const attn_case *b) {
    cc_expect(c, memcmp(a->o, b->o, (size_t)(a->rows * a->ldo) * sizeof *a->o) == 0,
              "%s: outputs depend on parts or calls", a->what);
    for (int64_t s = 0; s < a->n_segs; s++)
        cc_expect(c, memcmp(a->after[s], b->after[s], a->floats * sizeof(float)) == 0,
                  "%s: the state of segment %d depends on parts or calls", a->what, (int)s);
}

static void check_slices(cc *c, int Dk, int Dv) {
    attn_case a, b;
    begin_case(c, &a, Dk, Dv);
    a.part_tokens = 0;
    for (int64_t s = 0; s < a.n_segs; s++)
        draw_seg(c, &a, s, SLICE * cc_between(c, 0, 2), SLICE * cc_between(c, s == 0, s ? 2 : 4));
    end_case(c, &a, "slices");
    b = a;
    run_case(c, &a, false, -1);
    for (int way = 0; way < 2; way++) {
        b.part_tokens = SLICE * cc_between(c, 1, 2);
        if (way == 0)
            run_case(c, &b, false, -1);
        else
            run_in_calls(c, &b);
        compare_bits(c, &a, &b);
        free(b.o);
        for (int64_t s = 0; s < a.n_segs; s++)
            free(b.after[s]);
    }
    free_case(&a);
}

/* ---- plans ---- */

/* Parts cover each segment once, are no more than promised, and no longer than they need be. */
static void check_plan(cc *c) {
    enum { SEGS = 9 };
    kn_linattn_seg segs[SEGS];
    const kn_linattn_dims d = {(int)cc_between(c, 1, 200), 128, cc_between(c, 0, 1) ? 64 : 128};
    const int processors = (int)cc_between(c, 1, 150);
    const int64_t n = cc_between(c, 1, SEGS);
    int64_t sum = 0, all = 0, tails = 0;
    for (int64_t s = 0; s < n; s++) {
        int64_t pos = cc_between(c, 0, 200), most = cc_between(c, 0, 2) ? 500 : 20000;
        segs[s] = (kn_linattn_seg){NULL, pos, 0, cc_between(c, 0, 5) ? cc_between(c, 1, most) : 0};
        all += segs[s].len > 0 ? pos % B + segs[s].len : 0;
        tails += segs[s].len > 0 && (pos + segs[s].len) % B != 0;
    }
    kn_cuda_plan plan = {0};
    kn_cuda_plan_cut(&plan, segs, n, &d, processors);
    kn_cuda_plan_parts(&plan, NULL, segs, n);
    kn_cuda_part *parts = need((size_t)plan.n_parts, sizeof *parts);
    kn_cuda_plan_parts(&plan, parts, segs, n);
    for (int64_t i = 0; i < plan.n_parts; i++) {
        const kn_linattn_seg *g = &segs[parts[i].seg];
        const int64_t end = g->pos % B + g->len, begin = parts[i].index * plan.part_tokens;
        sum += parts[i].index + 1 < parts[i].of ? plan.part_tokens : end - begin;
        cc_expect(c, begin < end && (parts[i].of > 1) == (parts[i].slot >= 0), "part %d", (int)i);
    }
    cc_expect(c, sum == all, "plan: %d tokens of %d", (int)sum, (int)all);
    cc_expect(c, plan.n_tails == tails, "plan: %d tails of %d", (int)plan.n_tails, (int)tails);
    cc_expect(c, plan.n_parts <= kn_cuda_plan_most_parts(&d, processors, n), "plan: %d parts",
              (int)plan.n_parts);
    cc_expect(c, kn_cuda_plan_floats(&plan, &d) <= kn_cuda_plan_most_floats(&d, processors),
              "plan: %d slots", (int)plan.n_slots);
    free(parts);
}

/* A long prompt alone fills the device; a full batch is not cut. */
static void check_known_plans(cc *c) {
    static const struct {
        int64_t segs, len, part_tokens;
        int H;
    } known[] = {{1, 32768, 4096, 16}, {1, 2048, 512, 32}, {4, 2048, 0, 32}, {3, 2048, 0, 32},
                 {1, 128, 0, 32},      {2, 1024, 512, 32}, {1, 2048, 0, 132}};
    kn_linattn_seg segs[4];
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const kn_linattn_dims d = {known[i].H, 128, 128};
        kn_cuda_plan plan = {0};
        for (int64_t s = 0; s < known[i].segs; s++)
            segs[s] = (kn_linattn_seg){NULL, 0, 0, known[i].len};
        kn_cuda_plan_cut(&plan, segs, known[i].segs, &d, 132);
        cc_expect(c, plan.part_tokens == known[i].part_tokens, "plan %d: parts of %d", (int)i,
                  (int)plan.part_tokens);
    }
}

void cc_check_linattn(cc *c) {
    static const int step_sizes[][2] = {{64, 64}, {128, 128}, {1, 1},   {17, 33},
                                        {96, 70}, {256, 64},  {31, 128}};
    static const int sizes[][2] = {{64, 64}, {128, 128}, {256, 128}, {1, 1},
                                   {33, 72}, {100, 128}, {136, 48},  {192, 64}};
    if (cc_section(c, "linattn_step"))
        for (size_t i = 0; i < sizeof step_sizes / sizeof *step_sizes; i++)
            for (int n = 0; n < 3; n++)
                check_case(c, true, step_sizes[i][0], step_sizes[i][1]);
    if (cc_section(c, "linattn_prefill"))
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (int n = 0; n < 2; n++)
                check_case(c, false, sizes[i][0], sizes[i][1]);
    if (cc_section(c, "linattn_slices"))
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            check_slices(c, sizes[i][0], sizes[i][1]);
    if (cc_section(c, "linattn_plan")) {
        check_known_plans(c);
        for (int n = 0; n < 50; n++)
            check_plan(c);
    }
}
