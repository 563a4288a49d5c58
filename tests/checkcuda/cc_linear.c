/* Products: packed weights in bits against the CPU's portable backend; every kind of weight with
 * everything that may surround a product against double; in bits against itself one row at a time.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/half.h"
#include "kernels/cuda/linear_cuda.h"
#include "kernels/quant.h"
#include "tests/checkcuda/cc.h"

typedef struct linear_case {
    kn_linear p; /* pointers to the host's copies */
    kn_tensor w, w2;
    size_t weight_bytes, x_floats, mul_floats, y_floats;
    float *norm_w, *norm_b;
    size_t work_bytes;
    char what[200];
} linear_case;

static void *need(size_t n, size_t size) {
    void *p = calloc(n ? n : 1, size);
    if (!p)
        exit(2);
    return p;
}

static float *draw(cc *c, size_t n, double size) {
    float *x = need(n, sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(cc_normal(c) * size);
    return x;
}

/* Codes and factors of any value, scales of both signs. */
static void draw_packed(cc *c, unsigned char *p, const kn_tensor *w) {
    const int64_t groups = kn_q_groups(w->cols), tiles = (w->rows + KN_Q_OUTS - 1) / KN_Q_OUTS;
    for (int64_t t = 0; t < tiles * groups; t++) {
        int64_t left = kn_q_padded(w->cols) - t % groups * KN_Q_GROUP;
        int64_t bytes = kn_q_group_bytes(w->dtype, left < KN_Q_GROUP ? left : KN_Q_GROUP);
        for (int64_t i = 0; i < bytes; i++)
            p[i] = (unsigned char)(cc_random(c) | (w->dtype == KN_Q8));
        for (int o = 0; o < KN_Q_OUTS; o++) {
            uint16_t d = tnl_bf16_from_f32((float)cc_normal(c) * 0.01f);
            memcpy(p + 2 * o, &d, sizeof d);
        }
        p += bytes;
    }
}

/* Every code but NaN, scales of many sizes; the filling is there already. */
static void draw_f8(cc *c, unsigned char *p, const kn_tensor *w) {
    for (int64_t row = 0; row < w->rows; row++, p += kn_f8_stride(w->cols)) {
        const float d = (float)exp2((double)cc_between(c, -12, 0)) * 1.25f;
        for (int64_t i = 0; i < w->cols; i++) {
            p[i] = (unsigned char)cc_random(c);
            p[i] = (p[i] & 0x7F) == 0x7F ? 1 : p[i];
        }
        memcpy(p + kn_f8_padded(w->cols), &d, sizeof d);
    }
}

static kn_tensor draw_weights(cc *c, kn_dtype t, int64_t rows, int64_t cols, size_t *bytes) {
    kn_tensor w = {.dtype = t, .rows = rows, .cols = cols};
    uint64_t n = 0;
    if (!kn_dtype_matrix_bytes(&n, t, (uint64_t)rows, (uint64_t)cols))
        exit(2);
    unsigned char *p = NULL;
    if (posix_memalign((void **)&p, 64, n) != 0)
        exit(2);
    memset(p, 0, n);
    for (int64_t i = 0; t < KN_PLAIN_COUNT && i < rows * cols; i++) {
        float f = (float)cc_normal(c);
        /* of a half, eleven bits and an exponent in its range */
        uint16_t h = t == KN_BF16 ? tnl_bf16_from_f32(f) : (uint16_t)(cc_random(c) & 0xBBFFu);
        memcpy(p + i * kn_dtypes[t].elem_bytes, t == KN_F32 ? (void *)&f : (void *)&h,
               (size_t)kn_dtypes[t].elem_bytes);
    }
    if (t == KN_F8)
        draw_f8(c, p, &w);
    else if (t >= KN_PLAIN_COUNT)
        draw_packed(c, p, &w);
    w.data = p;
    *bytes = n;
    return w;
}

static kn_backend *cpu(void) {
    kn_backend *be = NULL;
    if (kn_cpu_open(&be, 1, "ref", NULL) != TNL_OK)
        exit(2);
    return be;
}

static size_t work_bytes(int64_t n, int64_t cols) {
    kn_backend *be = cpu();
    size_t bytes = kn_linear_work_bytes(be, n, cols);
    kn_backend_close(be);
    return bytes;
}

/* bare: nothing before the product, and after it only what rounds as on the CPU. */
static linear_case draw_sized(cc *c, kn_dtype t, bool bare, int64_t n, int64_t rows, int64_t cols) {
    linear_case l = {0};
    l.w = draw_weights(c, t, rows, cols, &l.weight_bytes);
    l.work_bytes = work_bytes(n, cols);
    const bool two = cc_between(c, 0, 2) == 0;
    if (two)
        l.w2 = draw_weights(c, t, rows, cols, &l.weight_bytes);
    kn_linear *p = &l.p;
    p->n = n;
    p->ldx = cols + cc_between(c, 0, 3);
    p->ldmul = cols + cc_between(c, 0, 3);
    p->ldy = rows + cc_between(c, 0, 3);
    l.x_floats = (size_t)(n * p->ldx);
    l.mul_floats = (size_t)(n * p->ldmul);
    l.y_floats = (size_t)(n * p->ldy);
    p->x = draw(c, l.x_floats, 1);
    p->y = draw(c, l.y_floats, 1);
    p->epi = cc_between(c, 0, 1) ? KN_STORE : KN_ADD;
    p->bias = cc_between(c, 0, 1) ? draw(c, (size_t)rows, 1) : NULL;
    p->bias2 = two && cc_between(c, 0, 1) ? draw(c, (size_t)rows, 1) : NULL;
    l.norm_w = draw(c, (size_t)cols, 1);
    l.norm_b = draw(c, (size_t)cols, 1);
    if (!bare) {
        p->norm = (kn_norm){(kn_norm_kind)cc_between(c, 0, 2), 1e-6f, l.norm_w, l.norm_b};
        p->mul = cc_between(c, 0, 1) ? draw(c, l.mul_floats, 1) : NULL;
        p->act = (kn_act)cc_between(c, 0, KN_ACT_COUNT - 1);
        p->act_cols = cc_between(c, 0, rows);
        p->act_group = p->act_cols > 0 ? p->act_cols : 1;
        if (p->act == KN_ACT_EXP && (two || p->epi == KN_ADD))
            p->act = KN_ACT_SILU;
    }
    snprintf(l.what, sizeof l.what, "%s [%d][%d] n=%d%s norm=%d%s act=%d of %d%s",
             kn_dtypes[t].name, (int)rows, (int)cols, (int)n, two ? " two" : "", (int)p->norm.kind,
             p->mul ? " mul" : "", (int)p->act, (int)p->act_cols, p->epi == KN_ADD ? " add" : "");
    return l;
}

static linear_case draw_case(cc *c, kn_dtype t, bool bare) {
    static const int64_t sizes[] = {1, 31, 40, 96, 128, 200, 264, 1050, 1056};
    const int64_t n = cc_between(c, 0, 2) ? cc_between(c, 1, 20) : cc_between(c, 1, 200);
    return draw_sized(c, t, bare, n, cc_between(c, 1, 150), sizes[cc_between(c, 0, 8)]);
}

static void free_case(linear_case *l) {
    const void *all[] = {l->w.data,  l->w2.data, l->p.x,    l->p.y,   l->p.bias,
                         l->p.bias2, l->p.mul,   l->norm_w, l->norm_b};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free((void *)(uintptr_t)all[i]);
}

/* ---- on the device ---- */

static const void *up(const void *p, size_t bytes) {
    return p ? cc_device_copy(p, bytes) : NULL;
}

/* A product's sums made apart from all that is around them, as another library would make them. */
static void apart(const kn_linear *p, float *sums, float *sums2, int64_t ld) {
    kn_linear bare = {.n = p->n, .x = p->x, .ldx = p->ldx, .norm = p->norm, .mul = p->mul};
    bare.ldmul = p->ldmul;
    bare.work = p->work;
    bare.ldy = ld;
    for (int i = 0; i < (p->w2 ? 2 : 1); i++) {
        bare.w = i ? p->w2 : p->w;
        bare.y = i ? sums2 : sums;
        kn_cuda_linear(&bare, NULL);
    }
    kn_cuda_linear_finish(p, sums, sums2, ld, NULL);
}

enum { IN_PARTS = 100, IN_PLACE }; /* beside the ways of linear_cuda.h */

/* y after the operation on rows [from, from + n). */
static float *run(cc *c, const linear_case *l, int64_t from, int64_t n, int way) {
    const kn_linear *h = &l->p;
    const size_t f = sizeof(float), rows = (size_t)l->w.rows, cols = (size_t)l->w.cols;
    kn_tensor w = l->w, w2 = l->w2;
    kn_linear p = *h;
    w.data = up(l->w.data, l->weight_bytes);
    w2.data = up(l->w2.data, l->weight_bytes);
    p.n = n;
    p.w = &w;
    p.w2 = w2.data ? &w2 : NULL;
    const float *x = up(h->x, l->x_floats * f), *mul = up(h->mul, l->mul_floats * f);
    float *y = cc_device_copy(h->y, l->y_floats * f);
    p.x = x + from * p.ldx;
    p.mul = mul ? mul + from * p.ldmul : NULL;
    p.y = y + from * p.ldy;
    if (way == IN_PLACE)
        p.x = p.y;
    p.bias = up(h->bias, rows * f);
    p.bias2 = up(h->bias2, rows * f);
    p.norm.w = up(l->norm_w, cols * f);
    p.norm.b = up(l->norm_b, cols * f);
    p.work = cc_device(l->work_bytes);
    const int64_t ld = (int64_t)rows + 3;
    float *sums = cc_device((size_t)(n * ld) * f), *sums2 = cc_device((size_t)(n * ld) * f);
    if (way == IN_PARTS)
        apart(&p, sums, sums2, ld);
    else
        kn_cuda_linear_by(&p, way == IN_PLACE ? KN_CUDA_IN_ONE : (kn_cuda_way)way, NULL);
    const char *error = cc_sync();
    cc_expect(c, !error, "%s: %s", l->what, error ? error : "");
    float *got = need(l->y_floats, f);
    cc_fetch(got, y, l->y_floats * f);
    const void *all[] = {w.data,  w2.data,  x,        mul,    y,    p.bias,
                         p.bias2, p.norm.w, p.norm.b, p.work, sums, sums2};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        cc_device_free((void *)(uintptr_t)all[i]);
    return got;
}

/* ---- the references ---- */

static bool same(cc *c, const char *what, const char *how, const float *got, const float *want,
                 size_t n) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(got + i, want + i, sizeof *got) != 0)
            return cc_expect(c, false, "%s, %s: element %zu is %.9g, not %.9g", what, how, i,
                             (double)got[i], (double)want[i]);
    return cc_expect(c, true, "%s", what);
}

static void against_cpu(cc *c, const linear_case *l, const float *got) {
    kn_backend *be = cpu();
    kn_linear p = l->p;
    p.w = &l->w;
    p.w2 = l->w2.data ? &l->w2 : NULL;
    p.y = need(l->y_floats, sizeof *p.y);
    memcpy(p.y, l->p.y, l->y_floats * sizeof *p.y);
    p.work = be->alloc(be, l->work_bytes, KN_ON_DEVICE);
    be->ops->linear(be, &p);
    same(c, l->what, "as on the CPU", got, p.y, l->y_floats);
    be->free(be, p.work, KN_ON_DEVICE);
    kn_backend_close(be);
    free(p.y);
}

/* norm(x) . mul in double. */
static void input_row(const linear_case *l, int64_t row, double *a) {
    const kn_linear *p = &l->p;
    const int64_t cols = l->w.cols;
    const float *x = p->x + row * p->ldx;
    double mean = 0, var = 0;
    for (int64_t i = 0; i < cols; i++)
        mean += (double)x[i] / (double)cols;
    if (p->norm.kind != KN_NORM_LAYER)
        mean = 0;
    for (int64_t i = 0; i < cols; i++)
        var += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)cols;
    const double f = 1 / sqrt(var + (double)p->norm.eps);
    for (int64_t i = 0; i < cols; i++) {
        a[i] = p->norm.kind == KN_NORM_NONE ? (double)x[i] : ((double)x[i] - mean) * f;
        if (p->norm.kind == KN_NORM_LAYER)
            a[i] = a[i] * (double)l->norm_w[i] + (double)l->norm_b[i];
        if (p->mul)
            a[i] *= (double)p->mul[row * p->ldmul + i];
    }
}

static void weight_row(const kn_tensor *w, int64_t row, float *to) {
    if (w->dtype >= KN_PLAIN_COUNT) {
        kn_q_row_to_f32(to, w->data, w->dtype, w->cols, row);
        return;
    }
    const char *p = w->data;
    kn_dtype_to_f32(to, p + row * w->cols * kn_dtypes[w->dtype].elem_bytes, w->dtype,
                    (size_t)w->cols);
}

/* W a of one output, and how far off a device may be: rounding of a, times five. */
static double product(const kn_tensor *w, int64_t out, const double *a, double *off) {
    float *row = need((size_t)w->cols, sizeof *row);
    weight_row(w, out, row);
    double sum = 0, var = 0, most = 0;
    for (int64_t i = 0; i < w->cols; i++) {
        double top = 0;
        for (int64_t j = i / 128 * 128; j < w->cols && j < i / 128 * 128 + 128; j++)
            top = fabs(a[j]) > top ? fabs(a[j]) : top;
        const bool half = w->dtype == KN_BF16 || w->dtype == KN_F8;
        double unit = half                         ? fabs(a[i]) / 512
                      : w->dtype >= KN_PLAIN_COUNT ? top / 254
                                                   : fabs(a[i]) * 1e-6;
        sum += (double)row[i] * a[i];
        var += (double)row[i] * (double)row[i] * unit * unit;
        most += fabs((double)row[i] * a[i]);
    }
    *off = 5 * sqrt(var) + 2e-6 * most + 1e-12;
    free(row);
    return sum;
}

static double activate(kn_act act, double x) {
    switch (act) {
    case KN_ACT_GELU:
        return 0.5 * x * erfc(-x * 0.70710678118654752440);
    case KN_ACT_RELU:
        return x < 0 ? 0 : x;
    case KN_ACT_ELU:
        return x < 0 ? expm1(x) : x;
    case KN_ACT_SIGMOID:
        return 1 / (1 + exp(-x));
    case KN_ACT_LEAK:
        return x < 0 ? 0.01 * x : x;
    case KN_ACT_1PELU:
        return 1 + (x < 0 ? expm1(x) : x);
    case KN_ACT_2PELU:
        return 2 + (x < 0 ? expm1(x) : x);
    case KN_ACT_SILU:
        return x / (1 + exp(-x));
    case KN_ACT_SINE:
        return sin(x);
    default:
        return x;
    }
}

/* The largest output of a row that KN_ACT_EXP takes off, and how far off that may be. */
typedef struct row_top {
    double y, off;
} row_top;

/* One output of one row; every activation has a slope of at most 1.13. */
static bool check_output(cc *c, const linear_case *l, int64_t row, int64_t out, const double *a,
                         row_top top, const float *got) {
    const kn_linear *p = &l->p;
    double off, off2 = 0, y = product(&l->w, out, a, &off) + (p->bias ? (double)p->bias[out] : 0);
    if (out < p->act_cols && p->act == KN_ACT_EXP) {
        off = exp(y - top.y) * expm1(off + top.off + 1e-5) + 1e-6;
        y = exp(y - top.y);
    } else if (out < p->act_cols) {
        y = activate(p->act, y);
        off = 1.2 * off + 1e-6 * fabs(y) + 1e-6;
    }
    if (l->w2.data) {
        double z = product(&l->w2, out, a, &off2) + (p->bias2 ? (double)p->bias2[out] : 0);
        off = off * fabs(z) + off2 * fabs(y) + off * off2;
        y *= z;
    }
    off += 2e-6 * fabs(y);
    if (p->epi == KN_ADD) {
        const double before = (double)p->y[row * p->ldy + out];
        off += 1e-6 * fabs(before);
        y += before;
    }
    double g = (double)got[row * p->ldy + out];
    return cc_expect(c, fabs(g - y) <= off, "%s: row %d output %d: %g, expected %g +- %g", l->what,
                     (int)row, (int)out, g, y, off);
}

static void against_double(cc *c, const linear_case *l, const float *got) {
    const kn_linear *p = &l->p;
    double *a = need((size_t)l->w.cols, sizeof *a);
    for (int64_t row = 0; row < p->n; row += 1 + p->n / 4) {
        row_top top = {-INFINITY, 0};
        input_row(l, row, a);
        for (int64_t out = 0; p->act == KN_ACT_EXP && out < p->act_cols; out++) {
            double off, y = product(&l->w, out, a, &off) + (p->bias ? (double)p->bias[out] : 0);
            top.y = y > top.y ? y : top.y;
            top.off = off > top.off ? off : top.off;
        }
        for (int64_t out = 0; out < l->w.rows; out++)
            if (!check_output(c, l, row, out, a, top, got))
                row = p->n, out = l->w.rows;
    }
    free(a);
}

/* A few rows of many groups of inputs, which go in rounds; every row against itself alone. */
static void check_long(cc *c, kn_dtype t) {
    linear_case l = draw_sized(c, t, false, cc_between(c, 0, 1) ? 8 : 33, 40, 8200);
    float *got = run(c, &l, 0, l.p.n, KN_CUDA_ROWS_FIRST), *one = run(c, &l, 0, 8, KN_CUDA_IN_ONE);
    against_double(c, &l, got);
    for (int64_t row = 0; row < 8; row++)
        same(c, l.what, "in one", one + row * l.p.ldy, got + row * l.p.ldy, (size_t)l.w.rows);
    free(got);
    free(one);
    free_case(&l);
}

static void check_case(cc *c, kn_dtype t, bool bare) {
    linear_case l = draw_case(c, t, bare);
    float *got = run(c, &l, 0, l.p.n, KN_CUDA_ANY_WAY);
    against_double(c, &l, got);
    if (bare && (t == KN_Q8 || t == KN_Q4))
        against_cpu(c, &l, got);
    const int64_t row = cc_between(c, 0, l.p.n - 1);
    float *alone = run(c, &l, row, 1, KN_CUDA_ANY_WAY);
    same(c, l.what, "a row alone", alone + row * l.p.ldy, got + row * l.p.ldy, (size_t)l.w.rows);
    static const struct {
        int way;
        const char *name;
    } ways[] = {
        {KN_CUDA_ROWS_FIRST, "rows first"}, {KN_CUDA_IN_ONE, "in one"}, {IN_PARTS, "in parts"}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        float *other = run(c, &l, 0, l.p.n, ways[i].way);
        same(c, l.what, ways[i].name, other, got, l.y_floats);
        free(other);
    }
    for (int64_t i = 0; i < l.p.n; i++) /* gaps between rows */
        for (int64_t o = l.w.rows; o < l.p.ldy; o++)
            cc_expect(c, got[i * l.p.ldy + o] == l.p.y[i * l.p.ldy + o], "%s: gap", l.what);
    free(got);
    free(alone);
    free_case(&l);
}

/* Input rows in bf16, for products that others make. */
static void check_rows(cc *c) {
    linear_case l = draw_case(c, KN_F32, false);
    const int64_t cols = l.w.cols, lda = kn_cuda_linear_lda(cols);
    kn_linear p = l.p;
    p.w = &l.w;
    p.x = up(p.x, l.x_floats * sizeof(float));
    p.mul = up(p.mul, l.mul_floats * sizeof(float));
    p.norm.w = up(l.norm_w, (size_t)cols * sizeof(float));
    p.norm.b = up(l.norm_b, (size_t)cols * sizeof(float));
    p.work = cc_device(l.work_bytes);
    kn_cuda_linear_rows(&p, NULL);
    cc_expect(c, !cc_sync(), "%s: rows", l.what);
    uint16_t *got = need((size_t)(p.n * lda), sizeof *got);
    cc_fetch(got, p.work, (size_t)(p.n * lda) * sizeof *got);
    double *a = need((size_t)cols, sizeof *a);
    for (int64_t row = 0; row < p.n; row++) {
        input_row(&l, row, a);
        for (int64_t i = 0; i < lda; i++) {
            const double g = (double)tnl_f32_from_bf16(got[row * lda + i]), w = i < cols ? a[i] : 0;
            if (!cc_expect(c, fabs(g - w) <= fabs(w) / 256 + 1e-5 * (i < cols),
                           "%s: row %d input %d: %g, expected %g", l.what, (int)row, (int)i, g, w))
                row = p.n, i = lda;
        }
    }
    const void *all[] = {p.x, p.mul, p.norm.w, p.norm.b, p.work};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        cc_device_free((void *)(uintptr_t)all[i]);
    free(got);
    free(a);
    free_case(&l);
}

/* With a norm y may be x: no block may then read what another one writes. */
static void check_in_place(cc *c, kn_dtype t) {
    linear_case l = draw_sized(c, t, false, cc_between(c, 1, 8), 136, 136);
    l.p.norm.kind = KN_NORM_SRMS;
    l.p.ldx = l.p.ldy;
    free((void *)(uintptr_t)l.p.x);
    l.p.x = draw(c, l.y_floats, 1);
    l.x_floats = l.y_floats;
    memcpy(l.p.y, l.p.x, l.y_floats * sizeof(float));
    float *want = run(c, &l, 0, l.p.n, KN_CUDA_ANY_WAY), *got = run(c, &l, 0, l.p.n, IN_PLACE);
    same(c, l.what, "in place", got, want, l.y_floats);
    free(want);
    free(got);
    free_case(&l);
}

/* Rows that hold a NaN, an infinity or nothing but zeros are treated as on the CPU. */
static void check_rare_rows(cc *c) {
    for (int kind = 0; kind < 3; kind++) {
        linear_case l = draw_case(c, cc_between(c, 0, 1) ? KN_Q8 : KN_Q4, true);
        float *x = (float *)(uintptr_t)l.p.x;
        for (int64_t i = 0; i < l.w.cols; i++)
            x[i] = kind == 0 && i == l.w.cols / 2 ? NAN : kind == 1 && i == 0 ? INFINITY : 0;
        float *got = run(c, &l, 0, l.p.n, KN_CUDA_ANY_WAY);
        bool good = true;
        for (int64_t o = 0; o < l.w.rows; o++)
            good &= kind < 2 ? isnan(got[o]) : isfinite(got[o]);
        cc_expect(c, good, "%s: rare row %d", l.what, kind);
        free(got);
        free_case(&l);
    }
}

void cc_check_linear(cc *c) {
    if (!cc_section(c, "linear"))
        return;
    for (int t = 0; t < KN_DTYPE_COUNT; t++)
        for (int i = 0; i < 8; i++)
            check_case(c, (kn_dtype)t, i % 2);
    check_long(c, (kn_dtype)cc_between(c, KN_BF16, KN_F8));
    check_in_place(c, (kn_dtype)cc_between(c, KN_BF16, KN_F8));
    for (int i = 0; i < 4; i++)
        check_rows(c);
    check_rare_rows(c);
}
