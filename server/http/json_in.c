/* Request bodies: the strict check, the field table, and readers for the four fields that are not
 * plain values. */
#include "server/http/json_in.h"

#include <cjson/cJSON.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/json_scan.h"
#include "server/http/token_ids.h"

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

static bool parse_object(cJSON **out, const char *body, size_t n, srv_problem *p) {
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

/* ---- plain values ---- */

static bool refuse_field(srv_problem *p, srv_err e, const srv_field *f) {
    srv_refuse(p, e, f->name);
    if (f->kind == SRV_FIELD_INT || f->kind == SRV_FIELD_INT32 || f->kind == SRV_FIELD_FLOAT)
        snprintf(p->text, sizeof p->text, "%s must be %s %s %.17g and at most %.17g.", f->name,
                 f->kind == SRV_FIELD_FLOAT ? "a number" : "an integer",
                 f->min_open ? "above" : "of at least", f->min, f->max);
    else
        snprintf(p->text, sizeof p->text, "%s must be: %s.", f->name, f->type);
    return false;
}

static bool read_number(double *out, const srv_field *f, const cJSON *v, srv_problem *p) {
    if (!cJSON_IsNumber(v))
        return refuse_field(p, SRV_ERR_INVALID_TYPE, f);
    double x = v->valuedouble;
    if (!isfinite(x))
        return refuse_field(p, SRV_ERR_OUT_OF_RANGE, f);
    if (f->kind != SRV_FIELD_FLOAT && trunc(x) != x)
        return refuse_field(p, SRV_ERR_INVALID_TYPE, f);
    if (x < f->min || x > f->max || (f->min_open && x == f->min))
        return refuse_field(p, SRV_ERR_OUT_OF_RANGE, f);
    /* A tiny positive value may become zero or subnormal as a float. */
    if (f->kind == SRV_FIELD_FLOAT && f->min_open && (float)x < FLT_MIN)
        return refuse_field(p, SRV_ERR_OUT_OF_RANGE, f);
    *out = x == 0 ? 0 : x; /* -0 is 0 */
    return true;
}

static bool read_plain(srv_gen *g, const srv_field *f, const cJSON *v, srv_problem *p) {
    void *at = (char *)g + f->offset;
    double x = 0;
    if (f->kind == SRV_FIELD_BOOL) {
        if (!cJSON_IsBool(v))
            return refuse_field(p, SRV_ERR_INVALID_TYPE, f);
        *(bool *)at = cJSON_IsTrue(v);
        return true;
    }
    if (!read_number(&x, f, v, p))
        return false;
    if (f->kind == SRV_FIELD_INT)
        *(int64_t *)at = (int64_t)x;
    else if (f->kind == SRV_FIELD_INT32)
        *(int32_t *)at = (int32_t)x;
    else
        *(float *)at = (float)x;
    return true;
}

/* ---- the four others ---- */

/* Decimal digits only, no leading zero, at most `max`. */
static bool decimal(uint64_t *out, const char *s, uint64_t max) {
    uint64_t v = 0;
    if (s[0] == 0 || (s[0] == '0' && s[1] != 0))
        return false;
    for (; *s; s++) {
        uint64_t digit = (uint64_t)(*s - '0');
        if (*s < '0' || *s > '9' || v > (max - digit) / 10)
            return false;
        v = v * 10 + digit;
    }
    *out = v;
    return true;
}

static bool read_seed(srv_gen *g, const srv_field *f, const cJSON *v, srv_problem *p) {
    if (cJSON_IsString(v)) {
        if (!decimal(&g->params.seed, v->valuestring, UINT64_MAX))
            return refuse_field(p, SRV_ERR_OUT_OF_RANGE, f);
    } else {
        double x;
        if (!read_number(&x, f, v, p))
            return false;
        g->params.seed = (uint64_t)x;
    }
    g->params.has_seed = true;
    return true;
}

static bool read_stop(srv_gen *g, const srv_field *f, const cJSON *v, srv_problem *p) {
    if (!cJSON_IsArray(v))
        return refuse_field(p, SRV_ERR_INVALID_TYPE, f);
    const cJSON *item;
    cJSON_ArrayForEach(item, v) {
        if (!cJSON_IsString(item))
            return refuse_field(p, SRV_ERR_INVALID_TYPE, f);
        size_t n = strlen(item->valuestring);
        if (n == 0 || n > ENG_MAX_STOP_BYTES || g->params.n_stop == ENG_MAX_STOP)
            return refuse_field(p, SRV_ERR_OUT_OF_RANGE, f);
        memcpy(g->params.stop[g->params.n_stop++], item->valuestring, n + 1);
    }
    return true;
}

static bool read_bias(srv_gen *g, const srv_field *f, const cJSON *v, const srv_in_limits *limits,
                      srv_problem *p) {
    if (!cJSON_IsObject(v))
        return refuse_field(p, SRV_ERR_INVALID_TYPE, f);
    const cJSON *item;
    cJSON_ArrayForEach(item, v) {
        uint64_t id;
        if (!cJSON_IsNumber(item))
            return refuse_field(p, SRV_ERR_INVALID_TYPE, f);
        bool ok = decimal(&id, item->string, (uint64_t)limits->vocab - 1) &&
                  item->valuedouble >= f->min && item->valuedouble <= f->max;
        if (!ok || g->params.n_bias == ENG_MAX_BIAS)
            return refuse_field(p, SRV_ERR_OUT_OF_RANGE, f);
        g->params.bias_id[g->params.n_bias] = (int32_t)id;
        g->params.bias[g->params.n_bias++] = (float)item->valuedouble;
    }
    return true;
}

static bool copy_text(char **out, size_t *len, const char *s, srv_problem *p) {
    *len = strlen(s);
    *out = malloc(*len + 1);
    if (!*out)
        return srv_refuse(p, SRV_ERR_NOMEM, NULL);
    memcpy(*out, s, *len + 1);
    return true;
}

/* Ids that came through cJSON: an array that the fast loop declined, such as [1.0, 2]. */
static bool ids_of_array(int32_t **ids, size_t *n_ids, const cJSON *v, const char *name,
                         const srv_in_limits *limits, srv_problem *p) {
    size_t n = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, v) {
        if (!cJSON_IsNumber(item) || trunc(item->valuedouble) != item->valuedouble)
            return srv_refuse(p, SRV_ERR_INVALID_TYPE, name);
        if (!(item->valuedouble >= 0 && item->valuedouble < (double)limits->vocab))
            return srv_refuse(p, SRV_ERR_OUT_OF_RANGE, name);
        n++;
    }
    if (n == 0)
        return true;
    *ids = malloc(n * sizeof **ids);
    if (!*ids)
        return srv_refuse(p, SRV_ERR_NOMEM, NULL);
    cJSON_ArrayForEach(item, v)(*ids)[(*n_ids)++] = (int32_t)item->valuedouble;
    return true;
}

/* Either the ids that were cut out beforehand, or what is left in the tree. */
static bool take_ids(int32_t **ids, size_t *n_ids, srv_ids *cut, const cJSON *v, const char *name,
                     const srv_in_limits *limits, srv_problem *p) {
    if (!cut->found) {
        if (!ids_of_array(ids, n_ids, v, name, limits, p))
            return false;
    } else {
        if (cut->too_many)
            return srv_refuse(p, SRV_ERR_PROMPT_TOO_LONG, name);
        if (!cut->in_range)
            return srv_refuse(p, SRV_ERR_OUT_OF_RANGE, name);
        *ids = cut->ids;
        *n_ids = cut->n;
        cut->ids = NULL;
    }
    if ((int64_t)*n_ids > limits->max_prompt_tokens)
        return srv_refuse(p, SRV_ERR_PROMPT_TOO_LONG, name);
    return true;
}

static bool read_prompt(srv_gen *g, const srv_field *f, const cJSON *v, srv_ids *cut,
                        const srv_in_limits *limits, srv_problem *p) {
    g->has_prompt = true;
    if (cJSON_IsString(v)) {
        if (!copy_text(&g->text, &g->text_len, v->valuestring, p))
            return false;
        return g->text_len > 0 || srv_refuse(p, SRV_ERR_PROMPT_EMPTY, f->name);
    }
    if (!cJSON_IsArray(v))
        return refuse_field(p, SRV_ERR_INVALID_TYPE, f);
    if (!take_ids(&g->ids, &g->n_ids, cut, v, f->name, limits, p))
        return false;
    return g->n_ids > 0 || srv_refuse(p, SRV_ERR_PROMPT_EMPTY, f->name);
}

/* ---- whole bodies ---- */

static bool read_field(srv_gen *g, const cJSON *v, srv_ids *cut, const srv_in_limits *limits,
                       srv_problem *p) {
    const srv_field *f = srv_field_find(v->string);
    if (!f)
        return srv_refuse(p, SRV_ERR_UNSUPPORTED, v->string);
    if (cJSON_IsNull(v))
        return true; /* as if absent */
    switch (f->kind) {
    case SRV_FIELD_PROMPT:
        return read_prompt(g, f, v, cut, limits, p);
    case SRV_FIELD_SEED:
        return read_seed(g, f, v, p);
    case SRV_FIELD_STOP:
        return read_stop(g, f, v, p);
    case SRV_FIELD_BIAS:
        return read_bias(g, f, v, limits, p);
    default:
        return read_plain(g, f, v, p);
    }
}

static bool read_fields(srv_gen *g, const cJSON *root, srv_ids *cut, const srv_in_limits *limits,
                        srv_problem *p) {
    const cJSON *item;
    cJSON_ArrayForEach(item, root) {
        if (!read_field(g, item, cut, limits, p))
            return false;
    }
    return g->has_prompt || srv_refuse(p, SRV_ERR_MISSING, "prompt");
}

bool srv_gen_parse(srv_gen *out, char *body, size_t n, const srv_in_limits *limits,
                   srv_problem *p) {
    srv_ids cut;
    cJSON *root = NULL;
    memset(out, 0, sizeof *out);
    eng_params_default(&out->params);
    out->stream = true;
    if (!srv_ids_cut(&cut, body, n, "prompt", limits->vocab, (size_t)limits->max_prompt_tokens))
        return srv_refuse(p, SRV_ERR_NOMEM, NULL);
    bool ok = parse_object(&root, body, n, p) && read_fields(out, root, &cut, limits, p);
    if (!ok)
        srv_gen_clear(out);
    cJSON_Delete(root);
    free(cut.ids);
    return ok;
}

void srv_gen_clear(srv_gen *g) {
    if (!g)
        return;
    free(g->text);
    free(g->ids);
    g->text = NULL;
    g->ids = NULL;
    g->n_ids = 0;
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
    bool ok = parse_object(&root, body, n, p) && only_field(&v, root, "text", p);
    if (ok)
        ok = cJSON_IsString(v) ? copy_text(text, text_len, v->valuestring, p)
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
    bool ok = parse_object(&root, body, n, p) && only_field(&v, root, "tokens", p);
    if (ok)
        ok = cJSON_IsArray(v) ? take_ids(ids, n_ids, &cut, v, "tokens", limits, p)
                              : srv_refuse(p, SRV_ERR_INVALID_TYPE, "tokens");
    if (!ok) {
        free(*ids);
        *ids = NULL;
    }
    cJSON_Delete(root);
    free(cut.ids);
    return ok;
}
