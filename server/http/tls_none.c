/* Built without GnuTLS: a certificate is refused. */
#include <stdbool.h>

#include "server/http/tls.h"

tnl_status srv_tls_open(srv_tls **out, const char *cert_file, const char *key_file,
                        tnl_error *err) {
    (void)cert_file, (void)key_file;
    *out = NULL;
    return tnl_fail(err, TNL_E_UNSUPPORTED, "--tls-cert: this program was built without GnuTLS");
}

tnl_status srv_tls_reload(srv_tls *t, tnl_error *err) {
    (void)t, (void)err;
    return TNL_OK;
}

void srv_tls_close(srv_tls *t) {
    (void)t;
}

void srv_tls_options(struct MHD_OptionItem out[SRV_TLS_OPTIONS]) {
    for (int i = 0; i < SRV_TLS_OPTIONS; i++)
        out[i] = (struct MHD_OptionItem){MHD_OPTION_END, 0, NULL};
}

bool srv_tls_used(struct MHD_Connection *mhd) {
    (void)mhd;
    return false;
}

bool srv_tls_send_last(struct MHD_Connection *mhd, const char *data, size_t n) {
    (void)mhd, (void)data, (void)n;
    return false;
}
