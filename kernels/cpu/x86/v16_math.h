/* Elementary functions on sixteen lanes, good to one or two units in the last place. The same
 * operations run in every lane of a full or a partly filled vector, so a result depends on its
 * argument alone. Include a v16_*.h first. */
#ifndef TNL_KERNELS_CPU_V16_MATH_H
#define TNL_KERNELS_CPU_V16_MATH_H
#ifdef V16_FN

/* x = n ln 2 + r, |r| <= ln 2 / 2 and a little; returns e^r - 1. */
V16_FN v16 v16_exp_parts(v16 x, v16 *n) {
    *n = v16_round(v16_mul(x, v16_set(0x1.715476p+0f)));
    v16 r = v16_fnma(*n, v16_set(0x1.62ep-1f), x);
    r = v16_fnma(*n, v16_set(0x1.0bfbe8p-15f), r);
    /* least maximal error of (e^r - 1 - r) / r^2: 3e-9 */
    v16 q = v16_fma(r, v16_set(0x1.6db4e8p-10f), v16_set(0x1.123bdep-7f));
    q = v16_fma(r, q, v16_set(0x1.55545ep-5f));
    q = v16_fma(r, q, v16_set(0x1.55548ep-3f));
    q = v16_fma(r, q, v16_set(0.5f));
    return v16_fma(v16_mul(r, r), q, r);
}

/* e^x; infinity and zero where f32 ends, subnormals rounded once, NaN stays NaN. */
V16_FN v16 v16_exp(v16 x) {
    v16 n;
    x = v16_min(v16_set(89.0f), v16_max(v16_set(-104.5f), x)); /* in this order NaN passes */
    v16 p = v16_exp_parts(x, &n);
    v16 half = v16_round(v16_mul(n, v16_set(0.5f))); /* 2^n may not be an f32, its root is */
    v16 e = v16_mul(v16_add(p, v16_set(1.0f)), v16_pow2(half));
    return v16_mul(e, v16_pow2(v16_sub(n, half)));
}

/* e^x - 1 for x <= 0 (any result for others). */
V16_FN v16 v16_expm1_neg(v16 x) {
    v16 n;
    x = v16_min(v16_zero(), v16_max(v16_set(-30.0f), x));
    v16 p = v16_exp_parts(x, &n);
    v16 s = v16_pow2(n);
    return v16_fma(p, s, v16_sub(s, v16_set(1.0f)));
}

V16_FN v16 v16_sigmoid(v16 x) {
    v16 e = v16_exp(v16_sub(v16_zero(), v16_abs(x)));
    v16 top = v16_select(v16_lt(x, v16_zero()), e, v16_set(1.0f));
    return v16_div(top, v16_add(v16_set(1.0f), e));
}

/* x Phi(x). With y = |x|: Phi(-y) = e^(-y^2/2) h(u) / (y+4), u = (y-4)/(y+4), h a polynomial
 * (error 9e-9); the square is carried to twice its length, or e would magnify its rounding. */
V16_FN v16 v16_gelu(v16 x) {
    const float c[10] = {0x1.82b4bcp-1f, -0x1.373e38p-1f, 0x1.8c6d9ep-2f,  -0x1.7ep-3f,
                         0x1.eed404p-5f, -0x1.ed2d1ap-8f, -0x1.cc65cp-9f, 0x1.9b8bc8p-10f,
                         0x1.782218p-13f, -0x1.14c3cep-13f};
    v16 y = v16_min(v16_set(16.0f), v16_abs(x));
    v16 below = v16_add(y, v16_set(4.0f));
    v16 u = v16_div(v16_sub(y, v16_set(4.0f)), below);
    v16 h = v16_set(c[9]);
#pragma GCC unroll 9
    for (int i = 8; i >= 0; i--)
        h = v16_fma(h, u, v16_set(c[i]));
    v16 half = v16_mul(y, v16_set(0.5f));
    v16 sq = v16_mul(half, y);
    v16 rest = v16_fnma(half, y, sq); /* sq - half y */
    v16 e = v16_exp(v16_sub(v16_zero(), sq));
    e = v16_fma(e, rest, e);
    v16 tail = v16_div(v16_mul(e, h), below);
    v16 phi = v16_select(v16_lt(x, v16_zero()), tail, v16_sub(v16_set(1.0f), tail));
    return v16_mul(x, phi);
}

/* Sine and cosine of r in [-pi/4, pi/4] and a little. */
V16_FN void v16_sincos_small(v16 *s, v16 *c, v16 r) {
    v16 z = v16_mul(r, r);
    v16 p = v16_fma(z, v16_set(-0x1.992c06p-13f), v16_set(0x1.1106fcp-7f));
    p = v16_fma(z, p, v16_set(-0x1.555544p-3f));
    *s = v16_fma(v16_mul(z, r), p, r);
    p = v16_fma(z, v16_set(0x1.99e33ap-16f), v16_set(-0x1.6c0c22p-10f));
    p = v16_fma(z, p, v16_set(0x1.55554ap-5f));
    p = v16_fma(z, p, v16_set(-0.5f));
    *c = v16_fma(z, p, v16_set(1.0f));
}

/* The phase hi + lo (lo: what the rounding of hi left) becomes r = phase - turn pi/2 with turn
 * taken modulo 4. pi/2 in two doubles: right to 2^-50 while |phase| < 2^50. */
V16_FN vd vd_reduce(vd hi, vd lo, vd *turn) {
    vd n = vd_round(vd_mul(hi, vd_set(0x1.45f306dc9c883p-1)));
    vd r = vd_fnma(n, vd_set(0x1.921fb54442d18p+0), hi);
    r = vd_add(vd_fnma(n, vd_set(0x1.1a62633145c07p-54), r), lo);
    *turn = vd_fnma(vd_floor(vd_mul(n, vd_set(0.25))), vd_set(4), n);
    return r;
}

V16_FN void v16_sincos_turn(v16 *s, v16 *c, v16 r, v16 turn) {
    v16 s0, c0;
    v16_sincos_small(&s0, &c0, r);
    v16m one = v16_eq(turn, v16_set(1)), two = v16_eq(turn, v16_set(2));
    v16m three = v16_eq(turn, v16_set(3)), odd = v16_or(one, three);
    v16 s1 = v16_select(odd, c0, s0), c1 = v16_select(odd, s0, c0);
    *s = v16_select(v16_or(two, three), v16_sub(v16_zero(), s1), s1);
    *c = v16_select(v16_or(one, two), v16_sub(v16_zero(), c1), c1);
}

/* Right for |x| < 2^50. */
V16_FN v16 v16_sin(v16 x) {
    vd part[V16_VDS], turn[V16_VDS];
    v16 s, c;
    v16_widen(part, x);
#pragma GCC unroll 4
    for (int i = 0; i < V16_VDS; i++)
        part[i] = vd_reduce(part[i], vd_set(0), &turn[i]);
    v16_sincos_turn(&s, &c, v16_narrow(part), v16_narrow(turn));
    /* -0 would come back as +0 from the sum with lo */
    return v16_select(v16_eq(x, v16_zero()), x, s);
}

/* Sine and cosine of theta pos; the product is exact in two doubles. */
V16_FN void v16_sincos_phase(v16 *s, v16 *c, v16 theta, double pos) {
    vd part[V16_VDS], turn[V16_VDS];
    v16_widen(part, theta);
#pragma GCC unroll 4
    for (int i = 0; i < V16_VDS; i++) {
        vd hi = vd_mul(part[i], vd_set(pos));
        vd lo = vd_fms(part[i], vd_set(pos), hi);
        part[i] = vd_reduce(hi, lo, &turn[i]);
    }
    v16_sincos_turn(s, c, v16_narrow(part), v16_narrow(turn));
}

#endif
#endif
