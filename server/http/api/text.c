/* The tokenizer as the HTTP side sees it. */
#include "server/http/api/text.h"

#include <stdlib.h>
#include <string.h>

#include "tokenizer/tok.h"

tnl_status srv_text_encode(const tok_model *t, const mdl_spec *spec, const char *text, size_t n,
                           int32_t **ids, size_t *n_ids, tnl_error *err) {
    if (!t)
        return tnl_fail(err, TNL_E_UNSUPPORTED, "this model folder has no tokenizer");
    TNL_TRY(tok_encode(t, text, n, ids, n_ids, err));
    if (!spec || !spec->add_bos || spec->bos_id < 0)
        return TNL_OK;
    int32_t *longer = realloc(*ids, (*n_ids + 1) * sizeof *longer);
    if (!longer) {
        free(*ids);
        *ids = NULL;
        return tnl_fail(err, TNL_E_NOMEM, "out of memory for %zu token ids", *n_ids + 1);
    }
    memmove(longer + 1, longer, *n_ids * sizeof *longer);
    longer[0] = spec->bos_id;
    *ids = longer;
    *n_ids += 1;
    return TNL_OK;
}

tnl_status srv_text_decode(const tok_model *t, const int32_t *ids, size_t n_ids, char **text,
                           size_t *n, tnl_error *err) {
    if (!t)
        return tnl_fail(err, TNL_E_UNSUPPORTED, "this model folder has no tokenizer");
    return tok_decode(t, ids, n_ids, text, n, err);
}

const char *srv_text_piece(const tok_model *t, int32_t id, size_t *n) {
    *n = 0;
    const char *piece = t ? tok_piece(t, id, n) : NULL;
    return piece ? piece : "";
}

const char *srv_text_piece_name(const tok_model *t, int32_t id) {
    const char *name = t ? tok_piece_name(t, id) : NULL;
    return name ? name : "";
}

int32_t srv_text_find(const tok_model *t, const char *name) {
    for (int32_t id = 0; t && id < tok_vocab(t); id++)
        if (strcmp(tok_piece_name(t, id), name) == 0)
            return id;
    return -1;
}

int32_t srv_text_eos(const tok_model *t) {
    return t ? tok_eos(t) : -1;
}
