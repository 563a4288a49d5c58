/* Option rows of `tnl serve`: flag, TNL_* variable and config key, range, default, help. */
#include "server/cli/serve/serve_options.h"

#include <stddef.h>
#include <stdio.h>

#include "server/engine/engine.h"

static const char *const level_names[] = {"error", "warn", "info", "debug", NULL};
static const char *const compat_names[] = {"none", "vllm", NULL};
static const char *const format_names[] = {"text", "json", NULL};

#define NAMED(name, env_name) .flag = name, .key = name, .env = "TNL_" env_name
#define INTEGER(member, lo, hi, preset)                                                            \
    .type = CLI_INT, .offset = offsetof(cli_serve_settings, member), .min = lo, .max = hi,         \
    .dflt = preset, .arg = "N"
#define TEXT(member, word)                                                                         \
    .type = CLI_STRING, .offset = offsetof(cli_serve_settings, member), .arg = word
#define CHOICE(member, list, preset)                                                               \
    .type = CLI_CHOICE, .offset = offsetof(cli_serve_settings, member), .choices = list,           \
    .dflt = preset
#define DAY 86400

/* clang-format off */
static const cli_opt rows[] = {
    {.help = "Where:"},
    {NAMED("host", "HOST"), TEXT(http.host, "ADDRESS"), .dflt = "127.0.0.1",
     .help = "address to listen on; one that other machines reach needs a key"},
    {NAMED("port", "PORT"), INTEGER(http.port, 0, 65535, "8080"), .help = "port; 0 picks a free one"},
    {NAMED("unix", "UNIX"), TEXT(http.unix_path, "PATH"),
     .help = "listen on this unix socket, and on TCP only if --host or --port is given, too"},
    {NAMED("unix-mode", "UNIX_MODE"), TEXT(http.unix_mode, "MODE"), .dflt = "0660",
     .help = "permissions of the unix socket: who may connect"},
    {NAMED("base-path", "BASE_PATH"), TEXT(http.base_path, "/PREFIX"), .help = "prefix of all paths"},
    {NAMED("tls-cert", "TLS_CERT"), TEXT(http.tls_cert, "FILE"),
     .help = "serve HTTPS on TCP with this certificate chain (PEM)"},
    {NAMED("tls-key", "TLS_KEY"), TEXT(http.tls_key, "FILE"),
     .help = "its private key (PEM, not encrypted), mode 0600 or 0640"},
    {.flag = "config", .env = "TNL_CONFIG", TEXT(config, "FILE.json"),
     .help = "read settings from this JSON object; keys are the names of these options"},
    {.help = "Model:"},
    {NAMED("alias", "ALIAS"), TEXT(http.alias, "NAME"), .help = "model name to report; default: the folder's name"},
    {NAMED("chat-template", "CHAT_TEMPLATE"), TEXT(http.chat_template, "NAME"),
     .help = "plain, transnormer, chatml, llama-2, llama-3, zephyr, vicuna or alpaca; default: as "
             "tokenizer_config.json says, plain where it says nothing"},
    {NAMED("device", "DEVICE"), TEXT(model.device, "NAME"), .dflt = "cpu",
     .help = "what computes: cpu; cuda or cuda:N, an NVIDIA GPU; auto: a GPU if there is one"},
    {NAMED("threads", "THREADS"), .letter = 't', INTEGER(model.threads, 0, 1024, "0"),
     .help = "threads that compute; 0: one per processor"},
    {NAMED("weights", "WEIGHTS"), CHOICE(model.weights, cli_weight_names, "auto"),
     .help = "how matrices are kept in memory; auto: as stored"},
    {NAMED("load", "LOAD"), CHOICE(model.load, cli_load_names, "map"),
     .help = "map the weight files, or read a private copy"},
    {.help = "Scheduling:"},
    {NAMED("parallel", "PARALLEL"), INTEGER(http.parallel, 1, 1024, "16"), .help = "sequences that run at once"},
    {NAMED("queue", "QUEUE"), INTEGER(http.queue, 0, 65536, "128"), .help = "requests that may wait beside them"},
    {NAMED("step-tokens", "STEP_TOKENS"), INTEGER(step_tokens, 0, 65536, "0"),
     .help = "tokens of one step, at least --parallel; 0: 256, on a GPU 2048"},
    {NAMED("speculate", "SPECULATE"), INTEGER(speculate, 0, ENG_SPECULATE_MAX, "15"),
     .help = "tokens guessed ahead from earlier text; the answer is the same; 0: none"},
    {NAMED("prefix-cache-mb", "PREFIX_CACHE_MB"), INTEGER(prefix_cache_mb, 0, 16777216, "256"),
     .help = "MiB for states of texts already read, so that their beginnings need not be read again; 0: none"},
    {NAMED("max-prompt-tokens", "MAX_PROMPT_TOKENS"), INTEGER(http.max_prompt_tokens, 1, 2147483648.0, "4194304"),
     .help = "longest prompt"},
    {.help = "Sessions (session_id, /sessions):"},
    {NAMED("sessions", "SESSIONS"), INTEGER(sessions, 0, 65536, "1024"),
     .help = "sessions kept, the longest idle makes room for a new one; 0: none"},
    {NAMED("session-mb", "SESSION_MB"), INTEGER(session_mb, 1, 16777216, "256"),
     .help = "MiB of memory for them; beyond it the longest idle go to --session-dir or, without one, away"},
    {NAMED("session-dir", "SESSION_DIR"), TEXT(session_dir, "DIR"),
     .help = "folder to save them in as they go on; they are found again at the next start"},
    {NAMED("session-disk-mb", "SESSION_DISK_MB"), INTEGER(session_disk_mb, 0, 1073741824, "4096"),
     .help = "MiB of files there; 0: any"},
    {NAMED("session-seconds", "SESSION_SECONDS"), INTEGER(session_seconds, 0, 3650 * DAY, "604800"),
     .help = "a session may be left alone before it is dropped; 0: for ever"},
    {NAMED("key-sessions", "KEY_SESSIONS"), INTEGER(key_sessions, 0, 65536, "0"),
     .help = "sessions of one API key; 0: as many as --sessions"},
    {NAMED("key-session-mb", "KEY_SESSION_MB"), INTEGER(key_session_mb, 0, 1073741824, "0"),
     .help = "MiB of one API key's sessions, memory or disk; 0: any"},
    {.help = "Limits:"},
    {NAMED("max-body", "MAX_BODY"), INTEGER(http.max_body, 1024, 67108864, "4194304"), .help = "bytes of a request body"},
    {NAMED("max-header", "MAX_HEADER"), INTEGER(http.max_header, 4096, 262144, "16384"),
     .help = "bytes for a request header and its buffers"},
    {NAMED("upload-budget", "UPLOAD_BUDGET"), INTEGER(http.upload_budget, 1048576, 1099511627776.0, "268435456"),
     .help = "bytes of all bodies in flight together"},
    {NAMED("connections", "CONNECTIONS"), INTEGER(http.connections, 2, 65536, "1024"), .help = "open connections, on TCP and on --unix each"},
    {NAMED("http-threads", "HTTP_THREADS"), INTEGER(http.http_threads, 1, 64, "2"),
     .help = "threads that parse and stream"},
    {.help = "Seconds:"},
    {NAMED("idle-timeout", "IDLE_TIMEOUT"), INTEGER(http.idle_seconds, 1, DAY, "75"),
     .help = "a connection may be silent between requests"},
    {NAMED("header-seconds", "HEADER_SECONDS"), INTEGER(http.header_seconds, 1, DAY, "10"),
     .help = "for a whole request header"},
    {NAMED("body-seconds", "BODY_SECONDS"), INTEGER(http.body_seconds, 1, DAY, "30"),
     .help = "for a request body, plus 1 per 64 KiB received"},
    {NAMED("stall-seconds", "STALL_SECONDS"), INTEGER(http.stall_seconds, 1, DAY, "30"),
     .help = "a client may leave its stream unread"},
    {NAMED("queue-seconds", "QUEUE_SECONDS"), INTEGER(queue_seconds, 0, DAY, "60"),
     .help = "a request may wait for a slot; 0: no limit"},
    {NAMED("request-seconds", "REQUEST_SECONDS"), INTEGER(http.request_seconds, 0, 7 * DAY, "900"),
     .help = "for a whole request, then it is cancelled: 504 or, for POST /generate, finish_reason \"cancelled\"; 0: no limit"},
    {NAMED("drain-seconds", "DRAIN_SECONDS"), INTEGER(drain_seconds, 0, DAY, "30"),
     .help = "running requests may go on after SIGTERM"},
    {NAMED("ping-seconds", "PING_SECONDS"), INTEGER(http.ping_seconds, 0, DAY, "15"),
     .help = "a stream may be silent before it is pinged; 0: no pings"},
    {.help = "Access:"},
    {NAMED("api-key-file", "API_KEY_FILE"), TEXT(http.api_key_file, "FILE"),
     .help = "file with API keys, mode 0600, a line each: KEY, or NAME KEY and limits, see below; or set TNL_API_KEY"},
    {NAMED("limit-requests", "LIMIT_REQUESTS"), INTEGER(http.limits.requests_per_minute, 0, 1e9, "0"),
     .help = "requests a minute for each key whose line has no such limit or, without keys, each client address; 0: any"},
    {NAMED("limit-tokens", "LIMIT_TOKENS"), INTEGER(http.limits.tokens_per_minute, 0, 1e12, "0"),
     .help = "tokens a minute, of prompts and answers, likewise"},
    {NAMED("limit-parallel", "LIMIT_PARALLEL"), INTEGER(http.limits.parallel, 0, 1e9, "0"),
     .help = "requests at once, likewise"},
    {NAMED("trust-proxy", "TRUST_PROXY"), TEXT(http.trust_proxy, "NETWORKS"),
     .help = "peers whose X-Forwarded-For or Forwarded names the client: ADDRESS[/BITS] or unix, comma-separated"},
    {NAMED("cors-origin", "CORS_ORIGIN"), .type = CLI_STRINGS,
     .offset = offsetof(cli_serve_settings, cors_origins), .arg = "ORIGIN",
     .help = "a site whose pages may ask, as https://name[:port]; repeatable, or comma-separated; *: any site"},
    {NAMED("allowed-host", "ALLOWED_HOST"), TEXT(http.allowed_host, "NAMES"),
     .help = "further names accepted in Host, comma-separated; *: any"},
    {NAMED("insecure-no-auth", "INSECURE_NO_AUTH"), .type = CLI_BOOL,
     .offset = offsetof(cli_serve_settings, http.insecure_no_auth), .dflt = "false",
     .help = "allow an address that other machines reach without a key"},
    {NAMED("page", "PAGE"), .type = CLI_BOOL, .offset = offsetof(cli_serve_settings, http.page), .dflt = "true",
     .help = "serve a web page at /, without a key as it holds no data; --no-page turns it off"},
    {.help = "Logging:"},
    {NAMED("log-level", "LOG_LEVEL"), CHOICE(log_level, level_names, "info"), .help = "least important line"},
    {NAMED("log-format", "LOG_FORMAT"), CHOICE(log_format, format_names, "text"), .help = "form of a line"},
    {NAMED("metrics-compat", "METRICS_COMPAT"), CHOICE(http.metrics_compat, compat_names, "none"),
     .help = "give the figures of /metrics under vLLM's names, too"},
    {.flag = "fields", .type = CLI_BOOL, .offset = offsetof(cli_serve_settings, fields),
     .help = "print the fields of POST /generate as JSON, and exit"},
};
/* clang-format on */

const cli_spec cli_serve_spec = {
    .name = "tnl serve",
    .args = "MODEL_DIR",
    .about = "Serve a model over HTTP. Every option but --fields is also a TNL_* variable and, but "
             "for --config,\na key of the config file; a flag wins over the environment, that over "
             "the file.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .min_args = 0,
    .max_args = 1,
    .examples = "  tnl serve configs/tales\n"
                "  tnl serve /models/tnl-1b --parallel 32 --weights bf16 --port 9000\n"
                "  TNL_API_KEY=$(cat key) tnl serve configs/tales --host 0.0.0.0\n",
    .notes =
        "Routes: POST /generate /v1/completions /v1/chat/completions /generate_stream /tokenize\n"
        "/detokenize /sessions /sessions/ID/fork; GET and DELETE /sessions/ID; GET / /health "
        "/ready\n"
        "/v1/models /info /metrics /openapi.json.\n\n"
        "SIGTERM or SIGINT: stop accepting, finish what runs, exit 0; a second one exits at once\n"
        "(1). SIGHUP: read the API keys, the certificate and MODEL_DIR again. The present model\n"
        "serves until the new one is loaded, and finishes what it began. Replace the folder, or a\n"
        "link to it, never files in use.\n\n"
        "Sockets that systemd hands over (LISTEN_FDS) take the place of --host, --port and "
        "--unix.\n"
        "NOTIFY_SOCKET is told when the model is ready, and of reloads and the end.\n\n"
        "Key file, or TNL_API_KEY: a line each, KEY alone or NAME KEY LIMITS; # begins a comment.\n"
        "KEY has 16 characters or more, or is sha256:HEX, its digest ('tnl key' makes one).\n"
        "LIMITS: requests_per_minute=N tokens_per_minute=N parallel=N, and admin: sees the "
        "figures\n"
        "of all keys. Of several keys, none takes more than half the queue and 7/8 of the slots.\n",
};

static tnl_status join_origins(cli_serve_settings *s, tnl_error *err) {
    size_t at = 0;
    for (int i = 0; i < s->cors_origins.n; i++) {
        int n = snprintf(s->cors_list + at, sizeof s->cors_list - at, "%s%s", i ? "," : "",
                         s->cors_origins.v[i]);
        at += (size_t)n;
        if (at >= sizeof s->cors_list)
            return tnl_fail(err, TNL_E_USAGE, "--cors-origin: more than %zu bytes together",
                            sizeof s->cors_list - 1);
    }
    s->http.cors_origin = at ? s->cors_list : NULL;
    return TNL_OK;
}

tnl_status cli_serve_check(cli_serve_settings *s, tnl_error *err) {
    if (s->step_tokens != 0 && s->step_tokens < s->http.parallel)
        return tnl_fail(err, TNL_E_USAGE, "--step-tokens %lld is below --parallel %lld",
                        (long long)s->step_tokens, (long long)s->http.parallel);
    return join_origins(s, err);
}
