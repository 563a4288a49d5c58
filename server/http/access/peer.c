/* Addresses, networks, forwarding headers: see peer.h. */
#include "server/http/access/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- addresses ---- */

static srv_addr v4(const void *bytes) {
    srv_addr a = {.kind = SRV_ADDR_V4};
    memcpy(a.b, bytes, 4);
    return a;
}

static srv_addr v6(const void *bytes) {
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};
    srv_addr a = {.kind = SRV_ADDR_V6};
    if (memcmp(bytes, mapped, sizeof mapped) == 0)
        return v4((const uint8_t *)bytes + sizeof mapped);
    memcpy(a.b, bytes, 16);
    return a;
}

srv_addr srv_addr_of(const struct sockaddr *sa) {
    if (!sa)
        return (srv_addr){.kind = SRV_ADDR_NONE};
    if (sa->sa_family == AF_INET)
        return v4(&((const struct sockaddr_in *)(const void *)sa)->sin_addr);
    if (sa->sa_family == AF_INET6)
        return v6(&((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr);
    return (srv_addr){.kind = sa->sa_family == AF_UNIX ? SRV_ADDR_UNIX : SRV_ADDR_NONE};
}

/* An address without port and brackets. */
static bool parse_bare(srv_addr *out, const char *s, size_t n) {
    char text[INET6_ADDRSTRLEN];
    uint8_t raw[16];
    if (n == 0 || n >= sizeof text || memchr(s, 0, n))
        return false;
    memcpy(text, s, n);
    text[n] = 0;
    if (inet_pton(AF_INET, text, raw) == 1)
        *out = v4(raw);
    else if (inet_pton(AF_INET6, text, raw) == 1)
        *out = v6(raw);
    else
        return false;
    return true;
}

/* ":1..5 digits" or nothing. */
static bool is_port(const char *s, size_t n) {
    if (n == 0)
        return true;
    if (s[0] != ':' || n < 2 || n > 6)
        return false;
    for (size_t i = 1; i < n; i++)
        if (s[i] < '0' || s[i] > '9')
            return false;
    return true;
}

bool srv_addr_parse(srv_addr *out, const char *s, size_t n) {
    const char *end = n ? memchr(s, ']', n) : NULL;
    if (n && s[0] == '[')
        return end && is_port(end + 1, n - (size_t)(end + 1 - s)) &&
               memchr(s, ':', (size_t)(end - s)) && parse_bare(out, s + 1, (size_t)(end - s - 1));
    if (parse_bare(out, s, n))
        return true;
    const char *colon = n ? memchr(s, ':', n) : NULL;
    size_t host = colon ? (size_t)(colon - s) : 0;
    return colon && is_port(colon, n - host) && parse_bare(out, s, host);
}

void srv_addr_text(char out[SRV_ADDR_TEXT], const srv_addr *a) {
    const char *plain = a->kind == SRV_ADDR_UNIX ? "unix" : "-";
    bool ip = a->kind == SRV_ADDR_V4 || a->kind == SRV_ADDR_V6;
    if (!ip || !inet_ntop(a->kind == SRV_ADDR_V4 ? AF_INET : AF_INET6, a->b, out, SRV_ADDR_TEXT))
        snprintf(out, SRV_ADDR_TEXT, "%s", plain);
}

/* ---- networks ---- */

static void clear_behind(srv_addr *a, int bits) {
    for (int i = 0; i < 16; i++) {
        int keep = bits - 8 * i;
        if (keep <= 0)
            a->b[i] = 0;
        else if (keep < 8)
            a->b[i] &= (uint8_t)(0xFF << (8 - keep));
    }
}

static bool parse_bits(int *out, const char *s, size_t n, int most) {
    int v = 0;
    if (n == 0 || n > 3)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        v = v * 10 + (s[i] - '0');
    }
    *out = v;
    return v <= most;
}

static bool parse_net(srv_nets *out, const char *s, size_t n) {
    srv_addr a = {.kind = SRV_ADDR_UNIX};
    int bits = 0;
    if (!(n == 4 && memcmp(s, "unix", 4) == 0)) {
        const char *slash = memchr(s, '/', n);
        size_t len = slash ? (size_t)(slash - s) : n;
        if (!parse_bare(&a, s, len))
            return false;
        bits = a.kind == SRV_ADDR_V4 ? 32 : 128;
        if (slash && !parse_bits(&bits, slash + 1, n - len - 1, bits))
            return false;
        clear_behind(&a, bits);
    }
    out->net[out->n].addr = a;
    out->net[out->n++].bits = bits;
    return true;
}

tnl_status srv_nets_parse(srv_nets *out, const char *list, const char *where, tnl_error *err) {
    memset(out, 0, sizeof *out);
    for (const char *p = list; p && *p;) {
        size_t n = strcspn(p, ",");
        const char *s = p;
        size_t len = n;
        for (; len && *s == ' '; len--)
            s++;
        while (len && s[len - 1] == ' ')
            len--;
        if (out->n == SRV_NETS_MAX)
            return tnl_fail(err, TNL_E_USAGE, "%s: more than %d networks", where, SRV_NETS_MAX);
        if (len == 0 || !parse_net(out, s, len))
            return tnl_fail(err, TNL_E_USAGE,
                            "%s: \"%.*s\" is not a network, expected an address, ADDRESS/BITS or "
                            "unix",
                            where, (int)(len < 64 ? len : 64), s);
        p += n + (p[n] == ',');
    }
    return TNL_OK;
}

bool srv_nets_hold(const srv_nets *nets, const srv_addr *a) {
    for (int i = 0; i < nets->n; i++) {
        if (nets->net[i].addr.kind != a->kind)
            continue;
        srv_addr masked = *a;
        clear_behind(&masked, nets->net[i].bits);
        if (memcmp(masked.b, nets->net[i].addr.b, sizeof masked.b) == 0)
            return true;
    }
    return false;
}

/* ---- forwarding headers ---- */

typedef struct span {
    const char *p;
    size_t n;
} span;

static span trim(span s) {
    while (s.n && (*s.p == ' ' || *s.p == '\t'))
        s.p++, s.n--;
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
        s.n--;
    return s;
}

/* Where `sep` is first found outside quotes; s.n: nowhere. */
static size_t find(span s, char sep) {
    bool quoted = false;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '"')
            quoted = !quoted;
        else if (s.p[i] == sep && !quoted)
            return i;
    }
    return s.n;
}

/* An open quote would swallow what a trusted proxy has appended behind it. */
static bool is_balanced(span s) {
    size_t quotes = 0;
    for (size_t i = 0; i < s.n; i++)
        quotes += s.p[i] == '"';
    return quotes % 2 == 0;
}

/* The last of the items between commas; *rest is what comes before its comma. */
static span last_item(span all, span *rest) {
    size_t from = 0;
    for (size_t at; (at = find((span){all.p + from, all.n - from}, ',')) < all.n - from;)
        from += at + 1;
    *rest = (span){all.p, from ? from - 1 : 0};
    return trim((span){all.p + from, all.n - from});
}

/* for="[::1]:80";proto=https: the value of `for`. */
static span for_value(span item) {
    while (item.n) {
        size_t n = find(item, ';');
        span pair = trim((span){item.p, n});
        if (pair.n > 4 && strncasecmp(pair.p, "for=", 4) == 0) {
            span v = {pair.p + 4, pair.n - 4};
            if (v.n >= 2 && v.p[0] == '"' && v.p[v.n - 1] == '"')
                v = (span){v.p + 1, v.n - 2};
            return v;
        }
        n += n < item.n;
        item = (span){item.p + n, item.n - n};
    }
    return (span){"", 0};
}

/* From the right: the first address that is no trusted proxy, or the leftmost of all. False:
 * something on the way is not an address. */
static bool walk(srv_addr *out, const srv_nets *trusted, const char *const *values, int n,
                 bool forwarded) {
    int hops = 0;
    bool found = false;
    if (n > SRV_FORWARD_MAX)
        return false;
    for (int i = n - 1; i >= 0; i--) {
        span rest = {values[i], strlen(values[i])};
        if (!is_balanced(rest))
            return false;
        do {
            span item = last_item(rest, &rest);
            if (forwarded)
                item = for_value(item);
            if (++hops > SRV_FORWARD_MAX || !srv_addr_parse(out, item.p, item.n))
                return false;
            found = true;
            if (!srv_nets_hold(trusted, out))
                return true;
        } while (rest.n);
    }
    return found;
}

srv_addr srv_client_addr(const srv_nets *trusted, const srv_addr *peer, const srv_forwarded *f) {
    srv_addr a = {0}, b = {0};
    if (!srv_nets_hold(trusted, peer))
        return *peer;
    if (f->n_for && !walk(&a, trusted, f->x_forwarded_for, f->n_for, false))
        return *peer;
    if (f->n_forwarded && !walk(&b, trusted, f->forwarded, f->n_forwarded, true))
        return *peer;
    if (f->n_for && f->n_forwarded && memcmp(&a, &b, sizeof a) != 0)
        return *peer;
    return f->n_for ? a : f->n_forwarded ? b : *peer;
}
