/* Workers parse and tokenise large bodies, so that the polling threads never block: a mebibyte of
 * text takes the tokenizer about a second. The request's connection is suspended meanwhile. */
#include <stdlib.h>

#include "server/http/server.h"

/* The client may have left while the job waited: then nobody wants the result. */
static bool wanted(srv_req *req) {
    pthread_mutex_lock(&req->lock);
    bool yes = !req->detached && !req->gone;
    pthread_mutex_unlock(&req->lock);
    return yes;
}

static void run_job(srv_req *req) {
    if (wanted(req))
        (req->work ? req->work : req->route->run)(req);
    pthread_mutex_lock(&req->lock);
    req->work_done = true;
    bool detached = req->detached;
    pthread_mutex_unlock(&req->lock);
    if (!detached)
        srv_req_wake(req);
    srv_req_unref(req);
}

static void *worker_main(void *arg) {
    srv_workers *w = arg;
    for (;;) {
        pthread_mutex_lock(&w->lock);
        while (!w->first && !w->stop)
            pthread_cond_wait(&w->more, &w->lock);
        srv_job *job = w->first;
        if (job) {
            w->first = job->next;
            if (!w->first)
                w->last = &w->first;
        }
        pthread_mutex_unlock(&w->lock);
        if (!job)
            return NULL;
        run_job(job->req);
        free(job);
    }
}

void srv_work_on(srv_req *req, void (*work)(srv_req *req)) {
    req->work = work;
    if (!req->working) {
        req->working = true;
        if (srv_workers_post(&req->srv->workers, req)) {
            srv_watch_poke(req->srv);
            return;
        }
        req->working = false;
    }
    work(req);
}

tnl_status srv_workers_open(srv_workers *w, tnl_error *err) {
    w->last = &w->first;
    for (w->n = 0; w->n < SRV_WORKERS; w->n++)
        if (pthread_create(&w->thread[w->n], NULL, worker_main, w) != 0)
            return tnl_fail(err, TNL_E_NOMEM, "cannot start a worker thread");
    return TNL_OK;
}

void srv_workers_close(srv_workers *w) {
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->more);
    pthread_mutex_unlock(&w->lock);
    for (int i = 0; i < w->n; i++)
        pthread_join(w->thread[i], NULL);
    w->n = 0;
}

bool srv_workers_post(srv_workers *w, srv_req *req) {
    srv_job *job = malloc(sizeof *job);
    if (!job)
        return false;
    job->next = NULL;
    job->req = req;
    atomic_fetch_add(&req->refs, 1);
    pthread_mutex_lock(&w->lock);
    *w->last = job;
    w->last = &job->next;
    pthread_cond_signal(&w->more);
    pthread_mutex_unlock(&w->lock);
    return true;
}
