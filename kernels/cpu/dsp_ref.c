/* The oracle: every microkernel as its formula, sums in double. Also the fallback on processors
 * without a better rung. */
#include <math.h>
#include <string.h>

#include "kernels/base/half.h"
#include "kernels/cpu/dsp.h"

static const char *weight_row(const void *w, kn_dtype t, int64_t n_in, int64_t o) {
    return (const char *)w + o * (t == KN_F8 ? kn_f8_stride(n_in) : n_in * kn_dtypes[t].elem_bytes);
}

static float load_f32(const void *p, int64_t i) {
    float f;
    memcpy(&f, (const char *)p + 4 * i, sizeof f);
    return f;
}

static float load_f16(const void *p, int64_t i) {
    uint16_t h;
    memcpy(&h, (const char *)p + 2 * i, sizeof h);
    return tnl_f32_from_f16(h);
}

static float load_bf16(const void *p, int64_t i) {
    uint16_t h;
    memcpy(&h, (const char *)p + 2 * i, sizeof h);
    return tnl_f32_from_bf16(h);
}

static float load_f8(const void *p, int64_t i) {
    return tnl_f32_from_e4m3(((const uint8_t *)p)[i]) * KN_F8_DOT;
}

static float x_at(const kn_xrows *x, int64_t r, int64_t i) {
    return x->x[i / x->block * x->next + r * x->ld + i % x->block];
}

#define WIDEN(T)                                                                                   \
    static void widen_##T##_ref(float *dst, const void *src, int64_t n, float scale) {             \
        for (int64_t i = 0; i < n; i++)                                                            \
            dst[i] = load_##T(src, i) * scale;                                                     \
    }
WIDEN(f32)
WIDEN(f16)
WIDEN(bf16)

#define DOT(T, type)                                                                               \
    static void dot_few_##T##_ref(float *y, int64_t ldy, const float *x, int64_t ldx,              \
                                  int64_t rows, const void *w, int64_t n_out, int64_t n_in) {      \
        for (int64_t r = 0; r < rows; r++)                                                         \
            for (int64_t o = 0; o < n_out; o++) {                                                  \
                double sum = 0;                                                                    \
                for (int64_t i = 0; i < n_in; i++)                                                 \
                    sum += (double)x[r * ldx + i] *                                                \
                           (double)load_##T(weight_row(w, type, n_in, o), i);                      \
                y[r * ldy + o] = (float)sum;                                                       \
            }                                                                                      \
    }                                                                                              \
    static void dot_many_##T##_ref(float *y, int64_t ldy, const kn_xrows *x, int64_t row0,         \
                                   int64_t rows, const void *w, int64_t n_out, int64_t n_in,       \
                                   const void *next, int64_t next_bytes) {                         \
        (void)next;                                                                                \
        (void)next_bytes;                                                                          \
        for (int64_t r = 0; r < rows; r++)                                                         \
            for (int64_t o = 0; o < n_out; o++) {                                                  \
                double sum = 0;                                                                    \
                for (int64_t i = 0; i < n_in; i++)                                                 \
                    sum += (double)x_at(x, row0 + r, i) *                                          \
                           (double)load_##T(weight_row(w, type, n_in, o), i);                      \
                y[r * ldy + o] = (float)sum;                                                       \
            }                                                                                      \
    }
DOT(f32, KN_F32)
DOT(f16, KN_F16)
DOT(bf16, KN_BF16)
DOT(f8, KN_F8)

static void quant_row_ref(int8_t *q, float *scale, int32_t *sum, const float *x, int64_t n) {
    memset(q, 0, (size_t)kn_q_padded(n));
    for (int64_t g = 0; g * KN_Q_GROUP < n; g++) {
        int64_t end = (g + 1) * KN_Q_GROUP < n ? (g + 1) * KN_Q_GROUP : n;
        uint32_t top = 0; /* as integers, magnitudes are ordered and NaN and infinity are largest */
        for (int64_t i = g * KN_Q_GROUP; i < end; i++) {
            uint32_t bits = tnl_bits_from_f32(x[i]) & 0x7FFFFFFFu;
            top = bits > top ? bits : top;
        }
        float m = tnl_f32_from_bits(top);
        scale[g] = top >= 0x7F800000u ? (float)NAN : m < 0x1p-100f ? 0 : m / 127;
        sum[g] = 0;
        if (top >= 0x7F800000u || m < 0x1p-100f)
            continue;
        for (int64_t i = g * KN_Q_GROUP; i < end; i++) {
            q[i] = (int8_t)rintf(x[i] * (127 / m));
            sum[g] += q[i];
        }
    }
}

/* The integer weights of one input of a group, as a multiple of each output's scale. */
static void q8_weights_ref(int32_t w[KN_Q_OUTS], const unsigned char *group, int64_t g, int64_t i) {
    (void)g;
    for (int o = 0; o < KN_Q_OUTS; o++)
        w[o] = group[KN_Q_SCALES + i / 4 * 256 + 4 * o + i % 4] - 128;
}

static void q4_weights_ref(int32_t w[KN_Q_OUTS], const unsigned char *group, int64_t g, int64_t i) {
    const unsigned char *subs = group + KN_Q_SCALES + i / 32 * KN_Q_OUTS;
    const unsigned char *codes = group + KN_Q_SCALES + 2 * g + i / 8 * 256 + i % 4;
    for (int o = 0; o < KN_Q_OUTS; o++) {
        int sub = i / KN_Q4_RUN % 2 ? subs[o] >> 4 : subs[o] & 15;
        int code = i % 8 < 4 ? codes[4 * o] & 15 : codes[4 * o] >> 4;
        w[o] = (sub < 8 ? sub : sub - 16) * (code - 8);
    }
}

#define QDOT(T, type)                                                                              \
    static void qdot_##T##_ref(float *y, const kn_qrows *x, int64_t row0, int64_t rows,            \
                               const void *tile, int64_t cols) {                                   \
        const unsigned char *group = tile;                                                         \
        memset(y, 0, (size_t)(rows * KN_Q_OUTS) * sizeof *y);                                      \
        for (int64_t at = 0, k = 0; at < cols; at += KN_Q_GROUP, k++) {                            \
            int64_t g = kn_q_padded(cols - at < KN_Q_GROUP ? cols - at : KN_Q_GROUP);              \
            for (int64_t r = row0; r < row0 + rows; r++, y += KN_Q_OUTS) {                         \
                int32_t w[KN_Q_OUTS], dot[KN_Q_OUTS] = {0};                                        \
                for (int64_t i = 0; i < g; i++) {                                                  \
                    T##_weights_ref(w, group, g, i);                                               \
                    for (int o = 0; o < KN_Q_OUTS; o++)                                            \
                        dot[o] += w[o] * x->q[r * x->ldq + at + i];                                \
                }                                                                                  \
                for (int o = 0; o < KN_Q_OUTS; o++)                                                \
                    y[o] = fmaf((float)dot[o], load_bf16(group, o) * x->scale[r * x->groups + k],  \
                                y[o]);                                                             \
            }                                                                                      \
            y -= rows * KN_Q_OUTS;                                                                 \
            group += kn_q_group_bytes(type, g);                                                    \
        }                                                                                          \
    }
QDOT(q8, KN_Q8)
QDOT(q4, KN_Q4)

static void outer_ref(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_col,
                      const float *b, int64_t ldb, int64_t rows, int64_t n, int64_t cols,
                      bool add) {
    for (int64_t r = 0; r < rows; r++) {
        if (!add)
            memset(c + r * ldc, 0, (size_t)cols * sizeof *c);
        for (int64_t i = 0; i < n; i++) {
            double f = (double)a[r * a_row + i * a_col];
            for (int64_t j = 0; j < cols; j++) /* rounded to f32 after every step, as fma is */
                c[r * ldc + j] = (float)(f * (double)b[i * ldb + j] + (double)c[r * ldc + j]);
        }
    }
}

static void fold_slow_ref(float *s, const float *a, int64_t n, float f) {
    for (int64_t i = 0; i < n; i++)
        s[i] += (float)((double)s[i] * (double)f + (double)a[i]);
}

static void fold_fast_ref(float *s, const float *a, int64_t n, float f) {
    for (int64_t i = 0; i < n; i++)
        s[i] = (float)((double)s[i] * (double)f + (double)a[i]);
}

static void scale_ref(float *y, const float *x, int64_t n, float f) {
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] * f;
}

static void srms_ref(float *y, const float *x, int64_t n, float eps) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    double f = 1 / sqrt(sum / (double)n + (double)eps);
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)((double)x[i] * f);
}

static void layernorm_ref(float *y, const float *x, const float *w, const float *b, int64_t n,
                          float eps) {
    double mean = 0, var = 0;
    for (int64_t i = 0; i < n; i++)
        mean += (double)x[i];
    mean /= (double)n;
    for (int64_t i = 0; i < n; i++)
        var += ((double)x[i] - mean) * ((double)x[i] - mean);
    double f = 1 / sqrt(var / (double)n + (double)eps);
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)(((double)x[i] - mean) * f * (double)w[i] + (double)b[i]);
}

static double act_one(kn_act kind, double x) {
    switch (kind) {
    case KN_ACT_GELU:
        return 0.5 * x * erfc(-x * 0.70710678118654752440);
    case KN_ACT_RELU:
        return x < 0 ? 0 : x;
    case KN_ACT_ELU:
        return x < 0 ? expm1(x) : x;
    case KN_ACT_SIGMOID:
        return 1 / (1 + exp(-x));
    case KN_ACT_LEAK:
        return x < 0 ? x * (double)0.01f : x;
    case KN_ACT_1PELU:
        return x < 0 ? exp(x) : 1 + x;
    case KN_ACT_2PELU:
        return x < 0 ? 1 + exp(x) : 2 + x;
    case KN_ACT_SILU:
        return x / (1 + exp(-x));
    case KN_ACT_SINE:
        return sin(x);
    default:
        return x;
    }
}

#define ACT(name, kind)                                                                            \
    static void act_##name##_ref(float *x, int64_t n) {                                            \
        for (int64_t i = 0; i < n; i++)                                                            \
            x[i] = (float)act_one(kind, (double)x[i]);                                             \
    }
ACT(none, KN_ACT_NONE)
ACT(gelu, KN_ACT_GELU)
ACT(relu, KN_ACT_RELU)
ACT(elu, KN_ACT_ELU)
ACT(sigmoid, KN_ACT_SIGMOID)
ACT(leak, KN_ACT_LEAK)
ACT(1pelu, KN_ACT_1PELU)
ACT(2pelu, KN_ACT_2PELU)
ACT(silu, KN_ACT_SILU)
ACT(sine, KN_ACT_SINE)

static void act_exp_ref(float *x, int64_t n) {
    float top = x[0];
    for (int64_t i = 1; i < n; i++)
        top = x[i] > top ? x[i] : top;
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)exp((double)(x[i] - top)); /* the difference is rounded to f32 */
}

static void mul_ref(float *y, const float *a, const float *b, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        y[i] = a[i] * b[i];
}

static void lrpe_ref(float *y, const float *x, const float *theta, int64_t pos, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        /* long double holds the product of 40 and 24 bits exactly where it has 64 of them */
        long double phase = (long double)pos * (long double)theta[i];
        y[i] = (float)((long double)x[i] * cosl(phase));
        y[n + i] = (float)((long double)x[i] * sinl(phase));
    }
}

static bool all_finite_ref(const float *x, int64_t n) {
    bool ok = true;
    for (int64_t i = 0; i < n; i++)
        ok &= (tnl_bits_from_f32(x[i]) & 0x7F800000u) != 0x7F800000u;
    return ok;
}

void kn_dsp_fill_ref(kn_dsp *d) {
    *d = (kn_dsp){
        .widen = {widen_f32_ref, widen_f16_ref, widen_bf16_ref},
        .dot_few = {[KN_F32] = dot_few_f32_ref,
                    [KN_F16] = dot_few_f16_ref,
                    [KN_BF16] = dot_few_bf16_ref,
                    [KN_F8] = dot_few_f8_ref},
        .dot_many = {[KN_F32] = dot_many_f32_ref,
                     [KN_F16] = dot_many_f16_ref,
                     [KN_BF16] = dot_many_bf16_ref,
                     [KN_F8] = dot_many_f8_ref},
        .quant_row = quant_row_ref,
        .qdot = {[KN_Q8] = qdot_q8_ref, [KN_Q4] = qdot_q4_ref},
        .outer = outer_ref,
        .fold_slow = fold_slow_ref,
        .fold_fast = fold_fast_ref,
        .scale = scale_ref,
        .srms = srms_ref,
        .layernorm = layernorm_ref,
        .act = {act_none_ref, act_gelu_ref, act_relu_ref, act_elu_ref, act_sigmoid_ref, act_exp_ref,
                act_leak_ref, act_1pelu_ref, act_2pelu_ref, act_silu_ref, act_sine_ref},
        .mul = mul_ref,
        .lrpe = lrpe_ref,
        .all_finite = all_finite_ref,
    };
}
