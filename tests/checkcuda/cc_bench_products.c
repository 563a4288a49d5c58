/* The speed of products: the matrices of the 7B shape, every type of weights, one row to a prompt's
 * step. Calls go around copies of the matrix, so that none of them stays in a cache. */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/linear_cuda.h"
#include "tests/checkcuda/cc.h"
#include "tests/checkcuda/cc_bench.h"

enum { MOST_COPIES = 32 };

typedef struct product_run {
    kn_linear p;
    kn_tensor w[MOST_COPIES];
    int copies, next;
} product_run;

static void run_product(void *ctx) {
    product_run *r = ctx;
    r->p.w = &r->w[r->next++ % r->copies];
    kn_cuda_linear(&r->p, NULL);
}

static void bench_product(kn_dtype t, int64_t outs, int64_t ins, int64_t n) {
    product_run r = {.p = {.n = n, .ldx = ins, .ldy = outs}};
    uint64_t bytes = 0;
    if (!kn_dtype_matrix_bytes(&bytes, t, (uint64_t)outs, (uint64_t)ins))
        ccb_must("a matrix is too large");
    const uint64_t pitch = (bytes + 255) / 256 * 256, wanted = ccb_round_bytes() / bytes + 1;
    r.copies = wanted < MOST_COPIES ? (int)wanted : MOST_COPIES;
    unsigned char *all = ccb_numbers((size_t)(pitch * (uint64_t)r.copies));
    for (int i = 0; i < r.copies; i++)
        r.w[i] = (kn_tensor){all + pitch * (uint64_t)i, t, outs, ins};
    float *x = ccb_numbers((size_t)(n * ins) * sizeof *x);
    r.p.x = x;
    r.p.y = ccb_numbers((size_t)(n * outs) * sizeof *r.p.y);
    r.p.work = ccb_numbers((size_t)n * (size_t)(ins + 1024) * 8);
    const double s = ccb_seconds(run_product, &r);
    printf("{\"test\":\"product\",\"weights\":\"%s\",\"outputs\":%d,\"inputs\":%d,\"rows\":%d",
           kn_dtypes[t].name, (int)outs, (int)ins, (int)n);
    ccb_end_line(s, (double)bytes, 2.0 * (double)(n * outs) * (double)ins);
    cc_device_free(all);
    cc_device_free(x);
    cc_device_free(r.p.y);
    cc_device_free(r.p.work);
}

void ccb_products(void) {
    static const kn_dtype types[] = {KN_BF16, KN_F8, KN_Q8, KN_Q4};
    static const int real[][2] = {{4096, 4096}, {11008, 4096}, {4096, 11008}, {64000, 4096}};
    static const int tiny[][2] = {{200, 200}, {300, 200}};
    static const int real_rows[] = {1, 8, 64, 2048}, tiny_rows[] = {1, 3, 70};
    const bool e = cc_emulated();
    const int shapes = e ? 2 : 4, counts = e ? 3 : 4;
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (int s = 0; s < shapes; s++)
            for (int n = 0; n < counts; n++) {
                const int *shape = e ? tiny[s] : real[s], rows = e ? tiny_rows[n] : real_rows[n];
                if (rows <= 64 || shape[0] < 64000) /* the head sees no prompt */
                    bench_product(types[t], shape[0], shape[1], rows);
            }
}
