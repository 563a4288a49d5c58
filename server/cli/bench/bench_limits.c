/* The two processes beside `tnl bench`: one that measures the machine when asked to, and a busy
 * neighbour. Both end with the parent: the first reads the end of its socket, the second is killed
 * by the system. */
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/cli/bench/bench.h"

struct bench_limits {
    pid_t child;
    int fd;
};

typedef struct question {
    bool choose;
    int threads; /* choose */
    kn_peaks peaks;
    kn_limit kind;
    double seconds;
} question;

typedef struct answer {
    tnl_status status;
    tnl_error err;
    double rate;
    kn_peaks peaks; /* the names are literals: the same addresses in parent and child */
} answer;

/* ---- the child ---- */

static void reply(kn_limits *l, const question *q, answer *a) {
    memset(a, 0, sizeof *a);
    if (q->choose)
        kn_limits_choose(l, &a->peaks, q->threads, q->seconds);
    else
        a->rate = kn_limits_slice(l, &q->peaks, q->kind, q->seconds);
}

static void serve_limits(int fd, int max_threads) {
    kn_limits *l = NULL;
    answer a;
    question q;
    memset(&a, 0, sizeof a);
    a.status = kn_limits_open(&l, max_threads, NULL, 0, &a.err);
    if (send(fd, &a, sizeof a, MSG_NOSIGNAL) != (ssize_t)sizeof a || a.status != TNL_OK)
        _exit(1);
    while (recv(fd, &q, sizeof q, 0) == (ssize_t)sizeof q) {
        reply(l, &q, &a);
        if (send(fd, &a, sizeof a, MSG_NOSIGNAL) != (ssize_t)sizeof a)
            break;
    }
    _exit(0);
}

/* ---- the parent ---- */

static tnl_status hear(bench_limits *l, answer *a, tnl_error *err) {
    if (recv(l->fd, a, sizeof *a, 0) != (ssize_t)sizeof *a)
        return tnl_fail(err, TNL_E_INTERNAL, "measuring the machine failed");
    if (a->status != TNL_OK)
        return tnl_fail(err, a->status, "%s", a->err.msg);
    return TNL_OK;
}

static tnl_status ask(bench_limits *l, const question *q, answer *a, tnl_error *err) {
    if (send(l->fd, q, sizeof *q, MSG_NOSIGNAL) != (ssize_t)sizeof *q)
        return tnl_fail(err, TNL_E_INTERNAL, "measuring the machine failed");
    return hear(l, a, err);
}

tnl_status bench_limits_open(bench_limits **out, int max_threads, tnl_error *err) {
    int fd[2];
    answer a;
    bench_limits *l = *out = calloc(1, sizeof *l);
    if (!l)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd)) {
        l->fd = -1;
        return tnl_fail(err, TNL_E_IO, "cannot make a pair of sockets");
    }
    l->fd = fd[0];
    l->child = fork();
    if (l->child == 0) {
        close(fd[0]);
        serve_limits(fd[1], max_threads);
    }
    close(fd[1]);
    if (l->child < 0)
        return tnl_fail(err, TNL_E_UNAVAILABLE, "cannot start a process");
    return hear(l, &a, err);
}

void bench_limits_close(bench_limits *l) {
    if (!l)
        return;
    if (l->fd >= 0)
        close(l->fd);
    if (l->child > 0)
        waitpid(l->child, NULL, 0);
    free(l);
}

tnl_status bench_limits_choose(bench_limits *l, kn_peaks *out, int threads, double seconds,
                               tnl_error *err) {
    answer a;
    question q;
    memset(&q, 0, sizeof q);
    q.choose = true;
    q.threads = threads;
    q.seconds = seconds;
    TNL_TRY(ask(l, &q, &a, err));
    *out = a.peaks;
    return TNL_OK;
}

tnl_status bench_limits_slice(bench_limits *l, double *rate, const kn_peaks *p, kn_limit kind,
                              double seconds, tnl_error *err) {
    answer a;
    question q;
    memset(&q, 0, sizeof q);
    q.peaks = *p;
    q.kind = kind;
    q.seconds = seconds;
    TNL_TRY(ask(l, &q, &a, err));
    *rate = a.rate;
    return TNL_OK;
}

/* ---- the neighbour ---- */

static void be_busy(pid_t parent, int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent ||
        sched_setaffinity(0, sizeof set, &set))
        _exit(1);
    raise(SIGSTOP);
    for (volatile uint64_t x = 1;;)
        x = x * UINT64_C(6364136223846793005) + 1;
}

tnl_status bench_neighbour_open(bench_neighbour *n, tnl_error *err) {
    cpu_set_t set;
    int cpu = -1, policy = sched_getscheduler(0), status = 0;
    n->pid = 0;
    if (policy != SCHED_OTHER)
        return tnl_fail(err, TNL_E_USAGE, "--neighbour: only under the ordinary scheduling policy");
    if (sched_getaffinity(0, sizeof set, &set))
        return tnl_fail(err, TNL_E_UNAVAILABLE, "cannot ask for our processors");
    for (int i = 0; i < CPU_SETSIZE; i++)
        cpu = CPU_ISSET(i, &set) ? i : cpu;
    pid_t parent = getpid(), child = fork();
    if (child == 0)
        be_busy(parent, cpu);
    if (child < 0 || waitpid(child, &status, WUNTRACED) != child || !WIFSTOPPED(status))
        return tnl_fail(err, TNL_E_UNAVAILABLE, "cannot start a neighbour on processor %d", cpu);
    n->pid = child;
    return TNL_OK;
}

void bench_neighbour_wake(const bench_neighbour *n, bool busy) {
    if (n->pid > 0)
        kill(n->pid, busy ? SIGCONT : SIGSTOP);
}

void bench_neighbour_close(bench_neighbour *n) {
    if (n->pid > 0) {
        kill(n->pid, SIGKILL);
        waitpid(n->pid, NULL, 0);
    }
    n->pid = 0;
}
