/* What this machine can do at most, measured: the denominators of `tnl bench`.
 *
 * Reading: each thread streams its own part of a buffer several times larger than the last-level
 * cache, in huge pages where the system gives them; or of memory that the caller names, in
 * the pages that it came in. Arithmetic: multiply-adds (two operations each) on independent
 * accumulators that never leave the registers, so nothing but the arithmetic units limits the loop.
 *
 * A machine that others share changes its speed within seconds. So a limit is not one figure: it is
 * measured in slices of some milliseconds, taken between slices of the work that it is held
 * against. One thread at a time may use a kn_limits. */
#ifndef TNL_KERNELS_CPU_PEAKS_H
#define TNL_KERNELS_CPU_PEAKS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

/* Runs `iters` turns of a loop; the result only keeps the work alive. */
typedef struct kn_peak_loop {
    const char *name; /* "fma zmm x12" */
    double ops;       /* operations of one turn, a multiply-add is two */
    float (*run)(int64_t iters);
} kn_peak_loop;

/* Reads n bytes (a multiple of 4096, 64-byte aligned). Prefetches may go beyond the end. */
typedef struct kn_read_loop {
    const char *name; /* "ymm, 2 KiB ahead" */
    uint64_t (*run)(const void *p, size_t n);
} kn_read_loop;

enum { KN_PEAK_READS = 8, KN_PEAK_ARITH = 4 };

/* The loops of one instruction set; an empty name ends a list that is not full. */
typedef struct kn_peak_set {
    kn_read_loop read[KN_PEAK_READS];
    kn_peak_loop fp32[KN_PEAK_ARITH];
    kn_peak_loop int8[KN_PEAK_ARITH];
} kn_peak_set;

extern const kn_peak_set kn_peaks_ref;     /* peaks_ref.c: portable C */
extern const kn_peak_set kn_peaks_avx2;    /* x86/peaks_avx2.c */
extern const kn_peak_set kn_peaks_avxvnni; /* x86/peaks_avxvnni.c */
extern const kn_peak_set kn_peaks_avx512;  /* x86/peaks_avx512.c */
extern const kn_peak_set kn_peaks_vnni512; /* x86/peaks_vnni512.c */

typedef enum kn_limit {
    KN_LIMIT_READ, /* 1e9 bytes a second */
    KN_LIMIT_FP32, /* 1e9 operations a second */
    KN_LIMIT_INT8,
    KN_LIMIT_COUNT
} kn_limit;

/* The limits of so many threads: the best slice of the best loop of each kind. */
typedef struct kn_peaks {
    int threads;
    double rate[KN_LIMIT_COUNT];
    const char *loop[KN_LIMIT_COUNT]; /* its name */
    int index[KN_LIMIT_COUNT];        /* private */
} kn_peaks;

typedef struct kn_limits kn_limits;

/* Memory to read, 64-byte aligned; what is left of a region after whole pieces is not read. */
typedef struct kn_region {
    const void *data;
    size_t bytes;
} kn_region;

enum { KN_READ_PIECE = 256 << 10 };

/* Starts max_threads - 1 threads. Reads the regions, which must outlive it and give at least a
 * piece for each thread; NULL: allocates a buffer. On failure *out is NULL. */
tnl_status kn_limits_open(kn_limits **out, int max_threads, const kn_region *regions,
                          int64_t n_regions, tnl_error *err);
void kn_limits_close(kn_limits *l); /* NULL allowed */

/* Try every loop that this processor has, in turns, for about `seconds`; keep the best.
 * threads <= max_threads. */
void kn_limits_choose(kn_limits *l, kn_peaks *out, int threads, double seconds);

/* One slice of a chosen loop: its rate. */
double kn_limits_slice(kn_limits *l, const kn_peaks *p, kn_limit kind, double seconds);

#endif
