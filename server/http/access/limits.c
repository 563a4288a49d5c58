/* Buckets that fill with time: see limits.h. */
#include "server/http/access/limits.h"

#include <math.h>

static int64_t over(int64_t own, int64_t preset) {
    return own == SRV_UNSET ? preset : own;
}

srv_limits srv_limits_over(srv_limits l, const srv_limits *preset) {
    return (srv_limits){
        .requests_per_minute = over(l.requests_per_minute, preset->requests_per_minute),
        .tokens_per_minute = over(l.tokens_per_minute, preset->tokens_per_minute),
        .parallel = over(l.parallel, preset->parallel),
    };
}

bool srv_limits_any(const srv_limits *l) {
    return l->requests_per_minute > 0 || l->tokens_per_minute > 0 || l->parallel > 0;
}

/* Let the time since the last look fill the bucket. A clock that steps back fills nothing. */
static void fill(srv_bucket *b, int64_t per_minute, int64_t now_ms) {
    if (now_ms > b->at_ms) {
        b->missing -= (double)(now_ms - b->at_ms) * (double)per_minute / 60000.0;
        b->at_ms = now_ms;
    }
    if (b->missing < 0)
        b->missing = 0;
}

/* Seconds until `units` are made up for. */
static int wait_for(double units, int64_t per_minute) {
    double s = ceil(units * 60.0 / (double)per_minute);
    return s < 1 ? 1 : s > SRV_WAIT_MAX ? SRV_WAIT_MAX : (int)s;
}

int srv_bucket_take(srv_bucket *b, int64_t per_minute, int64_t now_ms, double amount) {
    if (per_minute <= 0)
        return 0;
    fill(b, per_minute, now_ms);
    double need = fmin(amount, (double)per_minute); /* more than a full one cannot be waited for */
    double short_by = need - ((double)per_minute - b->missing);
    /* sums of shares of a unit are a little off; a wait of a microunit is none */
    if (short_by > 1e-6)
        return wait_for(short_by, per_minute);
    b->missing += amount;
    return 0;
}

int srv_bucket_peek(srv_bucket *b, int64_t per_minute, int64_t now_ms) {
    if (per_minute <= 0)
        return 0;
    fill(b, per_minute, now_ms);
    double short_by = b->missing - (double)per_minute;
    return short_by >= -1e-6 ? wait_for(short_by + 1, per_minute) : 0;
}

void srv_bucket_return(srv_bucket *b, int64_t per_minute, int64_t now_ms, double amount) {
    if (per_minute <= 0)
        return;
    fill(b, per_minute, now_ms);
    b->missing = fmax(b->missing - amount, 0);
}

bool srv_bucket_is_full(srv_bucket *b, int64_t per_minute, int64_t now_ms) {
    if (per_minute <= 0)
        return true;
    fill(b, per_minute, now_ms);
    return b->missing == 0;
}
