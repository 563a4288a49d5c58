/* Which backend answers: the current one for requests that begin, an earlier one for those that
 * began with it.
 *
 * A request takes a reference when it is dispatched and gives it back at its very end, so the
 * model, tokenizer and engine it works with stay whatever is loaded meanwhile. The thread that
 * opened the server collects backends that nobody uses any more: closing an engine joins a thread,
 * and that must not happen on a connection's thread. Counters of engines that are gone stay in the
 * sums, so that no counter of /metrics ever falls. */
#include <time.h>

#include "server/http/api/chat_template.h"
#include "server/http/server.h"

srv_backend *srv_backend_take(srv_server *srv) {
    srv_backends *all = &srv->backends;
    pthread_mutex_lock(&all->lock);
    srv_backend *be = all->first;
    if (be)
        be->users++;
    pthread_mutex_unlock(&all->lock);
    return be;
}

void srv_backend_give(srv_server *srv, srv_backend *be) {
    if (!be)
        return;
    pthread_mutex_lock(&srv->backends.lock);
    be->users--;
    pthread_mutex_unlock(&srv->backends.lock);
}

void srv_ready(srv_server *srv, srv_backend *be) {
    srv_backends *all = &srv->backends;
    if (!be->chat)
        be->chat = srv_chat_find(NULL);
    pthread_mutex_lock(&all->lock);
    be->users = 0;
    be->next = all->first;
    all->first = be;
    pthread_mutex_unlock(&all->lock);
    atomic_store(&srv->state, SRV_READY);
}

srv_backend *srv_collect(srv_server *srv) {
    srv_backends *all = &srv->backends;
    srv_backend *found = NULL;
    eng_metrics last;
    pthread_mutex_lock(&all->lock);
    for (srv_backend **at = all->first ? &all->first->next : &all->first; *at; at = &(*at)->next) {
        if ((*at)->users > 0)
            continue;
        found = *at;
        *at = found->next;
        eng_metrics_get(found->engine, &last);
        eng_metrics_add(&all->past, &last);
        break;
    }
    pthread_mutex_unlock(&all->lock);
    return found;
}

int srv_backend_count(srv_server *srv) {
    int n = 0;
    pthread_mutex_lock(&srv->backends.lock);
    for (const srv_backend *be = srv->backends.first; be; be = be->next)
        n++;
    pthread_mutex_unlock(&srv->backends.lock);
    return n;
}

void srv_backend_drain(srv_server *srv) {
    pthread_mutex_lock(&srv->backends.lock);
    for (srv_backend *be = srv->backends.first; be; be = be->next)
        eng_drain(be->engine);
    pthread_mutex_unlock(&srv->backends.lock);
}

void srv_backend_metrics(srv_server *srv, const srv_backend *be, eng_metrics *out) {
    srv_backends *all = &srv->backends;
    eng_metrics m;
    eng_metrics_get(be->engine, out);
    pthread_mutex_lock(&all->lock);
    for (const srv_backend *at = all->first; at; at = at->next) {
        if (at == be)
            continue;
        eng_metrics_get(at->engine, &m);
        eng_metrics_add(out, &m);
        out->running += m.running;
        out->queued += m.queued;
        out->paused += m.paused;
    }
    eng_metrics_add(out, &all->past);
    pthread_mutex_unlock(&all->lock);
}

void srv_note_reload(srv_server *srv, bool ok) {
    atomic_fetch_add(ok ? &srv->backends.reloads_done : &srv->backends.reloads_failed, 1);
    atomic_store(&srv->backends.last_failed, !ok);
    if (ok)
        atomic_store(&srv->backends.last_success, (int64_t)time(NULL));
}
