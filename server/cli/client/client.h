/* An HTTP client for `tnl chat URL` and `tnl load`: many requests at a time on one thread.
 *
 * libcurl does the protocol (HTTP/1.1, TLS, unix sockets, keep-alive); here are the bounds. A
 * server may be slow, broken or hostile: header, body and silence are limited, redirects are not
 * followed (the key would travel with them), nothing but http, https and unix sockets is spoken.
 * A build without libcurl has client_none.c, whose cli_client_open says so.
 *
 * Everything belongs to the thread that opened the client. Sinks are called from cli_client_wait
 * and cli_client_get only. */
#ifndef TNL_SERVER_CLI_CLIENT_H
#define TNL_SERVER_CLI_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/base/status.h"
#include "server/cli/options/options.h"

enum {
    CLI_HEAD_MAX = 64 << 10,  /* bytes of an answer's header */
    CLI_BODY_MAX = 256 << 20, /* bytes of its body */
    CLI_KEPT_MAX = 64 << 10,  /* bytes of an error's body, or of a short answer */
};

typedef struct cli_client_opts {
    const char *key_file, *ca_file; /* NULL: TNL_API_KEY, or no key; the system's authorities */
    double silence;                 /* seconds without a byte that end a request */
    double connect;                 /* seconds for a connection */
    double whole;                   /* seconds for a whole answer; 0: no limit */
} cli_client_opts;

/* Option rows for a settings struct T with a cli_client_opts member `m`. */
/* clang-format off */
#define CLI_CLIENT_ROWS(T, m)                                                                      \
    {.flag = "api-key-file", .type = CLI_STRING, .offset = offsetof(T, m.key_file), .arg = "FILE", \
     .help = "file with the API key, mode 0600; or set TNL_API_KEY"},                              \
    {.flag = "ca-file", .type = CLI_STRING, .offset = offsetof(T, m.ca_file), .arg = "FILE",       \
     .help = "certificate authority to trust for https, as PEM; default: the system's"},           \
    {.flag = "silence-seconds", .type = CLI_REAL, .offset = offsetof(T, m.silence), .min = 1,      \
     .max = 86400, .dflt = "300", .arg = "S",                                                      \
     .help = "give up on an answer when no byte comes for so long"},                               \
    {.flag = "connect-seconds", .type = CLI_REAL, .offset = offsetof(T, m.connect), .min = 0.1,    \
     .max = 3600, .dflt = "10", .arg = "S", .help = "time for a connection"}
/* clang-format on */

typedef struct cli_client cli_client;
typedef struct cli_call cli_call;

/* How a call ended. */
typedef struct cli_ending {
    tnl_status status; /* TNL_OK: a whole answer with a code of 2xx */
    int code;          /* HTTP status, 0: none came */
    bool stopped;      /* the sink wanted no more */
    char label[48];    /* the failure in a word or two, for tables: "503 queue_full", "connect" */
    char message[400]; /* and in a line */
    const char *body;  /* of cli_client_get, and of a refusal: the first CLI_KEPT_MAX bytes */
    size_t n;
} cli_ending;

typedef struct cli_sink {
    bool (*data)(void *user, const char *bytes, size_t n); /* body of a 2xx; false: no more */
    void (*done)(void *user, const cli_ending *end); /* once; may start calls; the call is gone */
    void *user;
} cli_sink;

/* url: http://HOST[:PORT][/BASE], https://... or unix:PATH[:/BASE]. A /v1 at the end is dropped,
 * since people copy it from other clients' settings. */
tnl_status cli_client_open(cli_client **out, const char *url, const cli_client_opts *o,
                           tnl_error *err);
/* Calls under way end without their sinks hearing of it. NULL allowed. */
void cli_client_close(cli_client *c);

/* POST JSON to base + path; body is borrowed until the call is over. */
tnl_status cli_call_start(cli_call **out, cli_client *c, const char *path, const char *body,
                          size_t n, const cli_sink *sink, tnl_error *err);
/* Close the connection; done is not called. Not from within a sink's data. NULL allowed. */
void cli_call_cancel(cli_call *call);

/* Wait for something to happen, until `until` (seconds of CLOCK_MONOTONIC), and do it. A signal
 * ends the wait. */
void cli_client_wait(cli_client *c, double until);

/* A short answer, whole. *text is malloc'd and NUL-terminated. */
tnl_status cli_client_get(cli_client *c, const char *path, char **text, size_t *n, tnl_error *err);

#endif
