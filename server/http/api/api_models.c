/* GET /v1/models, /v1/models/{model}, TGI's /info; and what we do not do, said clearly. */
#include <stdio.h>
#include <string.h>

#include "server/http/api/chat_template.h"
#include "server/http/server.h"

enum { MAX_NEW_TOKENS = 1000000 };

static void put_model(srv_buf *b, const srv_req *req) {
    const srv_server *srv = req->srv;
    const srv_backend *be = req->be;
    const mdl_spec *spec = mdl_model_spec(be->model);
    srv_buf_puts(b, "{\"id\":");
    srv_json_string(b, srv->set->alias, strlen(srv->set->alias));
    srv_buf_puts(b, ",\"object\":\"model\",\"owned_by\":\"tnl\",\"created\":");
    srv_json_int(b, srv->start_time);
    srv_buf_puts(b, ",\"meta\":{\"architecture\":");
    srv_json_string(b, spec->arch, strlen(spec->arch));
    srv_buf_puts(b, ",\"parameters\":");
    srv_json_int(b, (int64_t)mdl_model_weights(be->model)->params);
    srv_buf_puts(b, ",\"vocab\":");
    srv_json_int(b, spec->vocab);
    srv_buf_puts(b, ",\"layers\":");
    srv_json_int(b, spec->n_layers);
    srv_buf_puts(b, ",\"state_bytes_per_sequence\":");
    srv_json_int(b, (int64_t)mdl_state_bytes(be->model));
    srv_buf_puts(b, ",\"weights\":");
    srv_json_string(b, srv->set->weights, strlen(srv->set->weights));
    srv_buf_printf(b, ",\"text\":%s,\"chat_template\":\"%s\"}}", be->tokenizer ? "true" : "false",
                   srv_chat_name(be->chat));
}

void srv_models_run(srv_req *req) {
    srv_buf b = {0};
    srv_buf_puts(&b, "{\"object\":\"list\",\"data\":[");
    put_model(&b, req);
    srv_buf_puts(&b, "]}\n");
    srv_reply_body(req, 200, SRV_JSON, &b);
}

void srv_model_run(srv_req *req) {
    srv_buf b = {0};
    srv_problem p;
    if (strcmp(req->tail, req->srv->set->alias) != 0) {
        srv_refuse(&p, SRV_ERR_UNKNOWN_MODEL, "model");
        srv_reply_problem(req, &p);
        return;
    }
    put_model(&b, req);
    srv_buf_puts(&b, "\n");
    srv_reply_body(req, 200, SRV_JSON, &b);
}

/* TGI's description of a server, as far as it applies to this one. */
void srv_info_run(srv_req *req) {
    const srv_settings *set = req->srv->set;
    srv_buf b = {0};
    srv_buf_puts(&b, "{\"model_id\":");
    srv_json_string(&b, set->alias, strlen(set->alias));
    srv_buf_printf(&b,
                   ",\"model_sha\":null,\"model_pipeline_tag\":\"text-generation\","
                   "\"max_concurrent_requests\":%lld,\"max_best_of\":%d,\"max_stop_sequences\":%d,",
                   (long long)(set->parallel + set->queue), SRV_MAX_N, ENG_MAX_STOP);
    srv_buf_printf(&b,
                   "\"max_input_tokens\":%lld,\"max_total_tokens\":%lld,\"validation_workers\":%d,"
                   "\"max_client_batch_size\":1,\"router\":\"tnl\",\"version\":\"" TNL_VERSION
                   "\",\"sha\":null,\"docker_label\":null}\n",
                   (long long)set->max_prompt_tokens,
                   (long long)(set->max_prompt_tokens + MAX_NEW_TOKENS), SRV_WORKERS);
    srv_reply_body(req, 200, SRV_JSON, &b);
}

void srv_not_built_run(srv_req *req) {
    srv_problem p;
    srv_refuse(&p, SRV_ERR_NOT_BUILT, NULL);
    snprintf(p.text, sizeof p.text,
             "Embeddings are not computed here: the models served predict text, and what they keep "
             "of it is no embedding.");
    srv_reply_problem(req, &p);
}
