/* Decoding any sequence of ids: whole UTF-8 only at every step, streaming equals decoding, and a
 * stream cut into two halves that share the state loses nothing.
 *
 * Input: one byte of flags (model, continuing), then two bytes per id. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "kernels/base/utf8.h"
#include "tokenizer/tok.h"

static tok_model *models[2];

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    tnl_error err = {TNL_OK, ""};
    if (tok_open(&models[0], TNL_FUZZ_DATA "/tok_bpe", &err) != TNL_OK ||
        tok_open(&models[1], TNL_FUZZ_DATA "/tok_unigram", &err) != TNL_OK) {
        fprintf(stderr, "%s\n", err.msg);
        exit(1);
    }
    return 0;
}

enum { MAX_IDS = 4096 };

static size_t stream(const tok_model *t, bool continuing, const int32_t *ids, size_t n, char *out) {
    tok_stream s;
    tok_stream_init(&s, t, continuing);
    size_t w = 0;
    for (size_t i = 0; i < n; i++) {
        tok_stream copy = s; /* a stream is a value: its copy goes on the same way */
        char again[TOK_STREAM_MAX];
        size_t got = tok_stream_push(&s, ids[i], out + w, TOK_STREAM_MAX);
        FUZZ_CHECK(tok_stream_push(&copy, ids[i], again, sizeof again) == got);
        FUZZ_CHECK(memcmp(again, out + w, got) == 0);
        FUZZ_CHECK(tnl_utf8_valid(out + w, got));
        FUZZ_CHECK(s.n_held <= 3);
        w += got;
    }
    return w + tok_stream_finish(&s, out + w, TOK_STREAM_MAX);
}

/* Nothing but ill-formed bytes and a leading space may differ from the pieces put together. */
static void check_bytes(const tok_model *t, const int32_t *ids, size_t n, const char *out,
                        size_t w) {
    size_t total = 0, at = 0;
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const char *p = tok_piece(t, ids[i], &len);
        total += len;
        /* Pieces other than bytes are characters: each is found whole, in order. */
        if (len < 2)
            continue;
        const char *hit = memmem(out + at, w - at, p, len);
        FUZZ_CHECK(hit != NULL);
        at = (size_t)(hit - out) + len;
    }
    FUZZ_CHECK(w <= 3 * total);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int32_t ids[MAX_IDS];
    static char out[MAX_IDS * 256 + 2 * TOK_STREAM_MAX];
    if (size == 0)
        return 0;
    const tok_model *t = models[data[0] & 1];
    bool continuing = data[0] & 2;
    size_t n = 0;
    for (size_t i = 1; i + 1 < size && n < MAX_IDS; i += 2)
        ids[n++] = (data[i] | data[i + 1] << 8) % tok_vocab(t);
    size_t w = stream(t, continuing, ids, n, out);
    if (continuing) {
        check_bytes(t, ids, n, out, w);
        return 0;
    }
    char *text;
    size_t n_text;
    FUZZ_CHECK(tok_decode(t, ids, n, &text, &n_text, NULL) == TNL_OK);
    FUZZ_CHECK(n_text == w && memcmp(text, out, w) == 0);
    free(text);
    return 0;
}
