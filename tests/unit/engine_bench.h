/* Harness of the engine tests: answers collected from events, random requests; and (fake_bench.c)
 * an engine over the fake model. */
#ifndef TNL_TESTS_ENGINE_BENCH_H
#define TNL_TESTS_ENGINE_BENCH_H

#include "fake_model.h"

typedef struct bench {
    mdl_model *m;
    tok_model *t;
    eng_engine *e;
    eng_open_params o;
} bench;

/* ---- fake_bench.c ---- */

/* Pieces read "abc..." from id 3 on, so that a chained answer is a run of letters. */
void bench_open(bench *b, int parallel, int queue, int64_t step_tokens);
/* With the engine's speculate and row_cost given. */
void bench_open_guessing(bench *b, int parallel, int queue, int64_t step_tokens, int speculate,
                         double row_cost);
void bench_open_with(bench *b, int parallel, int queue, int64_t step_tokens, int speculate,
                     double row_cost, size_t prefix_cache);
void bench_close(bench *b);

/* ---- engine_bench.c: any model ---- */

/* accepted = ended + running + queued, at any moment */
void check_identity(eng_engine *e);
/* Until the gauges are these. */
void wait_running(bench *b, int running, int queued);

enum { ANSWER_MAX = 4096 };

typedef struct answer {
    int64_t n, n_prompt_events;
    int32_t id[ANSWER_MAX];
    float logprob[ANSWER_MAX];
    eng_alt first_alt[ANSWER_MAX];
    char text[3 * ANSWER_MAX];
    size_t text_len;
    eng_event done;
} answer;

/* All events to the end; free() the answer. */
answer *read_all(eng_request *r);
/* For somebody else than key 0. */
eng_request *submit_as(bench *b, uint64_t key, const eng_params *p, const int32_t *tokens,
                       size_t n);
eng_request *submit(bench *b, const eng_params *p, const int32_t *tokens, size_t n);
/* Submit, read, release. */
answer *run_one(bench *b, const eng_params *p, const int32_t *tokens, size_t n);

bool same_floats(const float *a, const float *b, int64_t n); /* bits */
void assert_same_answer(const answer *a, const answer *b);

void greedy_params(eng_params *p, int64_t max_tokens);

typedef struct spec {
    eng_params p;
    int32_t tokens[1200];
    size_t n;
} spec;

uint64_t next_random(uint64_t *state);
void random_spec(spec *sp, uint64_t *g);

#endif
