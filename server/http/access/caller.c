/* The caller of a request: address, key, limits, other origins. */
#include "server/http/access/caller.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- address ---- */

static enum MHD_Result see_forwarded(void *cls, enum MHD_ValueKind kind, const char *name,
                                     const char *value) {
    (void)kind;
    srv_forwarded *f = cls;
    if (strcasecmp(name, "X-Forwarded-For") == 0) {
        if (f->n_for < SRV_FORWARD_MAX)
            f->x_forwarded_for[f->n_for] = value ? value : "";
        f->n_for++;
    } else if (strcasecmp(name, "Forwarded") == 0) {
        if (f->n_forwarded < SRV_FORWARD_MAX)
            f->forwarded[f->n_forwarded] = value ? value : "";
        f->n_forwarded++;
    }
    return MHD_YES;
}

void srv_caller_address(srv_req *req) {
    const srv_nets *trusted = &req->srv->access.trusted;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(req->mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    srv_addr peer = srv_addr_of(info ? info->client_addr : NULL);
    req->client_addr = peer;
    if (srv_nets_hold(trusted, &peer)) {
        srv_forwarded f = {0};
        MHD_get_connection_values(req->mhd, MHD_HEADER_KIND, see_forwarded, &f);
        req->client_addr = srv_client_addr(trusted, &peer, &f);
    }
    srv_addr_text(req->client, &req->client_addr);
}

/* ---- key and limits ---- */

bool srv_caller_key(srv_req *req, const char *authorization, srv_problem *p) {
    srv_access *a = &req->srv->access;
    if (!a->keyed)
        return true;
    req->tenant = srv_access_holder(a, authorization);
    return req->tenant ||
           srv_refuse(p, authorization ? SRV_ERR_INVALID_KEY : SRV_ERR_MISSING_KEY, NULL);
}

uint64_t srv_req_key(const srv_req *req) {
    return req->tenant ? req->tenant->id : 0;
}

bool srv_caller_enter(srv_req *req, srv_problem *p) {
    srv_access *a = &req->srv->access;
    int64_t now = srv_now_ms();
    if (!(req->route->methods & SRV_POST))
        return true;
    if (a->addresses) {
        req->tenant = srv_addresses_find(a->addresses, &req->client_addr, now);
        if (!req->tenant)
            return srv_refuse(p, SRV_ERR_LIMIT_PARALLEL, NULL);
    }
    req->entered = srv_tenant_enter(req->tenant, now, p);
    return req->entered;
}

bool srv_caller_reserve(srv_req *req, srv_problem *p) {
    int64_t most = 0;
    int n = atomic_load(&req->n_choices);
    for (int i = 0; i < n; i++)
        most += req->gen.params.max_tokens;
    for (size_t i = 0; i < req->gen.n_prompts; i++)
        most += (int64_t)req->gen.prompts[i].n_ids;
    if (!srv_tenant_reserve(req->tenant, srv_now_ms(), most, p))
        return false;
    req->reserved_tokens = most;
    return true;
}

static bool has_rivals(const srv_req *req) {
    return srv_req_key(req) && srv_access_count(&req->srv->access) > 1;
}

int srv_caller_slots(const srv_req *req) {
    int all = (int)req->srv->set->parallel;
    return all >= 4 && has_rivals(req) ? all - (all + 7) / 8 : 0; /* of 2, one would be too many */
}

int srv_caller_share(const srv_req *req) {
    return has_rivals(req) ? (int)((req->srv->set->queue + 1) / 2) : 0;
}

/* A prompt counts once however many answers it has. */
static void used(const srv_req *req, int64_t *prompt, int64_t *completion) {
    int n = atomic_load(&req->n_choices);
    *prompt = *completion = 0;
    for (int i = 0; i < n; i++) {
        const srv_choice *c = &req->choices[i];
        bool first = i == 0 || req->choices[i - 1].prompt != c->prompt;
        if (!atomic_load(&c->er))
            continue;
        *prompt += first ? c->prompt_length - req->session_before : 0; /* what was sent */
        *completion += c->completion_tokens > c->n_tokens ? c->completion_tokens : c->n_tokens;
    }
}

void srv_caller_end(srv_req *req) {
    int64_t prompt, completion;
    used(req, &prompt, &completion);
    if (req->entered) {
        srv_tenant_settle(req->tenant, srv_now_ms(), req->reserved_tokens, prompt, completion);
        srv_tenant_leave(req->tenant);
    }
    srv_tenant_unref(req->tenant);
}

/* ---- other origins ---- */

bool srv_caller_origin(srv_req *req, const char *origin, const char *host) {
    req->cors = srv_access_cors(&req->srv->access, origin);
    return req->cors.p || srv_access_origin_ok(origin, host);
}

static void answer_preflight(srv_req *req) {
    srv_buf none = {0};
    srv_reply_body(req, 204, NULL, &none);
}

/* A browser asks before it lets a script ask: without a key, and for any path alike. */
static const srv_route preflight_route = {
    .path = "OPTIONS", .open = true, .early = true, .run = answer_preflight};

bool srv_caller_preflight(srv_req *req, const char *method) {
    if (!req->cors.p || strcmp(method, "OPTIONS") != 0 ||
        !MHD_lookup_connection_value(req->mhd, MHD_HEADER_KIND, "Access-Control-Request-Method"))
        return false;
    req->route = &preflight_route;
    req->preflight = true;
    return true;
}

void srv_caller_cors_headers(const srv_req *req,
                             void (*add)(void *to, const char *name, const char *value), void *to) {
    char origin[SRV_ORIGIN_MAX + 1];
    if (req->srv->access.cors)
        add(to, "Vary", "Origin"); /* what is kept for one origin is not for another */
    if (!req->cors.p)
        return;
    snprintf(origin, sizeof origin, "%.*s", (int)req->cors.n, req->cors.p);
    add(to, "Access-Control-Allow-Origin", origin);
    if (req->preflight) {
        add(to, "Access-Control-Allow-Methods", "GET, HEAD, POST, DELETE");
        /* clients send many of their own; the star stands for all but the first */
        add(to, "Access-Control-Allow-Headers", "Authorization, *");
        add(to, "Access-Control-Max-Age", "600");
    } else {
        add(to, "Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
    }
}
