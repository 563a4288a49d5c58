/* Entry point of checkcuda: options, random numbers, counting. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/log.h"
#include "tests/checkcuda/cc.h"

enum { NO_DEVICE = 77 }; /* Meson: skipped */

static const char usage[] = "usage: checkcuda [--filter TEXT] [--seed N] [--rounds N]\n"
                            "       checkcuda --bench\n"
                            "  --filter  only tests whose name contains TEXT\n"
                            "  --seed    repeat a run; default: the time\n"
                            "  --rounds  run all checks so many times\n"
                            "Exit status 77: there is no device.\n";

uint64_t cc_random(cc *c) {
    uint64_t z = (c->rng += 0x9E3779B97F4A7C15u); /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

int64_t cc_between(cc *c, int64_t lo, int64_t hi) {
    return lo + (int64_t)(cc_random(c) % (uint64_t)(hi - lo + 1));
}

double cc_uniform(cc *c) {
    return (double)(cc_random(c) >> 11) * 0x1p-53;
}

double cc_normal(cc *c) {
    double s = 0;
    for (int i = 0; i < 6; i++)
        s += cc_uniform(c) - 0.5;
    return s * 1.4142135623730951;
}

bool cc_section(cc *c, const char *name) {
    if (c->filter && !strstr(name, c->filter))
        return false;
    c->test = name;
    return true;
}

bool cc_expect(cc *c, bool ok, const char *fmt, ...) {
    c->cases++;
    if (ok)
        return true;
    if (++c->failures <= 50) {
        va_list args;
        va_start(args, fmt);
        printf("FAIL %s ", c->test);
        vprintf(fmt, args);
        printf(" (--seed %llu)\n", (unsigned long long)c->seed);
        va_end(args);
    }
    return false;
}

static bool parse(cc *c, int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "--bench") == 0)
        return c->bench = true;
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!value)
            return false;
        if (strcmp(argv[i], "--filter") == 0)
            c->filter = value;
        else if (strcmp(argv[i], "--seed") == 0)
            c->seed = strtoull(value, NULL, 10);
        else if (strcmp(argv[i], "--rounds") == 0)
            c->rounds = (int)strtol(value, NULL, 10);
        else
            return false;
    }
    return true;
}

int main(int argc, char **argv) {
    cc c = {.seed = (uint64_t)time(NULL), .rounds = 1};
    if (!parse(&c, argc, argv)) {
        fputs(usage, stderr);
        return 2;
    }
    const char *none = cc_place_open(c.seed);
    if (none) {
        fprintf(stderr, "checkcuda: %s\n", none);
        return NO_DEVICE;
    }
    if (c.bench) {
        cc_bench();
        return 0;
    }
    c.rng = c.seed;
    tnl_log_setup(TNL_LOG_ERROR, false); /* what is missing on purpose */
    for (int r = 0; r < c.rounds; r++) {
        cc_check_rows(&c);
        cc_check_pick(&c);
        cc_check_linear(&c);
        cc_check_linattn(&c);
        cc_check_blaslt(&c);
        cc_check_prompt(&c);
    }
    printf("checkcuda: %ld cases, %ld failures, seed %llu, %s\n", c.cases, c.failures,
           (unsigned long long)c.seed, cc_place_name());
    return c.failures || !c.cases ? 1 : 0;
}
