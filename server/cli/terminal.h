/* What may reach a terminal of what a model says: text, and nothing that drives the terminal.
 *
 * Escape sequences can move the cursor, retitle the window, write the clipboard or fake a prompt,
 * and a model repeats what it has read. Control characters (C0 but for tab and newline, DEL, C1)
 * and bytes that are not UTF-8 come out as U+FFFD; carriage returns are dropped. */
#ifndef TNL_SERVER_CLI_TERMINAL_H
#define TNL_SERVER_CLI_TERMINAL_H

#include <stddef.h>

typedef struct cli_filter {
    char held[4]; /* the beginning of a character whose end has not come yet */
    size_t n;
} cli_filter;

/* Bytes that n bytes can become. */
#define CLI_FILTER_ROOM(n) (3 * ((size_t)(n) + 4))

/* Returns the bytes written to out, whole characters; out has CLI_FILTER_ROOM(n). */
size_t cli_filter_feed(cli_filter *f, char *out, const char *s, size_t n);
/* The same for what is still held, at the end of a text. */
size_t cli_filter_end(cli_filter *f, char *out);

#endif
