/* Products by cuBLASLt: values against double, bytes from run to run and from place to place among
 * the rows. On the host a library of our own stands in its place (fake_lt.c), which also fails at
 * every call in turn. On a device without the library nothing is checked. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/half.h"
#include "kernels/cuda/blaslt_cuda.h"
#include "tests/checkcuda/cc.h"
#include "tests/checkcuda/fake_lt.h"

typedef struct lt_case {
    kn_lt_shape s;
    uint16_t *w, *a; /* the host's */
    void *dw, *da;
    float *dy, *y;
    void *memory;
    size_t bytes;
} lt_case;

static uint16_t *draw(cc *c, int64_t n) {
    uint16_t *x = malloc((size_t)n * sizeof *x);
    if (!x)
        exit(2);
    for (int64_t i = 0; i < n; i++)
        x[i] = tnl_bf16_from_f32((float)cc_normal(c));
    return x;
}

static size_t y_bytes(const lt_case *l) {
    return (size_t)(l->s.rows * l->s.ldy) * sizeof(float);
}

static lt_case draw_case(cc *c) {
    const int64_t scale = cc_emulated() ? 1 : 16;
    lt_case l = {.s = {.rows = cc_between(c, 1, 12) * 8 * scale,
                       .outs = cc_between(c, 1, 12) * 4 * scale,
                       .inputs = cc_between(c, 1, 20) * 8 * scale}};
    l.s.ldy = l.s.outs + cc_between(c, 0, 2) * 4;
    l.w = draw(c, l.s.outs * l.s.inputs);
    l.a = draw(c, l.s.rows * l.s.inputs);
    l.dw = cc_device_copy(l.w, (size_t)(l.s.outs * l.s.inputs) * 2);
    l.da = cc_device_copy(l.a, (size_t)(l.s.rows * l.s.inputs) * 2);
    l.dy = cc_device(y_bytes(&l));
    l.y = malloc(y_bytes(&l));
    if (!l.y)
        exit(2);
    l.bytes = cc_between(c, 0, 1) ? (size_t)4 << 20 : 0;
    l.memory = l.bytes ? cc_device(l.bytes) : NULL;
    return l;
}

static void free_case(lt_case *l) {
    cc_device_free(l->dw);
    cc_device_free(l->da);
    cc_device_free(l->dy);
    cc_device_free(l->memory);
    free(l->w);
    free(l->a);
    free(l->y);
}

/* l->y after one product of the rows at `a`. */
static bool multiply(cc *c, lt_case *l, const kn_lt_product *p, const void *a) {
    tnl_error err = {0};
    if (!cc_expect(c, kn_lt_run(p, l->dy, a, l->dw, NULL, &err) == TNL_OK, "%s", err.msg))
        return false;
    cc_fetch(l->y, l->dy, y_bytes(l));
    return true;
}

static void check_values(cc *c, const lt_case *l) {
    for (int64_t r = 0; r < l->s.rows; r += 1 + l->s.rows / 16)
        for (int64_t o = 0; o < l->s.ldy; o++) {
            const float got = l->y[r * l->s.ldy + o];
            double want = 0, most = 0;
            for (int64_t i = 0; i < l->s.inputs && o < l->s.outs; i++) {
                const double x = (double)tnl_f32_from_bf16(l->w[o * l->s.inputs + i]) *
                                 (double)tnl_f32_from_bf16(l->a[r * l->s.inputs + i]);
                want += x;
                most += fabs(x);
            }
            const bool gap = o >= l->s.outs; /* left as it was: NaN */
            cc_expect(c, gap ? isnan(got) : fabs((double)got - want) <= 4e-6 * most + 1e-12,
                      "row %d output %d: %g, not %g", (int)r, (int)o, (double)got, want);
        }
}

/* Rows moved by `by` places, around the end. */
static void check_moved(cc *c, lt_case *l, const kn_lt_product *p) {
    const size_t row = (size_t)l->s.inputs * 2, n = (size_t)l->s.rows;
    const size_t by = (size_t)cc_between(c, 0, l->s.rows - 1);
    float *before = malloc(y_bytes(l));
    char *moved = malloc(n * row);
    if (!before || !moved)
        exit(2);
    memcpy(before, l->y, y_bytes(l));
    for (size_t r = 0; r < n; r++)
        memcpy(moved + (r + by) % n * row, (char *)l->a + r * row, row);
    void *a = cc_device_copy(moved, n * row);
    bool same = multiply(c, l, p, a);
    for (size_t r = 0; same && r < n; r++)
        same = memcmp(before + r * (size_t)l->s.ldy, l->y + (r + by) % n * (size_t)l->s.ldy,
                      (size_t)l->s.outs * sizeof(float)) == 0;
    cc_expect(c, same, "rows have other bytes %zu places on", by);
    cc_device_free(a);
    free(before);
    free(moved);
}

static void check_case(cc *c, const kn_lt_api *api) {
    lt_case l = draw_case(c);
    kn_lt_product *p = NULL;
    tnl_error err = {0};
    if (cc_expect(c, kn_lt_open(&p, api, &l.s, l.memory, l.bytes, &err) == TNL_OK, "%s", err.msg) &&
        multiply(c, &l, p, l.da)) {
        check_values(c, &l);
        check_moved(c, &l, p);
    }
    kn_lt_close(p);
    free_case(&l);
}

/* ---- what may go wrong ---- */

static void expect_refusal(cc *c, const kn_lt_api *api, const lt_case *l, const char *says) {
    kn_lt_product *p = NULL;
    tnl_error err = {0};
    tnl_status st = kn_lt_open(&p, api, &l->s, l->memory, l->bytes, &err);
    cc_expect(c, st == TNL_E_UNAVAILABLE && !p && strstr(err.msg, says),
              "found '%s', expected '%s'", err.msg, says);
    kn_lt_close(p);
}

/* Every call in turn fails: one clear error or the product, and nothing left behind. */
static void check_each_failure(cc *c, const kn_lt_api *api, fake_lt_state *fake, lt_case *l) {
    for (int at = 1; at < 100; at++) {
        kn_lt_product *p = NULL;
        tnl_error err = {0};
        fake->fail_at = at;
        tnl_status st = kn_lt_open(&p, api, &l->s, l->memory, l->bytes, &err);
        if (st == TNL_OK)
            st = kn_lt_run(p, l->dy, l->da, l->dw, NULL, &err);
        const bool reached = fake->fail_at == 0;
        cc_expect(c, st == TNL_OK || (reached && strncmp(err.msg, "cuBLASLt: ", 10) == 0),
                  "failure %d: '%s'", at, err.msg);
        kn_lt_close(p);
        cc_expect(c, fake->live == 0, "failure %d leaves %ld objects", at, fake->live);
        if (!reached)
            break;
    }
    fake->fail_at = 0;
}

static void check_faults(cc *c, const kn_lt_api *api, fake_lt_state *fake) {
    const fake_lt_state usual = *fake;
    lt_case l = draw_case(c);
    fake->version = 110800;
    expect_refusal(c, api, &l, "found version 110800, expected 120000 or later");
    *fake = usual;
    fake->offered = 0;
    expect_refusal(c, api, &l, "no algorithm");
    *fake = usual;
    fake->fit_first = usual.offered; /* all split their sums */
    expect_refusal(c, api, &l, "no algorithm");
    *fake = usual;
    fake->needs = (size_t)1 << 40;
    expect_refusal(c, api, &l, "no algorithm");
    *fake = usual;
    l.s.inputs -= 1;
    expect_refusal(c, api, &l, "expected multiples of 8");
    l.s.inputs += 1;
    fake->fit_first = 2;
    check_case(c, api);
    cc_expect(c, fake->used == 2, "algorithm %d, not the first that sums at once", fake->used);
    *fake = usual;
    check_each_failure(c, api, fake, &l);
    free_case(&l);
}

static void expect_no_library(cc *c, const char *path, const char *says) {
    kn_lt_api api;
    tnl_error err = {0};
    setenv("TNL_CUBLASLT", path, 1);
    cc_expect(c, kn_lt_load(&api, &err) == TNL_E_UNAVAILABLE && strstr(err.msg, says),
              "%s: found '%s', expected '%s'", path, err.msg, says);
}

void cc_check_blaslt(cc *c) {
    kn_lt_api api;
    tnl_error err = {0};
    if (!cc_section(c, "blaslt"))
        return;
    fake_lt_state *fake = cc_fake_lt();
    if (fake) {
        expect_no_library(c, "/nothing/here.so", "can be loaded");
        expect_no_library(c, "libm.so.6", "has no cublasLtGetVersion");
        cc_fake_lt(); /* as before */
    }
    const tnl_status st = kn_lt_load(&api, &err);
    if (st != TNL_OK && !fake) {
        printf("blaslt: left out: %s\n", err.msg);
        return;
    }
    if (!cc_expect(c, st == TNL_OK, "%s", err.msg))
        return;
    for (int i = 0; i < 6; i++)
        check_case(c, &api);
    if (fake)
        check_faults(c, &api, fake);
}
