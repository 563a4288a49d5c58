/* Counters, gauges and histograms: written under the engine's lock, read by copy. */
#include "server/engine/core.h"

const double eng_hist_bounds[ENG_HIST - 1] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                              0.5,   1,      2.5,   5,    10,    30,   60};

const double eng_hist_token_bounds[ENG_HIST - 1] = {
    1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 50000, 100000, 1000000};

static void observe_in(eng_hist *h, const double *bounds, double v) {
    int i = 0;
    while (i < ENG_HIST - 1 && v > bounds[i])
        i++;
    h->bucket[i]++;
    h->count++;
    h->sum += v;
}

static void observe(eng_hist *h, double seconds) {
    observe_in(h, eng_hist_bounds, seconds);
}

static void observe_tokens(eng_hist *h, int64_t n) {
    observe_in(h, eng_hist_token_bounds, (double)n);
}

void eng_metrics_admitted(eng_engine *e, double waited) {
    observe(&e->metrics.queue_s, waited);
}

void eng_metrics_ended(eng_engine *e, const eng_request *r, eng_finish finish, tnl_status error) {
    eng_metrics *m = &e->metrics;
    m->finished[finish]++;
    if (finish == ENG_FINISH_CANCELLED) {
        m->cancelled_queue += r->phase == ENG_PHASE_QUEUE;
        m->cancelled_prefill += r->phase == ENG_PHASE_PREFILL;
        m->cancelled_decode += r->phase == ENG_PHASE_DECODE;
    }
    m->nonfinite += finish == ENG_FINISH_ERROR && error == TNL_E_NONFINITE;
    double now = eng_now();
    observe(&m->request_s, now - r->submitted);
    if (r->decoding > 0) {
        observe(&m->prefill_s, r->decoding - r->admitted);
        observe(&m->decode_s, now - r->decoding);
    }
    observe_tokens(&m->request_prompt, r->n_prompt);
    observe_tokens(&m->request_generated, r->generated);
}

void eng_metrics_paused(eng_engine *e, int paused) {
    pthread_mutex_lock(&e->lock);
    e->metrics.paused = paused;
    pthread_mutex_unlock(&e->lock);
}

void eng_metrics_step(eng_engine *e, int64_t prompt_tokens, int64_t drafted) {
    pthread_mutex_lock(&e->lock);
    e->metrics.steps++;
    e->metrics.drafted_tokens += (uint64_t)drafted;
    e->metrics.prompt_tokens += (uint64_t)prompt_tokens;
    pthread_mutex_unlock(&e->lock);
}

void eng_metrics_prefix(eng_engine *e, const eng_request *r) {
    pthread_mutex_lock(&e->lock);
    e->metrics.prefix_queries++;
    e->metrics.prefix_hits += r->cached > 0;
    e->metrics.prefix_asked += (uint64_t)r->n_prompt;
    e->metrics.prefix_tokens += (uint64_t)r->cached;
    pthread_mutex_unlock(&e->lock);
}

void eng_metrics_prefix_size(eng_engine *e) {
    const eng_prefix_stats s = eng_prefix_get_stats(e->prefix);
    pthread_mutex_lock(&e->lock);
    e->metrics.prefix_bytes = s.bytes;
    e->metrics.prefix_states = s.states;
    e->metrics.prefix_evicted = s.evicted;
    pthread_mutex_unlock(&e->lock);
}

void eng_metrics_busy(eng_engine *e, double seconds) {
    pthread_mutex_lock(&e->lock);
    e->metrics.busy_seconds += seconds;
    pthread_mutex_unlock(&e->lock);
}

void eng_metrics_token(eng_engine *e, const eng_request *r, double now, bool guessed) {
    pthread_mutex_lock(&e->lock);
    e->metrics.generated_tokens++;
    e->metrics.accepted_tokens += guessed;
    if (r->generated == 1)
        observe(&e->metrics.ttft_s, now - r->submitted);
    else
        observe(&e->metrics.per_token_s, now - r->last_token);
    pthread_mutex_unlock(&e->lock);
}

void eng_metrics_get(eng_engine *e, eng_metrics *out) {
    pthread_mutex_lock(&e->lock);
    *out = e->metrics;
    pthread_mutex_unlock(&e->lock);
}

static void add_hist(eng_hist *sum, const eng_hist *h) {
    for (int i = 0; i < ENG_HIST; i++)
        sum->bucket[i] += h->bucket[i];
    sum->count += h->count;
    sum->sum += h->sum;
}

void eng_metrics_add(eng_metrics *sum, const eng_metrics *m) {
    static const size_t counters[] = {
#define AT(member) offsetof(eng_metrics, member)
        AT(accepted),         AT(rejected_full),  AT(cancelled_queue),  AT(cancelled_prefill),
        AT(cancelled_decode), AT(prompt_tokens),  AT(generated_tokens), AT(steps),
        AT(nonfinite),        AT(drafted_tokens), AT(accepted_tokens),  AT(prefix_queries),
        AT(prefix_hits),      AT(prefix_tokens),  AT(prefix_evicted),   AT(prefix_asked),
#undef AT
    };
    for (size_t i = 0; i < sizeof counters / sizeof counters[0]; i++)
        *(uint64_t *)((char *)sum + counters[i]) +=
            *(const uint64_t *)((const char *)m + counters[i]);
    for (int f = 0; f <= ENG_FINISH_ERROR; f++)
        sum->finished[f] += m->finished[f];
    sum->busy_seconds += m->busy_seconds;
    add_hist(&sum->queue_s, &m->queue_s);
    add_hist(&sum->ttft_s, &m->ttft_s);
    add_hist(&sum->per_token_s, &m->per_token_s);
    add_hist(&sum->prefill_s, &m->prefill_s);
    add_hist(&sum->decode_s, &m->decode_s);
    add_hist(&sum->request_s, &m->request_s);
    add_hist(&sum->request_prompt, &m->request_prompt);
    add_hist(&sum->request_generated, &m->request_generated);
}

bool eng_idle(eng_engine *e) {
    pthread_mutex_lock(&e->lock);
    bool idle = e->metrics.running == 0 && e->metrics.queued == 0;
    pthread_mutex_unlock(&e->lock);
    return idle;
}
