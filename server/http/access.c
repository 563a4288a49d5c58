/* Key file reading, key comparison, Host and Origin rules. */
#include "server/http/access.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/base/log.h"

enum { KEY_FILE_MAX = 65536, KEY_MIN = 16, KEY_MAX = 4096, HOST_MAX = 255 };

/* ---- the key ---- */

static tnl_status take_key(srv_access *out, const char *key, size_t n, const char *where,
                           tnl_error *err) {
    if (n < KEY_MIN || n > KEY_MAX)
        return tnl_fail(err, TNL_E_USAGE, "%s: the key has %zu characters, expected %d to %d",
                        where, n, KEY_MIN, KEY_MAX);
    for (size_t i = 0; i < n; i++)
        if (key[i] <= 0x20 || key[i] >= 0x7F)
            return tnl_fail(err, TNL_E_USAGE,
                            "%s: the key has a character that is not printable "
                            "ASCII",
                            where);
    srv_sha256(out->key, key, n);
    out->has_key = true;
    return TNL_OK;
}

/* The first line that is neither empty nor a comment. */
static const char *key_line(const char *text, size_t n, size_t *len) {
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && text[end] != '\n')
            end++;
        size_t last = end;
        while (last > i && (text[last - 1] == '\r' || text[last - 1] == ' '))
            last--;
        if (last > i && text[i] != '#') {
            *len = last - i;
            return text + i;
        }
        i = end + 1;
    }
    return NULL;
}

static tnl_status check_key_file(int fd, const char *shown, tnl_error *err) {
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return tnl_fail(err, TNL_E_USAGE, "%s: the key file is not a regular file", shown);
    if (st.st_mode & 077)
        return tnl_fail(err, TNL_E_USAGE,
                        "%s: the key file has mode %04o, others can read it; expected 0600", shown,
                        (unsigned)(st.st_mode & 07777));
    if (st.st_size > KEY_FILE_MAX)
        return tnl_fail(err, TNL_E_USAGE, "%s: the key file is larger than %d bytes", shown,
                        KEY_FILE_MAX);
    return TNL_OK;
}

static tnl_status read_key_file(srv_access *out, const char *path, tnl_error *err) {
    char shown[224];
    tnl_log_escape(shown, sizeof shown, path, strlen(path));
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0)
        return tnl_fail(err, TNL_E_NO_INPUT, "%s: %s", shown, strerror(errno));
    char *text = NULL;
    tnl_status s = check_key_file(fd, shown, err);
    if (s != TNL_OK)
        goto done;
    text = malloc(KEY_FILE_MAX);
    ssize_t n = text ? read(fd, text, KEY_FILE_MAX) : -1;
    if (n < 0) {
        s = tnl_fail(err, TNL_E_IO, "%s: cannot be read", shown);
        goto done;
    }
    size_t len = 0;
    const char *line = key_line(text, (size_t)n, &len);
    s = line ? take_key(out, line, len, shown, err)
             : tnl_fail(err, TNL_E_USAGE, "%s: the key file holds no key", shown);
    explicit_bzero(text, KEY_FILE_MAX);
done:
    free(text);
    close(fd);
    return s;
}

/* The variable is wiped in place, so that it does not stay in /proc/self/environ. */
static tnl_status read_key_env(srv_access *out, tnl_error *err) {
    char *value = getenv("TNL_API_KEY");
    if (!value || !*value)
        return TNL_OK;
    size_t n = strlen(value);
    tnl_status s = take_key(out, value, n, "TNL_API_KEY", err);
    explicit_bzero(value, n);
    unsetenv("TNL_API_KEY");
    return s;
}

tnl_status srv_access_open(srv_access *out, const srv_settings *s, tnl_error *err) {
    memset(out, 0, sizeof *out);
    out->bind_host = s->host;
    out->allowed = s->allowed_host;
    out->bind_any = strcmp(s->host, "0.0.0.0") == 0 || strcmp(s->host, "::") == 0;
    if (s->api_key_file && *s->api_key_file)
        TNL_TRY(read_key_file(out, s->api_key_file, err));
    else
        TNL_TRY(read_key_env(out, err));
    if (!out->has_key && !srv_access_is_loopback(s->host) && !s->insecure_no_auth)
        return tnl_fail(err, TNL_E_USAGE,
                        "--host %s can be reached from other machines and no API key is set: "
                        "give --api-key-file, or --insecure-no-auth to serve everyone",
                        s->host);
    return TNL_OK;
}

bool srv_access_key_ok(const srv_access *a, const char *value) {
    if (!a->has_key)
        return true;
    if (!value || strncasecmp(value, "Bearer ", 7) != 0)
        return false;
    uint8_t digest[SRV_SHA256_BYTES], diff = 0;
    srv_sha256(digest, value + 7, strlen(value + 7));
    for (int i = 0; i < SRV_SHA256_BYTES; i++)
        diff |= (uint8_t)(digest[i] ^ a->key[i]);
    return diff == 0;
}

/* ---- names ---- */

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
