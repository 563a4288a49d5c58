/* Random numbers, values, comparisons. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/half.h"
#include "tests/checkkern/ck.h"

uint64_t ck_random(ck *k) {
    uint64_t z = (k->rng += 0x9E3779B97F4A7C15u); /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

double ck_uniform(ck *k) {
    return (double)(ck_random(k) >> 11) * 0x1p-53;
}

int64_t ck_between(ck *k, int64_t lo, int64_t hi) {
    return lo + (int64_t)(ck_random(k) % (uint64_t)(hi - lo + 1));
}

static double normal(ck *k) {
    double s = 0;
    for (int i = 0; i < 6; i++)
        s += ck_uniform(k) - 0.5;
    return s * 1.4142135623730951;
}

const char *ck_fill_name(ck_fill f) {
    static const char *const names[CK_FILLS] = {"normal",   "zeros", "subnormal",
                                                "outliers", "large", "same"};
    return names[f];
}

void ck_values(ck *k, ck_fill f, float *x, int64_t n) {
    float same = (float)normal(k);
    for (int64_t i = 0; i < n; i++) {
        double v = normal(k);
        switch (f) {
        case CK_ZEROS:
            x[i] = v < 0 ? -0.0f : 0.0f;
            break;
        case CK_SUBNORMAL:
            x[i] = (float)(v * 1e-39);
            break;
        case CK_OUTLIERS:
            x[i] = (float)(ck_between(k, 0, 15) ? v * 0.01 : v * 1e4);
            break;
        case CK_LARGE:
            x[i] = (float)(v * 1e15);
            break;
        case CK_SAME:
            x[i] = same;
            break;
        default:
            x[i] = (float)v;
            break;
        }
    }
}

static uint16_t f16_from_f32(float f) {
    /* the few halves a test needs: nearest by search of the neighbours, slow and plain */
    uint16_t sign = f < 0 ? 0x8000u : 0;
    float a = fabsf(f);
    uint16_t lo = 0, hi = 0x7BFF;
    while (lo < hi) {
        uint16_t mid = (uint16_t)((lo + hi + 1) / 2);
        if (tnl_f32_from_f16(mid) <= a)
            lo = mid;
        else
            hi = (uint16_t)(mid - 1);
    }
    return (uint16_t)(sign | lo);
}

kn_tensor ck_weights(ck *k, kn_dtype t, int64_t rows, int64_t cols, double size) {
    if (t == KN_F8)
        return ck_f8(k, rows, cols, size);
    if (t >= KN_PLAIN_COUNT)
        return ck_packed(k, t, rows, cols, size);
    int64_t elem = kn_dtypes[t].elem_bytes;
    unsigned char *p = ck_matrix(k, rows, cols, cols, elem);
    for (int64_t i = 0; i < rows * cols; i++) {
        float f = (float)(normal(k) * size);
        uint16_t h = t == KN_BF16 ? tnl_bf16_from_f32(f) : t == KN_F16 ? f16_from_f32(f) : 0;
        if (t == KN_F32)
            memcpy(p + 4 * i, &f, 4);
        else
            memcpy(p + 2 * i, &h, 2);
    }
    return (kn_tensor){p, t, rows, cols};
}

float ck_weight(const kn_tensor *w, int64_t row, int64_t col) {
    float d;
    if (w->dtype == KN_F8)
        return ck_f8_scale(w, row) * ck_f8_value(w, row, col);
    if (w->dtype >= KN_PLAIN_COUNT) {
        int code = ck_packed_weight(w, row, col, &d);
        return d * (float)code;
    }
    const char *p =
        (const char *)w->data + (row * w->cols + col) * (int64_t)kn_dtypes[w->dtype].elem_bytes;
    kn_dtype_to_f32(&d, p, w->dtype, 1);
    return d;
}

float *ck_weights_f32(const kn_tensor *w) {
    float *f = malloc((size_t)(w->rows * w->cols) * sizeof *f);
    if (!f)
        abort();
    for (int64_t i = 0; i < w->rows * w->cols; i++)
        f[i] = ck_weight(w, i / w->cols, i % w->cols);
    return f;
}

bool ck_section(ck *k, const char *name) {
    if (k->filter && !strstr(name, k->filter))
        return false;
    k->test = name;
    return true;
}

void ck_expect(ck *k, bool ok, const char *what) {
    k->cases++;
    if (ok)
        return;
    k->failures++;
    if (k->failures <= 50)
        printf("FAIL %s %s %s (--seed %llu)\n", k->test, k->isa ? k->isa : "", what,
               (unsigned long long)k->seed);
}

bool ck_near(ck *k, const char *what, const float *got, const double *want, int64_t n, ck_tol tol) {
    for (int64_t i = 0; i < n; i++) {
        double g = (double)got[i], w = want[i], diff = fabs(g - w);
        bool both_nan = isnan(g) && isnan(w);
        bool same_inf = isinf(g) && (g == w || (fabs(w) > (double)FLT_MAX && g * w > 0));
        if (both_nan || same_inf || diff <= tol.rel * fabs(w) + tol.abs)
            continue;
        char msg[400];
        snprintf(msg, sizeof msg,
                 "%s: element %lld is %.9g, expected %.9g (off by %.3g, allowed %.3g)", what,
                 (long long)i, g, w, diff, tol.rel * fabs(w) + tol.abs);
        ck_expect(k, false, msg);
        return false;
    }
    ck_expect(k, true, what);
    return true;
}

bool ck_same_bits(ck *k, const char *what, const float *got, const float *want, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (tnl_bits_from_f32(got[i]) == tnl_bits_from_f32(want[i]) ||
            (isnan(got[i]) && isnan(want[i])))
            continue;
        char msg[400];
        snprintf(msg, sizeof msg,
                 "%s: bits of element %lld differ: %.9g (%08x), expected %.9g (%08x)", what,
                 (long long)i, (double)got[i], tnl_bits_from_f32(got[i]), (double)want[i],
                 tnl_bits_from_f32(want[i]));
        ck_expect(k, false, msg);
        return false;
    }
    ck_expect(k, true, what);
    return true;
}

bool ck_same_rows(ck *k, const char *what, const float *got, const float *want, int64_t rows,
                  int64_t cols, int64_t ld) {
    for (int64_t r = 0; r < rows; r++)
        if (!ck_same_bits(k, what, got + r * ld, want + r * ld, cols))
            return false;
    return true;
}
