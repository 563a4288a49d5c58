/* The engine over the CUDA backend, its kernels run by the host: see engine_checks.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/checkcuda/engine_checks.h"

int main(void) {
    alarm(250);
    ec_with = (ec_setup){
        .width = 32, .heads = 2, .glu = 32, .weights = KN_BF16, .crowd = 4, .crowd_prompt = 140};
    const struct CMUnitTest tests[] = {EC_ALL};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
