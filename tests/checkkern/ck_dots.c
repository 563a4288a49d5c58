/* dot_few, dot_many, widen, outer: against sums in double, and all accelerated instruction sets
 * and both dot kernels against each other in bits. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/checkkern/ck.h"

enum { MOST_ROWS = 30, MOST_OUTS = KN_PANEL_OUTS };

typedef struct dot_case {
    int64_t rows, outs, n, ldx, ldy;
    kn_dtype t;
    ck_fill fill;
    const float *x;
    kn_tensor w;
    const float *panel; /* w widened, [outs][n]; of f8 the codes, in 256ths */
    char what[200];
} dot_case;

static int64_t odd_size(ck *k) {
    static const int64_t sizes[] = {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 100, 511, 512, 513, 1030};
    return ck_between(k, 0, 2) ? sizes[ck_between(k, 0, 14)] : ck_between(k, 1, 2600);
}

static dot_case draw_dot(ck *k) {
    dot_case c = {.rows = ck_between(k, 1, MOST_ROWS), .outs = ck_between(k, 1, MOST_OUTS)};
    c.n = odd_size(k);
    c.ldx = c.n + ck_between(k, 0, 5);
    c.ldy = c.outs + ck_between(k, 0, 5);
    c.t = (kn_dtype)ck_between(k, 0, KN_PLAIN_COUNT);
    c.t = c.t == KN_PLAIN_COUNT ? KN_F8 : c.t;
    c.fill = (ck_fill)ck_between(k, 0, CK_FILLS - 1);
    c.x = ck_filled(k, c.fill, c.rows, c.n, c.ldx);
    c.w = ck_weights(k, c.t, c.outs, c.n, 0.05);
    float *panel = ck_f32(k, c.outs, c.n, c.n);
    for (int64_t o = 0; o < c.outs; o++)
        for (int64_t i = 0; i < c.n; i++)
            panel[o * c.n + i] =
                c.t == KN_F8 ? ck_f8_value(&c.w, o, i) / 256 : ck_weight(&c.w, o, i);
    c.panel = panel;
    snprintf(c.what, sizeof c.what, "rows=%d outs=%d n=%d ldx=%d %s %s", (int)c.rows, (int)c.outs,
             (int)c.n, (int)c.ldx, kn_dtypes[c.t].name, ck_fill_name(c.fill));
    return c;
}

/* The sum and, for the tolerance, the sum of magnitudes. */
static void dot_oracle(const dot_case *c, int64_t r, int64_t o, double *sum, double *size) {
    *sum = *size = 0;
    for (int64_t i = 0; i < c->n; i++) {
        double p = (double)c->x[r * c->ldx + i] * (double)c->panel[o * c->n + i];
        *sum += p;
        *size += fabs(p);
    }
}

static void run_few(const kn_dsp *d, const dot_case *c, float *y) {
    for (int64_t r = 0; r < c->rows; r += KN_FEW_ROWS) {
        int64_t rows = c->rows - r < KN_FEW_ROWS ? c->rows - r : KN_FEW_ROWS;
        d->dot_few[c->t](y + r * c->ldy, c->ldy, c->x + r * c->ldx, c->ldx, rows, c->w.data,
                         c->outs, c->n);
    }
}

static void check_against_oracle(ck *k, const dot_case *c, const float *y, const char *kernel) {
    char what[300];
    snprintf(what, sizeof what, "%s %s", kernel, c->what);
    for (int64_t r = 0; r < c->rows; r++)
        for (int64_t o = 0; o < c->outs; o++) {
            double sum, size;
            dot_oracle(c, r, o, &sum, &size);
            /* 16 lanes: an error of n/16 + 4 roundings, and generous room for subnormals */
            ck_tol tol = {0, size * 0x1p-24 * (4 + (double)c->n / 16) + 1e-43};
            if (!ck_near(k, what, y + r * c->ldy + o, &sum, 1, tol))
                return;
        }
}

/* The rows of the case as dot_many takes them: as they are, or in blocks. */
static kn_xrows draw_blocks(ck *k, const dot_case *c) {
    if (ck_between(k, 0, 2) == 0)
        return (kn_xrows){c->x, c->ldx, c->n, 0};
    int64_t block = 16 * ck_between(k, 1, (c->n + 15) / 16), blocks = (c->n + block - 1) / block;
    int64_t ld = block + ck_between(k, 0, 1) * 16;
    float *x = ck_f32(k, blocks, c->rows * ld, c->rows * ld);
    for (int64_t r = 0; r < c->rows; r++)
        for (int64_t i = 0; i < c->n; i++)
            x[i / block * c->rows * ld + r * ld + i % block] = c->x[r * c->ldx + i];
    return (kn_xrows){x, ld, block, c->rows * ld};
}

static void check_dot_case(ck *k) {
    dot_case c = draw_dot(k);
    uint64_t w_bytes = 0;
    kn_dtype_matrix_bytes(&w_bytes, c.t, (uint64_t)c.outs, (uint64_t)c.n);
    const kn_xrows x = draw_blocks(k, &c);
    float *first = NULL;
    ck_freeze(k);
    for (int i = 0; i < k->n_isas; i++) {
        kn_dsp d;
        if (kn_dsp_init(&d, k->isas[i], NULL) != TNL_OK)
            continue;
        k->isa = d.isa;
        float *few = ck_f32(k, c.rows, c.outs, c.ldy), *many = ck_f32(k, c.rows, c.outs, c.ldy);
        run_few(&d, &c, few);
        d.dot_many[c.t](many, c.ldy, &x, 0, c.rows, c.w.data, c.outs, c.n, c.w.data,
                        c.rows % 2 ? (int64_t)w_bytes : 0);
        check_against_oracle(k, &c, few, "dot_few");
        ck_same_rows(k, c.what, many, few, c.rows, c.outs, c.ldy);
        if (strcmp(d.isa, "ref") != 0) {
            if (first)
                ck_same_rows(k, c.what, few, first, c.rows, c.outs, c.ldy);
            first = few;
        }
    }
    ck_buffers_done(k, c.what);
}

static void check_widen_case(ck *k) {
    int64_t n = odd_size(k);
    kn_dtype t = (kn_dtype)ck_between(k, 0, KN_PLAIN_COUNT - 1);
    kn_tensor w = ck_weights(k, t, 1, n, ck_between(k, 0, 1) ? 1.0 : 1e-6);
    float scale = ck_between(k, 0, 1) ? 1.0f : 45.25f;
    static double want[2600];
    for (int64_t i = 0; i < n; i++)
        want[i] = (double)(ck_weight(&w, 0, i) * scale);
    for (int i = 0; i < k->n_isas; i++) {
        kn_dsp d;
        if (kn_dsp_init(&d, k->isas[i], NULL) != TNL_OK)
            continue;
        k->isa = d.isa;
        float *y = ck_f32(k, 1, n, n);
        d.widen[t](y, w.data, n, scale);
        ck_near(k, kn_dtypes[t].name, y, want, n, (ck_tol){0, 0});
    }
    ck_buffers_done(k, "widen");
}

/* Every f16 and bf16 value, exactly. */
static void check_all_halves(ck *k) {
    static uint16_t h[65536];
    static float y[65536], want[65536];
    for (int i = 0; i < 65536; i++)
        h[i] = (uint16_t)i;
    for (int i = 0; i < k->n_isas; i++) {
        kn_dsp d;
        if (kn_dsp_init(&d, k->isas[i], NULL) != TNL_OK)
            continue;
        k->isa = d.isa;
        for (kn_dtype t = KN_F16; t <= KN_BF16; t++) {
            kn_dtype_to_f32(want, h, t, 65536);
            d.widen[t](y, h, 65536, 1.0f);
            ck_same_bits(k, "all 16-bit patterns", y, want, 65536);
        }
    }
}

void ck_check_dots(ck *k) {
    if (ck_section(k, "dot"))
        for (int i = 0; i < 300; i++)
            check_dot_case(k);
    if (ck_section(k, "widen")) {
        check_all_halves(k);
        for (int i = 0; i < 60; i++)
            check_widen_case(k);
    }
}

typedef struct outer_case {
    int64_t rows, n, cols, ldc, a_row, a_col, ldb;
    bool add;
    ck_fill fill;
    const float *a, *b;
    float *c0;
    char what[200];
} outer_case;

static outer_case draw_outer(ck *k) {
    outer_case c = {.rows = ck_between(k, 1, 11), .cols = ck_between(k, 1, 200)};
    c.n = ck_between(k, 0, 3) ? ck_between(k, 0, 130) : ck_between(k, 0, 2);
    c.add = ck_between(k, 0, 1);
    c.ldc = c.cols + ck_between(k, 0, 5);
    c.ldb = c.cols + ck_between(k, 0, 5);
    ck_fill fill = (ck_fill)ck_between(k, 0, CK_FILLS - 1);
    if (fill == CK_LARGE)
        fill = CK_OUTLIERS;
    c.fill = fill;
    int64_t n = c.n ? c.n : 1;
    bool across = ck_between(k, 0, 1); /* a stored by columns */
    int64_t lda = (across ? c.rows : n) + ck_between(k, 0, 3);
    c.a = across ? ck_filled(k, fill, n, c.rows, lda) : ck_filled(k, fill, c.rows, n, lda);
    c.a_row = across ? 1 : lda;
    c.a_col = across ? lda : 1;
    c.b = ck_filled(k, fill, n, c.cols, c.ldb);
    c.c0 = ck_filled(k, CK_NORMAL, c.rows, c.cols, c.ldc);
    snprintf(c.what, sizeof c.what, "rows=%d n=%d cols=%d add=%d %s%s", (int)c.rows, (int)c.n,
             (int)c.cols, c.add, ck_fill_name(fill), across ? " across" : "");
    return c;
}

/* The chain of the contract: one fma a step. */
static void outer_oracle(const outer_case *c, int64_t r, double *want) {
    for (int64_t j = 0; j < c->cols; j++) {
        float sum = c->add ? c->c0[r * c->ldc + j] : 0.0f;
        for (int64_t i = 0; i < c->n; i++)
            sum = fmaf(c->a[r * c->a_row + i * c->a_col], c->b[i * c->ldb + j], sum);
        want[j] = (double)sum;
    }
}

static void check_outer_case(ck *k) {
    outer_case c = draw_outer(k);
    for (int i = 0; i < k->n_isas; i++) {
        kn_dsp d;
        if (kn_dsp_init(&d, k->isas[i], NULL) != TNL_OK)
            continue;
        k->isa = d.isa;
        float *y = ck_f32(k, c.rows, c.cols, c.ldc);
        for (int64_t r = 0; c.add && r < c.rows; r++)
            memcpy(y + r * c.ldc, c.c0 + r * c.ldc, (size_t)c.cols * sizeof *y);
        d.outer(y, c.ldc, c.a, c.a_row, c.a_col, c.b, c.ldb, c.rows, c.n, c.cols, c.add);
        /* ref rounds twice in a step, the others must hit the chain exactly */
        bool ref = strcmp(d.isa, "ref") == 0;
        double want[200];
        for (int64_t r = 0; r < c.rows; r++) {
            outer_oracle(&c, r, want);
            if (!ck_near(k, c.what, y + r * c.ldc, want, c.cols,
                         ref ? (ck_tol){1e-4, c.fill == CK_OUTLIERS ? 1000 : 1e-4}
                             : (ck_tol){0, 0}))
                break;
        }
    }
    ck_buffers_done(k, c.what);
}

void ck_check_outer(ck *k) {
    if (ck_section(k, "outer"))
        for (int i = 0; i < 200; i++)
            check_outer_case(k);
}
