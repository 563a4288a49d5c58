/* Certificates through GnuTLS.
 *
 * libmicrohttpd asks for the certificate in a callback that gets no argument of ours, so the
 * present one is reached through file scope: one server a process. A handshake gets copies of its
 * own, which GnuTLS frees, so a reload never pulls a key from under it. */
#include "server/http/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/log.h"

enum { FILE_MAX = 262144, CHAIN_MAX = 16, KEY_ID_MAX = 64 };

typedef struct pem_pair {
    gnutls_datum_t cert, key;
} pem_pair;

struct srv_tls {
    const char *cert_file, *key_file;
    pthread_rwlock_t lock; /* guards `pem` */
    pem_pair pem;
};

static srv_tls *present; /* set before the daemon starts, cleared after it has stopped */

static void pair_free(pem_pair *p) {
    if (p->key.data)
        explicit_bzero(p->key.data, p->key.size);
    free(p->key.data);
    free(p->cert.data);
    memset(p, 0, sizeof *p);
}

/* ---- files ---- */

static tnl_status check_file(int fd, const char *shown, bool secret, tnl_error *err) {
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return tnl_fail(err, TNL_E_USAGE, "%s: not a regular file", shown);
    if (secret && (st.st_mode & 027))
        return tnl_fail(err, TNL_E_USAGE,
                        "%s: the key has mode %04o; expected 0600, or 0640 for a group", shown,
                        (unsigned)(st.st_mode & 07777));
    if (st.st_size <= 0 || st.st_size > FILE_MAX)
        return tnl_fail(err, TNL_E_DATA, "%s: has %lld bytes, expected 1 to %d", shown,
                        (long long)st.st_size, FILE_MAX);
    return TNL_OK;
}

static tnl_status read_file(gnutls_datum_t *out, const char *path, bool secret, tnl_error *err) {
    char shown[200];
    tnl_log_escape(shown, sizeof shown, path, strlen(path));
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return tnl_fail(err, TNL_E_NO_INPUT, "%s: %s", shown, strerror(errno));
    tnl_status s = check_file(fd, shown, secret, err);
    if (s == TNL_OK) {
        out->data = malloc(FILE_MAX);
        ssize_t n = out->data ? read(fd, out->data, FILE_MAX) : -1;
        out->size = n > 0 ? (unsigned)n : 0;
        if (n <= 0)
            s = tnl_fail(err, TNL_E_IO, "%s: cannot be read", shown);
    }
    close(fd);
    return s;
}

/* ---- PEM to what GnuTLS works with ---- */

typedef struct loaded {
    gnutls_pcert_st *chain; /* from gnutls_malloc */
    unsigned n;
    gnutls_privkey_t key;
} loaded;

static void loaded_free(loaded *l) {
    for (unsigned i = 0; i < l->n; i++)
        gnutls_pcert_deinit(&l->chain[i]);
    gnutls_free(l->chain);
    if (l->key)
        gnutls_privkey_deinit(l->key);
    memset(l, 0, sizeof *l);
}

/* GnuTLS' code, 0 for success; *in_key tells which file was at fault. */
static int import(loaded *l, const pem_pair *p, bool *in_key) {
    memset(l, 0, sizeof *l);
    *in_key = false;
    l->chain = gnutls_malloc(CHAIN_MAX * sizeof *l->chain);
    if (!l->chain)
        return GNUTLS_E_MEMORY_ERROR;
    unsigned n = CHAIN_MAX;
    int rc = gnutls_pcert_list_import_x509_raw(l->chain, &n, &p->cert, GNUTLS_X509_FMT_PEM, 0);
    if (rc < 0)
        return rc;
    l->n = n;
    *in_key = true;
    rc = gnutls_privkey_init(&l->key);
    if (rc >= 0)
        rc = gnutls_privkey_import_x509_raw(l->key, &p->key, GNUTLS_X509_FMT_PEM, NULL, 0);
    return rc < 0 ? rc : 0;
}

static bool key_id(uint8_t out[KEY_ID_MAX], size_t *n, gnutls_pubkey_t key) {
    *n = KEY_ID_MAX;
    return gnutls_pubkey_get_key_id(key, GNUTLS_KEYID_USE_SHA256, out, n) == 0;
}

static bool belong_together(const loaded *l) {
    uint8_t a[KEY_ID_MAX], b[KEY_ID_MAX];
    size_t an = 0, bn = 0;
    gnutls_pubkey_t pub;
    if (gnutls_pubkey_init(&pub) < 0)
        return false;
    bool same = gnutls_pubkey_import_privkey(pub, l->key, 0, 0) == 0 && key_id(a, &an, pub) &&
                key_id(b, &bn, l->chain[0].pubkey) && an == bn && memcmp(a, b, an) == 0;
    gnutls_pubkey_deinit(pub);
    return same;
}

/* Served all the same: clients say it, too, and a clock may be wrong. */
static void warn_if_expired(const srv_tls *t, const loaded *l) {
    gnutls_x509_crt_t c;
    if (gnutls_pcert_export_x509(&l->chain[0], &c) < 0)
        return;
    time_t end = gnutls_x509_crt_get_expiration_time(c);
    if (end != (time_t)-1 && end < time(NULL))
        tnl_log(TNL_LOG_WARN, "%s: the certificate has expired", t->cert_file);
    gnutls_x509_crt_deinit(c);
}

static tnl_status check_pair(const srv_tls *t, const pem_pair *p, tnl_error *err) {
    loaded l;
    bool in_key;
    tnl_status s = TNL_OK;
    int rc = import(&l, p, &in_key);
    if (rc == GNUTLS_E_DECRYPTION_FAILED && in_key)
        s = tnl_fail(err, TNL_E_DATA, "--tls-key %s: the key is encrypted, expected a plain one",
                     t->key_file);
    else if (rc != 0)
        s = tnl_fail(err, TNL_E_DATA, "%s %s: %s", in_key ? "--tls-key" : "--tls-cert",
                     in_key ? t->key_file : t->cert_file, gnutls_strerror(rc));
    else if (!belong_together(&l))
        s = tnl_fail(err, TNL_E_DATA, "--tls-key %s is not the key of the certificate %s",
                     t->key_file, t->cert_file);
    else
        warn_if_expired(t, &l);
    loaded_free(&l);
    return s;
}

static tnl_status read_pair(pem_pair *out, const srv_tls *t, tnl_error *err) {
    memset(out, 0, sizeof *out);
    tnl_status s = read_file(&out->cert, t->cert_file, false, err);
    if (s == TNL_OK)
        s = read_file(&out->key, t->key_file, true, err);
    if (s == TNL_OK)
        s = check_pair(t, out, err);
    if (s != TNL_OK)
        pair_free(out);
    return s;
}

/* ---- the handshake ---- */

static int retrieve(gnutls_session_t session, const struct gnutls_cert_retr_st *info,
                    gnutls_pcert_st **certs, unsigned *n_certs, gnutls_ocsp_data_st **ocsp,
                    unsigned *n_ocsp, gnutls_privkey_t *key, unsigned *flags) {
    (void)session, (void)info;
    srv_tls *t = present;
    loaded l;
    bool in_key;
    pthread_rwlock_rdlock(&t->lock);
    int rc = import(&l, &t->pem, &in_key);
    pthread_rwlock_unlock(&t->lock);
    if (rc != 0) {
        loaded_free(&l);
        return -1;
    }
    *certs = l.chain;
    *n_certs = l.n;
    *key = l.key;
    *ocsp = NULL;
    *n_ocsp = 0;
    *flags |= GNUTLS_CERT_RETR_DEINIT_ALL;
    return 0;
}

/* ---- open and close ---- */

tnl_status srv_tls_open(srv_tls **out, const char *cert_file, const char *key_file,
                        tnl_error *err) {
    *out = NULL;
    if (MHD_is_feature_supported(MHD_FEATURE_TLS) != MHD_YES ||
        MHD_is_feature_supported(MHD_FEATURE_HTTPS_CERT_CALLBACK2) != MHD_YES)
        return tnl_fail(err, TNL_E_UNSUPPORTED, "--tls-cert: this libmicrohttpd is without TLS");
    srv_tls *t = calloc(1, sizeof *t);
    if (!t)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    t->cert_file = cert_file;
    t->key_file = key_file;
    pthread_rwlock_init(&t->lock, NULL);
    tnl_status s = read_pair(&t->pem, t, err);
    if (s != TNL_OK) {
        srv_tls_close(t);
        return s;
    }
    present = t;
    *out = t;
    return TNL_OK;
}

tnl_status srv_tls_reload(srv_tls *t, tnl_error *err) {
    pem_pair fresh, old;
    TNL_TRY(read_pair(&fresh, t, err));
    pthread_rwlock_wrlock(&t->lock);
    old = t->pem;
    t->pem = fresh;
    pthread_rwlock_unlock(&t->lock);
    pair_free(&old);
    return TNL_OK;
}

void srv_tls_close(srv_tls *t) {
    if (!t)
        return;
    present = NULL;
    pair_free(&t->pem);
    pthread_rwlock_destroy(&t->lock);
    free(t);
}

/* The priorities must outlive the call that reads them. */
void srv_tls_options(struct MHD_OptionItem out[SRV_TLS_OPTIONS]) {
    static char priorities[] = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2";
    out[0] =
        (struct MHD_OptionItem){MHD_OPTION_HTTPS_CERT_CALLBACK2, 0, (void *)(intptr_t)retrieve};
    out[1] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_PRIORITIES, 0, priorities};
}

/* ---- one connection ---- */

static gnutls_session_t session_of(struct MHD_Connection *mhd) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    return info ? info->tls_session : NULL;
}

bool srv_tls_used(struct MHD_Connection *mhd) {
    return session_of(mhd) != NULL;
}

bool srv_tls_send_last(struct MHD_Connection *mhd, const char *data, size_t n) {
    gnutls_session_t s = session_of(mhd);
    return s && gnutls_record_send(s, data, n) == (ssize_t)n &&
           gnutls_bye(s, GNUTLS_SHUT_WR) == GNUTLS_E_SUCCESS;
}
