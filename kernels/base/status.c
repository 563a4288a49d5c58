/* Status words, exit codes and the one place that formats error lines. */
#include "kernels/base/status.h"

#include <stdarg.h>
#include <stdio.h>

#include "kernels/base/utf8.h"

static const struct {
    const char *words;
    int exit_code;
} status_rows[] = {
#define X(name, exit_code, words) {words, exit_code},
    TNL_STATUS_LIST(X)
#undef X
};

static int known(tnl_status s) {
    return (unsigned)s < sizeof status_rows / sizeof status_rows[0];
}

const char *tnl_status_str(tnl_status s) {
    return known(s) ? status_rows[s].words : "unknown status";
}

int tnl_status_exit_code(tnl_status s) {
    return known(s) ? status_rows[s].exit_code : 70;
}

tnl_status tnl_fail(tnl_error *err, tnl_status code, const char *fmt, ...) {
    if (!err)
        return code;
    err->code = code;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    tnl_utf8_make_printable(err->msg);
    return code;
}
