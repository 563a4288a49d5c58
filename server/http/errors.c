/* The rows of errors.h and the JSON they become. */
#include "server/http/errors.h"

#include <stdio.h>
#include <string.h>

#include "kernels/base/utf8.h"

static const struct {
    int status;
    const char *type, *code, *text;
} err_rows[SRV_ERR_COUNT] = {
#define X(name, status, type, code, text) {status, type, code, text},
    SRV_ERR_LIST(X)
#undef X
};

int srv_err_status(srv_err e) {
    return err_rows[e].status;
}

const char *srv_err_code(srv_err e) {
    return err_rows[e].code;
}

bool srv_refuse(srv_problem *p, srv_err e, const char *param) {
    memset(p, 0, sizeof *p);
    p->err = e;
    if (param) {
        size_t n = strlen(param);
        if (n > 64) {
            n = 64;
            n -= tnl_utf8_incomplete_tail(param, n);
        }
        memcpy(p->param, param, n);
    }
    return false;
}

bool srv_conflict(srv_problem *p, const char *param, const char *rule) {
    srv_refuse(p, SRV_ERR_CONFLICT, param);
    snprintf(p->text, sizeof p->text, "%s %s.", p->param, rule);
    return false;
}

const char *srv_err_text(const srv_problem *p) {
    return p->text[0] ? p->text : err_rows[p->err].text;
}

void srv_err_object(srv_buf *b, const srv_problem *p) {
    const char *text = srv_err_text(p);
    srv_buf_puts(b, "{\"message\":");
    srv_json_string(b, text, strlen(text));
    srv_buf_puts(b, ",\"type\":");
    srv_json_string(b, err_rows[p->err].type, strlen(err_rows[p->err].type));
    srv_buf_puts(b, ",\"param\":");
    if (p->param[0])
        srv_json_string(b, p->param, strlen(p->param));
    else
        srv_buf_puts(b, "null");
    srv_buf_puts(b, ",\"code\":");
    srv_json_string(b, err_rows[p->err].code, strlen(err_rows[p->err].code));
    srv_buf_puts(b, "}");
}
