/* Opening and closing what the server listens on. */
#include "server/http/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "kernels/base/log.h"

enum { BACKLOG = 1024 };

/* Keeps errno. */
static int give_up(int fd) {
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

/* ---- TCP ---- */

static int bind_one(const struct addrinfo *a) {
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
    if (fd < 0)
        return -1;
    int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    return give_up(fd);
}

static int bound_port(int fd) {
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    char port[16];
    if (getsockname(fd, (struct sockaddr *)&a, &n) != 0 || a.ss_family == AF_UNIX ||
        getnameinfo((struct sockaddr *)&a, n, NULL, 0, port, sizeof port, NI_NUMERICSERV) != 0)
        return 0;
    return (int)strtol(port, NULL, 10);
}

tnl_status srv_listen_tcp(srv_listener *out, const srv_settings *s, tnl_error *err) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    char port[16];
    *out = (srv_listener){.fd = -1};
    snprintf(port, sizeof port, "%d", (int)s->port);
    int rc = getaddrinfo(s->host, port, &hints, &list);
    if (rc != 0)
        return tnl_fail(err, TNL_E_USAGE, "--host %s: %s", s->host, gai_strerror(rc));
    int why = 0;
    for (const struct addrinfo *a = list; a && out->fd < 0; a = a->ai_next) {
        out->fd = bind_one(a);
        why = errno;
    }
    freeaddrinfo(list);
    if (out->fd < 0)
        return tnl_fail(err, TNL_E_UNAVAILABLE, "cannot listen on %s port %s: %s", s->host, port,
                        strerror(why));
    out->port = bound_port(out->fd);
    return TNL_OK;
}

/* ---- a unix socket ---- */

static tnl_status refuse_path(const char *path, const char *why, tnl_error *err) {
    char shown[224];
    tnl_log_escape(shown, sizeof shown, path, strlen(path));
    return tnl_fail(err, TNL_E_UNAVAILABLE, "--unix %s: %s", shown, why);
}

static bool anybody_listens(const struct sockaddr_un *a) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return true;
    int rc = connect(fd, (const struct sockaddr *)a, sizeof *a);
    bool nobody = rc != 0 && errno == ECONNREFUSED;
    close(fd);
    return !nobody; /* a full backlog, or no permission: somebody's */
}

/* What a server that was killed has left behind may go. */
static tnl_status clear_path(const struct sockaddr_un *a, tnl_error *err) {
    struct stat st;
    const char *path = a->sun_path;
    if (lstat(path, &st) != 0)
        return errno == ENOENT ? TNL_OK : refuse_path(path, strerror(errno), err);
    if (!S_ISSOCK(st.st_mode))
        return refuse_path(path, "there is something else than a socket", err);
    if (anybody_listens(a))
        return refuse_path(path, "another server listens there", err);
    if (unlink(path) != 0 && errno != ENOENT)
        return refuse_path(path, strerror(errno), err);
    return TNL_OK;
}

/* Until listen(2) nobody can connect, so the mode is in force from the first moment. */
static int bind_path(const struct sockaddr_un *a, mode_t mode, struct stat *st) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    if (bind(fd, (const struct sockaddr *)a, sizeof *a) == 0 && chmod(a->sun_path, mode) == 0 &&
        lstat(a->sun_path, st) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    return give_up(fd);
}

static bool parse_mode(mode_t *mode, const char *text) {
    size_t n = strlen(text);
    if (n < 3 || n > 4 || text[strspn(text, "01234567")] != 0)
        return false;
    *mode = (mode_t)strtoul(text, NULL, 8);
    return *mode <= 0777;
}

tnl_status srv_listen_unix(srv_listener *out, const srv_settings *s, tnl_error *err) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct stat st;
    mode_t mode;
    *out = (srv_listener){.fd = -1};
    if (!*s->unix_path || strlen(s->unix_path) >= sizeof a.sun_path)
        return tnl_fail(err, TNL_E_USAGE, "--unix: the path has %zu bytes, expected 1 to %zu",
                        strlen(s->unix_path), sizeof a.sun_path - 1);
    if (!parse_mode(&mode, s->unix_mode))
        return tnl_fail(err, TNL_E_USAGE, "--unix-mode %.16s: expected octal digits, as 0660",
                        s->unix_mode);
    memcpy(a.sun_path, s->unix_path, strlen(s->unix_path) + 1);
    TNL_TRY(clear_path(&a, err));
    out->fd = bind_path(&a, mode, &st);
    if (out->fd < 0)
        return refuse_path(a.sun_path, strerror(errno), err);
    out->path = s->unix_path;
    out->device = st.st_dev;
    out->inode = st.st_ino;
    return TNL_OK;
}

/* ---- handed over ---- */

/* How many, 0: none for this process. The variables are not for our children. */
static int count_inherited(void) {
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
    bool ours = pid && fds && strtol(pid, NULL, 10) == (long)getpid();
    long n = ours ? strtol(fds, NULL, 10) : 0;
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return n > 0 && n < 1024 ? (int)n : 0;
}

static bool option_is(int fd, int option, int expected) {
    int v = 0;
    socklen_t n = sizeof v;
    return getsockopt(fd, SOL_SOCKET, option, &v, &n) == 0 && v == expected;
}

static bool prepare(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 &&
           fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
}

tnl_status srv_listen_inherited(srv_listener out[SRV_MAX_LISTENERS], int *n, tnl_error *err) {
    enum { FIRST = 3 };
    *n = count_inherited();
    if (*n > SRV_MAX_LISTENERS) {
        int found = *n;
        *n = 0;
        return tnl_fail(err, TNL_E_USAGE, "LISTEN_FDS: found %d sockets, at most %d are served",
                        found, SRV_MAX_LISTENERS);
    }
    for (int i = 0; i < *n; i++) {
        out[i] = (srv_listener){.fd = FIRST + i, .inherited = true};
        if (!option_is(out[i].fd, SO_TYPE, SOCK_STREAM) ||
            !option_is(out[i].fd, SO_ACCEPTCONN, 1) || !prepare(out[i].fd))
            return tnl_fail(err, TNL_E_USAGE, "LISTEN_FDS: descriptor %d is not a listening socket",
                            out[i].fd);
        out[i].port = bound_port(out[i].fd);
    }
    return TNL_OK;
}

bool srv_listen_is_public(const srv_listener *l) {
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    if (getsockname(l->fd, (struct sockaddr *)&a, &n) != 0)
        return true;
    if (a.ss_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)&a)->sin_addr.s_addr) >> 24 != 127;
    if (a.ss_family == AF_INET6)
        return !IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)&a)->sin6_addr);
    return false;
}

/* ---- the end ---- */

/* A server that was started after us may have put its own socket there. */
void srv_listen_unlink(srv_listener *l) {
    struct stat st;
    if (l->path && lstat(l->path, &st) == 0 && st.st_dev == l->device && st.st_ino == l->inode)
        unlink(l->path);
    l->path = NULL;
}

void srv_listen_stop(srv_listener *l) {
    if (l->daemon)
        MHD_quiesce_daemon(l->daemon);
    srv_listen_unlink(l);
    /* Quiescing alone would leave new callers hanging in the backlog, so the socket stops listening
     * as well. Its descriptor stays open until the polling threads, which may still name it, are
     * gone. */
    if (l->fd >= 0 && !l->inherited)
        shutdown(l->fd, SHUT_RDWR);
}

void srv_listen_close(srv_listener *l) {
    if (l->daemon)
        MHD_stop_daemon(l->daemon);
    srv_listen_unlink(l);
    if (l->fd >= 0)
        close(l->fd);
    *l = (srv_listener){.fd = -1};
}
