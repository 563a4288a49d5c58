/* The HTTP server: a libmicrohttpd daemon, a watcher thread and two workers in front of an engine.
 *
 * It listens from srv_open on, before there is a model: /health then says "loading". srv_ready
 * hands over what was loaded, once or again and again. All functions here are for the thread that
 * opened the server, except srv_progress, which any thread may call. */
#ifndef TNL_HTTP_HTTP_H
#define TNL_HTTP_HTTP_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "server/engine/states/session.h"
#include "server/http/settings.h"

typedef struct srv_server srv_server;
typedef struct srv_chat_template srv_chat_template;

/* What answers: a model with all that belongs to it. */
typedef struct srv_backend {
    eng_engine *engine;
    const mdl_model *model;
    const tok_model *tokenizer; /* NULL: token ids only */
    eng_sessions *sessions;     /* NULL: none are kept */
    double load_seconds;
    const srv_chat_template *chat; /* of chat_template.h; NULL: the plain one */

    struct srv_backend *next; /* the server's: the one before */
    int users;                /* the server's: requests that work with it */
} srv_backend;

/* Bind, listen, start threads. `s` is borrowed and must outlive the server. */
tnl_status srv_open(srv_server **out, const srv_settings *s, tnl_error *err);
int srv_port(const srv_server *srv); /* 0: no TCP */
enum { SRV_WHERE = 256 };
/* The i-th place it listens at, in words; false: there are no more. */
bool srv_where(const srv_server *srv, int i, char out[SRV_WHERE]);

void srv_progress(void *srv, uint64_t done, uint64_t total); /* an mdl_progress_fn */

/* Requests that begin from now on are answered by `backend`, those that run keep the one they have.
 * The server borrows it until srv_collect returns it or srv_close does. */
void srv_ready(srv_server *srv, srv_backend *backend);
/* A backend that was replaced and that no request needs any more: the caller may free it. NULL:
 * none at present. */
srv_backend *srv_collect(srv_server *srv);
int srv_backend_count(srv_server *srv);         /* the current one and those not yet collected */
void srv_note_reload(srv_server *srv, bool ok); /* for /metrics */

/* Read the key file again, if there is one. A file that cannot be used leaves the keys as they are
 * (one line in the log). Runs beside requests. */
tnl_status srv_reload_keys(srv_server *srv, tnl_error *err);

/* The same for certificate and key of TLS. */
tnl_status srv_reload_certificate(srv_server *srv, tnl_error *err);

/* Remove the socket file. For an end without srv_close. */
void srv_unlink(srv_server *srv);

/* Stop accepting: the listening socket is closed, new requests on open connections are refused,
 * what runs goes on. */
void srv_drain(srv_server *srv);
bool srv_quiet(srv_server *srv); /* no request in flight */

/* End what still runs: each gets its final event. */
void srv_cancel_all(srv_server *srv);

/* Close all connections and free everything. NULL allowed. Call before eng_close. */
void srv_close(srv_server *srv);

#endif
