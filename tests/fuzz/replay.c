/* Runs a fuzz target without libFuzzer: every file of the folders given, the empty input, and a
 * fixed number of mutants of each file (TNL_FUZZ_MUTANTS, default 200).
 *
 * On a crash the input is in ./replay-crash.bin and its origin on stderr: the name of the file, the
 * number of the mutant and the seed. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"

#pragma weak LLVMFuzzerInitialize

enum { MAX_FILE = 8 << 20 };

/* Read by the crash handler. */
static const uint8_t *current;
static size_t current_n;
static char origin[4200];

static void say(const char *s) {
    if (write(STDERR_FILENO, s, strlen(s)) < 0)
        return;
}

static void on_crash(int sig) {
    say("replay: crash on ");
    say(origin);
    say(", input in replay-crash.bin\n");
    int fd = open("replay-crash.bin", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd >= 0 && write(fd, current, current_n) >= 0)
        close(fd);
    signal(sig, SIG_DFL);
    raise(sig);
}

static void run_one(const uint8_t *data, size_t n) {
    /* A copy of the exact size: a sanitizer sees a read past the end. */
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy)
        abort();
    if (n > 0)
        memcpy(copy, data, n);
    current = copy;
    current_n = n;
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

static uint64_t next_random(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* Change a few places of p[0..n); returns the new length, at most cap. */
static size_t mutate(uint8_t *p, size_t n, size_t cap, uint64_t *seed) {
    static const uint8_t odd[] = {0, 1, 0x7F, 0x80, 0xFF, '"', '\\', '{', '[', '-', '9', 'e'};
    for (uint64_t k = next_random(seed) % 4 + 1; k > 0; k--) {
        size_t at = n ? next_random(seed) % n : 0, len = next_random(seed) % 8 + 1;
        switch (next_random(seed) % 6) {
        case 0: /* cut */
            n = at;
            break;
        case 1: /* remove */
            len = len < n - at ? len : n - at;
            memmove(p + at, p + at + len, n - at - len);
            n -= len;
            break;
        case 2: /* repeat */
            if (n + len <= cap && at + len <= n) {
                memmove(p + at + len, p + at, n - at);
                n += len;
            }
            break;
        case 3:
            if (n > 0)
                p[at] ^= (uint8_t)(1u << next_random(seed) % 8);
            break;
        case 4:
            if (n > 0)
                p[at] = odd[next_random(seed) % sizeof odd];
            break;
        default:
            if (n > 0)
                p[at] = (uint8_t)next_random(seed);
            break;
        }
    }
    return n;
}

static void run_file(const char *path, const uint8_t *data, size_t n, long mutants) {
    snprintf(origin, sizeof origin, "%s", path);
    run_one(data, n);
    size_t cap = n + 64;
    uint8_t *work = malloc(cap);
    if (!work)
        abort();
    for (long i = 0; i < mutants; i++) {
        uint64_t seed = 0x9E3779B97F4A7C15u * (uint64_t)(i + 1);
        snprintf(origin, sizeof origin, "%s, mutant %ld", path, i);
        if (n > 0)
            memcpy(work, data, n);
        run_one(work, mutate(work, n, cap, &seed));
    }
    free(work);
}

static int read_and_run(const char *path, uint8_t *buf, long mutants) {
    FILE *f = fopen(path, "rb");
    if (!f)
        return -1;
    size_t n = fread(buf, 1, MAX_FILE, f);
    fclose(f);
    run_file(path, buf, n, mutants);
    return 0;
}

/* Returns the number of files run, or -1. */
static long run_folder(const char *folder, uint8_t *buf, long mutants) {
    DIR *d = opendir(folder);
    if (!d)
        return -1;
    long files = 0;
    for (struct dirent *e; (e = readdir(d));) {
        char path[4096];
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (read_and_run(path, buf, mutants) == 0)
            files++;
    }
    closedir(d);
    return files;
}

int main(int argc, char **argv) {
    const char *env = getenv("TNL_FUZZ_MUTANTS");
    long mutants = env ? strtol(env, NULL, 10) : 200, total = 0;
    uint8_t *buf = malloc(MAX_FILE);
    if (!buf || argc < 2) {
        fprintf(stderr, "usage: %s CORPUS_FOLDER...\n", argv[0]);
        return 2;
    }
    signal(SIGABRT, on_crash);
    signal(SIGSEGV, on_crash);
    if (LLVMFuzzerInitialize)
        LLVMFuzzerInitialize(&argc, &argv);
    snprintf(origin, sizeof origin, "the empty input");
    run_one(NULL, 0);
    for (int i = 1; i < argc; i++) {
        long files = run_folder(argv[i], buf, mutants);
        if (files <= 0) {
            fprintf(stderr, "%s: no inputs\n", argv[i]);
            return 1;
        }
        total += files;
    }
    printf("%ld files, %ld mutants each\n", total, mutants);
    free(buf);
    return 0;
}
