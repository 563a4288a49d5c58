/* Text for the HTTP side: what it needs of the tokenizer. text_none.c stands in for text.c in a
 * build without one. `t` may be NULL (a folder without tokenizer.model): text is then empty and
 * encoding fails with TNL_E_UNSUPPORTED. Any thread. */
#ifndef TNL_HTTP_TEXT_H
#define TNL_HTTP_TEXT_H

#include "kernels/base/status.h"
#include "model/spec.h"
#include "server/engine/engine.h"

/* Ids of a text, in front of them bos where the model asks for one (spec NULL: never). *ids is
 * malloc'd. */
tnl_status srv_text_encode(const tok_model *t, const mdl_spec *spec, const char *text, size_t n,
                           int32_t **ids, size_t *n_ids, tnl_error *err);
/* *text is malloc'd. */
tnl_status srv_text_decode(const tok_model *t, const int32_t *ids, size_t n_ids, char **text,
                           size_t *n, tnl_error *err);
/* Bytes of one piece, not necessarily whole UTF-8; "" where there is none. */
const char *srv_text_piece(const tok_model *t, int32_t id, size_t *n);
/* The piece as the vocabulary spells it, or "". */
const char *srv_text_piece_name(const tok_model *t, int32_t id);
/* Id of the piece of that name, -1: none. Looks at every piece. */
int32_t srv_text_find(const tok_model *t, const char *name);
int32_t srv_text_eos(const tok_model *t); /* -1: none */

#endif
