/* The config file: a JSON object whose keys are the rows' keys. */
#ifndef TNL_SERVER_CLI_OPTIONS_FILE_H
#define TNL_SERVER_CLI_OPTIONS_FILE_H

#include "server/cli/options/options.h"

/* Apply the file at `path` to *out. An unknown key is an error with the nearest known one. */
tnl_status cli_apply_file(cli_args *a, const cli_spec *spec, void *out, const char *path,
                          tnl_error *err);

/* The same from memory; `name` stands for the file in messages. */
tnl_status cli_apply_json(cli_args *a, const cli_spec *spec, void *out, const char *text, size_t n,
                          const char *name, tnl_error *err);

#endif
