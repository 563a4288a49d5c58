/* Bytes of standard input, one wait at a time, so that Ctrl-C is seen while waiting: signals may
 * come before the wait begins, so no wait is longer than a moment. */
#ifndef TNL_SERVER_CLI_CHAT_READER_H
#define TNL_SERVER_CLI_CHAT_READER_H

#include "server/cli/chat/chat_input.h"

typedef struct cli_reader {
    const volatile sig_atomic_t *interrupts;
    bool terminal;
    char buf[4096];
    size_t n, at;
    char *line; /* owned */
    size_t cap;
} cli_reader;

/* CLI_INPUT_LINE: *byte is the next one. */
cli_input_kind cli_reader_byte(cli_reader *r, char *byte);
/* A line, as cli_input_line says. */
cli_input_kind cli_reader_line(cli_reader *r, const char *prompt, char **line, size_t *n);

#endif
