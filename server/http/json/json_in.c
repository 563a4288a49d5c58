/* Request bodies: the strict check, then every field through its row of the table. */
#include "server/http/json/json_in.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/json_scan.h"
#include "server/engine/grammar/grammar.h"
#include "server/http/json/json_parts.h"

static const tnl_json_limits body_limits = {
    .max_bytes = (size_t)64 << 20,
    .max_values = 65536,
    .max_depth = 32,
    .max_keys = ENG_MAX_BIAS}; /* logit_bias is the largest object */

/* The name between the quotes of a duplicate-key message (json_scan.h gives its form). */
static void quoted_part(char *out, size_t cap, const char *msg) {
    const char *a = strchr(msg, '"'), *z = strrchr(msg, '"');
    size_t n = a && z > a ? (size_t)(z - a - 1) : 0;
    if (n >= cap)
        n = cap - 1;
    memcpy(out, a ? a + 1 : msg, n);
    out[n] = 0;
}

static bool refuse_json(srv_problem *p, tnl_json_fault fault, const tnl_error *err) {
    char key[SRV_PARAM_MAX];
    switch (fault) {
    case TNL_JSON_UTF8:
        return srv_refuse(p, SRV_ERR_INVALID_UTF8, NULL);
    case TNL_JSON_DUPLICATE:
        quoted_part(key, sizeof key, err->msg);
        return srv_refuse(p, SRV_ERR_DUPLICATE_KEY, key);
    case TNL_JSON_LIMIT:
        return srv_refuse(p, SRV_ERR_JSON_LIMIT, NULL);
    case TNL_JSON_NUMBER:
        return srv_refuse(p, SRV_ERR_OUT_OF_RANGE, NULL);
    default:
        break;
    }
    unsigned long long at;
    srv_refuse(p, err->code == TNL_E_NOMEM ? SRV_ERR_NOMEM : SRV_ERR_INVALID_JSON, NULL);
    if (p->err == SRV_ERR_INVALID_JSON && sscanf(err->msg, "byte %llu", &at) == 1)
        snprintf(p->text, sizeof p->text, "The body is not valid JSON (byte %llu).", at);
    return false;
}

bool srv_json_object(cJSON **out, const char *body, size_t n, srv_problem *p) {
    tnl_json_fault fault = TNL_JSON_OK;
    tnl_error err = {0};
    if (tnl_json_check(body, n, &body_limits, &fault, &err) != TNL_OK)
        return refuse_json(p, fault, &err);
    cJSON *root = cJSON_ParseWithLength(body, n);
    if (!root)
        return srv_refuse(p, SRV_ERR_NOMEM, NULL);
    if (!cJSON_IsObject(root)) {
        cJSON_Delete(root);
        srv_refuse(p, SRV_ERR_INVALID_TYPE, NULL);
        snprintf(p->text, sizeof p->text, "The body must be a JSON object.");
        return false;
    }
    *out = root;
    return true;
}

/* ---- whole bodies ---- */

static bool read_rows(srv_reading *r, const srv_table *t, const cJSON *object);

/* The served model's name, or what Hugging Face's client writes when it was given an address
 * instead of a name. */
static bool read_model(srv_reading *r, const srv_field *f, const cJSON *v) {
    const char *const names[] = {r->limits->alias, "tgi", "dummy"};
    if (!cJSON_IsString(v))
        return srv_json_refuse(r->p, SRV_ERR_INVALID_TYPE, f);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!names[i] || strcmp(v->valuestring, names[i]) == 0)
            return true;
    return srv_refuse(r->p, SRV_ERR_UNKNOWN_MODEL, f->name);
}

static bool read_object(srv_reading *r, const srv_field *f, const cJSON *v) {
    if (!cJSON_IsObject(v))
        return srv_json_refuse(r->p, SRV_ERR_INVALID_TYPE, f);
    uint64_t outer = r->seen;
    r->seen = 0;
    bool ok = read_rows(r, f->sub, v);
    r->seen = outer;
    return ok;
}

static const size_t plain_bytes[] = {[SRV_FIELD_INT] = sizeof(int64_t),
                                     [SRV_FIELD_INT32] = sizeof(int32_t),
                                     [SRV_FIELD_FLOAT] = sizeof(float),
                                     [SRV_FIELD_BOOL] = sizeof(bool)};

/* Another name of the same setting that was there already. */
static bool named_before(const srv_reading *r, const srv_table *t, const srv_field *f) {
    for (int i = 0; i < t->n; i++)
        if (&t->rows[i] != f && (r->seen >> i & 1) && t->rows[i].kind == f->kind &&
            t->rows[i].offset == f->offset)
            return true;
    return false;
}

/* Two names of one setting may both be there if they agree. */
static bool read_plain(srv_reading *r, const srv_table *t, const srv_field *f, const cJSON *v) {
    int64_t old = 0;
    const char *at = (const char *)r->g + f->offset;
    bool again = named_before(r, t, f);
    if (again)
        memcpy(&old, at, plain_bytes[f->kind]);
    if (!srv_json_plain(r->g, f, v, r->p))
        return false;
    return !again || memcmp(&old, at, plain_bytes[f->kind]) == 0 ||
           srv_conflict(r->p, f->name, "is given twice, by two names, with two values");
}

static bool read_value(srv_reading *r, const srv_table *t, const srv_field *f, const cJSON *v) {
    switch (f->kind) {
    case SRV_FIELD_SEED:
        return srv_json_seed(r, f, v);
    case SRV_FIELD_STOP:
    case SRV_FIELD_STOPS:
        return srv_json_stop(r, f, v);
    case SRV_FIELD_BIAS:
        return srv_json_bias(r, f, v);
    case SRV_FIELD_PROMPT:
    case SRV_FIELD_PROMPTS:
    case SRV_FIELD_TEXT:
        return srv_json_prompt(r, f, v);
    case SRV_FIELD_MESSAGES:
        return srv_json_messages(r, f, v);
    case SRV_FIELD_MODEL:
        return read_model(r, f, v);
    case SRV_FIELD_FORMAT:
        return srv_json_format(r, f, v);
    case SRV_FIELD_GRAMMAR:
        return srv_json_grammar(r, f, v);
    case SRV_FIELD_SESSION:
        return srv_json_session(r, f, v);
    case SRV_FIELD_OBJECT:
        return read_object(r, f, v);
    case SRV_FIELD_ANY:
        return true;
    case SRV_FIELD_NEUTRAL:
        return srv_json_neutral(r, f, v);
    default:
        return read_plain(r, t, f, v);
    }
}

static bool read_field(srv_reading *r, const srv_table *t, const cJSON *v) {
    const srv_field *f = srv_field_find(t, v->string);
    if (!f)
        return srv_refuse(r->p, SRV_ERR_UNSUPPORTED, v->string);
    if (cJSON_IsNull(v))
        return true; /* as if absent */
    if (!read_value(r, t, f, v))
        return false;
    if (f->given)
        *((bool *)((char *)r->g + f->given)) = true;
    r->seen |= (uint64_t)1 << (f - t->rows);
    return true;
}

static bool read_rows(srv_reading *r, const srv_table *t, const cJSON *object) {
    const cJSON *item;
    cJSON_ArrayForEach(item, object) {
        if (!read_field(r, t, item))
            return false;
    }
    return true;
}

static const srv_table *table_for(const srv_table *t, const cJSON *root) {
    bool other = t->instead && cJSON_GetObjectItemCaseSensitive(root, t->instead->prompt) &&
                 !cJSON_GetObjectItemCaseSensitive(root, t->prompt);
    return other ? t->instead : t;
}

/* Behind a session's text a prompt may be empty: the text goes on by itself. */
static bool none_empty(const srv_gen *g) {
    bool good = true;
    for (size_t i = 0; i < g->n_prompts; i++)
        good &= g->prompts[i].text_len > 0 || g->prompts[i].n_ids > 0;
    return good || g->session[0];
}

static bool read_body(srv_reading *r, const cJSON *root) {
    const srv_table *t = r->g->table = table_for(r->g->table, root);
    srv_json_presets(r->g, t);
    if (!read_rows(r, t, root))
        return false;
    if (!r->g->n_prompts && !r->g->n_messages)
        return srv_refuse(r->p, SRV_ERR_MISSING, t->prompt);
    return none_empty(r->g) || srv_refuse(r->p, SRV_ERR_PROMPT_EMPTY, t->prompt);
}

bool srv_gen_parse(srv_gen *out, const srv_table *t, char *body, size_t n,
                   const srv_in_limits *limits, srv_problem *p) {
    srv_ids cut;
    cJSON *root = NULL;
    srv_reading r = {.g = out, .limits = limits, .cut = &cut, .p = p};
    memset(out, 0, sizeof *out);
    eng_params_default(&out->params);
    out->table = t;
    out->n = 1;
    out->logprobs = out->top_logprobs = -1;
    if (!srv_ids_cut(&cut, body, n, t->prompt, limits->vocab, (size_t)limits->max_prompt_tokens))
        return srv_refuse(p, SRV_ERR_NOMEM, NULL);
    bool ok = srv_json_object(&root, body, n, p) && read_body(&r, root);
    if (!ok)
        srv_gen_clear(out);
    cJSON_Delete(root);
    free(cut.ids);
    return ok;
}

void srv_gen_clear(srv_gen *g) {
    if (!g)
        return;
    for (size_t i = 0; i < g->n_prompts; i++) {
        free(g->prompts[i].text);
        free(g->prompts[i].ids);
    }
    for (size_t i = 0; i < g->n_messages; i++)
        free(g->messages[i].text);
    eng_grammar_unref(g->grammar);
    g->grammar = NULL;
    free(g->prompts);
    free(g->messages);
    g->prompts = NULL;
    g->messages = NULL;
    g->n_prompts = g->n_messages = 0;
}

bool srv_empty_parse(const char *body, size_t n, srv_problem *p) {
    cJSON *root = NULL;
    if (n == 0)
        return true;
    if (!srv_json_object(&root, body, n, p))
        return false;
    bool ok = !root->child || srv_refuse(p, SRV_ERR_UNSUPPORTED, root->child->string);
    cJSON_Delete(root);
    return ok;
}

/* The object's only field, by name; anything else is named and refused. */
static bool only_field(const cJSON **out, const cJSON *root, const char *name, srv_problem *p) {
    const cJSON *item;
    cJSON_ArrayForEach(item, root) {
        if (strcmp(item->string, name) != 0)
            return srv_refuse(p, SRV_ERR_UNSUPPORTED, item->string);
    }
    *out = cJSON_GetObjectItemCaseSensitive(root, name);
    if (!*out || cJSON_IsNull(*out))
        return srv_refuse(p, SRV_ERR_MISSING, name);
    return true;
}

bool srv_text_parse(char **text, size_t *text_len, char *body, size_t n, srv_problem *p) {
    cJSON *root = NULL;
    const cJSON *v = NULL;
    bool ok = srv_json_object(&root, body, n, p) && only_field(&v, root, "text", p);
    if (ok)
        ok = cJSON_IsString(v) ? srv_json_copy(text, text_len, v->valuestring, p)
                               : srv_refuse(p, SRV_ERR_INVALID_TYPE, "text");
    cJSON_Delete(root);
    return ok;
}

bool srv_tokens_parse(int32_t **ids, size_t *n_ids, char *body, size_t n,
                      const srv_in_limits *limits, srv_problem *p) {
    srv_ids cut;
    cJSON *root = NULL;
    const cJSON *v = NULL;
    *ids = NULL;
    *n_ids = 0;
    if (!srv_ids_cut(&cut, body, n, "tokens", limits->vocab, (size_t)limits->max_prompt_tokens))
        return srv_refuse(p, SRV_ERR_NOMEM, NULL);
    bool ok = srv_json_object(&root, body, n, p) && only_field(&v, root, "tokens", p);
    if (ok)
        ok = cJSON_IsArray(v) ? srv_json_ids(ids, n_ids, &cut, v, "tokens", limits, p)
                              : srv_refuse(p, SRV_ERR_INVALID_TYPE, "tokens");
    if (!ok) {
        free(*ids);
        *ids = NULL;
    }
    cJSON_Delete(root);
    free(cut.ids);
    return ok;
}
