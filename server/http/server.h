/* Inside of the HTTP side: the server, a connection, a request. Private to server/http.
 *
 * Threads and locks. libmicrohttpd's polling threads run every callback of a connection, one at a
 * time. Three others touch a request: the engine (wake), a worker (parsing and tokenising a large
 * body) and the watcher (peer gone, deadlines, pings). They all do so in one way: srv_req_wake sets
 * `woken` under the request's lock and resumes the connection if it is suspended; the polling
 * thread looks at `woken` under the same lock before it suspends. So no wake is lost.
 *
 * Lock order: watch lock, then a request's lock, then libmicrohttpd's own. The engine is never
 * called with a request's lock held, because it may call srv_req_wake under a lock of its own. */
#ifndef TNL_HTTP_SERVER_H
#define TNL_HTTP_SERVER_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "server/http/access/access.h"
#include "server/http/api/dialect.h"
#include "server/http/api/fields.h"
#include "server/http/errors.h"
#include "server/http/http.h"
#include "server/http/json/json_out.h"
#include "server/http/listen.h"
#include "server/http/tls.h"

typedef struct srv_req srv_req;
typedef struct srv_route srv_route;

enum {
    SRV_ID_MAX = 128,         /* bytes of a request id */
    SRV_INLINE_BYTES = 16384, /* larger bodies are handled by a worker */
    SRV_MAX_HEADERS = 64,
    SRV_STREAM_CHUNK = 16384, /* events are encoded until this much waits to be sent */
};

typedef enum srv_state { SRV_LOADING, SRV_READY, SRV_DRAINING } srv_state;

/* Where a connection stands, for deadlines and watching. */
typedef enum srv_phase {
    SRV_PH_HEADER, /* waiting for a whole request header */
    SRV_PH_BODY,
    SRV_PH_WORK,  /* worker or engine: the socket is watched for the peer leaving */
    SRV_PH_REPLY, /* a finished answer is going out */
    SRV_PH_IDLE,  /* between two requests */
} srv_phase;

/* One connection; guarded by the watch lock. */
typedef struct srv_conn {
    struct srv_conn *prev, *next;
    int fd;
    bool local;      /* over a unix socket: constant */
    bool tls;        /* constant */
    uint64_t serial; /* tells a reused descriptor from the old one */
    srv_phase phase;
    int64_t deadline_ms; /* monotonic; 0: none */
    bool leaving;        /* the peer sends no more: what is missing will never come */
    bool closing;        /* shut down; waits for libmicrohttpd to notice */
    srv_req *req;        /* NULL between requests */
} srv_conn;

typedef struct srv_watch {
    pthread_mutex_t lock;
    pthread_t thread;
    bool started;
    int wake_fd; /* eventfd */
    atomic_bool stop;
    srv_conn *first;
    int count;
    uint64_t next_serial;
} srv_watch;

typedef struct srv_job {
    struct srv_job *next;
    srv_req *req;
} srv_job;

enum { SRV_WORKERS = 2 };

typedef struct srv_workers {
    pthread_mutex_t lock;
    pthread_cond_t more;
    pthread_t thread[SRV_WORKERS];
    int n;
    bool stop;
    srv_job *first, **last;
} srv_workers;

typedef struct srv_backends {
    pthread_mutex_t lock; /* taken before an engine's own */
    srv_backend *first;   /* the current one; behind it those that requests still need */
    eng_metrics past;     /* counters of engines that are gone */
    atomic_uint_least64_t reloads_done, reloads_failed;
    atomic_bool last_failed;
    atomic_int_least64_t last_success; /* wall clock, seconds; 0: never */
} srv_backends;

/* Status codes that are counted one by one; others fall into the last row. */
#define SRV_COUNTED_CODES                                                                          \
    {                                                                                              \
        200, 204, 304, 400, 401, 403, 404, 405, 408, 409, 413, 415, 417, 422, 424, 429, 431, 499,  \
            500, 501, 503, 504, 0                                                                  \
    }
enum { SRV_N_CODES = 23, SRV_MAX_ROUTES = 32 };

struct srv_server {
    const srv_settings *set;
    srv_access access;
    srv_tls *tls; /* NULL: none */
    srv_listener listeners[SRV_MAX_LISTENERS];
    int n_listeners;
    int64_t start_time; /* wall clock, seconds */
    atomic_int state;   /* srv_state */
    atomic_bool draining;
    atomic_bool stopping; /* nothing may suspend any more */
    srv_backends backends;
    atomic_uint_least64_t load_done, load_total;
    srv_watch watch;
    srv_workers workers;
    atomic_int_least64_t upload_bytes; /* reserved by bodies */
    atomic_int active;                 /* requests between their first line and their end */
    atomic_int suspended;
    atomic_uint_least64_t rejected; /* queue full, seen before the engine was asked */
    atomic_uint_least64_t counts[SRV_MAX_ROUTES + 1][SRV_N_CODES]; /* last row: no route */
    atomic_uint_least64_t refusals[SRV_ERR_COUNT];
};

typedef struct srv_header {
    const char *name, *value;
} srv_header;

/* An answer in the making. */
typedef struct srv_reply {
    bool ready;
    bool stream; /* body is pulled by srv_stream_pull */
    bool close;
    int status;
    int retry_after;        /* seconds, 0: no header */
    const char *allow;      /* for 405 */
    char location[136];     /* for 308; empty: none */
    const char *type;       /* content type */
    const char *etag;       /* may be kept and asked for again; NULL: must not be stored */
    const srv_header *more; /* further headers, the last without a name; or NULL */
    srv_buf body;
} srv_reply;

struct srv_req {
    srv_server *srv;
    srv_conn *conn;
    struct MHD_Connection *mhd;
    srv_backend *be;     /* from dispatch to the end; NULL: there was none yet */
    atomic_int refs;     /* the connection, and a worker while it has the job */
    srv_choice *choices; /* [n_choices], set before n_choices */
    atomic_int n_choices;

    pthread_mutex_t lock; /* guards the next six */
    bool woken;
    bool suspended;
    bool gone;     /* the peer left or the server stops: close, do not answer */
    bool detached; /* the connection has let go */
    bool ping_due;
    bool work_done; /* the worker has finished */

    atomic_int_least64_t last_pull_ms; /* stream: libmicrohttpd last asked for bytes */
    atomic_int_least64_t last_out_ms;  /* stream: bytes last went out */
    atomic_bool streaming;
    atomic_bool timed_out; /* cancelled by us, for the time it took */

    /* the connection's thread only, except while a worker has the job */
    const srv_route *route; /* NULL until matched */
    const srv_dialect *dialect;
    char tail[257]; /* what follows the route's path, where that is a prefix */
    char id[SRV_ID_MAX + 1];
    char trace[33]; /* of a traceparent header, for the log */
    char method[16];
    char path[257]; /* escaped, for the log */
    srv_addr client_addr;
    char client[SRV_ADDR_TEXT]; /* the same for the log; "" before the header has been seen */
    srv_tenant *tenant;         /* a reference; NULL: nobody in particular */
    srv_origin cors;            /* another origin that may ask */
    bool foreign;               /* another origin that may not */
    bool preflight;             /* only whether it may is asked */
    bool entered;               /* counted among the tenant's requests */
    int64_t reserved_tokens;    /* of the tenant's */
    bool bad_uri, started, dispatched, ran, working, sse;
    bool framed;      /* the header is sound: the next request on this connection can be found */
    bool has_body;    /* one is announced */
    srv_problem held; /* a refusal that waits for the empty body, so that keep-alive goes on */
    bool refused;     /* answered past libmicrohttpd; what still arrives is dropped */
    int64_t begin_ms, body_begin_ms, whole_deadline_ms;
    srv_buf body;
    int64_t reserved; /* share of srv->upload_bytes */
    srv_gen gen;
    srv_reply reply;
    void (*work)(srv_req *req);        /* a worker runs this instead of the route */
    eng_lease *lease;                  /* a session that is held, until the engine takes it over */
    char session[ENG_SESSION_ID_TEXT]; /* its id; "": none */
    bool session_new;                  /* made for this request */
    int64_t session_before;            /* tokens it had */

    /* generation */
    srv_buf head; /* what every chunk of a stream begins with */
    srv_buf out;  /* stream: encoded, waiting to be sent from out_at on */
    size_t out_at;
    int turn;        /* choice to look at next */
    int64_t made_at; /* wall clock, seconds */
    bool ended;      /* stream: nothing more will be encoded */
    bool finished;   /* every choice is done */
    eng_finish finish;
    int64_t prompt_tokens, completion_tokens, cached_tokens;
    double queue_ms, prefill_ms, decode_ms;
    int64_t bytes_out;
};

int64_t srv_now_ms(void); /* monotonic */
/* Whose request: what is kept for one key is never shown to another. 0: nobody has a key. */
uint64_t srv_req_key(const srv_req *req);

/* ---- conn.c: a request's life ---- */

void *srv_on_uri(void *cls, const char *uri, struct MHD_Connection *mhd);
enum MHD_Result srv_on_request(void *cls, struct MHD_Connection *mhd, const char *url,
                               const char *method, const char *version, const char *upload,
                               size_t *upload_size, void **con_cls);
void srv_on_completed(void *cls, struct MHD_Connection *mhd, void **con_cls,
                      enum MHD_RequestTerminationCode how);
void srv_on_connection(void *cls, struct MHD_Connection *mhd, void **socket_context,
                       enum MHD_ConnectionNotificationCode what);

/* Let the connection's thread look again. Any thread that holds a reference or the watch lock. */
void srv_req_wake(srv_req *req);
void srv_wake_cb(void *req); /* the same as an eng_wake_fn */
/* End the request without an answer: cancels its generation, closes its connection. */
void srv_req_abandon(srv_req *req);
/* Suspend unless somebody has woken the request since `woken` was last cleared; false: look again.
 * The connection's thread only. */
bool srv_req_park(srv_req *req);
void srv_req_unref(srv_req *req);

/* ---- request_log.c ---- */

void srv_log_request(const srv_req *req, int status); /* it has ended */

/* ---- frame.c ---- */

/* Checks that need no body: framing, Host, key, route, type, length. False: *p says why. */
bool srv_frame_check(srv_req *req, const char *url, const char *method, const char *version,
                     srv_problem *p);

/* ---- backend.c ---- */

srv_backend *srv_backend_take(srv_server *srv);          /* the current one; NULL: still loading */
void srv_backend_give(srv_server *srv, srv_backend *be); /* NULL allowed */
void srv_backend_drain(srv_server *srv);
/* Gauges and sizes of `be`, counters of all engines there have been. */
void srv_backend_metrics(srv_server *srv, const srv_backend *be, eng_metrics *out);

/* ---- reply.c ---- */

void srv_reply_problem(srv_req *req, const srv_problem *p);
/* Takes the buffer's memory. */
void srv_reply_body(srv_req *req, int status, const char *type, srv_buf *body);
enum MHD_Result srv_reply_queue(srv_req *req);
/* Queue a response with the headers of req->reply; consumes m (NULL: fails). */
enum MHD_Result srv_reply_send(srv_req *req, struct MHD_Response *m);
/* A whole refusal written past libmicrohttpd, when it cannot answer: nothing of an answer has been
 * sent yet and the connection ends with it. With TLS only on the connection's own thread. */
void srv_reply_raw(const srv_req *req, const srv_problem *p);

#define SRV_JSON "application/json; charset=utf-8"

/* ---- stream.c ---- */

enum MHD_Result srv_stream_begin(srv_req *req);

/* ---- watch.c ---- */

tnl_status srv_watch_open(srv_server *srv, tnl_error *err);
void srv_watch_close(srv_server *srv);
void srv_watch_poke(srv_server *srv);
/* Move a connection to a phase; deadline_ms 0: none. A peer that is leaving keeps the short
 * deadline it was given. */
void srv_watch_phase(srv_server *srv, srv_conn *c, srv_phase phase, int64_t deadline_ms);
/* The same with the lock held. */
void srv_watch_set(srv_conn *c, srv_phase phase, int64_t deadline_ms);

/* ---- worker.c ---- */

tnl_status srv_workers_open(srv_workers *w, tnl_error *err);
void srv_workers_close(srv_workers *w); /* finishes what is queued */
/* Run req->route->run on a worker, then wake the request. False: out of memory. */
bool srv_workers_post(srv_workers *w, srv_req *req);
/* Go on with `work` on a worker, because it may take a while; here and now if this is one, or if
 * none can be had. */
void srv_work_on(srv_req *req, void (*work)(srv_req *req));

/* ---- routes.c ---- */

enum { SRV_GET = 1, SRV_POST = 2, SRV_DELETE = 4 };

struct srv_route {
    const char *path;
    bool prefix;        /* the path is followed by a name */
    const char *suffix; /* and that by this; such a row stands before one without */
    int methods;
    bool open;                                   /* answers without a key */
    bool early;                                  /* answers while the model is loading */
    bool page;                                   /* not there with --no-page */
    bool heavy;                                  /* large bodies go to a worker */
    bool (*admit)(srv_req *req, srv_problem *p); /* cheap refusals before any work; or NULL */
    void (*run)(srv_req *req);                   /* fills req->reply or starts a generation */
    const srv_table *body;                       /* rows of a body that asks for text, or NULL */
    bool stream;                                 /* answers as a stream whatever the body says */
    bool refuses;                                /* never answers with 200 */
    bool session;                                /* the name is a session's id */
    const char *about;                           /* for /openapi.json, as the next two */
    const char *request, *reply;                 /* names of schemas; NULL: `body`, `media` */
    const char *media;                           /* of the answer; NULL: plain text */
};

extern const srv_route srv_routes[];
extern const int srv_route_count;

/* The row for a path, of several the one that has the method; NULL: none. *methods: those that any
 * row of the path has. */
/* What stands behind the base path, "/" for nothing; outside of it "", where no route is. */
const char *srv_route_path(const srv_server *srv, const char *url);
/* The page links to its parts relative to itself, so without a slash at the end of the base path it
 * is elsewhere: what sends the browser there. Any other row of the page as it is. */
const srv_route *srv_route_slashed(const srv_route *r);
const srv_route *srv_route_find(const srv_server *srv, const char *path, const char *method,
                                int *methods);
bool srv_route_served(const srv_server *srv, const srv_route *r);
bool srv_method_allowed(int methods, const char *method);
const char *srv_allow(int methods);                  /* the value of an Allow header */
void srv_route_tail(srv_req *req, const char *path); /* fills req->tail */
void srv_count(srv_server *srv, const srv_route *route, int status);

/* ---- api_*.c ---- */

bool srv_has_room(const srv_req *req); /* one more request fits the queue */
bool srv_generate_admit(srv_req *req, srv_problem *p);
void srv_generate_run(srv_req *req);
/* A generation was started: begin its stream, or gather its tokens; fills req->reply when there is
 * something to answer. */
void srv_generate_continue(srv_req *req);
int srv_retry_after(srv_server *srv);

/* api_sessions.c */
void srv_session_create_run(srv_req *req);
void srv_session_get_run(srv_req *req);
void srv_session_delete_run(srv_req *req);
void srv_session_fork_run(srv_req *req);
/* Hold the session that the body names, if it names one. */
bool srv_session_take(srv_req *req, srv_problem *p);
/* Its text must be read from the disk first: not on this thread. */
bool srv_session_is_cold(const srv_req *req);
bool srv_session_warm(srv_req *req, srv_problem *p);
/* Append ,"session_id":..,"session_tokens":.. if the request has one. */
void srv_session_put(srv_buf *b, const srv_req *req, int64_t tokens);

void srv_health_run(srv_req *req);
void srv_ready_run(srv_req *req);
void srv_models_run(srv_req *req);
void srv_metrics_run(srv_req *req);
void srv_tokenize_run(srv_req *req);
void srv_detokenize_run(srv_req *req);

void srv_model_run(srv_req *req);
void srv_info_run(srv_req *req);
void srv_not_built_run(srv_req *req);
void srv_openapi_run(srv_req *req); /* openapi.c */
void srv_page_run(srv_req *req);    /* page.c */

/* gen_out.c: what the dialects share */
void srv_gen_note_done(srv_req *req, const eng_event *ev); /* keep figures for the log */
srv_err srv_gen_error(tnl_status s);
/* The problem behind a generation that did not end well; false: it did. Dialects without refusals
 * of their own name a cancelled generation in their summary. */
bool srv_gen_failed(const srv_req *req, const srv_choice *c, srv_problem *p);
bool srv_gen_any_failed(const srv_req *req, srv_problem *p);
/* A token as text: the piece's bytes or, where it has none, the name of the piece; *special then.
 */
const char *srv_gen_piece(const srv_req *req, int32_t id, size_t *n, bool *special, char spare[32]);
bool srv_gen_is_end(const srv_req *req, int32_t id); /* the end-of-text token */
/* The `keep` draws of one prompt to report: in order, or with best_of those of highest mean
 * logprob, best first. */
void srv_gen_pick(srv_choice **best, size_t keep, const srv_req *req, size_t prompt);

#endif
