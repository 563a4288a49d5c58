/* Paths and what answers them. A key, where one is set, is asked for on every row but the open
 * ones. A path may have several rows, each for methods of its own. */
#include <stdio.h>
#include <string.h>

#include "server/http/server.h"

/* clang-format off */
#define PUBLIC .methods = SRV_GET, .open = true, .early = true
#define POSTED .methods = SRV_POST, .heavy = true
#define GENERATE POSTED, .admit = srv_generate_admit, .run = srv_generate_run
#define SESSION .prefix = true, .session = true
#define PAGE PUBLIC, .page = true, .run = srv_page_run
const srv_route srv_routes[] = {
    {.path = "/generate",            GENERATE, .body = &srv_table_generate, .reply = "AnyGenerateAnswer", .about = "Continue a prompt."},
    {.path = "/generate_stream",     GENERATE, .body = &srv_table_tgi, .stream = true, .about = "The same as a stream, in the form of TGI."},
    {.path = "/",                    GENERATE, .body = &srv_table_tgi, .reply = "TgiAnswers", .about = "The same, in the form of TGI."},
    {.path = "/",                    PAGE, .media = "text/html", .about = "The web page."},
    {.path = "/ui/",                 PAGE, .media = "*/*", .prefix = true, .about = "Parts of the web page, by name."},
    {.path = "/v1/completions",      GENERATE, .body = &srv_table_completions, .reply = "Completion", .about = "Continue prompts, in the form of OpenAI."},
    {.path = "/v1/chat/completions", GENERATE, .body = &srv_table_chat, .reply = "ChatCompletion", .about = "Answer a conversation."},
    {.path = "/v1/embeddings",       .methods = SRV_POST, .run = srv_not_built_run, .refuses = true, .request = "AnyBody", .about = "Not done here."},
    {.path = "/v1/models",           .methods = SRV_GET,  .run = srv_models_run, .reply = "Models", .about = "The model served."},
    {.path = "/v1/models/",          .methods = SRV_GET,  .prefix = true, .run = srv_model_run, .reply = "Model", .about = "The model, by name."},
    {.path = "/info",                .methods = SRV_GET,  .run = srv_info_run, .reply = "Info", .about = "Limits, in the form of TGI."},
    {.path = "/sessions",            .methods = SRV_POST, .run = srv_session_create_run, .reply = "SessionHead",
     .about = "Begin a session: a conversation that is continued without being sent again."},
    {.path = "/sessions/",           SESSION, .suffix = "/fork", .methods = SRV_POST, .run = srv_session_fork_run, .reply = "SessionHead",
     .about = "A new session with the text of this one."},
    {.path = "/sessions/",           SESSION, .methods = SRV_GET, .run = srv_session_get_run, .reply = "Session", .about = "What a session holds."},
    {.path = "/sessions/",           SESSION, .methods = SRV_DELETE, .run = srv_session_delete_run, .reply = "SessionGone",
     .about = "End a session; a request that runs is cancelled."},
    {.path = "/tokenize",            POSTED, .run = srv_tokenize_run, .request = "TokenizeRequest", .reply = "TokenizeAnswer", .about = "Text to tokens."},
    {.path = "/detokenize",         POSTED, .run = srv_detokenize_run, .request = "DetokenizeRequest", .reply = "DetokenizeAnswer", .about = "Tokens to text."},
    {.path = "/health",              PUBLIC, .run = srv_health_run, .reply = "State", .about = "Is the server alive?"},
    {.path = "/ready",               PUBLIC, .run = srv_ready_run, .reply = "State", .about = "Should requests come here?"},
    {.path = "/metrics",             .methods = SRV_GET,  .early = true, .run = srv_metrics_run, .about = "Figures, in the form of Prometheus."},
    {.path = "/openapi.json",        .methods = SRV_GET,  .early = true, .run = srv_openapi_run, .reply = "Document", .about = "This description."},
};
/* clang-format on */

const int srv_route_count = (int)(sizeof srv_routes / sizeof srv_routes[0]);
_Static_assert(sizeof srv_routes / sizeof srv_routes[0] <= SRV_MAX_ROUTES, "grow SRV_MAX_ROUTES");

static bool matches(const srv_route *r, const char *path) {
    size_t n = strlen(r->path), k = r->suffix ? strlen(r->suffix) : 0, all = strlen(path);
    if (!r->prefix)
        return strcmp(path, r->path) == 0;
    return strncmp(path, r->path, n) == 0 && all > n + k &&
           strcmp(path + all - k, k ? r->suffix : "") == 0;
}

const char *srv_route_path(const srv_server *srv, const char *url) {
    const char *base = srv->set->base_path;
    size_t n = base ? strlen(base) : 0;
    if (strncmp(url, base ? base : "", n) != 0)
        return "";
    return url[n] == 0 && n ? "/" : url + n;
}

static void add_slash(srv_req *req) {
    srv_buf none = {0};
    const char *last = strrchr(req->srv->set->base_path, '/') + 1;
    snprintf(req->reply.location, sizeof req->reply.location, "%s/", last);
    srv_reply_body(req, 308, NULL, &none);
}

const srv_route *srv_route_slashed(const srv_route *r) {
    static const srv_route slashed = {
        .path = "/", .methods = SRV_GET, .open = true, .early = true, .run = add_slash};
    return strcmp(r->path, "/") == 0 ? &slashed : r;
}

bool srv_route_served(const srv_server *srv, const srv_route *r) {
    return srv->set->page || !r->page;
}

static int method_bit(const char *method) {
    if (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0)
        return SRV_GET;
    return strcmp(method, "POST") == 0 ? SRV_POST : strcmp(method, "DELETE") == 0 ? SRV_DELETE : 0;
}

const srv_route *srv_route_find(const srv_server *srv, const char *path, const char *method,
                                int *methods) {
    const srv_route *found = NULL;
    int asked = method_bit(method);
    *methods = 0;
    for (int i = 0; i < srv_route_count; i++) {
        const srv_route *r = &srv_routes[i];
        if (!srv_route_served(srv, r) || !matches(r, path) || (found && found->suffix))
            continue;
        *methods |= r->methods;
        if (!found || ((r->methods & asked) && !(found->methods & asked)))
            found = r;
    }
    return found;
}

bool srv_method_allowed(int methods, const char *method) {
    return (methods & method_bit(method)) != 0;
}

const char *srv_allow(int methods) {
    static const char *const words[] = {
        "",       "GET, HEAD",         "POST",         "GET, HEAD, POST",
        "DELETE", "GET, HEAD, DELETE", "POST, DELETE", "GET, HEAD, POST, DELETE"};
    return words[methods & (SRV_GET | SRV_POST | SRV_DELETE)];
}

static int tail_length(const srv_route *r, const char *path) {
    size_t around = strlen(r->path) + (r->suffix ? strlen(r->suffix) : 0);
    return (int)(strlen(path) - around);
}

void srv_route_tail(srv_req *req, const char *path) {
    if (req->route && req->route->prefix)
        snprintf(req->tail, sizeof req->tail, "%.*s", tail_length(req->route, path),
                 path + strlen(req->route->path));
}

/* Rows of one path are counted together: methods that it has not belong to none of them. */
static int counted_row(const srv_route *route) {
    int row = 0;
    while (row < srv_route_count && (!route || strcmp(srv_routes[row].path, route->path) != 0))
        row++;
    return row;
}

void srv_count(srv_server *srv, const srv_route *route, int status) {
    static const int codes[SRV_N_CODES] = SRV_COUNTED_CODES;
    int row = counted_row(route), col = 0;
    while (col < SRV_N_CODES - 1 && codes[col] != status)
        col++;
    atomic_fetch_add(&srv->counts[row][col], 1);
}
