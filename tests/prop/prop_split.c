/* A prompt fed whole, in slices of any size, or token by token gives the same bytes, and a state
 * can be copied, exported, imported, cut back and continued in between. */
#include "prop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/internal.h"

/* Sizes that return 0 at random: see next_size. */
typedef struct slicing {
    const char *what;
    int64_t size; /* 0: random */
    bool poison;  /* NaN into all that must not be read, before each step */
} slicing;

static int64_t next_size(prop_rng *r, const slicing *s, int64_t left) {
    int64_t size = s->size;
    if (size == 0)
        size = 1 + prop_below(r, prop_below(r, 4) == 0 ? left : 9);
    return size < left ? size : left;
}

static void feed(const prop_model *p, prop_rng *r, const slicing *how, const prop_run *want,
                 mdl_state *s, int64_t from, int64_t to, const char *what) {
    for (int64_t done = from; done < to;) {
        int64_t n = next_size(r, how, to - done);
        if (how->poison) {
            prop_poison_unused(p, s);
            prop_poison_ctx(p);
        }
        mdl_want w = how->size ? MDL_WANT_ALL : (mdl_want)prop_below(r, 3);
        mdl_seg seg = prop_step(p, s, want->tokens + done, n, w);
        assert_false(seg.nonfinite);
        prop_same_rows(p, want, done, &seg, what);
        done += n;
        assert_int_equal(mdl_state_pos(s), done);
    }
}

static void check_slicings(const prop_model *p, const prop_case *c, prop_rng *r) {
    int64_t B = p->block;
    const slicing how[] = {{"whole", PROP_SEQUENCE, false},
                           {"by 2", 2, false},
                           {"by 7", 7, false},
                           {"by B-1", B - 1, false},
                           {"by B", B, false},
                           {"by B+1", B + 1, false},
                           {"by 2B-1", 2 * B - 1, false},
                           {"by 2B", 2 * B, false},
                           {"by 3B+5", 3 * B + 5, false},
                           {"at random", 0, false},
                           {"at random, poisoned", 0, true},
                           {"one by one, poisoned", 1, true},
                           {"whole, poisoned", PROP_SEQUENCE, true}};
    const int64_t lengths[] = {1, B - 1, B, B + 1, 2 * B, PROP_SEQUENCE};
    const size_t first = PROP_SANITIZED ? 3 : 0;
    for (size_t l = first; l < sizeof lengths / sizeof *lengths; l++) {
        prop_run want = prop_oracle(p, r, lengths[l]);
        for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
            char what[96];
            snprintf(what, sizeof what, "%s %s, %s", c->label, c->isa, how[i].what);
            mdl_state *s = prop_state(p);
            feed(p, r, &how[i], &want, s, 0, want.n, what);
            prop_same_state(p, want.state, s, what);
            prop_drop(p, s);
        }
        prop_run_free(&want);
    }
}

static void test_slices(void **unused) {
    (void)unused;
    int n;
    const prop_case *cases = prop_cases(&n);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        prop_rng r = {prop_seed() + (uint64_t)i};
        prop_model p = prop_open(&cases[i], 1);
        check_slicings(&p, &cases[i], &r);
        prop_close(&p);
    }
}

/* At random cuts: the rest continues on a copy, and on an import into another model opened from the
 * same file. */
static void check_handover(const prop_model *p, const prop_model *other, prop_rng *r) {
    const slicing random = {"", 0, false};
    size_t bytes = mdl_state_export_bytes(p->m);
    prop_run want = prop_oracle(p, r, PROP_SEQUENCE);
    for (int round = 0; round < (PROP_SANITIZED ? 3 : 12); round++) {
        int64_t cut = prop_below(r, want.n + 1);
        tnl_error err = {0};
        mdl_state *a = prop_state(p), *copy = prop_state(p), *far = prop_state(other);
        feed(p, r, &random, &want, a, 0, cut, "before the cut");
        prop_poison_state(p, copy);
        mdl_state_copy(p->m, copy, a);
        void *buf = prop_export(p, a);
        prop_poison_state(other, far);
        if (mdl_state_import(other->m, far, buf, bytes, &err) != TNL_OK)
            fail_msg("import: %s", err.msg);
        assert_int_equal(mdl_state_pos(far), cut);
        prop_same_state(other, buf, far, "imported");
        /* the original goes elsewhere: it must not drag the others along */
        int32_t stray[5] = {0, 1, 2, 3, 4};
        prop_step(p, a, stray, 5, MDL_WANT_NONE);
        feed(p, r, &random, &want, copy, cut, want.n, "after a copy");
        prop_same_state(p, want.state, copy, "after a copy");
        feed(other, r, &random, &want, far, cut, want.n, "after an import");
        prop_same_state(other, want.state, far, "after an import");
        free(buf);
        prop_drop(p, a);
        prop_drop(p, copy);
        prop_drop(other, far);
    }
    prop_run_free(&want);
}

static void test_copy_and_import(void **unused) {
    (void)unused;
    int n;
    const prop_case *cases = prop_cases(&n);
    for (int i = 0; i < n; i++) {
        prop_rng r = {prop_seed() + 100 + (uint64_t)i};
        prop_model p = prop_open(&cases[i], 1), other = prop_open(&cases[i], 2);
        assert_string_equal(mdl_model_fingerprint(p.m), mdl_model_fingerprint(other.m));
        check_handover(&p, &other, &r);
        prop_close(&p);
        prop_close(&other);
    }
}

/* Cutting back inside the block is an undo: what follows is as if the dropped tokens never were. */
static void check_truncate(const prop_model *p, prop_rng *r) {
    const slicing random = {"", 0, false};
    for (int round = 0; round < (PROP_SANITIZED ? 4 : 25); round++) {
        int64_t n = 1 + prop_below(r, PROP_SEQUENCE);
        int64_t boundary = n - n % p->block, keep = boundary + prop_below(r, n - boundary + 1);
        prop_run first = prop_oracle(p, r, n), fresh = prop_oracle(p, r, keep + 80);
        memcpy(fresh.tokens, first.tokens, (size_t)keep * sizeof *fresh.tokens);
        prop_run want = prop_oracle_of(p, fresh.tokens, fresh.n);
        prop_run prefix = prop_oracle_of(p, fresh.tokens, keep);
        mdl_state *s = prop_state(p);
        feed(p, r, &random, &first, s, 0, n, "before truncation");
        if (boundary > 0)
            assert_int_equal(mdl_state_truncate(p->m, s, boundary - 1), TNL_E_LIMIT);
        assert_int_equal(mdl_state_truncate(p->m, s, n + 1), TNL_E_LIMIT);
        assert_int_equal(mdl_state_truncate(p->m, s, -1), TNL_E_LIMIT);
        prop_same_state(p, first.state, s, "refused truncation");
        assert_int_equal(mdl_state_truncate(p->m, s, keep), TNL_OK);
        prop_same_state(p, prefix.state, s, "truncated");
        feed(p, r, &random, &want, s, keep, want.n, "after truncation");
        prop_same_state(p, want.state, s, "after truncation");
        prop_drop(p, s);
        prop_run_free(&first);
        prop_run_free(&fresh);
        prop_run_free(&want);
        prop_run_free(&prefix);
    }
}

static void test_truncate(void **unused) {
    (void)unused;
    int n;
    const prop_case *cases = prop_cases(&n);
    for (int i = 0; i < n; i++) {
        if (cases[i].width > 100)
            continue; /* nothing here depends on width */
        prop_rng r = {prop_seed() + 200 + (uint64_t)i};
        prop_model p = prop_open(&cases[i], 1);
        check_truncate(&p, &r);
        prop_close(&p);
    }
}

/* A state far out, at positions that no 32-bit counter and no float holds. */
static void test_far_positions(void **unused) {
    (void)unused;
    int n;
    const prop_case *cases = prop_cases(&n);
    const int64_t far[] = {(INT64_C(1) << 24) + 1, (INT64_C(1) << 31) - 3, (INT64_C(1) << 33) + 5};
    int32_t tokens[100];
    for (int i = 0; i < n; i++) {
        prop_rng r = {prop_seed() + 300 + (uint64_t)i};
        prop_model p = prop_open(&cases[i], 1);
        prop_tokens(&r, tokens, 100, p.vocab);
        for (size_t f = 0; f < sizeof far / sizeof *far; f++) {
            mdl_state *a = prop_state(&p), *b = prop_state(&p);
            assert_int_equal(mdl_state_randomize(p.m, a, far[f], 5), TNL_OK);
            mdl_state_copy(p.m, b, a);
            mdl_seg whole = prop_step(&p, a, tokens, 100, MDL_WANT_LAST);
            assert_false(whole.nonfinite);
            float *row = malloc((size_t)p.vocab * sizeof *row);
            assert_non_null(row);
            memcpy(row, whole.logits, (size_t)p.vocab * sizeof *row);
            mdl_seg one = {0};
            for (int t = 0; t < 100; t++)
                one = prop_step(&p, b, tokens + t, 1, MDL_WANT_LAST);
            assert_memory_equal(row, one.logits, (size_t)p.vocab * sizeof *row);
            void *state = prop_export(&p, a);
            prop_same_state(&p, state, b, "far out");
            free(state);
            free(row);
            prop_drop(&p, a);
            prop_drop(&p, b);
        }
        prop_close(&p);
    }
}

/* An import that is refused leaves the state as it was. */
static void test_bad_imports(void **unused) {
    (void)unused;
    int n;
    const prop_case *cases = prop_cases(&n);
    prop_rng r = {prop_seed() + 400};
    prop_model p = prop_open(&cases[0], 1), foreign = prop_open(&cases[1], 1);
    size_t bytes = mdl_state_export_bytes(p.m);
    prop_run run = prop_oracle(&p, &r, 77);
    unsigned char *bent = malloc(bytes + 1);
    mdl_state *s = prop_state(&p);
    tnl_error err = {0};
    assert_non_null(bent);
    prop_step(&p, s, run.tokens, 3, MDL_WANT_NONE);
    void *before = prop_export(&p, s);
    for (size_t i = 0; i < 48; i++) { /* every header byte; the fields fill it without gaps */
        memcpy(bent, run.state, bytes);
        bent[i] ^= 0x80;
        if (mdl_state_import(p.m, s, bent, bytes, &err) == TNL_OK) {
            /* a position can be bent into another valid one; its unused rows then give it away
               unless it uses as many */
            assert_true(i >= 32 && i < 40);
            mdl_state_import(p.m, s, before, bytes, &err);
        }
        prop_same_state(&p, before, s, "refused import");
    }
    for (int i = 0; i < 200; i++) { /* a NaN anywhere in the payload */
        memcpy(bent, run.state, bytes);
        size_t at = 48 + 4 * (size_t)prop_below(&r, (int64_t)(bytes - 48) / 4);
        memcpy(bent + at, i % 2 ? "\0\0\x80\x7f" : "\1\0\xc0\xff", 4);
        assert_int_not_equal(mdl_state_import(p.m, s, bent, bytes, &err), TNL_OK);
        prop_same_state(&p, before, s, "refused NaN");
    }
    const size_t sizes[] = {0, 1, 47, 48, 49, bytes - 1, bytes + 1};
    memcpy(bent, run.state, bytes);
    bent[bytes] = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        assert_int_not_equal(mdl_state_import(p.m, s, bent, sizes[i], &err), TNL_OK);
    assert_int_not_equal(mdl_state_import(foreign.m, s, run.state, bytes, &err), TNL_OK);
    prop_same_state(&p, before, s, "refused sizes");
    assert_int_equal(mdl_state_import(p.m, s, run.state, bytes, &err), TNL_OK);
    prop_same_state(&p, run.state, s, "good import");
    free(bent);
    free(before);
    prop_drop(&p, s);
    prop_run_free(&run);
    prop_close(&p);
    prop_close(&foreign);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slices),      cmocka_unit_test(test_copy_and_import),
        cmocka_unit_test(test_truncate),    cmocka_unit_test(test_far_positions),
        cmocka_unit_test(test_bad_imports),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
