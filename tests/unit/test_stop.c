/* Stop strings: named cases, then random texts in random pieces against a naive search. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/engine/stop.h"

typedef struct rng {
    uint64_t s;
} rng;

static uint64_t next(rng *r) {
    r->s ^= r->s << 13;
    r->s ^= r->s >> 7;
    r->s ^= r->s << 17;
    return r->s;
}

static size_t below(rng *r, size_t n) {
    return (size_t)(next(r) % n);
}

/* Length of the text that remains: at the first byte at which a stop string is complete, the
 * longest one that ends there is cut off. n if none occurs. */
static size_t naive(const eng_params *p, const char *text, size_t n, bool *found) {
    for (size_t end = 1; end <= n; end++) {
        size_t cut = 0;
        for (int i = 0; i < p->n_stop; i++) {
            size_t len = strlen(p->stop[i]);
            if (len <= end && len > cut && memcmp(text + end - len, p->stop[i], len) == 0)
                cut = len;
        }
        if (cut > 0) {
            *found = true;
            return end - cut;
        }
    }
    *found = false;
    return n;
}

typedef struct run {
    char out[8192];
    size_t n;
    bool found;
    size_t most_held;
} run;

/* Feed the text in pieces; at every moment what is out must be a prefix of what may come out. */
static void feed(run *r, const eng_params *p, const char *text, size_t n, rng *g, size_t piece) {
    eng_stop s;
    bool any;
    size_t limit = naive(p, text, n, &any);
    eng_stop_init(&s, p);
    r->n = 0;
    r->found = false;
    r->most_held = 0;
    for (size_t at = 0; at < n && !r->found;) {
        size_t len = 1 + below(g, piece), got = 0;
        len = len < n - at ? len : n - at;
        r->found = eng_stop_push(&s, text + at, len, r->out + r->n, &got);
        r->n += got;
        at += len;
        assert_true(r->n <= limit);
        assert_memory_equal(r->out, text, r->n);
        r->most_held = s.n_held > r->most_held ? s.n_held : r->most_held;
    }
    if (r->found) {
        size_t got = 1;
        assert_true(eng_stop_push(&s, "more", 4, r->out + r->n, &got));
        assert_int_equal(got, 0);
    }
    r->n += eng_stop_flush(&s, r->out + r->n);
    assert_int_equal(r->found, any);
    assert_int_equal(r->n, limit);
    assert_memory_equal(r->out, text, r->n);
}

static void append(char *s, size_t cap, const char *more) {
    size_t n = strlen(s);
    snprintf(s + n, cap - n, "%s", more);
}

static void add_stop(eng_params *p, const char *s) {
    snprintf(p->stop[p->n_stop++], sizeof p->stop[0], "%s", s);
}

static void named_cases(void **state) {
    (void)state;
    static const struct {
        const char *stops[4], *text, *want;
        bool found;
    } rows[] = {
        {{"END"}, "one END two", "one ", true},
        {{"END"}, "one EN", "one EN", false},
        {{"END"}, "END", "", true},
        {{"END"}, "EENENDx", "EEN", true},
        {{"aab"}, "aaaab", "aa", true},
        {{"abcd", "bc"}, "abcd", "a", true},
        {{"abcd", "bc"}, "xabc", "xa", true},
        {{"b", "ab", "xab"}, "xxab", "x", true},
        {{"\n\n"}, "a\nb\n\nc", "a\nb", true},
        {{"\xC3\xA9"}, "caf\xC3\xA9", "caf", true},
        {{"\xC3\xA9"}, "caf\xC3\xA8", "caf\xC3\xA8", false},
        {{"aa"}, "a", "a", false},
        {{"x"}, "", "", false},
        {{NULL}, "anything", "anything", false},
        {{"abababc"}, "ababababababc!", "ababab", true},
    };
    rng g = {77};
    for (size_t c = 0; c < sizeof rows / sizeof rows[0]; c++) {
        eng_params p;
        eng_params_default(&p);
        for (int i = 0; i < 4 && rows[c].stops[i]; i++)
            add_stop(&p, rows[c].stops[i]);
        for (size_t piece = 1; piece < 12; piece++) {
            run *r = calloc(1, sizeof *r);
            feed(r, &p, rows[c].text, strlen(rows[c].text), &g, piece);
            assert_int_equal(r->found, rows[c].found);
            assert_int_equal(r->n, strlen(rows[c].want));
            assert_memory_equal(r->out, rows[c].want, r->n);
            free(r);
        }
    }
}

static void longest_stop(void **state) {
    (void)state;
    eng_params p;
    eng_params_default(&p);
    memset(p.stop[0], 'a', ENG_MAX_STOP_BYTES);
    p.stop[0][ENG_MAX_STOP_BYTES - 1] = 'b';
    p.n_stop = 1;
    char text[2000];
    memset(text, 'a', sizeof text);
    rng g = {5};
    run *r = calloc(1, sizeof *r);
    feed(r, &p, text, sizeof text, &g, 300); /* never completed, held to the end */
    assert_int_equal(r->most_held, ENG_MAX_STOP_BYTES - 1);
    text[1700] = 'b';
    feed(r, &p, text, sizeof text, &g, 300);
    assert_true(r->found);
    assert_int_equal(r->n, 1701 - ENG_MAX_STOP_BYTES);
    free(r);
}

/* No more is held back than the longest beginning of a stop string at the end of the text. */
static void holds_no_more_than_needed(void **state) {
    (void)state;
    eng_params p;
    eng_params_default(&p);
    add_stop(&p, "stop");
    eng_stop *s = calloc(1, sizeof *s);
    assert_non_null(s);
    eng_stop_init(s, &p);
    char out[600];
    size_t n;
    static const struct {
        const char *in, *out;
    } rows[] = {{"hello", "hello"}, {" s", " "}, {"t", ""},  {"o", ""},
                {"ne", "stone"},    {"s", ""},   {"s", "s"}, {"tab", "stab"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_false(eng_stop_push(s, rows[i].in, strlen(rows[i].in), out, &n));
        assert_int_equal(n, strlen(rows[i].out));
        assert_memory_equal(out, rows[i].out, n);
    }
    free(s);
}

static void equals_naive_search(void **state) {
    (void)state;
    rng g = {0x1234567};
    print_message("seed %llu\n", (unsigned long long)g.s);
    int found = 0, cases = 20000;
    for (int c = 0; c < cases; c++) {
        static const char *const letters[] = {"a", "b", "c", "\xC3\xA9", "\xE2\x82\xAC"};
        eng_params p;
        eng_params_default(&p);
        size_t alphabet = 1 + below(&g, 5);
        int n_stop = 1 + (int)below(&g, c % 50 ? 4 : ENG_MAX_STOP);
        for (int i = 0; i < n_stop; i++) {
            char s[64] = "";
            size_t len = 1 + below(&g, 8);
            for (size_t k = 0; k < len; k++)
                append(s, sizeof s, letters[below(&g, alphabet)]);
            add_stop(&p, s);
        }
        char text[512] = "";
        size_t len = below(&g, 60);
        for (size_t k = 0; k < len; k++)
            append(text, sizeof text, letters[below(&g, alphabet)]);
        run *r = calloc(1, sizeof *r);
        feed(r, &p, text, strlen(text), &g, 1 + below(&g, 9));
        found += r->found;
        free(r);
    }
    print_message("%d of %d found a stop\n", found, cases);
    assert_true(found > cases / 10 && found < cases * 95 / 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(named_cases),
        cmocka_unit_test(longest_stop),
        cmocka_unit_test(holds_no_more_than_needed),
        cmocka_unit_test(equals_naive_search),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
