/* Grammars and masks: what is accepted by example; and as properties, on vocabularies of random
 * pieces: the mask is exactly what the automaton accepts token by token, and any walk along masks
 * ends in JSON that the strict reader takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/json_scan.h"
#include "server/engine/grammar/grammar.h"
#include "server/engine/grammar/vocab.h"

static uint64_t state = 88172645463325252u;

static uint64_t draw(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* ---- grammars ---- */

static eng_grammar *finished(eng_grammar *g, int root) {
    tnl_error err = {0};
    if (eng_grammar_finish(g, root, &err) != TNL_OK)
        fail_msg("%s", err.msg);
    return g;
}

static eng_grammar *of_kind(eng_gkind kind) {
    eng_grammar *g = eng_grammar_new();
    return finished(g, eng_grammar_node(g, kind));
}

static eng_grammar *any_object(void) {
    eng_grammar *g = eng_grammar_new();
    int any = eng_grammar_node(g, ENG_G_ANY), map = eng_grammar_node(g, ENG_G_MAP);
    eng_grammar_item(g, map, any);
    return finished(g, map);
}

static void property(eng_grammar *g, int node, const char *key, int value, bool required) {
    assert_true(eng_grammar_property(g, node, key, strlen(key), value, required));
}

static int literals(eng_grammar *g, const char *const *texts) {
    int node = eng_grammar_node(g, ENG_G_LITERAL);
    for (int i = 0; texts[i]; i++)
        assert_true(eng_grammar_literal(g, node, texts[i], strlen(texts[i])));
    return node;
}

/* {"a": string of 1..3, "ab"?: integer, "b": [1..2 of null | number], "c"?: one of some} */
static eng_grammar *sample(void) {
    static const char *const words[] = {"\"x\"", "\"xy\"", "1", "12", "-3.5", NULL};
    static const char *const null_only[] = {"null", NULL};
    eng_grammar *g = eng_grammar_new();
    int root = eng_grammar_node(g, ENG_G_OBJECT), text = eng_grammar_node(g, ENG_G_STRING);
    int list = eng_grammar_node(g, ENG_G_ARRAY), choice = eng_grammar_node(g, ENG_G_CHOICE);
    eng_grammar_bounds(g, text, 1, 3);
    eng_grammar_alternative(g, choice, literals(g, null_only));
    eng_grammar_alternative(g, choice, eng_grammar_node(g, ENG_G_NUMBER));
    eng_grammar_item(g, list, choice);
    eng_grammar_bounds(g, list, 1, 2);
    property(g, root, "\"a\"", text, true);
    property(g, root, "\"ab\"", eng_grammar_node(g, ENG_G_INTEGER), false);
    property(g, root, "\"b\"", list, true);
    property(g, root, "\"c\"", literals(g, words), false);
    return finished(g, root);
}

/* N = {"v": integer, "n": N | null} */
static eng_grammar *recursive(void) {
    static const char *const null_only[] = {"null", NULL};
    eng_grammar *g = eng_grammar_new();
    int root = eng_grammar_node(g, ENG_G_OBJECT), again = eng_grammar_node(g, ENG_G_SAME);
    int choice = eng_grammar_node(g, ENG_G_CHOICE);
    eng_grammar_item(g, again, root);
    eng_grammar_alternative(g, choice, again);
    eng_grammar_alternative(g, choice, literals(g, null_only));
    property(g, root, "\"v\"", eng_grammar_node(g, ENG_G_INTEGER), true);
    property(g, root, "\"n\"", choice, true);
    return finished(g, root);
}

/* ---- by example ---- */

static bool accepts(const eng_grammar *g, const char *text) {
    eng_match m;
    eng_match_begin(&m, g);
    return eng_match_text(&m, text, strlen(text)) && eng_match_may_end(&m);
}

typedef struct example {
    const char *text;
    bool ok;
} example;

static void check_examples(eng_grammar *g, const example *e, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (accepts(g, e[i].text) != e[i].ok)
            fail_msg("%s: expected %d", e[i].text, e[i].ok);
    eng_grammar_unref(g);
}

#define CHECK(g, examples) check_examples(g, examples, sizeof examples / sizeof examples[0])

static void test_any(void **unused) {
    (void)unused;
    static const example e[] = {
        {"{}", true},
        {" { }", true},
        {"{\"a\":1}", true},
        {"{\"a\": [1, {\"\": null}], \"b\": -0.5e-3}", true},
        {"[]", false},
        {"{\"a\"}", false},
        {"{\"a\":}", false},
        {"{\"a\":1,}", false},
        {"{,}", false},
        {"{\"a\":tru}", false},
        {"{\"a\":true}", true},
        {"{\"a\":01}", false},
        {"{\"a\":1.}", false},
        {"{\"a\":-}", false},
        {"{\"a\":1e}", false},
        {"{\"a\":.5}", false},
        {"{\"a\":[1,]}", false},
        {"{\"a\":\"\\u00e9\\n\"}", true},
        {"{\"a\":\"\\ud800\"}", false},
        {"{\"a\":\"\\x\"}", false},
        {"{\"a\":\"\x01\"}", false},
        {"{\"a\":\"\xc3\xa9\"}", true},
        {"{\"a\":\"\xc3\"}", false},
        {"{\"a\":\"\xed\xa0\x80\"}", false},
        {"{\"a\":\"\xf4\x90\x80\x80\"}", false},
        {"{}x", false},
        {"{}}", false},
        {"{  }", false},
        {"{\n}", false},
        {"", false},
        {"{", false},
    };
    CHECK(any_object(), e);
}

static void test_sample(void **unused) {
    (void)unused;
    static const example e[] = {
        {"{\"a\":\"x\",\"b\":[1]}", true},
        {"{\"a\":\"x\",\"ab\":-7,\"b\":[null,0.25],\"c\":\"xy\"}", true},
        {"{\"a\":\"x\",\"b\":[1],\"c\":12}", true},
        {"{\"a\":\"x\",\"b\":[1],\"c\":1}", true},
        {"{\"a\":\"x\",\"b\":[1],\"c\":-3.5}", true},
        {"{\"a\":\"x\",\"b\":[1],\"c\":13}", false},
        {"{\"a\":\"x\",\"b\":[1],\"c\":\"x}", false},
        {"{\"a\":\"\",\"b\":[1]}", false},
        {"{\"a\":\"abcd\",\"b\":[1]}", false},
        {"{\"a\":\"\xf0\x9f\x90\xa2\xc3\xa9x\",\"b\":[1]}", true},
        {"{\"a\":\"\\u00e9\\n\\\"\",\"b\":[1]}", true},
        {"{\"b\":[1],\"a\":\"x\"}", false},
        {"{\"a\":\"x\"}", false},
        {"{\"a\":\"x\",\"ab\":1.5,\"b\":[1]}", false},
        {"{\"a\":\"x\",\"b\":[]}", false},
        {"{\"a\":\"x\",\"b\":[1,2,3]}", false},
        {"{\"a\":\"x\",\"b\":[\"1\"]}", false},
        {"{\"a\":\"x\",\"b\":[1],\"d\":1}", false},
        {"{\"a\":\"x\",\"a\":\"x\",\"b\":[1]}", false},
    };
    CHECK(sample(), e);
}

static void test_scalars(void **unused) {
    (void)unused;
    static const example integers[] = {{"0", true},
                                       {"-12", true},
                                       {"1.0", false},
                                       {"1e3", false},
                                       {"-", false},
                                       {"123456789012345", true},
                                       {"1234567890123456", false},
                                       {"00", false}};
    static const example numbers[] = {{"1e12", true}, {"1E+1", true}, {"1e123", false},
                                      {"0.5", true},  {"1 ", false},  {" 1", true}};
    CHECK(of_kind(ENG_G_INTEGER), integers);
    CHECK(of_kind(ENG_G_NUMBER), numbers);
}

static void nest(char *text, size_t cap, int levels) {
    size_t at = 0;
    for (int i = 0; i < levels; i++)
        at += (size_t)snprintf(text + at, cap - at, "{\"v\":1,\"n\":");
    at += (size_t)snprintf(text + at, cap - at, "null");
    for (int i = 0; i < levels; i++)
        at += (size_t)snprintf(text + at, cap - at, "}");
}

/* A value fits only where it can still end: the innermost level has room for null alone. */
static void test_depth(void **unused) {
    (void)unused;
    char text[2048];
    eng_grammar *g = recursive();
    nest(text, sizeof text, 1);
    assert_true(accepts(g, text));
    nest(text, sizeof text, ENG_GRAMMAR_DEPTH - 1);
    assert_true(accepts(g, text));
    nest(text, sizeof text, ENG_GRAMMAR_DEPTH);
    assert_false(accepts(g, text));
    eng_grammar_unref(g);
}

/* ---- refused grammars ---- */

static void refused(eng_grammar *g, int root) {
    tnl_error err = {0};
    assert_int_equal(eng_grammar_finish(g, root, &err), TNL_E_DATA);
    assert_true(err.msg[0] != 0);
    eng_grammar_unref(g);
}

static void test_refused(void **unused) {
    (void)unused;
    eng_grammar *g = eng_grammar_new(); /* begins alike */
    int choice = eng_grammar_node(g, ENG_G_CHOICE);
    eng_grammar_alternative(g, choice, eng_grammar_node(g, ENG_G_INTEGER));
    eng_grammar_alternative(g, choice, eng_grammar_node(g, ENG_G_NUMBER));
    refused(g, choice);

    g = eng_grammar_new(); /* never ends */
    int root = eng_grammar_node(g, ENG_G_OBJECT), same = eng_grammar_node(g, ENG_G_SAME);
    eng_grammar_item(g, same, root);
    property(g, root, "\"n\"", same, true);
    refused(g, root);

    g = eng_grammar_new(); /* a circle */
    int a = eng_grammar_node(g, ENG_G_SAME), b = eng_grammar_node(g, ENG_G_SAME);
    eng_grammar_item(g, a, b);
    eng_grammar_item(g, b, a);
    refused(g, a);

    g = eng_grammar_new(); /* a choice of itself */
    choice = eng_grammar_node(g, ENG_G_CHOICE);
    eng_grammar_alternative(g, choice, choice);
    refused(g, choice);

    g = eng_grammar_new();
    refused(g, eng_grammar_node(g, ENG_G_LITERAL));
    g = eng_grammar_new();
    refused(g, eng_grammar_node(g, ENG_G_ARRAY));
}

static void test_limits(void **unused) {
    (void)unused;
    eng_grammar *g = eng_grammar_new();
    static char large[ENG_GRAMMAR_BYTES];
    memset(large, 'a', sizeof large);
    int n = 0, node = eng_grammar_node(g, ENG_G_LITERAL);
    while (eng_grammar_literal(g, node, large, 100))
        n++;
    assert_int_equal(n, ENG_GRAMMAR_BYTES / 100);
    for (n = 1; eng_grammar_node(g, ENG_G_ANY) >= 0; n++) {
    }
    assert_int_equal(n, ENG_GRAMMAR_NODES);
    eng_grammar_unref(g);
}

/* ---- masks ---- */

enum { VOCAB = 900 };

typedef struct pieces {
    char text[VOCAB][8];
    size_t n[VOCAB];
} pieces;

static const char *piece(const void *ctx, int32_t id, size_t *n) {
    const pieces *p = ctx;
    *n = p->n[id];
    return p->text[id];
}

/* Every byte once, so that no walk is stuck, then runs of likely ones; 0..3 are control tokens. */
static void fill(pieces *p) {
    static const char likely[] = "{}[]\":,\\ 0123456789-+.eEtrufalsnxyb\xc3\xa9\xf0\x9f\x90\xa2";
    memset(p, 0, sizeof *p);
    for (int id = 4; id < VOCAB; id++) {
        p->n[id] = id < 260 ? 1 : 1 + draw() % 7;
        for (size_t i = 0; i < p->n[id]; i++)
            p->text[id][i] = id < 260 ? (char)(id - 4) : likely[draw() % (sizeof likely - 1)];
    }
}

static bool bit(const uint64_t *mask, int32_t id) {
    return mask[id / 64] >> (id % 64) & 1;
}

static void check_mask(const pieces *p, const uint64_t *mask, const eng_match *m) {
    for (int32_t id = 0; id < VOCAB; id++) {
        eng_match copy = *m;
        bool fits = p->n[id] > 0 && eng_match_text(&copy, p->text[id], p->n[id]);
        if (id == 2)
            fits = eng_match_may_end(m);
        if (bit(mask, id) != fits)
            fail_msg("token %d: mask %d, automaton %d", id, bit(mask, id), fits);
    }
}

static int32_t draw_allowed(const uint64_t *mask) {
    for (int i = 0; i < 100000; i++) {
        int32_t id = (int32_t)(draw() % VOCAB);
        if (bit(mask, id))
            return id;
    }
    fail_msg("no token fits");
    return 0;
}

/* One text along the masks; false: it was cut after `most` tokens. */
static bool walk(const eng_grammar *g, eng_vocab *v, const pieces *p, char *text, size_t cap,
                 int most) {
    eng_match m;
    size_t n = 0;
    eng_match_begin(&m, g);
    for (int i = 0; i < most && n + 8 < cap; i++) {
        const uint64_t *mask = eng_vocab_mask(v, &m, 2);
        check_mask(p, mask, &m);
        int32_t id = draw_allowed(mask);
        if (id == 2)
            break;
        assert_true(eng_vocab_take(v, &m, id));
        memcpy(text + n, p->text[id], p->n[id]);
        n += p->n[id];
        if (eng_match_complete(&m))
            break;
    }
    text[n] = 0;
    return eng_match_may_end(&m);
}

static void test_masks(void **unused) {
    (void)unused;
    static const tnl_json_limits limits = {1 << 20, 1 << 16, 64, 1 << 12};
    eng_grammar *grammars[] = {any_object(),          sample(),
                               recursive(),           of_kind(ENG_G_STRING),
                               of_kind(ENG_G_NUMBER), of_kind(ENG_G_ANY)};
    static pieces p;
    char text[4096];
    int ended = 0;
    for (int round = 0; round < 60; round++) {
        tnl_error err = {0};
        eng_vocab *v;
        tnl_json_fault fault = TNL_JSON_OK;
        fill(&p);
        assert_int_equal(eng_vocab_open(&v, VOCAB, piece, &p, &err), TNL_OK);
        if (walk(grammars[round % 6], v, &p, text, sizeof text, 300)) {
            ended++;
            tnl_status st = tnl_json_check(text, strlen(text), &limits, &fault, &err);
            /* free keys may repeat, and \u0000 is JSON that we do not take in */
            if (st != TNL_OK && fault != TNL_JSON_DUPLICATE && !strstr(text, "\\u0000"))
                fail_msg("%s: %s", text, err.msg);
        }
        eng_vocab_close(v);
    }
    assert_true(ended > 10);
    for (size_t i = 0; i < 6; i++)
        eng_grammar_unref(grammars[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any),     cmocka_unit_test(test_sample),
        cmocka_unit_test(test_scalars), cmocka_unit_test(test_depth),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_masks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
