/* Inside of the session store, shared by session.c (the table, what callers do), session_lease.c (a
 * request's hold), session_kin.c (stores of
 * several models), session_room.c (bounds) and session_disk.c (files and the thread that writes
 * them). "Locked" in a comment: the caller holds the store's lock. */
#ifndef TNL_SERVER_ENGINE_SESSION_IMPL_H
#define TNL_SERVER_ENGINE_SESSION_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "model/state.h"
#include "server/engine/states/session.h"
#include "server/engine/states/session_file.h"

enum { ENG_SESSION_BUCKETS = 4096 };

/* A key, as long as it has sessions. */
typedef struct eng_owner {
    struct eng_owner *next;
    uint64_t key;
    int64_t sessions;
    uint64_t bytes;     /* of their snapshots, wherever they are */
    uint64_t in_memory; /* of those, in memory */
} eng_owner;

typedef struct eng_session {
    struct eng_session *next;          /* in its bucket */
    struct eng_session *older, *newer; /* all, by last use */
    struct eng_session *save_next;     /* in the writer's line */
    eng_owner *owner;
    eng_session_id id;
    int refs;                /* the table, a lease, the writer */
    eng_lease *lease;        /* who holds it; NULL: idle */
    eng_snapshot *snap;      /* NULL: on the disk only */
    int64_t n;               /* tokens */
    size_t bytes;            /* of the snapshot */
    int64_t created, used;   /* wall clock, microseconds: to be shown and saved */
    double idle_since;       /* monotonic, seconds: a clock that is set drops nothing */
    uint64_t version, saved; /* commits, from 1; the one that the disk has, 0: none */
    uint64_t file_bytes;     /* on the disk */
    bool has_file;           /* there may be one under its name */
    bool gone;               /* deleted; not in the table any more */
    bool in_line, save_failed;
} eng_session;

struct eng_lease {
    eng_sessions *st;
    eng_session *s;
    eng_snapshot *snap; /* what the request begins with */
    bool fresh;         /* made for this request: gone unless it commits */
    eng_request *request;
};

struct eng_sessions {
    atomic_int refs;
    struct eng_session_kin *kin; /* session_kin.c */
    eng_sessions *kin_next;
    eng_sessions_params p;
    char *dir; /* as given, for messages; NULL: memory only */
    int dir_fd, lock_fd;
    eng_session_codec codec;
    bool identified;            /* codec.fingerprint is filled, from what follows */
    const mdl_model *model;     /* looked at until then only */
    const tok_model *tokenizer; /* the same */
    atomic_size_t memory;       /* of all snapshots that are alive */

    /* What is done to files under their names; taken before `lock`, and never by the engine. */
    pthread_mutex_t files;
    pthread_mutex_t lock; /* all below */
    eng_session *bucket[ENG_SESSION_BUCKETS];
    eng_session *oldest, *newest;
    eng_owner *owners;
    int64_t count, in_memory;
    int64_t foreign; /* files of another model */
    uint64_t disk_bytes;
    uint64_t saves, save_errors, restores, refused, dropped;
    bool failing; /* the last save failed: the next failure says nothing */
    /* Scrubbing megabytes and unlinking files take their time, so that is put off until the lock is
     * no longer held, and on the engine's thread for another thread to do. */
    eng_snapshot *trash; /* references to give back */
    size_t leaving;      /* bytes that will be free then */
    eng_session *doomed; /* out of the table, the file not yet unlinked */

    /* the thread that writes, and drops what has been idle too long */
    pthread_t thread;
    bool started, stop, writing;
    pthread_cond_t work, quiet;
    eng_session *save_first, *save_last;
    bool cleaning;
};

int64_t eng_session_clock(void); /* wall clock, microseconds */

/* ---- session.c ---- */

eng_session *eng_session_find(const eng_sessions *st, uint64_t key, const eng_session_id *id);
/* A session of that id, with the table's reference; NULL: memory is short. All locked from here. */
eng_session *eng_session_add(eng_sessions *st, uint64_t key, const eng_session_id *id);
bool eng_session_new_id(eng_session_id *id);
void eng_session_touch(eng_sessions *st, eng_session *s); /* used just now */
/* The snapshot takes the place of the old one; NULL: it is on the disk only. Takes the reference.
 */
void eng_session_set(eng_sessions *st, eng_session *s, eng_snapshot *snap);
/* How much there is of it, where its snapshot is not in memory. */
void eng_session_size(eng_session *s, int64_t n, size_t bytes);
/* Out of the table; eng_session_clean does the rest. */
void eng_session_remove(eng_sessions *st, eng_session *s);
void eng_session_unref(eng_session *s);
/* A reference to give back later. NULL allowed. */
void eng_session_trash(eng_sessions *st, eng_snapshot *snap);
/* Bytes of snapshots that are not about to go. */
size_t eng_session_memory(const eng_sessions *st);
/* Not locked, not on the engine's thread: do what was put off. */
void eng_session_clean(eng_sessions *st);

/* ---- session_kin.c ---- */

/* `before` NULL: of no kin yet. False: memory is short. */
bool eng_session_kin_join(eng_sessions *st, const eng_sessions *before);
void eng_session_kin_leave(eng_sessions *st);
/* The store of the model with this fingerprint, with a reference; NULL: there is none. `now` is one
 * of its kin and has a reference of the caller's. Waits for one that is closing. */
eng_sessions *eng_session_kin_find(eng_sessions *now, const uint8_t print[TNL_SHA256_BYTES]);

/* ---- session_room.c; all locked ---- */

/* Room for one more session of this key: idle ones may go. */
bool eng_session_room(eng_sessions *st, uint64_t key);
/* Back within the bounds, as far as idle sessions can make it so; `keep` (NULL: none) stays. */
void eng_session_trim(eng_sessions *st, const eng_session *keep);
/* Drop what has been idle too long. */
void eng_session_expire(eng_sessions *st);

/* ---- session_disk.c ---- */

tnl_status eng_session_disk_open(eng_sessions *st, const eng_sessions *before, tnl_error *err);
tnl_status eng_session_disk_start(eng_sessions *st, tnl_error *err);
void eng_session_disk_stop(eng_sessions *st); /* writes what is left */
void eng_session_disk_close(eng_sessions *st);
/* In line to be written. Locked. */
void eng_session_queue(eng_sessions *st, eng_session *s);
void eng_session_unlink(eng_sessions *st, const eng_session_id *id);
/* Not locked. *snap NULL where only the text is asked for, and the other way round. TNL_E_DATA and
 * the like: the file was refused and set aside. */
tnl_status eng_session_load(eng_sessions *st, const eng_session_id *id, uint64_t key,
                            eng_snapshot **snap, int32_t **tokens, int64_t *n, tnl_error *err);

/* ---- session_lease.c, for the engine ---- */

/* Bring a state that is reset to the boundary the snapshot has; returns it, 0: none. */
int64_t eng_lease_pos(const eng_lease *l);
void eng_lease_load(const eng_lease *l, mdl_model *m, mdl_state *state);
/* The request that may be cancelled if the session is deleted. */
void eng_lease_bind(eng_lease *l, eng_request *r);
/* The text is now these tokens, the state that of `state` (NULL: none was made). */
tnl_status eng_lease_commit(eng_lease *l, mdl_model *m, const mdl_state *state,
                            const int32_t *tokens, int64_t n);

#endif
