/* The speed of products with whole slices of prompts, which go through the library. */
#include <stdio.h>

#include "kernels/cuda/prompt_cuda.h"
#include "tests/checkcuda/cc.h"
#include "tests/checkcuda/cc_bench.h"

typedef struct prompt_run {
    kn_cuda_device device;
    kn_cuda_prompts *prompts;
    kn_linear p;
    kn_tensor w;
    kn_cuda_run rows;
} prompt_run;

static void run_prompt(void *ctx) {
    prompt_run *r = ctx;
    tnl_error err = {0};
    if (kn_cuda_prompts_linear(r->prompts, &r->p, &r->rows, 1, &err) != TNL_OK)
        ccb_must(err.msg);
}

/* Input rows included. */
static void time_prompt(prompt_run *r, kn_dtype t, int64_t outs, int64_t ins, int64_t n) {
    uint64_t bytes = 0;
    if (!kn_dtype_matrix_bytes(&bytes, t, (uint64_t)outs, (uint64_t)ins))
        ccb_must("a matrix is too large");
    void *w = ccb_numbers((size_t)bytes);
    r->w = (kn_tensor){w, t, outs, ins};
    r->p = (kn_linear){.n = n, .ldx = ins, .ldy = outs, .w = &r->w};
    r->rows = (kn_cuda_run){0, n};
    float *x = ccb_numbers((size_t)(n * ins) * sizeof *x);
    r->p.x = x;
    r->p.y = ccb_numbers((size_t)(n * outs) * sizeof *r->p.y);
    r->p.work = ccb_numbers((size_t)n * (size_t)(ins + 1024) * 8);
    const double s = ccb_seconds(run_prompt, r);
    printf("{\"test\":\"prompt_product\",\"weights\":\"%s\",\"outputs\":%d,\"inputs\":%d,"
           "\"rows\":%d",
           kn_dtypes[t].name, (int)outs, (int)ins, (int)n);
    ccb_end_line(s, (double)bytes, 2.0 * (double)(n * outs) * (double)ins);
    cc_device_free(w);
    cc_device_free(x);
    cc_device_free(r->p.y);
    cc_device_free(r->p.work);
}

/* On the default stream, which is the one that is timed. */
void ccb_prompts(void) {
    static const int real[][2] = {{4096, 4096}, {11008, 4096}, {4096, 11008}};
    static const int tiny[][2] = {{72, 64}};
    static const kn_dtype types[] = {KN_BF16, KN_F8};
    const bool e = cc_emulated();
    const int shapes = e ? 1 : 3;
    prompt_run r = {0};
    tnl_error err = {0};
    cc_fake_lt();
    if (kn_cuda_device_open(&r.device, 0, &err) != TNL_OK)
        ccb_must(err.msg);
    const kn_cuda_stream own = r.device.stream;
    r.device.stream = NULL;
    if (e)
        r.device.minor = 9; /* 8.9 multiplies e4m3 */
    if (kn_cuda_prompts_open(&r.prompts, &r.device, &err) != TNL_OK)
        ccb_must(err.msg);
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (int s = 0; s < shapes; s++)
            for (int64_t n = KN_CUDA_SLICE_ROWS; n <= (e ? KN_CUDA_SLICE_ROWS : 2048); n *= 4)
                time_prompt(&r, types[t], e ? tiny[s][0] : real[s][0], e ? tiny[s][1] : real[s][1],
                            n);
    kn_cuda_prompts_close(r.prompts);
    r.device.stream = own;
    kn_cuda_device_close(&r.device);
}
