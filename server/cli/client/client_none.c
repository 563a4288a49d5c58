/* Built instead of client.c without libcurl: no client. */
#include "server/cli/client/client.h"

tnl_status cli_client_open(cli_client **out, const char *url, const cli_client_opts *o,
                           tnl_error *err) {
    (void)url, (void)o;
    *out = NULL;
    return tnl_fail(err, TNL_E_UNSUPPORTED,
                    "built without libcurl: this build cannot talk to servers");
}

void cli_client_close(cli_client *c) {
    (void)c;
}

tnl_status cli_call_start(cli_call **out, cli_client *c, const char *path, const char *body,
                          size_t n, const cli_sink *sink, tnl_error *err) {
    (void)c, (void)path, (void)body, (void)n, (void)sink;
    *out = NULL;
    return tnl_fail(err, TNL_E_UNSUPPORTED, "built without libcurl");
}

void cli_call_cancel(cli_call *call) {
    (void)call;
}

void cli_client_wait(cli_client *c, double until) {
    (void)c, (void)until;
}

tnl_status cli_client_get(cli_client *c, const char *path, char **text, size_t *n, tnl_error *err) {
    (void)c, (void)path, (void)text, (void)n;
    return tnl_fail(err, TNL_E_UNSUPPORTED, "built without libcurl");
}
