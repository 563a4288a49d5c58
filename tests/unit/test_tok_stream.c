/* Incremental decoding against whole decoding and against a second, independent rule: the
 * characters of the concatenated piece bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/utf8.h"
#include "tokenizer/tok.h"

static tok_model *toks[2]; /* BPE, unigram */

static int open_models(void **state) {
    (void)state;
    static const char *const names[2] = {"tok_bpe", "tok_unigram"};
    const char *root = getenv("TNL_TEST_ROOT");
    for (int i = 0; i < 2; i++) {
        char dir[4096];
        tnl_error err;
        snprintf(dir, sizeof dir, "%s/tests/data/%s", root ? root : ".", names[i]);
        if (tok_open(&toks[i], dir, &err) != TNL_OK) {
            fprintf(stderr, "%s\n", err.msg);
            return -1;
        }
    }
    return 0;
}

static int close_models(void **state) {
    (void)state;
    tok_close(toks[0]);
    tok_close(toks[1]);
    return 0;
}

static int32_t byte_id(const tok_model *t, unsigned char b) {
    char name[8];
    snprintf(name, sizeof name, "<0x%02X>", b);
    for (int32_t id = 0; id < tok_vocab(t); id++)
        if (strcmp(tok_piece_name(t, id), name) == 0)
            return id;
    fail_msg("no piece %s", name);
    return -1;
}

static int32_t name_id(const tok_model *t, const char *name) {
    for (int32_t id = 0; id < tok_vocab(t); id++)
        if (strcmp(tok_piece_name(t, id), name) == 0)
            return id;
    fail_msg("no piece %s", name);
    return -1;
}

/* Push all ids; every partial text must be whole characters. Returns the length. */
static size_t stream_all(const tok_model *t, bool continuing, const int32_t *ids, size_t n,
                         char *out) {
    tok_stream s;
    tok_stream_init(&s, t, continuing);
    size_t w = 0;
    for (size_t i = 0; i < n; i++) {
        size_t got = tok_stream_push(&s, ids[i], out + w, TOK_STREAM_MAX);
        assert_true(got <= TOK_STREAM_MAX);
        assert_true(tnl_utf8_valid(out + w, got));
        w += got;
    }
    size_t got = tok_stream_finish(&s, out + w, TOK_STREAM_MAX);
    assert_true(got == 0 || got == 3);
    assert_int_equal(tok_stream_finish(&s, out + w + got, TOK_STREAM_MAX), 0);
    return w + got;
}

static uint64_t next_random(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

enum { MAX_IDS = 64, ROOM = MAX_IDS * 256 + 2 * TOK_STREAM_MAX };

/* Half of the ids are byte pieces, so that characters are built, cut and spoiled. */
static size_t random_ids(const tok_model *t, int32_t first_byte, uint64_t *seed, int32_t *ids) {
    size_t n = next_random(seed) % MAX_IDS;
    for (size_t i = 0; i < n; i++) {
        static const unsigned char likely[] = {0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80, 0xC3};
        uint64_t kind = next_random(seed) % 4;
        if (kind < 2)
            ids[i] = (int32_t)(next_random(seed) % (uint64_t)tok_vocab(t));
        else
            ids[i] = first_byte + (kind == 2 ? likely[next_random(seed) % sizeof likely]
                                             : (int32_t)(next_random(seed) % 256));
    }
    return n;
}

static void stream_equals_decode(void **state) {
    (void)state;
    uint64_t seed = 77;
    print_message("seed %llu\n", (unsigned long long)seed);
    static char out[ROOM];
    for (int round = 0; round < 20000; round++) {
        const tok_model *t = toks[round & 1];
        int32_t ids[MAX_IDS];
        size_t n = random_ids(t, byte_id(t, 0), &seed, ids), n_text;
        char *text;
        size_t w = stream_all(t, false, ids, n, out);
        assert_int_equal(tok_decode(t, ids, n, &text, &n_text, NULL), TNL_OK);
        assert_int_equal(w, n_text);
        assert_memory_equal(out, text, w);
        assert_true(tnl_utf8_valid(text, n_text));
        assert_int_equal(text[n_text], 0);
        free(text);
    }
}

/* The rule stated on the whole byte string: at each position a character, or the longest beginning
 * of one (at least a byte) becomes U+FFFD. */
static size_t replace_bad(const char *p, size_t n, char *out) {
    size_t w = 0;
    for (size_t i = 0; i < n;) {
        int len = tnl_utf8_char_len(p + i, n - i);
        if (len > 0) {
            memcpy(out + w, p + i, (size_t)len);
            w += (size_t)len;
            i += (size_t)len;
            continue;
        }
        memcpy(out + w, "\xEF\xBF\xBD", 3);
        w += 3;
        size_t good = 1;
        while (i + good < n && tnl_utf8_char_len(p + i, good + 1) == -1 &&
               tnl_utf8_char_len(p + i, good) == -1)
            good++;
        i += good;
    }
    return w;
}

static void no_byte_is_lost(void **state) {
    (void)state;
    uint64_t seed = 4711;
    print_message("seed %llu\n", (unsigned long long)seed);
    static char out[ROOM], joined[ROOM], want[3 * ROOM];
    for (int round = 0; round < 20000; round++) {
        const tok_model *t = toks[round & 1];
        int32_t ids[MAX_IDS];
        size_t n = random_ids(t, byte_id(t, 0), &seed, ids), n_joined = 0;
        for (size_t i = 0; i < n; i++) {
            size_t len;
            const char *p = tok_piece(t, ids[i], &len);
            memcpy(joined + n_joined, p, len);
            n_joined += len;
        }
        size_t w = stream_all(t, true, ids, n, out);
        assert_int_equal(w, replace_bad(joined, n_joined, want));
        assert_memory_equal(out, want, w);
    }
}

static void expect(const tok_model *t, bool continuing, const int32_t *ids, size_t n,
                   const char *want) {
    static char out[ROOM];
    size_t w = stream_all(t, continuing, ids, n, out);
    out[w] = '\0';
    assert_string_equal(out, want);
}

static void characters_wait_until_complete(void **state) {
    (void)state;
    const tok_model *t = toks[0];
    tok_stream s;
    char out[TOK_STREAM_MAX];
    tok_stream_init(&s, t, true);
    static const unsigned char emoji[4] = {0xF0, 0x9F, 0x98, 0x80};
    for (int i = 0; i < 3; i++)
        assert_int_equal(tok_stream_push(&s, byte_id(t, emoji[i]), out, sizeof out), 0);
    assert_int_equal(tok_stream_push(&s, byte_id(t, emoji[3]), out, sizeof out), 4);
    assert_memory_equal(out, emoji, 4);
    assert_int_equal(tok_stream_finish(&s, out, sizeof out), 0);
}

static void spoiled_characters(void **state) {
    (void)state;
    const tok_model *t = toks[0];
    int32_t a = name_id(t, "a");
    const int32_t cut[] = {byte_id(t, 0xE2), byte_id(t, 0x82), a};
    expect(t, true, cut, 3,
           "\xEF\xBF\xBD"
           "a");
    expect(t, true, cut, 2, "\xEF\xBF\xBD");
    const int32_t surrogate[] = {byte_id(t, 0xED), byte_id(t, 0xA0), byte_id(t, 0x80)};
    expect(t, true, surrogate, 3, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
    const int32_t stray[] = {byte_id(t, 0x80), byte_id(t, 0xFF), a};
    expect(t, true, stray, 3,
           "\xEF\xBF\xBD\xEF\xBF\xBD"
           "a");
    const int32_t control_between[] = {byte_id(t, 0xC3), tok_eos(t), byte_id(t, 0xA9)};
    expect(t, true, control_between, 3, "\xC3\xA9");
}

static void leading_space(void **state) {
    (void)state;
    for (int m = 0; m < 2; m++) {
        const tok_model *t = toks[m];
        const int32_t ids[] = {tok_bos(t), name_id(t, "\xE2\x96\x81the"),
                               name_id(t, "\xE2\x96\x81the")};
        expect(t, false, ids, 3, "the the");
        expect(t, true, ids, 3, " the the");
        const int32_t bytes[] = {byte_id(t, ' '), ids[1]};
        expect(t, false, bytes, 2, "  the"); /* a byte is a byte, and it begins the text */
    }
    /* A model that collapses spaces drops all of them in front, the other one drops its own. */
    int32_t mark = name_id(toks[0], "\xE2\x96\x81");
    const int32_t bpe[] = {mark, mark, mark};
    expect(toks[0], false, bpe, 3, "  ");
    mark = name_id(toks[1], "\xE2\x96\x81");
    const int32_t unigram[] = {mark, mark, mark};
    expect(toks[1], false, unigram, 3, "");
    expect(toks[1], true, unigram, 3, "   ");
}

static void bad_calls_write_nothing(void **state) {
    (void)state;
    tok_stream s;
    char out[TOK_STREAM_MAX];
    tok_stream_init(&s, toks[0], true);
    assert_int_equal(tok_stream_push(&s, -1, out, sizeof out), 0);
    assert_int_equal(tok_stream_push(&s, tok_vocab(toks[0]), out, sizeof out), 0);
    assert_int_equal(tok_stream_push(&s, name_id(toks[0], "a"), out, 16), 0);
    assert_int_equal(tok_stream_push(&s, name_id(toks[0], "a"), out, sizeof out), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stream_equals_decode),
        cmocka_unit_test(no_byte_is_lost),
        cmocka_unit_test(characters_wait_until_complete),
        cmocka_unit_test(spoiled_characters),
        cmocka_unit_test(leading_space),
        cmocka_unit_test(bad_calls_write_nothing),
    };
    return cmocka_run_group_tests_name("tok_stream", tests, open_models, close_models);
}
