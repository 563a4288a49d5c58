/* Bounds: how many sessions, how much memory, how much disk, how long. Only idle sessions make
 * room. Those of the key that holds most go first, of these the one that was of use longest ago: so
 * no key can push out another's below an equal share. */
#include "server/engine/request.h"
#include "server/engine/states/session_impl.h"

typedef bool (*may_go_fn)(const eng_sessions *st, const eng_session *s);

/* Its snapshot can leave memory: the disk has it, or nothing ever will. What waits for the writer
 * stays. */
static bool may_leave(const eng_sessions *st, const eng_session *s) {
    return !s->lease && s->snap && s->n > 0 &&
           (!st->dir || s->saved == s->version || s->save_failed);
}

static bool may_be_dropped(const eng_sessions *st, const eng_session *s) {
    (void)st;
    return !s->lease;
}

static bool has_a_file(const eng_sessions *st, const eng_session *s) {
    (void)st;
    return !s->lease && s->file_bytes > 0;
}

/* The one longest idle, of `owner` (NULL: of anybody); never `keep`. */
static eng_session *longest_idle(const eng_sessions *st, const eng_owner *owner, may_go_fn may_go,
                                 const eng_session *keep) {
    eng_session *s = st->oldest;
    while (s && (s == keep || (owner && s->owner != owner) || !may_go(st, s)))
        s = s->newer;
    return s;
}

static const eng_owner *largest(const eng_sessions *st, bool by_count) {
    const eng_owner *most = st->owners;
    for (const eng_owner *o = st->owners; o; o = o->next)
        if (by_count ? o->sessions > most->sessions : o->in_memory > most->in_memory)
            most = o;
    return most;
}

static eng_session *victim(const eng_sessions *st, const eng_owner *owner, may_go_fn may_go,
                           const eng_session *keep) {
    eng_session *s = longest_idle(st, owner, may_go, keep);
    return s ? s : longest_idle(st, NULL, may_go, keep);
}

static void drop(eng_sessions *st, eng_session *s) {
    st->dropped++;
    eng_session_remove(st, s);
}

static eng_owner *owner_known(const eng_sessions *st, uint64_t key) {
    eng_owner *o = st->owners;
    while (o && o->key != key)
        o = o->next;
    return o;
}

/* ---- bounds ---- */

static bool room_for_key(eng_sessions *st, uint64_t key) {
    eng_owner *o;
    while (st->p.key_most > 0 && (o = owner_known(st, key)) && o->sessions >= st->p.key_most) {
        eng_session *s = longest_idle(st, o, may_be_dropped, NULL);
        if (!s)
            return false;
        drop(st, s);
    }
    return true;
}

bool eng_session_room(eng_sessions *st, uint64_t key) {
    if (!room_for_key(st, key))
        return false;
    while (st->count >= st->p.most) {
        eng_session *s = victim(st, largest(st, true), may_be_dropped, NULL);
        if (!s)
            return false;
        drop(st, s);
    }
    return true;
}

static void trim_memory(eng_sessions *st, const eng_session *keep) {
    eng_session *s;
    while (eng_session_memory(st) > st->p.memory &&
           (s = victim(st, largest(st, false), may_leave, keep))) {
        if (s->saved == s->version)
            eng_session_set(st, s, NULL);
        else
            drop(st, s);
    }
}

static void trim_key(eng_sessions *st, const eng_session *keep) {
    const eng_owner *o = keep ? keep->owner : NULL;
    eng_session *s;
    while (o && st->p.key_bytes > 0 && o->bytes > st->p.key_bytes &&
           (s = longest_idle(st, o, may_be_dropped, keep)))
        drop(st, s);
}

static void trim_disk(eng_sessions *st, const eng_session *keep) {
    eng_session *s;
    while (st->p.disk_bytes > 0 && st->disk_bytes > st->p.disk_bytes &&
           (s = victim(st, largest(st, true), has_a_file, keep)))
        drop(st, s);
}

void eng_session_trim(eng_sessions *st, const eng_session *keep) {
    trim_key(st, keep);
    trim_memory(st, keep);
    trim_disk(st, keep);
}

void eng_session_expire(eng_sessions *st) {
    double now = eng_now();
    eng_session *s = st->oldest;
    while (st->p.idle_s > 0 && s) {
        eng_session *next = s->newer;
        if (!s->lease && now - s->idle_since > st->p.idle_s)
            drop(st, s);
        s = next;
    }
}
