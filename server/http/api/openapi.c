/* GET /openapi.json: paths from the routes, request bodies from the field tables, answers from the
 * texts of openapi_schemas.c. Nothing here is known twice. */
#include "server/http/api/openapi.h"

#include <float.h>
#include <string.h>

#include "server/http/server.h"

static void text(srv_buf *b, const char *s) {
    srv_json_string(b, s, strlen(s));
}

/* ---- request bodies ---- */

static bool may_be_null(const srv_field *f) {
    return f->preset != NULL;
}

static void put_number(srv_buf *b, const srv_field *f) {
    const char *type = f->kind == SRV_FIELD_FLOAT ? "number" : "integer";
    srv_openapi_put(b, "'type':");
    srv_buf_printf(b, may_be_null(f) ? "[\"%s\",\"null\"]" : "\"%s\"", type);
    srv_openapi_put(b, ",'minimum':");
    srv_json_double(b, f->min_open && f->min == 0 ? (double)FLT_MIN : f->min);
    srv_openapi_put(b, ",'maximum':");
    srv_json_double(b, f->max);
}

/* Kinds with a fixed form. Bounds in bytes are given in characters that always fit. */
static const char *fixed_form(srv_field_kind kind) {
    switch (kind) {
    case SRV_FIELD_SEED:
        return "'anyOf':[{'type':'integer','minimum':0,'maximum':9007199254740991},"
               "{'type':'string','pattern':'^(0|[1-9][0-9]{0,18})$'},{'type':'null'}]";
    case SRV_FIELD_STOP:
        return "'type':['array','null'],'maxItems':16,"
               "'items':{'type':'string','minLength':1,'maxLength':64}";
    case SRV_FIELD_STOPS:
        return "'anyOf':[{'type':'string','minLength':1,'maxLength':64},{'type':'array',"
               "'maxItems':16,'items':{'type':'string','minLength':1,'maxLength':64}},"
               "{'type':'null'}]";
    case SRV_FIELD_BIAS:
        return "'type':['object','null'],'propertyNames':{'pattern':'^(0|[1-9][0-9]*)$'},"
               "'additionalProperties':{'type':'number','minimum':-100,'maximum':100},"
               "'maxProperties':1024";
    case SRV_FIELD_PROMPT:
        return "'anyOf':[{'type':'string','minLength':1},"
               "{'type':'array','minItems':1,'items':{'type':'integer','minimum':0}}]";
    case SRV_FIELD_PROMPTS:
        return "'anyOf':[{'type':'string','minLength':1},"
               "{'type':'array','minItems':1,'items':{'type':'integer','minimum':0}},"
               "{'type':'array','minItems':1,'maxItems':32,"
               "'items':{'type':'string','minLength':1}},"
               "{'type':'array','minItems':1,'maxItems':32,'items':{'type':'array','minItems':1,"
               "'items':{'type':'integer','minimum':0}}}]";
    case SRV_FIELD_TEXT:
        return "'type':'string','minLength':1";
    case SRV_FIELD_MESSAGES:
        return "'type':'array','minItems':1,'maxItems':1024,"
               "'items':{'$ref':'#/components/schemas/Message'}";
    case SRV_FIELD_MODEL:
        return "'type':['string','null']";
    case SRV_FIELD_FORMAT:
        return "'anyOf':[{'$ref':'#/components/schemas/ResponseFormat'},{'type':'null'}]";
    case SRV_FIELD_GRAMMAR:
        return "'anyOf':[{'$ref':'#/components/schemas/TgiGrammar'},{'type':'null'}]";
    case SRV_FIELD_SESSION:
        return "'anyOf':[{'type':'string','pattern':'^([0-9a-f]{32}|new)$'},{'type':'null'}]";
    case SRV_FIELD_NEUTRAL:
        return "'type':'null'";
    default:
        return "";
    }
}

static void put_table(srv_buf *b, const srv_table *t, bool null);

static void put_field(srv_buf *b, const srv_field *f) {
    const char *form = fixed_form(f->kind);
    text(b, f->name);
    srv_buf_puts(b, ":{");
    if (f->kind <= SRV_FIELD_FLOAT)
        put_number(b, f);
    else if (f->kind == SRV_FIELD_BOOL)
        srv_openapi_put(b, "'type':['boolean','null']");
    else if (f->kind == SRV_FIELD_OBJECT)
        put_table(b, f->sub, true);
    else
        srv_openapi_put(b, form);
    bool typed = f->kind <= SRV_FIELD_BOOL || f->kind == SRV_FIELD_OBJECT || *form;
    srv_openapi_put(b, typed ? ",'description':" : "'description':");
    text(b, f->doc);
    if (f->preset && strcmp(f->preset, "null") != 0 && f->kind <= SRV_FIELD_BOOL)
        srv_buf_printf(b, ",\"default\":%s", f->preset);
    srv_buf_puts(b, "}");
}

/* The inside of an object schema. */
static void put_table(srv_buf *b, const srv_table *t, bool null) {
    srv_openapi_put(b, null ? "'type':['object','null']" : "'type':'object'");
    srv_openapi_put(b, ",'additionalProperties':false,'properties':{");
    for (int i = 0; i < t->n; i++) {
        if (i)
            srv_buf_puts(b, ",");
        put_field(b, &t->rows[i]);
    }
    srv_buf_puts(b, "}");
    if (!t->prompt)
        return;
    srv_openapi_put(b, ",'required':[");
    text(b, t->prompt);
    srv_buf_puts(b, "]");
}

static void put_bodies(srv_buf *b) {
    static const srv_table *const tables[] = {&srv_table_generate, &srv_table_completions,
                                              &srv_table_chat, &srv_table_tgi};
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        text(b, tables[i]->name);
        srv_buf_puts(b, ":{");
        put_table(b, tables[i], false);
        srv_buf_puts(b, "},");
    }
}

/* ---- paths ---- */

static void put_ref(srv_buf *b, const char *name) {
    srv_openapi_put(b, "{'$ref':'#/components/schemas/");
    srv_buf_puts(b, name);
    srv_openapi_put(b, "'}");
}

static void put_request(srv_buf *b, const srv_route *r) {
    if (!r->body && !r->request)
        return;
    srv_openapi_put(b, ",'requestBody':{'required':true,'content':{'application/json':{'schema':");
    if (r->body && r->body->instead) {
        srv_openapi_put(b, "{'anyOf':[");
        put_ref(b, r->body->name);
        srv_buf_puts(b, ",");
        put_ref(b, r->body->instead->name);
        srv_buf_puts(b, "]}");
    } else {
        put_ref(b, r->body ? r->body->name : r->request);
    }
    srv_buf_puts(b, "}}}");
}

static void put_good(srv_buf *b, const srv_route *r) {
    srv_openapi_put(b, "'200':{'description':'The answer.','content':{");
    if (r->reply) {
        srv_openapi_put(b, "'application/json':{'schema':");
        put_ref(b, r->reply);
        srv_buf_puts(b, "}");
    } else if (!r->body) {
        text(b, r->media ? r->media : "text/plain");
        srv_openapi_put(b, ":{'schema':{'type':'string'}}");
    }
    if (r->body) {
        srv_openapi_put(b, r->reply ? ",'text/event-stream':" : "'text/event-stream':");
        srv_openapi_put(b, "{'schema':{}}"); /* of one event: readers differ about its form */
    }
    if (r->body == &srv_table_generate)
        srv_openapi_put(b, ",'application/x-ndjson':{'schema':{}}");
    srv_buf_puts(b, "}}");
}

static void put_refusal(srv_buf *b, int status, const char *schema) {
    srv_openapi_put(b, ",'");
    srv_buf_printf(b, "%d", status);
    srv_openapi_put(b, "':{'description':'A refusal.','content':{'application/json':{'schema':");
    put_ref(b, schema);
    srv_buf_puts(b, "}}}");
}

/* What any route may answer, then what only some do. */
static void put_responses(srv_buf *b, const srv_route *r) {
    static const int always[] = {400, 401, 403, 404, 405, 408, 413,
                                 415, 417, 429, 431, 500, 503, 504};
    bool tgi = r->body && (r->body == &srv_table_tgi || r->body->instead == &srv_table_tgi);
    srv_openapi_put(b, ",'responses':{");
    if (r->refuses) {
        srv_openapi_put(b, "'501':{'description':'Not done here.','content':"
                           "{'application/json':{'schema':");
        put_ref(b, "Error");
        srv_buf_puts(b, "}}}");
    } else {
        put_good(b, r);
    }
    for (size_t i = 0; i < sizeof always / sizeof always[0]; i++)
        put_refusal(b, always[i],
                    r->body == &srv_table_tgi     ? "AnyError"
                    : tgi                         ? "AnyError"
                    : always[i] == 503 && r->open ? "Status"
                                                  : "Error");
    if (r->session || (r->body && srv_field_find(r->body, "session_id")))
        put_refusal(b, 409, tgi ? "AnyError" : "Error");
    if (!r->refuses && strncmp(r->path, "/sessions", 9) == 0)
        put_refusal(b, 501, "Error");
    if (tgi) {
        put_refusal(b, 422, "TgiError");
        put_refusal(b, 424, "TgiError");
    }
    srv_buf_puts(b, "}");
}

static void put_operation(srv_buf *b, const srv_route *r) {
    srv_openapi_put(b, r->methods & SRV_GET    ? "'get':{'summary':"
                       : r->methods & SRV_POST ? "'post':{'summary':"
                                               : "'delete':{'summary':");
    text(b, r->about);
    if (r->open)
        srv_openapi_put(b, ",'security':[]");
    if (r->prefix)
        srv_openapi_put(b, r->session
                               ? ",'parameters':[{'name':'id','in':'path','required':true,"
                                 "'schema':{'type':'string','pattern':'^[0-9a-f]{32}$'}}]"
                               : ",'parameters':[{'name':'name','in':'path','required':true,"
                                 "'schema':{'type':'string','pattern':'^[A-Za-z0-9_.-]+$'}}]");
    put_request(b, r);
    put_responses(b, r);
    srv_buf_puts(b, "}");
}

static bool same_path(const srv_route *a, const srv_route *b) {
    return strcmp(a->path, b->path) == 0 &&
           strcmp(a->suffix ? a->suffix : "", b->suffix ? b->suffix : "") == 0;
}

/* The next row from `r` on that is served here and has the path of `like` (NULL: any path); NULL:
 * none. */
static const srv_route *next_row(const srv_server *srv, const srv_route *r, const srv_route *like) {
    for (; r < srv_routes + srv_route_count; r++)
        if (srv_route_served(srv, r) && (!like || same_path(r, like)))
            return r;
    return NULL;
}

/* A path with all its rows, where its first one stands. */
static void put_path(srv_buf *b, const srv_server *srv, const srv_route *r) {
    const srv_route *like = r;
    text(b, r->path);
    b->len -= r->prefix; /* the name goes before the closing quote */
    if (r->prefix)
        srv_openapi_put(b, r->session ? "{id}" : "{name}");
    if (r->suffix)
        srv_buf_puts(b, r->suffix);
    srv_openapi_put(b, r->prefix ? "':{" : ":{");
    put_operation(b, r);
    while ((r = next_row(srv, r + 1, like))) {
        srv_buf_puts(b, ",");
        put_operation(b, r);
    }
    srv_buf_puts(b, "}");
}

static void put_paths(srv_buf *b, const srv_server *srv) {
    bool first = true;
    for (const srv_route *r = srv_routes; (r = next_row(srv, r, NULL)); r++) {
        if (next_row(srv, srv_routes, r) != r)
            continue;
        if (!first)
            srv_buf_puts(b, ",");
        put_path(b, srv, r);
        first = false;
    }
}

void srv_openapi_run(srv_req *req) {
    srv_buf b = {0};
    srv_openapi_put(&b, "{'openapi':'3.1.0','info':{'title':'tnl','version':'" TNL_VERSION
                        "'},'security':[{},{'key':[]}],'servers':[{'url':");
    const char *base = req->srv->set->base_path;
    text(&b, base && *base ? base : "/");
    srv_openapi_put(&b, "}],'paths':{");
    put_paths(&b, req->srv);
    srv_openapi_put(&b, "},'components':{'securitySchemes':{'key':{'type':'http','scheme':"
                        "'bearer'}},'schemas':{");
    put_bodies(&b);
    srv_openapi_schemas(&b);
    srv_buf_puts(&b, "}}}\n");
    srv_reply_body(req, 200, SRV_JSON, &b);
}
