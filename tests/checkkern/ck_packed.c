/* Packed weights: quant_row and qdot must hit a scalar oracle exactly in every instruction set,
 * and the oracle must be near sums in double. The oracle reads the formats by the letter of
 * quant.h, with code of its own. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/half.h"
#include "tests/checkkern/ck.h"

/* ---- the format ---- */

/* Where a group begins, and its inputs with the filling. */
static unsigned char *group_at(const kn_tensor *w, int64_t tile, int64_t group, int64_t *g) {
    int64_t padded = (w->cols + 31) / 32 * 32, whole = w->cols / 128 * 128;
    int64_t per_input = w->dtype == KN_Q8 ? 64 : 34; /* codes and factors */
    int64_t tile_bytes = padded * per_input + 128 * ((padded + 127) / 128);
    *g = 128 * group < whole ? 128 : padded - whole;
    return (unsigned char *)w->data + tile * tile_bytes + group * (128 * per_input + 128);
}

static int half_byte(unsigned byte, bool high) {
    return (int)(high ? byte >> 4 : byte & 15);
}

int ck_packed_weight(const kn_tensor *w, int64_t row, int64_t col, float *d) {
    int64_t g, o = row % 64, i = col % 128;
    const unsigned char *p = group_at(w, row / 64, col / 128, &g);
    uint16_t bf16;
    memcpy(&bf16, p + 2 * o, sizeof bf16);
    *d = tnl_f32_from_bf16(bf16);
    p += 128;
    if (w->dtype == KN_Q8)
        return p[256 * (i / 4) + 4 * o + i % 4] - 128;
    int sub = half_byte(p[64 * (i / 32) + o], i / 16 % 2);
    int code = half_byte(p[2 * g + 256 * (i / 8) + 4 * o + i % 4], i / 4 % 2);
    return (sub >= 8 ? sub - 16 : sub) * (code - 8);
}

/* Bytes from one row of f8 to the next: codes, the scale, zeros. */
static int64_t f8_stride(int64_t cols) {
    return (cols + 15) / 16 * 16 + 16;
}

float ck_f8_value(const kn_tensor *w, int64_t row, int64_t col) {
    int c = ((const unsigned char *)w->data)[row * f8_stride(w->cols) + col];
    double v = c >> 3 & 15 ? ldexp(8 + (c & 7), (c >> 3 & 15) - 10) : ldexp(c & 7, -9);
    return (float)(c & 0x80 ? -v : v);
}

float ck_f8_scale(const kn_tensor *w, int64_t row) {
    float d;
    const int64_t stride = f8_stride(w->cols);
    memcpy(&d, (const unsigned char *)w->data + (row + 1) * stride - 16, sizeof d);
    return d;
}

/* Codes of a row: of every size, the smallest, the largest of both signs, or about normal. */
static unsigned char draw_f8(ck *k, int how) {
    unsigned sign = ck_between(k, 0, 1) ? 0x80 : 0;
    switch (how) {
    case 0:
        return (unsigned char)(sign | (unsigned)ck_between(k, 0, 0x7E));
    case 1:
        return (unsigned char)(sign | (unsigned)ck_between(k, 0, 9));
    case 2:
        return (unsigned char)(sign | 0x7E);
    default:
        return tnl_e4m3_from_f32((float)(200 * (ck_uniform(k) + ck_uniform(k) - 1)));
    }
}

kn_tensor ck_f8(ck *k, int64_t rows, int64_t cols, double size) {
    static const double largest[] = {448, 0.02, 448, 200};
    const int64_t stride = f8_stride(cols), bytes = (rows + 63) / 64 * 64 * stride;
    unsigned char *p = ck_matrix(k, 1, bytes / 64, bytes / 64, 64);
    kn_tensor w = {p, KN_F8, rows, cols};
    memset(p, 0, (size_t)bytes);
    for (int64_t o = 0; o < (rows + 63) / 64 * 64; o++, p += stride) {
        int how = (int)ck_between(k, 0, 3);
        float d = o < rows ? (float)(4 * size / largest[how] * (0.5 + ck_uniform(k))) : 1;
        for (int64_t i = 0; o < rows && i < cols; i++)
            p[i] = draw_f8(k, how);
        memcpy(p + stride - 16, &d, sizeof d);
    }
    return w;
}

/* How the integers of a matrix are drawn. */
enum { ANY, LEAST, GREATEST, EXTREMES, DRAWS };

static unsigned draw_byte(ck *k, kn_dtype t, int how) {
    unsigned least = t == KN_Q8 ? 1 : 0;
    if (how == EXTREMES)
        how = ck_between(k, 0, 1) ? LEAST : GREATEST;
    return how == LEAST ? least : how == GREATEST ? 255 : (unsigned)ck_between(k, least, 255);
}

/* Zero weights in the filling: outputs beyond rows, inputs beyond cols. */
static void clear_filling(const kn_tensor *w, unsigned char *p, int64_t g, int64_t tile,
                          int64_t group) {
    for (int64_t o = 0; o < 64; o++)
        for (int64_t i = 0; i < g; i++) {
            if (64 * tile + o < w->rows && 128 * group + i < w->cols)
                continue;
            if (w->dtype == KN_Q8) {
                p[128 + 256 * (i / 4) + 4 * o + i % 4] = 128;
                continue;
            }
            unsigned char *code = p + 128 + 2 * g + 256 * (i / 8) + 4 * o + i % 4;
            *code = i / 4 % 2 ? (*code & 0x0F) | 0x80 : (*code & 0xF0) | 0x08;
        }
}

kn_tensor ck_packed(ck *k, kn_dtype t, int64_t rows, int64_t cols, double size) {
    int64_t bytes = (rows + 63) / 64 * kn_q_tile_bytes(t, cols), g;
    kn_tensor w = {ck_matrix(k, 1, bytes / 64, bytes / 64, 64), t, rows, cols};
    double unit = size / (t == KN_Q8 ? 64 : 20);
    for (int64_t tile = 0; tile < (rows + 63) / 64; tile++)
        for (int64_t group = 0; group < (cols + 127) / 128; group++) {
            unsigned char *p = group_at(&w, tile, group, &g);
            int how = (int)ck_between(k, 0, 3 * DRAWS);
            for (int64_t o = 0; o < 64; o++) {
                float d = (float)(unit * (0.5 + ck_uniform(k)) * (ck_between(k, 0, 7) ? 1 : -1));
                uint16_t bf16 = tnl_bf16_from_f32(ck_between(k, 0, 40) ? d : 0);
                memcpy(p + 2 * o, &bf16, sizeof bf16);
            }
            for (int64_t i = 128; i < kn_q_group_bytes(t, g); i++)
                p[i] = (unsigned char)draw_byte(k, t, how);
            clear_filling(&w, p, g, tile, group);
        }
    return w;
}

/* ---- the arithmetic ---- */

void ck_quantise(int8_t *q, float *scale, int32_t *sum, const float *x, int64_t n) {
    memset(q, 0, (size_t)((n + 31) / 32 * 32));
    for (int64_t g = 0; 128 * g < n; g++) {
        int64_t begin = 128 * g, end = begin + 128 < n ? begin + 128 : n;
        float top = 0;
        bool finite = true;
        for (int64_t i = begin; i < end; i++) {
            finite = finite && isfinite(x[i]);
            top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
        }
        bool zero = !finite || top < 0x1p-100f;
        scale[g] = !finite ? (float)NAN : zero ? 0 : (float)((double)top / 127);
        sum[g] = 0;
        float f = zero ? 0 : (float)(127 / (double)top);
        for (int64_t i = begin; i < end && !zero; i++) {
            q[i] = (int8_t)nearbyint((double)(float)((double)x[i] * (double)f));
            sum[g] += q[i];
        }
    }
}

ck_ints ck_unpack(const kn_tensor *w) {
    int64_t n = w->rows * w->cols, groups = (w->cols + 127) / 128;
    ck_ints u = {malloc((size_t)n * sizeof *u.code), malloc((size_t)(w->rows * groups) * 4)};
    if (!u.code || !u.d)
        abort();
    for (int64_t o = 0; o < w->rows; o++)
        for (int64_t i = 0; i < w->cols; i++)
            u.code[o * w->cols + i] =
                (int16_t)ck_packed_weight(w, o, i, &u.d[o * groups + i / 128]);
    return u;
}

void ck_ints_free(ck_ints *u) {
    free(u->code);
    free(u->d);
}

void ck_packed_dots(float *y, const kn_tensor *w, const ck_ints *u, const int8_t *q,
                    const float *scale) {
    int64_t groups = (w->cols + 127) / 128;
    for (int64_t o = 0; o < w->rows; o++) {
        y[o] = 0;
        for (int64_t g = 0; g < groups; g++) {
            int64_t dot = 0, end = 128 * g + 128 < w->cols ? 128 * g + 128 : w->cols;
            for (int64_t i = 128 * g; i < end; i++)
                dot += u->code[o * w->cols + i] * q[i];
            y[o] = fmaf((float)dot, u->d[o * groups + g] * scale[g], y[o]);
        }
    }
}

/* ---- quant_row ---- */

/* Shapes of data that ck_fill has not: what a row must survive. */
enum { HUGE_VALUES = CK_FILLS, TINY, TIES, BAD, QUANT_FILLS };

static void quant_values(ck *k, int fill, float *x, int64_t n) {
    static const float bad[] = {INFINITY, -INFINITY, NAN, FLT_MAX};
    ck_values(k, fill < CK_FILLS ? (ck_fill)fill : CK_NORMAL, x, n);
    for (int64_t i = 0; i < n; i++) {
        if (fill == HUGE_VALUES)
            x[i] = x[i] < 0 ? -FLT_MAX : x[i] * 1e38f;
        else if (fill == TINY) /* about the limit below which a group is zero */
            x[i] *= ck_between(k, 0, 1) ? 0x1p-101f : 0x1p-103f;
        else if (fill == TIES) /* halves of a step of 1 */
            x[i] = i % 128 == 0 ? 127 : (float)ck_between(k, -253, 253) / 2;
        else if (fill == BAD && ck_between(k, 0, 150) == 0)
            x[i] = bad[ck_between(k, 0, 3)];
    }
}

/* The rounding itself: no value further than half a step from where it came. */
static void check_steps(ck *k, const int8_t *q, const float *scale, const float *x, int64_t n,
                        const char *what) {
    for (int64_t i = 0; i < n; i++) {
        double s = (double)scale[i / 128], off = fabs((double)x[i] - s * q[i]);
        if (isnan(s) || (s == 0 && fabs((double)x[i]) < 0x1p-100) ||
            (off <= s * (0.5 + 1e-4) && q[i] >= -127))
            continue;
        ck_expect(k, false, what);
        return;
    }
}

typedef struct quant_out {
    int8_t *q;
    float *scale;
    int32_t *sum;
} quant_out;

static quant_out quant_buffers(ck *k, int64_t n) {
    int64_t groups = kn_q_groups(n), padded = kn_q_padded(n);
    return (quant_out){ck_matrix(k, 1, padded, padded, 1), ck_f32(k, 1, groups, groups),
                       ck_matrix(k, 1, groups, groups, 4)};
}

static void check_quant_row(ck *k) {
    int64_t n = ck_between(k, 0, 1) ? ck_between(k, 1, 300) : ck_between(k, 1, 1500);
    int fill = (int)ck_between(k, 0, QUANT_FILLS - 1);
    float *x = ck_f32(k, 1, n, n);
    quant_values(k, fill, x, n);
    quant_out want = quant_buffers(k, n);
    char what[100];
    snprintf(what, sizeof what, "n=%d fill=%d", (int)n, fill);
    ck_quantise(want.q, want.scale, want.sum, x, n);
    check_steps(k, want.q, want.scale, x, n, what);
    ck_freeze(k);
    for (int i = 0; i < k->n_isas; i++) {
        kn_dsp d;
        if (kn_dsp_init(&d, k->isas[i], NULL) != TNL_OK)
            continue;
        k->isa = d.isa;
        quant_out got = quant_buffers(k, n);
        d.quant_row(got.q, got.scale, got.sum, x, n);
        ck_same_bits(k, what, got.scale, want.scale, kn_q_groups(n));
        ck_expect(k, !memcmp(got.q, want.q, (size_t)kn_q_padded(n)), what);
        ck_expect(k, !memcmp(got.sum, want.sum, (size_t)kn_q_groups(n) * sizeof *got.sum), what);
    }
    ck_buffers_done(k, what);
}

/* ---- qdot ---- */

typedef struct qdot_case {
    int64_t rows, cols, row0, n;
    kn_tensor w;
    kn_qrows x;
    const float *inputs; /* [rows][cols] */
    char what[120];
} qdot_case;

/* Activations as quant_row leaves them, or at their limits: all 127, or of the weights' signs. */
static void draw_inputs(ck *k, qdot_case *c, float *x) {
    int how = (int)ck_between(k, 0, 3);
    for (int64_t r = 0; r < c->rows; r++) {
        float *row = x + r * c->cols;
        ck_values(k, how == 0 ? (ck_fill)ck_between(k, 0, CK_FILLS - 1) : CK_NORMAL, row, c->cols);
        for (int64_t i = 0; how > 1 && i < c->cols; i++) {
            float d;
            int same = how == 2 ? 1 : ck_packed_weight(&c->w, r % 64, i, &d);
            row[i] = same < 0 ? -1.5f : 1.5f;
        }
        if (ck_between(k, 0, 20) == 0)
            row[ck_between(k, 0, c->cols - 1)] = ck_between(k, 0, 1) ? NAN : -INFINITY;
        ck_quantise(c->x.q + r * c->x.ldq, c->x.scale + r * c->x.groups, c->x.sum + r * c->x.groups,
                    row, c->cols);
    }
}

static qdot_case draw_qdot(ck *k) {
    qdot_case c = {.rows = ck_between(k, 1, ck_between(k, 0, 3) ? 14 : 80)};
    c.cols = ck_between(k, 0, 3) ? ck_between(k, 1, 300) : ck_between(k, 1, 1100);
    c.row0 = ck_between(k, 0, 1) ? 0 : ck_between(k, 0, c.rows - 1);
    c.n = c.rows - c.row0;
    c.w = ck_packed(k, ck_between(k, 0, 1) ? KN_Q8 : KN_Q4, 64, c.cols, 0.05);
    int64_t bytes = (int64_t)kn_qrows_bytes(c.rows, c.cols);
    c.x = kn_qrows_at(ck_matrix(k, 1, bytes / 64, bytes / 64, 64), c.rows, c.cols);
    float *x = ck_f32(k, c.rows, c.cols, c.cols);
    draw_inputs(k, &c, x);
    c.inputs = x;
    snprintf(c.what, sizeof c.what, "%s rows=%d from %d cols=%d", kn_dtypes[c.w.dtype].name,
             (int)c.n, (int)c.row0, (int)c.cols);
    return c;
}

/* The oracle itself against sums in double of what was quantised: half a step of every input. */
static void check_qdot_oracle(ck *k, const qdot_case *c, const float *want, const float *weights,
                              int64_t r) {
    const float *x = c->inputs + r * c->cols, *s = c->x.scale + r * c->x.groups;
    for (int64_t o = 0; o < 64; o++) {
        double sum = 0, slack = 0;
        for (int64_t i = 0; i < c->cols; i++) {
            double w = (double)weights[o * c->cols + i];
            sum += w * (double)x[i];
            double step = (double)s[i / 128], size = fabs((double)x[i]);
            slack += fabs(w) * (step > 0 ? step * 0.5001 + size * 1e-6 : size);
        }
        ck_tol tol = {0, slack + 1e-40};
        if (isfinite(sum) && !ck_near(k, c->what, want + o, &sum, 1, tol))
            return;
    }
}

static void check_qdot_isa(ck *k, const qdot_case *c, const float *want) {
    kn_dsp d;
    if (kn_dsp_init(&d, k->isa, NULL) != TNL_OK)
        return;
    float *y = ck_matrix(k, 1, c->n * 4, c->n * 4, 64);
    d.qdot[c->w.dtype](y, &c->x, c->row0, c->n, c->w.data, c->cols);
    ck_same_rows(k, c->what, y, want, c->n, 64, 64);
}

static void check_qdot_case(ck *k) {
    qdot_case c = draw_qdot(k);
    float *want = malloc((size_t)c.n * 64 * sizeof *want), *weights = ck_weights_f32(&c.w);
    ck_ints ints = ck_unpack(&c.w);
    if (!want)
        abort();
    ck_freeze(k);
    k->isa = "oracle";
    for (int64_t r = 0; r < c.n; r++) {
        ck_packed_dots(want + 64 * r, &c.w, &ints, c.x.q + (c.row0 + r) * c.x.ldq,
                       c.x.scale + (c.row0 + r) * c.x.groups);
        if (r == c.n / 2)
            check_qdot_oracle(k, &c, want + 64 * r, weights, c.row0 + r);
    }
    for (int i = 0; i < k->n_isas; i++) {
        k->isa = k->isas[i];
        check_qdot_isa(k, &c, want);
    }
    free(want);
    free(weights);
    ck_ints_free(&ints);
    ck_buffers_done(k, c.what);
}

/* ---- rows of the formats as f32 ---- */

static void check_unpack(ck *k) {
    static const kn_dtype types[] = {KN_Q8, KN_Q4, KN_F8};
    const int64_t rows = ck_between(k, 1, 150), cols = ck_between(k, 1, 400);
    kn_tensor w = ck_weights(k, types[ck_between(k, 0, 2)], rows, cols, 1);
    float *want = ck_weights_f32(&w);
    for (int64_t r = 0; r < w.rows; r++) {
        float *got = ck_f32(k, 1, w.cols, w.cols);
        kn_q_row_to_f32(got, w.data, w.dtype, w.cols, r);
        ck_same_bits(k, kn_dtypes[w.dtype].name, got, want + r * w.cols, w.cols);
        if (k->n_bufs == CK_MOST_BUFS)
            break;
    }
    free(want);
    ck_buffers_done(k, "unpack");
}

void ck_check_packed(ck *k) {
    if (ck_section(k, "quant_row"))
        for (int i = 0; i < 500; i++)
            check_quant_row(k);
    if (ck_section(k, "qdot"))
        for (int i = 0; i < 150; i++)
            check_qdot_case(k);
    k->isa = NULL;
    if (ck_section(k, "unpack"))
        for (int i = 0; i < 15; i++)
            check_unpack(k);
}
