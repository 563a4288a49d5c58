/* Malformed and hostile tokenizer files: each is one clean error before SentencePiece sees it, and
 * those that crash the library die in the child process when our scan is left out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/proto_writer.h"
#include "tokenizer/tok.h"
#include "tokenizer/tok_probe.h"
#include "tokenizer/tok_proto.h"
#include "tokenizer/tok_spm.h"

static tnl_status scan(const pw_buf *b, tnl_error *err) {
    tok_proto p;
    tnl_status st = tok_proto_scan(&p, b->p, b->n, err);
    tok_proto_free(&p);
    return st;
}

/* The file is refused with a line that contains `words`; frees it. */
static void refuse(pw_buf *b, const char *words) {
    tnl_error err = {TNL_OK, ""};
    tnl_status st = scan(b, &err);
    pw_free(b);
    if (st == TNL_OK)
        fail_msg("accepted, expected: %s", words);
    if (!strstr(err.msg, words))
        fail_msg("\"%s\" does not contain \"%s\"", err.msg, words);
    assert_true(st == TNL_E_DATA || st == TNL_E_UNSUPPORTED);
    assert_int_equal(err.code, st);
}

static void accept(const pw_buf *b) {
    tnl_error err = {TNL_OK, ""};
    if (scan(b, &err) != TNL_OK)
        fail_msg("refused: %s", err.msg);
}

/* What the library makes of the bytes, in the child. */
static void probe_refuses(const pw_buf *b, const char *words) {
    tnl_error err = {TNL_OK, ""};
    static const char sample[] =
        "\xE2\x96\x81"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    tnl_status st = tok_probe(b->p, b->n, sample, sizeof sample - 1, &err);
    if (st == TNL_OK || !strstr(err.msg, words))
        fail_msg("status %d, \"%s\" does not contain \"%s\"", (int)st, err.msg, words);
}

static void probe_accepts(const pw_buf *b) {
    tnl_error err = {TNL_OK, ""};
    if (tok_probe(b->p, b->n, "abc", 3, &err) != TNL_OK)
        fail_msg("the library refused: %s", err.msg);
}

/* ---- what is right is accepted ---- */

static void small_models(void **state) {
    (void)state;
    for (int type = PW_UNIGRAM; type <= PW_BPE; type++) {
        pw_buf b = {0};
        pw_base(&b, type);
        accept(&b);
        probe_accepts(&b);
        pw_byte_pieces(&b, 256);
        pw_setting(&b, PW_TRAINER, 35, 1);
        accept(&b);
        probe_accepts(&b);
        pw_free(&b);
    }
}

static void fields_are_read(void **state) {
    (void)state;
    pw_buf b = {0}, m = {0};
    pw_base(&b, PW_BPE);
    pw_piece(&b, "<end>", 0, 3);
    pw_bytes(&m, 47, "<end>", 5);
    pw_bytes(&m, 44, "?", 1);
    pw_bytes(&b, PW_TRAINER, m.p, m.n);
    pw_setting(&b, PW_NORMALIZER, 3, 0);
    pw_setting(&b, PW_NORMALIZER, 4, 0);
    pw_setting(&b, 77, 1, 1); /* unknown to us: stepped over */
    tok_proto p;
    assert_int_equal(tok_proto_scan(&p, b.p, b.n, NULL), TNL_OK);
    assert_int_equal(p.n_rows, 31);
    assert_int_equal(p.model_type, 2);
    assert_int_equal(p.unk, 0);
    assert_int_equal(p.bos, 1);
    assert_int_equal(p.eos, 30);
    assert_int_equal(p.pad, -1);
    assert_false(p.add_dummy_prefix);
    assert_false(p.remove_extra_whitespaces);
    assert_true(p.escape_whitespaces);
    assert_int_equal(p.unk_surface.n, 1);
    assert_int_equal(p.rows[4].n, 1);
    assert_int_equal(p.rows[4].text[0], 'a');
    assert_true(p.rows[4].score == -1.0f);
    tok_proto_free(&p);
    pw_free(&m);
    pw_free(&b);
}

/* A hand-made trie means to the library what it means to our check: "a" becomes "b". */
static void trie_layout(void **state) {
    (void)state;
    pw_buf b = {0};
    pw_trie t;
    pw_base(&b, PW_BPE);
    pw_trie_init(&t);
    uint32_t root = pw_trie_block(&t), a = pw_rule(&t, root, 'a', 0);
    pw_rule(&t, a, 'c', 2);
    pw_charsmap(&b, &t, "b\0xyz", 6);
    accept(&b);
    tok_spm *spm;
    int32_t *ids;
    size_t n;
    assert_int_equal(tok_spm_open(&spm, b.p, b.n, NULL), TNL_OK);
    assert_int_equal(tok_spm_encode(spm, "aac", 3, &ids, &n, NULL), TNL_OK);
    const int32_t want[] = {3, 4 + 1, 4 + 23, 4 + 24, 4 + 25};
    assert_int_equal(n, 5);
    assert_memory_equal(ids, want, sizeof want);
    free(ids);
    tok_spm_close(spm);
    pw_free(&b);
}

/* ---- T1 to T11: the library has a clean error; so have we ---- */

static void t1_empty(void **state) {
    (void)state;
    pw_buf b = {0};
    refuse(&b, "0 bytes");
}

static void t2_truncated(void **state) {
    (void)state;
    pw_buf b = {0};
    pw_base(&b, PW_BPE);
    size_t whole = b.n;
    /* Cut inside a message, never between two, where a shorter file is legal protobuf. */
    for (b.n = whole - 1; b.n > whole - 4; b.n--)
        assert_int_equal(scan(&b, NULL), TNL_E_DATA);
    b.n = 3;
    refuse(&b, "cut or malformed");
}

static void t3_trailing_junk(void **state) {
    (void)state;
    static const char *const junk[] = {"\x07", "\x03", "\x01", "\xFF\xFF\xFF", "\x0C", "\x0A\x7F"};
    for (size_t i = 0; i < sizeof junk / sizeof junk[0]; i++) {
        pw_buf b = {0};
        pw_base(&b, PW_BPE);
        pw_raw(&b, junk[i], strlen(junk[i]));
        refuse(&b, "byte ");
    }
    pw_buf b = {0};
    pw_base(&b, PW_BPE);
    pw_int(&b, 1, 7);
    refuse(&b, "wire type");
}

static void t4_length_lies(void **state) {
    (void)state;
    static const uint64_t lengths[] = {(uint64_t)1 << 40, UINT64_MAX, INT64_MAX, 1000};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        pw_buf b = {0};
        pw_base(&b, PW_BPE);
        pw_varint(&b, 1 << 3 | 2);
        pw_varint(&b, lengths[i]);
        pw_raw(&b, "abc", 3);
        refuse(&b, "cut or malformed");
    }
    pw_buf b = {0};
    pw_raw(&b, "\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", 11); /* 70 bits of length */
    refuse(&b, "cut or malformed");
}

static void t5_no_unknown(void **state) {
    (void)state;
    pw_buf b = {0};
    pw_piece(&b, "a", 0, 1);
    refuse(&b, "0 pieces of type unknown");
    pw_setting(&b, PW_TRAINER, 3, PW_BPE);
    refuse(&b, "no pieces");
}

static void t6_two_unknowns(void **state) {
    (void)state;
    pw_buf b = {0};
    pw_base(&b, PW_BPE);
    pw_piece(&b, "<unk2>", 0, 2);
    refuse(&b, "2 pieces of type unknown");
}

static void t7_duplicate(void **state) {
    (void)state;
    pw_buf b = {0};
    pw_base(&b, PW_BPE);
    pw_piece(&b, "a", -3, 1);
    refuse(&b, "same text");
    pw_base(&b, PW_BPE);
    pw_piece(&b, "<s>", -3, 4); /* also across types */
    refuse(&b, "same text");
}

static void t8_empty_piece(void **state) {
    (void)state;
    pw_buf b = {0};
    pw_base(&b, PW_BPE);
    pw_piece(&b, "", -3, 1);
    refuse(&b, "piece 30 has 0 bytes");
    pw_base(&b, PW_BPE);
    pw_bytes(&b, 1, "", 0);
    refuse(&b, "piece 30 has 0 bytes");
}

static void t9_partial_byte_fallback(void **state) {
    (void)state;
    pw_buf b = {0};
    pw_base(&b, PW_BPE);
    pw_setting(&b, PW_TRAINER, 35, 1);
    pw_byte_pieces(&b, 255);
    refuse(&b, "255 byte pieces");
    pw_base(&b, PW_BPE);
    pw_byte_pieces(&b, 256);
    refuse(&b, "byte fallback off");
    pw_base(&b, PW_BPE);
    pw_setting(&b, PW_TRAINER, 35, 1);
    refuse(&b, "0 byte pieces");
}

static void t10_short_charsmap(void **state) {
    (void)state;
    for (size_t n = 1; n < 8; n++) {
        pw_buf b = {0};
        pw_base(&b, PW_BPE);
        pw_charsmap_raw(&b, "\x04\0\0\0abcd", n);
        refuse(&b, "normaliser: trie of");
    }
}

static void t11_charsmap_length_lies(void **state) {
    (void)state;
    static const uint32_t sizes[] = {0, 4, 1020, 1025, 2048, 1024 * 1024, UINT32_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint8_t map[4 + 1024 + 4] = {0};
        memcpy(map, &sizes[i], 4);
        pw_buf b = {0};
        pw_base(&b, PW_BPE);
        pw_charsmap_raw(&b, map, sizeof map);
        refuse(&b, "normaliser: trie of");
    }
}

/* ---- T12 to T16: the library crashes ---- */

/* A trie of one block whose root unit is `root`. */
static void with_root(pw_buf *b, uint32_t root) {
    uint32_t map[1 + 256 + 1] = {1024, root};
    for (uint32_t i = 1; i < 256; i++)
        map[1 + i] = i ^ 1;
    pw_base(b, PW_BPE);
    pw_charsmap_raw(b, map, sizeof map - 1);
}

static void t12_bad_root(void **state) {
    (void)state;
    pw_buf b = {0};
    with_root(&b, 0x3FFFFFu << 10 | 0x200); /* about 2^30 units away */
    probe_refuses(&b, "crashed");
    refuse(&b, "normaliser: unit 0 points to unit");
    with_root(&b, 256u << 10); /* one block away */
    refuse(&b, "normaliser: unit 0 points to unit 256, the trie has 256");
}

static void t13_all_ones(void **state) {
    (void)state;
    static uint8_t map[4 + 1024 + 64];
    memset(map, 0xFF, sizeof map);
    memcpy(map, &(uint32_t){1024}, 4);
    map[sizeof map - 1] = 0;
    pw_buf b = {0};
    pw_base(&b, PW_BPE);
    pw_charsmap_raw(&b, map, sizeof map);
    probe_refuses(&b, "crashed");
    refuse(&b, "normaliser: ");
}

static void nested(pw_buf *b, int count) {
    char text[256];
    memset(text, 'a', sizeof text);
    pw_base(b, PW_BPE);
    for (int i = 2; i < 2 + count; i++)
        pw_piece_n(b, text, (size_t)i, 0, 4);
}

static void t14_nested_symbols(void **state) {
    (void)state;
    pw_buf b = {0};
    nested(&b, 118);
    tnl_error err;
    char sample[200];
    memset(sample, 'a', sizeof sample);
    assert_int_equal(tok_probe(b.p, b.n, sample, sizeof sample, &err), TNL_E_DATA);
    refuse(&b, "begins with more than 31 others");
    nested(&b, 33);
    refuse(&b, "begins with more than 31 others");
    nested(&b, 32);
    accept(&b);
    probe_accepts(&b);
    pw_free(&b);
}

static void long_piece(pw_buf *b, size_t n) {
    char *text = malloc(n);
    assert_non_null(text);
    memset(text, 'a', n);
    pw_base(b, PW_UNIGRAM);
    pw_piece_n(b, text, n, -1, 1);
    free(text);
}

static void t15_t16_huge_pieces(void **state) {
    (void)state;
    for (size_t n = (size_t)1 << 20; n <= (size_t)8 << 20; n *= 8) {
        pw_buf b = {0};
        long_piece(&b, n);
        probe_refuses(&b, "crashed");
        refuse(&b, "expected 1 to 256");
    }
}

static void t17_long_pieces(void **state) {
    (void)state;
    pw_buf b = {0};
    long_piece(&b, 100 * 1024);
    refuse(&b, "piece 30 has 102400 bytes, expected 1 to 256");
    long_piece(&b, 257);
    refuse(&b, "piece 30 has 257 bytes");
    long_piece(&b, 256);
    accept(&b);
    probe_accepts(&b);
    pw_free(&b);
}

/* ---- T18 to T22: the library accepts silently ---- */

static void bad_score(float score) {
    pw_buf b = {0};
    pw_base(&b, PW_UNIGRAM);
    pw_piece(&b, "ab", score, 1);
    refuse(&b, "piece 30 has score");
}

static void t18_t19_scores(void **state) {
    (void)state;
    static const uint32_t bits[] = {0x7FC00000, 0xFFC00001, 0x7F800000, 0xFF800000, 0x7F7FFFFF};
    for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++) {
        float f;
        memcpy(&f, &bits[i], 4);
        bad_score(f);
    }
}

static void t20_types(void **state) {
    (void)state;
    static const uint64_t types[] = {0, 7, 77, UINT64_MAX, ((uint64_t)1 << 32) + 1};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        pw_buf b = {0};
        pw_base(&b, PW_BPE);
        pw_piece(&b, "ab", 0, types[i]);
        refuse(&b, "piece 30 has type");
    }
}

static void t21_nul(void **state) {
    (void)state;
    pw_buf b = {0};
    pw_base(&b, PW_BPE);
    pw_piece_n(&b, "a\0b", 3, 0, 1);
    refuse(&b, "piece 30 contains a NUL byte");
}

static void t22_invalid_utf8(void **state) {
    (void)state;
    static const char *const bad[] = {"\xFF", "\xC0\x80", "a\xE2\x96", "\xED\xA0\x80",
                                      "\xF5\x80\x80\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        pw_buf b = {0};
        pw_base(&b, PW_BPE);
        pw_piece(&b, bad[i], 0, 1);
        refuse(&b, "piece 30 is not UTF-8");
    }
}

/* ---- T23: rules that blow a text up, and other tries ---- */

static void rules_of_one_byte(pw_buf *b, const void *texts, size_t n, uint32_t value) {
    pw_trie t;
    pw_base(b, PW_BPE);
    pw_trie_init(&t);
    pw_rule(&t, pw_trie_block(&t), 'a', value);
    pw_charsmap(b, &t, texts, n);
}

static void t23_explosion(void **state) {
    (void)state;
    static char texts[4097];
    memset(texts, 'b', sizeof texts - 1);
    pw_buf b = {0};
    rules_of_one_byte(&b, texts, sizeof texts, 0);
    refuse(&b, "makes more than 16 bytes out of 1");
    rules_of_one_byte(&b, texts, sizeof texts, 4096 - 17);
    refuse(&b, "makes more than 16 bytes out of 1");
    rules_of_one_byte(&b, texts, sizeof texts, 4096 - 16);
    accept(&b);
    probe_accepts(&b);
    pw_free(&b);
}

static void charsmap_texts(void **state) {
    (void)state;
    pw_buf b = {0};
    rules_of_one_byte(&b, "b", 2, 2);
    refuse(&b, "points to byte 2 of 2");
    rules_of_one_byte(&b, "b", 2, 0x7FFFFFFF);
    refuse(&b, "points to byte");
    rules_of_one_byte(&b, "b", 1, 0);
    refuse(&b, "not terminated");
    rules_of_one_byte(&b, "\xFF", 2, 0);
    refuse(&b, "text is not UTF-8");
}

static void charsmap_cycle(void **state) {
    (void)state;
    pw_buf b = {0};
    pw_trie t;
    pw_base(&b, PW_BPE);
    pw_trie_init(&t);
    uint32_t root = pw_trie_block(&t), x = pw_rule(&t, root, 'a', 0);
    pw_link(&t, x, 'a', x);
    pw_charsmap(&b, &t, "b", 2);
    refuse(&b, "cycle");
}

/* Rules for a, aa, aaa ...: the library's array of matches has 32 places. */
static void chain(pw_buf *b, int count) {
    pw_trie t;
    pw_base(b, PW_BPE);
    pw_trie_init(&t);
    uint32_t node = pw_trie_block(&t);
    for (int i = 0; i < count; i++)
        node = pw_rule(&t, node, 'a', 0);
    pw_charsmap(b, &t, "b", 2);
}

static void charsmap_nesting(void **state) {
    (void)state;
    pw_buf b = {0};
    chain(&b, 33);
    refuse(&b, "more than 32 rules");
    chain(&b, 300);
    refuse(&b, "normaliser: a rule longer than 256 bytes");
    chain(&b, 32);
    accept(&b);
    probe_accepts(&b);
    pw_free(&b);
}

/* Shared tails, as real tries have them: 2^30 paths must not take 2^30 steps. */
static void charsmap_shared_tails(void **state) {
    (void)state;
    pw_buf b = {0};
    pw_trie t;
    pw_base(&b, PW_BPE);
    pw_trie_init(&t);
    uint32_t node = pw_trie_block(&t);
    for (int i = 0; i < 30; i++) {
        uint32_t next = pw_trie_block(&t);
        pw_link(&t, node, 'a', next);
        pw_link(&t, node, 'b', next);
        node = next;
    }
    pw_rule(&t, node, 'c', 0);
    pw_charsmap(&b, &t, "b", 2);
    accept(&b);
    probe_accepts(&b);
    pw_free(&b);
}

/* ---- T24 to T27 ---- */

static void t24_model_types(void **state) {
    (void)state;
    static const uint64_t types[] = {0, 3, 4, 5, UINT64_MAX};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        pw_buf b = {0};
        pw_base(&b, PW_BPE);
        pw_setting(&b, PW_TRAINER, 3, types[i]);
        refuse(&b, "neither unigram nor BPE");
    }
    pw_buf b = {0};
    pw_base(&b, PW_BPE);
    pw_setting(&b, PW_TRAINER, 24, 1);
    refuse(&b, "spaces marked behind words");
    pw_base(&b, PW_BPE);
    pw_charsmap_raw(&b, "", 0);
    pw_buf m = {0};
    pw_bytes(&m, 2, "rules", 5);
    pw_bytes(&b, 5, m.p, m.n);
    pw_free(&m);
    refuse(&b, "denormaliser");
}

/* T25, the part the file decides: a special id exists only as a control piece of that name. (Ids
 * of config.json are compared with the number of pieces by the model's loader.) */
static void t25_special_ids(void **state) {
    (void)state;
    pw_buf b = {0};
    tok_proto p;
    pw_piece(&b, "<unk>", 0, 2);
    pw_piece(&b, "</s>", 0, 1); /* normal, not control */
    pw_piece(&b, "a", 0, 1);
    pw_setting(&b, PW_TRAINER, 42, 12345); /* eos_id: the library does not use it either */
    assert_int_equal(tok_proto_scan(&p, b.p, b.n, NULL), TNL_OK);
    assert_int_equal(p.bos, -1);
    assert_int_equal(p.eos, -1);
    assert_int_equal(p.n_rows, 3);
    tok_proto_free(&p);
    pw_free(&b);
}

static void t26_byte_spelling(void **state) {
    (void)state;
    static const char *const bad[] = {"<0x-1>",  "<0xZZ>", "<0x0a>", "<0X0A>", "<0x0A",
                                      "<0x0A>>", "a",      "<0x 1>", "<0x100>"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        pw_buf b = {0};
        pw_base(&b, PW_BPE);
        pw_setting(&b, PW_TRAINER, 35, 1);
        pw_byte_pieces(&b, 255);
        pw_piece(&b, bad[i], 0, 6);
        refuse(&b, "expected <0xHH>");
    }
    pw_buf b = {0}; /* 256 of them, one twice */
    pw_base(&b, PW_BPE);
    pw_setting(&b, PW_TRAINER, 35, 1);
    pw_byte_pieces(&b, 255);
    pw_piece(&b, "<0x00>", 0, 6);
    refuse(&b, "same text");
}

/* Every piece a prefix of the next, as far as the limits allow: the text is encoded whole. */
static void t27_identical_prefixes(void **state) {
    (void)state;
    static char text[65536];
    memset(text, 'a', sizeof text);
    for (int type = PW_UNIGRAM; type <= PW_BPE; type++) {
        pw_buf b = {0};
        pw_base(&b, type);
        for (size_t n = 2; n <= TOK_MAX_PIECE_BYTES; n++)
            pw_piece_n(&b, text, n, -(float)n, 1);
        accept(&b);
        tok_spm *spm;
        int32_t *ids;
        size_t n_ids;
        assert_int_equal(tok_spm_open(&spm, b.p, b.n, NULL), TNL_OK);
        assert_int_equal(tok_spm_encode(spm, text, sizeof text, &ids, &n_ids, NULL), TNL_OK);
        assert_in_range(n_ids, sizeof text / TOK_MAX_PIECE_BYTES, sizeof text);
        free(ids);
        tok_spm_close(spm);
        pw_free(&b);
    }
}

static void too_many_pieces(void **state) {
    (void)state;
    pw_buf b = {0};
    pw_base(&b, PW_BPE);
    for (uint32_t i = 0; i < TOK_MAX_PIECES; i++) {
        char name[16];
        snprintf(name, sizeof name, "p%x", i);
        pw_piece(&b, name, 0, 1);
    }
    refuse(&b, "more than 1048576 pieces");
}

/* ---- T28: mutants ---- */

static uint64_t next_random(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static pw_buf load_fixture(const char *name) {
    char path[4096];
    const char *root = getenv("TNL_TEST_ROOT");
    snprintf(path, sizeof path, "%s/tests/data/%s/tokenizer.model", root ? root : ".", name);
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("%s: cannot open", path);
    pw_buf b = {0};
    char part[4096];
    size_t n;
    while ((n = fread(part, 1, sizeof part, f)) > 0)
        pw_raw(&b, part, n);
    fclose(f);
    return b;
}

static void mutate(pw_buf *b, uint64_t *seed) {
    for (uint64_t k = next_random(seed) % 3 + 1; k > 0; k--) {
        size_t at = next_random(seed) % b->n;
        switch (next_random(seed) % 4) {
        case 0:
            b->p[at] = (uint8_t)next_random(seed);
            break;
        case 1:
            b->p[at] ^= (uint8_t)(1u << next_random(seed) % 8);
            break;
        case 2: /* repeat a stretch over another */
            memmove(b->p + at, b->p + next_random(seed) % (at + 1), (b->n - at) / 16);
            break;
        default:
            b->p[b->n - 1 - at % 512] ^= 0x10; /* the settings and the trie are at the end */
            break;
        }
    }
}

/* What our scan accepts the library survives: mutants that pass go through the child, which may
 * refuse them but must not crash. TNL_TEST_MUTANTS sets how many are made of each fixture. */
static void t28_mutants(void **state) {
    (void)state;
    const char *want = getenv("TNL_TEST_MUTANTS");
    long count = want ? strtol(want, NULL, 10) : 3000, probes = want ? count : 40, accepted = 0;
    uint64_t seed = 314159;
    print_message("seed %llu\n", (unsigned long long)seed);
    static const char *const names[] = {"tok_unigram", "tok_bpe"};
    for (int f = 0; f < 2; f++) {
        pw_buf whole = load_fixture(names[f]);
        for (long i = 0, probed = 0; i < count; i++) {
            pw_buf b = {0};
            pw_raw(&b, whole.p, whole.n);
            mutate(&b, &seed);
            tnl_error err = {TNL_OK, ""};
            bool ok = scan(&b, &err) == TNL_OK;
            accepted += ok;
            assert_true(ok || err.msg[0] != '\0');
            if (ok && probed++ < probes && tok_probe(b.p, b.n, "abc", 3, &err) != TNL_OK &&
                strstr(err.msg, "trial load"))
                fail_msg("mutant %ld of %s: %s", i, names[f], err.msg);
            pw_free(&b);
        }
        pw_free(&whole);
    }
    print_message("%ld of %ld mutants accepted\n", accepted, 2 * count);
    assert_in_range(accepted, 1, 2 * count - 1);
}

/* ---- the whole way through tok_open ---- */

static void open_reports_path_and_reason(void **state) {
    (void)state;
    char dir[] = "/tmp/tnl-tok-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/tokenizer.model", dir);
    pw_buf b = {0};
    pw_base(&b, PW_BPE);
    pw_piece(&b, "ab", 0, 77);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(b.p, 1, b.n, f), b.n);
    fclose(f);
    tok_model *t;
    tnl_error err;
    assert_int_equal(tok_open(&t, dir, &err), TNL_E_DATA);
    assert_null(t);
    assert_non_null(strstr(err.msg, path));
    assert_non_null(strstr(err.msg, "piece 30 has type 77, expected 1 to 6"));
    unlink(path);
    rmdir(dir);
    pw_free(&b);
}

/* The library finds a control piece of one character in a text, and then fails to encode it. */
static void control_letter(void **state) {
    (void)state;
    static const char *const letters[] = {"Z", "\n", "\xE4\xBD\xA0"};
    for (size_t i = 0; i < sizeof letters / sizeof letters[0]; i++) {
        pw_buf b = {0};
        pw_base(&b, PW_BPE);
        pw_piece(&b, letters[i], 0, 3);
        refuse(&b, "piece 30 is a control piece of one character");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_models),
        cmocka_unit_test(fields_are_read),
        cmocka_unit_test(trie_layout),
        cmocka_unit_test(t1_empty),
        cmocka_unit_test(t2_truncated),
        cmocka_unit_test(t3_trailing_junk),
        cmocka_unit_test(t4_length_lies),
        cmocka_unit_test(t5_no_unknown),
        cmocka_unit_test(t6_two_unknowns),
        cmocka_unit_test(t7_duplicate),
        cmocka_unit_test(t8_empty_piece),
        cmocka_unit_test(t9_partial_byte_fallback),
        cmocka_unit_test(t10_short_charsmap),
        cmocka_unit_test(t11_charsmap_length_lies),
        cmocka_unit_test(t12_bad_root),
        cmocka_unit_test(t13_all_ones),
        cmocka_unit_test(t14_nested_symbols),
        cmocka_unit_test(t15_t16_huge_pieces),
        cmocka_unit_test(t17_long_pieces),
        cmocka_unit_test(t18_t19_scores),
        cmocka_unit_test(t20_types),
        cmocka_unit_test(t21_nul),
        cmocka_unit_test(t22_invalid_utf8),
        cmocka_unit_test(t23_explosion),
        cmocka_unit_test(charsmap_texts),
        cmocka_unit_test(charsmap_cycle),
        cmocka_unit_test(charsmap_nesting),
        cmocka_unit_test(charsmap_shared_tails),
        cmocka_unit_test(t24_model_types),
        cmocka_unit_test(t25_special_ids),
        cmocka_unit_test(t26_byte_spelling),
        cmocka_unit_test(t27_identical_prefixes),
        cmocka_unit_test(too_many_pieces),
        cmocka_unit_test(t28_mutants),
        cmocka_unit_test(open_reports_path_and_reason),
        cmocka_unit_test(control_letter),
    };
    return cmocka_run_group_tests_name("tok_proto", tests, NULL, NULL);
}
