/* Listening sockets: TCP, a file of the file system, or handed over open. The thread that opened
 * the server only. */
#ifndef TNL_HTTP_LISTEN_H
#define TNL_HTTP_LISTEN_H

#include <microhttpd.h>
#include <stdbool.h>
#include <sys/types.h>

#include "kernels/base/status.h"
#include "server/http/settings.h"

enum { SRV_MAX_LISTENERS = 2 };

typedef struct srv_listener {
    int fd;
    int port;         /* 0: not TCP */
    const char *path; /* of a unix socket, or NULL */
    dev_t device;     /* which file that was */
    ino_t inode;
    bool tls;
    bool inherited; /* the service manager has it open, too */
    struct MHD_Daemon *daemon;
} srv_listener;

tnl_status srv_listen_tcp(srv_listener *out, const srv_settings *s, tnl_error *err);

/* A socket file that nobody listens on is replaced; anything else at that path is an error. The
 * file has the mode asked for before anybody can connect. */
tnl_status srv_listen_unix(srv_listener *out, const srv_settings *s, tnl_error *err);

/* Sockets that the service manager hands over (sd_listen_fds(3)), in its order; *n 0: none. They
 * outlive us: callers that come while no server runs wait for the next one. */
tnl_status srv_listen_inherited(srv_listener out[SRV_MAX_LISTENERS], int *n, tnl_error *err);

/* Can other machines reach it? */
bool srv_listen_is_public(const srv_listener *l);

/* Remove the socket file if it is still ours. */
void srv_listen_unlink(srv_listener *l);
/* No new connections; the file is removed if it is still ours. */
void srv_listen_stop(srv_listener *l);
void srv_listen_close(srv_listener *l);

#endif
