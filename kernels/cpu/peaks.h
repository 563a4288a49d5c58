/* What this machine can do at most, measured: the denominators of `tnl bench`.
 *
 * Reading: streams a buffer several times larger than the last-level cache with all threads.
 * Arithmetic: multiply-adds (two operations each) on independent accumulators that never leave the
 * registers; the operands are the same registers again and again, so nothing but the arithmetic
 * units limits the loop. Each figure is the best of several loops and of several rounds: a
 * neighbour can only make a round slower. */
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

/* Reads n bytes (a multiple of 4096, 64-byte aligned). */
typedef struct kn_read_loop {
    const char *name; /* "ymm, prefetch 2048" */
    uint64_t (*run)(const void *p, size_t n);
} kn_read_loop;

/* The loops of one instruction set; an empty name ends each list. */
typedef struct kn_peak_set {
    kn_read_loop read[4];
    kn_peak_loop fp32[4];
    kn_peak_loop int8[3];
} kn_peak_set;

extern const kn_peak_set kn_peaks_ref;     /* peaks.c: portable C */
extern const kn_peak_set kn_peaks_avx2;    /* x86/peaks_avx2.c */
extern const kn_peak_set kn_peaks_avxvnni; /* x86/peaks_avxvnni.c */
extern const kn_peak_set kn_peaks_avx512;  /* x86/peaks_avx512.c */
extern const kn_peak_set kn_peaks_vnni512; /* x86/peaks_vnni512.c */

typedef struct kn_peaks {
    double read_gb_s;    /* 1e9 bytes */
    double fp32_gflop_s; /* 1e9 operations */
    double int8_gop_s;
    const char *read_loop, *fp32_loop, *int8_loop; /* which loop won */
} kn_peaks;

/* Takes about `seconds` in all, and memory for the read buffer (given back before it returns). */
tnl_status kn_peaks_measure(kn_peaks *out, int threads, double seconds, tnl_error *err);

#endif
