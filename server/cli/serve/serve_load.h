/* What `tnl serve` serves: a model with its tokenizer, template and engine, opened in two parts. */
#ifndef TNL_CLI_SERVE_LOAD_H
#define TNL_CLI_SERVE_LOAD_H

#include <pthread.h>

#include "server/cli/serve/serve_options.h"
#include "server/http/http.h"

typedef struct cli_served {
    srv_backend be; /* first: what srv_collect returns is the whole */
    mdl_model *model;
    struct cli_served *next; /* the owner's */
} cli_served;

void cli_served_free(cli_served *s); /* NULL allowed */

/* Loads on a thread of its own while the server answers. */
typedef struct cli_loader {
    const cli_serve_settings *set;
    const char *dir;
    srv_server *srv;
    int done_fd; /* eventfd: written when the thread is through */
    pthread_t thread;
    bool running;
    bool again;             /* this is not the first load */
    eng_sessions *sessions; /* again: those of the present model */
    const mdl_model *now;   /* again: the present model, to judge by it what is needed */
    cli_served *served;     /* the result */
    tnl_status status;
    tnl_error err;
} cli_loader;

tnl_status cli_loader_init(cli_loader *l, const cli_serve_settings *set, const char *dir,
                           tnl_error *err);
/* Template and tokenizer. Before any thread exists, for the first load. */
tnl_status cli_loader_prepare(cli_loader *l);
/* The rest, or (again) everything, in the background. */
tnl_status cli_loader_start(cli_loader *l);
/* Wait for the thread; *out is the result, owned by the caller, NULL when l->status is not OK. */
void cli_loader_finish(cli_loader *l, cli_served **out);
void cli_loader_clear(cli_loader *l); /* not while it runs */

/* Is there memory for the model in `dir` and so many states beside `now`, judged by what that one
 * takes? TNL_E_NOMEM: no. */
tnl_status cli_check_room(const char *dir, const mdl_model *now, int64_t states, tnl_error *err);

/* Have the tokenizer in `dir` opened by another process; its words are the error. */
tnl_status cli_try_tokenizer(const char *dir, tnl_error *err);

double cli_seconds(void); /* monotonic */

#endif
