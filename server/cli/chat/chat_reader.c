/* Plain reading: the terminal itself does what editing there is. */
#include "server/cli/chat/chat_reader.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MOMENT_MS = 100 };

static cli_input_kind fill(cli_reader *r) {
    struct pollfd fd = {.fd = STDIN_FILENO, .events = POLLIN};
    for (;;) {
        if (*r->interrupts)
            return CLI_INPUT_INTERRUPTED;
        if (poll(&fd, 1, MOMENT_MS) <= 0)
            continue;
        ssize_t got = read(STDIN_FILENO, r->buf, sizeof r->buf);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        r->at = 0;
        r->n = got > 0 ? (size_t)got : 0;
        return got > 0 ? CLI_INPUT_LINE : got == 0 ? CLI_INPUT_END : CLI_INPUT_FAILED;
    }
}

cli_input_kind cli_reader_byte(cli_reader *r, char *byte) {
    if (r->at == r->n) {
        cli_input_kind k = fill(r);
        if (k != CLI_INPUT_LINE)
            return k;
    }
    *byte = r->buf[r->at++];
    return CLI_INPUT_LINE;
}

static bool make_room(cli_reader *r, size_t n) {
    if (n < r->cap)
        return true;
    char *grown = realloc(r->line, 2 * n + 256);
    if (grown) {
        r->line = grown;
        r->cap = 2 * n + 256;
    }
    return grown;
}

cli_input_kind cli_reader_line(cli_reader *r, const char *prompt, char **line, size_t *n) {
    if (r->terminal) {
        fputs(prompt, stderr);
        fflush(stderr);
    }
    *n = 0;
    for (char c;;) {
        cli_input_kind k = cli_reader_byte(r, &c);
        if (k == CLI_INPUT_INTERRUPTED)
            r->at = r->n = 0;
        bool last = k == CLI_INPUT_END && *n > 0; /* without a line feed */
        if (k != CLI_INPUT_LINE && !last)
            return k;
        if (last || c == '\n')
            break;
        if (!make_room(r, *n + 1))
            return CLI_INPUT_FAILED;
        r->line[*n] = c;
        *n += *n < CLI_INPUT_MAX;
    }
    if (!make_room(r, *n + 1))
        return CLI_INPUT_FAILED;
    if (*n && r->line[*n - 1] == '\r')
        --*n;
    r->line[*n] = 0;
    *line = r->line;
    return *n < CLI_INPUT_MAX ? CLI_INPUT_LINE : CLI_INPUT_LONG;
}
