/* Built instead of text.c without SentencePiece: token ids only. */
#include "server/http/api/text.h"

tnl_status srv_text_encode(const tok_model *t, const mdl_spec *spec, const char *text, size_t n,
                           int32_t **ids, size_t *n_ids, tnl_error *err) {
    (void)t, (void)spec, (void)text, (void)n, (void)ids, (void)n_ids;
    return tnl_fail(err, TNL_E_UNSUPPORTED, "built without a tokenizer");
}

tnl_status srv_text_decode(const tok_model *t, const int32_t *ids, size_t n_ids, char **text,
                           size_t *n, tnl_error *err) {
    (void)t, (void)ids, (void)n_ids, (void)text, (void)n;
    return tnl_fail(err, TNL_E_UNSUPPORTED, "built without a tokenizer");
}

const char *srv_text_piece(const tok_model *t, int32_t id, size_t *n) {
    (void)t, (void)id;
    *n = 0;
    return "";
}

const char *srv_text_piece_name(const tok_model *t, int32_t id) {
    (void)t, (void)id;
    return "";
}

int32_t srv_text_find(const tok_model *t, const char *name) {
    (void)t, (void)name;
    return -1;
}

int32_t srv_text_eos(const tok_model *t) {
    (void)t;
    return -1;
}
