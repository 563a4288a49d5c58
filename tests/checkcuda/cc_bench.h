/* What the parts of `checkcuda --bench` share. Each part prints one JSON object a line, for
 * tests/bench/gpu_targets, which holds them against the limits and the targets. */
#ifndef TNL_CHECKCUDA_BENCH_H
#define TNL_CHECKCUDA_BENCH_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

/* Seconds of one call, which launches and does not wait: the median of several runs, each long
 * enough to be timed by the device's own clock. */
double ccb_seconds(void (*fn)(void *ctx), void *ctx);

/* Device memory full of random numbers, finite as bf16 and as f32 and of size about one; power, and
 * so the clock, depends on what is computed with. */
void *ccb_numbers(size_t bytes);

/* Ends the program with what is wrong; NULL: nothing is. */
void ccb_must(const char *error);

/* Bytes that a row goes through before it meets the same memory again: more than a cache has. */
size_t ccb_round_bytes(void);

/* Prints a line's end, {"test":"NAME", has been printed: seconds, and what else is not 0. */
void ccb_end_line(double seconds, double bytes, double ops);

void ccb_limits(void);    /* cc_bench.c: copy, mma, blaslt */
void ccb_attention(void); /* cc_bench_attention.c: attention_prefill, attention_step */
void ccb_products(void);  /* cc_bench_products.c: product */
void ccb_prompts(void);   /* cc_bench_prompts.c: prompt_product */
void ccb_pick(void);      /* cc_pick.c: pick */

#endif
