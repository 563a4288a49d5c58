/* Cutting a streamed body into items: lines of NDJSON, or the data of server-sent events.
 *
 * The other side may send anything, in any pieces: items are bounded, memory is bounded, and what
 * is no item (comments, pings, other fields) is skipped. Pure but for its buffers; one thread at a
 * time. */
#ifndef TNL_SERVER_CLI_CLIENT_STREAM_H
#define TNL_SERVER_CLI_CLIENT_STREAM_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/base/status.h"

enum { CLI_ITEM_MAX = 1 << 20 }; /* bytes of one line, and of one event */

typedef enum cli_framing { CLI_FRAME_NDJSON, CLI_FRAME_SSE } cli_framing;

typedef struct cli_bytes {
    char *p; /* owned */
    size_t n, cap;
} cli_bytes;

typedef struct cli_splitter {
    cli_framing framing;
    cli_bytes line, event;
    bool has_event; /* at least one data line */
    bool after_cr;  /* a line feed that comes next belongs to the line before */
    bool begun;     /* the first line, which may carry a byte order mark, is behind us */
} cli_splitter;

/* One item, whole; valid during the call. What it returns other than TNL_OK ends the feeding. */
typedef tnl_status (*cli_item_fn)(void *user, const char *item, size_t n, tnl_error *err);

void cli_splitter_begin(cli_splitter *s, cli_framing framing); /* of a zeroed or a used one */
void cli_splitter_free(cli_splitter *s);

/* TNL_E_LIMIT: an item is too long. TNL_E_NOMEM. Else what fn returned. */
tnl_status cli_splitter_feed(cli_splitter *s, const char *bytes, size_t n, cli_item_fn fn,
                             void *user, tnl_error *err);
/* The body has ended: a last line of NDJSON may lack its line feed. An event that was not closed
 * by an empty line is dropped, as its specification wants. */
tnl_status cli_splitter_end(cli_splitter *s, cli_item_fn fn, void *user, tnl_error *err);

#endif
