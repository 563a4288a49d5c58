/* GET / and /ui/NAME: the web page, from memory. Whoever has the page open speaks to the server
 * like any other client, so these routes need no key and no model. The policy in the headers lets
 * it load its own parts, talk to where it came from, and nothing else: text of a model that found
 * a way to act as markup could still neither run nor call out. */
#include "server/http/page.h"

#include <string.h>

#include "server/http/server.h"

static const srv_header headers[] = {
    {"Content-Security-Policy",
     "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
     "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
     "require-trusted-types-for 'script'; trusted-types 'none'"},
    {"Referrer-Policy", "no-referrer"},
    {"X-Frame-Options", "DENY"},
    {"Cross-Origin-Resource-Policy", "same-origin"},
    {"Permissions-Policy", "camera=(), geolocation=(), microphone=()"},
    {NULL, NULL},
};

static const srv_page_file *find(const char *name) {
    for (size_t i = 0; i < srv_page_file_count; i++)
        if (strcmp(srv_page_files[i].name, name) == 0)
            return &srv_page_files[i];
    return NULL;
}

/* Does the client hold these bytes? Its list of quoted tags is searched as text: our tags are
 * digests, so one cannot be part of another. A proxy that compresses turns them into weak ones. */
static bool held(const srv_req *req, const char *etag) {
    const char *list = MHD_lookup_connection_value(req->mhd, MHD_HEADER_KIND, "If-None-Match");
    return list && (strcmp(list, "*") == 0 || strstr(list, etag));
}

void srv_page_run(srv_req *req) {
    const srv_page_file *f = req->route->prefix ? find(req->tail) : &srv_page_files[0];
    srv_buf b = {0};
    if (!f) {
        srv_problem p;
        srv_refuse(&p, SRV_ERR_UNKNOWN_ROUTE, NULL);
        srv_reply_problem(req, &p);
        return;
    }
    /* libmicrohttpd leaves the body of a 304 out and keeps its length, as it does for HEAD */
    srv_buf_put(&b, f->data, f->size);
    srv_reply_body(req, held(req, f->etag) ? 304 : 200, f->type, &b);
    if (req->reply.status == 500)
        return;
    req->reply.etag = f->etag;
    req->reply.more = headers;
}
