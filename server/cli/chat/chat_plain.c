/* Built instead of chat_edit.c without libedit. */
#include <stdlib.h>
#include <unistd.h>

#include "server/cli/chat/chat_reader.h"

struct cli_input {
    cli_reader reader;
};

cli_input *cli_input_open(const volatile sig_atomic_t *interrupts) {
    cli_input *in = calloc(1, sizeof *in);
    if (in) {
        in->reader.interrupts = interrupts;
        in->reader.terminal = isatty(STDIN_FILENO) == 1;
    }
    return in;
}

void cli_input_close(cli_input *in) {
    if (in)
        free(in->reader.line);
    free(in);
}

cli_input_kind cli_input_line(cli_input *in, const char *prompt, char **line, size_t *n) {
    return cli_reader_line(&in->reader, prompt, line, n);
}
