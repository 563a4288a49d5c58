/* Settings of `tnl serve` and the rows that fill them. A new option is a member here and a row in
 * serve_options.c. */
#ifndef TNL_CLI_SERVE_OPTIONS_H
#define TNL_CLI_SERVE_OPTIONS_H

#include "server/cli/cli.h"
#include "server/http/settings.h"

typedef struct cli_serve_settings {
    srv_settings http;
    cli_model_opts model;
    const char *config;
    int64_t step_tokens, queue_seconds, drain_seconds, speculate, prefix_cache_mb;
    int64_t sessions, session_mb, key_sessions, key_session_mb, session_disk_mb, session_seconds;
    const char *session_dir;
    int log_level, log_format;
    bool fields;
    cli_strings cors_origins;
    char cors_list[8192]; /* the same in one, for http.cors_origin */
} cli_serve_settings;

extern const cli_spec cli_serve_spec;

/* After the parse: what several rows make together. */
tnl_status cli_serve_check(cli_serve_settings *s, tnl_error *err);

#endif
