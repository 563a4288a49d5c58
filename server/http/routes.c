/* Paths and what answers them. A key, where one is set, is asked for on every row but the open
 * ones. */
#include <string.h>

#include "server/http/server.h"

/* clang-format off */
const srv_route srv_routes[] = {
    {.path = "/generate",   .methods = SRV_POST, .heavy = true, .admit = srv_generate_admit, .run = srv_generate_run},
    {.path = "/tokenize",   .methods = SRV_POST, .heavy = true, .run = srv_tokenize_run},
    {.path = "/detokenize", .methods = SRV_POST, .heavy = true, .run = srv_detokenize_run},
    {.path = "/health",     .methods = SRV_GET,  .open = true, .early = true, .run = srv_health_run},
    {.path = "/ready",      .methods = SRV_GET,  .open = true, .early = true, .run = srv_ready_run},
    {.path = "/v1/models",  .methods = SRV_GET,  .run = srv_models_run},
    {.path = "/metrics",    .methods = SRV_GET,  .early = true, .run = srv_metrics_run},
};
/* clang-format on */

const int srv_route_count = (int)(sizeof srv_routes / sizeof srv_routes[0]);
_Static_assert(sizeof srv_routes / sizeof srv_routes[0] <= SRV_MAX_ROUTES, "grow SRV_MAX_ROUTES");

const srv_route *srv_route_find(const char *path) {
    for (int i = 0; i < srv_route_count; i++)
        if (strcmp(srv_routes[i].path, path) == 0)
            return &srv_routes[i];
    return NULL;
}

void srv_count(srv_server *srv, const srv_route *route, int status) {
    static const int codes[SRV_N_CODES] = SRV_COUNTED_CODES;
    int row = route ? (int)(route - srv_routes) : srv_route_count, col = 0;
    while (col < SRV_N_CODES - 1 && codes[col] != status)
        col++;
    atomic_fetch_add(&srv->counts[row][col], 1);
}
