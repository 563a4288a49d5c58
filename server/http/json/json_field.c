/* Readers of single values, each driven by its row: plain numbers and flags, seed, stop strings,
 * logit_bias, and fields that may be named but not used. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/http/json/json_parts.h"

bool srv_json_refuse(srv_problem *p, srv_err e, const srv_field *f) {
    srv_refuse(p, e, f->name);
    if (f->kind == SRV_FIELD_INT || f->kind == SRV_FIELD_INT32 || f->kind == SRV_FIELD_FLOAT)
        snprintf(p->text, sizeof p->text, "%s must be %s %s %.17g and at most %.17g.", f->name,
                 f->kind == SRV_FIELD_FLOAT ? "a number" : "an integer",
                 f->min_open ? "above" : "of at least", f->min, f->max);
    else
        snprintf(p->text, sizeof p->text, "%s must be: %s.", f->name, f->type);
    return false;
}

bool srv_json_number(double *out, const srv_field *f, const cJSON *v, srv_problem *p) {
    if (!cJSON_IsNumber(v))
        return srv_json_refuse(p, SRV_ERR_INVALID_TYPE, f);
    double x = v->valuedouble;
    if (!isfinite(x))
        return srv_json_refuse(p, SRV_ERR_OUT_OF_RANGE, f);
    if (f->kind != SRV_FIELD_FLOAT && trunc(x) != x)
        return srv_json_refuse(p, SRV_ERR_INVALID_TYPE, f);
    if (x < f->min || x > f->max || (f->min_open && x == f->min))
        return srv_json_refuse(p, SRV_ERR_OUT_OF_RANGE, f);
    /* A tiny positive value may become zero or subnormal as a float. */
    if (f->kind == SRV_FIELD_FLOAT && f->min_open && (float)x < FLT_MIN)
        return srv_json_refuse(p, SRV_ERR_OUT_OF_RANGE, f);
    *out = x == 0 ? 0 : x; /* -0 is 0 */
    return true;
}

static void store(srv_gen *g, const srv_field *f, double x) {
    void *at = (char *)g + f->offset;
    if (f->kind == SRV_FIELD_BOOL)
        *(bool *)at = x != 0;
    else if (f->kind == SRV_FIELD_INT)
        *(int64_t *)at = (int64_t)x;
    else if (f->kind == SRV_FIELD_INT32)
        *(int32_t *)at = (int32_t)x;
    else if (f->kind == SRV_FIELD_FLOAT)
        *(float *)at = (float)x;
}

bool srv_json_plain(srv_gen *g, const srv_field *f, const cJSON *v, srv_problem *p) {
    double x = 0;
    if (f->kind == SRV_FIELD_BOOL) {
        if (!cJSON_IsBool(v))
            return srv_json_refuse(p, SRV_ERR_INVALID_TYPE, f);
        x = cJSON_IsTrue(v);
    } else if (!srv_json_number(&x, f, v, p)) {
        return false;
    }
    store(g, f, x);
    return true;
}

void srv_json_presets(srv_gen *g, const srv_table *t) {
    for (int i = 0; i < t->n; i++) {
        const srv_field *f = &t->rows[i];
        if (f->sub)
            srv_json_presets(g, f->sub);
        if (f->kind > SRV_FIELD_BOOL || !f->preset || strcmp(f->preset, "null") == 0)
            continue;
        store(g, f, f->preset[0] == 't' ? 1 : strtod(f->preset, NULL));
    }
}

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

bool srv_json_seed(srv_reading *r, const srv_field *f, const cJSON *v) {
    eng_params *params = &r->g->params;
    if (cJSON_IsString(v)) {
        if (!decimal(&params->seed, v->valuestring, UINT64_MAX))
            return srv_json_refuse(r->p, SRV_ERR_OUT_OF_RANGE, f);
    } else {
        double x;
        if (!srv_json_number(&x, f, v, r->p))
            return false;
        params->seed = (uint64_t)x;
    }
    params->has_seed = true;
    return true;
}

static bool add_stop(srv_reading *r, const srv_field *f, const cJSON *v) {
    eng_params *params = &r->g->params;
    if (!cJSON_IsString(v))
        return srv_json_refuse(r->p, SRV_ERR_INVALID_TYPE, f);
    size_t n = strlen(v->valuestring);
    if (n == 0 || n > ENG_MAX_STOP_BYTES || params->n_stop == ENG_MAX_STOP)
        return srv_json_refuse(r->p, SRV_ERR_OUT_OF_RANGE, f);
    memcpy(params->stop[params->n_stop++], v->valuestring, n + 1);
    return true;
}

bool srv_json_stop(srv_reading *r, const srv_field *f, const cJSON *v) {
    const cJSON *item;
    if (f->kind == SRV_FIELD_STOPS && cJSON_IsString(v))
        return add_stop(r, f, v);
    if (!cJSON_IsArray(v))
        return srv_json_refuse(r->p, SRV_ERR_INVALID_TYPE, f);
    cJSON_ArrayForEach(item, v) {
        if (!add_stop(r, f, item))
            return false;
    }
    return true;
}

bool srv_json_bias(srv_reading *r, const srv_field *f, const cJSON *v) {
    eng_params *params = &r->g->params;
    const cJSON *item;
    if (!cJSON_IsObject(v))
        return srv_json_refuse(r->p, SRV_ERR_INVALID_TYPE, f);
    cJSON_ArrayForEach(item, v) {
        uint64_t id;
        if (!cJSON_IsNumber(item))
            return srv_json_refuse(r->p, SRV_ERR_INVALID_TYPE, f);
        bool ok = decimal(&id, item->string, (uint64_t)r->limits->vocab - 1) &&
                  item->valuedouble >= f->min && item->valuedouble <= f->max;
        if (!ok || params->n_bias == ENG_MAX_BIAS)
            return srv_json_refuse(r->p, SRV_ERR_OUT_OF_RANGE, f);
        params->bias_id[params->n_bias] = (int32_t)id;
        params->bias[params->n_bias++] = (float)item->valuedouble;
    }
    return true;
}

/* Whether there is such a session is for later. */
bool srv_json_session(srv_reading *r, const srv_field *f, const cJSON *v) {
    if (!cJSON_IsString(v))
        return srv_json_refuse(r->p, SRV_ERR_INVALID_TYPE, f);
    snprintf(r->g->session, sizeof r->g->session, "%s", *v->valuestring ? v->valuestring : "?");
    return true;
}

static bool one_of(const char *s, const char *a, const char *b) {
    return strcmp(s, a) == 0 || strcmp(s, b) == 0;
}

/* Does the value ask for nothing? */
static bool asks_nothing(const char *name, const cJSON *v) {
    if (cJSON_IsFalse(v))
        return true;
    if (cJSON_IsString(v))
        return strcmp(name, "service_tier") == 0
                   ? one_of(v->valuestring, "auto", "default")
                   : v->valuestring[0] == 0 || one_of(v->valuestring, "none", "auto");
    if (strcmp(name, "modalities") == 0 && cJSON_IsArray(v) && v->child && !v->child->next)
        return cJSON_IsString(v->child) && strcmp(v->child->valuestring, "text") == 0;
    return (cJSON_IsArray(v) || cJSON_IsObject(v)) && !v->child;
}

bool srv_json_neutral(srv_reading *r, const srv_field *f, const cJSON *v) {
    if (asks_nothing(f->name, v))
        return true;
    srv_refuse(r->p, SRV_ERR_UNSUPPORTED, f->name);
    snprintf(r->p->text, sizeof r->p->text, "%s is not supported here: %s.", f->name, f->doc);
    return false;
}
