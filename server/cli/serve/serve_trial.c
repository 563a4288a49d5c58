/* Trying the tokenizer of a folder in a process of its own while the server runs.
 *
 * tok_open forks to try a model file. In a process with threads the child of a fork may find a lock
 * held for ever, so a reload starts this very program again (`tnl tokenize`), which has no other
 * threads when it forks, and listens to what it says. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/cli/serve/serve_load.h"

extern char **environ;

enum { TRIAL_MS = 90000 }; /* above the deadline that the trial itself keeps to */

static const char program[] = "tnl tokenize";

static int spawn(pid_t *pid, const char *dir, int say) {
    char *argv[] = {(char *)program, "tokenize", "--ids", "--", (char *)dir, "x", NULL};
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none;
    sigemptyset(&none); /* ours are blocked: they come through a descriptor */
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attr);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&files, say, STDERR_FILENO);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    int rc = posix_spawn(pid, "/proc/self/exe", &files, &attr, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attr);
    return rc;
}

/* What it says until it ends; false: it did not end in time. */
static bool hear(int fd, char *out, size_t cap) {
    double end = cli_seconds() + TRIAL_MS / 1000.0;
    size_t n = 0;
    for (;;) {
        char rest[256];
        struct pollfd p = {.fd = fd, .events = POLLIN};
        double left = end - cli_seconds();
        out[n] = 0;
        if (left <= 0)
            return false;
        if (poll(&p, 1, (int)(left * 1000) + 1) <= 0)
            continue;
        bool full = n + 1 >= cap;
        ssize_t got = full ? read(fd, rest, sizeof rest) : read(fd, out + n, cap - 1 - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return true;
        n += full ? 0 : (size_t)got;
    }
}

static tnl_status judge(const char *dir, const char *said, bool in_time, int status,
                        tnl_error *err) {
    const size_t prefix = sizeof program - 1;
    int code = in_time && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    /* a program without a tokenizer has nothing to try, and opens none */
    if (code == 0 || code == tnl_status_exit_code(TNL_E_UNSUPPORTED))
        return TNL_OK;
    if (in_time && strncmp(said, program, prefix) == 0 && said[prefix] == ':')
        return tnl_fail(err, TNL_E_DATA, "%.*s", (int)strcspn(said + prefix + 2, "\n"),
                        said + prefix + 2);
    return tnl_fail(err, TNL_E_DATA, "%s: a trial of the tokenizer %s", dir,
                    in_time ? "crashed" : "did not end");
}

tnl_status cli_try_tokenizer(const char *dir, tnl_error *err) {
    char said[sizeof err->msg + 32];
    int fd[2], status = 0;
    pid_t pid;
    if (pipe2(fd, O_CLOEXEC) != 0)
        return tnl_fail(err, TNL_E_IO, "pipe: %s", strerror(errno));
    int rc = spawn(&pid, dir, fd[1]);
    close(fd[1]);
    if (rc != 0) {
        close(fd[0]);
        return tnl_fail(err, TNL_E_IO, "cannot start a trial of the tokenizer: %s", strerror(rc));
    }
    bool in_time = hear(fd[0], said, sizeof said);
    close(fd[0]);
    if (!in_time)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return judge(dir, said, in_time, status, err);
}
