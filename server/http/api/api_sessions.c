/* POST /sessions, GET and DELETE /sessions/{id}, POST /sessions/{id}/fork; and what a request that
 * continues a session needs of it. A session of another key, one that never was and an id that is
 * none all get the same answer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/log.h"
#include "server/http/api/text.h"
#include "server/http/json/json_in.h"
#include "server/http/server.h"

enum { INLINE_TOKENS = 4096 }; /* longer texts are for a worker */

static bool refuse_status(const srv_req *req, srv_problem *p, tnl_status s, const tnl_error *err) {
    const char *field = req->route->session ? NULL : "session_id";
    switch (s) {
    case TNL_E_NO_INPUT:
        return srv_refuse(p, SRV_ERR_UNKNOWN_SESSION, field);
    case TNL_E_BUSY:
        return srv_refuse(p, SRV_ERR_SESSION_BUSY, field);
    case TNL_E_LIMIT:
        return srv_refuse(p, SRV_ERR_SESSION_LIMIT, NULL);
    case TNL_E_NOMEM:
        return srv_refuse(p, SRV_ERR_NOMEM, NULL);
    default:
        tnl_log(TNL_LOG_ERROR, "%s session: %s", req->id, err->msg);
        return srv_refuse(p, SRV_ERR_INTERNAL, NULL);
    }
}

static bool kept_here(const srv_req *req, srv_problem *p) {
    if (req->be->sessions)
        return true;
    srv_refuse(p, SRV_ERR_NOT_BUILT, NULL);
    snprintf(p->text, sizeof p->text, "This server keeps no sessions (--sessions 0).");
    return false;
}

static void reply_status(srv_req *req, tnl_status s, const tnl_error *err) {
    srv_problem p;
    refuse_status(req, &p, s, err);
    srv_reply_problem(req, &p);
}

/* The id in the path; false: answered. */
static bool id_in_path(srv_req *req, eng_session_id *id) {
    srv_problem p;
    if (!kept_here(req, &p) ||
        (!eng_session_id_read(id, req->tail) && !srv_refuse(&p, SRV_ERR_UNKNOWN_SESSION, NULL))) {
        srv_reply_problem(req, &p);
        return false;
    }
    return true;
}

static void reply_head(srv_req *req, const eng_session_id *id, int64_t tokens) {
    srv_buf b = {0};
    char text[ENG_SESSION_ID_TEXT];
    eng_session_id_write(text, id);
    srv_buf_printf(&b, "{\"session_id\":\"%s\",\"session_tokens\":%lld}\n", text,
                   (long long)tokens);
    srv_reply_body(req, 200, SRV_JSON, &b);
}

/* ---- routes ---- */

void srv_session_create_run(srv_req *req) {
    srv_problem p;
    eng_session_id id;
    tnl_error err = {0};
    if (!kept_here(req, &p) || !srv_empty_parse(req->body.data, req->body.len, &p)) {
        srv_reply_problem(req, &p);
        return;
    }
    tnl_status s = eng_session_create(req->be->sessions, srv_req_key(req), &id, &err);
    if (s == TNL_OK)
        reply_head(req, &id, 0);
    else
        reply_status(req, s, &err);
}

static void put_text(srv_buf *b, const srv_req *req, const int32_t *ids, int64_t n) {
    char *text = NULL;
    size_t len = 0;
    tnl_error err;
    srv_buf_puts(b, "],\"text\":");
    if (srv_text_decode(req->be->tokenizer, ids, (size_t)n, &text, &len, &err) == TNL_OK)
        srv_json_string(b, text, len);
    else
        srv_buf_puts(b, "null");
    free(text);
}

static void put_session(srv_buf *b, const srv_req *req, const eng_session_info *info,
                        const int32_t *ids, int64_t n) {
    srv_buf_printf(b,
                   "{\"session_id\":\"%s\",\"session_tokens\":%lld,\"bytes\":%zu,\"created\":%lld,"
                   "\"used\":%lld,\"busy\":%s,\"in_memory\":%s,\"saved\":%s,\"tokens\":[",
                   req->tail, (long long)n, info->bytes, (long long)info->created,
                   (long long)info->used, info->busy ? "true" : "false",
                   info->in_memory ? "true" : "false", info->saved ? "true" : "false");
    for (int64_t i = 0; i < n; i++) {
        if (i)
            srv_buf_puts(b, ",");
        srv_json_int(b, ids[i]);
    }
    put_text(b, req, ids, n);
    srv_buf_puts(b, "}\n");
}

static void get_all(srv_req *req) {
    eng_sessions *st = req->be->sessions;
    eng_session_id id;
    eng_session_info info;
    int32_t *ids = NULL;
    int64_t n = 0;
    tnl_error err = {0};
    srv_buf b = {0};
    if (!id_in_path(req, &id))
        return;
    tnl_status s = eng_session_get(st, srv_req_key(req), &id, &info);
    if (s == TNL_OK)
        s = eng_session_tokens(st, srv_req_key(req), &id, &ids, &n, &err);
    if (s != TNL_OK) {
        reply_status(req, s, &err);
        return;
    }
    put_session(&b, req, &info, ids, n);
    free(ids);
    srv_reply_body(req, 200, SRV_JSON, &b);
}

void srv_session_get_run(srv_req *req) {
    eng_session_id id;
    eng_session_info info;
    bool known = req->be->sessions && eng_session_id_read(&id, req->tail) &&
                 eng_session_get(req->be->sessions, srv_req_key(req), &id, &info) == TNL_OK;
    if (known && (!info.in_memory || info.tokens > INLINE_TOKENS))
        srv_work_on(req, get_all);
    else
        get_all(req);
}

void srv_session_delete_run(srv_req *req) {
    eng_session_id id;
    srv_buf b = {0};
    if (!id_in_path(req, &id))
        return;
    tnl_status s = eng_session_delete(req->be->sessions, srv_req_key(req), &id);
    if (s != TNL_OK) {
        reply_status(req, s, NULL);
        return;
    }
    srv_buf_printf(&b, "{\"session_id\":\"%s\",\"deleted\":true}\n", req->tail);
    srv_reply_body(req, 200, SRV_JSON, &b);
}

static void fork_held(srv_req *req) {
    eng_session_id id;
    tnl_error err = {0};
    tnl_status s = eng_lease_warm(req->lease, &err);
    if (s == TNL_OK)
        s = eng_lease_fork(req->lease, &id, &err);
    if (s == TNL_OK)
        reply_head(req, &id, eng_lease_length(req->lease));
    else
        reply_status(req, s, &err);
    eng_lease_release(req->lease);
    req->lease = NULL;
}

void srv_session_fork_run(srv_req *req) {
    srv_problem p;
    eng_session_id id;
    tnl_error err = {0};
    if (!srv_empty_parse(req->body.data, req->body.len, &p)) {
        srv_reply_problem(req, &p);
        return;
    }
    if (!id_in_path(req, &id))
        return;
    tnl_status s = eng_lease_take(&req->lease, req->be->sessions, srv_req_key(req), &id, &err);
    if (s != TNL_OK)
        reply_status(req, s, &err);
    else if (eng_lease_cold(req->lease))
        srv_work_on(req, fork_held);
    else
        fork_held(req);
}

/* ---- requests that continue one ---- */

/* What cannot go together with a session: it has one text, and that is not read again. */
static const char *conflict(const srv_gen *g) {
    if (g->n_prompts > 1)
        return g->table->prompt;
    if (g->n > 1)
        return "n";
    if (g->best_of > 1)
        return "best_of";
    return g->params.echo ? "echo" : NULL;
}

bool srv_session_take(srv_req *req, srv_problem *p) {
    const srv_gen *g = &req->gen;
    eng_session_id id;
    tnl_error err = {0};
    if (!g->session[0])
        return true;
    if (!kept_here(req, p))
        return false;
    if (conflict(g))
        return srv_conflict(p, conflict(g), conflict(g) == g->table->prompt
                                                ? "may be one text only where there is a session_id"
                                                : "does not go together with session_id");
    req->session_new = strcmp(g->session, "new") == 0;
    if (!req->session_new && !eng_session_id_read(&id, g->session))
        return srv_refuse(p, SRV_ERR_UNKNOWN_SESSION, "session_id");
    tnl_status s = eng_lease_take(&req->lease, req->be->sessions, srv_req_key(req),
                                  req->session_new ? NULL : &id, &err);
    if (s != TNL_OK)
        return refuse_status(req, p, s, &err);
    eng_session_id_write(req->session, eng_lease_id(req->lease));
    if (!eng_lease_cold(req->lease))
        req->session_before = eng_lease_length(req->lease);
    return true;
}

bool srv_session_is_cold(const srv_req *req) {
    return req->lease && eng_lease_cold(req->lease);
}

bool srv_session_warm(srv_req *req, srv_problem *p) {
    tnl_error err = {0};
    tnl_status s = eng_lease_warm(req->lease, &err);
    if (s != TNL_OK)
        return refuse_status(req, p, s, &err);
    req->session_before = eng_lease_length(req->lease);
    return true;
}

void srv_session_put(srv_buf *b, const srv_req *req, int64_t tokens) {
    if (req->session[0] && (tokens > 0 || !req->session_new))
        srv_buf_printf(b, ",\"session_id\":\"%s\",\"session_tokens\":%lld", req->session,
                       (long long)tokens);
}
