/* Lines from a person or a pipe. chat_edit.c (libedit: arrow keys, history) or chat_plain.c, as the
 * build has it; chat_edit.c falls back to plain reading where there is no terminal. One thread. */
#ifndef TNL_SERVER_CLI_CHAT_INPUT_H
#define TNL_SERVER_CLI_CHAT_INPUT_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

enum { CLI_INPUT_MAX = 4 << 20 }; /* bytes of a line */

typedef struct cli_input cli_input;

typedef enum cli_input_kind {
    CLI_INPUT_LINE,
    CLI_INPUT_END,         /* of the input, or Ctrl-D */
    CLI_INPUT_INTERRUPTED, /* *interrupts rose while waiting; what was typed is gone */
    CLI_INPUT_LONG,        /* the line was longer than CLI_INPUT_MAX; it is skipped */
    CLI_INPUT_FAILED,
} cli_input_kind;

/* NULL: out of memory. Prompts are shown, on standard error, if standard input is a terminal. */
cli_input *cli_input_open(const volatile sig_atomic_t *interrupts);
void cli_input_close(cli_input *in); /* NULL allowed */

/* The next line without its line feed, NUL-terminated, valid until the next call. */
cli_input_kind cli_input_line(cli_input *in, const char *prompt, char **line, size_t *n);

#endif
