/* The pool. Each thread owns a run of neighbouring chunks, so that it streams through memory in one
 * direction; one that has finished takes half of what another has left. A run is one 64-bit word
 * {epoch, begin, end} changed by compare and swap only: a thread that slept through the end of one
 * operation can never touch the next one's fields, and the caller waits for finished chunks only,
 * never for threads that did not come. That is what keeps a pool alive when a neighbour takes a
 * core. (Handing out chunks one by one from a common counter cost 20-35% of the read bandwidth of
 * two threads: streams of 64 KiB are too short.) */
#include "kernels/base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* How long an idle thread looks for work before it sleeps: longer than the gap between the
 * operations of one step, far shorter than a scheduler's time slice. */
#define SPIN_NS 50000

/* What a thread asks memory for while it waits: about as much as arrives in a microsecond. */
#define EXPECT_BYTES ((size_t)32 << 10)

#define MOST_CHUNKS 0xFFFF

/* epoch << 32 | begin << 16 | end; nothing left when begin == end. */
typedef struct run {
    _Alignas(64) _Atomic uint64_t word;
} run;

struct tnl_pool {
    int threads;
    int started;
    pthread_t *tids;
    run *runs; /* [threads] */

    /* The operation; written only while every run is empty. */
    _Atomic(tnl_pool_fn) fn;
    _Atomic(void *) ctx;
    _Atomic int64_t n_items, grain;
    atomic_uint n_chunks;

    /* tnl_pool_expect's; a stale value costs a useless prefetch. */
    _Atomic(const char *) expected;
    _Atomic size_t expected_bytes;

    _Alignas(64) atomic_uint epoch;
    _Alignas(64) atomic_uint done; /* chunks finished in this epoch */
    _Alignas(64) atomic_int sleepers;
    atomic_int caller_sleeps;
    atomic_bool stop;
    pthread_mutex_t lock;
    pthread_cond_t work, finished;
};

typedef struct worker_start {
    tnl_pool *pool;
    int index;
} worker_start;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void pause_cpu(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static uint64_t run_word(uint32_t epoch, uint32_t begin, uint32_t end) {
    return (uint64_t)epoch << 32 | begin << 16 | end;
}

static uint32_t run_begin(uint64_t word) {
    return (uint32_t)word >> 16;
}

static uint32_t run_end(uint64_t word) {
    return (uint32_t)word & 0xFFFF;
}

/* Whether a run has chunks left in this epoch. A thread still busy with an old epoch must not begin
 * the next one before publish has written every run: its own would be overwritten. */
static bool has_left(uint64_t word, uint32_t epoch) {
    return (uint32_t)(word >> 32) == epoch && run_begin(word) < run_end(word);
}

/* What an operation's chunk needs; read before a chunk is taken. */
typedef struct op {
    tnl_pool_fn fn;
    void *ctx;
    int64_t n_items, grain;
    uint32_t n_chunks;
} op;

static op read_op(tnl_pool *p) {
    return (op){atomic_load_explicit(&p->fn, memory_order_relaxed),
                atomic_load_explicit(&p->ctx, memory_order_relaxed),
                atomic_load_explicit(&p->n_items, memory_order_relaxed),
                atomic_load_explicit(&p->grain, memory_order_relaxed),
                atomic_load_explicit(&p->n_chunks, memory_order_relaxed)};
}

/* The next chunk of one's own run. Success proves that the epoch still runs, hence that the fields
 * read meanwhile are its own. */
static bool take_next(tnl_pool *p, uint32_t epoch, int worker, op *o, uint32_t *chunk) {
    _Atomic uint64_t *word = &p->runs[worker].word;
    uint64_t w = atomic_load_explicit(word, memory_order_acquire);
    while (has_left(w, epoch)) {
        *o = read_op(p);
        *chunk = run_begin(w);
        if (atomic_compare_exchange_strong_explicit(word, &w, w + (1 << 16), memory_order_acq_rel,
                                                    memory_order_acquire))
            return true;
    }
    return false;
}

/* Half of what another thread has left, the later one; the first chunk of it is taken at once. Only
 * the owner writes to an empty run, so a plain store publishes the rest. */
static bool take_half(tnl_pool *p, uint32_t epoch, int worker, op *o, uint32_t *chunk) {
    for (int i = 1; i < p->threads; i++) {
        _Atomic uint64_t *word = &p->runs[(worker + i) % p->threads].word;
        uint64_t w = atomic_load_explicit(word, memory_order_acquire);
        while (has_left(w, epoch)) {
            uint32_t begin = run_begin(w), end = run_end(w), mid = begin + (end - begin) / 2;
            *o = read_op(p);
            if (!atomic_compare_exchange_strong_explicit(word, &w, run_word(epoch, begin, mid),
                                                         memory_order_acq_rel,
                                                         memory_order_acquire))
                continue;
            atomic_store_explicit(&p->runs[worker].word, run_word(epoch, mid + 1, end),
                                  memory_order_release);
            *chunk = mid;
            return true;
        }
    }
    return false;
}

/* Ask memory for the beginning of this thread's share of what comes next. */
static void fetch_expected(tnl_pool *p, int worker) {
    const char *at = atomic_load_explicit(&p->expected, memory_order_relaxed);
    size_t bytes = atomic_load_explicit(&p->expected_bytes, memory_order_relaxed);
    if (!at)
        return;
    size_t share = bytes / (size_t)p->threads;
    at += share * (size_t)worker;
    for (size_t i = 0; i < (share < EXPECT_BYTES ? share : EXPECT_BYTES); i += 64)
        __builtin_prefetch(at + i);
}

/* Take and compute chunks until this epoch has none left. */
static void work_on(tnl_pool *p, uint32_t epoch, int worker) {
    op o;
    uint32_t chunk;
    while (take_next(p, epoch, worker, &o, &chunk) || take_half(p, epoch, worker, &o, &chunk)) {
        int64_t begin = (int64_t)chunk * o.grain, end = begin + o.grain;
        o.fn(o.ctx, begin, end < o.n_items ? end : o.n_items, worker);
        if (atomic_fetch_add(&p->done, 1) + 1 == o.n_chunks && atomic_load(&p->caller_sleeps)) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->finished);
            pthread_mutex_unlock(&p->lock);
        }
    }
    fetch_expected(p, worker);
}

static uint32_t epoch_of(const tnl_pool *p) {
    return atomic_load(&((tnl_pool *)p)->epoch);
}

/* Wait for an epoch other than `seen`: look for SPIN_NS, then sleep. */
static void wait_for_work(tnl_pool *p, uint32_t seen) {
    int64_t until = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < 32; i++) {
            if (epoch_of(p) != seen || atomic_load(&p->stop))
                return;
            pause_cpu();
        }
    } while (now_ns() < until);
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while (epoch_of(p) == seen && !atomic_load(&p->stop))
        pthread_cond_wait(&p->work, &p->lock);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
}

static void *worker_main(void *arg) {
    worker_start s = *(worker_start *)arg;
    free(arg);
    uint32_t seen = 0;
    while (!atomic_load(&s.pool->stop)) {
        wait_for_work(s.pool, seen);
        seen = epoch_of(s.pool);
        work_on(s.pool, seen, s.index);
    }
    return NULL;
}

static tnl_status start_workers(tnl_pool *p, tnl_error *err) {
    for (int i = 1; i < p->threads; i++) {
        worker_start *s = malloc(sizeof *s);
        if (!s)
            return tnl_fail(err, TNL_E_NOMEM, "thread pool: out of memory");
        *s = (worker_start){p, i};
        int rc = pthread_create(&p->tids[i - 1], NULL, worker_main, s);
        if (rc) {
            free(s);
            return tnl_fail(err, TNL_E_UNAVAILABLE, "thread pool: cannot start thread %d of %d: %s",
                            i + 1, p->threads, strerror(rc));
        }
        p->started++;
    }
    return TNL_OK;
}

tnl_status tnl_pool_open(tnl_pool **out, int threads, tnl_error *err) {
    *out = NULL;
    if (threads < 1)
        return tnl_fail(err, TNL_E_USAGE, "thread pool: %d threads, expected at least 1", threads);
    tnl_pool *p = aligned_alloc(64, sizeof *p);
    if (!p)
        return tnl_fail(err, TNL_E_NOMEM, "thread pool: out of memory");
    memset(p, 0, sizeof *p);
    p->threads = threads;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->finished, NULL);
    tnl_status st = TNL_OK;
    p->tids = calloc((size_t)threads, sizeof *p->tids);
    p->runs = aligned_alloc(64, (size_t)threads * sizeof *p->runs);
    if (p->runs)
        memset(p->runs, 0, (size_t)threads * sizeof *p->runs);
    if (!p->tids || !p->runs)
        st = tnl_fail(err, TNL_E_NOMEM, "thread pool: out of memory");
    else
        st = start_workers(p, err);
    if (st != TNL_OK) {
        tnl_pool_close(p);
        return st;
    }
    *out = p;
    return TNL_OK;
}

void tnl_pool_close(tnl_pool *p) {
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stop, true);
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->started; i++)
        pthread_join(p->tids[i], NULL);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->finished);
    pthread_mutex_destroy(&p->lock);
    free(p->tids);
    free(p->runs);
    free(p);
}

int tnl_pool_threads(const tnl_pool *p) {
    return p->threads;
}

/* Open a new epoch and wake whoever sleeps. All runs are empty, so nobody reads the fields with
 * effect until the words below are stored. */
static void publish(tnl_pool *p, int64_t n_items, int64_t grain, uint32_t n_chunks, tnl_pool_fn fn,
                    void *ctx) {
    uint32_t epoch = epoch_of(p) + 1, threads = (uint32_t)p->threads;
    atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&p->ctx, ctx, memory_order_relaxed);
    atomic_store_explicit(&p->n_items, n_items, memory_order_relaxed);
    atomic_store_explicit(&p->grain, grain, memory_order_relaxed);
    atomic_store_explicit(&p->n_chunks, n_chunks, memory_order_relaxed);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    for (uint32_t i = 0; i < threads; i++)
        atomic_store_explicit(&p->runs[i].word,
                              run_word(epoch, (uint32_t)((uint64_t)n_chunks * i / threads),
                                       (uint32_t)((uint64_t)n_chunks * (i + 1) / threads)),
                              memory_order_release);
    atomic_store(&p->epoch, epoch);
    if (atomic_load(&p->sleepers) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->work);
        pthread_mutex_unlock(&p->lock);
    }
}

/* Wait until the chunks that other threads hold are finished. */
static void wait_done(tnl_pool *p, uint32_t n_chunks) {
    int64_t until = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load(&p->done) == n_chunks)
                return;
            pause_cpu();
        }
    } while (now_ns() < until);
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->caller_sleeps, 1);
    while (atomic_load(&p->done) != n_chunks)
        pthread_cond_wait(&p->finished, &p->lock);
    atomic_store(&p->caller_sleeps, 0);
    pthread_mutex_unlock(&p->lock);
}

void tnl_pool_run(tnl_pool *p, int64_t n_items, int64_t grain, tnl_pool_fn fn, void *ctx) {
    if (n_items <= 0)
        return;
    if (grain < 1)
        grain = 1;
    if (n_items / grain >= MOST_CHUNKS) /* chunk numbers must fit beside the epoch */
        grain = n_items / MOST_CHUNKS + 1;
    int64_t n_chunks = (n_items + grain - 1) / grain;
    if (p->threads == 1 || n_chunks == 1) {
        for (int64_t i = 0; i < n_items; i += grain)
            fn(ctx, i, i + grain < n_items ? i + grain : n_items, 0);
        return;
    }
    publish(p, n_items, grain, (uint32_t)n_chunks, fn, ctx);
    work_on(p, epoch_of(p), 0);
    wait_done(p, (uint32_t)n_chunks);
    atomic_store_explicit(&p->expected, NULL, memory_order_relaxed);
}

void tnl_pool_expect(tnl_pool *p, const void *next, size_t bytes) {
    atomic_store_explicit(&p->expected_bytes, bytes, memory_order_relaxed);
    atomic_store_explicit(&p->expected, next, memory_order_relaxed);
}
