/* The SIGBUS handler. File-scope state is unavoidable here: a handler gets no argument. */
#include "server/http/guard.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

enum { GUARDED = 8 }; /* models in memory at once, the server keeps to fewer */
static _Atomic(const mdl_tensors *) guarded[GUARDED];

static bool as_json; /* set before the handler is installed */

static void say(const char *text) {
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        return;
}

static void say_path(const char *path) {
    for (; *path; path++) {
        bool plain = (unsigned char)*path >= 0x20 && *path != '"' && *path != '\\';
        if (write(STDERR_FILENO, plain ? path : "?", 1) < 0)
            return;
    }
}

/* Async-signal-safe calls only. */
static void on_sigbus(int sig, siginfo_t *info, void *context) {
    (void)sig, (void)context;
    const char *file = NULL;
    bool any = false;
    for (int i = 0; i < GUARDED && !file; i++) {
        const mdl_tensors *t = atomic_load(&guarded[i]);
        any |= t != NULL;
        file = t ? mdl_tensors_file_of(t, info->si_addr) : NULL;
    }
    say(as_json ? "{\"level\":\"error\",\"msg\":\"" : "");
    say("tnl: a mapped file was cut or could not be read while in use: ");
    if (file)
        say_path(file);
    else
        say(any ? "(none of the weight files)" : "(a weight file, while loading)");
    say(as_json ? "\"}\n" : "\n");
    _exit(74);
}

void srv_guard_install(bool json) {
    as_json = json;
    struct sigaction sa;
    memset(&sa, 0, sizeof sa);
    sa.sa_sigaction = on_sigbus;
    sa.sa_flags = SA_SIGINFO;
    sigemptyset(&sa.sa_mask);
    sigaction(SIGBUS, &sa, NULL);
}

void srv_guard_watch(const mdl_tensors *t) {
    for (int i = 0; i < GUARDED; i++) {
        const mdl_tensors *none = NULL;
        if (atomic_compare_exchange_strong(&guarded[i], &none, t))
            return;
    }
}

void srv_guard_forget(const mdl_tensors *t) {
    for (int i = 0; i < GUARDED; i++) {
        const mdl_tensors *mine = t;
        if (atomic_compare_exchange_strong(&guarded[i], &mine, NULL))
            return;
    }
}
