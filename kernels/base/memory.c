/* Aligned memory, in huge pages where it is large. */
#include "kernels/base/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#define LINE ((size_t)64)
#define HUGE_PAGE ((size_t)2 << 20)

void *tnl_alloc_lines(size_t bytes) {
    if (bytes > SIZE_MAX - LINE)
        return NULL;
    size_t rounded = bytes ? (bytes + LINE - 1) / LINE * LINE : LINE;
    const int huge = rounded >= HUGE_PAGE;
    void *p = NULL;
    if (posix_memalign(&p, huge ? HUGE_PAGE : LINE, rounded) != 0)
        return NULL;
#ifdef MADV_HUGEPAGE
    if (huge)
        (void)madvise(p, rounded, MADV_HUGEPAGE); /* a wish: refused, small pages serve too */
#endif
    return p;
}
