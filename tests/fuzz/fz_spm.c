/* Tokenizer files: what our scan accepts, SentencePiece loads or refuses without a crash, and it
 * encodes text within the growth that the scan promises. Runs without the child process. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "tokenizer/tok_proto.h"
#include "tokenizer/tok_spm.h"

static void check_rows(const tok_proto *p, const uint8_t *data, size_t size) {
    FUZZ_CHECK(p->n_rows >= 1 && p->n_rows <= TOK_MAX_PIECES);
    FUZZ_CHECK(p->unk >= 0 && (size_t)p->unk < p->n_rows);
    FUZZ_CHECK(p->bos >= -1 && p->bos < (int32_t)p->n_rows);
    FUZZ_CHECK(p->eos >= -1 && p->eos < (int32_t)p->n_rows);
    const char *begin = (const char *)data, *end = begin + size;
    for (size_t i = 0; i < p->n_rows; i++) {
        const tok_row *r = &p->rows[i];
        FUZZ_CHECK(r->text >= begin && r->text + r->n <= end);
        FUZZ_CHECK(r->n >= 1 && r->n <= TOK_MAX_PIECE_BYTES);
        FUZZ_CHECK(r->type >= TOK_NORMAL && r->type <= TOK_BYTE);
        FUZZ_CHECK(r->score == r->score);
    }
}

static void encode(const tok_spm *spm, const char *text, size_t n, size_t n_rows) {
    int32_t *ids;
    size_t n_ids;
    if (tok_spm_encode(spm, text, n, &ids, &n_ids, NULL) != TNL_OK)
        return;
    /* A byte becomes at most 16 by a rule, a space three; bytes become ids one by one at worst. */
    FUZZ_CHECK(n_ids <= 3 * (size_t)TOK_MAX_EXPANSION * (n + 1));
    for (size_t i = 0; i < n_ids; i++)
        FUZZ_CHECK(ids[i] >= 0 && (size_t)ids[i] < n_rows);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tok_proto p;
    tnl_error err = {TNL_OK, ""};
    if (tok_proto_scan(&p, data, size, &err) != TNL_OK) {
        FUZZ_CHECK(err.msg[0] != '\0' && p.rows == NULL);
        return 0;
    }
    check_rows(&p, data, size);
    tok_spm *spm;
    if (tok_spm_open(&spm, data, size, &err) == TNL_OK) {
        static const char text[] =
            "  Once\tupon </s>\n\xC3\xA9\xEF\xBC\xA1\xE2\x80\xA6\xF0\x9F\x98\x80 "
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        encode(spm, text, sizeof text - 1, p.n_rows);
        encode(spm, p.rows[p.n_rows - 1].text, p.rows[p.n_rows - 1].n, p.n_rows);
        encode(spm, text, 0, p.n_rows);
        tok_spm_close(spm);
    }
    tok_proto_free(&p);
    return 0;
}
