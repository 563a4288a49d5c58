/* Host, Origin and cross-origin rules of access.h. */
#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

#include "server/http/access/access.h"

enum { HOST_MAX = 255 };

/* The host part of "name", "name:port", "[v6]" or "[v6]:port", brackets off. */
static bool host_part(char out[HOST_MAX + 1], const char *host) {
    const char *start = host, *end;
    if (*host == '[') {
        start++;
        end = strchr(start, ']');
        if (!end || (end[1] != 0 && end[1] != ':'))
            return false;
        host = end + 1;
    } else {
        end = host + strcspn(host, ":");
        host = end;
    }
    size_t n = (size_t)(end - start);
    if (n == 0 || n > HOST_MAX)
        return false;
    if (*host == ':' && (host[1] == 0 || host[1 + strspn(host + 1, "0123456789")] != 0))
        return false;
    memcpy(out, start, n);
    out[n] = 0;
    return true;
}

static bool is_ip(const char *name) {
    struct in6_addr a;
    return inet_pton(AF_INET, name, &a) == 1 || inet_pton(AF_INET6, name, &a) == 1;
}

bool srv_access_is_loopback(const char *name) {
    struct in_addr v4;
    struct in6_addr v6;
    if (strcasecmp(name, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, name, &v4) == 1)
        return (ntohl(v4.s_addr) >> 24) == 127;
    return inet_pton(AF_INET6, name, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

/* Is `name` in the comma-separated list (or the list is "*")? */
static bool listed(const char *list, const char *name) {
    size_t n = strlen(name);
    while (list && *list) {
        size_t len = strcspn(list, ",");
        if (len == 1 && *list == '*')
            return true;
        if (len == n && strncasecmp(list, name, n) == 0)
            return true;
        list += len + (list[len] == ',');
    }
    return false;
}

bool srv_access_host_ok(const srv_access *a, const char *host) {
    char name[HOST_MAX + 1];
    if (listed(a->allowed, "*"))
        return true;
    if (!host_part(name, host))
        return false;
    return srv_access_is_loopback(name) || strcasecmp(name, a->bind_host) == 0 ||
           listed(a->allowed, name) || (a->bind_any && is_ip(name));
}

bool srv_access_origin_ok(const char *origin, const char *host) {
    if (!host)
        return false;
    if (strncmp(origin, "http://", 7) == 0)
        origin += 7;
    else if (strncmp(origin, "https://", 8) == 0)
        origin += 8;
    else
        return false;
    return strcasecmp(origin, host) == 0;
}

/* ---- other origins ---- */

/* scheme://host or scheme://host:port, nothing behind. */
static bool is_origin(const char *s, size_t n) {
    size_t at = 0;
    while (at < n && s[at] != ':')
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.", s[at++]))
            return false;
    if (at == 0 || n - at < 4 || n > SRV_ORIGIN_MAX || memcmp(s + at, "://", 3) != 0)
        return false;
    for (size_t i = at + 3; i < n; i++)
        if (s[i] <= 0x20 || s[i] >= 0x7F || strchr("/*\"\\?#@,", s[i]))
            return false;
    return true;
}

tnl_status srv_access_check_origins(const char *list, tnl_error *err) {
    for (const char *p = list; p && *p;) {
        size_t n = strcspn(p, ",");
        if (!(n == 1 && *p == '*') && !is_origin(p, n))
            return tnl_fail(err, TNL_E_USAGE,
                            "--cors-origin: \"%.*s\" is not an origin, expected "
                            "https://name[:port] or *",
                            (int)(n < 64 ? n : 64), p);
        p += n + (p[n] == ',');
    }
    return TNL_OK;
}

srv_origin srv_access_cors(const srv_access *a, const char *origin) {
    size_t want = strlen(origin);
    for (const char *p = a->cors; p && *p;) {
        size_t n = strcspn(p, ",");
        if (n == 1 && *p == '*')
            return (srv_origin){p, 1};
        if (n == want && strncasecmp(p, origin, n) == 0)
            return (srv_origin){p, n};
        p += n + (p[n] == ',');
    }
    return (srv_origin){NULL, 0};
}
