/* The engine over the CUDA backend, its kernels run by the host: see engine_checks.h; and what
 * becomes of requests when the device fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/checkcuda/engine_checks.h"
#include "tests/checkcuda/runtime_emulated.h"

enum { PROMPT = 300 }; /* two slices: more than the first step that an engine tries */

static void make_ids(int32_t *ids) {
    for (int i = 0; i < PROMPT; i++)
        ids[i] = 3 + i * 7 % 150;
}

static void expect_failed(bench *b, const eng_params *p, const int32_t *ids) {
    answer *a = run_one(b, p, ids, PROMPT);
    assert_int_equal(a->done.finish, ENG_FINISH_ERROR);
    assert_int_equal(a->done.error, TNL_E_INTERNAL);
    free(a);
}

/* What is missing for a first step, an engine says when it is opened; what it can do without, it
 * does without. */
static void short_at_once(void **unused) {
    (void)unused;
    mdl_model *m = ec_open_model();
    eng_open_params o;
    eng_engine *e;
    tnl_error err = {0};
    eng_open_params_default(&o);
    o.model = m;
    o.parallel = 1;
    int refused = 0;
    for (int at = 1; at <= 8; at++) {
        emu_runtime.allocations = at;
        tnl_status st = eng_open(&e, &o, &err);
        assert_true(st == TNL_OK || (st == TNL_E_NOMEM && !e && err.msg[0] != 0));
        refused += st == TNL_E_NOMEM;
        eng_close(e);
    }
    assert_true(refused >= 4); /* a state, a context on either side, a step's inputs */
    emu_runtime.allocations = 0;
    assert_int_equal(eng_open(&e, &o, &err), TNL_OK);
    eng_close(e);
    mdl_close(m);
}

/* A step for which memory is short ends its requests with an error, and no others. */
static void short_memory(void **unused) {
    (void)unused;
    int32_t ids[PROMPT];
    eng_params p;
    bench b;
    mdl_model *m = ec_open_model();
    make_ids(ids);
    greedy_params(&p, 4);
    ec_open_engine(&b, m, 2, 256, 0);
    emu_runtime.allocations = 1;
    expect_failed(&b, &p, ids);
    answer *after = run_one(&b, &p, ids, PROMPT), *again = run_one(&b, &p, ids, PROMPT);
    assert_int_equal(after->done.finish, ENG_FINISH_LENGTH);
    assert_same_answer(after, again);
    assert_false(eng_lost(b.e));
    check_identity(b.e);
    free(after), free(again);
    eng_close(b.e);
    mdl_close(m);
}

/* A device that goes away: an error for whoever is under way, and for all who come later. */
static void lost_device(void **unused) {
    (void)unused;
    int32_t ids[PROMPT];
    eng_params p;
    bench b;
    eng_request *r;
    tnl_error err;
    mdl_model *m = ec_open_model();
    make_ids(ids);
    greedy_params(&p, 4);
    ec_open_engine(&b, m, 2, 256, 0);
    free(run_one(&b, &p, ids, PROMPT));
    emu_runtime.waits = 1;
    expect_failed(&b, &p, ids);
    assert_true(eng_lost(b.e));
    const eng_job job = {.tokens = ids, .n_tokens = PROMPT, .params = &p};
    assert_int_equal(eng_submit(&r, b.e, &job, &err), TNL_E_INTERNAL);
    assert_string_equal(err.msg, "the device is lost");
    check_identity(b.e);
    eng_close(b.e);
    mdl_close(m);
}

int main(void) {
    alarm(250);
    ec_with = (ec_setup){
        .width = 32, .heads = 2, .glu = 32, .weights = KN_BF16, .crowd = 4, .crowd_prompt = 140};
    const struct CMUnitTest tests[] = {
        EC_ALL,
        cmocka_unit_test(short_at_once),
        cmocka_unit_test(short_memory),
        cmocka_unit_test(lost_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
