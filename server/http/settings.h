/* Settings of the HTTP side, as plain data. The rows that fill it (flags, TNL_* variables, config
 * keys, ranges, defaults, help) are in server/cli/serve/serve_options.c. Immutable after start; any
 * thread. */
#ifndef TNL_HTTP_SETTINGS_H
#define TNL_HTTP_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "server/http/access/limits.h"

typedef struct srv_settings {
    const char *host;
    int64_t port;                   /* 0: a free one */
    bool tcp;                       /* listen on host and port */
    const char *unix_path;          /* listen on a socket file, NULL: no */
    const char *unix_mode;          /* of that file, octal */
    const char *tls_cert, *tls_key; /* files; NULL: plain HTTP */
    const char *base_path;          /* in front of all paths; NULL or empty: nothing */
    const char *alias;              /* model name to report */
    const char *weights;            /* for /v1/models: "auto", "f32", "bf16" */
    int64_t parallel;               /* slots, to estimate Retry-After */
    int64_t queue;                  /* requests that may wait */
    int64_t max_prompt_tokens;
    int64_t max_body;      /* bytes */
    int64_t max_header;    /* bytes of memory per connection for header and buffers */
    int64_t upload_budget; /* bytes of all bodies together */
    int64_t connections;
    int64_t http_threads;
    int64_t idle_seconds;
    int64_t header_seconds;
    int64_t body_seconds;
    int64_t stall_seconds;
    int64_t request_seconds;  /* 0: no limit */
    int64_t ping_seconds;     /* 0: off */
    const char *api_key_file; /* NULL: none */
    const char *allowed_host; /* comma-separated, NULL: none */
    bool insecure_no_auth;
    const char *cors_origin;   /* comma-separated, NULL: none */
    const char *trust_proxy;   /* comma-separated networks, NULL: none */
    srv_limits limits;         /* of each key that has none of its own, or of each address */
    bool page;                 /* the web page at / */
    const char *chat_template; /* name of a row; NULL: what the model folder says */
    int metrics_compat;        /* 1: figures under vLLM's names, too */
} srv_settings;

#endif
