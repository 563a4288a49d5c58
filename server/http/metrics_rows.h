/* What GET /metrics says, as data: all figures in one plain struct, taken at one moment, and rows
 * that name its members. A new figure is a member and a row.
 *
 * Names follow Prometheus' guide: base units, the unit as a suffix, counters end in _total. The
 * second table holds the names of vLLM for the same figures, because dashboards, autoscalers and
 * gateways know those. Immutable; any thread. */
#ifndef TNL_HTTP_METRICS_ROWS_H
#define TNL_HTTP_METRICS_ROWS_H

#include <stddef.h>
#include <stdint.h>

#include "server/engine/states/session.h"

typedef struct srv_figures {
    eng_metrics eng;
    eng_session_stats session;
    double load_seconds;
    double slots_share;     /* of the slots, in use */
    uint64_t finished_stop; /* by a stop string or the end-of-text token */
    uint64_t prompt_tokens; /* read, or spared by a known prefix */
    uint64_t reloads, reloads_failed;
    int reload_good, models;
    int64_t reload_time;
    int ready;
    int connections, suspended, active;
    int64_t upload_bytes;
    double cpu_seconds, start_seconds;
    int64_t resident_bytes, virtual_bytes, open_fds, max_fds, threads;
} srv_figures;

typedef enum srv_metric_type { SRV_GAUGE, SRV_COUNTER, SRV_HISTOGRAM } srv_metric_type;

typedef enum srv_member { SRV_M_INT, SRV_M_LONG, SRV_M_ULONG, SRV_M_DOUBLE, SRV_M_HIST } srv_member;

typedef struct srv_metric {
    const char *name;
    const char *labels; /* name="word", or NULL. Rows of one name follow each other */
    const char *help;   /* of the first of these */
    srv_metric_type type;
    srv_member member;
    size_t at;            /* offset in srv_figures */
    const double *bounds; /* [ENG_HIST - 1] of a histogram */
} srv_metric;

typedef struct srv_metric_table {
    const srv_metric *rows;
    size_t n;
} srv_metric_table;

extern const srv_metric_table srv_metrics_always; /* known while the model is loading, too */
extern const srv_metric_table srv_metrics_engine;
extern const srv_metric_table srv_metrics_vllm; /* of --metrics-compat vllm */

#endif
