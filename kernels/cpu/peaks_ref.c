/* Machine limits in portable C. */
#include "kernels/cpu/peaks.h"

enum { LANES = 16 };

/* The compiler's own vectors; x = x * m + c converges, so no value grows or becomes denormal. */
static float fp32_ref(int64_t iters) {
    float x[LANES], m = 0.999F, c = 0.001F;
    for (int j = 0; j < LANES; j++)
        x[j] = (float)j;
    for (int64_t i = 0; i < iters; i++)
        for (int j = 0; j < LANES; j++)
            x[j] = x[j] * m + c;
    float sum = 0;
    for (int j = 0; j < LANES; j++)
        sum += x[j];
    return sum;
}

static float int8_ref(int64_t iters) {
    int32_t sum[LANES] = {0};
    int8_t a[LANES], b[LANES];
    for (int j = 0; j < LANES; j++) {
        a[j] = (int8_t)(j - 8);
        b[j] = (int8_t)(3 * j - 20);
    }
    for (int64_t i = 0; i < iters; i++) {
        __asm__ volatile("" : : "r"(a), "r"(b) : "memory"); /* else the product is hoisted */
        for (int j = 0; j < LANES; j++)
            sum[j] = (int32_t)((uint32_t)sum[j] + (uint32_t)(a[j] * b[j]));
    }
    int32_t all = 0;
    for (int j = 0; j < LANES; j++)
        all ^= sum[j];
    return (float)all;
}

static uint64_t read_ref(const void *p, size_t n) {
    const uint64_t *v = p;
    uint64_t x[8] = {0};
    for (size_t i = 0; i < n / 8; i += 8)
        for (size_t j = 0; j < 8; j++)
            x[j] ^= v[i + j];
    return x[0] ^ x[1] ^ x[2] ^ x[3] ^ x[4] ^ x[5] ^ x[6] ^ x[7];
}

static uint64_t read_ref_ahead(const void *p, size_t n) {
    const char *c = p;
    const uint64_t *v = p;
    uint64_t x[8] = {0};
    for (size_t i = 0; i < n / 8; i += 8) {
        __builtin_prefetch(c + 8 * i + 2048);
        for (size_t j = 0; j < 8; j++)
            x[j] ^= v[i + j];
    }
    return x[0] ^ x[1] ^ x[2] ^ x[3] ^ x[4] ^ x[5] ^ x[6] ^ x[7];
}

const kn_peak_set kn_peaks_ref = {
    .read = {{"portable", read_ref}, {"portable, 2 KiB ahead", read_ref_ahead}},
    .fp32 = {{"portable", 2.0 * LANES, fp32_ref}},
    .int8 = {{"portable", 2.0 * LANES, int8_ref}},
};
