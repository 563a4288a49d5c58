/* Sessions: conversations that are continued without being sent again.
 *
 * A session is a text (the ids of prompts and answers, one after the other) and the state as of its
 * last block boundary: a snapshot (snapshot.h). A request with a session reads the snapshot's text
 * and then its own prompt; when it ends well, the snapshot of prompt and answer takes the old one's
 * place, at once. When it is cancelled or fails, nothing has happened: the session still stands at
 * the last token that was committed, and the request may be sent again.
 *
 * An id is 128 random bits. A session belongs to a key (a tenant); whoever asks with another key is
 * told what somebody is told who makes an id up. One request at a time: who comes second is told
 * that the session is busy. Snapshots are shared, so a fork copies nothing.
 *
 * Memory is bounded. Sessions that have been idle longest go to the disk if there is a folder, else
 * they are dropped; the room is taken from the key that holds most. With a folder each commit is
 * written by a thread of the store's own, never by the engine's: a file of its own under a name
 * made of the id, put in place when it is whole. So what a killed server leaves behind are whole
 * snapshots. A file is tied to the model (mdl_model_identity), the tokenizer and the folder's
 * secret; one that is foreign, cut or altered is refused and no state is touched.
 *
 * Any thread may call any function here. Lock order: the store's lock, then the engine's; neither
 * side calls the other the other way round. */
#ifndef TNL_SERVER_ENGINE_SESSION_H
#define TNL_SERVER_ENGINE_SESSION_H

#include "server/engine/engine.h"

enum {
    ENG_SESSION_ID_BYTES = 16,
    ENG_SESSION_ID_TEXT = 2 * ENG_SESSION_ID_BYTES + 1,
    ENG_SESSIONS_DEFAULT = 1024,
    ENG_SESSIONS_DEFAULT_MB = 256,
};

typedef struct eng_session_id {
    uint8_t byte[ENG_SESSION_ID_BYTES];
} eng_session_id;

/* 32 digits 0-9a-f and nothing else. */
bool eng_session_id_read(eng_session_id *out, const char *text);
void eng_session_id_write(char text[ENG_SESSION_ID_TEXT], const eng_session_id *id);

typedef struct eng_sessions eng_sessions;
typedef struct eng_lease eng_lease; /* one request's hold on a session */

typedef struct eng_sessions_params {
    int64_t most;        /* sessions in all, in memory and on the disk, >= 1 */
    int64_t key_most;    /* of one key; 0: no limit of its own */
    size_t memory;       /* bytes of snapshots in memory; what runs may overshoot it */
    uint64_t key_bytes;  /* of one key, memory or disk; 0: no limit of its own */
    uint64_t disk_bytes; /* of all files; 0: no limit */
    double idle_s;       /* a session that is left alone so long is dropped; 0: never */
    const char *dir;     /* folder for the files, made if need be; NULL: memory only */
} eng_sessions_params;

void eng_sessions_params_default(eng_sessions_params *p);

/* With a folder: locks it, removes what a killed server left unfinished and finds the sessions that
 * are there; reads all weights once. One reference. */
tnl_status eng_sessions_open(eng_sessions **out, mdl_model *m, const tok_model *tokenizer,
                             const eng_sessions_params *p, tnl_error *err);
/* A store for an engine with another model, while the one `now` was opened with is still there: the
 * same store, with a further reference, if model and tokenizer are the same; one before it that
 * some request still holds, if they are its; else a new one on the same folder. Reads all weights
 * once. One caller at a time. */
tnl_status eng_sessions_next(eng_sessions **out, eng_sessions *now, mdl_model *m,
                             const tok_model *tokenizer, tnl_error *err);
/* Gives a reference back. The last one writes what is not yet written. NULL allowed. */
void eng_sessions_close(eng_sessions *st);

/* A new session without a text. TNL_E_LIMIT: there is no room, and none can be made. */
tnl_status eng_session_create(eng_sessions *st, uint64_t key, eng_session_id *id, tnl_error *err);

typedef struct eng_session_info {
    int64_t tokens;
    size_t bytes;          /* of its snapshot */
    int64_t created, used; /* wall clock, seconds */
    bool busy;
    bool in_memory;
    bool saved; /* the disk has it as it is */
} eng_session_info;

/* TNL_E_NO_INPUT: there is none of this key. */
tnl_status eng_session_get(eng_sessions *st, uint64_t key, const eng_session_id *id,
                           eng_session_info *out);

/* Its token ids, copied; may read from the disk. *tokens is malloc'd. */
tnl_status eng_session_tokens(eng_sessions *st, uint64_t key, const eng_session_id *id,
                              int32_t **tokens, int64_t *n, tnl_error *err);

/* Gone at once, file and all; a request that runs is cancelled. TNL_E_NO_INPUT as above. */
tnl_status eng_session_delete(eng_sessions *st, uint64_t key, const eng_session_id *id);

/* Sessions of keys that are not among these are gone, as if each had been deleted. */
void eng_sessions_retain(eng_sessions *st, const uint64_t *keys, size_t n);

/* Hold a session for a request; with id NULL a new one, which is gone again unless the request ends
 * well. TNL_E_NO_INPUT: there is none of this key; TNL_E_BUSY: another request holds it;
 * TNL_E_LIMIT: no room. Release it, or hand it to eng_submit. */
tnl_status eng_lease_take(eng_lease **out, eng_sessions *st, uint64_t key, const eng_session_id *id,
                          tnl_error *err);
/* The snapshot is on the disk only: eng_lease_warm must read it before anything below is called. It
 * may take a while. A file that is refused ends the session: TNL_E_NO_INPUT. */
bool eng_lease_cold(const eng_lease *l);
tnl_status eng_lease_warm(eng_lease *l, tnl_error *err);
const eng_session_id *eng_lease_id(const eng_lease *l);
/* What the request begins with; lives as long as the lease. */
const int32_t *eng_lease_text(const eng_lease *l, int64_t *n);
int64_t eng_lease_length(const eng_lease *l); /* tokens */
/* A new session with the text of the one that is held. */
tnl_status eng_lease_fork(eng_lease *l, eng_session_id *id, tnl_error *err);
void eng_lease_release(eng_lease *l); /* NULL allowed */

typedef struct eng_session_stats {
    int64_t in_memory, on_disk; /* those on the disk only */
    size_t bytes, limit;        /* memory */
    uint64_t disk_bytes;
    uint64_t saves, save_errors, restores, refused, dropped;
} eng_session_stats;

void eng_sessions_stats(eng_sessions *st, eng_session_stats *out);
void eng_sessions_flush(eng_sessions *st); /* wait until the writer has nothing left to do */

#endif
