/* A prompt of a million tokens: constant memory, and a state that stays finite although the last
 * layer hardly decays. The end is checked against a second run in other slices. */
#include "prop.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MILLION = PROP_SANITIZED ? 200000 : 1000000, SLICE = 2000 };

static long resident_pages(void) {
    long total = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%ld %ld", &total, &resident) != 2)
        resident = 0;
    if (f)
        fclose(f);
    return resident;
}

static float largest(const prop_model *p, mdl_state *s) {
    const mdl_spec *spec = mdl_model_spec(p->m);
    float most = 0;
    for (int l = 0; l < spec->n_layers; l++) {
        const kn_linattn_dims *d = &spec->layers[l].dims;
        for (int h = 0; h < d->H; h++) {
            const float *S = prop_element(p, s, l, h, PROP_S, 0, 0);
            for (int i = 0; i < d->Dk * d->Dv; i++) {
                assert_true(isfinite(S[i]));
                most = fabsf(S[i]) > most ? fabsf(S[i]) : most;
            }
        }
    }
    return most;
}

/* Token t of the prompt, so that no array of a million is needed. */
static int32_t token_at(int64_t t, int64_t vocab) {
    prop_rng r = {prop_seed() + 8000 + (uint64_t)t};
    return (int32_t)prop_below(&r, vocab);
}

static mdl_seg feed_slice(const prop_model *p, mdl_state *s, int32_t *ids, int64_t n) {
    int64_t first = mdl_state_pos(s);
    for (int64_t i = 0; i < n; i++)
        ids[i] = token_at(first + i, p->vocab);
    mdl_seg seg = prop_step(p, s, ids, n, MDL_WANT_LAST);
    assert_false(seg.nonfinite);
    return seg;
}

static void test_million(void **unused) {
    (void)unused;
    const prop_case c = {"tiny", false, KN_F32, NULL, 2, 8, 2, 4, 8, 32};
    prop_model p = prop_open(&c, 1);
    mdl_state *s = prop_state(&p), *t = prop_state(&p);
    static int32_t ids[SLICE];
    long early = 0;
    while (mdl_state_pos(s) < MILLION) {
        feed_slice(&p, s, ids, SLICE);
        if (mdl_state_pos(s) == 50 * SLICE)
            early = resident_pages();
    }
    long late = resident_pages(), page = sysconf(_SC_PAGESIZE);
    print_message("resident at %d tokens %ld KiB, at %d %ld KiB; largest |S| %g\n", 50 * SLICE,
                  early * page / 1024, MILLION, late * page / 1024, (double)largest(&p, s));
    assert_true(early > 0);
    if (!PROP_SANITIZED) /* whose own books grow */
        assert_true((late - early) * page <= 256 * 1024);
    /* the same in other slices: the bytes after a million tokens do not remember how they came */
    while (mdl_state_pos(t) < MILLION) {
        int64_t n = mdl_state_pos(t) + 777 <= MILLION ? 777 : MILLION - mdl_state_pos(t);
        feed_slice(&p, t, ids, n);
    }
    void *want = prop_export(&p, s);
    prop_same_state(&p, want, t, "a million tokens in other slices");
    free(want);
    prop_drop(&p, s);
    prop_drop(&p, t);
    prop_close(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_million)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
