/* Prompts in all their forms (text, ids, arrays of either) and the messages of a chat. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/http/json/json_parts.h"

enum { MAX_MESSAGES = 1024 };

bool srv_json_copy(char **out, size_t *len, const char *s, srv_problem *p) {
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

/* Either the ids that were cut out beforehand, or what is left in the tree. cut NULL: the latter.
 */
bool srv_json_ids(int32_t **ids, size_t *n_ids, srv_ids *cut, const cJSON *v, const char *name,
                  const srv_in_limits *limits, srv_problem *p) {
    if (!cut || !cut->found) {
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

static bool one_prompt(srv_reading *r, srv_prompt *to, const srv_field *f, const cJSON *v,
                       srv_ids *cut) {
    if (cJSON_IsString(v))
        return srv_json_copy(&to->text, &to->text_len, v->valuestring, r->p);
    if (!cJSON_IsArray(v) || f->kind == SRV_FIELD_TEXT)
        return srv_json_refuse(r->p, SRV_ERR_INVALID_TYPE, f);
    return srv_json_ids(&to->ids, &to->n_ids, cut, v, f->name, r->limits, r->p);
}

/* An array whose items are strings or arrays holds prompts; of numbers it is one prompt itself. */
static bool many(const srv_field *f, const cJSON *v) {
    return f->kind == SRV_FIELD_PROMPTS && cJSON_IsArray(v) && v->child &&
           (cJSON_IsString(v->child) || cJSON_IsArray(v->child));
}

bool srv_json_prompt(srv_reading *r, const srv_field *f, const cJSON *v) {
    srv_gen *g = r->g;
    bool several = many(f, v);
    size_t n = several ? (size_t)cJSON_GetArraySize(v) : 1;
    if (n > SRV_MAX_PROMPTS)
        return srv_json_refuse(r->p, SRV_ERR_OUT_OF_RANGE, f);
    g->prompts = calloc(n, sizeof *g->prompts);
    if (!g->prompts)
        return srv_refuse(r->p, SRV_ERR_NOMEM, NULL);
    if (!several) {
        g->n_prompts = 1;
        return one_prompt(r, &g->prompts[0], f, v, r->cut);
    }
    const cJSON *item;
    cJSON_ArrayForEach(item, v) {
        if (!one_prompt(r, &g->prompts[g->n_prompts++], f, item, NULL))
            return false;
    }
    return true;
}

/* ---- messages ---- */

static bool refuse_message(srv_reading *r, srv_err e, size_t at, const char *what) {
    srv_refuse(r->p, e, "messages");
    snprintf(r->p->text, sizeof r->p->text, "messages[%zu]: %s", at, what);
    return false;
}

/* "text", or parts of type text, which are joined. */
static bool join_parts(srv_reading *r, size_t at, srv_message *m, const cJSON *parts) {
    srv_buf b = {0};
    const cJSON *part;
    cJSON_ArrayForEach(part, parts) {
        const cJSON *type = cJSON_GetObjectItemCaseSensitive(part, "type");
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(part, "text");
        if (!cJSON_IsString(type) || strcmp(type->valuestring, "text") != 0 ||
            !cJSON_IsString(text)) {
            srv_buf_free(&b);
            return refuse_message(r, SRV_ERR_UNSUPPORTED, at, "only parts of type text are read.");
        }
        srv_buf_puts(&b, text->valuestring);
    }
    m->text_len = b.len;
    srv_buf_put(&b, "", 1);
    if (b.failed) {
        srv_buf_free(&b);
        return srv_refuse(r->p, SRV_ERR_NOMEM, NULL);
    }
    m->text = b.data;
    return true;
}

static bool read_content(srv_reading *r, size_t at, srv_message *m, const cJSON *v) {
    if (cJSON_IsString(v))
        return srv_json_copy(&m->text, &m->text_len, v->valuestring, r->p);
    if (cJSON_IsArray(v) && v->child)
        return join_parts(r, at, m, v);
    return refuse_message(r, SRV_ERR_INVALID_TYPE, at,
                          "content must be a string, or an array of text parts.");
}

static bool read_role(srv_reading *r, size_t at, srv_message *m, const cJSON *v) {
    static const struct {
        const char *name;
        srv_role role;
    } roles[] = {{"system", SRV_ROLE_SYSTEM},
                 {"developer", SRV_ROLE_SYSTEM},
                 {"user", SRV_ROLE_USER},
                 {"assistant", SRV_ROLE_ASSISTANT}};
    for (size_t i = 0; cJSON_IsString(v) && i < sizeof roles / sizeof roles[0]; i++) {
        if (strcmp(v->valuestring, roles[i].name) == 0) {
            m->role = roles[i].role;
            return true;
        }
    }
    return refuse_message(r, SRV_ERR_UNSUPPORTED, at,
                          "role must be system, developer, user or assistant.");
}

/* `name`, `refusal` and an empty tool_calls come back from clients that repeat an answer. */
static bool harmless(const cJSON *v) {
    return cJSON_IsNull(v) || strcmp(v->string, "name") == 0 ||
           (strcmp(v->string, "tool_calls") == 0 && cJSON_IsArray(v) && !v->child);
}

static bool read_message(srv_reading *r, size_t at, srv_message *m, const cJSON *v) {
    const cJSON *item, *role = NULL, *content = NULL;
    if (!cJSON_IsObject(v))
        return refuse_message(r, SRV_ERR_INVALID_TYPE, at, "must be an object.");
    cJSON_ArrayForEach(item, v) {
        if (strcmp(item->string, "role") == 0)
            role = item;
        else if (strcmp(item->string, "content") == 0)
            content = item;
        else if (!harmless(item))
            return refuse_message(r, SRV_ERR_UNSUPPORTED, at,
                                  "only role and content are supported.");
    }
    if (!role || !content)
        return refuse_message(r, SRV_ERR_MISSING, at, "needs role and content.");
    return read_role(r, at, m, role) && read_content(r, at, m, content);
}

bool srv_json_messages(srv_reading *r, const srv_field *f, const cJSON *v) {
    srv_gen *g = r->g;
    const cJSON *item;
    if (!cJSON_IsArray(v))
        return srv_json_refuse(r->p, SRV_ERR_INVALID_TYPE, f);
    size_t n = (size_t)cJSON_GetArraySize(v);
    if (n == 0)
        return srv_refuse(r->p, SRV_ERR_PROMPT_EMPTY, f->name);
    if (n > MAX_MESSAGES)
        return srv_json_refuse(r->p, SRV_ERR_OUT_OF_RANGE, f);
    g->messages = calloc(n, sizeof *g->messages);
    if (!g->messages)
        return srv_refuse(r->p, SRV_ERR_NOMEM, NULL);
    cJSON_ArrayForEach(item, v) {
        size_t at = g->n_messages++;
        if (!read_message(r, at, &g->messages[at], item))
            return false;
    }
    return true;
}
