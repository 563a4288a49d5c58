/* A session as a file: a header, the token ids, the core of the state. Little-endian.
 *
 * Nothing is believed: sizes follow from the model, and the file must have just that size; the
 * header is signed with the folder's secret and holds the digests of what follows; ids must be
 * those of the vocabulary and numbers finite. Only then does a snapshot exist. What a reader is
 * given may be anything at all, and may change while it is read. Private to session*.c. */
#ifndef TNL_SERVER_ENGINE_SESSION_FILE_H
#define TNL_SERVER_ENGINE_SESSION_FILE_H

#include "kernels/base/sha256.h"
#include "server/engine/states/session.h"
#include "server/engine/states/snapshot.h"

enum { ENG_SESSION_VERSION = 1, ENG_SESSION_HEADER = 256 };

/* What files are written and read for. */
typedef struct eng_session_codec {
    uint8_t fingerprint[TNL_SHA256_BYTES]; /* of model and tokenizer */
    uint8_t secret[TNL_SHA256_BYTES];
    int64_t vocab, block;
    size_t core_bytes;
} eng_session_codec;

/* What a header says about a session. */
typedef struct eng_session_meta {
    eng_session_id id;
    uint64_t key;
    int64_t n, pos;
    int64_t created, used; /* wall clock, microseconds */
} eng_session_meta;

uint64_t eng_session_file_bytes(const eng_session_codec *c, int64_t n, int64_t pos);

/* Write a whole file to fd, from its beginning. m->n and m->pos are taken from the snapshot. */
tnl_status eng_session_file_write(int fd, const eng_session_codec *c, const eng_session_meta *m,
                                  const eng_snapshot *s, tnl_error *err);

/* TNL_E_UNSUPPORTED: a whole file, but of another model or tokenizer; TNL_E_DATA: not a session's
 * file, cut, or altered; TNL_E_IO. */
tnl_status eng_session_file_head(eng_session_meta *m, int fd, const eng_session_codec *c,
                                 tnl_error *err);
/* The same, and the text: *tokens [m->n] is malloc'd. */
tnl_status eng_session_file_text(int32_t **tokens, eng_session_meta *m, int fd,
                                 const eng_session_codec *c, tnl_error *err);
/* All of it. */
tnl_status eng_session_file_read(eng_snapshot **out, eng_session_meta *m, int fd,
                                 const eng_session_codec *c, atomic_size_t *account,
                                 tnl_error *err);

#endif
