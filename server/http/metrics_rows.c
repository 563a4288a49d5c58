/* The rows of metrics_rows.h. */
#include "server/http/metrics_rows.h"

#define MEMBER(m)                                                                                  \
    .at = offsetof(srv_figures, m), .member = _Generic(((srv_figures *)0)->m, int                  \
                                                       : SRV_M_INT, long                           \
                                                       : SRV_M_LONG, unsigned long                 \
                                                       : SRV_M_ULONG, double                       \
                                                       : SRV_M_DOUBLE, eng_hist                    \
                                                       : SRV_M_HIST)
#define GAUGE(n, m, text)                                                                          \
    { .name = n, .type = SRV_GAUGE, MEMBER(m), .help = text }
#define COUNTER(n, m, text)                                                                        \
    { .name = n, .type = SRV_COUNTER, MEMBER(m), .help = text }
#define LABELLED(n, l, m, text)                                                                    \
    { .name = n, .labels = l, .type = SRV_COUNTER, MEMBER(m), .help = text }
#define SECONDS(n, m, text)                                                                        \
    { .name = n, .type = SRV_HISTOGRAM, MEMBER(m), .bounds = eng_hist_bounds, .help = text }
#define TOKENS(n, m, text)                                                                         \
    { .name = n, .type = SRV_HISTOGRAM, MEMBER(m), .bounds = eng_hist_token_bounds, .help = text }
#define TABLE(rows)                                                                                \
    { rows, sizeof(rows) / sizeof(rows)[0] }

/* clang-format off */
static const srv_metric always[] = {
    GAUGE("tnl_ready", ready, "1: the model is loaded and requests are accepted."),
    GAUGE("tnl_http_connections", connections, "Open connections."),
    GAUGE("tnl_http_connections_suspended", suspended, "Connections waiting for work."),
    GAUGE("tnl_http_requests_active", active, "Requests being received or answered."),
    GAUGE("tnl_http_upload_bytes", upload_bytes, "Memory reserved for request bodies."),
    COUNTER("process_cpu_seconds_total", cpu_seconds, "Processor time used."),
    GAUGE("process_resident_memory_bytes", resident_bytes, "Memory resident."),
    GAUGE("process_virtual_memory_bytes", virtual_bytes, "Address space."),
    GAUGE("process_start_time_seconds", start_seconds, "Start, seconds since 1970."),
    GAUGE("process_open_fds", open_fds, "Open file descriptors."),
    GAUGE("process_max_fds", max_fds, "File descriptors that may be open."),
    GAUGE("process_threads", threads, "Threads."),
};

#define FINISHED "tnl_requests_finished_total"
#define CANCELLED "tnl_requests_cancelled_total"
static const srv_metric engine[] = {
    GAUGE("tnl_model_load_seconds", load_seconds, "Time the model took to load."),
    LABELLED("tnl_model_reloads_total", "result=\"success\"", reloads, "Models loaded in place of the one before."),
    LABELLED("tnl_model_reloads_total", "result=\"failure\"", reloads_failed, NULL),
    GAUGE("tnl_model_last_reload_successful", reload_good, "0: the last reload failed, the model before it goes on."),
    GAUGE("tnl_model_last_reload_success_timestamp_seconds", reload_time, "Time of the last successful reload, seconds since 1970; 0: none yet."),
    GAUGE("tnl_models_loaded", models, "Models in memory: the present one and those that earlier requests still use."),
    GAUGE("tnl_requests_running", eng.running, "Sequences in a slot."),
    GAUGE("tnl_requests_waiting", eng.queued, "Requests in the queue."),
    GAUGE("tnl_requests_paused", eng.paused, "Sequences held back by a slow reader."),
    GAUGE("tnl_state_slots", eng.slots, "Sequences that can run at once."),
    GAUGE("tnl_state_slots_used", eng.running, "Slots in use."),
    GAUGE("tnl_state_slot_bytes", eng.state_bytes, "Bytes of one sequence's state."),
    COUNTER("tnl_requests_accepted_total", eng.accepted, "Requests taken into the queue."),
    LABELLED("tnl_requests_rejected_total", "reason=\"queue_full\"", eng.rejected_full, "Requests refused for want of room."),
    LABELLED(FINISHED, "finish_reason=\"length\"", eng.finished[ENG_FINISH_LENGTH], "Requests that ended, by reason."),
    LABELLED(FINISHED, "finish_reason=\"stop\"", eng.finished[ENG_FINISH_STOP], NULL),
    LABELLED(FINISHED, "finish_reason=\"eos\"", eng.finished[ENG_FINISH_EOS], NULL),
    LABELLED(FINISHED, "finish_reason=\"cancelled\"", eng.finished[ENG_FINISH_CANCELLED], NULL),
    LABELLED(FINISHED, "finish_reason=\"error\"", eng.finished[ENG_FINISH_ERROR], NULL),
    LABELLED(CANCELLED, "phase=\"queue\"", eng.cancelled_queue, "Requests cancelled, by phase."),
    LABELLED(CANCELLED, "phase=\"prefill\"", eng.cancelled_prefill, NULL),
    LABELLED(CANCELLED, "phase=\"decode\"", eng.cancelled_decode, NULL),
    COUNTER("tnl_nonfinite_total", eng.nonfinite, "Requests ended by a value that is not finite."),
    COUNTER("tnl_prompt_tokens_total", eng.prompt_tokens, "Prompt tokens read."),
    COUNTER("tnl_generated_tokens_total", eng.generated_tokens, "Tokens generated."),
    COUNTER("tnl_spec_decode_num_draft_tokens_total", eng.drafted_tokens, "Guessed tokens that were checked."),
    COUNTER("tnl_spec_decode_num_accepted_tokens_total", eng.accepted_tokens, "Guessed tokens that came true and saved a step."),
    COUNTER("tnl_prefix_cache_queries_total", eng.prefix_queries, "Requests whose prompt was looked up among those already read."),
    COUNTER("tnl_prefix_cache_hits_total", eng.prefix_hits, "Requests that began with a known prefix."),
    COUNTER("tnl_prefix_cache_queried_tokens_total", eng.prefix_asked, "Prompt tokens of the requests that were looked up."),
    COUNTER("tnl_prefix_cache_tokens_total", eng.prefix_tokens, "Prompt tokens that a known prefix spared."),
    COUNTER("tnl_prefix_cache_evictions_total", eng.prefix_evicted, "States that had to make room."),
    GAUGE("tnl_prefix_cache_states", eng.prefix_states, "States kept."),
    GAUGE("tnl_prefix_cache_bytes", eng.prefix_bytes, "Bytes they take."),
    GAUGE("tnl_prefix_cache_limit_bytes", eng.prefix_budget, "Bytes they may take."),
    GAUGE("tnl_sessions_in_memory", session.in_memory, "Sessions whose state is in memory."),
    GAUGE("tnl_sessions_on_disk", session.on_disk, "Sessions that are on the disk only."),
    GAUGE("tnl_session_bytes", session.bytes, "Memory of the sessions' texts and states."),
    GAUGE("tnl_session_limit_bytes", session.limit, "Bytes they may take."),
    GAUGE("tnl_session_disk_bytes", session.disk_bytes, "Bytes of the sessions' files."),
    COUNTER("tnl_session_saves_total", session.saves, "Session files written."),
    COUNTER("tnl_session_save_errors_total", session.save_errors, "Session files that could not be written."),
    COUNTER("tnl_session_restores_total", session.restores, "Session files read."),
    COUNTER("tnl_session_refused_total", session.refused, "Session files refused: foreign, cut or altered."),
    COUNTER("tnl_sessions_dropped_total", session.dropped, "Sessions dropped for want of room, or left alone too long."),
    COUNTER("tnl_engine_steps_total", eng.steps, "Forward steps."),
    COUNTER("tnl_engine_busy_seconds_total", eng.busy_seconds, "Time spent in steps."),
    SECONDS("tnl_queue_seconds", eng.queue_s, "Time from submission to a slot."),
    SECONDS("tnl_time_to_first_token_seconds", eng.ttft_s, "Time from submission to the first token."),
    SECONDS("tnl_time_per_output_token_seconds", eng.per_token_s, "Time between two tokens."),
    SECONDS("tnl_prefill_seconds", eng.prefill_s, "Time from a slot to the first token."),
    SECONDS("tnl_decode_seconds", eng.decode_s, "Time from the first token to the end."),
    SECONDS("tnl_request_duration_seconds", eng.request_s, "Time from submission to the end."),
    TOKENS("tnl_request_prompt_tokens", eng.request_prompt, "Prompt tokens of a request that ended."),
    TOKENS("tnl_request_generated_tokens", eng.request_generated, "Tokens generated for a request that ended."),
};

/* Two of them under an older name as well: dashboards live long. */
#define SUCCESS "vllm:request_success_total"
static const srv_metric vllm[] = {
    GAUGE("vllm:num_requests_running", eng.running, "Sequences in a slot."),
    GAUGE("vllm:num_requests_waiting", eng.queued, "Requests in the queue."),
    GAUGE("vllm:kv_cache_usage_perc", slots_share, "Share of the state slots in use, 0 to 1."),
    GAUGE("vllm:gpu_cache_usage_perc", slots_share, "The same."),
    COUNTER("vllm:prompt_tokens_total", prompt_tokens, "Prompt tokens, read or spared."),
    COUNTER("vllm:generation_tokens_total", eng.generated_tokens, "Tokens generated."),
    COUNTER("vllm:prefix_cache_queries_total", eng.prefix_asked, "Prompt tokens looked up among those already read."),
    COUNTER("vllm:prefix_cache_hits_total", eng.prefix_tokens, "Prompt tokens that a known prefix spared."),
    COUNTER("vllm:spec_decode_num_draft_tokens_total", eng.drafted_tokens, "Guessed tokens that were checked."),
    COUNTER("vllm:spec_decode_num_accepted_tokens_total", eng.accepted_tokens, "Guessed tokens that came true."),
    LABELLED(SUCCESS, "finished_reason=\"stop\"", finished_stop, "Requests that ended, by reason."),
    LABELLED(SUCCESS, "finished_reason=\"length\"", eng.finished[ENG_FINISH_LENGTH], NULL),
    LABELLED(SUCCESS, "finished_reason=\"abort\"", eng.finished[ENG_FINISH_CANCELLED], NULL),
    LABELLED(SUCCESS, "finished_reason=\"error\"", eng.finished[ENG_FINISH_ERROR], NULL),
    SECONDS("vllm:time_to_first_token_seconds", eng.ttft_s, "Time from submission to the first token."),
    SECONDS("vllm:inter_token_latency_seconds", eng.per_token_s, "Time between two tokens."),
    SECONDS("vllm:time_per_output_token_seconds", eng.per_token_s, "The same."),
    SECONDS("vllm:e2e_request_latency_seconds", eng.request_s, "Time from submission to the end."),
    SECONDS("vllm:request_queue_time_seconds", eng.queue_s, "Time from submission to a slot."),
    SECONDS("vllm:request_prefill_time_seconds", eng.prefill_s, "Time from a slot to the first token."),
    SECONDS("vllm:request_decode_time_seconds", eng.decode_s, "Time from the first token to the end."),
    TOKENS("vllm:request_prompt_tokens", eng.request_prompt, "Prompt tokens of a request that ended."),
    TOKENS("vllm:request_generation_tokens", eng.request_generated, "Tokens generated for a request that ended."),
};
/* clang-format on */

const srv_metric_table srv_metrics_always = TABLE(always);
const srv_metric_table srv_metrics_engine = TABLE(engine);
const srv_metric_table srv_metrics_vllm = TABLE(vllm);
