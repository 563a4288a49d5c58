/* TLS for the TCP socket: the certificate, read and checked here so that an error has a name, and
 * handed to libmicrohttpd's GnuTLS for every handshake, so that it can be replaced. tls_none.c
 * stands in where GnuTLS is absent. */
#ifndef TNL_HTTP_TLS_H
#define TNL_HTTP_TLS_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stddef.h>

#include "kernels/base/status.h"

typedef struct srv_tls srv_tls;

/* Both files in PEM; the certificate's chain behind it in the same file. The key must not be open
 * to everybody. */
tnl_status srv_tls_open(srv_tls **out, const char *cert_file, const char *key_file, tnl_error *err);
/* Read both again; on failure everything stays. Handshakes under way are not disturbed. */
tnl_status srv_tls_reload(srv_tls *t, tnl_error *err);
void srv_tls_close(srv_tls *t); /* NULL allowed; after the daemon has stopped */

enum { SRV_TLS_OPTIONS = 2 };
void srv_tls_options(struct MHD_OptionItem out[SRV_TLS_OPTIONS]);

/* Send n bytes and say that these were the last. Only on the thread that runs the connection.
 * False: not all of them went out. */
bool srv_tls_send_last(struct MHD_Connection *mhd, const char *data, size_t n);
bool srv_tls_used(struct MHD_Connection *mhd);

#endif
