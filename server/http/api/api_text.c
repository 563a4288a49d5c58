/* POST /tokenize and /detokenize. */
#include <stdlib.h>
#include <string.h>

#include "kernels/base/log.h"
#include "server/http/api/text.h"
#include "server/http/json/json_in.h"
#include "server/http/server.h"

static void refuse_status(srv_req *req, tnl_status s, const char *param, const tnl_error *err) {
    srv_problem p;
    tnl_log(TNL_LOG_DEBUG, "%s tokenizer: %s", req->id, err->msg);
    if (s == TNL_E_UNSUPPORTED)
        srv_refuse(&p, SRV_ERR_NO_TOKENIZER, param);
    else if (s == TNL_E_NOMEM)
        srv_refuse(&p, SRV_ERR_NOMEM, NULL);
    else
        srv_refuse(&p, SRV_ERR_TEXT_REFUSED, param);
    srv_reply_problem(req, &p);
}

static void put_ids(srv_buf *b, const int32_t *ids, size_t n) {
    srv_buf_puts(b, "{\"tokens\":[");
    for (size_t i = 0; i < n; i++) {
        if (i)
            srv_buf_puts(b, ",");
        srv_json_int(b, ids[i]);
    }
    srv_buf_puts(b, "]");
}

/* {"text"} to {"tokens":[..],"pieces":[..]}: ids as /generate would use them, without the bos that
 * it may put in front. */
void srv_tokenize_run(srv_req *req) {
    const tok_model *t = req->be->tokenizer;
    char *text = NULL;
    int32_t *ids = NULL;
    size_t text_len = 0, n = 0;
    srv_problem p = {0};
    tnl_error err = {0};
    if (!srv_text_parse(&text, &text_len, req->body.data, req->body.len, &p)) {
        srv_reply_problem(req, &p);
        return;
    }
    srv_buf_free(&req->body);
    tnl_status s = srv_text_encode(t, NULL, text, text_len, &ids, &n, &err);
    free(text);
    if (s != TNL_OK) {
        refuse_status(req, s, "text", &err);
        return;
    }
    srv_buf b = {0};
    put_ids(&b, ids, n);
    srv_buf_puts(&b, ",\"pieces\":[");
    for (size_t i = 0; i < n; i++) {
        const char *name = srv_text_piece_name(t, ids[i]);
        if (i)
            srv_buf_puts(&b, ",");
        srv_json_string(&b, name, strlen(name));
    }
    srv_buf_puts(&b, "]}\n");
    free(ids);
    srv_reply_body(req, 200, SRV_JSON, &b);
}

/* {"tokens":[..]} to {"text"}. */
void srv_detokenize_run(srv_req *req) {
    const srv_server *srv = req->srv;
    srv_in_limits limits = {.vocab = mdl_model_spec(req->be->model)->vocab,
                            .max_prompt_tokens = srv->set->max_prompt_tokens};
    int32_t *ids = NULL;
    char *text = NULL;
    size_t n = 0, text_len = 0;
    srv_problem p = {0};
    tnl_error err = {0};
    if (!srv_tokens_parse(&ids, &n, req->body.data, req->body.len, &limits, &p)) {
        srv_reply_problem(req, &p);
        return;
    }
    srv_buf_free(&req->body);
    tnl_status s = srv_text_decode(req->be->tokenizer, ids, n, &text, &text_len, &err);
    free(ids);
    if (s != TNL_OK) {
        refuse_status(req, s, "tokens", &err);
        return;
    }
    srv_buf b = {0};
    srv_buf_puts(&b, "{\"text\":");
    srv_json_string(&b, text, text_len);
    srv_buf_puts(&b, "}\n");
    free(text);
    srv_reply_body(req, 200, SRV_JSON, &b);
}
