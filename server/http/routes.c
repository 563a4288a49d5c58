/* Paths and what answers them. A key, where one is set, is asked for on every row but the open
 * ones. */
#include <stdio.h>
#include <string.h>

#include "server/http/server.h"

/* clang-format off */
#define GENERATE .methods = SRV_POST, .heavy = true, .admit = srv_generate_admit, .run = srv_generate_run
const srv_route srv_routes[] = {
    {.path = "/generate",            GENERATE, .body = &srv_table_generate},
    {.path = "/generate_stream",     GENERATE, .body = &srv_table_tgi, .stream = true},
    {.path = "/",                    GENERATE, .body = &srv_table_tgi},
    {.path = "/v1/completions",      GENERATE, .body = &srv_table_completions},
    {.path = "/v1/chat/completions", GENERATE, .body = &srv_table_chat},
    {.path = "/v1/embeddings",       .methods = SRV_POST, .run = srv_not_built_run},
    {.path = "/v1/models",           .methods = SRV_GET,  .run = srv_models_run},
    {.path = "/v1/models/",          .methods = SRV_GET,  .prefix = true, .run = srv_model_run},
    {.path = "/info",                .methods = SRV_GET,  .run = srv_info_run},
    {.path = "/tokenize",            .methods = SRV_POST, .heavy = true, .run = srv_tokenize_run},
    {.path = "/detokenize",          .methods = SRV_POST, .heavy = true, .run = srv_detokenize_run},
    {.path = "/health",              .methods = SRV_GET,  .open = true, .early = true, .run = srv_health_run},
    {.path = "/ready",               .methods = SRV_GET,  .open = true, .early = true, .run = srv_ready_run},
    {.path = "/metrics",             .methods = SRV_GET,  .early = true, .run = srv_metrics_run},
};
/* clang-format on */

const int srv_route_count = (int)(sizeof srv_routes / sizeof srv_routes[0]);
_Static_assert(sizeof srv_routes / sizeof srv_routes[0] <= SRV_MAX_ROUTES, "grow SRV_MAX_ROUTES");

static bool matches(const srv_route *r, const char *path) {
    size_t n = strlen(r->path);
    return r->prefix ? strncmp(path, r->path, n) == 0 && path[n] : strcmp(path, r->path) == 0;
}

const srv_route *srv_route_find(const char *path) {
    for (int i = 0; i < srv_route_count; i++)
        if (matches(&srv_routes[i], path))
            return &srv_routes[i];
    return NULL;
}

void srv_route_tail(srv_req *req, const char *path) {
    if (req->route && req->route->prefix)
        snprintf(req->tail, sizeof req->tail, "%s", path + strlen(req->route->path));
}

void srv_count(srv_server *srv, const srv_route *route, int status) {
    static const int codes[SRV_N_CODES] = SRV_COUNTED_CODES;
    int row = route ? (int)(route - srv_routes) : srv_route_count, col = 0;
    while (col < SRV_N_CODES - 1 && codes[col] != status)
        col++;
    atomic_fetch_add(&srv->counts[row][col], 1);
}
