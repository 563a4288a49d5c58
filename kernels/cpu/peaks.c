/* Measuring the machine: picks the loops this processor can run, times each on all threads, keeps
 * the best. Threads take small items from a pool, as the kernels do. */
#include "kernels/cpu/peaks.h"

#ifdef KN_PEAKS_AVXVNNI
#include <cpuid.h>
#endif
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/threads.h"

/* ---- portable loops ---- */

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
            sum[j] += a[j] * b[j];
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

const kn_peak_set kn_peaks_ref = {
    .read = {{"portable", read_ref}},
    .fp32 = {{"portable", 2.0 * LANES, fp32_ref}},
    .int8 = {{"portable", 2.0 * LANES, int8_ref}},
};

#ifdef KN_PEAKS_AVXVNNI
/* CPUID leaf 7, sub-leaf 1, EAX bit 4; the register state is AVX's, asked for by the caller. */
static bool has_avxvnni(void) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

/* Sets that were built and that this processor can run; the builtin also asks whether the system
 * saves the registers. */
static int usable_sets(const kn_peak_set **sets) {
    int n = 0;
    sets[n++] = &kn_peaks_ref;
#ifdef KN_PEAKS_AVX2
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2)
        sets[n++] = &kn_peaks_avx2;
#endif
#ifdef KN_PEAKS_AVXVNNI
    if (avx2 && has_avxvnni())
        sets[n++] = &kn_peaks_avxvnni;
#endif
#ifdef KN_PEAKS_AVX512
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
    if (avx512)
        sets[n++] = &kn_peaks_avx512;
#endif
#ifdef KN_PEAKS_VNNI512
    if (avx512 && __builtin_cpu_supports("avx512vnni"))
        sets[n++] = &kn_peaks_vnni512;
#endif
    return n;
}

/* ---- timing ---- */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

enum { ITEMS_PER_THREAD = 16, READ_PIECE = 1 << 20 };

typedef struct round_job {
    const kn_peak_loop *loop;
    int64_t iters;
    const kn_read_loop *read;
    const char *buffer;
} round_job;

/* Where results go so that no loop is dead code. */
static volatile uint64_t peaks_sink;

static void run_arith(void *ctx, int64_t begin, int64_t end, int worker) {
    const round_job *j = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        peaks_sink = (uint64_t)(j->loop->run(j->iters) > 0);
}

static void run_read(void *ctx, int64_t begin, int64_t end, int worker) {
    const round_job *j = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        peaks_sink = j->read->run(j->buffer + i * READ_PIECE, READ_PIECE);
}

/* Best operations per second of one loop within `seconds`. */
static double time_arith(tnl_pool *pool, const kn_peak_loop *loop, double seconds) {
    round_job j = {.loop = loop, .iters = 1 << 12};
    int64_t items = (int64_t)ITEMS_PER_THREAD * tnl_pool_threads(pool);
    double best = 0, end = now() + seconds;
    while (now() < end) {
        double t = now();
        tnl_pool_run(pool, items, 1, run_arith, &j);
        t = now() - t;
        double rate = loop->ops * (double)j.iters * (double)items / t;
        best = rate > best ? rate : best;
        if (t < 0.01) /* rounds long against starting one */
            j.iters *= 2;
    }
    return best;
}

/* Best bytes per second of one loop; at least two rounds, the first one is warm-up. */
static double time_read(tnl_pool *pool, const kn_read_loop *loop, const char *buffer, size_t n,
                        double seconds) {
    round_job j = {.read = loop, .buffer = buffer};
    double best = 0, end = now() + seconds;
    for (int round = 0; round < 2 || now() < end; round++) {
        double t = now();
        tnl_pool_run(pool, (int64_t)(n / READ_PIECE), 1, run_read, &j);
        t = now() - t;
        best = (double)n / t > best ? (double)n / t : best;
    }
    return best;
}

static void best_arith(double *rate, const char **name, tnl_pool *pool, const kn_peak_loop *loops,
                       int max, double seconds) {
    for (int i = 0; i < max && loops[i].name; i++) {
        double r = time_arith(pool, &loops[i], seconds) / 1e9;
        if (r > *rate) {
            *rate = r;
            *name = loops[i].name;
        }
    }
}

/* Four times the last-level cache, 256 MiB at least, an eighth of the memory at most. */
static size_t buffer_bytes(void) {
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    size_t n = (size_t)256 << 20;
    if (cache > 0 && (size_t)cache * 4 > n)
        n = (size_t)cache * 4;
    size_t limit = pages > 0 && page > 0 ? (size_t)pages / 8 * (size_t)page : n;
    n = n > limit ? limit : n;
    return n < READ_PIECE ? READ_PIECE : n / READ_PIECE * READ_PIECE;
}

static void measure_sets(kn_peaks *out, tnl_pool *pool, const char *buffer, size_t n,
                         double seconds) {
    const kn_peak_set *sets[5];
    int n_sets = usable_sets(sets);
    int loops = 0;
    for (int s = 0; s < n_sets; s++) {
        for (int i = 0; i < 4; i++)
            loops += (sets[s]->read[i].name != NULL) + (sets[s]->fp32[i].name != NULL) +
                     (i < 3 && sets[s]->int8[i].name != NULL);
    }
    double each = seconds / loops;
    for (int s = 0; s < n_sets; s++) {
        best_arith(&out->fp32_gflop_s, &out->fp32_loop, pool, sets[s]->fp32, 4, each);
        best_arith(&out->int8_gop_s, &out->int8_loop, pool, sets[s]->int8, 3, each);
        for (int i = 0; i < 4 && sets[s]->read[i].name; i++) {
            double r = time_read(pool, &sets[s]->read[i], buffer, n, each) / 1e9;
            if (r > out->read_gb_s) {
                out->read_gb_s = r;
                out->read_loop = sets[s]->read[i].name;
            }
        }
    }
}

tnl_status kn_peaks_measure(kn_peaks *out, int threads, double seconds, tnl_error *err) {
    memset(out, 0, sizeof *out);
    size_t n = buffer_bytes();
    char *buffer = aligned_alloc(4096, n);
    if (!buffer)
        return tnl_fail(err, TNL_E_NOMEM, "no memory for a read buffer of %zu bytes", n);
    memset(buffer, 1, n); /* pages of its own: untouched ones share one page of zeros */
    tnl_pool *pool = NULL;
    tnl_status s = tnl_pool_open(&pool, threads > 0 ? threads : tnl_cpu_count(), err);
    if (s == TNL_OK)
        measure_sets(out, pool, buffer, n, seconds);
    tnl_pool_close(pool);
    free(buffer);
    return s;
}
