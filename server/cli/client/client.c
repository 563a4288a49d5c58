/* libcurl's multi interface over one epoll descriptor: a call costs nothing while nothing arrives,
 * however many there are. */
#include "server/cli/client/client.h"

#include <curl/curl.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/utf8.h"
#include "server/cli/client/client_dialect.h"
#include "server/cli/client/client_key.h"
#include "server/cli/progress.h"

enum { EVENTS = 64, KEPT_CONNECTIONS = 4096 };

struct cli_client {
    CURLM *multi;
    int epoll;
    double timer; /* when libcurl wants to be called; INFINITY: not */
    char *base;   /* "http://host:port/base" */
    char *socket; /* unix socket or NULL */
    bool direct;  /* this machine: no proxy */
    struct curl_slist *headers;
    const char *ca_file;
    double silence, connect, whole;
    double next_look; /* for calls that have gone silent */
    cli_call *calls;
};

struct cli_call {
    cli_client *c;
    CURL *easy;
    cli_sink sink;
    cli_call *next, **link;
    size_t head, body; /* bytes so far */
    double heard;      /* when the last of them came */
    bool stopped, too_long;
    char why[CURL_ERROR_SIZE];
    char *kept; /* body of what is not streamed */
    size_t kept_n;
    bool keep;
};

/* ---- where ---- */

static char *part(CURLU *u, CURLUPart what) {
    char *s = NULL;
    return curl_url_get(u, what, &s, 0) == CURLUE_OK ? s : NULL;
}

static bool is_local(const char *host) {
    return host && (strcmp(host, "localhost") == 0 || strncmp(host, "127.", 4) == 0 ||
                    strcmp(host, "[::1]") == 0);
}

/* Drop "/", "/v1" and "/v1/" at the end. */
static void trim_base(char *s) {
    size_t n = strlen(s);
    while (n && s[n - 1] == '/')
        s[--n] = 0;
    if (n >= 3 && strcmp(s + n - 3, "/v1") == 0)
        s[n - 3] = 0;
}

static tnl_status check_url(cli_client *c, CURLU *u, const char *url, tnl_error *err) {
    CURLUcode code = curl_url_set(u, CURLUPART_URL, url, CURLU_DISALLOW_USER);
    if (code == CURLUE_USER_NOT_ALLOWED)
        return tnl_fail(err, TNL_E_USAGE, "the URL holds a name or password: set TNL_API_KEY");
    if (code != CURLUE_OK)
        return tnl_fail(err, TNL_E_USAGE, "\"%.200s\" is not a URL: %s", url,
                        curl_url_strerror(code));
    char *host = part(u, CURLUPART_HOST), *scheme = part(u, CURLUPART_SCHEME);
    char *query = part(u, CURLUPART_QUERY), *fragment = part(u, CURLUPART_FRAGMENT);
    tnl_status s = TNL_OK;
    c->direct = is_local(host);
    if (query || fragment)
        s = tnl_fail(err, TNL_E_USAGE, "\"%.200s\": a query or fragment has no place here", url);
    else if (c->headers && !c->direct && scheme && strcmp(scheme, "http") == 0)
        fprintf(stderr, "warning: the API key travels unencrypted (http)\n");
    curl_free(host);
    curl_free(scheme);
    curl_free(query);
    curl_free(fragment);
    return s;
}

/* PATH, and behind ":/" the base path, as nginx writes it. */
static tnl_status set_socket(cli_client *c, const char *path, tnl_error *err) {
    path += strncmp(path, "//", 2) == 0 ? 2 : 0;
    const char *base = strstr(path, ":/");
    size_t n = base ? (size_t)(base - path) : strlen(path), room = strlen(path) + 24;
    if (n == 0)
        return tnl_fail(err, TNL_E_USAGE, "unix: needs the path of a socket");
    c->direct = true;
    c->socket = strndup(path, n);
    c->base = malloc(room);
    if (!c->socket || !c->base)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    snprintf(c->base, room, "http://localhost%s", base ? base + 1 : "");
    trim_base(c->base);
    return TNL_OK;
}

static tnl_status set_base(cli_client *c, const char *url, tnl_error *err) {
    if (strncmp(url, "unix:", 5) == 0)
        return set_socket(c, url + 5, err);
    CURLU *u = curl_url();
    if (!u)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    tnl_status s = check_url(c, u, url, err);
    curl_url_cleanup(u);
    if (s == TNL_OK && !(c->base = strdup(url)))
        s = tnl_fail(err, TNL_E_NOMEM, "out of memory");
    if (s == TNL_OK)
        trim_base(c->base);
    return s;
}

static bool add_header(cli_client *c, const char *line) {
    struct curl_slist *grown = curl_slist_append(c->headers, line);
    c->headers = grown ? grown : c->headers;
    return grown;
}

static tnl_status set_key(cli_client *c, const cli_client_opts *o, tnl_error *err) {
    char key[CLI_KEY_MAX + 1], line[CLI_KEY_MAX + 32];
    TNL_TRY(cli_key_read(key, o->key_file, err));
    if (!*key)
        return TNL_OK;
    snprintf(line, sizeof line, "Authorization: Bearer %s", key);
    bool ok = add_header(c, line);
    explicit_bzero(key, sizeof key);
    explicit_bzero(line, sizeof line);
    return ok ? TNL_OK : tnl_fail(err, TNL_E_NOMEM, "out of memory");
}

/* ---- libcurl tells what it waits for ---- */

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *known) {
    cli_client *c = user;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(c->epoll, EPOLL_CTL_DEL, fd, NULL);
        return 0;
    }
    struct epoll_event ev = {.data.fd = fd,
                             .events = (what & CURL_POLL_IN ? EPOLLIN : 0u) |
                                       (what & CURL_POLL_OUT ? EPOLLOUT : 0u)};
    int op = known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(c->epoll, op, fd, &ev) != 0 && (errno == EEXIST || errno == ENOENT))
        epoll_ctl(c->epoll, known ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &ev);
    curl_multi_assign(c->multi, fd, c);
    return 0;
}

static int on_timer(CURLM *multi, long ms, void *user) {
    cli_client *c = user;
    (void)multi;
    c->timer = ms < 0 ? INFINITY : cli_now() + (double)ms / 1000;
    return 0;
}

/* ---- bytes ---- */

static size_t on_head(char *bytes, size_t size, size_t n, void *user) {
    cli_call *call = user;
    (void)bytes;
    call->heard = cli_now();
    call->head += size * n;
    call->too_long = call->head > CLI_HEAD_MAX;
    return call->too_long ? 0 : size * n;
}

static long code_of(const cli_call *call) {
    long code = 0;
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &code);
    return code;
}

/* A refusal is kept for its message, as far as it goes. */
static size_t keep(cli_call *call, const char *bytes, size_t n) {
    if (!call->kept && !(call->kept = malloc(CLI_KEPT_MAX + 1)))
        return 0;
    size_t room = CLI_KEPT_MAX - call->kept_n, take = n < room ? n : room;
    memcpy(call->kept + call->kept_n, bytes, take);
    call->kept_n += take;
    call->kept[call->kept_n] = 0;
    call->too_long = take < n;
    return call->too_long ? 0 : n;
}

static size_t on_body(char *bytes, size_t size, size_t n, void *user) {
    cli_call *call = user;
    n *= size;
    call->heard = cli_now();
    call->body += n;
    if (call->keep || code_of(call) / 100 != 2)
        return keep(call, bytes, n);
    call->too_long = call->body > CLI_BODY_MAX;
    if (!call->too_long && !call->sink.data(call->sink.user, bytes, n))
        call->stopped = true;
    return call->too_long || call->stopped ? 0 : n;
}

/* ---- calls ---- */

#define SET(option, value) (ok = curl_easy_setopt(call->easy, option, value) == CURLE_OK && ok)

static bool set_up(cli_call *call, const char *url, const char *body, size_t n) {
    const cli_client *c = call->c;
    bool ok = true;
    SET(CURLOPT_URL, url);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_HTTPHEADER, c->headers);
    SET(CURLOPT_ERRORBUFFER, call->why);
    SET(CURLOPT_HEADERFUNCTION, on_head);
    SET(CURLOPT_HEADERDATA, call);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, call);
    SET(CURLOPT_PRIVATE, call);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)(1000 * c->connect));
    if (c->whole > 0)
        SET(CURLOPT_TIMEOUT_MS, (long)ceil(1000 * c->whole));
    if (c->socket)
        SET(CURLOPT_UNIX_SOCKET_PATH, c->socket);
    if (c->direct)
        SET(CURLOPT_PROXY, "");
    if (c->ca_file)
        SET(CURLOPT_CAINFO, c->ca_file);
    if (body) {
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)n);
        SET(CURLOPT_POSTFIELDS, body);
    }
    return ok;
}

static void call_free(cli_call *call) {
    curl_multi_remove_handle(call->c->multi, call->easy);
    curl_easy_cleanup(call->easy);
    *call->link = call->next;
    if (call->next)
        call->next->link = call->link;
    free(call->kept);
    free(call);
}

tnl_status cli_call_start(cli_call **out, cli_client *c, const char *path, const char *body,
                          size_t n, const cli_sink *sink, tnl_error *err) {
    size_t room = strlen(c->base) + strlen(path) + 1;
    char *url = malloc(room);
    cli_call *call = calloc(1, sizeof *call);
    *out = NULL;
    if (call)
        *call = (cli_call){.c = c,
                           .easy = curl_easy_init(),
                           .sink = *sink,
                           .keep = !sink->data,
                           .heard = cli_now()};
    bool ok = url && call && call->easy;
    if (ok) {
        snprintf(url, room, "%s%s", c->base, path);
        ok = set_up(call, url, body, n); /* libcurl keeps a copy of the URL */
    }
    ok = ok && curl_multi_add_handle(c->multi, call->easy) == CURLM_OK;
    free(url);
    if (!ok) {
        curl_easy_cleanup(call ? call->easy : NULL);
        free(call);
        return tnl_fail(err, TNL_E_NOMEM, "out of memory for a request");
    }
    call->next = c->calls;
    call->link = &c->calls;
    if (call->next)
        call->next->link = &call->next;
    c->calls = call;
    *out = call;
    return TNL_OK;
}

void cli_call_cancel(cli_call *call) {
    if (call)
        call_free(call);
}

/* ---- endings ---- */

typedef struct failure {
    CURLcode code;
    tnl_status status;
    const char *label;
} failure;

static const failure failures[] = {
    {CURLE_COULDNT_RESOLVE_HOST, TNL_E_UNAVAILABLE, "name"},
    {CURLE_COULDNT_RESOLVE_PROXY, TNL_E_UNAVAILABLE, "name"},
    {CURLE_COULDNT_CONNECT, TNL_E_UNAVAILABLE, "connect"},
    {CURLE_OPERATION_TIMEDOUT, TNL_E_UNAVAILABLE, "timeout"},
    {CURLE_PEER_FAILED_VERIFICATION, TNL_E_UNAVAILABLE, "certificate"},
    {CURLE_SSL_CONNECT_ERROR, TNL_E_UNAVAILABLE, "tls"},
    {CURLE_SSL_CACERT_BADFILE, TNL_E_NO_INPUT, "certificate"},
    {CURLE_PARTIAL_FILE, TNL_E_IO, "cut short"},
    {CURLE_RECV_ERROR, TNL_E_IO, "cut short"},
    {CURLE_GOT_NOTHING, TNL_E_IO, "cut short"},
    {CURLE_SEND_ERROR, TNL_E_IO, "cut short"},
};

static void end_broken(cli_ending *end, const cli_call *call, CURLcode code) {
    const failure *f = NULL;
    for (size_t i = 0; i < sizeof failures / sizeof failures[0]; i++)
        f = failures[i].code == code ? &failures[i] : f;
    end->status = f ? f->status : TNL_E_DATA;
    snprintf(end->label, sizeof end->label, "%s", f ? f->label : "bad answer");
    snprintf(end->message, sizeof end->message, "%s",
             *call->why ? call->why : curl_easy_strerror(code));
    if (code == CURLE_COULDNT_CONNECT && call->c->socket)
        snprintf(end->message, sizeof end->message, "cannot connect to %s", call->c->socket);
    if (code == CURLE_OUT_OF_MEMORY) /* its word for a header line of more than 100 KB, too */
        snprintf(end->message, sizeof end->message,
                 "a line of the server's header is too long, or memory is short");
    if (call->too_long) {
        end->status = TNL_E_LIMIT;
        snprintf(end->label, sizeof end->label, "too long");
        snprintf(end->message, sizeof end->message, "the server's %s is too long",
                 call->body ? "answer" : "header");
    }
    tnl_utf8_make_printable(end->message);
}

static void end_refused(cli_ending *end, const cli_call *call) {
    char word[48] = "", text[256] = "";
    if (call->kept)
        cli_problem_read(word, text, call->kept, call->kept_n);
    bool later = end->code == 429 || end->code >= 500;
    end->status = later ? TNL_E_UNAVAILABLE : TNL_E_DATA;
    snprintf(end->label, sizeof end->label, "%d%s%.40s", end->code, *word ? " " : "", word);
    snprintf(end->message, sizeof end->message, "the server answered %d%s%s", end->code,
             *text ? ": " : "", text);
}

static void finish(cli_call *call, CURLcode code) {
    cli_ending end = {.status = TNL_OK,
                      .code = (int)code_of(call),
                      .stopped = call->stopped,
                      .body = call->kept,
                      .n = call->kept_n};
    bool refused = end.code && end.code / 100 != 2 && (code == CURLE_OK || call->too_long);
    if (refused)
        end_refused(&end, call);
    else if (code != CURLE_OK && !call->stopped)
        end_broken(&end, call, code);
    cli_sink sink = call->sink;
    char *kept = call->kept;
    call->kept = NULL;
    call_free(call);
    sink.done(sink.user, &end);
    free(kept);
}

static void reap(cli_client *c) {
    int left;
    for (CURLMsg *m; (m = curl_multi_info_read(c->multi, &left));) {
        char *call = NULL;
        CURLcode code = m->data.result;
        if (m->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &call);
        finish((cli_call *)(void *)call, code);
    }
}

/* Now and then, not at every event: there may be thousands of calls. Starts again after each end,
 * since a sink may start and cancel calls. */
static void end_silent(cli_client *c, double now) {
    if (now < c->next_look)
        return;
    for (cli_call *call = c->calls; call;) {
        if (now - call->heard <= c->silence) {
            call = call->next;
            continue;
        }
        snprintf(call->why, sizeof call->why, "no byte came for %.6g s", c->silence);
        finish(call, CURLE_OPERATION_TIMEDOUT);
        call = c->calls;
    }
    c->next_look = now + fmin(1, c->silence / 4);
}

void cli_client_wait(cli_client *c, double until) {
    struct epoll_event ev[EVENTS];
    struct pollfd fd = {.fd = c->epoll, .events = POLLIN};
    int running = 0;
    double end = c->timer < until ? c->timer : until, left = end - cli_now();
    left = left < 0 ? 0 : left > 3600 ? 3600 : left;
    struct timespec ts = {.tv_sec = (time_t)left,
                          .tv_nsec = (long)(1e9 * (left - (double)(time_t)left))};
    int n = ppoll(&fd, 1, &ts, NULL) > 0 ? epoll_wait(c->epoll, ev, EVENTS, 0) : 0;
    for (int i = 0; i < n; i++) {
        int mask = (ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) ? CURL_CSELECT_IN : 0) |
                   (ev[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                   (ev[i].events & EPOLLERR ? CURL_CSELECT_ERR : 0);
        curl_multi_socket_action(c->multi, ev[i].data.fd, mask, &running);
    }
    if (cli_now() >= c->timer) {
        c->timer = INFINITY;
        curl_multi_socket_action(c->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    }
    reap(c);
    end_silent(c, cli_now());
}

/* ---- a short answer ---- */

typedef struct short_answer {
    cli_ending end;
    char *text;
    bool done;
} short_answer;

static void take_short(void *user, const cli_ending *end) {
    short_answer *a = user;
    a->end = *end;
    a->text = strndup(end->body ? end->body : "", end->n);
    a->done = true;
}

tnl_status cli_client_get(cli_client *c, const char *path, char **text, size_t *n, tnl_error *err) {
    short_answer a = {.done = false};
    cli_sink sink = {.done = take_short, .user = &a};
    cli_call *call;
    TNL_TRY(cli_call_start(&call, c, path, NULL, 0, &sink, err));
    while (!a.done)
        cli_client_wait(c, cli_now() + 1);
    if (a.end.status != TNL_OK || !a.text) {
        free(a.text);
        return tnl_fail(err, a.end.status ? a.end.status : TNL_E_NOMEM, "%s: %s", path,
                        a.end.status ? a.end.message : "out of memory");
    }
    *text = a.text;
    *n = strlen(a.text);
    return TNL_OK;
}

/* ---- life ---- */

tnl_status cli_client_open(cli_client **out, const char *url, const cli_client_opts *o,
                           tnl_error *err) {
    *out = NULL;
    cli_client *c = calloc(1, sizeof *c);
    if (!c)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    *c = (cli_client){.epoll = -1,
                      .timer = INFINITY,
                      .ca_file = o->ca_file,
                      .silence = o->silence,
                      .connect = o->connect,
                      .whole = o->whole};
    tnl_status s = set_key(c, o, err);
    if (s == TNL_OK)
        s = set_base(c, url, err);
    if (s != TNL_OK)
        goto fail;
    c->epoll = epoll_create1(EPOLL_CLOEXEC);
    bool ok = c->epoll >= 0 && curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
    c->multi = ok ? curl_multi_init() : NULL;
    if (!c->multi || !add_header(c, "Content-Type: application/json") ||
        !add_header(c, "Expect:") || !add_header(c, "User-Agent: tnl/" TNL_VERSION)) {
        s = tnl_fail(err, TNL_E_NOMEM, "cannot set up libcurl");
        goto fail;
    }
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, (long)KEPT_CONNECTIONS);
    *out = c;
    return TNL_OK;
fail:
    cli_client_close(c);
    return s;
}

void cli_client_close(cli_client *c) {
    if (!c)
        return;
    while (c->calls)
        call_free(c->calls);
    if (c->multi)
        curl_multi_cleanup(c->multi);
    curl_slist_free_all(c->headers);
    if (c->epoll >= 0)
        close(c->epoll);
    free(c->base);
    free(c->socket);
    free(c);
}
