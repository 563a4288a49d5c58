/* The pool. One 64-bit ticket word holds {epoch, next chunk}: a thread takes a chunk by compare
 * and swap, so a thread that slept through the end of one operation can never touch the next
 * one's fields, and the caller waits for finished chunks only, never for threads that did not
 * come. That is what keeps a pool alive when a neighbour takes a core. */
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

#define CHUNK_MASK 0xFFFFFFFFu
#define CLOSED CHUNK_MASK /* no chunk to take under this epoch */

struct tnl_pool {
    int threads;
    int started;
    pthread_t *tids;

    /* The operation; written only while the ticket is closed. */
    _Atomic(tnl_pool_fn) fn;
    _Atomic(void *) ctx;
    _Atomic int64_t n_items, grain;
    atomic_uint n_chunks;

    _Alignas(64) _Atomic uint64_t ticket; /* epoch << 32 | next chunk */
    _Alignas(64) atomic_uint done;        /* chunks finished in this epoch */
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

/* Take and compute chunks until the current epoch has none left. */
static void work_on(tnl_pool *p, int worker) {
    uint64_t t = atomic_load_explicit(&p->ticket, memory_order_acquire);
    for (;;) {
        uint32_t chunk = (uint32_t)(t & CHUNK_MASK);
        if (chunk == CLOSED)
            return;
        uint32_t n_chunks = atomic_load_explicit(&p->n_chunks, memory_order_relaxed);
        if (chunk >= n_chunks)
            return;
        tnl_pool_fn fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
        void *ctx = atomic_load_explicit(&p->ctx, memory_order_relaxed);
        int64_t n = atomic_load_explicit(&p->n_items, memory_order_relaxed);
        int64_t grain = atomic_load_explicit(&p->grain, memory_order_relaxed);
        /* Success proves that the epoch still runs, hence that the fields above are its own. */
        if (!atomic_compare_exchange_strong_explicit(&p->ticket, &t, t + 1, memory_order_acq_rel,
                                                     memory_order_acquire))
            continue;
        int64_t begin = (int64_t)chunk * grain, end = begin + grain < n ? begin + grain : n;
        fn(ctx, begin, end, worker);
        if (atomic_fetch_add(&p->done, 1) + 1 == n_chunks && atomic_load(&p->caller_sleeps)) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->finished);
            pthread_mutex_unlock(&p->lock);
        }
        t = atomic_load_explicit(&p->ticket, memory_order_acquire);
    }
}

static uint32_t epoch_of(const tnl_pool *p) {
    return (uint32_t)(atomic_load(&((tnl_pool *)p)->ticket) >> 32);
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
        work_on(s.pool, s.index);
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
    atomic_store(&p->ticket, CLOSED);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->finished, NULL);
    tnl_status st = TNL_OK;
    p->tids = calloc((size_t)threads, sizeof *p->tids);
    if (!p->tids)
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
    free(p);
}

int tnl_pool_threads(const tnl_pool *p) {
    return p->threads;
}

/* Open a new epoch and wake whoever sleeps. The exchange that closes the old one orders every
 * late reader of the fields before the writes below. */
static void publish(tnl_pool *p, int64_t n_items, int64_t grain, uint32_t n_chunks,
                    tnl_pool_fn fn, void *ctx) {
    uint64_t epoch = (uint64_t)epoch_of(p) + 1;
    atomic_exchange(&p->ticket, (epoch - 1) << 32 | CLOSED);
    atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&p->ctx, ctx, memory_order_relaxed);
    atomic_store_explicit(&p->n_items, n_items, memory_order_relaxed);
    atomic_store_explicit(&p->grain, grain, memory_order_relaxed);
    atomic_store_explicit(&p->n_chunks, n_chunks, memory_order_relaxed);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    atomic_store(&p->ticket, epoch << 32);
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
    if (n_items / grain >= (int64_t)1 << 30) /* chunk numbers must fit beside the epoch */
        grain = n_items >> 29;
    int64_t n_chunks = (n_items + grain - 1) / grain;
    if (p->threads == 1 || n_chunks == 1) {
        for (int64_t i = 0; i < n_items; i += grain)
            fn(ctx, i, i + grain < n_items ? i + grain : n_items, 0);
        return;
    }
    publish(p, n_items, grain, (uint32_t)n_chunks, fn, ctx);
    work_on(p, 0);
    wait_done(p, (uint32_t)n_chunks);
}
