/* How servers are asked for text and how they answer, as rows: ours and OpenAI's two.
 *
 * A row knows its path, the form of its body and the meaning of an item of its stream. Items come
 * from a stranger: they pass the strict JSON scanner first, and what a piece holds is bounded. All
 * functions are pure; any thread. */
#ifndef TNL_SERVER_CLI_CLIENT_DIALECT_H
#define TNL_SERVER_CLI_CLIENT_DIALECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "server/cli/client/client_stream.h"
#include "server/http/api/fields.h"
#include "server/http/json/json_out.h"

typedef enum cli_dialect_id {
    CLI_DIALECT_GENERATE,
    CLI_DIALECT_COMPLETIONS,
    CLI_DIALECT_CHAT,
    CLI_DIALECTS
} cli_dialect_id;

/* What an item of a stream says. */
typedef struct cli_piece {
    const char *text; /* NUL-terminated, of `held`; NULL: none */
    int tokens;       /* generated tokens it stands for: one at most, text held back or not */
    bool last;        /* nothing counts after this one */
    char finish[24];  /* why the answer ended; "" */
    bool has_usage;
    int64_t prompt_tokens, completion_tokens, cached_tokens; /* -1: not said */
    double queue_ms, prefill_ms, decode_ms;                  /* -1: not said */
    char problem[48];                                        /* an error's code; "" */
    char message[256];                                       /* and what it says */
    void *held;
} cli_piece;

typedef struct cli_dialect {
    const char *name; /* "generate" */
    const char *path; /* "/generate" */
    cli_framing framing;
    bool named; /* the body must name a model */
    bool turns; /* takes messages rather than text */
} cli_dialect;

extern const cli_dialect cli_dialects[CLI_DIALECTS];
extern const char *const cli_dialect_names[]; /* NULL at the end */

/* One question. Text, or messages where the dialect takes turns (text becomes the user's). */
typedef struct cli_ask {
    const char *model; /* NULL: not named */
    const char *text;
    size_t text_len;
    const srv_message *messages;
    size_t n_messages;
    int64_t max_tokens;
    const char *extra; /* further members, each with a comma in front; NULL: none */
} cli_ask;

void cli_ask_write(srv_buf *out, cli_dialect_id dialect, const cli_ask *ask);

/* Clear the piece in both cases. TNL_E_DATA: not JSON, or not an object. */
tnl_status cli_piece_read(cli_piece *out, cli_dialect_id dialect, const char *item, size_t n,
                          tnl_error *err);
void cli_piece_clear(cli_piece *p);

/* "code" and message of an error body of any server; empty where it says nothing we understand. */
void cli_problem_read(char code[48], char message[256], const char *body, size_t n);

/* Make every escaped NUL of a JSON text U+FFFD, in place. A model may well produce NUL, and the
 * scanner refuses it, since it would cut a C string short. */
void cli_json_forgive_nul(char *s, size_t n);

/* A copy fit for a line on a terminal: cut at a character, control bytes replaced. */
void cli_copy_line(char *out, size_t cap, const char *s);

/* The first model of GET /v1/models, malloc'd. *plain (NULL allowed): the server says that it has
 * no chat template, as ours does of a base model. */
tnl_status cli_model_name(char **out, bool *plain, const char *body, size_t n, tnl_error *err);

#endif
