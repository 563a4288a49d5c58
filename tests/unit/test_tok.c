/* The tokenizer on two small models (tests/data/make_tokenizers.py): ids and texts as the
 * SentencePiece package for Python gave them, special pieces, limits, errors of opening. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/base/utf8.h"
#include "tokenizer/tok.h"
#include "tokenizer/tok_spm.h"

typedef struct golden {
    const char *text, *decoded;
    size_t n;
    int32_t ids[32];
} golden;

static const golden tok_bpe_rows[] = {
    {"", "", 0, {0}},
    {"Once upon a time there was a king.",
     "Once upon a time there was a king.",
     11,
     {609, 440, 406, 263, 261, 520, 564, 335, 263, 550, 669}},
    {"  two  spaces\011and a tab",
     "  two  spaces\011and a tab",
     13,
     {646, 646, 532, 651, 646, 531, 306, 312, 14, 368, 263, 261, 577}},
    {"<tale> and <tale>s 1234",
     "<tale> and <tale>s 1234",
     10,
     {646, 3, 275, 646, 4, 646, 54, 55, 56, 57}},
    {"h\303\251 \357\274\241\357\275\202\357\275\203\342\200\246 \357\267\272 e\314\201",
     "h\303\251 \357\274\241\357\275\202\357\275\203\342\200\246 \357\267\272 e\314\201",
     23,
     {277, 200, 174, 646, 244, 193, 166, 244, 194, 135, 244, 194,
      136, 231, 133, 171, 646, 244, 188, 191, 353, 209, 134}},
    {"\344\275\240\345\245\275 \360\237\230\200",
     "\344\275\240\345\245\275 \360\237\230\200",
     12,
     {646, 233, 194, 165, 234, 170, 194, 646, 245, 164, 157, 133}},
    {"</s> <s> <unk> <0x0A>", "</s> <s> <unk> <0x0A>", 22, {646, 65,  52,  654, 67,  646, 65, 654,
                                                            67,  646, 65,  658, 650, 671, 67, 646,
                                                            65,  53,  696, 53,  677, 67}},
    {"line\012\012break", "line\012\012break", 9, {315, 265, 647, 15, 15, 667, 272, 648, 671}},
    {"\342\226\201mark", " mark", 3, {646, 431, 671}},
    {" ", " ", 2, {646, 646}},
};
static const golden tok_unigram_rows[] = {
    {"", "", 0, {0}},
    {"Once upon a time there was a king.",
     "Once upon a time there was a king.",
     14,
     {460, 363, 310, 301, 265, 386, 368, 348, 515, 291, 262, 265, 422, 264}},
    {"  two  spaces\011and a tab",
     "two spaces and a tab",
     13,
     {386, 598, 325, 304, 369, 309, 363, 262, 263, 265, 386, 309, 365}},
    {"<tale> and <tale>s 1234",
     "<tale> and <tale>s 1234",
     19,
     {261, 63, 271, 360, 272, 65, 263, 261, 63, 271, 360, 272, 65, 262, 261, 52, 53, 54, 55}},
    {"h\303\251 \357\274\241\357\275\202\357\275\203\342\200\246 \357\267\272 e\314\201",
     "h\303\251 Abc... sallallahou alayhe wasallam \303\251",
     27,
     {297, 198, 172, 407, 365, 503, 264, 264, 264, 304, 549, 549, 309, 454,
      497, 508, 309, 268, 454, 272, 291, 262, 549, 406, 261, 198, 172}},
    {"\344\275\240\345\245\275 \360\237\230\200",
     "\344\275\240\345\245\275 \360\237\230\200",
     12,
     {261, 231, 192, 163, 232, 168, 192, 261, 243, 162, 155, 131}},
    {"</s> <s> <unk> <0x0A>", "</s> <s> <unk> <0x0A>", 22, {261, 63,  50,  262, 65,  261, 63, 262,
                                                            65,  261, 63,  582, 285, 443, 65, 261,
                                                            63,  51,  586, 51,  532, 65}},
    {"line\012\012break", "line break", 7, {437, 285, 272, 322, 302, 309, 443}},
    {"\342\226\201mark", "mark", 4, {261, 284, 429, 443}},
    {" ", "", 0, {0}},
};

typedef struct fixture {
    const char *name;
    tok_model *tok;
    const golden *rows;
    size_t n_rows;
} fixture;

static fixture fixtures[] = {
    {"tok_bpe", NULL, tok_bpe_rows, sizeof tok_bpe_rows / sizeof tok_bpe_rows[0]},
    {"tok_unigram", NULL, tok_unigram_rows, sizeof tok_unigram_rows / sizeof tok_unigram_rows[0]},
};
enum { N_FIXTURES = sizeof fixtures / sizeof fixtures[0] };

static const char *data_root(void) {
    const char *root = getenv("TNL_TEST_ROOT");
    return root ? root : ".";
}

static int open_fixtures(void **state) {
    (void)state;
    for (int i = 0; i < N_FIXTURES; i++) {
        char dir[4096];
        tnl_error err;
        snprintf(dir, sizeof dir, "%s/tests/data/%s", data_root(), fixtures[i].name);
        if (tok_open(&fixtures[i].tok, dir, &err) != TNL_OK) {
            fprintf(stderr, "%s\n", err.msg);
            return -1;
        }
    }
    return 0;
}

static int close_fixtures(void **state) {
    (void)state;
    for (int i = 0; i < N_FIXTURES; i++)
        tok_close(fixtures[i].tok);
    return 0;
}

/* ---- ids and texts ---- */

static void check_row(const fixture *f, const golden *g) {
    int32_t *ids = NULL;
    char *text = NULL;
    size_t n_ids = 0, n = 0;
    tnl_error err;
    assert_int_equal(tok_encode(f->tok, g->text, strlen(g->text), &ids, &n_ids, &err), TNL_OK);
    assert_int_equal(n_ids, g->n);
    assert_memory_equal(ids, g->ids, n_ids * sizeof *ids);
    assert_int_equal(tok_decode(f->tok, ids, n_ids, &text, &n, &err), TNL_OK);
    assert_string_equal(text, g->decoded);
    assert_int_equal(n, strlen(g->decoded));
    free(ids);
    free(text);
}

static void golden_rows(void **state) {
    (void)state;
    for (int i = 0; i < N_FIXTURES; i++)
        for (size_t r = 0; r < fixtures[i].n_rows; r++)
            check_row(&fixtures[i], &fixtures[i].rows[r]);
}

/* The BPE model changes nothing: a text comes back byte for byte, whatever it contains. */
static void round_trip(const tok_model *tok, const char *text, size_t len) {
    int32_t *ids;
    char *back;
    size_t n_ids, n;
    tnl_error err;
    assert_int_equal(tok_encode(tok, text, len, &ids, &n_ids, &err), TNL_OK);
    assert_int_equal(tok_decode(tok, ids, n_ids, &back, &n, &err), TNL_OK);
    assert_int_equal(n, len);
    assert_memory_equal(back, text, len);
    free(ids);
    free(back);
}

static uint64_t next_random(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static size_t put_char(char *out, uint32_t c) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3F));
    out[0] = (char)((0xF00u >> n & 0xF0u) | c);
    return n;
}

/* Any character but U+2581, which is how the vocabulary writes a space. */
static uint32_t random_char(uint64_t *s) {
    static const uint32_t limit[] = {0x80, 0x80, 0x80, 0x800, 0x10000, 0x110000};
    for (;;) {
        uint32_t c = (uint32_t)(next_random(s) % limit[next_random(s) % 6]);
        if (c != 0x2581 && (c < 0xD800 || c > 0xDFFF))
            return c;
    }
}

static void random_round_trips(void **state) {
    (void)state;
    uint64_t seed = 20240229;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < 500; i++) {
        char text[400];
        size_t n = 0, chars = next_random(&seed) % 100;
        for (size_t c = 0; c < chars; c++)
            n += put_char(text + n, random_char(&seed));
        assert_true(tnl_utf8_valid(text, n));
        round_trip(fixtures[0].tok, text, n);
    }
}

static void long_runs(void **state) {
    (void)state;
    static const char *const units[] = {"a", " ", "\xE4\xBD\xA0", "\xF0\x9F\x98\x80", "ab ", "\n"};
    for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
        size_t len = strlen(units[u]), n = 65536 / len * len;
        char *text = malloc(n);
        assert_non_null(text);
        for (size_t i = 0; i < n; i += len)
            memcpy(text + i, units[u], len);
        round_trip(fixtures[0].tok, text, n);
        free(text);
    }
}

/* ---- long texts are encoded in parts; the ids are those of the library for the whole ---- */

static size_t read_model(const char *name, uint8_t *bytes, size_t cap) {
    char path[4096];
    snprintf(path, sizeof path, "%s/tests/data/%s/tokenizer.model", data_root(), name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(bytes, 1, cap, f);
    fclose(f);
    return n;
}

static tok_spm *open_spm(const uint8_t *bytes, size_t n) {
    tok_spm *spm;
    assert_int_equal(tok_spm_open(&spm, bytes, n, NULL), TNL_OK);
    return spm;
}

/* tok_open of bytes that are in no folder yet. */
static tok_model *open_bytes(const uint8_t *bytes, size_t n) {
    char dir[] = "/tmp/tnl-tok-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/tokenizer.model", dir);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
    tok_model *t;
    tnl_error err = {TNL_OK, ""};
    if (tok_open(&t, dir, &err) != TNL_OK)
        fail_msg("%s", err.msg);
    unlink(path);
    rmdir(dir);
    return t;
}

static void same_ids(const tok_model *t, const tok_spm *spm, const char *text, size_t n) {
    int32_t *ours, *whole;
    size_t n_ours, n_whole;
    assert_int_equal(tok_encode(t, text, n, &ours, &n_ours, NULL), TNL_OK);
    assert_int_equal(tok_spm_encode(spm, text, n, &whole, &n_whole, NULL), TNL_OK);
    assert_int_equal(n_ours, n_whole);
    assert_memory_equal(ours, whole, n_whole * sizeof *whole);
    free(ours);
    free(whole);
}

/* Words, runs of spaces and marks, user-defined pieces, in every order. */
static size_t random_words(uint64_t *s, char *out, size_t cap) {
    static const char *const words[] = {
        " ",      "  ",      "the",          "king", " the", "\n",       "a",
        "<tale>", "<tale>s", "\xE2\x96\x81", "    ", "</s",  "\xC3\xA9", "\xF0\x9F\x98\x80",
        " upon"};
    size_t n = 0;
    for (;;) {
        const char *w = words[next_random(s) % (sizeof words / sizeof words[0])];
        if (n + strlen(w) > cap)
            return n;
        memcpy(out + n, w, strlen(w));
        n += strlen(w);
    }
}

static void check_parts(const tok_model *t, const tok_spm *spm, uint64_t *seed) {
    static char text[100000];
    for (int i = 0; i < 60; i++)
        same_ids(t, spm, text, random_words(seed, text, 1000 * (size_t)(i + 1)));
    memset(text, 'a', 8192); /* the first place to cut is the very end */
    memcpy(text + 8192, " ", 1);
    same_ids(t, spm, text, 8193);
    memcpy(text + 8192, "  b", 3);
    same_ids(t, spm, text, 8195);
    same_ids(t, spm, text, 8194);
}

static void parts_equal_whole(void **state) {
    (void)state;
    uint64_t seed = 99;
    print_message("seed %llu\n", (unsigned long long)seed);
    static uint8_t bytes[65536];
    for (int f = 0; f < N_FIXTURES; f++) {
        tok_spm *spm = open_spm(bytes, read_model(fixtures[f].name, bytes, sizeof bytes));
        check_parts(fixtures[f].tok, spm, &seed);
        tok_spm_close(spm);
    }
    /* The BPE model once more, with a last field that turns the space in front off. */
    size_t n = read_model("tok_bpe", bytes, sizeof bytes - 4);
    memcpy(bytes + n, "\x1A\x02\x18\x00", 4);
    tok_spm *spm = open_spm(bytes, n + 4);
    tok_model *t = open_bytes(bytes, n + 4);
    assert_false(tok_dummy_prefix(t));
    check_parts(t, spm, &seed);
    tok_close(t);
    tok_spm_close(spm);
}

/* ---- one model, several threads ---- */

static void *encode_and_decode(void *arg) {
    (void)arg;
    bool failed = false;
    for (int round = 0; round < 50; round++) {
        for (int f = 0; f < N_FIXTURES; f++) {
            const golden *g = &fixtures[f].rows[(size_t)round % fixtures[f].n_rows];
            int32_t *ids = NULL;
            char *text = NULL;
            size_t n_ids, n;
            if (tok_encode(fixtures[f].tok, g->text, strlen(g->text), &ids, &n_ids, NULL) ||
                n_ids != g->n || memcmp(ids, g->ids, n_ids * sizeof *ids) != 0 ||
                tok_decode(fixtures[f].tok, ids, n_ids, &text, &n, NULL) ||
                strcmp(text, g->decoded) != 0)
                failed = true;
            free(ids);
            free(text);
        }
    }
    return failed ? (void *)fixtures : NULL; /* cmocka's assertions belong to the main thread */
}

static void threads_share_a_model(void **state) {
    (void)state;
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_and_decode, NULL), 0);
    for (int i = 0; i < 4; i++) {
        void *result;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_null(result);
    }
}

/* ---- special pieces ---- */

static void specials(void **state) {
    (void)state;
    for (int i = 0; i < N_FIXTURES; i++) {
        const tok_model *t = fixtures[i].tok;
        assert_int_equal(tok_unk(t), 0);
        assert_int_equal(tok_bos(t), 1);
        assert_int_equal(tok_eos(t), 2);
        assert_true(tok_dummy_prefix(t));
        assert_string_equal(tok_piece_name(t, 1), "<s>");
        assert_string_equal(tok_piece_name(t, 2), "</s>");
        assert_null(tok_piece_name(t, -1));
        assert_null(tok_piece_name(t, tok_vocab(t)));
    }
    assert_int_equal(tok_vocab(fixtures[0].tok), 700);
    assert_int_equal(tok_vocab(fixtures[1].tok), 600);
}

static void special_text_stays_text(void **state) {
    (void)state;
    static const char *const texts[] = {"</s>", "<s>", "a</s>b", "<s></s>", "<unk>", "<0x0A>"};
    for (int i = 0; i < N_FIXTURES; i++) {
        for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++) {
            int32_t *ids;
            size_t n;
            assert_int_equal(
                tok_encode(fixtures[i].tok, texts[k], strlen(texts[k]), &ids, &n, NULL), TNL_OK);
            for (size_t j = 0; j < n; j++)
                assert_true(ids[j] > 2 && ids[j] != 3 + 0x0A);
            free(ids);
        }
    }
}

static void pieces(void **state) {
    (void)state;
    const tok_model *t = fixtures[0].tok;
    size_t n;
    const char *p = tok_piece(t, 2, &n); /* control */
    assert_int_equal(n, 0);
    p = tok_piece(t, 263, &n); /* the golden row has it before "king" */
    assert_string_equal(tok_piece_name(t, 263), "\xE2\x96\x81"
                                                "a");
    assert_int_equal(n, 2);
    assert_memory_equal(p, " a", 2);
    int bytes = 0;
    for (int32_t id = 0; id < tok_vocab(t); id++) {
        if (strncmp(tok_piece_name(t, id), "<0x", 3) != 0)
            continue;
        p = tok_piece(t, id, &n);
        assert_int_equal(n, 1);
        assert_int_equal((unsigned char)*p, strtoul(tok_piece_name(t, id) + 3, NULL, 16));
        bytes++;
    }
    assert_int_equal(bytes, 256);
    tok_piece(t, -1, &n);
    assert_int_equal(n, 0);
    tok_piece(t, INT32_MAX, &n);
    assert_int_equal(n, 0);
}

static void unknown_has_a_surface(void **state) {
    (void)state;
    char *text;
    size_t n;
    int32_t unk = 0;
    assert_int_equal(tok_decode(fixtures[0].tok, &unk, 1, &text, &n, NULL), TNL_OK);
    assert_string_equal(text, " \xE2\x81\x87 ");
    free(text);
}

/* ---- limits and errors ---- */

static void huge_text_is_refused_before_it_is_read(void **state) {
    (void)state;
    static const size_t lengths[] = {(size_t)1 << 31, ((size_t)1 << 32) + 1, SIZE_MAX};
    for (size_t i = 0; i < 3; i++) {
        int32_t *ids = NULL;
        size_t n;
        tnl_error err;
        assert_int_equal(tok_encode(fixtures[0].tok, "x", lengths[i], &ids, &n, &err), TNL_E_LIMIT);
        assert_null(ids);
    }
}

static void decode_names_the_bad_id(void **state) {
    (void)state;
    const int32_t ids[3] = {5, 700, 6}, negative[1] = {-1};
    char *text = NULL;
    size_t n;
    tnl_error err;
    assert_int_not_equal(tok_decode(fixtures[0].tok, ids, 3, &text, &n, &err), TNL_OK);
    assert_non_null(strstr(err.msg, "token 1"));
    assert_non_null(strstr(err.msg, "700"));
    assert_int_not_equal(tok_decode(fixtures[0].tok, negative, 1, &text, &n, &err), TNL_OK);
    assert_null(text);
}

static void missing_model(void **state) {
    (void)state;
    tok_model *t = (tok_model *)&t;
    tnl_error err;
    assert_int_equal(tok_open(&t, "/nonexistent", &err), TNL_E_NO_INPUT);
    assert_null(t);
    assert_non_null(strstr(err.msg, "/nonexistent/tokenizer.model"));
    tok_close(NULL);
}

/* A FIFO or a folder in place of the file is an error, not a wait. */
static void not_a_file(void **state) {
    (void)state;
    char dir[] = "/tmp/tnl-tok-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/tokenizer.model", dir);
    tok_model *t;
    tnl_error err;
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(tok_open(&t, dir, &err), TNL_E_DATA);
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(tok_open(&t, dir, &err), TNL_E_DATA);
    rmdir(path);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fclose(f);
    assert_int_equal(tok_open(&t, dir, &err), TNL_E_DATA);
    unlink(path);
    rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_rows),
        cmocka_unit_test(random_round_trips),
        cmocka_unit_test(long_runs),
        cmocka_unit_test(parts_equal_whole),
        cmocka_unit_test(threads_share_a_model),
        cmocka_unit_test(specials),
        cmocka_unit_test(special_text_stays_text),
        cmocka_unit_test(pieces),
        cmocka_unit_test(unknown_has_a_surface),
        cmocka_unit_test(huge_text_is_refused_before_it_is_read),
        cmocka_unit_test(decode_names_the_bad_id),
        cmocka_unit_test(missing_model),
        cmocka_unit_test(not_a_file),
    };
    return cmocka_run_group_tests_name("tok", tests, open_fixtures, close_fixtures);
}
