/* Everything that walks along one row: widening, norms, activations, products, LRPE. Compiled
 * once per instruction set over its v16 (rows_avx2.c, rows_avx512.c). Each function applies the
 * same operations to the last, partly filled vector as to the others. */
#include <math.h>

#include "kernels/cpu/dsp.h"
#include "kernels/cpu/x86/v16_math.h"

/* Run FULL for every full vector at i, then PART for the `rest` elements beyond, if any. */
#define EACH16(n, FULL, PART)                                                                      \
    do {                                                                                           \
        int64_t i = 0;                                                                             \
        for (; i + 16 <= (n); i += 16) {                                                           \
            FULL;                                                                                  \
        }                                                                                          \
        int64_t rest = (n) - i;                                                                    \
        if (rest > 0) {                                                                            \
            PART;                                                                                  \
        }                                                                                          \
    } while (0)

#define WIDEN(T, size)                                                                             \
    static void widen_##T(float *dst, const void *src, int64_t n, float scale) {                   \
        const char *p = src;                                                                       \
        v16 f = v16_set(scale);                                                                    \
        EACH16(n, v16_store(dst + i, v16_mul(v16_load_##T(p + i * (size)), f)),                    \
               v16_storen(dst + i, v16_mul(v16_loadn_##T(p + i * (size), rest), f), rest));        \
    }
WIDEN(f32, 4)
WIDEN(f16, 2)
WIDEN(bf16, 2)

static void fold_slow_row(float *s, const float *a, int64_t n, float factor) {
    v16 f = v16_set(factor), x;
    EACH16(n,
           x = v16_load(s + i);
           v16_store(s + i, v16_add(x, v16_fma(x, f, v16_load(a + i)))),
           x = v16_loadn(s + i, rest);
           v16_storen(s + i, v16_add(x, v16_fma(x, f, v16_loadn(a + i, rest))), rest));
}

static void fold_fast_row(float *s, const float *a, int64_t n, float factor) {
    v16 f = v16_set(factor);
    EACH16(n, v16_store(s + i, v16_fma(v16_load(s + i), f, v16_load(a + i))),
           v16_storen(s + i, v16_fma(v16_loadn(s + i, rest), f, v16_loadn(a + i, rest)), rest));
}

static void scale_row(float *y, const float *x, int64_t n, float factor) {
    v16 f = v16_set(factor);
    EACH16(n, v16_store(y + i, v16_mul(v16_load(x + i), f)),
           v16_storen(y + i, v16_mul(v16_loadn(x + i, rest), f), rest));
}

static void mul_row(float *y, const float *a, const float *b, int64_t n) {
    EACH16(n, v16_store(y + i, v16_mul(v16_load(a + i), v16_load(b + i))),
           v16_storen(y + i, v16_mul(v16_loadn(a + i, rest), v16_loadn(b + i, rest)), rest));
}

static void srms_row(float *y, const float *x, int64_t n, float eps) {
    v16 sum = v16_zero(), a;
    EACH16(n,
           a = v16_load(x + i);
           sum = v16_fma(a, a, sum),
           a = v16_loadn(x + i, rest);
           sum = v16_fma(a, a, sum));
    scale_row(y, x, n, 1.0f / sqrtf(v16_sum(sum) / (float)n + eps));
}

static v16 normal(v16 x, v16 mean, v16 f, v16 w, v16 b) {
    return v16_fma(v16_mul(v16_sub(x, mean), f), w, b);
}

static void layernorm_row(float *y, const float *x, const float *w, const float *b, int64_t n,
                          float eps) {
    v16 sum = v16_zero(), a;
    EACH16(n, sum = v16_add(sum, v16_load(x + i)), sum = v16_add(sum, v16_loadn(x + i, rest)));
    v16 mean = v16_set(v16_sum(sum) / (float)n);
    sum = v16_zero();
    EACH16(n,
           a = v16_sub(v16_load(x + i), mean);
           sum = v16_fma(a, a, sum),
           /* lanes beyond the row must add nothing: -mean is not zero there */
           float last[16] = {0};
           v16_storen(last, v16_sub(v16_loadn(x + i, rest), mean), rest);
           a = v16_load(last);
           sum = v16_fma(a, a, sum));
    v16 f = v16_set(1.0f / sqrtf(v16_sum(sum) / (float)n + eps));
    EACH16(n,
           v16_store(y + i, normal(v16_load(x + i), mean, f, v16_load(w + i), v16_load(b + i))),
           v16_storen(y + i,
                      normal(v16_loadn(x + i, rest), mean, f, v16_loadn(w + i, rest),
                             v16_loadn(b + i, rest)),
                      rest));
}

V16_FN v16 none_16(v16 x) {
    return x;
}
V16_FN v16 relu_16(v16 x) {
    return v16_select(v16_lt(x, v16_zero()), v16_zero(), x);
}
V16_FN v16 elu_16(v16 x) {
    return v16_select(v16_lt(x, v16_zero()), v16_expm1_neg(x), x);
}
V16_FN v16 leak_16(v16 x) {
    return v16_select(v16_lt(x, v16_zero()), v16_mul(x, v16_set(0.01f)), x);
}
V16_FN v16 one_p_elu_16(v16 x) {
    return v16_select(v16_lt(x, v16_zero()), v16_exp(x), v16_add(x, v16_set(1)));
}
V16_FN v16 two_p_elu_16(v16 x) {
    return v16_select(v16_lt(x, v16_zero()), v16_add(v16_exp(x), v16_set(1)),
                      v16_add(x, v16_set(2)));
}
V16_FN v16 silu_16(v16 x) {
    return v16_mul(x, v16_sigmoid(x));
}
/* Beyond 2^50 (no activation should ever be there) libm reduces the argument, lane by lane. */
V16_FN v16 sine_16(v16 x) {
    v16 s = v16_sin(x);
    v16m huge = v16_lt(v16_set(0x1p50f), v16_abs(x));
    if (!v16_any(huge))
        return s;
    float in[16], out[16];
    v16_store(in, x);
    for (int i = 0; i < 16; i++)
        out[i] = (float)sin((double)in[i]);
    return v16_select(huge, v16_load(out), s);
}

#define ACT(name, fn)                                                                              \
    static void act_##name(float *x, int64_t n) {                                                  \
        EACH16(n, v16_store(x + i, fn(v16_load(x + i))),                                           \
               v16_storen(x + i, fn(v16_loadn(x + i, rest)), rest));                               \
    }
ACT(none, none_16)
ACT(gelu, v16_gelu)
ACT(relu, relu_16)
ACT(elu, elu_16)
ACT(sigmoid, v16_sigmoid)
ACT(leak, leak_16)
ACT(1pelu, one_p_elu_16)
ACT(2pelu, two_p_elu_16)
ACT(silu, silu_16)
ACT(sine, sine_16)

static void act_exp(float *x, int64_t n) {
    float top = x[0];
    if (n >= 16) {
        v16 m = v16_load(x);
        for (int64_t i = 16; i + 16 <= n; i += 16)
            m = v16_max(v16_load(x + i), m);
        top = v16_top(m);
    }
    for (int64_t i = n / 16 * 16; i < n; i++)
        top = x[i] > top ? x[i] : top;
    v16 t = v16_set(top);
    EACH16(n, v16_store(x + i, v16_exp(v16_sub(v16_load(x + i), t))),
           v16_storen(x + i, v16_exp(v16_sub(v16_loadn(x + i, rest), t)), rest));
}

static void lrpe_row(float *y, const float *x, const float *theta, int64_t pos, int64_t n) {
    const double p = (double)pos;
    v16 s, c, a;
    EACH16(n,
           v16_sincos_phase(&s, &c, v16_load(theta + i), p);
           a = v16_load(x + i);
           v16_store(y + i, v16_mul(a, c));
           v16_store(y + n + i, v16_mul(a, s)),
           v16_sincos_phase(&s, &c, v16_loadn(theta + i, rest), p);
           a = v16_loadn(x + i, rest);
           v16_storen(y + i, v16_mul(a, c), rest);
           v16_storen(y + n + i, v16_mul(a, s), rest));
}

/* x - x is zero for every finite x and NaN for the others. */
static bool all_finite_row(const float *x, int64_t n) {
    v16 bad = v16_zero(), a;
    EACH16(n,
           a = v16_load(x + i);
           bad = v16_add(bad, v16_sub(a, a)),
           a = v16_loadn(x + i, rest);
           bad = v16_add(bad, v16_sub(a, a)));
    float sum = v16_sum(bad);
    return sum == 0.0f;
}

static void fill_rows(kn_dsp *d) {
    d->widen[KN_F32] = widen_f32;
    d->widen[KN_F16] = widen_f16;
    d->widen[KN_BF16] = widen_bf16;
    d->fold_slow = fold_slow_row;
    d->fold_fast = fold_fast_row;
    d->scale = scale_row;
    d->mul = mul_row;
    d->srms = srms_row;
    d->layernorm = layernorm_row;
    d->act[KN_ACT_NONE] = act_none;
    d->act[KN_ACT_GELU] = act_gelu;
    d->act[KN_ACT_RELU] = act_relu;
    d->act[KN_ACT_ELU] = act_elu;
    d->act[KN_ACT_SIGMOID] = act_sigmoid;
    d->act[KN_ACT_EXP] = act_exp;
    d->act[KN_ACT_LEAK] = act_leak;
    d->act[KN_ACT_1PELU] = act_1pelu;
    d->act[KN_ACT_2PELU] = act_2pelu;
    d->act[KN_ACT_SILU] = act_silu;
    d->act[KN_ACT_SINE] = act_sine;
    d->lrpe = lrpe_row;
    d->all_finite = all_finite_row;
}
