/* An engine over the fake model: see engine_bench.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine_bench.h"

/* Pieces: letters for most ids, so that a chained answer reads "abcdef..." */
static void fill_pieces(tok_model *t) {
    for (int i = 3; i < FAKE_VOCAB; i++) {
        char piece[2] = {(char)('a' + (i - 3) % 26), 0};
        fake_tok_set(t, i, piece);
    }
}

void bench_open(bench *b, int parallel, int queue, int64_t step_tokens) {
    eng_open_params o;
    eng_open_params_default(&o);
    bench_open_guessing(b, parallel, queue, step_tokens, o.speculate, o.row_cost);
}

void bench_open_guessing(bench *b, int parallel, int queue, int64_t step_tokens, int speculate,
                         double row_cost) {
    bench_open_with(b, parallel, queue, step_tokens, speculate, row_cost, 1 << 20);
}

void bench_open_with(bench *b, int parallel, int queue, int64_t step_tokens, int speculate,
                     double row_cost, size_t prefix_cache) {
    tnl_error err;
    memset(b, 0, sizeof *b);
    b->m = fake_model_new();
    b->t = fake_tok_new();
    fill_pieces(b->t);
    eng_open_params_default(&b->o);
    b->o.model = b->m;
    b->o.tokenizer = b->t;
    b->o.parallel = parallel;
    b->o.queue = queue;
    b->o.step_tokens = step_tokens;
    b->o.queue_timeout_s = 0;
    b->o.speculate = speculate;
    b->o.row_cost = row_cost;
    b->o.prefix_cache = prefix_cache;
    assert_int_equal(eng_open(&b->e, &b->o, &err), TNL_OK);
}

void bench_close(bench *b) {
    eng_close(b->e);
    fake_model_free(b->m);
    fake_tok_free(b->t);
}
