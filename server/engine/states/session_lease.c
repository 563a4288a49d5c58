/* A request's hold on a session: taken before the request is made, given back at its end. */
#include <stdlib.h>
#include <string.h>

#include "server/engine/states/session_impl.h"

/* An empty text is always in memory. */
static eng_session *add_empty(eng_sessions *st, uint64_t key, tnl_status *why, tnl_error *err) {
    eng_session_id id;
    if (!eng_session_new_id(&id)) {
        *why = tnl_fail(err, TNL_E_IO, "getrandom: no session id");
        return NULL;
    }
    if (!eng_session_room(st, key)) {
        *why = tnl_fail(err, TNL_E_LIMIT, "all sessions are in use");
        return NULL;
    }
    eng_snapshot *empty = eng_snapshot_new(&st->memory, 0, 0, 0);
    eng_session *s = empty ? eng_session_add(st, key, &id) : NULL;
    if (!s) {
        eng_snapshot_unref(empty);
        *why = tnl_fail(err, TNL_E_NOMEM, "out of memory for a session");
        return NULL;
    }
    eng_session_set(st, s, empty);
    return s;
}

/* Commits come faster than the disk takes them, and fill the memory. */
static bool behind(const eng_sessions *st) {
    size_t most = 2 * st->p.memory + 8 * st->codec.core_bytes;
    return st->save_first && eng_session_memory(st) > most;
}

/* Locked. */
static tnl_status hold(eng_lease *l, eng_sessions *st, uint64_t key, const eng_session_id *id,
                       tnl_error *err) {
    tnl_status why = TNL_OK;
    l->fresh = id == NULL;
    l->s = id ? eng_session_find(st, key, id) : add_empty(st, key, &why, err);
    if (!l->s)
        return id ? tnl_fail(err, TNL_E_NO_INPUT, "there is no such session") : why;
    if (l->s->lease)
        return tnl_fail(err, TNL_E_BUSY, "another request uses this session");
    eng_session_trim(st, l->s);
    if (behind(st)) {
        if (l->fresh)
            eng_session_remove(st, l->s);
        return tnl_fail(err, TNL_E_LIMIT, "sessions wait to be written");
    }
    l->s->lease = l;
    l->s->refs++;
    l->snap = l->s->snap ? eng_snapshot_ref(l->s->snap) : NULL;
    eng_session_touch(st, l->s);
    return TNL_OK;
}

tnl_status eng_lease_take(eng_lease **out, eng_sessions *st, uint64_t key, const eng_session_id *id,
                          tnl_error *err) {
    *out = NULL;
    eng_lease *l = calloc(1, sizeof *l);
    if (!l)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory for a session");
    pthread_mutex_lock(&st->lock);
    tnl_status s = hold(l, st, key, id, err);
    pthread_mutex_unlock(&st->lock);
    if (s != TNL_OK) {
        free(l);
        return s;
    }
    l->st = st;
    atomic_fetch_add(&st->refs, 1);
    *out = l;
    return TNL_OK;
}

void eng_lease_release(eng_lease *l) {
    if (!l)
        return;
    eng_sessions *st = l->st;
    pthread_mutex_lock(&st->lock);
    eng_session_trash(st, l->snap);
    l->s->lease = NULL;
    if (l->fresh && !l->s->gone)
        eng_session_remove(st, l->s);
    eng_session_unref(l->s);
    eng_session_trim(st, NULL);
    pthread_mutex_unlock(&st->lock);
    free(l);
    eng_sessions_close(st);
}

bool eng_lease_cold(const eng_lease *l) {
    return l->snap == NULL;
}

/* Whether the session has been deleted meanwhile shows at its end. */
tnl_status eng_lease_warm(eng_lease *l, tnl_error *err) {
    eng_sessions *st = l->st;
    eng_snapshot *snap = NULL;
    int64_t n;
    if (l->snap)
        return TNL_OK;
    pthread_mutex_lock(&st->lock);
    bool gone = l->s->gone;
    uint64_t key = gone ? 0 : l->s->owner->key;
    pthread_mutex_unlock(&st->lock);
    if (gone)
        return tnl_fail(err, TNL_E_NO_INPUT, "there is no such session");
    tnl_status s = eng_session_load(st, &l->s->id, key, &snap, NULL, &n, err);
    pthread_mutex_lock(&st->lock);
    if (s == TNL_OK && !l->s->gone) {
        eng_session_set(st, l->s, eng_snapshot_ref(snap));
        eng_session_trim(st, l->s);
    }
    pthread_mutex_unlock(&st->lock);
    l->snap = snap;
    return s;
}

const eng_session_id *eng_lease_id(const eng_lease *l) {
    return &l->s->id;
}

int64_t eng_lease_length(const eng_lease *l) {
    return l->snap->n;
}

tnl_status eng_lease_fork(eng_lease *l, eng_session_id *id, tnl_error *err) {
    eng_sessions *st = l->st;
    tnl_status why = TNL_OK;
    pthread_mutex_lock(&st->lock);
    eng_session *s = l->s->gone ? NULL : add_empty(st, l->s->owner->key, &why, err);
    if (s) {
        *id = s->id;
        eng_session_set(st, s, eng_snapshot_ref(l->snap));
        s->version = l->snap->n > 0;
        if (s->version > 0)
            eng_session_queue(st, s);
        eng_session_trim(st, s);
    } else if (why == TNL_OK) {
        why = tnl_fail(err, TNL_E_NO_INPUT, "there is no such session");
    }
    pthread_mutex_unlock(&st->lock);
    return why;
}

/* ---- for the engine ---- */

const int32_t *eng_lease_text(const eng_lease *l, int64_t *n) {
    *n = l->snap->n;
    return l->snap->tokens;
}

int64_t eng_lease_pos(const eng_lease *l) {
    return l->snap->pos;
}

void eng_lease_load(const eng_lease *l, mdl_model *m, mdl_state *state) {
    if (l->snap->pos > 0)
        mdl_state_core_load(m, state, l->snap->core, l->snap->pos);
}

void eng_lease_bind(eng_lease *l, eng_request *r) {
    pthread_mutex_lock(&l->st->lock);
    l->request = r;
    if (r && l->s->gone) /* between taking it and here */
        eng_request_cancel(r);
    pthread_mutex_unlock(&l->st->lock);
}

tnl_status eng_lease_commit(eng_lease *l, mdl_model *m, const mdl_state *state,
                            const int32_t *tokens, int64_t n) {
    eng_sessions *st = l->st;
    int64_t pos = state ? mdl_state_pos(state) / st->codec.block * st->codec.block : 0;
    eng_snapshot *snap = eng_snapshot_new(&st->memory, n, pos, st->codec.core_bytes);
    if (!snap)
        return TNL_E_NOMEM;
    memcpy(snap->tokens, tokens, (size_t)n * sizeof *tokens);
    if (pos > 0)
        mdl_state_core_save(m, state, snap->core);
    l->fresh = false;
    pthread_mutex_lock(&st->lock);
    if (l->s->gone) {
        eng_session_trash(st, snap);
    } else {
        eng_session_set(st, l->s, snap);
        l->s->version++;
        eng_session_touch(st, l->s);
        eng_session_queue(st, l->s);
        eng_session_trim(st, l->s);
    }
    pthread_mutex_unlock(&st->lock);
    return TNL_OK;
}
