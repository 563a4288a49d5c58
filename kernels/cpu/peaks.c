/* Measuring the machine. In a slice the threads begin together and each runs the same loop for the
 * same time; the rate is what all of them did in the time from the first start to the last end. */
#include "kernels/cpu/peaks.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/memory.h"
#include "kernels/base/threads.h"
#include "kernels/cpu/cpuid.h"

enum {
    MAX_SETS = 5,
    HUGE_PAGE = 2 << 20,
};

#define ARITH_ITERS 4096
#define MEET_SECONDS 1e-3   /* that threads wait for each other at the start of a slice */
#define CHOOSE_SECONDS 8e-3 /* a slice of kn_limits_choose, at most */

/* One thread's share of a slice. Apart by a cache line. */
typedef struct part {
    _Alignas(64) double begin, end, done; /* seconds; bytes or operations */
    int64_t at;                           /* its next piece, counted from its first */
} part;

struct kn_limits {
    tnl_pool *pool;
    int max_threads;
    char *buffer; /* NULL: the caller's regions are read */
    const char **pieces;
    int64_t n_pieces;
    part *parts; /* [max_threads] */
    const kn_peak_set *sets[MAX_SETS];
    int n_sets;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- which loops ---- */

/* Sets that were built and that this processor can run. */
static int usable_sets(const kn_peak_set **sets) {
    const unsigned has = kn_cpuid_flags();
    int n = 0;
    sets[n++] = &kn_peaks_ref;
#ifdef KN_PEAKS_AVX2
    if (has & KN_CPUID_AVX2)
        sets[n++] = &kn_peaks_avx2;
#endif
#ifdef KN_PEAKS_AVXVNNI
    if (has & KN_CPUID_AVXVNNI)
        sets[n++] = &kn_peaks_avxvnni;
#endif
#ifdef KN_PEAKS_AVX512
    if (has & KN_CPUID_AVX512)
        sets[n++] = &kn_peaks_avx512;
#endif
#ifdef KN_PEAKS_VNNI512
    if (has & KN_CPUID_AVX512VNNI)
        sets[n++] = &kn_peaks_vnni512;
#endif
    (void)has;
    return n;
}

/* Loop `index` of a kind, counted over all sets; both NULL beyond the last one. */
typedef struct loop {
    const kn_read_loop *read;
    const kn_peak_loop *arith;
} loop;

static loop find_loop(const kn_limits *l, kn_limit kind, int index) {
    for (int s = 0; s < l->n_sets; s++) {
        const kn_peak_set *set = l->sets[s];
        if (kind == KN_LIMIT_READ) {
            for (int i = 0; i < KN_PEAK_READS && set->read[i].name; i++)
                if (index-- == 0)
                    return (loop){.read = &set->read[i]};
            continue;
        }
        const kn_peak_loop *a = kind == KN_LIMIT_FP32 ? set->fp32 : set->int8;
        for (int i = 0; i < KN_PEAK_ARITH && a[i].name; i++)
            if (index-- == 0)
                return (loop){.arith = &a[i]};
    }
    return (loop){0};
}

static bool no_loop(loop p) {
    return !p.read && !p.arith;
}

/* ---- a slice ---- */

typedef struct slice {
    kn_limits *l;
    loop loop;
    int threads;
    double start, seconds;
    atomic_int here;
} slice;

/* Where results go so that no loop is dead code. */
static _Atomic uint64_t peaks_sink;

/* Begin together, or after a moment: a thread may have no processor now. */
static void meet(slice *s) {
    atomic_fetch_add(&s->here, 1);
    while (atomic_load(&s->here) < s->threads && now() < s->start + MEET_SECONDS)
        continue;
}

static double run_piece(const slice *s, int64_t i) {
    part *p = &s->l->parts[i];
    if (s->loop.arith) {
        atomic_store(&peaks_sink, (uint64_t)(s->loop.arith->run(ARITH_ITERS) > 0));
        return s->loop.arith->ops * ARITH_ITERS;
    }
    int64_t first = s->l->n_pieces * i / s->threads, end = s->l->n_pieces * (i + 1) / s->threads;
    if (p->at >= end - first)
        p->at = 0;
    atomic_store(&peaks_sink, s->loop.read->run(s->l->pieces[first + p->at++], KN_READ_PIECE));
    return KN_READ_PIECE;
}

static void run_parts(void *ctx, int64_t begin, int64_t end, int worker) {
    slice *s = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        part *p = &s->l->parts[i];
        meet(s);
        p->done = 0;
        p->begin = now();
        do {
            p->done += run_piece(s, i);
            p->end = now();
        } while (p->end < p->begin + s->seconds);
    }
}

static double run_slice(kn_limits *l, loop what, int threads, double seconds) {
    slice s = {.l = l, .loop = what, .threads = threads, .seconds = seconds};
    s.start = now();
    tnl_pool_run(l->pool, threads, 1, run_parts, &s);
    double done = 0, begin = l->parts[0].begin, end = l->parts[0].end;
    for (int i = 0; i < threads; i++) {
        const part *p = &l->parts[i];
        done += p->done;
        begin = p->begin < begin ? p->begin : begin;
        end = p->end > end ? p->end : end;
    }
    return done / (end - begin) / 1e9;
}

double kn_limits_slice(kn_limits *l, const kn_peaks *p, kn_limit kind, double seconds) {
    return run_slice(l, find_loop(l, kind, p->index[kind]), p->threads, seconds);
}

/* ---- choosing ---- */

static const char *loop_name(loop p) {
    return p.read ? p.read->name : p.arith->name;
}

static void try_all(kn_limits *l, kn_peaks *out, double seconds) {
    for (kn_limit kind = 0; kind < KN_LIMIT_COUNT; kind++)
        for (int i = 0; !no_loop(find_loop(l, kind, i)); i++) {
            double rate = run_slice(l, find_loop(l, kind, i), out->threads, seconds);
            if (rate > out->rate[kind] || !out->loop[kind]) {
                out->rate[kind] = rate;
                out->loop[kind] = loop_name(find_loop(l, kind, i));
                out->index[kind] = i;
            }
        }
}

void kn_limits_choose(kn_limits *l, kn_peaks *out, int threads, double seconds) {
    memset(out, 0, sizeof *out);
    out->threads = threads < 1 ? 1 : threads > l->max_threads ? l->max_threads : threads;
    int loops = 0;
    for (kn_limit kind = 0; kind < KN_LIMIT_COUNT; kind++)
        for (int i = 0; !no_loop(find_loop(l, kind, i)); i++)
            loops++;
    double each = seconds / loops, end = now() + seconds;
    do
        try_all(l, out, each < CHOOSE_SECONDS ? each : CHOOSE_SECONDS);
    while (now() + loops * CHOOSE_SECONDS < end);
}

/* ---- open and close ---- */

/* Bytes of the last-level cache that the first processor reaches; sysconf counts those of a whole
 * package, of which a virtual machine may own a part. */
static size_t cache_bytes(void) {
    unsigned long kib = 0;
    FILE *f = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r");
    if (f && fscanf(f, "%luK", &kib) != 1)
        kib = 0;
    if (f)
        fclose(f);
    long cache = kib > 0 ? 0 : sysconf(_SC_LEVEL3_CACHE_SIZE);
    return kib > 0 ? (size_t)kib << 10 : cache > 0 ? (size_t)cache : 0;
}

/* Each thread's part is four times the last-level cache; 256 MiB at least, an eighth of the memory
 * at most. */
static size_t buffer_bytes(int threads) {
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    size_t n = (size_t)256 << 20, least = (size_t)threads * KN_READ_PIECE;
    size_t want = 4 * cache_bytes() * (size_t)threads;
    size_t limit = pages > 0 && page > 0 ? (size_t)pages / 8 * (size_t)page : n;
    n = n < want ? want : n;
    n = n > limit ? limit : n;
    n = n < least ? least : n;
    return (n + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
}

static tnl_status make_buffer(kn_limits *l, kn_region *out, tnl_error *err) {
    size_t n = buffer_bytes(l->max_threads);
    l->buffer = tnl_alloc_lines(n);
    if (!l->buffer)
        return tnl_fail(err, TNL_E_NOMEM, "no memory for a read buffer of %zu bytes", n);
    memset(l->buffer, 1, n); /* pages of its own: untouched ones share one page of zeros */
    *out = (kn_region){l->buffer, n};
    return TNL_OK;
}

static tnl_status cut_pieces(kn_limits *l, const kn_region *regions, int64_t n, tnl_error *err) {
    size_t pieces = 0;
    for (int64_t i = 0; i < n; i++)
        pieces += regions[i].bytes / KN_READ_PIECE;
    if (pieces < (size_t)l->max_threads)
        return tnl_fail(err, TNL_E_LIMIT, "too little memory to read: %zu pieces of %d bytes",
                        pieces, KN_READ_PIECE);
    l->pieces = calloc(pieces, sizeof *l->pieces);
    if (!l->pieces)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    for (int64_t i = 0; i < n; i++)
        for (size_t at = 0; at + KN_READ_PIECE <= regions[i].bytes; at += KN_READ_PIECE)
            l->pieces[l->n_pieces++] = (const char *)regions[i].data + at;
    return TNL_OK;
}

static tnl_status fill_limits(kn_limits *l, const kn_region *regions, int64_t n, tnl_error *err) {
    kn_region own;
    size_t bytes = (size_t)l->max_threads * sizeof *l->parts;
    l->parts = aligned_alloc(64, bytes);
    if (!l->parts)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    memset(l->parts, 0, bytes);
    if (!regions) {
        TNL_TRY(make_buffer(l, &own, err));
        regions = &own;
        n = 1;
    }
    TNL_TRY(cut_pieces(l, regions, n, err));
    return tnl_pool_open(&l->pool, l->max_threads, err);
}

tnl_status kn_limits_open(kn_limits **out, int max_threads, const kn_region *regions,
                          int64_t n_regions, tnl_error *err) {
    *out = NULL;
    kn_limits *l = calloc(1, sizeof *l);
    if (!l)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    l->max_threads = max_threads < 1 ? 1 : max_threads;
    l->n_sets = usable_sets(l->sets);
    tnl_status s = fill_limits(l, regions, n_regions, err);
    if (s != TNL_OK) {
        kn_limits_close(l);
        return s;
    }
    *out = l;
    return TNL_OK;
}

void kn_limits_close(kn_limits *l) {
    if (!l)
        return;
    tnl_pool_close(l->pool);
    free(l->buffer);
    free(l->pieces);
    free(l->parts);
    free(l);
}
