/* See session_file.h. */
#include "server/engine/states/session_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/state.h"

typedef struct header {
    char magic[8]; /* "TNLSESS\n" */
    uint32_t version, header_bytes;
    uint32_t order; /* 0x01020304 */
    uint32_t block;
    uint64_t total_bytes, core_bytes;
    uint8_t fingerprint[TNL_SHA256_BYTES];
    uint8_t id[ENG_SESSION_ID_BYTES];
    uint64_t key;
    int64_t n, pos, created, used;
    uint8_t text_digest[TNL_SHA256_BYTES];
    uint8_t core_digest[TNL_SHA256_BYTES];
    uint8_t zero[32];
    uint8_t seal[TNL_SHA256_BYTES]; /* HMAC of all before it */
} header;

_Static_assert(sizeof(header) == ENG_SESSION_HEADER, "the header is a file format");

static const char magic[8] = {'T', 'N', 'L', 'S', 'E', 'S', 'S', '\n'};
enum { ORDER = 0x01020304 };

static void seal(uint8_t out[TNL_SHA256_BYTES], const eng_session_codec *c, const header *h) {
    tnl_hmac_sha256(out, c->secret, h, offsetof(header, seal));
}

uint64_t eng_session_file_bytes(const eng_session_codec *c, int64_t n, int64_t pos) {
    return ENG_SESSION_HEADER + (uint64_t)n * sizeof(int32_t) + (pos > 0 ? c->core_bytes : 0);
}

/* ---- writing ---- */

static tnl_status put(int fd, const void *data, size_t n, tnl_error *err) {
    const char *p = data;
    while (n > 0) {
        ssize_t k = write(fd, p, n < (1 << 20) ? n : 1 << 20);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return tnl_fail(err, TNL_E_IO, "write: %s", strerror(k < 0 ? errno : ENOSPC));
        p += k;
        n -= (size_t)k;
    }
    return TNL_OK;
}

tnl_status eng_session_file_write(int fd, const eng_session_codec *c, const eng_session_meta *m,
                                  const eng_snapshot *s, tnl_error *err) {
    header h = {.version = ENG_SESSION_VERSION,
                .header_bytes = sizeof h,
                .order = ORDER,
                .block = (uint32_t)c->block,
                .total_bytes = eng_session_file_bytes(c, s->n, s->pos),
                .core_bytes = s->core_bytes,
                .key = m->key,
                .n = s->n,
                .pos = s->pos,
                .created = m->created,
                .used = m->used};
    memcpy(h.magic, magic, sizeof h.magic);
    memcpy(h.fingerprint, c->fingerprint, sizeof h.fingerprint);
    memcpy(h.id, m->id.byte, sizeof h.id);
    tnl_sha256_of(h.text_digest, s->tokens, (size_t)s->n * sizeof *s->tokens);
    tnl_sha256_of(h.core_digest, s->core, s->core_bytes);
    seal(h.seal, c, &h);
    TNL_TRY(put(fd, &h, sizeof h, err));
    TNL_TRY(put(fd, s->tokens, (size_t)s->n * sizeof *s->tokens, err));
    return put(fd, s->core, s->core_bytes, err);
}

/* ---- reading ---- */

static tnl_status get(int fd, void *out, size_t n, uint64_t at, tnl_error *err) {
    char *p = out;
    while (n > 0) {
        ssize_t k = pread(fd, p, n < (1 << 20) ? n : 1 << 20, (off_t)at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return tnl_fail(err, TNL_E_IO, "read: %s", strerror(errno));
        if (k == 0)
            return tnl_fail(err, TNL_E_DATA, "the file is cut short");
        p += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    return TNL_OK;
}

static bool same(const uint8_t *a, const uint8_t *b) {
    uint8_t diff = 0;
    for (int i = 0; i < TNL_SHA256_BYTES; i++)
        diff |= a[i] ^ b[i];
    return diff == 0;
}

/* What the seal vouches for may still be of another model, or of another version of ours. */
static tnl_status check_model(const header *h, const eng_session_codec *c, tnl_error *err) {
    if (!same(h->fingerprint, c->fingerprint))
        return tnl_fail(err, TNL_E_UNSUPPORTED,
                        "of another model or tokenizer (%02x%02x%02x%02x, this one is "
                        "%02x%02x%02x%02x)",
                        h->fingerprint[0], h->fingerprint[1], h->fingerprint[2], h->fingerprint[3],
                        c->fingerprint[0], c->fingerprint[1], c->fingerprint[2], c->fingerprint[3]);
    if (h->block != (uint64_t)c->block)
        return tnl_fail(err, TNL_E_UNSUPPORTED, "block length %u, expected %lld", h->block,
                        (long long)c->block);
    return TNL_OK;
}

/* Room is left for every token to come. */
static tnl_status check_sizes(const header *h, const eng_session_codec *c, uint64_t size,
                              tnl_error *err) {
    bool fits = h->n >= 0 && h->n <= INT64_MAX / 16 && h->pos >= 0 && h->pos <= h->n &&
                h->pos % c->block == 0 && h->core_bytes == (h->pos > 0 ? c->core_bytes : 0) &&
                h->total_bytes == eng_session_file_bytes(c, h->n, h->pos);
    if (!fits)
        return tnl_fail(err, TNL_E_DATA, "%lld tokens, state as of %lld: sizes do not agree",
                        (long long)h->n, (long long)h->pos);
    if (size != h->total_bytes)
        return tnl_fail(err, TNL_E_DATA, "%llu bytes, expected %llu", (unsigned long long)size,
                        (unsigned long long)h->total_bytes);
    return TNL_OK;
}

static tnl_status read_head(header *h, int fd, const eng_session_codec *c, tnl_error *err) {
    struct stat s;
    uint8_t want[TNL_SHA256_BYTES];
    if (fstat(fd, &s) != 0)
        return tnl_fail(err, TNL_E_IO, "fstat: %s", strerror(errno));
    if (!S_ISREG(s.st_mode))
        return tnl_fail(err, TNL_E_DATA, "not a regular file");
    if (s.st_size < (off_t)sizeof *h)
        return tnl_fail(err, TNL_E_DATA, "%lld bytes, a header has %zu", (long long)s.st_size,
                        sizeof *h);
    TNL_TRY(get(fd, h, sizeof *h, 0, err));
    if (memcmp(h->magic, magic, sizeof magic) != 0)
        return tnl_fail(err, TNL_E_DATA, "not a session (magic)");
    if (h->version != ENG_SESSION_VERSION || h->header_bytes != sizeof *h || h->order != ORDER)
        return tnl_fail(err, TNL_E_DATA, "version %u, expected %d", h->version,
                        ENG_SESSION_VERSION);
    seal(want, c, h);
    if (!same(h->seal, want))
        return tnl_fail(err, TNL_E_DATA, "altered, or sealed with another folder's secret");
    TNL_TRY(check_model(h, c, err));
    return check_sizes(h, c, (uint64_t)s.st_size, err);
}

static eng_session_meta meta_of(const header *h) {
    eng_session_meta m = {
        .key = h->key, .n = h->n, .pos = h->pos, .created = h->created, .used = h->used};
    memcpy(m.id.byte, h->id, sizeof m.id.byte);
    return m;
}

tnl_status eng_session_file_head(eng_session_meta *m, int fd, const eng_session_codec *c,
                                 tnl_error *err) {
    header h;
    TNL_TRY(read_head(&h, fd, c, err));
    *m = meta_of(&h);
    return TNL_OK;
}

static tnl_status read_tokens(int32_t *tokens, const header *h, int fd, const eng_session_codec *c,
                              tnl_error *err) {
    uint8_t got[TNL_SHA256_BYTES];
    size_t bytes = (size_t)h->n * sizeof *tokens;
    TNL_TRY(get(fd, tokens, bytes, sizeof *h, err));
    tnl_sha256_of(got, tokens, bytes);
    if (!same(got, h->text_digest))
        return tnl_fail(err, TNL_E_DATA, "the token ids are altered (checksum)");
    for (int64_t i = 0; i < h->n; i++)
        if (tokens[i] < 0 || tokens[i] >= c->vocab)
            return tnl_fail(err, TNL_E_DATA, "token %lld is %d, expected 0..%lld", (long long)i,
                            (int)tokens[i], (long long)c->vocab - 1);
    return TNL_OK;
}

static tnl_status read_core(void *core, const header *h, int fd, tnl_error *err) {
    uint8_t got[TNL_SHA256_BYTES];
    size_t bytes = (size_t)h->core_bytes, at = sizeof *h + (size_t)h->n * sizeof(int32_t);
    TNL_TRY(get(fd, core, bytes, at, err));
    tnl_sha256_of(got, core, bytes);
    if (!same(got, h->core_digest))
        return tnl_fail(err, TNL_E_DATA, "the state is altered (checksum)");
    if (!mdl_state_core_finite(core, bytes))
        return tnl_fail(err, TNL_E_NONFINITE, "a value of the state is not finite");
    return TNL_OK;
}

tnl_status eng_session_file_text(int32_t **tokens, eng_session_meta *m, int fd,
                                 const eng_session_codec *c, tnl_error *err) {
    header h;
    *tokens = NULL;
    TNL_TRY(read_head(&h, fd, c, err));
    int32_t *t = malloc((size_t)h.n * sizeof *t + 1);
    if (!t)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory for %lld tokens", (long long)h.n);
    tnl_status st = read_tokens(t, &h, fd, c, err);
    if (st != TNL_OK) {
        free(t);
        return st;
    }
    *tokens = t;
    *m = meta_of(&h);
    return TNL_OK;
}

tnl_status eng_session_file_read(eng_snapshot **out, eng_session_meta *m, int fd,
                                 const eng_session_codec *c, atomic_size_t *account,
                                 tnl_error *err) {
    header h;
    *out = NULL;
    TNL_TRY(read_head(&h, fd, c, err));
    eng_snapshot *s = eng_snapshot_new(account, h.n, h.pos, (size_t)h.core_bytes);
    if (!s)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory for a session of %llu bytes",
                        (unsigned long long)h.total_bytes);
    tnl_status st = read_tokens(s->tokens, &h, fd, c, err);
    if (st == TNL_OK)
        st = read_core(s->core, &h, fd, err);
    if (st != TNL_OK) {
        eng_snapshot_unref(s);
        return st;
    }
    *out = s;
    *m = meta_of(&h);
    return TNL_OK;
}
