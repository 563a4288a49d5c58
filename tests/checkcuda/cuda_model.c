/* The CUDA backend under the model, on the first GPU. Exit status 77: there is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/checkcuda/model_checks.h"

int main(int argc, char **argv) {
    kn_backend *be;
    tnl_error err;
    if (argc != 2) {
        fputs("usage: cuda_model MODEL_DIR|CONFIG.json\n", stderr);
        return 2;
    }
    tnl_status s = kn_open(&be, "cuda", 1, NULL, &err);
    if (s != TNL_OK) {
        fprintf(stderr, "cuda_model: %s\n", err.msg);
        return s == TNL_E_UNAVAILABLE ? 77 : 1;
    }
    kn_backend_close(be);
    mc_source = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mc_near_cpu),
        cmocka_unit_test(mc_same_bytes),
        cmocka_unit_test(mc_prompt_slices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
