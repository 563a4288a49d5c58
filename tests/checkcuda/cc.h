/* checkcuda: holds the kernels of kernels/cuda to float64 references. One set of checks runs in two
 * places: on a device (cc_gpu.c) and on the host, with device code compiled for it
 * (cc_emulated.c, emulate.cuh). */
#ifndef TNL_CHECKCUDA_H
#define TNL_CHECKCUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct cc {
    uint64_t seed, rng;
    const char *filter, *test;
    int rounds;
    bool bench;
    long cases, failures;
} cc;

uint64_t cc_random(cc *c);
int64_t cc_between(cc *c, int64_t lo, int64_t hi); /* both included */
double cc_uniform(cc *c);                          /* [0, 1) */
double cc_normal(cc *c);
bool cc_section(cc *c, const char *name);

/* Counts a case; prints the message of a failed one. */
__attribute__((format(printf, 3, 4))) bool cc_expect(cc *c, bool ok, const char *fmt, ...);

/* ---- the place where kernels run ---- */

/* Opens it. NULL, or why there is none. */
const char *cc_place_open(uint64_t seed);
const char *cc_place_name(void);
size_t cc_shared_bytes(void); /* that a block may have */
int cc_processors(void);
/* Memory of the device, every byte 0xFF: a NaN in each element type. Ends the program without. */
void *cc_device(size_t bytes);
void *cc_device_copy(const void *host, size_t bytes);
void cc_fetch(void *host, const void *device, size_t bytes); /* waits for kernels */
void *cc_device_fill(size_t bytes, int byte);
void cc_device_move(void *to, const void *from, size_t bytes); /* not waited for */
bool cc_emulated(void);
void cc_device_free(void *p);
/* Puts the library of fake_lt.c in the place of cuBLASLt; NULL on a device, which has its own. */
struct fake_lt_state *cc_fake_lt(void);
/* The n-th allocation of kernels/cuda/runtime_cuda.h from now fails; on the host only. */
void cc_fail_allocation(int n);
/* Waits for kernels; NULL or the device's error. */
const char *cc_sync(void);
/* Seconds that so many calls of fn(ctx), which launch kernels, took by the device's clock. */
double cc_time(void (*fn)(void *ctx), void *ctx, int64_t calls);

/* ---- the parts ---- */
void cc_check_linattn(cc *c);
void cc_check_blaslt(cc *c);
void cc_check_prompt(cc *c);
void cc_check_linear(cc *c);
void cc_check_rows(cc *c);
void cc_check_pick(cc *c);
void cc_bench(void);

#endif
