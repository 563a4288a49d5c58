/* Checked size arithmetic. Every size that comes from a file or a request is formed here and
 * nowhere else; each function returns false on overflow and leaves *out untouched. */
#ifndef TNL_BASE_CHECKED_H
#define TNL_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool tnl_mul_u64(uint64_t *out, uint64_t a, uint64_t b) {
    uint64_t r;
    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

static inline bool tnl_add_u64(uint64_t *out, uint64_t a, uint64_t b) {
    uint64_t r;
    if (__builtin_add_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

#endif
