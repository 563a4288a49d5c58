/* A conversation: messages in order, an optional system message in front; saved and loaded as JSON
 * Lines {"role": ..., "content": ...}. Plain data; one thread. */
#ifndef TNL_SERVER_CLI_CHAT_LOG_H
#define TNL_SERVER_CLI_CHAT_LOG_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/base/status.h"
#include "server/http/api/fields.h"
#include "server/http/json/json_out.h"

enum {
    CLI_CHAT_MESSAGES = 65536,
    CLI_CHAT_MESSAGE_MAX = 16 << 20, /* bytes of one message */
    CLI_CHAT_FILE_MAX = 64 << 20,
};

typedef struct cli_chat_log {
    srv_message *m; /* owned */
    size_t n, cap;
} cli_chat_log;

void cli_chat_log_free(cli_chat_log *log);
tnl_status cli_chat_log_add(cli_chat_log *log, srv_role role, const char *text, size_t n,
                            tnl_error *err);
/* Replace the system message, or take it away (text NULL or empty). */
tnl_status cli_chat_log_system(cli_chat_log *log, const char *text, tnl_error *err);
bool cli_chat_log_has_system(const cli_chat_log *log);
/* Remove the last message; not the system message. */
void cli_chat_log_pop(cli_chat_log *log);
void cli_chat_log_reset(cli_chat_log *log); /* all but the system message */
/* Role of the last message that is not the system's, -1: there is none. */
int cli_chat_log_last(const cli_chat_log *log);
/* The texts one after another, as a base model reads them. */
void cli_chat_log_text(srv_buf *out, const cli_chat_log *log);

/* To a file that only its owner reads. An existing one is replaced when the new one is whole. */
tnl_status cli_chat_log_save(const cli_chat_log *log, const char *path, tnl_error *err);
/* *log changes only on success. */
tnl_status cli_chat_log_load(cli_chat_log *log, const char *path, tnl_error *err);
/* The same from memory, for tests. text is NUL-terminated and is cut up. */
tnl_status cli_chat_log_parse(cli_chat_log *log, char *text, size_t n, const char *name,
                              tnl_error *err);

#endif
