/* A session's file: what is written comes back, and anything else is refused before there is a
 * snapshot: cut, longer, every byte of the header altered, altered and sealed again, of another
 * model, token ids that are none. Digests against published vectors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/engine/states/session_file.h"

enum { VOCAB = 1000, BLOCK = 16, CORE = 4096, N = 75, POS = 64, FILE_BYTES = 256 + 4 * N + CORE };

static eng_session_codec codec = {.vocab = VOCAB, .block = BLOCK, .core_bytes = CORE};
static atomic_size_t account;

static uint64_t next(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* A file in memory. */
static int file_of(const uint8_t *data, size_t n) {
    int fd = memfd_create("session", MFD_CLOEXEC);
    assert_true(fd >= 0 && write(fd, data, n) == (ssize_t)n);
    return fd;
}

static eng_snapshot *example(void) {
    eng_snapshot *s = eng_snapshot_new(&account, N, POS, CORE);
    assert_non_null(s);
    for (int i = 0; i < N; i++)
        s->tokens[i] = i * 13 % VOCAB;
    for (size_t i = 0; i < CORE / sizeof(float); i++)
        ((float *)s->core)[i] = (float)i * 0.25f - 3;
    return s;
}

static void write_example(uint8_t out[FILE_BYTES], const eng_snapshot *s) {
    const eng_session_meta m = {.id = {{1, 2, 3}}, .key = 9, .created = 5, .used = 6};
    tnl_error err = {0};
    int fd = memfd_create("session", MFD_CLOEXEC);
    assert_int_equal(eng_session_file_write(fd, &codec, &m, s, &err), TNL_OK);
    assert_int_equal(lseek(fd, 0, SEEK_END), FILE_BYTES);
    assert_int_equal(pread(fd, out, FILE_BYTES, 0), FILE_BYTES);
    close(fd);
}

static void make(uint8_t out[FILE_BYTES]) {
    eng_snapshot *s = example();
    write_example(out, s);
    eng_snapshot_unref(s);
}

/* Refused by each of the readers that look at the part, nothing kept. */
static tnl_status refused(const uint8_t *data, size_t n) {
    eng_session_meta m;
    eng_snapshot *s;
    tnl_error err = {0};
    int fd = file_of(data, n);
    tnl_status st = eng_session_file_read(&s, &m, fd, &codec, &account, &err);
    assert_int_not_equal(st, TNL_OK);
    assert_int_equal(err.code, st);
    assert_true(strlen(err.msg) > 0);
    assert_null(s);
    assert_int_equal(atomic_load(&account), 0);
    close(fd);
    return st;
}

/* Sealed as the folder's own. */
static void seal_again(uint8_t *data) {
    tnl_hmac_sha256(data + 224, codec.secret, data, 224);
}

static void set_i64(uint8_t *data, size_t at, int64_t v) {
    memcpy(data + at, &v, sizeof v);
}

/* ---- tests ---- */

static void test_there_and_back(void **unused) {
    (void)unused;
    uint8_t data[FILE_BYTES], again[FILE_BYTES];
    eng_session_meta m;
    eng_snapshot *s;
    int32_t *tokens;
    tnl_error err = {0};
    make(data);
    int fd = file_of(data, sizeof data);
    assert_int_equal(eng_session_file_head(&m, fd, &codec, &err), TNL_OK);
    assert_int_equal(m.n, N);
    assert_int_equal(m.pos, POS);
    assert_int_equal(m.key, 9);
    assert_int_equal(m.created, 5);
    assert_int_equal(m.used, 6);
    assert_int_equal(eng_session_file_read(&s, &m, fd, &codec, &account, &err), TNL_OK);
    write_example(again, s);
    assert_memory_equal(data, again, sizeof data);
    assert_int_equal(eng_session_file_text(&tokens, &m, fd, &codec, &err), TNL_OK);
    assert_memory_equal(tokens, s->tokens, N * sizeof *tokens);
    free(tokens);
    eng_snapshot_unref(s);
    close(fd);
}

static void test_every_length(void **unused) {
    (void)unused;
    uint8_t data[FILE_BYTES + 1] = {0};
    make(data);
    for (size_t n = 0; n < FILE_BYTES; n += n < 600 ? 1 : 97)
        assert_int_equal(refused(data, n), TNL_E_DATA);
    assert_int_equal(refused(data, FILE_BYTES + 1), TNL_E_DATA);
}

static void test_every_header_byte(void **unused) {
    (void)unused;
    uint8_t data[FILE_BYTES];
    for (size_t at = 0; at < 256; at++) {
        make(data);
        data[at] ^= 1;
        assert_int_equal(refused(data, sizeof data), TNL_E_DATA);
        data[at] ^= 0x81;
        assert_int_equal(refused(data, sizeof data), TNL_E_DATA);
    }
}

static void test_payload_flips(void **unused) {
    (void)unused;
    uint8_t data[FILE_BYTES];
    uint64_t g = 424242;
    print_message("seed %llu\n", (unsigned long long)g);
    make(data);
    for (int i = 0; i < 1000; i++) {
        size_t at = 256 + next(&g) % (FILE_BYTES - 256);
        uint8_t bit = (uint8_t)(1u << next(&g) % 8);
        data[at] ^= bit;
        assert_int_equal(refused(data, sizeof data), TNL_E_DATA);
        data[at] ^= bit;
    }
}

/* Offsets: version 8, header 12, order 16, block 20, total 24, core 32, fingerprint 40, n 96, pos
 * 104. The seal is good, the field is not. */
static void test_sealed_fields(void **unused) {
    (void)unused;
    static const struct {
        size_t at;
        int64_t value;
    } bad[] = {{96, -1},
               {96, 0},
               {96, N - 1},
               {96, N + 1},
               {96, INT64_C(1) << 32},
               {96, INT64_MAX},
               {96, INT64_MIN},
               {96, 0xFFFFFFF0},
               {104, -BLOCK},
               {104, 0},
               {104, 1},
               {104, POS + BLOCK},
               {104, INT64_MAX - 15},
               {24, 0},
               {24, FILE_BYTES - 1},
               {24, -1},
               {32, 0},
               {32, CORE - 4},
               {32, 0xFFFFFFF0},
               {32, -1}};
    uint8_t data[FILE_BYTES];
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        make(data);
        set_i64(data, bad[i].at, bad[i].value);
        seal_again(data);
        assert_int_equal(refused(data, sizeof data), TNL_E_DATA);
    }
    for (int v = 0; v < 3; v++) { /* versions */
        static const uint32_t versions[] = {0, 2, UINT32_MAX};
        make(data);
        memcpy(data + 8, &versions[v], 4);
        seal_again(data);
        assert_int_equal(refused(data, sizeof data), TNL_E_DATA);
    }
}

static void test_foreign(void **unused) {
    (void)unused;
    uint8_t data[FILE_BYTES];
    make(data);
    codec.fingerprint[31] ^= 1; /* another model of the same shape */
    assert_int_equal(refused(data, sizeof data), TNL_E_UNSUPPORTED);
    codec.fingerprint[31] ^= 1;
    codec.secret[0] ^= 1; /* another folder */
    assert_int_equal(refused(data, sizeof data), TNL_E_DATA);
    codec.secret[0] ^= 1;
    codec.block = 32;
    assert_int_equal(refused(data, sizeof data), TNL_E_UNSUPPORTED);
    codec.block = BLOCK;
    codec.vocab = 900; /* ids beyond a smaller vocabulary */
    assert_int_equal(refused(data, sizeof data), TNL_E_DATA);
    codec.vocab = VOCAB;
}

/* Digests and seal are good, the contents are not. */
static void test_bad_contents(void **unused) {
    (void)unused;
    static const int32_t ids[] = {-1, VOCAB, INT32_MAX, INT32_MIN};
    uint8_t data[FILE_BYTES];
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        eng_snapshot *s = example();
        s->tokens[N - 1] = ids[i];
        write_example(data, s);
        eng_snapshot_unref(s);
        assert_int_equal(refused(data, sizeof data), TNL_E_DATA);
    }
    static const uint32_t floats[] = {0x7FC00000, 0x7F800000, 0xFF800000, 0x7F800001};
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++) {
        eng_snapshot *s = example();
        memcpy((char *)s->core + CORE - 4 * (i + 1), &floats[i], 4);
        write_example(data, s);
        eng_snapshot_unref(s);
        assert_int_equal(refused(data, sizeof data), TNL_E_NONFINITE);
    }
}

static void test_not_a_file(void **unused) {
    (void)unused;
    eng_session_meta m;
    tnl_error err = {0};
    int p[2];
    assert_int_equal(pipe(p), 0);
    assert_int_equal(eng_session_file_head(&m, p[0], &codec, &err), TNL_E_DATA);
    close(p[0]);
    close(p[1]);
}

static void expect_hex(const uint8_t *d, const char *want) {
    char hex[65];
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", d[i]);
    assert_string_equal(hex, want);
}

/* In pieces as at once; HMAC: the test cases of RFC 4231, keys filled up with zeros, which HMAC
 * does itself. */
static void test_digests(void **unused) {
    (void)unused;
    uint8_t text[300], whole[32], parts[32], key[32] = {0};
    for (int i = 0; i < 300; i++)
        text[i] = (uint8_t)(i * 7);
    for (size_t n = 0; n <= sizeof text; n += 13) {
        for (size_t cut = 0; cut <= n; cut += 7) {
            tnl_sha256 s;
            tnl_sha256_begin(&s);
            tnl_sha256_add(&s, text, cut);
            tnl_sha256_add(&s, text + cut, n - cut);
            tnl_sha256_end(&s, parts);
            tnl_sha256_of(whole, text, n);
            assert_memory_equal(whole, parts, 32);
        }
    }
    memset(key, 0x0b, 20);
    tnl_hmac_sha256(whole, key, "Hi There", 8);
    expect_hex(whole, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    memset(key, 0, sizeof key);
    memcpy(key, "Jefe", 4);
    tnl_hmac_sha256(whole, key, "what do ya want for nothing?", 28);
    expect_hex(whole, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_digests),       cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_every_length),  cmocka_unit_test(test_every_header_byte),
        cmocka_unit_test(test_payload_flips), cmocka_unit_test(test_sealed_fields),
        cmocka_unit_test(test_foreign),       cmocka_unit_test(test_bad_contents),
        cmocka_unit_test(test_not_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
