/* Who asks on this connection: address, key, what it may ask for now. Private to server/http. The
 * connection's thread, except srv_caller_end, which the request's last holder calls. */
#ifndef TNL_HTTP_CALLER_H
#define TNL_HTTP_CALLER_H

#include "server/http/server.h"

/* Find the client's address; fills req->client. */
void srv_caller_address(srv_req *req);

/* The key of an Authorization header (NULL: none) on a route that needs one; fills req->tenant. */
bool srv_caller_key(srv_req *req, const char *authorization, srv_problem *p);

/* The request is whole and will be worked on: within the limits? */
bool srv_caller_enter(srv_req *req, srv_problem *p);
/* The prompts are known: are there tokens left for them and their answers? A worker may call. */
bool srv_caller_reserve(srv_req *req, srv_problem *p);
/* Where there are several keys, none has everything: of the caller's generations so many may run
 * (7/8 of the slots) and so many may wait (half the queue). 0: as there is room. */
int srv_caller_slots(const srv_req *req);
int srv_caller_share(const srv_req *req);
/* The request is over, its choices still there: count what it took. */
void srv_caller_end(srv_req *req);

/* May a page of this Origin ask? Fills req->cors where it is another site's. */
bool srv_caller_origin(srv_req *req, const char *origin, const char *host);
/* Is it a preflight of such an origin? Then it gets a route of its own. */
bool srv_caller_preflight(srv_req *req, const char *method);
/* Headers for a script of another origin. */
void srv_caller_cors_headers(const srv_req *req,
                             void (*add)(void *to, const char *name, const char *value), void *to);

#endif
