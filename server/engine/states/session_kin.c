/* Kin: stores that came one out of another (eng_sessions_next) and share a folder. A store lives on
 * while a request of its model does, so its model may come back meanwhile. It is found here then: a
 * second store of one model would hold the same sessions, and write the same files. */
#include <stdlib.h>
#include <string.h>

#include "server/engine/states/session_impl.h"

struct eng_session_kin {
    pthread_mutex_t lock;
    pthread_cond_t left; /* a member has gone */
    eng_sessions *first;
};

static struct eng_session_kin *new_kin(void) {
    struct eng_session_kin *k = calloc(1, sizeof *k);
    if (!k)
        return NULL;
    pthread_mutex_init(&k->lock, NULL);
    pthread_cond_init(&k->left, NULL);
    return k;
}

bool eng_session_kin_join(eng_sessions *st, const eng_sessions *before) {
    struct eng_session_kin *k = before ? before->kin : new_kin();
    if (!k)
        return false;
    st->kin = k;
    pthread_mutex_lock(&k->lock);
    st->kin_next = k->first;
    k->first = st;
    pthread_mutex_unlock(&k->lock);
    return true;
}

void eng_session_kin_leave(eng_sessions *st) {
    struct eng_session_kin *k = st->kin;
    if (!k)
        return;
    pthread_mutex_lock(&k->lock);
    eng_sessions **at = &k->first;
    while (*at != st)
        at = &(*at)->kin_next;
    *at = st->kin_next;
    bool last = k->first == NULL;
    pthread_cond_broadcast(&k->left);
    pthread_mutex_unlock(&k->lock);
    if (!last)
        return;
    pthread_cond_destroy(&k->left);
    pthread_mutex_destroy(&k->lock);
    free(k);
}

/* Not one that is on its way out: what it still writes would come after us. */
static bool hold(eng_sessions *st) {
    int refs = atomic_load(&st->refs);
    while (refs > 0 && !atomic_compare_exchange_weak(&st->refs, &refs, refs + 1))
        continue;
    return refs > 0;
}

eng_sessions *eng_session_kin_find(eng_sessions *now, const uint8_t print[TNL_SHA256_BYTES]) {
    struct eng_session_kin *k = now->kin;
    pthread_mutex_lock(&k->lock);
    eng_sessions *st = k->first;
    while (st) {
        if (!st->identified || memcmp(st->codec.fingerprint, print, TNL_SHA256_BYTES) != 0) {
            st = st->kin_next;
            continue;
        }
        if (hold(st))
            break;
        pthread_cond_wait(&k->left, &k->lock);
        st = k->first;
    }
    pthread_mutex_unlock(&k->lock);
    return st;
}
