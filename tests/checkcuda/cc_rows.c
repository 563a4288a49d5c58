/* Row operations against the CPU's portable backend: embedding in bits, rotation to rounding, at
 * positions up to ten billion; finiteness of rows with one bad element anywhere; gathering. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/half.h"
#include "kernels/cuda/rows_cuda.h"
#include "kernels/quant.h"
#include "tests/checkcuda/cc.h"

static void *need(size_t n, size_t size) {
    void *p = calloc(n ? n : 1, size);
    if (!p)
        exit(2);
    return p;
}

static float *draw(cc *c, int64_t n) {
    float *x = need((size_t)n, sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)cc_normal(c);
    return x;
}

static kn_backend *cpu(void) {
    kn_backend *be = NULL;
    if (kn_cpu_open(&be, 1, "ref", NULL) != TNL_OK)
        exit(2);
    return be;
}

static void done(cc *c, float *got, float *device, int64_t n) {
    const char *error = cc_sync();
    cc_expect(c, !error, "%s", error ? error : "");
    cc_fetch(got, device, (size_t)n * sizeof *got);
    cc_device_free(device);
}

static void check_embed(cc *c, kn_dtype t) {
    const int64_t rows = cc_between(c, 1, 200), cols = cc_between(c, 1, 300), n = 7;
    const int64_t ld = cols + cc_between(c, 0, 3);
    uint64_t bytes = 0;
    if (!kn_dtype_matrix_bytes(&bytes, t, (uint64_t)rows, (uint64_t)cols))
        exit(2);
    unsigned char *data = need(bytes, 1);
    /* any bytes are weights, if NaN and infinity are kept out of floats and scales */
    for (size_t i = 0; i < bytes; i++)
        data[i] = (unsigned char)(cc_random(c) & 0xBB);
    int32_t ids[7];
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)cc_between(c, 0, rows - 1);
    kn_tensor table = {data, t, rows, cols};
    float *want = need((size_t)(n * ld), sizeof *want), *got = need((size_t)(n * ld), sizeof *got);
    memset(want, 0xFF, (size_t)(n * ld) * sizeof *want);
    kn_backend *be = cpu();
    be->ops->embed(be, want, ld, &table, ids, n, 1.5f);
    kn_backend_close(be);

    kn_tensor up = {cc_device_copy(data, bytes), t, rows, cols};
    float *x = cc_device((size_t)(n * ld) * sizeof *x);
    int32_t *device_ids = cc_device_copy(ids, sizeof ids);
    kn_cuda_embed(x, ld, &up, device_ids, n, 1.5f, NULL);
    done(c, got, x, n * ld);
    cc_expect(c, memcmp(got, want, (size_t)(n * ld) * sizeof *got) == 0, "%s [%d][%d]",
              kn_dtypes[t].name, (int)rows, (int)cols);
    cc_device_free(device_ids);
    cc_device_free((void *)(uintptr_t)up.data);
    free(data), free(want), free(got);
}

static void check_lrpe(cc *c) {
    enum { N = 5 };
    const int H = (int)cc_between(c, 1, 5), dh = (int)cc_between(c, 1, 130);
    const int64_t in = (int64_t)H * dh, ldx = in + cc_between(c, 0, 3);
    const int64_t ldy = 2 * in + cc_between(c, 0, 3);
    float *x = draw(c, N * ldx), *theta = need((size_t)in, sizeof *theta);
    float *got = need((size_t)(N * ldy), sizeof *got);
    int64_t pos[N] = {0, 1, 1000003, 9999999967, cc_between(c, 0, 100000)};
    for (int64_t i = 0; i < in; i++)
        theta[i] = (float)pow(10000, -2 * cc_uniform(c));
    float *dx = cc_device_copy(x, (size_t)(N * ldx) * sizeof *x);
    float *dt = cc_device_copy(theta, (size_t)in * sizeof *theta);
    int64_t *dp = cc_device_copy(pos, sizeof pos);
    float *y = cc_device((size_t)(N * ldy) * sizeof *y);
    kn_cuda_lrpe(y, ldy, dx, ldx, dt, dp, N, H, dh, NULL);
    done(c, got, y, N * ldy);
    for (int64_t n = 0; n < N; n++)
        for (int64_t i = 0; i < in; i++) {
            double phase = (double)theta[i] * (double)pos[n], v = (double)x[n * ldx + i];
            const float *at = got + n * ldy + i / dh * 2 * dh + i % dh;
            double off = fabs(v) * (4e-7 + fabs(phase) * 4e-16);
            cc_expect(c,
                      fabs((double)at[0] - v * cos(phase)) <= off &&
                          fabs((double)at[dh] - v * sin(phase)) <= off,
                      "lrpe H=%d dh=%d pos=%lld theta=%g", H, dh, (long long)pos[n],
                      (double)theta[i]);
        }
    cc_device_free(dx), cc_device_free(dt), cc_device_free(dp);
    free(x), free(theta), free(got);
}

static void check_finite(cc *c) {
    const int64_t n = cc_between(c, 1, 9), dim = cc_between(c, 1, 700), ld = dim + 2;
    float *x = draw(c, n * ld);
    bool want[9], got[9];
    for (int64_t i = 0; i < n; i++) {
        const int kind = (int)cc_between(c, 0, 3);
        want[i] = kind > 1;
        if (kind < 2)
            x[i * ld + cc_between(c, 0, dim - 1)] = kind ? -INFINITY : NAN;
        x[i * ld + dim] = NAN; /* not of the row */
    }
    float *dx = cc_device_copy(x, (size_t)(n * ld) * sizeof *x);
    bool *ok = cc_device(sizeof got);
    kn_cuda_finite_rows(ok, dx, ld, n, dim, NULL);
    cc_fetch(got, ok, sizeof got);
    cc_expect(c, memcmp(got, want, (size_t)n) == 0, "finite n=%d dim=%d", (int)n, (int)dim);
    cc_device_free(dx), cc_device_free(ok);
    free(x);
}

static void check_gather(cc *c) {
    enum { N = 6, FROM = 11 };
    const int64_t dim = cc_between(c, 1, 600), ldx = dim + 1, ldy = dim + 3;
    float *x = draw(c, FROM * ldx), *got = need((size_t)(N * ldy), sizeof *got);
    int64_t rows[N];
    for (int i = 0; i < N; i++)
        rows[i] = cc_between(c, 0, FROM - 1);
    float *dx = cc_device_copy(x, (size_t)(FROM * ldx) * sizeof *x);
    int64_t *dr = cc_device_copy(rows, sizeof rows);
    float *y = cc_device((size_t)(N * ldy) * sizeof *y);
    kn_cuda_gather_rows(y, ldy, dx, ldx, dr, N, dim, NULL);
    done(c, got, y, N * ldy);
    for (int i = 0; i < N; i++)
        cc_expect(c, memcmp(got + i * ldy, x + rows[i] * ldx, (size_t)dim * sizeof *x) == 0,
                  "gather row %d of %d", i, (int)dim);
    cc_device_free(dx), cc_device_free(dr);
    free(x), free(got);
}

void cc_check_rows(cc *c) {
    if (!cc_section(c, "rows"))
        return;
    for (int i = 0; i < 3; i++) {
        for (int t = 0; t < KN_DTYPE_COUNT; t++)
            check_embed(c, (kn_dtype)t);
        check_lrpe(c);
        check_finite(c);
        check_gather(c);
    }
}
