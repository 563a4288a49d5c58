/* What the property tests share: tiny random models of both forms, a seeded generator, a run of one
 * sequence alone token by token (the oracle of every comparison), and poison.
 *
 * All comparisons are of bits. The seed is printed; TNL_SEED changes it. */
#ifndef TNL_TESTS_PROP_H
#define TNL_TESTS_PROP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/forward.h"

/* ---- generator ---- */

uint64_t prop_seed(void); /* of this process; printed on first use */

typedef struct prop_rng {
    uint64_t s;
} prop_rng;

uint64_t prop_next(prop_rng *r);
int64_t prop_below(prop_rng *r, int64_t n); /* 0..n-1 */
double prop_uniform(prop_rng *r);           /* [0, 1) */
double prop_normal(prop_rng *r);

/* ---- models ---- */

typedef struct prop_case {
    const char *label;
    bool v3; /* low-rank gate, activation on v */
    kn_dtype dtype;
    const char *isa; /* NULL: whatever this machine's best is */
    int layers, width, heads, head_dim, glu, vocab;
} prop_case;

/* This machine has the instruction set, and TNL_CPU asks for no other. */
bool prop_isa(const char *isa);

/* v2 without LayerNorm and biases, v3 with both; f32 and bf16, small odd shapes and one that is
 * wider than a cache tile, on every instruction set of this machine. */
const prop_case *prop_cases(int *n);

typedef struct prop_model {
    mdl_model *m;
    mdl_ctx *ctx;
    int64_t vocab;
    int block;
} prop_model;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PROP_SANITIZED true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
#define PROP_SANITIZED true
#endif
#endif
#ifndef PROP_SANITIZED
#define PROP_SANITIZED false
#endif

enum { PROP_MAX_TOKENS = 2048, PROP_SEQUENCE = PROP_SANITIZED ? 150 : 400 };

/* Fails the test when the model does not open. */
prop_model prop_open(const prop_case *c, int threads);
prop_model prop_open_sized(const prop_case *c, int threads, int64_t max_tokens);
void prop_close(prop_model *p);

mdl_state *prop_state(const prop_model *p);
void prop_drop(const prop_model *p, mdl_state *s);

/* ---- sequences and runs ---- */

void prop_tokens(prop_rng *r, int32_t *tokens, int64_t n, int64_t vocab);

/* A sequence and what it must give: logits of every position and the state at the end. */
typedef struct prop_run {
    int32_t *tokens; /* [n] */
    int64_t n;
    float *logits; /* [n][V] */
    void *state;   /* exported */
} prop_run;

/* Random tokens, run alone one by one. */
prop_run prop_oracle(const prop_model *p, prop_rng *r, int64_t n);
/* The same for given tokens (copied). */
prop_run prop_oracle_of(const prop_model *p, const int32_t *tokens, int64_t n);
void prop_run_free(prop_run *run);

/* One segment; fails the test when the step fails. Returns the segment with its results. */
mdl_seg prop_step(const prop_model *p, mdl_state *s, const int32_t *tokens, int64_t n,
                  mdl_want want);

/* Fail unless the rows of `seg`, tokens first..first+n-1 of the sequence, are the oracle's. */
void prop_same_rows(const prop_model *p, const prop_run *want, int64_t first, const mdl_seg *seg,
                    const char *what);
/* Fail unless the state's canonical bytes are these. */
void prop_same_state(const prop_model *p, const void *want, const mdl_state *s, const char *what);
void *prop_export(const prop_model *p, const mdl_state *s);

/* ---- poison: NaN into everything that must not be read ---- */

/* Pending rows that are not in use. */
void prop_poison_unused(const prop_model *p, mdl_state *s);
/* Equal to the last byte, in use or not. */
void prop_same_memory(const prop_model *p, const mdl_state *a, const mdl_state *b);
/* The whole state, as a slot that was never cleared. */
void prop_poison_state(const prop_model *p, mdl_state *s);
/* Working memory between steps. */
void prop_poison_ctx(const prop_model *p);

/* One element of a state: matrix element (row, col) of a head, or of a pending row. */
typedef enum prop_part { PROP_S, PROP_K, PROP_V } prop_part;
float *prop_element(const prop_model *p, mdl_state *s, int layer, int head, prop_part part, int row,
                    int col);

#endif
