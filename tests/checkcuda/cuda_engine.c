/* The engine on the first GPU, with each type of weights: see engine_checks.h. Exit status 77:
 * there is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/kernels.h"
#include "tests/checkcuda/engine_checks.h"

/* 0: there is a GPU that can be used. */
static int look_for_device(void) {
    kn_backend *be;
    tnl_error err = {0};
    tnl_status s = kn_open(&be, "cuda", 1, NULL, &err);
    if (s != TNL_OK)
        fprintf(stderr, "cuda_engine: %s\n", err.msg);
    else
        kn_backend_close(be);
    return s == TNL_OK ? 0 : s == TNL_E_UNAVAILABLE ? 77 : 1;
}

int main(void) {
    static const char *const names[] = {"bf16", "f8", "q8", "q4"};
    const struct CMUnitTest tests[] = {EC_ALL};
    int failed = 0, none = look_for_device();
    if (none)
        return none;
    alarm(250);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int t = 0; t < KN_DTYPE_COUNT; t++) {
            if (strcmp(kn_dtypes[t].name, names[i]) != 0)
                continue;
            print_message("weights: %s\n", names[i]);
            ec_with = (ec_setup){.width = 512,
                                 .heads = 4,
                                 .glu = 704,
                                 .weights = (kn_dtype)t,
                                 .crowd = 16,
                                 .crowd_prompt = 1200};
            failed += cmocka_run_group_tests(tests, NULL, NULL);
        }
    return failed != 0;
}
