/* Checks of the engine over the CUDA backend, on a device and on the host in its place; cmocka. A
 * request gives the same bytes alone and among others, with small and large steps, guessed or not,
 * whether or not the beginning of its prompt is known, in a session or sent whole. */
#ifndef TNL_TESTS_ENGINE_CHECKS_H
#define TNL_TESTS_ENGINE_CHECKS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"
#include "model/model.h"
#include "tests/unit/engine_bench.h"

/* What they run with; set first. */
typedef struct ec_setup {
    int width, heads, glu; /* of the random model */
    kn_dtype weights;
    int crowd;        /* random requests */
    int crowd_prompt; /* tokens of the longest one's prompt, at most 1200 */
} ec_setup;

extern ec_setup ec_with;

mdl_model *ec_open_model(void);
void ec_open_engine(bench *b, mdl_model *m, int parallel, int64_t step_tokens, size_t prefix_cache);

void ec_same_bytes(void **unused);
void ec_continued(void **unused);
void ec_crowd(void **unused);
void ec_guesses(void **unused);
void ec_picked(void **unused);
void ec_sessions(void **unused);
void ec_cancelled(void **unused);

#define EC_ALL                                                                                     \
    cmocka_unit_test(ec_same_bytes), cmocka_unit_test(ec_continued), cmocka_unit_test(ec_crowd),   \
        cmocka_unit_test(ec_guesses), cmocka_unit_test(ec_picked), cmocka_unit_test(ec_sessions),  \
        cmocka_unit_test(ec_cancelled)

#endif
