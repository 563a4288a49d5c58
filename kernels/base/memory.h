/* Memory for what is read in long runs: weights, states, buffers of a measurement. */
#ifndef TNL_BASE_MEMORY_H
#define TNL_BASE_MEMORY_H

#include <stddef.h>

/* `bytes` rounded up to cache lines (0: one line), at a line's start; not initialised. From 2 MiB
 * on at a huge page's start, with huge pages asked for: read in sequence with small ones, memory
 * gives a fifth to a third less. NULL: none. Release with free(). */
void *tnl_alloc_lines(size_t bytes);

#endif
