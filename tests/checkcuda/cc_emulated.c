/* Kernels run on the host: device memory is exact allocations that an address sanitizer watches. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/checkcuda/cc.h"
#include "tests/checkcuda/runtime_emulated.h"

void emu_seed_c(uint64_t seed);

const char *cc_place_open(uint64_t seed) {
    emu_seed_c(seed);
    return NULL;
}

const char *cc_place_name(void) {
    return "emulated on the host";
}

size_t cc_shared_bytes(void) {
    return 163 << 10; /* compute capability 8.0 */
}

int cc_processors(void) {
    return 2;
}

bool cc_emulated(void) {
    return true;
}

void *cc_device(size_t bytes) {
    return cc_device_fill(bytes, 0xFF);
}

void cc_device_move(void *to, const void *from, size_t bytes) {
    memcpy(to, from, bytes);
}

void *cc_device_fill(size_t bytes, int byte) {
    void *p = NULL;
    if (posix_memalign(&p, 256, bytes ? bytes : 1) != 0) {
        fprintf(stderr, "checkcuda: no memory\n");
        exit(2);
    }
    memset(p, byte, bytes);
    return p;
}

void *cc_device_copy(const void *host, size_t bytes) {
    void *p = cc_device(bytes);
    memcpy(p, host, bytes);
    return p;
}

void cc_fetch(void *host, const void *device, size_t bytes) {
    memcpy(host, device, bytes);
}

struct fake_lt_state *cc_fake_lt(void) {
    setenv("TNL_CUBLASLT", TNL_FAKE_LT, 1);
    void *library = dlopen(TNL_FAKE_LT, RTLD_NOW | RTLD_LOCAL);
    struct fake_lt_state *state = library ? dlsym(library, "fake_lt") : NULL;
    if (state)
        return state;
    fprintf(stderr, "checkcuda: cannot load %s\n", TNL_FAKE_LT);
    exit(2);
}

void cc_fail_allocation(int n) {
    emu_runtime.allocations = n;
}

void cc_device_free(void *p) {
    free(p);
}

const char *cc_sync(void) {
    return NULL;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double cc_time(void (*fn)(void *ctx), void *ctx, int64_t calls) {
    const double begin = now();
    for (int64_t i = 0; i < calls; i++)
        fn(ctx);
    const double took = now() - begin;
    return took > 1e-9 ? took : 1e-9;
}
