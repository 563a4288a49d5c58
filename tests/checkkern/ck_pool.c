/* The pool (every item once, however many threads and operations) and the opening of backends. */
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/threads.h"
#include "tests/checkkern/ck.h"

typedef struct pool_job {
    unsigned char *seen;
    int64_t n, grain;
    int threads;
    bool bad;
} pool_job;

static void mark_items(void *ctx, int64_t begin, int64_t end, int worker) {
    pool_job *j = ctx;
    if (begin < 0 || end > j->n || end - begin > j->grain || worker < 0 || worker >= j->threads)
        j->bad = true;
    else
        for (int64_t i = begin; i < end; i++)
            j->seen[i]++;
}

static void check_pool_size(ck *k, int threads) {
    tnl_pool *p;
    tnl_error err;
    static unsigned char seen[5000];
    if (tnl_pool_open(&p, threads, &err) != TNL_OK) {
        ck_expect(k, false, err.msg);
        return;
    }
    ck_expect(k, tnl_pool_threads(p) == threads, "thread count");
    for (int i = 0; i < 3000; i++) {
        pool_job j = {seen, ck_between(k, 0, i % 100 ? 40 : 5000), ck_between(k, 1, 9), threads,
                      false};
        memset(seen, 0, sizeof seen);
        tnl_pool_run(p, j.n, j.grain, mark_items, &j);
        bool once = !j.bad;
        for (int64_t a = 0; a < 5000; a++)
            once = once && seen[a] == (a < j.n);
        if (!once || i == 0)
            ck_expect(k, once, "every item exactly once");
    }
    tnl_pool_close(p);
}

/* ---- many small operations on more threads than processors ---- */

enum { MOST_CHUNKS = 9, MOST_ITEMS = 40, JOBS = 64 };

/* One operation. Jobs are used in turns: a thread that still works on an old one leaves its mark in
 * the counts long after, and a chunk handed to the wrong operation counts in the wrong job. */
typedef struct stress_job {
    atomic_int seen[MOST_ITEMS];
    atomic_int inside[8]; /* threads that use this worker number now */
    atomic_bool bad;
    int64_t n, grain;
    int threads, delay;
} stress_job;

static void stuck(int sig) {
    static const char text[] = "FAIL pool: an operation never ended: a chunk was lost\n";
    (void)sig;
    if (write(STDOUT_FILENO, text, sizeof text - 1) < 0)
        _exit(2);
    _exit(1);
}

static void waste(int turns) {
    for (int i = 0; i < turns; i++)
        __asm__ volatile("" ::: "memory");
}

static void stress_items(void *ctx, int64_t begin, int64_t end, int worker) {
    stress_job *j = ctx;
    if (begin < 0 || end > j->n || end - begin > j->grain || begin >= end || worker < 0 ||
        worker >= j->threads || atomic_fetch_add(&j->inside[worker], 1) != 0) {
        atomic_store(&j->bad, true);
        return;
    }
    for (int64_t i = begin; i < end; i++)
        atomic_fetch_add(&j->seen[i], 1);
    if (j->delay == 1 && worker > 0)
        sched_yield();
    else
        waste(j->delay * (worker + 1));
    atomic_fetch_sub(&j->inside[worker], 1);
}

static bool job_is_whole(const stress_job *j) {
    bool ok = !atomic_load(&j->bad);
    for (int64_t i = 0; i < MOST_ITEMS; i++)
        ok = ok && atomic_load(&j->seen[i]) == (i < j->n);
    return ok;
}

static void start_job(ck *k, stress_job *j, int threads) {
    static const int delays[] = {0, 0, 0, 1, 1, 100, 3000};
    memset(j, 0, sizeof *j);
    j->threads = threads;
    j->grain = ck_between(k, 1, 4);
    j->n = (ck_between(k, 2, MOST_CHUNKS) - 1) * j->grain + ck_between(k, 1, j->grain);
    j->delay = delays[ck_between(k, 0, 6)];
}

/* Pauses between operations: none; about as long as threads look for work; long enough that all
 * sleep. */
static void pause_between(ck *k) {
    int64_t what = ck_between(k, 0, 199);
    if (what < 100)
        return;
    if (what < 190)
        waste((int)ck_between(k, 0, 3000));
    else if (what < 195)
        sched_yield();
    else
        nanosleep(&(struct timespec){0, ck_between(k, 1, 120) * 1000}, NULL);
}

static void stress_pool(ck *k, int threads, int operations) {
    static stress_job jobs[JOBS];
    tnl_pool *p;
    tnl_error err;
    if (tnl_pool_open(&p, threads, &err) != TNL_OK) {
        ck_expect(k, false, err.msg);
        return;
    }
    for (int i = 0; i < operations; i++) {
        stress_job *j = &jobs[i % JOBS];
        if (i >= JOBS && !job_is_whole(j)) /* nobody came late */
            ck_expect(k, false, "an old operation was touched again");
        start_job(k, j, threads);
        tnl_pool_run(p, j->n, j->grain, stress_items, j);
        if (!job_is_whole(j))
            ck_expect(k, false, "every item exactly once, by one thread a worker number");
        pause_between(k);
    }
    tnl_pool_close(p);
    for (int i = 0; i < JOBS && i < operations; i++)
        if (!job_is_whole(&jobs[i]))
            ck_expect(k, false, "an old operation was touched again");
    ck_expect(k, true, "stress");
}

static void check_stress(ck *k) {
    struct sigaction on = {.sa_handler = stuck}, before;
    sigaction(SIGALRM, &on, &before);
    alarm(100);
    stress_pool(k, 8, 20000);
    for (int i = 0; i < 60; i++) /* threads that start, threads that end */
        stress_pool(k, 1 + i % 8, (int)ck_between(k, 0, 60));
    alarm(0);
    sigaction(SIGALRM, &before, NULL);
}

void ck_check_pool(ck *k) {
    if (!ck_section(k, "pool"))
        return;
    k->isa = NULL;
    for (int threads = 1; threads <= 5; threads++)
        check_pool_size(k, threads);
    check_stress(k);
    tnl_pool_close(NULL);
    tnl_pool *p;
    tnl_error err;
    ck_expect(k, tnl_pool_open(&p, 0, &err) != TNL_OK && !p, "a pool of no threads is refused");
    ck_expect(k, tnl_cpu_count() >= 1, "at least one processor");
}

static bool find_isa(kn_dsp *d, const char *isa) {
    return kn_dsp_init(d, isa, NULL) == TNL_OK;
}

/* What a rung takes from those below it. */
static void check_rungs(ck *k) {
    const char *names[CK_MOST_ISAS];
    int n = kn_dsp_available(names, CK_MOST_ISAS);
    kn_dsp best, d, e;
    ck_expect(k, n >= 1 && !strcmp(names[0], "ref"), "the portable rung is always there");
    ck_expect(k, find_isa(&best, NULL) && !strcmp(best.isa, names[n - 1]), "the last is the best");
    for (int i = 0; i < n; i++)
        ck_expect(k, find_isa(&d, names[i]) && !strcmp(d.isa, names[i]), names[i]);
    if (find_isa(&d, "avx512") && find_isa(&e, "avx2")) /* needs no AVX-VNNI, so has none */
        ck_expect(k, d.qdot[KN_Q8] == e.qdot[KN_Q8] && d.dot_many[0] != e.dot_many[0],
                  "avx512 without VNNI takes the packed products of avx2");
    if (find_isa(&d, "avxvnni") && find_isa(&e, "avx2"))
        ck_expect(k, d.qdot[KN_Q8] != e.qdot[KN_Q8] && d.quant_row == e.quant_row,
                  "avxvnni has packed products of its own");
}

void ck_check_open(ck *k) {
    if (!ck_section(k, "open"))
        return;
    k->isa = NULL;
    check_rungs(k);
    kn_backend *be;
    tnl_error err = {0};
    ck_expect(k, kn_cpu_open(&be, 1, "sse9", &err) == TNL_E_USAGE && !be && strstr(err.msg, "sse9"),
              "an unknown instruction set is an error that names it");
    ck_expect(k, kn_cpu_open(&be, -1, NULL, &err) != TNL_OK && !be, "-1 threads are refused");
    setenv("TNL_CPU", "ref", 1);
    ck_expect(k, kn_cpu_open(&be, 1, NULL, &err) == TNL_OK && !strcmp(be->isa, "ref"),
              "TNL_CPU=ref");
    void *p = be->alloc(be, 1000, KN_ON_DEVICE);
    bool zero = p != NULL && (uintptr_t)p % 64 == 0;
    for (int i = 0; zero && i < 1000; i++)
        zero = ((unsigned char *)p)[i] == 0;
    ck_expect(k, zero, "device memory is aligned and zeroed");
    be->free(be, p, KN_ON_DEVICE);
    ck_expect(k, be->alloc(be, SIZE_MAX - 3, KN_ON_DEVICE) == NULL, "too much memory is NULL");
    kn_backend_close(be);
    setenv("TNL_CPU", "nonsense", 1);
    ck_expect(k, kn_cpu_open(&be, 1, NULL, &err) != TNL_OK && strstr(err.msg, "nonsense"),
              "TNL_CPU with an unknown name is an error");
    unsetenv("TNL_CPU");
    kn_backend_close(NULL);
}
