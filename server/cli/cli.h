/* The command line: one entry per subcommand, called with argv[0] = the subcommand's name. Each
 * returns the process exit code (kernels/base/status.h lists them). */
#ifndef TNL_SERVER_CLI_CLI_H
#define TNL_SERVER_CLI_CLI_H

#include <stdbool.h>

#include "kernels/base/status.h"

int cli_serve(int argc, char **argv); /* built with -Dserver only */
int cli_generate(int argc, char **argv);
int cli_eval(int argc, char **argv);
int cli_bench(int argc, char **argv);
int cli_inspect(int argc, char **argv);
int cli_tokenize(int argc, char **argv);

struct cli_args;
struct cli_spec;

/* Parse, and answer --help and --version. True: go on with the command. False: *exit_code is what
 * the command returns. */
bool cli_begin(struct cli_args *a, const struct cli_spec *spec, void *settings, int argc,
               char **argv, int *exit_code);

/* "tnl generate: message" on stderr (plus where to find help for a usage error); the exit code. */
int cli_report(const struct cli_spec *spec, tnl_status status, const tnl_error *err);

#endif
