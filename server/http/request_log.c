/* One log line for each request, when it has ended. As JSON its fields have fixed names; those of a
 * generation are there when one came to its end. What clients chose (id, path, method) is escaped
 * before it gets here. */
#include <stdio.h>

#include "kernels/base/log.h"
#include "server/http/access/caller.h"

static void write_text(const srv_req *req, int status, int64_t ms) {
    char work[160] = "";
    if (req->finished)
        snprintf(work, sizeof work,
                 " prompt=%lld completion=%lld finish=%s queue_ms=%.1f prefill_ms=%.1f "
                 "decode_ms=%.1f",
                 (long long)req->prompt_tokens, (long long)req->completion_tokens,
                 eng_finish_names[req->finish], req->queue_ms, req->prefill_ms, req->decode_ms);
    tnl_log(TNL_LOG_INFO, "%s %s %s %d %lldB %lldms client=%s key=%s%s", req->id[0] ? req->id : "-",
            req->method[0] ? req->method : "-", req->path, status, (long long)req->bytes_out,
            (long long)ms, req->client[0] ? req->client : "-",
            srv_req_key(req) ? req->tenant->name : "-", work);
}

#define TEXT(n, v)                                                                                 \
    { .name = n, .text = (v) }
#define COUNT(n, v)                                                                                \
    { .name = n, .kind = TNL_LOG_COUNT, .count = (v) }
#define MS(n, v)                                                                                   \
    { .name = n, .kind = TNL_LOG_REAL, .real = (v) }

static void write_json(const srv_req *req, int status, int64_t ms) {
    const tnl_log_field fields[] = {
        TEXT("request_id", req->id),
        TEXT("trace_id", req->trace),
        TEXT("client", req->client),
        TEXT("key", srv_req_key(req) ? req->tenant->name : ""),
        TEXT("method", req->method),
        TEXT("path", req->path),
        TEXT("route", req->route ? req->route->path : ""),
        COUNT("status", status),
        COUNT("bytes", req->bytes_out),
        COUNT("ms", ms),
        COUNT("prompt_tokens", req->prompt_tokens),
        COUNT("completion_tokens", req->completion_tokens),
        COUNT("cached_tokens", req->cached_tokens),
        TEXT("finish", eng_finish_names[req->finish]),
        MS("queue_ms", req->queue_ms),
        MS("prefill_ms", req->prefill_ms),
        MS("decode_ms", req->decode_ms),
    };
    enum { ALWAYS = 10 };
    size_t all = sizeof fields / sizeof fields[0];
    tnl_log_fields(TNL_LOG_INFO, "request", fields, req->finished ? all : (size_t)ALWAYS);
}

void srv_log_request(const srv_req *req, int status) {
    int64_t ms = srv_now_ms() - req->begin_ms;
    if (!tnl_log_enabled(TNL_LOG_INFO))
        return;
    if (tnl_log_is_json())
        write_json(req, status, ms);
    else
        write_text(req, status, ms);
}
