/* tnl chat, its parts: settings, who answers (the engine here or a server there), and the talk.
 * One thread. */
#ifndef TNL_SERVER_CLI_CHAT_H
#define TNL_SERVER_CLI_CHAT_H

#include <signal.h>

#include "server/cli/chat/chat_log.h"
#include "server/cli/cli.h"
#include "server/cli/client/client.h"
#include "server/cli/options/options.h"
#include "server/cli/sampling.h"

typedef struct cli_chat_settings {
    cli_model_opts model;
    cli_client_opts client;
    const char *template_name, *system, *model_name;
    bool plain, stats, ignore_eos;
    int64_t prefix_cache_mb;
    /* sampling: what /set changes */
    int64_t max_tokens;
    cli_sampling sampling;
    uint64_t seed;
    bool given[CLI_MAX_ROWS]; /* by row: the person chose it; a server's defaults stand otherwise */
} cli_chat_settings;

/* The rows that /set can change, and where they begin in `given`. */
const cli_opt *cli_chat_set_rows(int *n, int *first);
/* Is the row of this flag given? */
bool cli_chat_given(const cli_chat_settings *o, const char *flag);

/* What became of a question. -1: not known. */
typedef struct cli_answer {
    char finish[24];
    bool stopped; /* by Ctrl-C */
    int64_t prompt_tokens, cached_tokens, tokens;
    double first_ms, total_ms; /* as seen here */
} cli_answer;

typedef struct cli_question {
    const cli_chat_log *log;
    bool plain; /* the log is one text to continue */
    const cli_chat_settings *o;
    tnl_status (*text)(void *user, const char *s, size_t n, tnl_error *err); /* as it arrives */
    void *user;
    const volatile sig_atomic_t *interrupts; /* rises: stop */
} cli_question;

/* Who answers. */
typedef struct cli_voice {
    char name[192]; /* for the greeting */
    bool plain;     /* it continues text; there are no turns */
    tnl_status (*answer)(void *self, const cli_question *q, cli_answer *a, tnl_error *err);
    void (*close)(void *self);
    void *self;
} cli_voice;

tnl_status cli_voice_local(cli_voice *out, const cli_chat_settings *o, const char *dir,
                           tnl_error *err);
tnl_status cli_voice_remote(cli_voice *out, const cli_chat_settings *o, const char *url,
                            tnl_error *err);

/* The conversation, until the person leaves. Returns the exit code. */
int cli_talk(const cli_voice *voice, cli_chat_settings *o, const cli_spec *spec);

#endif
