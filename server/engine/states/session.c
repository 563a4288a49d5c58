/* The store: ids, the table, and what a caller can do without holding a session. */
#include "server/engine/states/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "model/state.h"
#include "server/engine/request.h"
#include "server/engine/states/session_impl.h"

void eng_sessions_params_default(eng_sessions_params *p) {
    *p = (eng_sessions_params){.most = ENG_SESSIONS_DEFAULT,
                               .memory = (size_t)ENG_SESSIONS_DEFAULT_MB << 20,
                               .disk_bytes = (uint64_t)4096 << 20,
                               .idle_s = 7 * 86400};
}

int64_t eng_session_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* ---- ids ---- */

static int digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool eng_session_id_read(eng_session_id *out, const char *text) {
    for (int i = 0; i < 2 * ENG_SESSION_ID_BYTES; i++) {
        int d = digit(text[i]);
        if (d < 0)
            return false;
        out->byte[i / 2] = (uint8_t)(i % 2 ? out->byte[i / 2] << 4 | d : d);
    }
    return text[2 * ENG_SESSION_ID_BYTES] == '\0';
}

void eng_session_id_write(char text[ENG_SESSION_ID_TEXT], const eng_session_id *id) {
    static const char hex[] = "0123456789abcdef";
    for (int i = 0; i < ENG_SESSION_ID_BYTES; i++) {
        text[2 * i] = hex[id->byte[i] >> 4];
        text[2 * i + 1] = hex[id->byte[i] & 15];
    }
    text[ENG_SESSION_ID_TEXT - 1] = '\0';
}

bool eng_session_new_id(eng_session_id *id) {
    ssize_t n;
    do {
        n = getrandom(id->byte, sizeof id->byte, 0);
    } while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof id->byte;
}

/* ---- the table ---- */

/* Ids are random: any bits will do. */
static size_t bucket_of(const eng_session_id *id) {
    return (size_t)(id->byte[0] | id->byte[1] << 8) % ENG_SESSION_BUCKETS;
}

/* A session of another key is not found either, by the same steps. */
eng_session *eng_session_find(const eng_sessions *st, uint64_t key, const eng_session_id *id) {
    eng_session *s = st->bucket[bucket_of(id)];
    while (s && (memcmp(s->id.byte, id->byte, sizeof id->byte) != 0 || s->owner->key != key))
        s = s->next;
    return s;
}

static eng_owner *owner_of(eng_sessions *st, uint64_t key) {
    eng_owner *o = st->owners;
    while (o && o->key != key)
        o = o->next;
    if (o || !(o = calloc(1, sizeof *o)))
        return o;
    o->key = key;
    o->next = st->owners;
    st->owners = o;
    return o;
}

static void drop_owner(eng_sessions *st, eng_owner *o) {
    eng_owner **at = &st->owners;
    if (o->sessions > 0)
        return;
    while (*at != o)
        at = &(*at)->next;
    *at = o->next;
    free(o);
}

static void link_newest(eng_sessions *st, eng_session *s) {
    s->newer = NULL;
    s->older = st->newest;
    *(st->newest ? &st->newest->newer : &st->oldest) = s;
    st->newest = s;
}

static void unlink_used(eng_sessions *st, eng_session *s) {
    *(s->older ? &s->older->newer : &st->oldest) = s->newer;
    *(s->newer ? &s->newer->older : &st->newest) = s->older;
}

eng_session *eng_session_add(eng_sessions *st, uint64_t key, const eng_session_id *id) {
    eng_session *s = calloc(1, sizeof *s);
    eng_owner *o = s ? owner_of(st, key) : NULL;
    if (!o) {
        free(s);
        return NULL;
    }
    size_t at = bucket_of(id);
    s->id = *id;
    s->refs = 1;
    s->owner = o;
    s->created = s->used = eng_session_clock();
    s->idle_since = eng_now();
    s->next = st->bucket[at];
    st->bucket[at] = s;
    link_newest(st, s);
    o->sessions++;
    st->count++;
    return s;
}

void eng_session_touch(eng_sessions *st, eng_session *s) {
    s->used = eng_session_clock();
    s->idle_since = eng_now();
    unlink_used(st, s);
    link_newest(st, s);
}

void eng_session_size(eng_session *s, int64_t n, size_t bytes) {
    s->owner->bytes += bytes;
    s->owner->bytes -= s->bytes;
    s->n = n;
    s->bytes = bytes;
}

void eng_session_set(eng_sessions *st, eng_session *s, eng_snapshot *snap) {
    if (s->snap) {
        st->in_memory--;
        s->owner->in_memory -= s->bytes;
        eng_session_trash(st, s->snap);
    }
    s->snap = snap;
    if (!snap)
        return;
    eng_session_size(s, snap->n, eng_snapshot_bytes(snap));
    st->in_memory++;
    s->owner->in_memory += s->bytes;
}

void eng_session_unref(eng_session *s) {
    if (--s->refs == 0)
        free(s);
}

void eng_session_remove(eng_sessions *st, eng_session *s) {
    eng_session **at = &st->bucket[bucket_of(&s->id)];
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    unlink_used(st, s);
    eng_session_set(st, s, NULL);
    eng_session_size(s, 0, 0);
    st->disk_bytes -= s->file_bytes;
    st->count--;
    s->owner->sessions--;
    drop_owner(st, s->owner);
    s->owner = NULL;
    s->gone = true;
    s->next = st->doomed;
    st->doomed = s;
    pthread_cond_signal(&st->work);
}

void eng_session_trash(eng_sessions *st, eng_snapshot *snap) {
    if (!snap)
        return;
    if (atomic_load(&snap->refs) > 1) {
        eng_snapshot_unref(snap); /* somebody else's is the last */
        return;
    }
    st->leaving += eng_snapshot_bytes(snap);
    snap->next = st->trash;
    st->trash = snap;
    pthread_cond_signal(&st->work);
}

size_t eng_session_memory(const eng_sessions *st) {
    return atomic_load(&st->memory) - st->leaving;
}

/* Whoever comes second waits until the first one is through: then its own files are gone, too. */
void eng_session_clean(eng_sessions *st) {
    pthread_mutex_lock(&st->files);
    pthread_mutex_lock(&st->lock);
    eng_snapshot *trash = st->trash;
    eng_session *doomed = st->doomed;
    size_t leaving = 0;
    st->trash = NULL;
    st->doomed = NULL;
    pthread_mutex_unlock(&st->lock);
    for (eng_session *s = doomed; s; s = s->next)
        if (s->has_file)
            eng_session_unlink(st, &s->id);
    pthread_mutex_unlock(&st->files);
    while (trash) {
        eng_snapshot *snap = trash;
        trash = snap->next;
        leaving += eng_snapshot_bytes(snap);
        eng_snapshot_unref(snap);
    }
    pthread_mutex_lock(&st->lock);
    st->leaving -= leaving;
    while (doomed) {
        eng_session *s = doomed;
        doomed = s->next;
        eng_session_unref(s);
    }
    pthread_mutex_unlock(&st->lock);
}

/* ---- opening and closing ---- */

/* The same pieces under the same ids. */
static void add_tokenizer(tnl_sha256 *sum, const tok_model *t) {
#ifdef TNL_HAVE_TOKENIZER
    for (int32_t id = 0; t && id < tok_vocab(t); id++) {
        size_t n;
        const char *piece = tok_piece(t, id, &n);
        tnl_sha256_add(sum, &n, sizeof n);
        if (piece)
            tnl_sha256_add(sum, piece, n);
    }
#else
    (void)sum;
    (void)t;
#endif
}

static void fingerprint(uint8_t out[TNL_SHA256_BYTES], const mdl_model *m, const tok_model *t) {
    tnl_sha256 sum;
    uint8_t identity[MDL_IDENTITY_BYTES];
    mdl_model_identity(m, identity);
    tnl_sha256_begin(&sum);
    tnl_sha256_add(&sum, identity, sizeof identity);
    add_tokenizer(&sum, t);
    tnl_sha256_end(&sum, out);
}

static void identify(eng_sessions *st) {
    if (!st->identified)
        fingerprint(st->codec.fingerprint, st->model, st->tokenizer);
    st->identified = true;
}

static void init_sync(eng_sessions *st) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&st->work, &attr);
    pthread_cond_init(&st->quiet, NULL);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&st->lock, NULL);
    pthread_mutex_init(&st->files, NULL);
}

static uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* So that no figure that counts up ever falls. */
static void take_counters(eng_sessions *st, eng_sessions *before) {
    eng_session_stats s;
    eng_sessions_stats(before, &s);
    pthread_mutex_lock(&st->lock);
    st->saves = larger(st->saves, s.saves);
    st->save_errors = larger(st->save_errors, s.save_errors);
    st->restores = larger(st->restores, s.restores);
    st->refused = larger(st->refused, s.refused);
    st->dropped = larger(st->dropped, s.dropped);
    pthread_mutex_unlock(&st->lock);
}

static tnl_status open_store(eng_sessions **out, mdl_model *m, const tok_model *tokenizer,
                             const eng_sessions_params *p, eng_sessions *before, tnl_error *err) {
    *out = NULL;
    if (p->most < 1)
        return tnl_fail(err, TNL_E_USAGE, "sessions: at most %lld, expected >= 1",
                        (long long)p->most);
    eng_sessions *st = calloc(1, sizeof *st);
    if (!st)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory for the sessions");
    atomic_init(&st->refs, 1);
    atomic_init(&st->memory, 0);
    init_sync(st);
    st->p = *p;
    st->dir_fd = st->lock_fd = -1;
    if (before)
        take_counters(st, before);
    st->model = m;
    st->tokenizer = tokenizer;
    st->codec.vocab = mdl_model_spec(m)->vocab;
    st->codec.block = mdl_state_block(m);
    st->codec.core_bytes = mdl_state_core_bytes(m);
    tnl_status s = TNL_OK;
    if (!eng_session_kin_join(st, before))
        s = tnl_fail(err, TNL_E_NOMEM, "out of memory for the sessions");
    if (s == TNL_OK && p->dir) {
        identify(st);
        s = eng_session_disk_open(st, before, err);
    }
    if (s == TNL_OK)
        s = eng_session_disk_start(st, err);
    if (s != TNL_OK) {
        eng_sessions_close(st);
        return s;
    }
    *out = st;
    return TNL_OK;
}

tnl_status eng_sessions_open(eng_sessions **out, mdl_model *m, const tok_model *tokenizer,
                             const eng_sessions_params *p, tnl_error *err) {
    return open_store(out, m, tokenizer, p, NULL, err);
}

tnl_status eng_sessions_next(eng_sessions **out, eng_sessions *now, mdl_model *m,
                             const tok_model *tokenizer, tnl_error *err) {
    uint8_t other[TNL_SHA256_BYTES];
    identify(now);
    fingerprint(other, m, tokenizer);
    *out = eng_session_kin_find(now, other);
    if (*out) {
        if (*out != now)
            take_counters(*out, now);
        return TNL_OK;
    }
    eng_sessions_params p = now->p;
    p.dir = now->dir;
    return open_store(out, m, tokenizer, &p, now, err);
}

void eng_sessions_close(eng_sessions *st) {
    if (!st || atomic_fetch_sub(&st->refs, 1) != 1)
        return;
    eng_session_disk_stop(st);
    while (st->oldest) {
        st->oldest->has_file = false; /* the files stay */
        eng_session_remove(st, st->oldest);
    }
    eng_session_clean(st);
    eng_session_disk_close(st);
    eng_session_kin_leave(st);
    pthread_cond_destroy(&st->work);
    pthread_cond_destroy(&st->quiet);
    pthread_mutex_destroy(&st->lock);
    pthread_mutex_destroy(&st->files);
    free(st->dir);
    free(st);
}

/* ---- what callers do ---- */

static tnl_status unknown(tnl_error *err) {
    return tnl_fail(err, TNL_E_NO_INPUT, "there is no such session");
}

tnl_status eng_session_create(eng_sessions *st, uint64_t key, eng_session_id *id, tnl_error *err) {
    eng_lease *l;
    TNL_TRY(eng_lease_take(&l, st, key, NULL, err));
    *id = *eng_lease_id(l);
    l->fresh = false;
    eng_lease_release(l);
    return TNL_OK;
}

tnl_status eng_session_get(eng_sessions *st, uint64_t key, const eng_session_id *id,
                           eng_session_info *out) {
    pthread_mutex_lock(&st->lock);
    const eng_session *s = eng_session_find(st, key, id);
    if (s)
        *out = (eng_session_info){.tokens = s->n,
                                  .bytes = s->bytes,
                                  .created = s->created / 1000000,
                                  .used = s->used / 1000000,
                                  .busy = s->lease != NULL,
                                  .in_memory = s->snap != NULL,
                                  .saved = s->saved == s->version && s->saved > 0};
    pthread_mutex_unlock(&st->lock);
    return s ? TNL_OK : TNL_E_NO_INPUT;
}

static tnl_status copy_tokens(int32_t **tokens, int64_t *n, const eng_snapshot *snap,
                              tnl_error *err) {
    *n = snap->n;
    *tokens = malloc((size_t)snap->n * sizeof **tokens + 1);
    if (!*tokens)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory for %lld tokens", (long long)snap->n);
    memcpy(*tokens, snap->tokens, (size_t)snap->n * sizeof **tokens);
    return TNL_OK;
}

tnl_status eng_session_tokens(eng_sessions *st, uint64_t key, const eng_session_id *id,
                              int32_t **tokens, int64_t *n, tnl_error *err) {
    *tokens = NULL;
    pthread_mutex_lock(&st->lock);
    eng_session *s = eng_session_find(st, key, id);
    bool known = s != NULL;
    eng_snapshot *snap = s && s->snap ? eng_snapshot_ref(s->snap) : NULL;
    pthread_mutex_unlock(&st->lock);
    if (!known)
        return unknown(err);
    if (!snap)
        return eng_session_load(st, id, key, NULL, tokens, n, err);
    tnl_status status = copy_tokens(tokens, n, snap, err);
    eng_snapshot_unref(snap);
    return status;
}

/* Locked. */
static void end_session(eng_sessions *st, eng_session *s) {
    if (s->lease && s->lease->request)
        eng_request_cancel(s->lease->request);
    eng_session_remove(st, s);
}

tnl_status eng_session_delete(eng_sessions *st, uint64_t key, const eng_session_id *id) {
    pthread_mutex_lock(&st->lock);
    eng_session *s = eng_session_find(st, key, id);
    if (s)
        end_session(st, s);
    pthread_mutex_unlock(&st->lock);
    if (s)
        eng_session_clean(st);
    return s ? TNL_OK : TNL_E_NO_INPUT;
}

void eng_sessions_retain(eng_sessions *st, const uint64_t *keys, size_t n) {
    pthread_mutex_lock(&st->lock);
    for (eng_session *s = st->oldest, *next; s; s = next) {
        bool known = false;
        for (size_t i = 0; i < n; i++)
            known |= s->owner->key == keys[i];
        next = s->newer;
        if (!known)
            end_session(st, s);
    }
    pthread_mutex_unlock(&st->lock);
    eng_session_clean(st);
}

void eng_sessions_stats(eng_sessions *st, eng_session_stats *out) {
    pthread_mutex_lock(&st->lock);
    *out = (eng_session_stats){.in_memory = st->in_memory,
                               .on_disk = st->count - st->in_memory,
                               .bytes = eng_session_memory(st),
                               .limit = st->p.memory,
                               .disk_bytes = st->disk_bytes,
                               .saves = st->saves,
                               .save_errors = st->save_errors,
                               .restores = st->restores,
                               .refused = st->refused,
                               .dropped = st->dropped};
    pthread_mutex_unlock(&st->lock);
}
