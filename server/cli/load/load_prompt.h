/* Prompts for a load run: of random words, or lines of a file; behind a shared beginning.
 *
 * A prompt is a function of the seed and its number, so two runs with one seed ask for the same,
 * whatever order things happen in. Immutable after opening. */
#ifndef TNL_SERVER_CLI_LOAD_PROMPT_H
#define TNL_SERVER_CLI_LOAD_PROMPT_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "server/http/json/json_out.h"

typedef struct cli_prompts {
    int64_t least, most;  /* words of a prompt */
    int64_t prefix_words; /* words in front, the same for many */
    int64_t prefixes;     /* so many such beginnings */
    uint64_t seed;
    char *file;   /* text of the file, lines cut by NUL; NULL: random words */
    char **lines; /* [n_lines] into file */
    size_t n_lines;
} cli_prompts;

/* "128" or "64..512". */
tnl_status cli_prompts_range(int64_t *least, int64_t *most, const char *text, tnl_error *err);
/* A prompt a line; a line {"prompt": "..."} is JSON, for prompts of several lines. */
tnl_status cli_prompts_file(cli_prompts *p, const char *path, tnl_error *err);
void cli_prompts_free(cli_prompts *p);

/* Append prompt `number`. */
void cli_prompts_write(srv_buf *out, const cli_prompts *p, uint64_t number);

#endif
