/* How much one tenant may ask for: requests and tokens a minute, requests at once. Pure functions
 * of numbers and a time the caller gives, so that tests need no clock. The caller locks.
 *
 * A minute's allowance is a bucket: it begins full, holds one minute's worth and fills evenly. What
 * a request will cost in tokens is known only at its end, so its most is taken in advance and the
 * rest given back. A cost beyond what the bucket can hold is let through when the bucket is full;
 * it then stands below zero until time has made up for it. */
#ifndef TNL_HTTP_LIMITS_H
#define TNL_HTTP_LIMITS_H

#include <stdbool.h>
#include <stdint.h>

enum { SRV_UNSET = -1, SRV_WAIT_MAX = 3600 /* seconds, the longest Retry-After */ };

/* 0: no limit. SRV_UNSET: as the server's settings say. */
typedef struct srv_limits {
    int64_t requests_per_minute, tokens_per_minute;
    int64_t parallel; /* requests being answered at once */
} srv_limits;

/* Members of `l` that are SRV_UNSET become those of `preset`. */
srv_limits srv_limits_over(srv_limits l, const srv_limits *preset);
bool srv_limits_any(const srv_limits *l);

/* All zeros is a full bucket. */
typedef struct srv_bucket {
    double missing; /* units taken and not yet made up for; above the capacity: in debt */
    int64_t at_ms;  /* monotonic, when `missing` was true */
} srv_bucket;

/* Take `amount` units from a bucket of per_minute (0: no limit). 0: taken; else nothing is, and so
 * many seconds later it should be possible, 1..SRV_WAIT_MAX. */
int srv_bucket_take(srv_bucket *b, int64_t per_minute, int64_t now_ms, double amount);
/* Is there anything in it? 0, or the seconds until there is. Takes nothing. */
int srv_bucket_peek(srv_bucket *b, int64_t per_minute, int64_t now_ms);
/* Give back (or, below zero, take without asking). */
void srv_bucket_return(srv_bucket *b, int64_t per_minute, int64_t now_ms, double amount);
/* Nothing is missing: forgetting the bucket changes nothing. */
bool srv_bucket_is_full(srv_bucket *b, int64_t per_minute, int64_t now_ms);

#endif
