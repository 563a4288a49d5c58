/* The fused linear operation with every option. Three oracles:
 *   the separate operations   one row at a time from the microkernels of the same instruction set,
 *                             and from the scalar oracle of packed weights: the same bits
 *   doubles                   the formula, with a bound on every error on the way
 *   itself                    1, 2 and 3 threads, some of the rows, one row alone: the same bits
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/checkkern/ck.h"

enum { MOST_THREADS = 3 };

typedef struct linear_case {
    kn_linear p; /* without y and work */
    int64_t outs, ins;
    kn_tensor w[2];
    const float *y0; /* [n][outs] ld ldy */
    char what[300];
} linear_case;

static kn_backend *backends[CK_MOST_ISAS][MOST_THREADS + 1];

/* ---- cases ---- */

static void draw_sizes(ck *k, linear_case *c) {
    static const int64_t rows[] = {1, 2, 5, 6, 7, 13, 18, 47, 49, 64, 70, 75, 131};
    c->p.n = ck_between(k, 0, 2) ? ck_between(k, 1, 20) : rows[ck_between(k, 0, 12)];
    c->outs = ck_between(k, 0, 2) ? ck_between(k, 1, 150) : ck_between(k, 1, 700);
    c->ins = ck_between(k, 0, 2) ? ck_between(k, 1, 200) : ck_between(k, 1, 1300);
    if (ck_between(k, 0, 4) == 0) { /* rows enough to share out before the products, too */
        c->p.n = ck_between(k, 40, 131);
        c->outs = ck_between(k, 1, 12);
        c->ins = ck_between(k, 400, 1000);
    }
    while (c->p.n * c->outs * c->ins > 1500000) {
        c->outs = c->outs / 2 + 1;
        c->ins = c->ins / 2 + 1;
    }
    if (ck_between(k, 0, 7) == 0)
        c->ins = c->outs;
    c->p.ldx = c->ins + ck_between(k, 0, 3);
    c->p.ldy = c->outs + ck_between(k, 0, 3);
}

static void draw_norm(ck *k, linear_case *c) {
    c->p.norm.kind = (kn_norm_kind)ck_between(k, 0, 5);
    if (c->p.norm.kind > KN_NORM_LAYER)
        c->p.norm.kind = KN_NORM_NONE;
    c->p.norm.eps = 1e-5f;
    if (c->p.norm.kind != KN_NORM_LAYER)
        return;
    c->p.norm.w = ck_filled(k, CK_NORMAL, 1, c->ins, c->ins);
    c->p.norm.b = ck_filled(k, CK_NORMAL, 1, c->ins, c->ins);
}

static void draw_act(ck *k, linear_case *c) {
    kn_linear *p = &c->p;
    p->act = ck_between(k, 0, 2) ? (kn_act)ck_between(k, 0, KN_ACT_COUNT - 1) : KN_ACT_NONE;
    p->act_cols = ck_between(k, 0, 1) ? c->outs : ck_between(k, 0, c->outs);
    if (p->act != KN_ACT_EXP)
        return;
    p->epi = KN_STORE;
    p->w2 = NULL;
    p->bias2 = NULL;
    p->act_group = ck_between(k, 1, c->outs < 150 ? c->outs : 150);
    p->act_cols -= p->act_cols % p->act_group;
}

static const float *maybe_row(ck *k, int64_t n) {
    return ck_between(k, 0, 1) ? ck_filled(k, CK_NORMAL, 1, n, n) : NULL;
}

static void name_case(linear_case *c, ck_fill fill) {
    const kn_linear *p = &c->p;
    snprintf(c->what, sizeof c->what,
             "%s n=%d outs=%d ins=%d ldx=%d ldy=%d %s norm=%d%s%s%s%s act=%d/%d/%d%s",
             kn_dtypes[p->w->dtype].name, (int)p->n, (int)c->outs, (int)c->ins, (int)p->ldx,
             (int)p->ldy, ck_fill_name(fill), p->norm.kind, p->mul ? " mul" : "",
             p->bias ? " bias" : "", p->w2 ? " w2" : "", p->bias2 ? " bias2" : "", p->act,
             (int)p->act_cols, (int)p->act_group, p->epi == KN_ADD ? " add" : "");
}

static void draw_linear(ck *k, linear_case *c, kn_dtype t) {
    *c = (linear_case){.p.epi = ck_between(k, 0, 1) ? KN_ADD : KN_STORE};
    kn_linear *p = &c->p;
    ck_fill fill = (ck_fill)ck_between(k, 0, CK_FILLS - 1);
    draw_sizes(k, c);
    p->x = ck_filled(k, fill, p->n, c->ins, p->ldx);
    draw_norm(k, c);
    if (ck_between(k, 0, 2) == 0) {
        p->ldmul = c->ins + ck_between(k, 0, 3);
        p->mul = ck_filled(k, CK_NORMAL, p->n, c->ins, p->ldmul);
    }
    c->w[0] = ck_weights(k, t, c->outs, c->ins, 0.05);
    p->w = &c->w[0];
    p->bias = maybe_row(k, c->outs);
    if (ck_between(k, 0, 2) == 0) {
        c->w[1] = ck_weights(k, t, c->outs, c->ins, 0.05);
        p->w2 = &c->w[1];
        p->bias2 = maybe_row(k, c->outs);
    }
    draw_act(k, c);
    c->y0 = ck_filled(k, CK_NORMAL, p->n, c->outs, p->ldy);
    name_case(c, fill);
}

/* ---- running ---- */

static void start_y(const linear_case *c, float *y, int64_t r0, int64_t rows) {
    for (int64_t r = 0; c->p.epi == KN_ADD && r < rows; r++)
        memcpy(y + r * c->p.ldy, c->y0 + (r0 + r) * c->p.ldy, (size_t)c->outs * sizeof *y);
}

static void *work_for(ck *k, const kn_backend *be, int64_t rows, int64_t ins) {
    int64_t lines = (int64_t)kn_linear_work_bytes(be, rows, ins) / 64;
    return ck_matrix(k, 1, lines, lines, 64);
}

/* Rows [r0, r0+rows) of the case; KN_ADD starts from y0, KN_STORE from poison. */
static float *run_linear(ck *k, const linear_case *c, int isa, int threads, int64_t r0,
                         int64_t rows) {
    float *y = ck_f32(k, rows, c->outs, c->p.ldy);
    start_y(c, y, r0, rows);
    kn_linear p = c->p;
    p.n = rows;
    p.x += r0 * p.ldx;
    p.mul = p.mul ? p.mul + r0 * p.ldmul : NULL;
    p.y = y;
    kn_backend *be = backends[isa][threads];
    p.work = work_for(k, be, rows, c->ins);
    be->ops->linear(be, &p);
    return y;
}

/* ---- the separate operations ---- */

typedef struct parts {
    float *a, *t[2]; /* a row of inputs, a row of outputs of each product */
    ck_ints ints[2];
    int8_t *q;
    float *scale;
    int32_t *sum;
} parts;

static void *must(void *p) {
    if (!p)
        abort();
    return p;
}

static parts open_parts(const linear_case *c) {
    size_t ins = (size_t)kn_q_padded(c->ins), outs = (size_t)c->outs;
    parts s = {.a = must(malloc(ins * 4)), .t = {must(malloc(outs * 4)), must(malloc(outs * 4))}};
    s.q = must(malloc(ins));
    s.scale = must(malloc(ins * 4));
    s.sum = must(malloc(ins * 4));
    for (int i = 0; i < 2 && kn_q_integer(c->p.w->dtype); i++)
        if (c->w[i].data)
            s.ints[i] = ck_unpack(&c->w[i]);
    return s;
}

static void close_parts(parts *s) {
    free(s->a);
    free(s->t[0]);
    free(s->t[1]);
    free(s->q);
    free(s->scale);
    free(s->sum);
    ck_ints_free(&s->ints[0]);
    ck_ints_free(&s->ints[1]);
}

static void input_row(const kn_dsp *d, const linear_case *c, float *a, int64_t r) {
    const kn_linear *p = &c->p;
    memcpy(a, p->x + r * p->ldx, (size_t)c->ins * sizeof *a);
    if (p->norm.kind == KN_NORM_SRMS)
        d->srms(a, a, c->ins, p->norm.eps);
    if (p->norm.kind == KN_NORM_LAYER)
        d->layernorm(a, a, p->norm.w, p->norm.b, c->ins, p->norm.eps);
    for (int64_t i = 0; p->mul && i < c->ins; i++)
        a[i] *= p->mul[r * p->ldmul + i];
}

static void product_row(const kn_dsp *d, const linear_case *c, parts *s, int which) {
    const kn_tensor *w = &c->w[which];
    const float *bias = which ? c->p.bias2 : c->p.bias;
    float *t = s->t[which];
    if (!kn_q_integer(w->dtype)) {
        d->dot_few[w->dtype](t, c->outs, s->a, c->ins, 1, w->data, c->outs, c->ins);
        for (int64_t o = 0; w->dtype == KN_F8 && o < c->outs; o++)
            t[o] *= 256 * ck_f8_scale(w, o);
    } else {
        ck_quantise(s->q, s->scale, s->sum, s->a, c->ins);
        ck_packed_dots(t, w, &s->ints[which], s->q, s->scale);
    }
    for (int64_t o = 0; bias && o < c->outs; o++)
        t[o] += bias[o];
}

static void separate_row(const kn_dsp *d, const linear_case *c, parts *s, int64_t r, float *y) {
    const kn_linear *p = &c->p;
    input_row(d, c, s->a, r);
    product_row(d, c, s, 0);
    if (p->act == KN_ACT_EXP)
        for (int64_t o = 0; o < p->act_cols; o += p->act_group)
            d->act[p->act](s->t[0] + o, p->act_group);
    else if (p->act != KN_ACT_NONE && p->act_cols > 0)
        d->act[p->act](s->t[0], p->act_cols);
    if (p->w2) {
        product_row(d, c, s, 1);
        for (int64_t o = 0; o < c->outs; o++)
            s->t[0][o] *= s->t[1][o];
    }
    for (int64_t o = 0; o < c->outs; o++)
        y[o] = p->epi == KN_ADD ? c->y0[r * p->ldy + o] + s->t[0][o] : s->t[0][o];
}

static void check_separate(ck *k, const linear_case *c, parts *s, const float *y) {
    kn_dsp d;
    float *want = must(malloc((size_t)c->outs * sizeof *want));
    if (kn_dsp_init(&d, k->isa, NULL) != TNL_OK)
        abort();
    for (int64_t r = 0; r < c->p.n; r++) {
        separate_row(&d, c, s, r, want);
        if (!ck_same_bits(k, c->what, y + r * c->p.ldy, want, c->outs))
            break;
    }
    free(want);
}

/* ---- doubles ---- */

#define ULP 0x1p-24 /* half a unit in the last place: what one rounding is worth */

/* A value and how far a right answer may be from it. */
typedef struct bounded {
    double v, e;
} bounded;

static void normed_row(const linear_case *c, int64_t r, bounded *a) {
    const kn_linear *p = &c->p;
    const float *x = p->x + r * p->ldx;
    double mean = 0, square = 0, top = 0, n = (double)c->ins;
    for (int64_t i = 0; i < c->ins && p->norm.kind == KN_NORM_LAYER; i++)
        mean += (double)x[i] / n;
    for (int64_t i = 0; i < c->ins; i++) {
        square += ((double)x[i] - mean) * ((double)x[i] - mean) / n;
        top = fmax(top, fabs((double)x[i]));
    }
    double f = p->norm.kind == KN_NORM_NONE ? 1 : 1 / sqrt(square + (double)p->norm.eps);
    for (int64_t i = 0; i < c->ins; i++) {
        a[i].v = ((double)x[i] - mean) * f;
        a[i].e = p->norm.kind == KN_NORM_NONE ? 0 : 16 * ULP * fabs(a[i].v) + 1e-43;
        if (p->norm.kind != KN_NORM_LAYER)
            continue;
        double w = (double)p->norm.w[i];
        /* one rounding of the mean and of the differences, after scaling */
        a[i].e = fabs(w) * (48 * ULP * fabs(a[i].v) + 20 * ULP * top * f) + 1e-6;
        a[i].v = a[i].v * w + (double)p->norm.b[i];
    }
}

static void bounded_row(const linear_case *c, int64_t r, bounded *a) {
    normed_row(c, r, a);
    for (int64_t i = 0; c->p.mul && i < c->ins; i++) {
        double m = (double)c->p.mul[r * c->p.ldmul + i];
        a[i].v *= m;
        a[i].e = a[i].e * fabs(m) + ULP * fabs(a[i].v) + 1e-45;
    }
    if (!kn_q_integer(c->p.w->dtype))
        return;
    for (int64_t g = 0; g < c->ins; g += 128) { /* half a step of the group */
        double top = 0;
        int64_t end = g + 128 < c->ins ? g + 128 : c->ins;
        for (int64_t i = g; i < end; i++)
            top = fmax(top, fabs(a[i].v) + a[i].e);
        for (int64_t i = g; i < end; i++)
            a[i].e += top / 127 * 0.5001 + 0x1p-100;
    }
}

static bounded bounded_dot(const linear_case *c, const bounded *a, const float *w,
                           const float *bias, int64_t o) {
    double sum = 0, size = 0, off = 0;
    for (int64_t i = 0; i < c->ins; i++) {
        double f = (double)w[o * c->ins + i];
        sum += f * a[i].v;
        size += fabs(f * a[i].v);
        off += fabs(f) * a[i].e;
    }
    off += (size + off) * ULP * (6 + (double)c->ins / 16) + 1e-43;
    if (c->p.w->dtype == KN_F8) /* sums are 256ths before the scale, at most 20, comes */
        off += 256 * 20 * 1e-43;
    if (bias)
        sum += (double)bias[o];
    return (bounded){sum, off + 2 * ULP * fabs(sum)};
}

/* No activation is steeper than 1.15. */
static bounded bounded_act(kn_act kind, bounded z) {
    double v = ck_act(kind, z.v);
    ck_tol tol = ck_act_tol(kind);
    return (bounded){v, 1.15 * z.e + tol.rel * (fabs(v) + 1.15 * z.e) + tol.abs};
}

static void bounded_exp(bounded *z, int64_t n) {
    double top = -INFINITY, e = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        top = fmax(top, z[i].v);
        e = fmax(e, z[i].e);
        size = fmax(size, fabs(z[i].v));
    }
    for (int64_t i = 0; i < n; i++) {
        double d = z[i].v - top, v = exp(d), off = z[i].e + e + 4 * ULP * size;
        double above = exp(fmin(d + off, 0)) - v, below = v - exp(d - off);
        z[i] = (bounded){v, fmax(above, below) + 8 * ULP * v + 1e-44};
    }
}

typedef struct doubles {
    bounded *a, *z;
    float *w[2];
} doubles;

static void want_row(const linear_case *c, const doubles *s, int64_t r) {
    const kn_linear *p = &c->p;
    bounded *z = s->z + r * c->outs;
    bounded_row(c, r, s->a);
    for (int64_t o = 0; o < c->outs; o++) {
        z[o] = bounded_dot(c, s->a, s->w[0], p->bias, o);
        if (o < p->act_cols && p->act != KN_ACT_EXP)
            z[o] = bounded_act(p->act, z[o]);
    }
    for (int64_t o = 0; p->act == KN_ACT_EXP && o < p->act_cols; o += p->act_group)
        bounded_exp(z + o, p->act_group);
    for (int64_t o = 0; p->w2 && o < c->outs; o++) {
        bounded b = bounded_dot(c, s->a, s->w[1], p->bias2, o), f = z[o];
        z[o].v = f.v * b.v;
        z[o].e = fabs(f.v) * b.e + fabs(b.v) * f.e + f.e * b.e + ULP * fabs(z[o].v) + 1e-45;
    }
    for (int64_t o = 0; p->epi == KN_ADD && o < c->outs; o++) {
        z[o].v += (double)c->y0[r * p->ldy + o];
        z[o].e += ULP * (fabs(z[o].v) + z[o].e);
    }
}

static doubles open_doubles(const linear_case *c) {
    doubles s = {must(malloc((size_t)c->ins * sizeof *s.a)),
                 must(malloc((size_t)(c->p.n * c->outs) * sizeof *s.z)),
                 {ck_weights_f32(&c->w[0]), c->p.w2 ? ck_weights_f32(&c->w[1]) : NULL}};
    for (int64_t r = 0; r < c->p.n; r++)
        want_row(c, &s, r);
    return s;
}

static void close_doubles(doubles *s) {
    free(s->a);
    free(s->z);
    free(s->w[0]);
    free(s->w[1]);
}

static void check_doubles(ck *k, const linear_case *c, const doubles *s, const float *y) {
    for (int64_t r = 0; r < c->p.n; r++)
        for (int64_t o = 0; o < c->outs; o++) {
            const bounded *z = &s->z[r * c->outs + o];
            if (!ck_near(k, c->what, y + r * c->p.ldy + o, &z->v, 1, (ck_tol){0, z->e}))
                return;
        }
}

/* ---- itself ---- */

static void check_itself(ck *k, const linear_case *c, int isa, const float *y) {
    const int64_t n = c->p.n, ldy = c->p.ldy;
    for (int threads = 2; threads <= MOST_THREADS; threads++)
        ck_same_rows(k, c->what, run_linear(k, c, isa, threads, 0, n), y, n, c->outs, ldy);
    int64_t r = ck_between(k, 0, n - 1), rows = ck_between(k, 1, n - r);
    ck_same_rows(k, c->what, run_linear(k, c, isa, 2, r, rows), y + r * ldy, rows, c->outs, ldy);
    ck_same_rows(k, c->what, run_linear(k, c, isa, 1, r, 1), y + r * ldy, 1, c->outs, ldy);
}

/* A row with a NaN or an infinity says so in every output, and in no other row. */
static void check_bad_row(ck *k, const linear_case *c, int isa, const float *y) {
    static const float bad[] = {NAN, INFINITY, -INFINITY, FLT_MAX};
    linear_case with = *c;
    const kn_linear *p = &c->p;
    const int64_t b = ck_between(k, 0, p->n - 1), which = ck_between(k, 0, 3), after = b + 1;
    float *x = ck_f32(k, p->n, c->ins, p->ldx);
    for (int64_t r = 0; r < p->n; r++)
        memcpy(x + r * p->ldx, p->x + r * p->ldx, (size_t)c->ins * sizeof *x);
    x[b * p->ldx + ck_between(k, 0, c->ins - 1)] = bad[which];
    with.p.x = x;
    const float *got = run_linear(k, &with, isa, (int)ck_between(k, 1, MOST_THREADS), 0, p->n);
    ck_same_rows(k, c->what, got, y, b, c->outs, p->ldy);
    ck_same_rows(k, c->what, got + after * p->ldy, y + after * p->ldy, p->n - after, c->outs,
                 p->ldy);
    bool shown = true;
    for (int64_t o = 0; which < 3 && p->act == KN_ACT_NONE && o < c->outs; o++)
        shown = shown && !isfinite(got[b * p->ldy + o]);
    ck_expect(k, shown, c->what);
}

/* With a norm the output may be the input: the residual stream. */
static void check_in_place(ck *k, const linear_case *c, int isa) {
    kn_linear p = c->p;
    if (p.norm.kind == KN_NORM_NONE || c->ins != c->outs)
        return;
    float *x = ck_f32(k, p.n, c->ins, p.ldx), *y = ck_f32(k, p.n, c->ins, p.ldx);
    for (int64_t r = 0; r < p.n; r++) {
        memcpy(x + r * p.ldx, p.x + r * p.ldx, (size_t)c->ins * sizeof *x);
        memcpy(y + r * p.ldx, p.x + r * p.ldx, (size_t)c->ins * sizeof *x);
    }
    kn_backend *be = backends[isa][(int)ck_between(k, 1, MOST_THREADS)];
    p.ldy = p.ldx;
    p.work = work_for(k, be, p.n, c->ins);
    p.y = y;
    be->ops->linear(be, &p);
    p.x = p.y = x;
    be->ops->linear(be, &p);
    ck_same_rows(k, c->what, x, y, p.n, c->outs, p.ldx);
}

/* ---- all of it ---- */

static void check_linear_case(ck *k, kn_dtype t) {
    linear_case c;
    draw_linear(k, &c, t);
    const float *first = NULL;
    ck_freeze(k);
    parts s = open_parts(&c);
    doubles want = open_doubles(&c);
    for (int i = 0; i < k->n_isas; i++) {
        k->isa = k->isas[i];
        const float *y = run_linear(k, &c, i, 1, 0, c.p.n);
        check_doubles(k, &c, &want, y);
        check_separate(k, &c, &s, y);
        check_itself(k, &c, i, y);
        check_bad_row(k, &c, i, y);
        check_in_place(k, &c, i);
        if (strcmp(k->isa, "ref") == 0)
            continue;
        if (first)
            ck_same_rows(k, c.what, y, first, c.p.n, c.outs, c.p.ldy);
        first = y;
    }
    close_parts(&s);
    close_doubles(&want);
    ck_buffers_done(k, c.what);
}

void ck_check_linear(ck *k) {
    if (!ck_section(k, "linear"))
        return;
    tnl_error err;
    for (int i = 0; i < k->n_isas; i++)
        for (int threads = 1; threads <= MOST_THREADS; threads++)
            if (kn_cpu_open(&backends[i][threads], threads, k->isas[i], &err) != TNL_OK)
                ck_expect(k, false, err.msg), abort();
    for (int i = 0; i < 50; i++)
        for (kn_dtype t = KN_F32; t < KN_DTYPE_COUNT; t++)
            check_linear_case(k, t);
    for (int i = 0; i < k->n_isas; i++)
        for (int threads = 1; threads <= MOST_THREADS; threads++)
            kn_backend_close(backends[i][threads]);
}
