/* GET /metrics: Prometheus text format 0.0.4. One row per plain value; histograms and labelled
 * counters have a writer of their own. */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "server/http/server.h"

#define PROM_TYPE "text/plain; version=0.0.4; charset=utf-8"

static void head(srv_buf *b, const char *name, const char *type, const char *help) {
    srv_buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void value(srv_buf *b, const char *name, const char *type, const char *help, double v) {
    head(b, name, type, help);
    srv_buf_printf(b, "%s ", name);
    srv_json_double(b, v);
    srv_buf_puts(b, "\n");
}

static void labelled(srv_buf *b, const char *name, const char *label, const char *word,
                     uint64_t v) {
    srv_buf_printf(b, "%s{%s=\"%s\"} ", name, label, word);
    srv_json_int(b, (int64_t)v);
    srv_buf_puts(b, "\n");
}

static void histogram(srv_buf *b, const char *name, const char *help, const eng_hist *h) {
    uint64_t sum = 0;
    head(b, name, "histogram", help);
    for (int i = 0; i < ENG_HIST; i++) {
        sum += h->bucket[i];
        srv_buf_printf(b, "%s_bucket{le=\"", name);
        if (i < ENG_HIST - 1)
            srv_json_double(b, eng_hist_bounds[i]);
        else
            srv_buf_puts(b, "+Inf");
        srv_buf_puts(b, "\"} ");
        srv_json_int(b, (int64_t)sum);
        srv_buf_puts(b, "\n");
    }
    srv_buf_printf(b, "%s_sum ", name);
    srv_json_double(b, h->sum);
    srv_buf_printf(b, "\n%s_count ", name);
    srv_json_int(b, (int64_t)sum);
    srv_buf_puts(b, "\n");
}

static void engine_values(srv_buf *b, const eng_metrics *m) {
    const struct {
        const char *name, *type, *help;
        double v;
    } rows[] = {
        {"tnl_requests_running", "gauge", "Sequences in a slot.", m->running},
        {"tnl_requests_waiting", "gauge", "Requests in the queue.", m->queued},
        {"tnl_requests_paused", "gauge", "Sequences held back by a slow reader.", m->paused},
        {"tnl_state_slots", "gauge", "Sequences that can run at once.", m->slots},
        {"tnl_state_slots_used", "gauge", "Slots in use.", m->running},
        {"tnl_state_slot_bytes", "gauge", "Bytes of one sequence's state.", (double)m->state_bytes},
        {"tnl_requests_accepted_total", "counter", "Requests taken into the queue.",
         (double)m->accepted},
        {"tnl_prompt_tokens_total", "counter", "Prompt tokens read.", (double)m->prompt_tokens},
        {"tnl_generated_tokens_total", "counter", "Tokens generated.", (double)m->generated_tokens},
        {"tnl_spec_decode_num_draft_tokens_total", "counter", "Guessed tokens that were checked.",
         (double)m->drafted_tokens},
        {"tnl_spec_decode_num_accepted_tokens_total", "counter",
         "Guessed tokens that came true and saved a step.", (double)m->accepted_tokens},
        {"tnl_prefix_cache_queries_total", "counter",
         "Requests whose prompt was looked up among those already read.",
         (double)m->prefix_queries},
        {"tnl_prefix_cache_hits_total", "counter", "Requests that began with a known prefix.",
         (double)m->prefix_hits},
        {"tnl_prefix_cache_tokens_total", "counter", "Prompt tokens that a known prefix spared.",
         (double)m->prefix_tokens},
        {"tnl_prefix_cache_evictions_total", "counter", "States that had to make room.",
         (double)m->prefix_evicted},
        {"tnl_prefix_cache_states", "gauge", "States kept.", (double)m->prefix_states},
        {"tnl_prefix_cache_bytes", "gauge", "Bytes they take.", (double)m->prefix_bytes},
        {"tnl_prefix_cache_limit_bytes", "gauge", "Bytes they may take.", (double)m->prefix_budget},
        {"tnl_engine_steps_total", "counter", "Forward steps.", (double)m->steps},
        {"tnl_engine_busy_seconds_total", "counter", "Time spent in steps.", m->busy_seconds},
        {"tnl_nonfinite_total", "counter", "Requests ended by a value that is not finite.",
         (double)m->nonfinite},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        value(b, rows[i].name, rows[i].type, rows[i].help, rows[i].v);
}

static void engine_counters(srv_buf *b, const eng_metrics *m, uint64_t rejected) {
    head(b, "tnl_requests_rejected_total", "counter", "Requests refused for want of room.");
    labelled(b, "tnl_requests_rejected_total", "reason", "queue_full", m->rejected_full + rejected);
    head(b, "tnl_requests_finished_total", "counter", "Requests that ended, by reason.");
    for (int f = ENG_FINISH_LENGTH; f <= ENG_FINISH_ERROR; f++)
        labelled(b, "tnl_requests_finished_total", "finish_reason", eng_finish_names[f],
                 m->finished[f]);
    head(b, "tnl_requests_cancelled_total", "counter", "Requests cancelled, by phase.");
    labelled(b, "tnl_requests_cancelled_total", "phase", "queue", m->cancelled_queue);
    labelled(b, "tnl_requests_cancelled_total", "phase", "prefill", m->cancelled_prefill);
    labelled(b, "tnl_requests_cancelled_total", "phase", "decode", m->cancelled_decode);
    histogram(b, "tnl_queue_seconds", "Time from submission to a slot.", &m->queue_s);
    histogram(b, "tnl_time_to_first_token_seconds", "Time from submission to the first token.",
              &m->ttft_s);
    histogram(b, "tnl_time_per_output_token_seconds", "Time between two tokens.", &m->per_token_s);
    histogram(b, "tnl_request_duration_seconds", "Time from submission to the end.", &m->request_s);
}

static void http_values(srv_buf *b, srv_server *srv) {
    static const int codes[SRV_N_CODES] = SRV_COUNTED_CODES;
    pthread_mutex_lock(&srv->watch.lock);
    int connections = srv->watch.count;
    pthread_mutex_unlock(&srv->watch.lock);
    value(b, "tnl_http_connections", "gauge", "Open connections.", connections);
    value(b, "tnl_http_connections_suspended", "gauge", "Connections waiting for work.",
          atomic_load(&srv->suspended));
    value(b, "tnl_http_requests_active", "gauge", "Requests being received or answered.",
          atomic_load(&srv->active));
    value(b, "tnl_http_upload_bytes", "gauge", "Memory reserved for request bodies.",
          (double)atomic_load(&srv->upload_bytes));
    head(b, "tnl_http_requests_total", "counter",
         "Requests by route and status; 499: the client left first.");
    for (int r = 0; r <= srv_route_count; r++) {
        for (int c = 0; c < SRV_N_CODES; c++) {
            uint64_t n = atomic_load(&srv->counts[r][c]);
            if (n)
                srv_buf_printf(b, "tnl_http_requests_total{route=\"%s\",code=\"%d\"} %llu\n",
                               r < srv_route_count ? srv_routes[r].path : "none", codes[c],
                               (unsigned long long)n);
        }
    }
}

static double resident_bytes(void) {
    FILE *f = fopen("/proc/self/statm", "re");
    long long size = 0, resident = 0;
    if (!f)
        return 0;
    if (fscanf(f, "%lld %lld", &size, &resident) != 2)
        resident = 0;
    fclose(f);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

static void process_values(srv_buf *b, const srv_server *srv) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    double cpu = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
                 (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
    value(b, "process_cpu_seconds_total", "counter", "Processor time used.", cpu);
    value(b, "process_resident_memory_bytes", "gauge", "Memory resident.", resident_bytes());
    value(b, "process_start_time_seconds", "gauge", "Start, seconds since 1970.",
          (double)srv->start_time);
}

void srv_metrics_run(srv_req *req) {
    srv_server *srv = req->srv;
    srv_buf b = {0};
    head(&b, "tnl_build_info", "gauge", "Version.");
    srv_buf_puts(&b, "tnl_build_info{version=\"" TNL_VERSION "\"} 1\n");
    bool ready = req->be != NULL;
    value(&b, "tnl_ready", "gauge", "1: the model is loaded and requests are accepted.",
          ready && !atomic_load(&srv->draining));
    if (ready) {
        eng_metrics m;
        srv_backend_metrics(srv, req->be, &m);
        value(&b, "tnl_model_load_seconds", "gauge", "Time the model took to load.",
              req->be->load_seconds);
        engine_values(&b, &m);
        engine_counters(&b, &m, atomic_load(&srv->rejected));
    }
    http_values(&b, srv);
    process_values(&b, srv);
    srv_reply_body(req, 200, PROM_TYPE, &b);
}
