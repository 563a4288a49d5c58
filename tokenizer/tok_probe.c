/* The child answers over a pipe: 'k' when all went well, 'e' and a line when the library refused.
 * Anything else (end of file, silence) means that it died or hangs; the pipe is believed rather
 * than the exit status, because a host program may ignore SIGCHLD. */
#include "tokenizer/tok_probe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tokenizer/tok_spm.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

enum {
    PROBE_CPU_SECONDS = 20,
    PROBE_WALL_MS = 60000,
    PROBE_LETTERS = 8192,
};

static const char *const samples[] = {
    "",
    " ",
    "Once upon a time there was a king who had three daughters.",
    "  two  spaces \t\n a tab, \r\n line ends   ",
    "0123456789 3.1415926 1e-9 </s> <s> <unk> <0x0A>",
    "\xC3\xA9t\xC3\xA9 na\xC3\xAFve \xE2\x82\xAC 100 \xE4\xBD\xA0\xE5\xA5\xBD\xEF\xBC\x8C"
    "\xE4\xB8\x96\xE7\x95\x8C \xD8\xA7\xD9\x84\xD8\xB3\xD9\x84\xD8\xA7\xD9\x85 \xEF\xB7\xBA",
    "\xF0\x9F\x98\x80\xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA9 e\xCC\x81\xCC\x82\xCC\x83 "
    "\xE2\x96\x81\xE2\x96\x81 \xEF\xBF\xBD",
};

/* ---- the child ---- */

static size_t mapped_bytes(void) {
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f) {
        if (fscanf(f, "%lu", &pages) != 1)
            pages = 0;
        fclose(f);
    }
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void limit_self(size_t mapped) {
    struct rlimit cpu = {PROBE_CPU_SECONDS, PROBE_CPU_SECONDS}, core = {0, 0};
    setrlimit(RLIMIT_CPU, &cpu);
    setrlimit(RLIMIT_CORE, &core);
#ifdef SANITIZED
    (void)mapped; /* shadow memory needs terabytes of address space */
#else
    size_t bytes = mapped + ((size_t)4 << 30); /* beyond what the parent has mapped */
    struct rlimit as = {bytes, bytes};
    setrlimit(RLIMIT_AS, &as);
#endif
}

static tnl_status encode_sample(const tok_spm *spm, const char *text, size_t n, tnl_error *err) {
    int32_t *ids;
    size_t n_ids;
    TNL_TRY(tok_spm_encode(spm, text, n, &ids, &n_ids, err));
    free(ids);
    return TNL_OK;
}

static tnl_status try_model(const uint8_t *proto, size_t n, const char *sample, size_t n_sample,
                            tnl_error *err) {
    tok_spm *spm;
    TNL_TRY(tok_spm_open(&spm, proto, n, err));
    for (size_t i = 0; i < sizeof samples / sizeof samples[0]; i++)
        TNL_TRY(encode_sample(spm, samples[i], strlen(samples[i]), err));
    static char letters[PROBE_LETTERS]; /* the child's own copy; it exits after this */
    memset(letters, 'a', sizeof letters);
    TNL_TRY(encode_sample(spm, letters, sizeof letters, err));
    TNL_TRY(encode_sample(spm, sample, n_sample, err));
    tok_spm_close(spm);
    return TNL_OK;
}

static void put_all(int fd, const char *p, size_t n) {
    while (n > 0) {
        ssize_t w = write(fd, p, n);
        if (w <= 0)
            return;
        p += w;
        n -= (size_t)w;
    }
}

static _Noreturn void child_main(int fd, size_t mapped, const uint8_t *proto, size_t n,
                                 const char *sample, size_t n_sample) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* A crash here is expected news, not a stack trace on the terminal. */
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGXCPU};
    for (size_t i = 0; i < sizeof fatal / sizeof fatal[0]; i++)
        signal(fatal[i], SIG_DFL);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
    }
    limit_self(mapped);
    tnl_error err = {TNL_OK, ""};
    if (try_model(proto, n, sample, n_sample, &err) == TNL_OK) {
        put_all(fd, "k", 1);
    } else {
        put_all(fd, "e", 1);
        put_all(fd, err.msg, strlen(err.msg));
    }
    _exit(0);
}

/* ---- the parent ---- */

static int64_t now_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Read until end of file or the deadline; NUL-terminates. Returns false on the deadline. */
static bool read_answer(int fd, char *buf, size_t cap) {
    int64_t deadline = now_ms() + PROBE_WALL_MS;
    size_t n = 0;
    for (;;) {
        buf[n] = '\0';
        int64_t left = deadline - now_ms();
        if (left <= 0)
            return false;
        struct pollfd p = {fd, POLLIN, 0};
        int r = poll(&p, 1, (int)left);
        if (r <= 0)
            continue; /* interrupted, or the deadline: tested above */
        ssize_t got = read(fd, buf + n, cap - 1 - n);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (got <= 0)
            return true;
        n += (size_t)got;
    }
}

static tnl_status judge(const char *answer, bool in_time, int wait_status, tnl_error *err) {
    if (answer[0] == 'k')
        return TNL_OK;
    if (answer[0] == 'e')
        return tnl_fail(err, TNL_E_DATA, "%s", answer + 1);
    if (!in_time)
        return tnl_fail(err, TNL_E_DATA, "trial load did not finish in %d s", PROBE_WALL_MS / 1000);
    if (WIFSIGNALED(wait_status))
        return tnl_fail(err, TNL_E_DATA, "trial load crashed the tokenizer library (signal %d)",
                        WTERMSIG(wait_status));
    return tnl_fail(err, TNL_E_DATA, "trial load ended inside the tokenizer library (status %d)",
                    WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : -1);
}

tnl_status tok_probe(const uint8_t *proto, size_t n, const char *sample, size_t n_sample,
                     tnl_error *err) {
    int fd[2];
    if (pipe2(fd, O_CLOEXEC) != 0)
        return tnl_fail(err, TNL_E_IO, "trial load: pipe: %s", strerror(errno));
    size_t mapped = mapped_bytes();
    pid_t pid = fork();
    if (pid < 0) {
        int e = errno;
        close(fd[0]);
        close(fd[1]);
        return tnl_fail(err, TNL_E_IO, "trial load: fork: %s", strerror(e));
    }
    if (pid == 0) {
        close(fd[0]);
        child_main(fd[1], mapped, proto, n, sample, n_sample);
    }
    close(fd[1]);
    char answer[sizeof err->msg + 2];
    bool in_time = read_answer(fd[0], answer, sizeof answer);
    close(fd[0]);
    if (!in_time)
        kill(pid, SIGKILL);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return judge(answer, in_time, status, err);
}
