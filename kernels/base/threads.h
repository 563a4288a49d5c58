/* A pool that runs one operation over many independent outputs.
 *
 * tnl_pool_run splits [0, n_items) over the workers and the caller; an item is always computed
 * whole by one thread, so results do not depend on how many threads there are. Each thread begins
 * with its share of neighbouring items and takes half of another's rest when it has finished: a
 * worker that lost its core to a neighbour delays only the chunk it holds.
 * Workers spin for a bounded time between operations, then sleep; an idle pool burns nothing.
 *
 * One thread at a time may call tnl_pool_run on a given pool.
 */
#ifndef TNL_BASE_THREADS_H
#define TNL_BASE_THREADS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

typedef struct tnl_pool tnl_pool;

/* Compute items [begin, end). `worker` is 0..threads-1, unique among the threads running now:
 * an index for per-thread scratch. */
typedef void (*tnl_pool_fn)(void *ctx, int64_t begin, int64_t end, int worker);

/* threads >= 1 counts the caller; threads-1 workers are started. On failure *out is NULL. */
tnl_status tnl_pool_open(tnl_pool **out, int threads, tnl_error *err);
void tnl_pool_close(tnl_pool *p); /* NULL allowed */
int tnl_pool_threads(const tnl_pool *p);

/* Run fn over [0, n_items) in chunks of at most `grain` items; returns when all are done. */
void tnl_pool_run(tnl_pool *p, int64_t n_items, int64_t grain, tnl_pool_fn fn, void *ctx);

/* A hint: the operation after the next one reads `bytes` at `next`, each thread its share in the
 * order of addresses. Whoever finds no work left in the next operation asks memory for the
 * beginning of its share, while it would only wait. The hint holds for one operation; memory that
 * is gone by then does no harm. */
void tnl_pool_expect(tnl_pool *p, const void *next, size_t bytes);

/* Processors this process may run on (the affinity mask, capped by a cgroup quota), >= 1. */
int tnl_cpu_count(void);

#endif
