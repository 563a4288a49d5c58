/* Where keys come from, who holds them, and their replacement. */
#include "server/http/access/access.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/base/log.h"

/* ---- the text of the keys ---- */

static tnl_status check_key_file(int fd, const char *shown, tnl_error *err) {
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return tnl_fail(err, TNL_E_USAGE, "%s: the key file is not a regular file", shown);
    /* Root may hand a file to us through our group or an access list, which shows as group bits:
     * systemd's credentials and Kubernetes' secrets come like this. */
    mode_t others = st.st_uid == 0 && geteuid() != 0 ? 037 : 077;
    if (st.st_mode & others)
        return tnl_fail(err, TNL_E_USAGE,
                        "%s: the key file has mode %04o, others can read it; expected 0600", shown,
                        (unsigned)(st.st_mode & 07777));
    if (st.st_size > SRV_KEY_TEXT_MAX)
        return tnl_fail(err, TNL_E_USAGE, "%s: the key file is larger than %d bytes", shown,
                        SRV_KEY_TEXT_MAX);
    return TNL_OK;
}

/* All of it, as far as there is room. */
static ssize_t read_all(int fd, char *text, size_t room) {
    size_t n = 0;
    while (n < room) {
        ssize_t got = read(fd, text + n, room - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        n += (size_t)got;
    }
    return (ssize_t)n;
}

static tnl_status read_key_file(srv_keys **out, const char *path, tnl_error *err) {
    char shown[224];
    tnl_log_escape(shown, sizeof shown, path, strlen(path));
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0)
        return tnl_fail(err, TNL_E_NO_INPUT, "%s: %s", shown, strerror(errno));
    char *text = NULL;
    tnl_status s = check_key_file(fd, shown, err);
    if (s != TNL_OK)
        goto done;
    text = malloc(SRV_KEY_TEXT_MAX + 1); /* one more shows that it has grown */
    ssize_t n = text ? read_all(fd, text, SRV_KEY_TEXT_MAX + 1) : -1;
    s = n < 0 ? tnl_fail(err, TNL_E_IO, "%s: cannot be read", shown)
              : srv_keys_parse(out, text, (size_t)n, shown, err);
    if (text)
        explicit_bzero(text, SRV_KEY_TEXT_MAX + 1);
done:
    free(text);
    close(fd);
    return s;
}

/* The variable is wiped in place, read or not, so that it does not stay in /proc/self/environ. */
static tnl_status read_key_env(srv_keys **out, bool wanted, tnl_error *err) {
    char *value = getenv("TNL_API_KEY");
    if (!value || !*value)
        return TNL_OK;
    size_t n = strlen(value);
    tnl_status s = wanted ? srv_keys_parse(out, value, n, "TNL_API_KEY", err) : TNL_OK;
    explicit_bzero(value, n);
    unsetenv("TNL_API_KEY");
    return s;
}

/* ---- holders ---- */

static void free_holders(srv_holders *h) {
    for (size_t i = 0; h->tenant && i < h->keys->n; i++)
        srv_tenant_unref(h->tenant[i]);
    free(h->tenant);
    free(h->keys);
    memset(h, 0, sizeof *h);
}

static srv_tenant *same_name(const srv_holders *h, const char *name) {
    for (size_t i = 0; h->tenant && i < h->keys->n; i++)
        if (strcmp(h->tenant[i]->name, name) == 0)
            return h->tenant[i];
    return NULL;
}

/* Takes `keys`, also on failure. Names that `old` knows keep their holder. */
static tnl_status make_holders(srv_holders *out, srv_keys *keys, const srv_holders *old,
                               const srv_limits *preset, tnl_error *err) {
    *out = (srv_holders){keys, calloc(keys->n, sizeof *out->tenant)};
    bool fine = out->tenant != NULL;
    for (size_t i = 0; fine && i < keys->n; i++) {
        const srv_key *k = &keys->key[i];
        srv_limits limits = srv_limits_over(k->limits, preset);
        srv_tenant *t = srv_tenant_ref(same_name(old, k->name));
        out->tenant[i] = t ? t : srv_tenant_new(k->name, srv_key_id(k->name), &limits);
        fine = out->tenant[i] != NULL;
    }
    if (fine)
        return TNL_OK;
    free_holders(out);
    return tnl_fail(err, TNL_E_NOMEM, "out of memory");
}

static void apply_lines(const srv_holders *h, const srv_limits *preset) {
    for (size_t i = 0; i < h->keys->n; i++) {
        srv_limits limits = srv_limits_over(h->keys->key[i].limits, preset);
        srv_tenant_set(h->tenant[i], &limits, h->keys->key[i].admin);
    }
}

/* ---- opening, reloading, closing ---- */

static tnl_status read_keys(srv_access *out, const srv_settings *s, tnl_error *err) {
    srv_keys *keys = NULL;
    const srv_holders none = {0};
    if (s->api_key_file && *s->api_key_file)
        out->key_file = s->api_key_file;
    TNL_TRY(read_key_env(&keys, !out->key_file, err));
    if (out->key_file)
        TNL_TRY(read_key_file(&keys, out->key_file, err));
    if (!keys)
        return TNL_OK;
    TNL_TRY(make_holders(&out->now, keys, &none, &out->preset, err));
    apply_lines(&out->now, &out->preset);
    out->keyed = true;
    return TNL_OK;
}

tnl_status srv_access_open(srv_access *out, const srv_settings *s, tnl_error *err) {
    memset(out, 0, sizeof *out);
    pthread_rwlock_init(&out->lock, NULL);
    out->opened = true;
    out->bind_host = s->host;
    out->allowed = s->allowed_host;
    out->cors = s->cors_origin;
    out->bind_any = strcmp(s->host, "0.0.0.0") == 0 || strcmp(s->host, "::") == 0;
    out->preset = s->limits;
    TNL_TRY(srv_nets_parse(&out->trusted, s->trust_proxy, "--trust-proxy", err));
    TNL_TRY(srv_access_check_origins(s->cors_origin, err));
    TNL_TRY(read_keys(out, s, err));
    if (!out->keyed && srv_limits_any(&out->preset)) {
        out->addresses = srv_addresses_new(&out->preset, SRV_ADDRESSES_MAX);
        if (!out->addresses)
            return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    }
    if (!out->keyed && srv_access_cors(out, "").p)
        tnl_log(TNL_LOG_WARN, "--cors-origin *: any site's pages may ask, and no key is set");
    if (!out->keyed && !srv_access_is_loopback(s->host) && !s->insecure_no_auth)
        return tnl_fail(err, TNL_E_USAGE,
                        "--host %s can be reached from other machines and no API key is set: "
                        "give --api-key-file, or --insecure-no-auth to serve everyone",
                        s->host);
    return TNL_OK;
}

tnl_status srv_access_reload(srv_access *a, tnl_error *err) {
    srv_keys *keys = NULL;
    srv_holders next;
    if (!a->key_file)
        return TNL_OK;
    TNL_TRY(read_key_file(&keys, a->key_file, err));
    /* one thread reloads: `now` does not change under this reading of it */
    TNL_TRY(make_holders(&next, keys, &a->now, &a->preset, err));
    pthread_rwlock_wrlock(&a->lock);
    srv_holders old = a->now;
    a->now = next;
    apply_lines(&a->now, &a->preset);
    pthread_rwlock_unlock(&a->lock);
    free_holders(&old);
    return TNL_OK;
}

void srv_access_close(srv_access *a) {
    if (!a->opened)
        return;
    free_holders(&a->now);
    srv_addresses_free(a->addresses);
    pthread_rwlock_destroy(&a->lock);
    memset(a, 0, sizeof *a);
}

/* ---- asking ---- */

srv_tenant *srv_access_holder(srv_access *a, const char *value) {
    if (!value || strncasecmp(value, "Bearer ", 7) != 0)
        return NULL;
    pthread_rwlock_rdlock(&a->lock);
    size_t at = srv_keys_find(a->now.keys, value + 7);
    srv_tenant *t = at < a->now.keys->n ? srv_tenant_ref(a->now.tenant[at]) : NULL;
    pthread_rwlock_unlock(&a->lock);
    return t;
}

size_t srv_access_count(srv_access *a) {
    pthread_rwlock_rdlock(&a->lock);
    size_t n = a->now.keys ? a->now.keys->n : 0;
    pthread_rwlock_unlock(&a->lock);
    return n;
}

void srv_access_each(srv_access *a, void (*fn)(void *ctx, srv_tenant *t), void *ctx) {
    pthread_rwlock_rdlock(&a->lock);
    for (size_t i = 0; a->now.tenant && i < a->now.keys->n; i++)
        fn(ctx, a->now.tenant[i]);
    pthread_rwlock_unlock(&a->lock);
}
