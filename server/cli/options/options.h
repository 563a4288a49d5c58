/* Options as rows of data, used by every subcommand.
 *
 * A command describes its options once: flag, type, range, default, help, and (where it has them)
 * an environment variable and a config-file key. From the rows come parsing, range checks, the help
 * page and the precedence flag > environment > config file > default. A value is written at the
 * row's offset of the command's own settings struct, in the C type that the row's type names.
 *
 *   static const cli_opt rows[] = {
 *       {.flag = "port", .type = CLI_INT, .offset = offsetof(settings, port), .min = 0,
 *        .max = 65535, .dflt = "8080", .arg = "N", .env = "TNL_PORT", .key = "port",
 *        .help = "TCP port"},
 *   };
 *
 * A row without a flag and with help text is a heading of the help page. */
#ifndef TNL_SERVER_CLI_OPTIONS_H
#define TNL_SERVER_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "kernels/base/status.h"

enum {
    CLI_MAX_ROWS = 96,
    CLI_MAX_LIST = 64,    /* values of one list */
    CLI_MAX_STRINGS = 16, /* times a CLI_STRINGS option may be given */
};

typedef enum cli_type {
    CLI_BOOL,     /* bool: --flag, --no-flag, --flag=true|false */
    CLI_INT,      /* int64_t in min..max */
    CLI_U64,      /* uint64_t, the whole range (seeds) */
    CLI_REAL,     /* double in min..max, finite */
    CLI_STRING,   /* const char *, NULL when there is no default */
    CLI_CHOICE,   /* int: index into choices */
    CLI_INT_LIST, /* cli_list: "1,2,3", each in min..max */
    CLI_STRINGS,  /* cli_strings: the option may be repeated */
} cli_type;

typedef struct cli_list {
    int n;
    int64_t v[CLI_MAX_LIST];
} cli_list;

typedef struct cli_strings {
    int n;
    const char *v[CLI_MAX_STRINGS];
} cli_strings;

typedef struct cli_opt {
    const char *flag; /* without the dashes; NULL: a heading */
    char letter;      /* short form, 0: none */
    cli_type type;
    size_t offset;              /* into the settings struct */
    double min, max;            /* CLI_INT, CLI_REAL, CLI_INT_LIST */
    const char *const *choices; /* CLI_CHOICE: names, NULL at the end */
    const char *dflt;           /* as a person would write it; NULL: zero, false, NULL, empty */
    const char *arg;            /* word for the value on the help page; NULL for CLI_BOOL */
    const char *env;            /* environment variable or NULL */
    const char *key;            /* config-file key or NULL */
    const char *help;
} cli_opt;

typedef struct cli_spec {
    const char *name;  /* "tnl generate" */
    const char *args;  /* "MODEL_DIR": the operands, for the usage line */
    const char *about; /* one or two sentences */
    const cli_opt *rows;
    int n_rows;             /* <= CLI_MAX_ROWS */
    int min_args, max_args; /* operands; max_args -1: no limit */
    const char *examples;   /* ready-made lines, NULL: none */
    const char *notes;      /* after the options, NULL: none */
} cli_spec;

typedef enum cli_source {
    CLI_FROM_DEFAULT,
    CLI_FROM_FILE,
    CLI_FROM_ENV,
    CLI_FROM_FLAG,
} cli_source;

/* What cli_parse leaves beside the settings. */
typedef struct cli_args {
    int n;          /* operands */
    const char **v; /* [n], pointing into argv */
    bool help, version;
    uint8_t source[CLI_MAX_ROWS]; /* cli_source of each row */
    char **owned;                 /* strings of the config file that settings point to */
    int n_owned;
} cli_args;

/* Fill *out from defaults, then the config file named by the row with flag "config" (if there is
 * one), then the environment, then argv[1..]. After "--" everything is an operand. When --help or
 * --version is among the arguments, nothing else is looked at. Messages name the flag, variable or
 * file at fault and the nearest name for an unknown one. Release with cli_args_clear, also after a
 * failure; strings in *out stay valid until then. */
tnl_status cli_parse(cli_args *a, const cli_spec *spec, void *out, int argc, char **argv,
                     tnl_error *err);
void cli_args_clear(cli_args *a);

/* Where the value of `flag` came from; CLI_FROM_DEFAULT also for an unknown flag. */
cli_source cli_source_of(const cli_args *a, const cli_spec *spec, const char *flag);

/* The help page. */
void cli_print_help(FILE *f, const cli_spec *spec);

/* The name in NULL-terminated `names` nearest to `word`, or NULL if none is near. */
const char *cli_nearest(const char *word, const char *const *names);

/* Set one row from text (`where` names the source in messages: "--port", "TNL_PORT"). `text` must
 * outlive the settings. For the config file and for tests. */
tnl_status cli_set(const cli_opt *row, void *out, const char *text, const char *where,
                   tnl_error *err);

#endif
