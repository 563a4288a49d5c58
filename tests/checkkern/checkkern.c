/* Entry point: options, and the parts in order. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/checkkern/ck.h"

static const char usage[] =
    "usage: checkkern [--isa NAME] [--filter TEXT] [--seed N] [--rounds N] [--bench]\n"
    "  --isa     check (or time) this instruction set only: ref, avx2, avxvnni,\n"
    "            avx512, avx512vnni\n"
    "  --filter  only tests whose name contains TEXT (dot, qdot, linear, linattn, ...)\n"
    "  --seed    repeat a run; default: the time\n"
    "  --rounds  run all checks so many times\n"
    "  --bench   time instead of check\n";

static void pick_isas(ck *k, const char *only) {
    k->n_isas = kn_dsp_available(k->isas, CK_MOST_ISAS);
    if (!only)
        return;
    tnl_error err;
    kn_dsp d;
    if (kn_dsp_init(&d, only, &err) != TNL_OK) {
        fprintf(stderr, "checkkern: %s\n", err.msg);
        exit(2);
    }
    k->isas[0] = d.isa;
    k->n_isas = 1;
}

static ck *running; /* for the handler */

/* A body read or wrote where it must not: say which. */
static void on_fault(int sig) {
    char text[160];
    int n =
        snprintf(text, sizeof text, "FAIL %s %s: signal %d: memory out of bounds (--seed %llu)\n",
                 running->test ? running->test : "", running->isa ? running->isa : "", sig,
                 (unsigned long long)running->seed);
    if (write(STDOUT_FILENO, text, (size_t)n) < 0)
        _exit(2);
    _exit(1);
}

static void check_all(ck *k) {
    ck_check_open(k);
    ck_check_pool(k);
    ck_check_dots(k);
    ck_check_outer(k);
    ck_check_rows(k);
    ck_check_act(k);
    ck_check_lrpe(k);
    ck_check_packed(k);
    ck_check_linear(k);
    ck_check_simple_ops(k);
    ck_check_linattn(k);
}

int main(int argc, char **argv) {
    static ck k;
    const char *isa = NULL;
    long rounds = 1;
    k.seed = (uint64_t)time(NULL);
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(a, "--bench") == 0)
            k.bench = true;
        else if (strcmp(a, "--isa") == 0 && value)
            isa = value, i++;
        else if (strcmp(a, "--filter") == 0 && value)
            k.filter = value, i++;
        else if (strcmp(a, "--seed") == 0 && value)
            k.seed = strtoull(value, NULL, 10), i++;
        else if (strcmp(a, "--rounds") == 0 && value)
            rounds = strtol(value, NULL, 10), i++;
        else {
            fputs(usage, stderr);
            return 2;
        }
    }
    k.rng = k.seed;
    pick_isas(&k, isa);
    if (k.bench) {
        ck_bench_all(&k);
        return 0;
    }
    running = &k;
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    for (long r = 0; r < rounds; r++)
        check_all(&k);
    printf("checkkern: %ld cases, %ld failures, seed %llu, instruction sets:", k.cases, k.failures,
           (unsigned long long)k.seed);
    for (int i = 0; i < k.n_isas; i++)
        printf(" %s", k.isas[i]);
    printf("\n");
    return k.failures || !k.cases ? 1 : 0;
}
