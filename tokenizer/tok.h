/* Text to token ids and back. SentencePiece stops behind this interface (tok_spm.cc); its model
 * file is validated by our own scan before the library sees it (tok_proto.h).
 *
 * A tok_model is immutable after opening and may be used from any thread at once. */
#ifndef TNL_TOKENIZER_TOK_H
#define TNL_TOKENIZER_TOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tok_model tok_model;

/* Open DIR/tokenizer.model. TNL_E_NO_INPUT when the folder has none (a v3 folder, say);
 * TNL_E_DATA when it is malformed or hostile; the model is probed in a child process first. */
tnl_status tok_open(tok_model **out, const char *dir, tnl_error *err);
/* The same without the probe, for a process with threads: a program of its own has just opened it.
 */
tnl_status tok_open_tried(tok_model **out, const char *dir, tnl_error *err);
void tok_close(tok_model *t); /* NULL allowed */

int32_t tok_vocab(const tok_model *t); /* number of pieces */
int32_t tok_unk(const tok_model *t);   /* ids of special pieces, -1: none */
int32_t tok_bos(const tok_model *t);
int32_t tok_eos(const tok_model *t);

/* Encode n bytes of valid UTF-8. Nothing is added in front or behind; special pieces written as
 * text stay text. *ids is malloc'd (free it), *n_ids its length; both set on success only. */
tnl_status tok_encode(const tok_model *t, const char *text, size_t n, int32_t **ids, size_t *n_ids,
                      tnl_error *err);

/* The bytes one id contributes to a decoded text, before any stripping of a leading space:
 * a normal piece with U+2581 as space, one byte for a byte piece, nothing for control pieces.
 * Not necessarily whole UTF-8. *n = 0 for an id out of range. Owned by the model. */
const char *tok_piece(const tok_model *t, int32_t id, size_t *n);

/* The piece as the vocabulary spells it ("<0x0A>", U+2581 kept), NUL-terminated; NULL if out of
 * range. */
const char *tok_piece_name(const tok_model *t, int32_t id);

/* True if the first piece of a text carries a space that is not in the text (add_dummy_prefix). */
bool tok_dummy_prefix(const tok_model *t);

/* Decode a whole sequence. *text is malloc'd, NUL-terminated valid UTF-8 (ill-formed bytes become
 * U+FFFD), length *n. Ids out of range are an error naming the index. */
tnl_status tok_decode(const tok_model *t, const int32_t *ids, size_t n_ids, char **text, size_t *n,
                      tnl_error *err);

/* ---- incremental decoding: whole UTF-8 characters only (tok_stream.c) ---- */

/* Bytes go in as tokens arrive; characters come out when they are complete. A byte sequence that
 * can no longer become a character comes out as U+FFFD. */
typedef struct tok_stream {
    const tok_model *model;
    char held[8];   /* beginning of a character */
    uint8_t n_held; /* 0..3 */
    bool at_start;  /* strip the dummy-prefix space of the first piece */
} tok_stream;

/* continuing: the stream goes on after a prompt, so no leading space is stripped. */
void tok_stream_init(tok_stream *s, const tok_model *model, bool continuing);

/* Feed one id, append what is complete to out (cap bytes, needs TOK_STREAM_MAX); returns the
 * number of bytes written. */
enum { TOK_STREAM_MAX = 1024 };
size_t tok_stream_push(tok_stream *s, int32_t id, char *out, size_t cap);

/* End of stream: an incomplete character becomes U+FFFD. Returns bytes written (0 or 3). */
size_t tok_stream_finish(tok_stream *s, char *out, size_t cap);

#ifdef __cplusplus
}
#endif
#endif
