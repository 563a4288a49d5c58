/* What can be refused before the body is read. libmicrohttpd accepts several forms that two parsers
 * in a row may read differently (two lengths, length and chunked, odd header names); each is
 * refused here and the connection closed, so nothing can be smuggled behind a proxy. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/http/access/caller.h"

typedef struct heads {
    int count, host, length, encoding, authorization;
    const char *host_value, *length_value, *encoding_value, *authorization_value;
    const char *expect, *content_encoding, *content_type, *origin, *accept;
    bool odd_name;
} heads;

static bool is_token(const char *s, size_t n) {
    static const char extra[] = "!#$%&'*+-.^_`|~";
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        bool ok = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                  (c != 0 && strchr(extra, c));
        if (!ok)
            return false;
    }
    return n > 0;
}

static enum MHD_Result see_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                  size_t name_len, const char *value, size_t value_len) {
    (void)kind, (void)value_len;
    heads *h = cls;
    h->count++;
    if (!is_token(name, name_len)) {
        h->odd_name = true;
        return MHD_YES;
    }
    const struct {
        const char *name;
        const char **value;
        int *count;
    } seen[] = {
        {"Host", &h->host_value, &h->host},
        {"Content-Length", &h->length_value, &h->length},
        {"Transfer-Encoding", &h->encoding_value, &h->encoding},
        {"Authorization", &h->authorization_value, &h->authorization},
        {"Expect", &h->expect, NULL},
        {"Content-Encoding", &h->content_encoding, NULL},
        {"Content-Type", &h->content_type, NULL},
        {"Origin", &h->origin, NULL},
        {"Accept", &h->accept, NULL},
    };
    for (size_t i = 0; i < sizeof seen / sizeof seen[0]; i++) {
        if (strcasecmp(seen[i].name, name) != 0)
            continue;
        *seen[i].value = value ? value : "";
        if (seen[i].count)
            ++*seen[i].count;
    }
    return MHD_YES;
}

static bool all_upper(const char *s) {
    for (const char *c = s; *c; c++)
        if (*c < 'A' || *c > 'Z')
            return false;
    return *s != 0;
}

static bool framing_ok(const srv_req *req, const heads *h, const char *method,
                       const char *version) {
    bool v11 = strcmp(version, MHD_HTTP_VERSION_1_1) == 0;
    if (!v11 && strcmp(version, MHD_HTTP_VERSION_1_0) != 0)
        return false;
    if (req->bad_uri || h->odd_name || !all_upper(method))
        return false;
    if (h->host > 1 || (v11 && h->host != 1))
        return false;
    if (h->length > 1 || h->encoding > 1 || h->authorization > 1 || (h->length && h->encoding))
        return false;
    if (h->encoding && (!v11 || strcasecmp(h->encoding_value, "chunked") != 0))
        return false;
    return !h->length ||
           (*h->length_value != 0 && h->length_value[strspn(h->length_value, "0123456789")] == 0);
}

/* JSON as such, nothing said, or what `curl -d` says: a form only cross-site pages could abuse,
 * and those are refused by their Origin. */
static bool media_ok(const char *type) {
    static const char *const fine[] = {"application/json", "application/x-www-form-urlencoded"};
    if (!type)
        return true;
    size_t n = strcspn(type, "; \t");
    bool known = false;
    for (size_t i = 0; i < sizeof fine / sizeof fine[0]; i++)
        known |= strlen(fine[i]) == n && strncasecmp(type, fine[i], n) == 0;
    const char *charset = strcasestr(type + n, "charset=");
    if (!known || !charset)
        return known;
    charset += strlen("charset=");
    charset += *charset == '"';
    return strncasecmp(charset, "utf-8", 5) == 0;
}

static bool length_ok(const srv_req *req, const heads *h) {
    if (!h->length)
        return true;
    const char *digits = h->length_value + strspn(h->length_value, "0");
    return strlen(digits) < 12 && strtoll(digits, NULL, 10) <= req->srv->set->max_body;
}

static bool caller_ok(srv_req *req, const heads *h, const char *method, srv_problem *p) {
    const srv_access *a = &req->srv->access;
    /* No browser reaches a unix socket, so no page can be made to send another site's name. */
    if (h->host && !req->conn->local && !srv_access_host_ok(a, h->host_value))
        return srv_refuse(p, SRV_ERR_HOST, NULL);
    req->foreign = h->origin && !srv_caller_origin(req, h->origin, h->host_value);
    if (srv_caller_preflight(req, method))
        return true;
    return (req->route && req->route->open) || srv_caller_key(req, h->authorization_value, p);
}

bool srv_frame_check(srv_req *req, const char *url, const char *method, const char *version,
                     srv_problem *p) {
    heads h = {0};
    int methods;
    MHD_get_connection_values_n(req->mhd, MHD_HEADER_KIND, see_header, &h);
    if (!framing_ok(req, &h, method, version))
        return srv_refuse(p, SRV_ERR_BAD_FRAMING, NULL);
    req->framed = true;
    req->has_body =
        h.encoding || (h.length && strspn(h.length_value, "0") != strlen(h.length_value));
    if (h.count > SRV_MAX_HEADERS)
        return srv_refuse(p, SRV_ERR_TOO_MANY_HEADERS, NULL);
    const char *path = srv_route_path(req->srv, url);
    req->route = srv_route_find(req->srv, path, method, &methods);
    srv_route_tail(req, path);
    if (!caller_ok(req, &h, method, p))
        return false;
    if (req->preflight)
        return true;
    if (!req->route)
        return srv_refuse(p, SRV_ERR_UNKNOWN_ROUTE, NULL);
    if (!srv_method_allowed(methods, method)) {
        req->reply.allow = srv_allow(methods);
        return srv_refuse(p, SRV_ERR_METHOD, NULL);
    }
    if (req->route->page && url[0] && path != url && url[strlen(url) - 1] != '/')
        req->route = srv_route_slashed(req->route);
    if (h.expect && strcasecmp(h.expect, "100-continue") != 0)
        return srv_refuse(p, SRV_ERR_EXPECT, NULL);
    if (!length_ok(req, &h))
        return srv_refuse(p, SRV_ERR_BODY_TOO_LARGE, NULL);
    req->sse = h.accept && strcasestr(h.accept, "text/event-stream") != NULL;
    if (req->route->methods & SRV_GET)
        return true;
    if (req->foreign)
        return srv_refuse(p, SRV_ERR_ORIGIN, NULL);
    bool encoded = h.content_encoding && strcasecmp(h.content_encoding, "identity") != 0;
    if (encoded || !media_ok(h.content_type))
        return srv_refuse(p, SRV_ERR_MEDIA_TYPE, NULL);
    return true;
}
