/* GET /metrics: Prometheus' text format 0.0.4, or OpenMetrics 1.0 for those who ask for it. The two
 * differ in the name of a counter's family, in units and in the last line. Families whose labels
 * are only known at run time (routes, error codes) have writers of their own; all others are rows.
 */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <unistd.h>

#include "server/http/metrics_rows.h"
#include "server/http/server.h"

#define TEXT_TYPE "text/plain; version=0.0.4; charset=utf-8"
#define OPEN_TYPE "application/openmetrics-text; version=1.0.0; charset=utf-8"

typedef struct writer {
    srv_buf *b;
    bool open;          /* OpenMetrics */
    const char *common; /* labels of every sample, or NULL */
} writer;

/* ---- the format ---- */

static bool ends_in(const char *s, size_t n, const char *end) {
    size_t m = strlen(end);
    return n > m && memcmp(s + n - m, end, m) == 0;
}

static void family(const writer *w, const char *name, srv_metric_type type, const char *help) {
    static const char *const types[] = {"gauge", "counter", "histogram"};
    static const char *const units[] = {"seconds", "bytes"};
    int n = (int)strlen(name);
    if (w->open && type == SRV_COUNTER)
        n -= (int)strlen("_total");
    srv_buf_printf(w->b, "# HELP %.*s %s\n# TYPE %.*s %s\n", n, name, help, n, name, types[type]);
    for (int i = 0; w->open && i < 2; i++)
        if (ends_in(name, (size_t)n, units[i]))
            srv_buf_printf(w->b, "# UNIT %.*s %s\n", n, name, units[i]);
}

/* Name and labels; `suffix` and the last label may be empty. */
static void sample(const writer *w, const char *name, const char *suffix, const char *labels,
                   const char *bound) {
    const char *parts[] = {w->common, labels, bound};
    bool any = false;
    srv_buf_printf(w->b, "%s%s", name, suffix);
    for (int i = 0; i < 3; i++) {
        if (parts[i]) {
            srv_buf_puts(w->b, any ? "," : "{");
            srv_buf_puts(w->b, parts[i]);
            any = true;
        }
    }
    srv_buf_puts(w->b, any ? "} " : " ");
}

static void number(const writer *w, double v) {
    srv_json_double(w->b, v);
    srv_buf_puts(w->b, "\n");
}

/* Bounds are text to a reader that compares labels, so they have one form: always a point. */
static void bound_label(char out[32], double v) {
    srv_buf b = {0};
    if (isinf(v))
        srv_buf_puts(&b, "+Inf");
    else if (v == floor(v))
        srv_buf_printf(&b, "%.1f", v);
    else
        srv_json_double(&b, v);
    snprintf(out, 32, "le=\"%.*s\"", (int)b.len, b.data ? b.data : "");
    srv_buf_free(&b);
}

static void histogram(const writer *w, const srv_metric *row, const eng_hist *h) {
    uint64_t sum = 0;
    char label[32];
    for (int i = 0; i < ENG_HIST; i++) {
        sum += h->bucket[i];
        bound_label(label, i < ENG_HIST - 1 ? row->bounds[i] : (double)INFINITY);
        sample(w, row->name, "_bucket", row->labels, label);
        number(w, (double)sum);
    }
    sample(w, row->name, "_sum", row->labels, NULL);
    number(w, h->sum);
    sample(w, row->name, "_count", row->labels, NULL);
    number(w, (double)sum);
}

/* ---- the rows ---- */

static double member(const srv_figures *f, const srv_metric *row) {
    const char *at = (const char *)f + row->at;
    switch (row->member) {
    case SRV_M_INT:
        return *(const int *)(const void *)at;
    case SRV_M_LONG:
        return (double)*(const long *)(const void *)at;
    case SRV_M_ULONG:
        return (double)*(const unsigned long *)(const void *)at;
    default:
        return *(const double *)(const void *)at;
    }
}

static void table(const writer *w, const srv_metric_table *t, const srv_figures *f) {
    for (size_t i = 0; i < t->n; i++) {
        const srv_metric *row = &t->rows[i];
        if (i == 0 || strcmp(row->name, t->rows[i - 1].name) != 0)
            family(w, row->name, row->type, row->help);
        if (row->member == SRV_M_HIST) {
            histogram(w, row, (const void *)((const char *)f + row->at));
            continue;
        }
        sample(w, row->name, "", row->labels, NULL);
        number(w, member(f, row));
    }
}

/* ---- families of their own ---- */

static void build_info(const writer *w) {
    srv_buf_printf(w->b, "# HELP tnl_build%s Version.\n# TYPE tnl_build%s %s\n",
                   w->open ? "" : "_info", w->open ? "" : "_info", w->open ? "info" : "gauge");
    sample(w, "tnl_build_info", "", "version=\"" TNL_VERSION "\"", NULL);
    number(w, 1);
}

static void requests_by_route(const writer *w, srv_server *srv) {
    static const int codes[SRV_N_CODES] = SRV_COUNTED_CODES;
    char labels[160];
    family(w, "tnl_http_requests_total", SRV_COUNTER,
           "Requests by route and status; 499: the client left first, 0: a rarer status.");
    for (int r = 0; r <= srv_route_count; r++) {
        for (int c = 0; c < SRV_N_CODES; c++) {
            uint64_t n = atomic_load(&srv->counts[r][c]);
            if (n == 0)
                continue;
            snprintf(labels, sizeof labels, "route=\"%s\",code=\"%d\"",
                     r < srv_route_count ? srv_routes[r].path : "none", codes[c]);
            sample(w, "tnl_http_requests_total", "", labels, NULL);
            number(w, (double)n);
        }
    }
}

/* Several refusals may share a code: their sum is given at the first one. */
static void refusals_by_code(const writer *w, srv_server *srv) {
    char labels[96];
    family(w, "tnl_http_errors_total", SRV_COUNTER, "Requests refused, by the code of the error.");
    for (int e = 0; e < SRV_ERR_COUNT; e++) {
        const char *code = srv_err_code((srv_err)e);
        uint64_t n = atomic_load(&srv->refusals[e]);
        bool first = true;
        for (int o = 0; o < SRV_ERR_COUNT; o++) {
            bool same = o != e && strcmp(srv_err_code((srv_err)o), code) == 0;
            n += same ? atomic_load(&srv->refusals[o]) : 0;
            first = first && !(same && o < e);
        }
        if (n == 0 || !first)
            continue;
        snprintf(labels, sizeof labels, "code=\"%s\"", code);
        sample(w, "tnl_http_errors_total", "", labels, NULL);
        number(w, (double)n);
    }
}

/* ---- taking the figures ---- */

static void memory_figures(srv_figures *f) {
    FILE *file = fopen("/proc/self/statm", "re");
    long long size = 0, resident = 0, page = sysconf(_SC_PAGESIZE);
    if (!file)
        return;
    if (fscanf(file, "%lld %lld", &size, &resident) == 2) {
        f->virtual_bytes = size * page;
        f->resident_bytes = resident * page;
    }
    fclose(file);
}

/* Entries of a folder of /proc; `self` of them are there because we look. */
static int64_t count_entries(const char *path, int64_t self) {
    DIR *dir = opendir(path);
    int64_t n = -self;
    if (!dir)
        return 0;
    for (const struct dirent *d; (d = readdir(dir));)
        n += d->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void process_figures(srv_figures *f, const srv_server *srv) {
    struct rusage u;
    struct rlimit r;
    getrusage(RUSAGE_SELF, &u);
    f->cpu_seconds = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
                     (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
    f->start_seconds = (double)srv->start_time;
    f->max_fds = getrlimit(RLIMIT_NOFILE, &r) == 0 ? (int64_t)r.rlim_cur : 0;
    f->open_fds = count_entries("/proc/self/fd", 1);
    f->threads = count_entries("/proc/self/task", 0);
    memory_figures(f);
}

static void http_figures(srv_figures *f, srv_server *srv) {
    pthread_mutex_lock(&srv->watch.lock);
    f->connections = srv->watch.count;
    pthread_mutex_unlock(&srv->watch.lock);
    f->suspended = atomic_load(&srv->suspended);
    f->active = atomic_load(&srv->active);
    f->upload_bytes = atomic_load(&srv->upload_bytes);
}

static void engine_figures(srv_figures *f, srv_server *srv, const srv_backend *be) {
    srv_backend_metrics(srv, be, &f->eng);
    if (be->sessions)
        eng_sessions_stats(be->sessions, &f->session);
    f->load_seconds = be->load_seconds;
    f->reloads = atomic_load(&srv->backends.reloads_done);
    f->reloads_failed = atomic_load(&srv->backends.reloads_failed);
    f->reload_good = !atomic_load(&srv->backends.last_failed);
    f->reload_time = atomic_load(&srv->backends.last_success);
    f->models = srv_backend_count(srv);
    f->eng.rejected_full += atomic_load(&srv->rejected);
    f->slots_share = f->eng.slots > 0 ? (double)f->eng.running / f->eng.slots : 0;
    f->finished_stop = f->eng.finished[ENG_FINISH_STOP] + f->eng.finished[ENG_FINISH_EOS];
    f->prompt_tokens = f->eng.prompt_tokens + f->eng.prefix_tokens;
}

/* ---- the answer ---- */

/* The q of a type in an Accept header; 0 where it is not named. */
static double accepted(const char *accept, const char *type) {
    const char *at = accept ? strcasestr(accept, type) : NULL;
    if (!at)
        return 0;
    const char *end = at + strcspn(at, ",");
    for (const char *p = at; p < end; p += strcspn(p, ";,")) {
        p += strspn(p, "; ");
        if (strncasecmp(p, "q=", 2) == 0)
            return strtod(p + 2, NULL);
    }
    return 1;
}

static bool wants_open(srv_req *req) {
    const char *v = MHD_lookup_connection_value(req->mhd, MHD_HEADER_KIND, "Accept");
    double open = accepted(v, "application/openmetrics-text");
    return open > 0 && open >= accepted(v, "text/plain");
}

/* vLLM's labels. In a label's value, backslash, quote and line feed are escaped. */
static void vllm_labels(srv_buf *out, const char *alias) {
    srv_buf_puts(out, "model_name=\"");
    for (const char *p = alias; *p; p++) {
        if (*p == '\\' || *p == '"')
            srv_buf_puts(out, "\\");
        srv_buf_put(out, *p == '\n' ? "\\n" : p, *p == '\n' ? 2 : 1);
    }
    srv_buf_put(out, "\",engine=\"0\"", sizeof "\",engine=\"0\""); /* with its NUL */
}

static void vllm_names(const writer *w, const srv_server *srv, const srv_figures *f) {
    srv_buf labels = {0};
    vllm_labels(&labels, srv->set->alias);
    if (!labels.failed) {
        writer named = {w->b, w->open, labels.data};
        table(&named, &srv_metrics_vllm, f);
    }
    srv_buf_free(&labels);
}

/* ---- by key ---- */

static const struct {
    const char *name;
    srv_metric_type type;
    const char *help;
} key_rows[SRV_F_COUNT] = {
    [SRV_F_REQUESTS] = {"tnl_key_requests_total", SRV_COUNTER, "Requests by key."},
    [SRV_F_REFUSED] = {"tnl_key_refused_total", SRV_COUNTER, "Refused at a limit, by key."},
    [SRV_F_PROMPT] = {"tnl_key_prompt_tokens_total", SRV_COUNTER,
                      "Prompt tokens of ended requests, by key."},
    [SRV_F_GENERATED] = {"tnl_key_generated_tokens_total", SRV_COUNTER,
                         "Tokens generated in ended requests, by key."},
    [SRV_F_ACTIVE] = {"tnl_key_requests_active", SRV_GAUGE, "Requests being answered, by key."},
};

typedef struct by_key {
    const writer *w;
    srv_tenant *only; /* NULL: of all */
    srv_figure figure;
} by_key;

static void key_sample(void *ctx, srv_tenant *t) {
    const by_key *k = ctx;
    char label[16 + SRV_KEY_NAME_MAX];
    if (k->only && k->only != t)
        return;
    snprintf(label, sizeof label, "key=\"%s\"", t->name);
    sample(k->w, key_rows[k->figure].name, "", label, NULL);
    number(k->w, (double)srv_tenant_figure(t, k->figure));
}

/* A key sees its own figures, an admin's those of all. */
static void requests_by_key(const writer *w, srv_req *req) {
    if (!srv_req_key(req))
        return;
    by_key k = {w, srv_tenant_is_admin(req->tenant) ? NULL : req->tenant, SRV_F_REQUESTS};
    for (; k.figure < SRV_F_COUNT; k.figure++) {
        const char *name = key_rows[k.figure].name;
        family(w, name, key_rows[k.figure].type, key_rows[k.figure].help);
        srv_access_each(&req->srv->access, key_sample, &k);
    }
}

void srv_metrics_run(srv_req *req) {
    srv_server *srv = req->srv;
    srv_buf b = {0};
    srv_figures f = {0};
    writer w = {&b, wants_open(req), NULL};
    f.ready = req->be && !atomic_load(&srv->draining);
    http_figures(&f, srv);
    process_figures(&f, srv);
    build_info(&w);
    table(&w, &srv_metrics_always, &f);
    requests_by_route(&w, srv);
    refusals_by_code(&w, srv);
    requests_by_key(&w, req);
    if (req->be) {
        engine_figures(&f, srv, req->be);
        table(&w, &srv_metrics_engine, &f);
        if (srv->set->metrics_compat)
            vllm_names(&w, srv, &f);
    }
    if (w.open)
        srv_buf_puts(&b, "# EOF\n");
    srv_reply_body(req, 200, w.open ? OPEN_TYPE : TEXT_TYPE, &b);
}
