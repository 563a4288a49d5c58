/* The packer against the definition of the formats (quant.c): bounds of the error, odd sizes,
 * difficult values, and the same bytes from every body and any number of threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/half.h"
#include "kernels/quant_pack.h"
#include "kernels/quant_tile.h"

static const kn_dtype types[] = {KN_Q8, KN_Q4, KN_F8};
enum { N_TYPES = sizeof types / sizeof types[0] };

static uint64_t rng_state;

static double uniform(void) {
    rng_state = rng_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(rng_state >> 11) * 0x1p-53;
}

static float gauss(double scale) {
    return (float)(scale * sqrt(-2 * log(uniform() + 1e-300)) * cos(6.283185307179586 * uniform()));
}

static int setup(void **state) {
    const char *seed = getenv("TNL_SEED");
    (void)state;
    rng_state = seed ? strtoull(seed, NULL, 10) : 20240211;
    print_message("TNL_SEED=%llu\n", (unsigned long long)rng_state);
    return 0;
}

static void *get(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    if (!p)
        fail_msg("no memory");
    return p;
}

typedef struct packed {
    unsigned char *data;
    uint64_t bytes;
    float *back; /* [rows][cols], read by the definition */
} packed;

static packed pack(tnl_pool *pool, kn_dtype t, const void *x, kn_dtype from, int64_t rows,
                   int64_t cols) {
    packed p = {0};
    assert_true(kn_dtype_matrix_bytes(&p.bytes, t, (uint64_t)rows, (uint64_t)cols));
    p.data = get(p.bytes);
    memset(p.data, 0xA5, p.bytes);
    kn_q_pack(pool, p.data, t, x, from, rows, cols);
    p.back = get((size_t)(rows * cols) * sizeof *p.back);
    for (int64_t r = 0; r < rows; r++)
        kn_q_row_to_f32(p.back + r * cols, p.data, t, cols, r);
    return p;
}

static void drop(packed *p) {
    free(p->data);
    free(p->back);
}

static float *random_matrix(int64_t rows, int64_t cols) {
    float *x = get((size_t)(rows * cols) * sizeof *x);
    for (int64_t i = 0; i < rows * cols; i++)
        x[i] = gauss(0.02);
    return x;
}

/* Every value of a q8 group is within half a step, and the step is what the header says; a q4 group
 * errs by less than plain rounding to sixteen levels between the extremes of its runs. A value of
 * an f8 row is within half a step of its own binade, or of the smallest one. */
static void check_group(kn_dtype t, const float *x, const float *y, int64_t n) {
    float top = 0;
    double err = 0, bound = 0;
    for (int64_t i = 0; i < n; i++)
        top = fmaxf(top, fabsf(x[i]));
    for (int64_t at = 0; at < n; at += KN_Q4_RUN) {
        double run_top = 0;
        int64_t len = n - at < KN_Q4_RUN ? n - at : KN_Q4_RUN;
        for (int64_t i = at; i < at + len; i++)
            run_top = fmax(run_top, fabs((double)x[i]));
        bound += (double)len * run_top * run_top / (7 * 7 * 12);
    }
    for (int64_t i = 0; i < n; i++) {
        double e = fabs((double)x[i] - (double)y[i]);
        err += e * e;
        if (t == KN_Q8 && e > (double)top / 254 * 1.01)
            fail_msg("q8: value %g became %g, largest of its group %g", (double)x[i], (double)y[i],
                     (double)top);
    }
    if (t == KN_Q4 && err > 2.5 * bound)
        fail_msg("q4: squared error %g of a group, expected at most %g", err, 2.5 * bound);
}

static void check_f8_row(const float *x, const float *y, int64_t n) {
    float top = 0;
    for (int64_t i = 0; i < n; i++)
        top = fmaxf(top, fabsf(x[i]));
    for (int64_t i = 0; i < n; i++) {
        double e = fabs((double)x[i] - (double)y[i]), size = fabs((double)x[i]);
        if (e > fmax(size / 16, (double)top / 448 * 1.83 / 1024) * 1.001)
            fail_msg("f8: value %g became %g, largest of its row %g", (double)x[i], (double)y[i],
                     (double)top);
    }
}

static void check_matrix(kn_dtype t, const float *x, const float *y, int64_t rows, int64_t cols) {
    for (int64_t r = 0; t == KN_F8 && r < rows; r++)
        check_f8_row(x + r * cols, y + r * cols, cols);
    if (t == KN_F8)
        return;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t at = 0; at < cols; at += KN_Q_GROUP)
            check_group(t, x + r * cols + at, y + r * cols + at,
                        cols - at < KN_Q_GROUP ? cols - at : KN_Q_GROUP);
}

static const int64_t sizes[][2] = {{1, 1},     {1, 16},   {3, 31},    {63, 32},
                                   {64, 33},   {65, 127}, {64, 128},  {70, 129},
                                   {128, 160}, {17, 255}, {200, 384}, {66, 500}};

static void errors(void **state) {
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (int t = 0; t < N_TYPES; t++) {
            float *x = random_matrix(sizes[s][0], sizes[s][1]);
            packed p = pack(NULL, types[t], x, KN_F32, sizes[s][0], sizes[s][1]);
            check_matrix(types[t], x, p.back, sizes[s][0], sizes[s][1]);
            drop(&p);
            free(x);
        }
}

/* What the search is for: on normally distributed weights it beats sixteen evenly spaced levels. */
static void mean_errors(void **state) {
    (void)state;
    enum { ROWS = 128, COLS = 1024 };
    static const double limit[] = {0.0068, 0.0765, 0.0264};
    float *x = random_matrix(ROWS, COLS);
    for (int t = 0; t < N_TYPES; t++) {
        packed p = pack(NULL, types[t], x, KN_F32, ROWS, COLS);
        double err = 0, all = 0;
        for (int64_t i = 0; i < ROWS * COLS; i++) {
            double e = (double)p.back[i] - (double)x[i];
            err += e * e;
            all += (double)x[i] * (double)x[i];
        }
        if (sqrt(err / all) > limit[t])
            fail_msg("%s: relative error %.5f, expected at most %.5f", kn_dtypes[types[t]].name,
                     sqrt(err / all), limit[t]);
        drop(&p);
    }
    free(x);
}

/* ---- difficult values ---- */

static void same_sign_or_zero(const float *x, const float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(y[i]) || x[i] * y[i] < 0)
            fail_msg("value %g became %g", (double)x[i], (double)y[i]);
}

static void adversarial(void **state) {
    (void)state;
    enum { ROWS = 11, COLS = 200 };
    float *x = get(ROWS * COLS * sizeof *x);
    for (int64_t i = 0; i < COLS; i++) {
        x[0 * COLS + i] = 0;
        x[1 * COLS + i] = i == 77 ? -0x1.fep126f : 0;         /* one outlier */
        x[2 * COLS + i] = (i % 2 ? -1 : 1) * 0x1.fffffep126f; /* the largest that are legal */
        x[3 * COLS + i] = (i % 3 ? 1 : -1) * 0x1p-149f;       /* all subnormal: zero */
        x[4 * COLS + i] = i % 128 == 5 ? 1.0f : 0x1p-149f;    /* subnormal beside one */
        x[5 * COLS + i] = (float)((i % 128 * 37 + 254) % 255 - 127) / 64; /* on the q8 grid */
        x[6 * COLS + i] = 0x1.234p-99f * (i % 2 ? 1 : -0.75f);            /* just above the flush */
        x[7 * COLS + i] = 3.0f;                                           /* constant */
        x[8 * COLS + i] = i < 128 ? 0 : (float)(i - 150) * 1e30f;
        x[9 * COLS + i] = -0.0f;
        x[10 * COLS + i] = gauss(1) * (float)pow(2, 40 * (uniform() - 0.5)); /* wide range */
    }
    for (int t = 0; t < N_TYPES; t++) {
        packed p = pack(NULL, types[t], x, KN_F32, ROWS, COLS);
        same_sign_or_zero(x, p.back, ROWS * COLS);
        for (int64_t r = 0; r < ROWS; r++)
            if (r != 3)
                check_matrix(types[t], x + r * COLS, p.back + r * COLS, 1, COLS);
        for (int64_t i = 0; i < COLS; i++) {
            assert_true(p.back[i] == 0);
            assert_true(p.back[3 * COLS + i] == 0);
            assert_true(p.back[9 * COLS + i] == 0);
            assert_true(fabsf(p.back[7 * COLS + i] - 3.0f) <= 3.0f / 64);
            if (types[t] == KN_Q8) /* max 127/64: d is 1/64, a power of two, and every code exact */
                assert_true(fabsf(p.back[5 * COLS + i] - x[5 * COLS + i]) == 0);
        }
        assert_true(fabsf(p.back[COLS + 77] - x[COLS + 77]) <= 0x1p126f / 64);
        drop(&p);
    }
    free(x);
}

/* ---- one result, whoever computes it ---- */

/* Values that f16 and bf16 hold exactly. */
static void source_types(void **state) {
    (void)state;
    enum { ROWS = 70, COLS = 150 };
    float *x = get(ROWS * COLS * sizeof *x);
    uint16_t *b = get(ROWS * COLS * sizeof *b);
    for (int64_t i = 0; i < ROWS * COLS; i++) {
        b[i] = tnl_bf16_from_f32(gauss(0.02));
        x[i] = tnl_f32_from_bf16(b[i]);
    }
    for (int t = 0; t < N_TYPES; t++) {
        packed p = pack(NULL, types[t], x, KN_F32, ROWS, COLS);
        packed q = pack(NULL, types[t], b, KN_BF16, ROWS, COLS);
        assert_memory_equal(p.data, q.data, p.bytes);
        drop(&p);
        drop(&q);
    }
    free(x);
    free(b);
}

static void threads(void **state) {
    (void)state;
    enum { ROWS = 700, COLS = 300 };
    tnl_error err = {0};
    float *x = random_matrix(ROWS, COLS);
    for (int t = 0; t < N_TYPES; t++) {
        packed p = pack(NULL, types[t], x, KN_F32, ROWS, COLS);
        for (int n = 1; n <= 5; n += 2) {
            tnl_pool *pool;
            assert_int_equal(tnl_pool_open(&pool, n, &err), TNL_OK);
            packed q = pack(pool, types[t], x, KN_F32, ROWS, COLS);
            tnl_pool_close(pool);
            assert_memory_equal(p.data, q.data, p.bytes);
            drop(&q);
        }
        drop(&p);
    }
    free(x);
}

static void check_body(kn_q_tile_fn body, const char *name) {
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (int t = 0; t < N_TYPES; t++) {
            int64_t rows = sizes[s][0] < KN_Q_OUTS ? sizes[s][0] : KN_Q_OUTS, cols = sizes[s][1];
            size_t bytes = (size_t)kn_q_tile_bytes(types[t], cols);
            float *x = random_matrix(rows, cols);
            unsigned char *a = get(bytes), *b = get(bytes);
            x[0] = 0x1p-130f;
            x[rows * cols - 1] *= 1e20f;
            kn_q_tile_base(a, types[t], (const char *)x, KN_F32, rows, cols);
            body(b, types[t], (const char *)x, KN_F32, rows, cols);
            if (memcmp(a, b, bytes) != 0)
                fail_msg("%s: %s of %lld x %lld: other bytes", name, kn_dtypes[types[t]].name,
                         (long long)rows, (long long)cols);
            free(x);
            free(a);
            free(b);
        }
}

static void bodies(void **state) {
    (void)state;
    check_body(kn_q_tile_base, "base");
#ifdef HAVE_AVX2
    if (__builtin_cpu_supports("avx2"))
        check_body(kn_q_tile_avx2, "avx2");
#endif
#ifdef HAVE_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
        check_body(kn_q_tile_avx512, "avx512");
#endif
}

/* ---- filling and scales ---- */

/* Zero weights fill the last tile and the last group: clearing them again changes nothing. */
static void filling(void **state) {
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (int t = 0; t < N_TYPES; t++) {
            int64_t rows = sizes[s][0], cols = sizes[s][1], outs = rows % KN_Q_OUTS;
            uint64_t tile = (uint64_t)kn_q_tile_bytes(types[t], cols);
            float *x = random_matrix(rows, cols);
            packed p = pack(NULL, types[t], x, KN_F32, rows, cols);
            unsigned char *want = get(tile), *last = p.data + p.bytes - tile;
            memcpy(want, last, tile);
            outs = outs ? outs : KN_Q_OUTS;
            kn_q_clear_filling(last, types[t], outs, cols);
            assert_memory_equal(want, last, tile);
            for (int64_t r = outs; r < KN_Q_OUTS; r++) { /* and it reads as zero */
                float back[512];
                const int64_t padded = types[t] == KN_F8 ? kn_f8_padded(cols) : kn_q_padded(cols);
                kn_q_row_to_f32(back, last, types[t], padded, r);
                for (int64_t i = 0; i < padded; i++)
                    assert_true(back[i] == 0);
            }
            for (uint64_t i = 0; i < tile; i++) /* what is filling is cleared, the rest is kept */
                last[i] ^= 0xFF;
            memcpy(want, last, tile);
            kn_q_clear_filling(last, types[t], KN_Q_OUTS, cols);
            if (cols % KN_Q_UNIT == 0 && types[t] != KN_F8)
                assert_memory_equal(want, last, tile);
            drop(&p);
            free(want);
            free(x);
        }
}

static void scales(void **state) {
    (void)state;
    static const uint16_t bad_values[] = {0x7F80, 0xFF80, 0x7FC0, 0xFFFF, 0x7F81};
    enum { ROWS = 64 * 9, COLS = 300 };
    float *x = random_matrix(ROWS, COLS);
    for (int t = 0; t < N_TYPES; t++) {
        if (types[t] == KN_F8)
            continue;
        packed p = pack(NULL, types[t], x, KN_F32, ROWS, COLS);
        int64_t tile = kn_q_tile_bytes(types[t], COLS), bad = -1;
        assert_true(kn_q_tiles_finite(NULL, p.data, types[t], 9, COLS, &bad));
        for (int g = 0; g < 3; g++)
            for (int k = 0; k < 5; k++) {
                unsigned char *d = p.data + 7 * tile + g * kn_q_group_bytes(types[t], KN_Q_GROUP) +
                                   2 * (13 * k + g);
                unsigned char was[2] = {d[0], d[1]};
                d[0] = (unsigned char)(bad_values[k] & 0xFF);
                d[1] = (unsigned char)(bad_values[k] >> 8);
                assert_false(kn_q_tiles_finite(NULL, p.data, types[t], 9, COLS, &bad));
                assert_int_equal(bad, 7);
                memcpy(d, was, 2);
            }
        drop(&p);
    }
    free(x);
}

/* f8: a scale outside of its range, or a NaN, in the filling too. */
static void f8_values(void **state) {
    (void)state;
    enum { ROWS = 64 * 3 - 5, COLS = 37 };
    static const float bad_scales[] = {0, -1, -0.0f, INFINITY, -INFINITY, NAN, 0x1.000002p119f};
    float *x = random_matrix(ROWS, COLS);
    packed p = pack(NULL, KN_F8, x, KN_F32, ROWS, COLS);
    const int64_t stride = kn_f8_stride(COLS), rows[] = {64, 127, 128, 3 * 64 - 1};
    int64_t bad = -1;
    assert_int_equal(stride, 64);
    assert_int_equal((int64_t)p.bytes, 3 * 64 * stride);
    assert_true(kn_q_tiles_finite(NULL, p.data, KN_F8, 3, COLS, &bad));
    for (size_t r = 0; r < 4; r++) {
        unsigned char *row = p.data + rows[r] * stride, was[64];
        memcpy(was, row, sizeof was);
        for (size_t k = 0; k < sizeof bad_scales / sizeof bad_scales[0]; k++) {
            memcpy(row + 48, &bad_scales[k], sizeof(float));
            assert_false(kn_q_tiles_finite(NULL, p.data, KN_F8, 3, COLS, &bad));
            assert_int_equal(bad, rows[r] / 64);
        }
        memcpy(row, was, sizeof was);
        for (int i = 0; i < 48; i += 47) {
            row[i] = i ? 0x7F : 0xFF;
            assert_false(kn_q_tiles_finite(NULL, p.data, KN_F8, 3, COLS, &bad));
            assert_int_equal(bad, rows[r] / 64);
            row[i] = 0xFE;
            assert_true(kn_q_tiles_finite(NULL, p.data, KN_F8, 3, COLS, &bad));
        }
        memcpy(row, was, sizeof was);
    }
    drop(&p);
    free(x);
}

/* Rows as the header draws them, every byte: codes by the definition, the scale, zeros. */
static void f8_layout(void **state) {
    (void)state;
    enum { ROWS = 70, COLS = 21 };
    float *x = random_matrix(ROWS, COLS);
    memset(x + 3 * COLS, 0, COLS * sizeof *x);
    packed p = pack(NULL, KN_F8, x, KN_F32, ROWS, COLS);
    for (int64_t r = 0; r < 128; r++) {
        const unsigned char *row = p.data + r * 48;
        float d;
        memcpy(&d, row + 32, sizeof d);
        assert_true(d > 0 && d <= 0x1p119f);
        assert_true(d == 1 || (r < ROWS && r != 3));
        for (int64_t i = 0; i < COLS; i++) {
            uint8_t want = r < ROWS ? tnl_e4m3_from_f32(x[r * COLS + i] / d) : 0;
            assert_true(abs((int)row[i] - (int)want) <= 1); /* a quotient may lie on a border */
            if (r < ROWS)
                assert_true(p.back[r * COLS + i] == d * tnl_f32_from_e4m3(row[i]));
        }
        for (int64_t i = COLS; i < 48; i++)
            assert_true(row[i] == 0 || (i >= 32 && i < 36));
    }
    drop(&p);
    free(x);
}

/* ---- e4m3 ---- */

static double e4m3(int c) {
    int exponent = c >> 3 & 15, mantissa = c & 7;
    double size = exponent ? ldexp(8 + mantissa, exponent - 10) : ldexp(mantissa, -9);
    return c & 0x80 ? -size : size;
}

static void e4m3_codes(void **state) {
    (void)state;
    for (int c = 0; c < 256; c++) {
        float f = tnl_f32_from_e4m3((uint8_t)c);
        if ((c & 0x7F) == 0x7F) {
            assert_true(f != f);
            assert_int_equal(tnl_e4m3_from_f32(f), c);
            continue;
        }
        assert_true((double)f == e4m3(c) && !signbit(f) == (c < 0x80));
        assert_int_equal(tnl_e4m3_from_f32(f), c);
    }
    assert_true(tnl_f32_from_e4m3(0x7E) == 448 && tnl_f32_from_e4m3(1) == 0x1p-9f);
}

/* Between every two neighbours: the border itself goes to the even one, what is beside it to its
 * side. */
static void e4m3_rounding(void **state) {
    (void)state;
    for (int c = 0; c < 0x7E; c++) {
        float border = (float)((e4m3(c) + e4m3(c + 1)) / 2);
        for (int sign = 0; sign <= 0x80; sign += 0x80) {
            float s = sign ? -1.0f : 1.0f;
            assert_int_equal(tnl_e4m3_from_f32(s * border), sign | (c + (c & 1)));
            assert_int_equal(tnl_e4m3_from_f32(s * nextafterf(border, 0)), sign | c);
            assert_int_equal(tnl_e4m3_from_f32(s * nextafterf(border, 1000)), sign | (c + 1));
        }
    }
    static const float large[] = {448, 449, 463.9f, 464, 480, 1e30f, INFINITY};
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        assert_int_equal(tnl_e4m3_from_f32(large[i]), 0x7E);
        assert_int_equal(tnl_e4m3_from_f32(-large[i]), 0xFE);
    }
    assert_int_equal(tnl_e4m3_from_f32(0x1p-149f), 0);
    assert_int_equal(tnl_e4m3_from_f32(-0x1p-149f), 0x80);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors),      cmocka_unit_test(mean_errors),
        cmocka_unit_test(adversarial), cmocka_unit_test(source_types),
        cmocka_unit_test(threads),     cmocka_unit_test(bodies),
        cmocka_unit_test(filling),     cmocka_unit_test(scales),
        cmocka_unit_test(f8_values),   cmocka_unit_test(f8_layout),
        cmocka_unit_test(e4m3_codes),  cmocka_unit_test(e4m3_rounding),
    };
    return cmocka_run_group_tests_name("quant_pack", tests, setup, NULL);
}
