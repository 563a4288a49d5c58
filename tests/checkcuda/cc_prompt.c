/* Products of a step with whole slices: their rows near float64, with the same bytes whatever
 * slices are beside them and wherever they are; all other rows with kn_cuda_linear's very bytes. On
 * the host the library is fake_lt.c's, which also has algorithms that must not be taken. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/half.h"
#include "kernels/cuda/linear_cuda.h"
#include "kernels/cuda/prompt_cuda.h"
#include "kernels/quant.h"
#include "tests/checkcuda/cc.h"
#include "tests/checkcuda/fake_lt.h"

enum {
    P = KN_CUDA_SLICE_ROWS,
    SLICES = 5,     /* drawn */
    LOOSE = 7,      /* rows beside them, drawn */
    MOST_RUNS = 70, /* more than one launch takes */
};

typedef struct prompt_case {
    kn_linear p; /* pointers to the device's; n, x, y and mul are the step's */
    kn_tensor w, w2;
    bool f8;
    int64_t outs, inputs;
    float *x, *mul, *y; /* [SLICES * P + LOOSE] rows, the host's */
    float *hw, *hw2;    /* weights */
    float *bias;
    kn_cuda_device device;
    kn_cuda_prompts *prompts;
} prompt_case;

/* A step: pieces of the drawn rows. A number below SLICES is that slice, another one so many loose
 * rows. */
typedef struct layout {
    int n_pieces;
    int piece[MOST_RUNS];
} layout;

static void *need(size_t bytes) {
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p)
        exit(2);
    return p;
}

static float *draw(cc *c, int64_t n, bool bf16) {
    float *x = need((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)cc_normal(c);
        if (bf16)
            x[i] = tnl_f32_from_bf16(tnl_bf16_from_f32(x[i]));
    }
    return x;
}

static const void *up_bf16(const float *x, int64_t n) {
    uint16_t *h = need((size_t)n * sizeof *h);
    for (int64_t i = 0; i < n; i++)
        h[i] = tnl_bf16_from_f32(x[i]);
    void *p = cc_device_copy(h, (size_t)n * sizeof *h);
    free(h);
    return p;
}

/* Any codes but NaN, scales of many sizes; to[outs][inputs]: what they mean. */
static const void *up_f8(cc *c, float *to, int64_t outs, int64_t inputs) {
    const int64_t stride = kn_f8_stride(inputs), rows = (outs + 63) / 64 * 64;
    unsigned char *w = need((size_t)(rows * stride));
    for (int64_t o = 0; o < rows; o++) {
        const float d = o < outs ? (float)exp2(cc_uniform(c) * 4 - 12) : 1;
        memcpy(w + o * stride + kn_f8_padded(inputs), &d, sizeof d);
        for (int64_t i = 0; o < outs && i < inputs; i++) {
            unsigned char code = (unsigned char)cc_random(c);
            code = (code & 0x7F) == 0x7F ? 0x7E : code;
            w[o * stride + i] = code;
            to[o * inputs + i] = d * tnl_f32_from_e4m3(code);
        }
    }
    void *p = cc_device_copy(w, (size_t)(rows * stride));
    free(w);
    return p;
}

static void *up(const float *x, int64_t n) {
    return cc_device_copy(x, (size_t)n * sizeof *x);
}

/* ---- steps ---- */

typedef struct step {
    int64_t n, n_runs;
    kn_cuda_run runs[MOST_RUNS];
    int64_t from[MOST_RUNS + 1], at[MOST_RUNS + 1], len[MOST_RUNS + 1]; /* of pieces */
} step;

static step step_of(const layout *l) {
    step s = {0};
    for (int i = 0; i < l->n_pieces; i++) {
        const int what = l->piece[i];
        s.at[i] = s.n;
        s.from[i] = what < SLICES ? what * P : SLICES * P;
        s.len[i] = what < SLICES ? P : what - SLICES;
        if (what < SLICES && i > 0 && l->piece[i - 1] < SLICES && i % 3 == 0)
            s.runs[s.n_runs - 1].n += P; /* now and then a run of several */
        else if (what < SLICES)
            s.runs[s.n_runs++] = (kn_cuda_run){s.n, P};
        s.n += s.len[i];
    }
    return s;
}

/* The rows of a step, from those drawn. */
static float *rows_of(const layout *l, const step *s, const float *drawn, int64_t ld) {
    float *to = need((size_t)(s->n * ld) * sizeof *to);
    for (int i = 0; i < l->n_pieces; i++)
        memcpy(to + s->at[i] * ld, drawn + s->from[i] * ld, (size_t)(s->len[i] * ld) * sizeof *to);
    return to;
}

static float *up_rows(const layout *l, const step *s, const float *drawn, int64_t ld) {
    float *rows = rows_of(l, s, drawn, ld);
    float *p = up(rows, s->n * ld);
    free(rows);
    return p;
}

/* y of the step; `own`: by kn_cuda_linear. NULL: it failed, *err says why. */
static float *run(const prompt_case *k, const layout *l, bool own, tnl_error *err) {
    const step s = step_of(l);
    kn_linear p = k->p;
    const size_t y_bytes = (size_t)(s.n * p.ldy) * sizeof(float);
    p.n = s.n;
    p.w = &k->w;
    p.w2 = k->w2.data ? &k->w2 : NULL;
    float *x = up_rows(l, &s, k->x, p.ldx);
    float *mul = k->mul ? up_rows(l, &s, k->mul, p.ldmul) : NULL;
    p.x = x;
    p.mul = mul;
    p.y = up_rows(l, &s, k->y, p.ldy);
    p.work = cc_device((size_t)(s.n * (k->inputs + 64)) * sizeof(float));
    tnl_status st = TNL_OK;
    cc_sync();
    if (own)
        kn_cuda_linear(&p, NULL);
    else
        st = kn_cuda_prompts_linear(k->prompts, &p, s.runs, s.n_runs, err);
    const char *error = cc_sync();
    if (error && st == TNL_OK)
        st = tnl_fail(err, TNL_E_INTERNAL, "%s", error);
    float *got = need(y_bytes);
    cc_fetch(got, p.y, y_bytes);
    void *used[] = {x, mul, p.y, p.work};
    for (size_t i = 0; i < sizeof used / sizeof *used; i++)
        cc_device_free(used[i]);
    if (st == TNL_OK)
        return got;
    free(got);
    return NULL;
}

/* ---- cases ---- */

static layout whole_step(void) {
    layout l = {.n_pieces = SLICES + 1};
    for (int i = 0; i < SLICES; i++)
        l.piece[i] = i;
    l.piece[SLICES] = SLICES + LOOSE;
    return l;
}

static kn_tensor draw_weights(cc *c, const prompt_case *k, float **values) {
    *values = draw(c, k->outs * k->inputs, true);
    return (kn_tensor){.data = k->f8 ? up_f8(c, *values, k->outs, k->inputs)
                                     : up_bf16(*values, k->outs * k->inputs),
                       .dtype = k->f8 ? KN_F8 : KN_BF16,
                       .rows = k->outs,
                       .cols = k->inputs};
}

/* What surrounds a product, beside what its sums are made of. */
typedef enum case_kind { ADDED, WITH_EXP, GLU, GATED, KINDS } case_kind;

static prompt_case draw_case(cc *c, case_kind kind, bool f8) {
    const int64_t scale = cc_emulated() ? 1 : 16, all = SLICES * P + LOOSE;
    prompt_case k = {.f8 = f8,
                     .outs = cc_between(c, 3, 9) * 4 * scale + cc_between(c, 0, 3),
                     .inputs = cc_between(c, 2, 9) * 8 * scale + (f8 ? cc_between(c, 0, 7) : 0)};
    kn_linear *p = &k.p;
    k.w = draw_weights(c, &k, &k.hw);
    p->ldx = k.inputs + cc_between(c, 0, 3);
    p->ldy = k.outs + cc_between(c, 0, 3);
    p->ldmul = k.inputs;
    k.x = draw(c, all * p->ldx, false);
    k.y = draw(c, all * p->ldy, false);
    k.bias = kind != ADDED ? draw(c, k.outs, false) : NULL;
    p->bias = k.bias ? up(k.bias, k.outs) : NULL;
    p->epi = kind == WITH_EXP ? KN_STORE : KN_ADD;
    if (kind == GLU || kind == GATED)
        p->norm = (kn_norm){.kind = KN_NORM_SRMS, .eps = 1e-6f};
    if (kind == GLU) {
        k.w2 = draw_weights(c, &k, &k.hw2);
        p->bias2 = p->bias;
    }
    if (kind == GATED)
        k.mul = draw(c, all * p->ldmul, false);
    p->act = kind == WITH_EXP ? KN_ACT_EXP : KN_ACT_SILU;
    p->act_cols = kind == ADDED ? 0 : k.outs - 1;
    p->act_group = k.outs - 1;
    return k;
}

/* A device whose sums have room for so many slices of one matrix. */
static bool open_prompts(cc *c, prompt_case *k, int64_t slices) {
    tnl_error err = {0};
    const bool good = kn_cuda_device_open(&k->device, 0, &err) == TNL_OK &&
                      kn_cuda_prompts_open(&k->prompts, &k->device, &err) == TNL_OK;
    k->device.memory = 256 * (size_t)((k->outs + 63) / 64 * 64 * P * slices) * sizeof(float);
    if (cc_emulated())
        k->device.minor = 9; /* 8.9 multiplies e4m3 */
    return cc_expect(c, good, "%s", err.msg);
}

static void close_prompts(prompt_case *k) {
    kn_cuda_prompts_close(k->prompts);
    k->prompts = NULL;
    kn_cuda_device_close(&k->device);
}

static void free_case(prompt_case *k) {
    void *host[] = {k->x, k->mul, k->y, k->hw, k->hw2, k->bias};
    const void *device[] = {k->w.data, k->w2.data, k->p.bias};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        free(host[i]);
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        cc_device_free((void *)(uintptr_t)device[i]);
}

/* ---- values ---- */

/* norm(x) . mul of a row, in double. */
static void input_row(const prompt_case *k, int64_t row, double *a) {
    const kn_linear *p = &k->p;
    double sum = 0;
    for (int64_t i = 0; i < k->inputs; i++) {
        a[i] = (double)k->x[row * p->ldx + i];
        sum += a[i] * a[i];
    }
    for (int64_t i = 0; i < k->inputs; i++) {
        if (p->norm.kind == KN_NORM_SRMS)
            a[i] /= sqrt(sum / (double)k->inputs + (double)p->norm.eps);
        if (k->mul)
            a[i] *= (double)k->mul[row * p->ldmul + i];
    }
}

/* Of rows rounded to bf16 or e4m3, five times their rounding. */
static double dot(const prompt_case *k, const float *w, const double *a, double *off) {
    double sum = 0, var = 0, most = 0, top = 0;
    for (int64_t i = 0; i < k->inputs; i++)
        top = fabs(a[i]) > top ? fabs(a[i]) : top;
    for (int64_t i = 0; i < k->inputs; i++) {
        const double x = (double)w[i] * a[i];
        const double unit = k->f8 ? fabs(a[i]) / 16 + top / 448 / 1024 : fabs(a[i]) / 512;
        sum += x;
        most += fabs(x);
        var += (double)w[i] * (double)w[i] * unit * unit;
    }
    *off = 5 * sqrt(var) + 2e-6 * most + 1e-9;
    return sum;
}

/* Before KN_ACT_EXP; top: its largest sum, NULL elsewhere. */
static void check_output(cc *c, const prompt_case *k, int64_t row, int64_t out, const double *a,
                         const double *top, float got) {
    const kn_linear *p = &k->p;
    double off, off2 = 0, z = 1;
    double y = dot(k, k->hw + out * k->inputs, a, &off);
    y += k->bias ? (double)k->bias[out] : 0;
    if (out < p->act_cols && top) {
        off = exp(y - top[0]) * expm1(off + top[1] + 1e-5) + 1e-6;
        y = exp(y - top[0]);
    } else if (out < p->act_cols) {
        y /= 1 + exp(-y);
        off *= 1.2;
    }
    if (k->hw2) {
        z = dot(k, k->hw2 + out * k->inputs, a, &off2) + (double)k->bias[out];
        off = off * fabs(z) + off2 * fabs(y) + off * off2;
        y *= z;
    }
    off += 4e-6 * fabs(y) + 1e-6;
    y += p->epi == KN_ADD ? (double)k->y[row * p->ldy + out] : 0;
    cc_expect(c, fabs((double)got - y) <= off, "row %d output %d: %g, expected %g +- %g", (int)row,
              (int)out, (double)got, y, off);
}

static void check_values(cc *c, const prompt_case *k, const float *got) {
    const kn_linear *p = &k->p;
    double *a = need((size_t)k->inputs * sizeof *a);
    for (int64_t row = 0; row < SLICES * P; row += 1 + SLICES * P / 9) {
        double top[2] = {-INFINITY, 0};
        input_row(k, row, a);
        for (int64_t o = 0; p->act == KN_ACT_EXP && o < p->act_cols; o++) {
            double off, y = dot(k, k->hw + o * k->inputs, a, &off);
            y += k->bias ? (double)k->bias[o] : 0;
            top[0] = y > top[0] ? y : top[0];
            top[1] = off > top[1] ? off : top[1];
        }
        for (int64_t o = 0; o < k->outs; o++)
            check_output(c, k, row, o, a, p->act == KN_ACT_EXP ? top : NULL, got[row * p->ldy + o]);
    }
    free(a);
}

/* ---- bytes ---- */

/* Slices as in `all`, the step of all of them; loose rows, and gaps between rows, as in `own`, the
 * same by kn_cuda_linear. */
static void check_step(cc *c, const prompt_case *k, const layout *l, const float *all,
                       const float *own) {
    tnl_error err = {0};
    const step s = step_of(l);
    float *got = run(k, l, false, &err);
    if (!cc_expect(c, got, "%s", err.msg))
        return;
    for (int i = 0; i < l->n_pieces; i++) {
        const bool slice = l->piece[i] < SLICES;
        const size_t bytes = (size_t)(s.len[i] * k->p.ldy) * sizeof *got;
        cc_expect(c,
                  memcmp(got + s.at[i] * k->p.ldy, (slice ? all : own) + s.from[i] * k->p.ldy,
                         bytes) == 0,
                  "piece %d of %d at row %d: %s has other bytes", i, l->n_pieces, (int)s.at[i],
                  slice ? "a slice" : "a row beside slices");
    }
    free(got);
}

static layout random_step(cc *c, int pieces) {
    layout l = {.n_pieces = pieces};
    for (int i = 0; i < pieces; i++) {
        const bool slice = cc_between(c, 0, 3) > 0 || (i > 0 && l.piece[i - 1] > SLICES);
        l.piece[i] = (int)(slice ? cc_between(c, 0, SLICES - 1) : SLICES + cc_between(c, 1, LOOSE));
    }
    return l;
}

/* All rows by the library's way, and by our own. */
static bool both_ways(cc *c, const prompt_case *k, float **all, float **own) {
    tnl_error err = {0};
    const layout whole = whole_step();
    *all = run(k, &whole, false, &err);
    *own = run(k, &whole, true, &err);
    return cc_expect(c, *all && *own, "%s", err.msg);
}

static void check_case(cc *c, case_kind kind, bool f8) {
    prompt_case k = draw_case(c, kind, f8);
    float *all = NULL, *own = NULL;
    const int64_t room = cc_between(c, 2, 6);
    if (open_prompts(c, &k, room) && both_ways(c, &k, &all, &own)) {
        check_values(c, &k, all);
        for (int i = 0; i < SLICES; i++) {
            const layout alone = {.n_pieces = 1, .piece = {i}};
            check_step(c, &k, &alone, all, own);
        }
        for (int i = 0; i < 3; i++) {
            const layout some = random_step(c, (int)cc_between(c, 1, 9));
            check_step(c, &k, &some, all, own);
        }
        if (kind == ADDED && !f8) {
            const layout many = random_step(c, MOST_RUNS);
            check_step(c, &k, &many, all, own);
        }
        const layout none = {.n_pieces = 1, .piece = {SLICES + LOOSE}};
        check_step(c, &k, &none, all, own);
    }
    close_prompts(&k);
    free(all);
    free(own);
    free_case(&k);
}

/* ---- what may go wrong ---- */

/* All rows have kn_cuda_linear's bytes, or none of the slices. */
static void expect_way(cc *c, prompt_case *k, bool library, const char *when) {
    float *all = NULL, *own = NULL;
    if (open_prompts(c, k, 3) && both_ways(c, k, &all, &own)) {
        const size_t bytes = (size_t)(SLICES * P * k->p.ldy) * sizeof *all;
        cc_expect(c, (memcmp(all, own, bytes) != 0) == library, "%s: slices went the other way",
                  when);
    }
    close_prompts(k);
    free(all);
    free(own);
}

static void check_choices(cc *c, prompt_case *k, fake_lt_state *fake) {
    const fake_lt_state usual = *fake;
    fake->offered = 5;
    fake->fit_first = 1;
    fake->by_rows = fake->by_place = fake->too_few = 1;
    expect_way(c, k, true, "the last of five algorithms is good");
    cc_expect(c, fake->used == 4, "algorithm %d was taken, not the only good one", fake->used);
    for (fake->offered = 4; fake->offered > 1; fake->offered--)
        expect_way(c, k, false, "all algorithms have faults");
    *fake = usual;
    fake->offered = 0;
    expect_way(c, k, false, "no algorithm");
    *fake = usual;
    fake->refuses_rows = 2 * P;
    expect_way(c, k, false, "no algorithm for two slices");
    *fake = usual;
    fake->version = 110800;
    expect_way(c, k, false, "an old library");
    *fake = usual;
    setenv("TNL_CUBLASLT", "/nothing/here.so", 1);
    expect_way(c, k, false, "no library");
    cc_fake_lt();
}

/* Every call in turn fails: slices have the library's bytes or our own, or there is an error. */
static void check_each_failure(cc *c, prompt_case *k, fake_lt_state *fake) {
    const layout one = {.n_pieces = 2, .piece = {0, SLICES + LOOSE}};
    for (int at = 1; at < 200; at++) {
        tnl_error err = {0};
        if (!open_prompts(c, k, 2))
            return;
        fake->fail_at = at;
        float *got = run(k, &one, false, &err);
        const bool reached = fake->fail_at == 0;
        fake->fail_at = 0;
        cc_expect(c, got || (reached && strncmp(err.msg, "cuBLASLt: ", 10) == 0),
                  "failure %d: '%s'", at, err.msg);
        close_prompts(k);
        cc_expect(c, fake->live == 0, "failure %d leaves %ld objects", at, fake->live);
        free(got);
        if (!reached)
            return;
    }
    cc_expect(c, false, "calls that may fail: more than expected");
}

/* Fewer slices have an algorithm that was listed for them, if it has the bits of the others. */
static void check_fewer(cc *c, prompt_case *k, fake_lt_state *fake) {
    const layout one = {.n_pieces = 1, .piece = {0}};
    float *all = NULL, *own = NULL;
    for (long odd = 0; odd <= P; odd += P) {
        fake->odd_rows = odd;
        if (open_prompts(c, k, 3) && both_ways(c, k, &all, &own)) {
            check_step(c, k, &one, all, own);
            cc_expect(c, fake->used_for == (odd ? 3 * P : P),
                      "one slice by what was listed for %ld", fake->used_for);
        }
        close_prompts(k);
        free(all);
        free(own);
        all = own = NULL;
    }
    fake->odd_rows = 0;
}

/* Once an algorithm was chosen there is no other way. */
static void check_late_failure(cc *c, prompt_case *k, fake_lt_state *fake) {
    tnl_error err = {0};
    const layout one = {.n_pieces = 1, .piece = {0}};
    if (!open_prompts(c, k, 2))
        return;
    float *got = run(k, &one, false, &err);
    cc_expect(c, got, "%s", err.msg);
    fake->fail_at = 1;
    float *late = run(k, &one, false, &err);
    cc_expect(c, !late && strstr(err.msg, "product failed"), "a late failure: '%s'", err.msg);
    fake->fail_at = 0;
    close_prompts(k);
    free(got);
    free(late);
}

/* Smaller tiles where memory is short; no memory for trials is an error. */
static void check_memory(cc *c, prompt_case *k) {
    float *all = NULL, *own = NULL;
    tnl_error err = {0};
    const layout one = {.n_pieces = 1, .piece = {SLICES - 1}};
    if (open_prompts(c, k, 4) && both_ways(c, k, &all, &own)) {
        close_prompts(k);
        cc_expect(c, open_prompts(c, k, 4), "no device");
        cc_fail_allocation(1);
        check_step(c, k, &one, all, own);
    }
    close_prompts(k);
    if (open_prompts(c, k, 4)) {
        cc_fail_allocation(2);
        float *got = run(k, &one, false, &err);
        cc_expect(c, !got && err.code == TNL_E_NOMEM && strstr(err.msg, "to try"),
                  "no memory for trials: '%s'", err.msg);
        free(got);
    }
    close_prompts(k);
    free(all);
    free(own);
}

void cc_check_prompt(cc *c) {
    if (!cc_section(c, "prompt"))
        return;
    fake_lt_state *fake = cc_fake_lt();
    for (int kind = 0; kind < KINDS; kind++) {
        check_case(c, (case_kind)kind, false);
        check_case(c, (case_kind)kind, true);
    }
    if (!fake)
        return;
    prompt_case k = draw_case(c, ADDED, false);
    check_choices(c, &k, fake);
    check_each_failure(c, &k, fake);
    check_fewer(c, &k, fake);
    check_late_failure(c, &k, fake);
    check_memory(c, &k);
    free_case(&k);
}
