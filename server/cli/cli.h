/* The command line: one entry per subcommand, called with argv[0] = the subcommand's name. Each
 * returns the process exit code (kernels/base/status.h lists them). */
#ifndef TNL_SERVER_CLI_CLI_H
#define TNL_SERVER_CLI_CLI_H

#include <stdbool.h>
#include <stdio.h>

#include "model/model.h"
#include "server/cli/options/options.h"
#include "server/engine/engine.h" /* tok_model, with and without a tokenizer */

int cli_serve(int argc, char **argv); /* built with -Dserver only */
int cli_key(int argc, char **argv);   /* likewise */
int cli_load(int argc, char **argv);  /* built with -Dclient only */
int cli_chat(int argc, char **argv);
int cli_generate(int argc, char **argv);
int cli_eval(int argc, char **argv);
int cli_bench(int argc, char **argv);
int cli_inspect(int argc, char **argv);
int cli_tokenize(int argc, char **argv);
int cli_quantize(int argc, char **argv);

/* Parse, and answer --help and --version. True: go on with the command. False: *exit_code is what
 * the command returns. Call cli_args_clear in both cases. */
bool cli_begin(cli_args *a, const cli_spec *spec, void *settings, int argc, char **argv,
               int *exit_code);

/* "tnl generate: message" on stderr (plus where to find help for a usage error); the exit code. */
int cli_report(const cli_spec *spec, tnl_status status, const tnl_error *err);

/* ---- opening a model ---- */

typedef struct cli_model_opts {
    const char *device; /* auto, cpu, cuda, cuda:N */
    int64_t threads;    /* 0: one per processor */
    int weights;     /* mdl_weight_mode */
    int load;        /* mdl_load_mode */
} cli_model_opts;

extern const char *const cli_weight_names[]; /* NULL at the end, by mdl_weight_mode */
extern const char *const cli_load_names[];   /* NULL at the end, by mdl_load_mode */

/* Option rows for a settings struct T with a cli_model_opts member `m`. */
/* clang-format off */
#define CLI_MODEL_ROWS(T, m)                                                                       \
    {.flag = "device", .type = CLI_STRING, .offset = offsetof(T, m.device), .dflt = "cpu",         \
     .arg = "NAME", .env = "TNL_DEVICE",                                                           \
     .help = "what computes: cpu; cuda or cuda:N, an NVIDIA GPU; auto: a GPU if there is one"},    \
    {.flag = "threads", .letter = 't', .type = CLI_INT, .offset = offsetof(T, m.threads),          \
     .min = 0, .max = 1024, .dflt = "0", .arg = "N", .env = "TNL_THREADS",                         \
     .help = "threads that compute; 0: one per processor"},                                        \
    {.flag = "weights", .type = CLI_CHOICE, .offset = offsetof(T, m.weights),                      \
     .choices = cli_weight_names, .dflt = "auto", .env = "TNL_WEIGHTS",                            \
     .help = "how matrices are kept in memory; auto: as stored"},                                  \
    {.flag = "load", .type = CLI_CHOICE, .offset = offsetof(T, m.load),                            \
     .choices = cli_load_names, .dflt = "map", .env = "TNL_LOAD",                                  \
     .help = "map the files, or read them into memory"}

/* clang-format on */

/* With a progress line on stderr. */
tnl_status cli_open_model(mdl_model **out, const cli_model_opts *o, const char *dir,
                          tnl_error *err);

/* The tokenizer of a folder, checked against the model (NULL: not checked). TNL_E_UNSUPPORTED in a
 * build without one. */
tnl_status cli_open_tokenizer(const tok_model **out, const char *dir, const mdl_model *m,
                              tnl_error *err);
/* Without a trial in a child of ours: another process has just opened it. */
tnl_status cli_open_tried_tokenizer(const tok_model **out, const char *dir, tnl_error *err);
/* The same check for a tokenizer that was opened before the model. */
tnl_status cli_check_tokenizer(const tok_model *t, const mdl_model *m, tnl_error *err);
void cli_close_tokenizer(const tok_model *t); /* NULL allowed */

/* Text to ids: the model's bos in front when it asks for one. *ids is malloc'd. */
tnl_status cli_encode(const tok_model *t, const mdl_spec *spec, const char *text, size_t n,
                      int32_t **ids, size_t *n_ids, tnl_error *err);

/* "1,2,3" or "1 2 3" to ids. *ids is malloc'd. */
tnl_status cli_parse_ids(const char *text, int32_t **ids, size_t *n_ids, tnl_error *err);

/* ---- small things ---- */

/* A whole file, or standard input for "-". *text is malloc'd and NUL-terminated. */
tnl_status cli_read_file(const char *path, char **text, size_t *n, tnl_error *err);

/* n bytes of UTF-8 as a JSON string, quotes included; ASCII control bytes are escaped. */
void cli_json_string(FILE *f, const char *s, size_t n);

#endif
