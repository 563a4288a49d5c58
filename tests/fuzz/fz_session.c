/* A session's file of any bytes: refused with a line, or what was read is what a file of it would
 * hold. The first byte says how much is put right beforehand, so that the checks behind the seal
 * and the digests are reached too. */
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "server/engine/states/session_file.h"

enum { VOCAB = 100, BLOCK = 8, CORE = 64, HEAD = ENG_SESSION_HEADER, SEAL = 224, N = 96 };
enum { MAGIC = 1, SIZES = 2, DIGESTS = 4, SEALED = 8 };

static const eng_session_codec codec = {.vocab = VOCAB, .block = BLOCK, .core_bytes = CORE};
static atomic_size_t account;

static void put(uint8_t *at, uint64_t v, size_t n) {
    memcpy(at, &v, n);
}

static void put_right(uint8_t *d, size_t n, int what) {
    int64_t tokens;
    if (n < HEAD)
        return;
    if (what & MAGIC) {
        memcpy(d, "TNLSESS\n", 8);
        put(d + 8, ENG_SESSION_VERSION, 4);
        put(d + 12, HEAD, 4);
        put(d + 16, 0x01020304, 4);
        put(d + 20, BLOCK, 4);
        memset(d + 40, 0, 32);
    }
    memcpy(&tokens, d + N, 8);
    if (what & SIZES)
        put(d + 24, n, 8);
    if ((what & DIGESTS) && tokens >= 0 && tokens <= (int64_t)((n - HEAD) / 4)) {
        size_t text = (size_t)tokens * 4;
        tnl_sha256_of(d + 128, d + HEAD, text);
        tnl_sha256_of(d + 160, d + HEAD + text, n - HEAD - text);
    }
    if (what & SEALED)
        tnl_hmac_sha256(d + SEAL, codec.secret, d, SEAL);
}

static void check(const eng_snapshot *s, const eng_session_meta *m, size_t n) {
    FUZZ_CHECK(m->n == s->n && m->pos == s->pos && s->n >= 0 && s->pos <= s->n);
    FUZZ_CHECK(s->pos % BLOCK == 0 && s->core_bytes == (s->pos ? CORE : 0));
    FUZZ_CHECK(n == eng_session_file_bytes(&codec, s->n, s->pos));
    for (int64_t i = 0; i < s->n; i++)
        FUZZ_CHECK(s->tokens[i] >= 0 && s->tokens[i] < VOCAB);
    for (size_t i = 0; i < s->core_bytes / sizeof(float); i++)
        FUZZ_CHECK(isfinite(((const float *)s->core)[i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1)
        return 0;
    size_t n = size - 1;
    uint8_t *copy = malloc(n + 1);
    FUZZ_CHECK(copy != NULL);
    memcpy(copy, data + 1, n);
    put_right(copy, n, data[0]);
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    FUZZ_CHECK(fd >= 0 && write(fd, copy, n) == (ssize_t)n);
    eng_session_meta m, h;
    eng_snapshot *s;
    int32_t *tokens;
    tnl_error err = {TNL_OK, ""};
    tnl_status st = eng_session_file_read(&s, &m, fd, &codec, &account, &err);
    if (st == TNL_OK) {
        check(s, &m, n);
        FUZZ_CHECK(eng_session_file_head(&h, fd, &codec, &err) == TNL_OK);
        FUZZ_CHECK(eng_session_file_text(&tokens, &h, fd, &codec, &err) == TNL_OK);
        FUZZ_CHECK(memcmp(tokens, s->tokens, (size_t)s->n * sizeof *tokens) == 0);
        free(tokens);
        eng_snapshot_unref(s);
    } else {
        FUZZ_CHECK(err.code == st && strlen(err.msg) > 0 && !s);
    }
    FUZZ_CHECK(atomic_load(&account) == 0);
    close(fd);
    free(copy);
    return 0;
}
