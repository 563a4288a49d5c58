/* The protocol is a few lines of text, so no library is needed for it. */
#include "server/cli/notify.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/log.h"

static const char *socket_path(void) {
    const char *path = getenv("NOTIFY_SOCKET");
    return path && (*path == '/' || *path == '@') && path[1] ? path : NULL;
}

bool cli_notify_wanted(void) {
    return socket_path() != NULL;
}

/* A name that begins with '@' is in the abstract space, where a zero stands for the '@'. */
static bool address(struct sockaddr_un *a, socklen_t *n, const char *path) {
    size_t len = strlen(path);
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    if (len >= sizeof a->sun_path)
        return false;
    memcpy(a->sun_path, path, len);
    if (*path == '@')
        a->sun_path[0] = 0;
    *n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    return true;
}

static bool send_words(const char *path, const char *text) {
    struct sockaddr_un a;
    socklen_t n;
    if (!address(&a, &n, path)) {
        errno = ENAMETOOLONG;
        return false;
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    ssize_t sent =
        sendto(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT, (const struct sockaddr *)&a, n);
    int why = errno;
    close(fd);
    errno = why;
    return sent >= 0;
}

void cli_notify(const char *fmt, ...) {
    char text[512];
    const char *path = socket_path();
    va_list ap;
    if (!path)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!send_words(path, text))
        tnl_log(TNL_LOG_WARN, "the service manager does not hear us: %s", strerror(errno));
}

void cli_notify_reloading(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    cli_notify("RELOADING=1\nMONOTONIC_USEC=%lld\nSTATUS=loading a model while another serves",
               (long long)ts.tv_sec * 1000000 + ts.tv_nsec / 1000);
}
