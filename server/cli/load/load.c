/* tnl load: ask a server for many answers at a time, and measure them. */
#include "server/cli/load/load.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "server/cli/cli.h"
#include "server/cli/client/client_key.h"

typedef struct settings {
    cli_client_opts client;
    int dialect;
    int64_t clients, connections, requests, warmup, max_tokens, prefix_words, prefixes;
    double rate, seconds, cancel, temperature;
    const char *words, *prompts, *model, *csv, *plot;
    bool json, ignore_eos;
    uint64_t seed;
    cli_list sweep;
} settings;

#define INTEGER(member, lo, hi, preset)                                                            \
    .type = CLI_INT, .offset = offsetof(settings, member), .min = lo, .max = hi, .dflt = preset,   \
    .arg = "N"
#define REAL(member, lo, hi, preset, word)                                                         \
    .type = CLI_REAL, .offset = offsetof(settings, member), .min = lo, .max = hi, .dflt = preset,  \
    .arg = word
#define TEXT(member, word) .type = CLI_STRING, .offset = offsetof(settings, member), .arg = word
#define BOOL(member) .type = CLI_BOOL, .offset = offsetof(settings, member)

/* clang-format off */
static const cli_opt rows[] = {
    {.help = "Load (closed loop, unless --rate is given):"},
    {.flag = "clients", .letter = 'c', INTEGER(clients, 1, CLI_LOAD_MAX_CLIENTS, "4"),
     .help = "closed loop: so many clients, each sends its next request when it has its answer"},
    {.flag = "rate", .letter = 'r', REAL(rate, 0, 1e6, "0", "R"),
     .help = "open loop: R requests a second on average, at random times (Poisson), however slow the answers are"},
    {.flag = "connections", INTEGER(connections, 1, CLI_LOAD_MAX_CLIENTS, "1024"),
     .help = "open loop: requests in flight at most; one that is due while all are taken waits here, and the wait counts"},
    {.flag = "requests", .letter = 'n', INTEGER(requests, 0, 1e12, "0"),
     .help = "stop after so many; 100 if --seconds is not given either"},
    {.flag = "seconds", .letter = 's', REAL(seconds, 0, 1e7, "0", "S"),
     .help = "begin no request after so long; those under way are awaited, those still due are counted"},
    {.flag = "warmup", INTEGER(warmup, 0, 1e6, "0"), .help = "requests before the measurement"},
    {.flag = "cancel", REAL(cancel, 0, 1, "0", "SHARE"),
     .help = "share of the requests (0..1) whose client leaves midway, after a random number of tokens"},
    {.flag = "sweep", .type = CLI_INT_LIST, .offset = offsetof(settings, sweep), .min = 1, .max = CLI_LOAD_MAX_CLIENTS,
     .arg = "1,2,4", .help = "a closed-loop run for each number of clients, a row each"},
    {.flag = "seed", .type = CLI_U64, .offset = offsetof(settings, seed), .dflt = "1", .arg = "N",
     .help = "of prompts, arrivals and cancellations: the same seed asks for the same"},
    {.help = "Requests:"},
    {.flag = "dialect", .letter = 'd', .type = CLI_CHOICE, .offset = offsetof(settings, dialect),
     .choices = cli_dialect_names, .dflt = "generate",
     .help = "/generate of tnl, /v1/completions or /v1/chat/completions of any server"},
    {.flag = "model", TEXT(model, "NAME"), .help = "model to name; default: the first of /v1/models"},
    {.flag = "max-tokens", INTEGER(max_tokens, 1, 1e6, "64"), .help = "tokens of an answer at most"},
    {.flag = "ignore-eos", BOOL(ignore_eos), .help = "ask for answers of full length (tnl, vLLM)"},
    {.flag = "temperature", REAL(temperature, 0, 100, NULL, "T"), .help = "default: the server's"},
    {.help = "Prompts:"},
    {.flag = "prompt-words", TEXT(words, "N|A..B"), .dflt = "64",
     .help = "random words, a fixed number or uniform from A to B; the server counts the tokens"},
    {.flag = "prompts", TEXT(prompts, "FILE"),
     .help = "prompts from a file in turn instead: one a line, or {\"prompt\": \"...\"} a line"},
    {.flag = "prefix-words", INTEGER(prefix_words, 0, 1e6, "0"), .help = "words in front that requests share"},
    {.flag = "prefixes", INTEGER(prefixes, 1, 1e6, "1"), .help = "number of different shared beginnings"},
    {.help = "Output:"},
    {.flag = "json", BOOL(json), .help = "a line of JSON for each run, instead of tables"},
    {.flag = "csv", TEXT(csv, "FILE"), .help = "raw samples: a row for each request"},
    {.flag = "plot", TEXT(plot, "FILE.svg"), .help = "distributions, and time to first token over the run"},
    {.help = "Connection:"},
    CLI_CLIENT_ROWS(settings, client),
    {.flag = "request-seconds", REAL(client.whole, 0, 1e6, "0", "S"), .help = "give up on an answer after so long; 0: never"},
};
/* clang-format on */

static const cli_spec spec = {
    .name = "tnl load",
    .args = "URL",
    .about = "Put load on a server and measure what its users would see. URL is http://HOST:PORT,\n"
             "https://HOST or unix:PATH[:/BASE].",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .min_args = 1,
    .max_args = 1,
    .examples = "  tnl load http://127.0.0.1:8080 --clients 8 --seconds 30\n"
                "  tnl load http://127.0.0.1:8080 --rate 5 -n 500 --plot load.svg --csv load.csv\n"
                "  tnl load http://127.0.0.1:8000 -d completions --sweep 1,2,4,8,16 --ignore-eos\n",
    .notes =
        "What the times mean. In the open loop every time counts from when a request was due, not\n"
        "from when it could be sent: a server that stalls delays requests that nobody has sent\n"
        "yet, and leaving those out would flatter it (coordinated omission). The closed loop\n"
        "cannot show this: its clients wait with the server. Use it for throughput, the open loop\n"
        "for latency. Tokens that arrive together have gaps of zero. Percentiles are right to\n"
        "0.4%. OpenAI servers are taken to send a token a chunk until their usage says better.\n"
        "A second run with the same seed may find its prompts in the server's prefix cache.\n"
        "Ctrl-C ends the run and prints what was measured. If no request was answered, the exit\n"
        "code is 69.\n",
};

/* Set by the signal handler, read by the loop. */
static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig) {
    (void)sig;
    interrupted = 1;
}

static tnl_status check(settings *o, const cli_args *a, tnl_error *err) {
    bool clients = cli_source_of(a, &spec, "clients") != CLI_FROM_DEFAULT;
    if (o->rate > 0 && (clients || o->sweep.n))
        return tnl_fail(err, TNL_E_USAGE,
                        "--rate is the open loop: it takes --connections, not "
                        "--clients or --sweep");
    if (o->sweep.n && (o->plot || o->csv))
        return tnl_fail(err, TNL_E_USAGE, "--plot and --csv are of one run, --sweep makes several");
    if (o->prompts && cli_source_of(a, &spec, "prompt-words") != CLI_FROM_DEFAULT)
        return tnl_fail(err, TNL_E_USAGE, "give one of --prompts, --prompt-words");
    if (o->requests == 0 && o->seconds <= 0)
        o->requests = 100;
    return TNL_OK;
}

static tnl_status fill_prompts(cli_prompts *p, const settings *o, tnl_error *err) {
    *p = (cli_prompts){.prefix_words = o->prefix_words, .prefixes = o->prefixes, .seed = o->seed};
    TNL_TRY(cli_prompts_range(&p->least, &p->most, o->words, err));
    return o->prompts ? cli_prompts_file(p, o->prompts, err) : TNL_OK;
}

static tnl_status open_file(FILE **f, const char *path, tnl_error *err) {
    if (path && !(*f = fopen(path, "we")))
        return tnl_fail(err, TNL_E_IO, "%s: %s", path, strerror(errno));
    return TNL_OK;
}

static tnl_status close_file(FILE **f, const char *path, tnl_error *err) {
    bool bad = *f && ferror(*f);
    if (*f)
        bad = fclose(*f) != 0 || bad;
    *f = NULL;
    return bad ? tnl_fail(err, TNL_E_IO, "%s: cannot be written", path) : TNL_OK;
}

/* A descriptor for each connection, and some. */
static void raise_file_limit(int64_t clients) {
    struct rlimit r;
    rlim_t want = (rlim_t)clients + 64;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur >= want)
        return;
    r.rlim_cur = r.rlim_max < want ? r.rlim_max : want;
    setrlimit(RLIMIT_NOFILE, &r); /* if it does not help, connections fail and are counted */
}

typedef struct job {
    const settings *o;
    cli_load_plan plan;
    cli_prompts prompts;
    cli_client *client;
    cli_load_stats *stats;
    char *model;
    char extra[128];
    FILE *csv, *plot;
    const char *url;
} job;

static tnl_status find_model(job *j, tnl_error *err) {
    char *text = NULL;
    size_t n = 0;
    j->plan.model = j->o->model;
    if (j->o->model || !cli_dialects[j->o->dialect].named)
        return TNL_OK;
    TNL_TRY(cli_client_get(j->client, "/v1/models", &text, &n, err));
    tnl_status s = cli_model_name(&j->model, NULL, text, n, err);
    free(text);
    j->plan.model = j->model;
    return s;
}

static void fill_plan(job *j, bool has_temperature) {
    const settings *o = j->o;
    char heat[48] = "";
    if (has_temperature)
        snprintf(heat, sizeof heat, ",\"temperature\":%.9g", o->temperature);
    snprintf(j->extra, sizeof j->extra, "%s%s", heat, o->ignore_eos ? ",\"ignore_eos\":true" : "");
    j->plan = (cli_load_plan){.client = j->client,
                              .dialect = (cli_dialect_id)o->dialect,
                              .extra = j->extra,
                              .prompts = &j->prompts,
                              .max_tokens = o->max_tokens,
                              .clients = o->rate > 0 ? o->connections : o->clients,
                              .rate = o->rate,
                              .requests = o->requests,
                              .seconds = o->seconds,
                              .cancel = o->cancel,
                              .seed = o->seed,
                              .csv = j->csv,
                              .progress = isatty(STDERR_FILENO) == 1,
                              .stop = &interrupted};
}

/* Other prompts than those of the run, so that no cache knows these. */
static tnl_status warm_up(job *j, tnl_error *err) {
    cli_load_plan p = j->plan;
    if (j->o->warmup == 0)
        return TNL_OK;
    p.requests = j->o->warmup;
    p.first = UINT64_C(1) << 40;
    p.rate = p.seconds = p.cancel = 0;
    p.clients = j->o->rate > 0 ? 4 : p.clients;
    p.csv = NULL;
    return cli_load_run(j->stats, &p, err);
}

static tnl_status report(job *j, tnl_error *err) {
    const cli_load_stats *s = j->stats;
    if (j->o->json)
        cli_load_json(stdout, &j->plan, s);
    else if (j->o->sweep.n)
        cli_load_sweep_row(stdout, &j->plan, s);
    else
        cli_load_table(stdout, &j->plan, s);
    if (s->ok + s->cancelled == 0 && s->failed)
        return tnl_fail(err, TNL_E_UNAVAILABLE, "no request was answered; %s: %s",
                        s->errors[0].label, s->errors[0].message);
    return TNL_OK;
}

static tnl_status run_all(job *j, tnl_error *err) {
    const cli_list *sweep = &j->o->sweep;
    TNL_TRY(warm_up(j, err));
    if (sweep->n == 0) {
        TNL_TRY(cli_load_run(j->stats, &j->plan, err));
        return report(j, err);
    }
    if (!j->o->json)
        cli_load_sweep_head(stdout);
    for (int i = 0; i < sweep->n && !interrupted; i++) {
        j->plan.clients = sweep->v[i];
        TNL_TRY(cli_load_run(j->stats, &j->plan, err));
        TNL_TRY(report(j, err));
        j->plan.first += j->stats->started; /* no run repeats the prompts of another */
    }
    return TNL_OK;
}

static tnl_status draw(job *j, tnl_error *err) {
    char title[200];
    snprintf(title, sizeof title, "tnl load %.80s: %s, %.1f tokens/s", j->url,
             cli_dialects[j->plan.dialect].path,
             j->stats->seconds > 0 ? (double)j->stats->tokens / j->stats->seconds : 0);
    if (j->plot)
        cli_load_plot(j->plot, title, j->stats);
    TNL_TRY(close_file(&j->plot, j->o->plot, err));
    return close_file(&j->csv, j->o->csv, err);
}

static tnl_status load(job *j, bool has_temperature, tnl_error *err) {
    const settings *o = j->o;
    TNL_TRY(fill_prompts(&j->prompts, o, err));
    if (!(j->stats = calloc(1, sizeof *j->stats)))
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    TNL_TRY(cli_client_open(&j->client, j->url, &o->client, err));
    TNL_TRY(open_file(&j->csv, o->csv, err));
    TNL_TRY(open_file(&j->plot, o->plot, err));
    if (j->csv)
        cli_load_csv_head(j->csv);
    fill_plan(j, has_temperature);
    TNL_TRY(find_model(j, err));
    raise_file_limit(CLI_LOAD_MAX_CLIENTS);
    struct sigaction act = {.sa_handler = on_interrupt,
                            .sa_flags = (int)(SA_RESETHAND | SA_RESTART)};
    sigaction(SIGINT, &act, NULL); /* a second Ctrl-C kills */
    tnl_status s = run_all(j, err), drawn = draw(j, s == TNL_OK ? err : NULL);
    return s == TNL_OK ? drawn : s;
}

static void job_clear(job *j) {
    cli_client_close(j->client);
    cli_prompts_free(&j->prompts);
    free(j->stats);
    free(j->model);
    if (j->csv)
        fclose(j->csv);
    if (j->plot)
        fclose(j->plot);
}

int cli_load(int argc, char **argv) {
    settings o;
    cli_args a;
    int code;
    tnl_error err = {0};
    if (cli_begin(&a, &spec, &o, argc, argv, &code)) {
        job j = {.o = &o, .url = a.v[0]};
        tnl_status s = check(&o, &a, &err);
        bool heat = cli_source_of(&a, &spec, "temperature") != CLI_FROM_DEFAULT;
        if (s == TNL_OK && !cli_is_url(j.url))
            s = tnl_fail(&err, TNL_E_USAGE, "\"%.80s\" is no URL: http://, https:// or unix:PATH",
                         j.url);
        if (s == TNL_OK)
            s = load(&j, heat, &err);
        if (s != TNL_OK)
            code = cli_report(&spec, s, &err);
        job_clear(&j);
    }
    cli_args_clear(&a);
    return code;
}
