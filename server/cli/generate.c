/* tnl generate: one prompt through the same engine that serves, printed as it arrives. */
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/cli/cli.h"
#include "server/cli/sampling.h"
#include "server/cli/progress.h"

typedef struct settings {
    cli_model_opts model;
    const char *prompt, *prompt_file, *tokens;
    bool stream, json, verbose, echo, ignore_eos;
    int64_t n, speculate;
    cli_sampling sampling;
    double typical_p;
    uint64_t seed;
    cli_strings stop, bias;
} settings;

#define AT(field) .offset = offsetof(settings, field)

static const cli_opt rows[] = {
    {.help = "Prompt (one of):"},
    {.flag = "prompt",
     .letter = 'p',
     .type = CLI_STRING,
     AT(prompt),
     .arg = "TEXT",
     .help = "the text to continue"},
    {.flag = "prompt-file",
     .letter = 'f',
     .type = CLI_STRING,
     AT(prompt_file),
     .arg = "FILE",
     .help = "the same from a file, \"-\" for standard input"},
    {.flag = "tokens", .type = CLI_STRING, AT(tokens), .arg = "1,2,3", .help = "token ids"},
    {.help = "Output:"},
    {.flag = "max-tokens",
     .letter = 'n',
     .type = CLI_INT,
     AT(n),
     .min = 0,
     .max = 1e6,
     .dflt = "256",
     .arg = "N",
     .help = "tokens to generate at most"},
    {.flag = "stream",
     .type = CLI_BOOL,
     AT(stream),
     .help = "print each token as it arrives; the default on a terminal, --no-stream: all at the "
             "end"},
    {.flag = "echo", .type = CLI_BOOL, AT(echo), .help = "print the prompt first"},
    {.flag = "json", .type = CLI_BOOL, AT(json), .help = "one JSON object at the end"},
    {.flag = "verbose",
     .letter = 'v',
     .type = CLI_BOOL,
     AT(verbose),
     .help = "counts and speed on standard error"},
    {.help = "Sampling:"},
    CLI_SAMPLING_ROWS(settings, sampling),
    {.flag = "typical-p",
     .type = CLI_REAL,
     AT(typical_p),
     .min = 1e-9,
     .max = 1,
     .dflt = "1",
     .arg = "P",
     .help = "locally typical sampling; 1: off"},
    {.flag = "logit-bias",
     .type = CLI_STRINGS,
     AT(bias),
     .arg = "ID:X",
     .help = "add X (-100..100) to a token's logit; may be repeated"},
    {.flag = "seed",
     .type = CLI_U64,
     AT(seed),
     .arg = "N",
     .help = "the same seed gives the same text; drawn when absent"},
    {.flag = "stop",
     .type = CLI_STRINGS,
     AT(stop),
     .arg = "TEXT",
     .help = "end before this text; may be repeated"},
    {.flag = "ignore-eos",
     .type = CLI_BOOL,
     AT(ignore_eos),
     .help = "go on after the end-of-text token"},
    {.help = "Speed:"},
    {.flag = "speculate",
     .type = CLI_INT,
     AT(speculate),
     .min = 0,
     .max = ENG_SPECULATE_MAX,
     .dflt = "15",
     .arg = "N",
     .help = "tokens guessed ahead from earlier text; the output is the same; 0: none"},
    {.help = "Model:"},
    CLI_MODEL_ROWS(settings, model),
};

static const cli_spec spec = {
    .name = "tnl generate",
    .args = "MODEL_DIR",
    .about = "Continue a prompt; the text arrives token by token. Ctrl-C ends it early.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .min_args = 1,
    .max_args = 1,
    .examples = "  tnl generate configs/tales -p 'Once upon a time' -n 100 --seed 7\n"
                "  tnl generate configs/tales -f story.txt --temperature 0.8 --top-p 0.95 -v\n",
};

/* ---- settings to engine parameters ---- */

static tnl_status add_stop(eng_params *p, const char *text, tnl_error *err) {
    size_t n = strlen(text);
    if (n == 0 || n > ENG_MAX_STOP_BYTES)
        return tnl_fail(err, TNL_E_USAGE, "--stop: %zu bytes, expected 1..%d", n,
                        ENG_MAX_STOP_BYTES);
    memcpy(p->stop[p->n_stop++], text, n + 1);
    return TNL_OK;
}

static tnl_status add_bias(eng_params *p, const char *text, tnl_error *err) {
    char *colon, *end;
    long id = strtol(text, &colon, 10);
    double x = *colon == ':' ? strtod(colon + 1, &end) : 0;
    if (colon == text || *colon != ':' || end == colon + 1 || *end || id < 0 || id > INT32_MAX ||
        !(x >= -100 && x <= 100))
        return tnl_fail(err, TNL_E_USAGE, "--logit-bias: \"%.64s\" is not ID:X with X in -100..100",
                        text);
    p->bias_id[p->n_bias] = (int32_t)id;
    p->bias[p->n_bias++] = (float)x;
    return TNL_OK;
}

static tnl_status fill_params(eng_params *p, const settings *o, bool has_seed, tnl_error *err) {
    eng_params_default(p);
    p->max_tokens = o->n;
    cli_set_sampling(p, &o->sampling);
    p->typical_p = (float)o->typical_p;
    p->seed = o->seed;
    p->has_seed = has_seed;
    p->ignore_eos = o->ignore_eos;
    for (int i = 0; i < o->stop.n; i++)
        TNL_TRY(add_stop(p, o->stop.v[i], err));
    for (int i = 0; i < o->bias.n; i++)
        TNL_TRY(add_bias(p, o->bias.v[i], err));
    return TNL_OK;
}

/* ---- the run ---- */

typedef struct run {
    const settings *o;
    mdl_model *model;
    const tok_model *tok;
    eng_engine *engine;
    eng_request *request;
    char *text; /* the prompt, when it is text */
    int32_t *ids;
    size_t n_ids;
    char *answer;
    size_t answer_len, answer_cap;
    int32_t *out_ids;
    float *out_logprobs;
    size_t n_out, cap_out;
    eng_event done;
} run;

/* Set by the signal handler, read by the loop. */
static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig) {
    (void)sig;
    interrupted = 1;
}

static tnl_status read_prompt(run *r, const char *dir, tnl_error *err) {
    const settings *o = r->o;
    int given = !!o->prompt + !!o->prompt_file + !!o->tokens;
    if (given != 1)
        return tnl_fail(err, TNL_E_USAGE, "give one of --prompt, --prompt-file, --tokens");
    if (o->tokens) {
        TNL_TRY(cli_parse_ids(o->tokens, &r->ids, &r->n_ids, err));
        tnl_error ignored; /* text beside the ids is a courtesy: v3 folders have no tokenizer */
        (void)cli_open_tokenizer(&r->tok, dir, r->model, &ignored);
        return TNL_OK;
    }
    size_t n = 0;
    if (o->prompt_file)
        TNL_TRY(cli_read_file(o->prompt_file, &r->text, &n, err));
    else if (!(r->text = strdup(o->prompt)))
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    n = o->prompt_file ? n : strlen(r->text);
    TNL_TRY(cli_open_tokenizer(&r->tok, dir, r->model, err));
    TNL_TRY(cli_encode(r->tok, mdl_model_spec(r->model), r->text, n, &r->ids, &r->n_ids, err));
    if (o->echo && !o->json)
        fwrite(r->text, 1, n, stdout);
    return TNL_OK;
}

/* Room for `more` beyond `used` elements; NULL when there is none (the old block stays). */
static void *grow(void *p, size_t *cap, size_t used, size_t more, size_t elem) {
    if (used + more <= *cap)
        return p;
    size_t want = (used + more) * 2;
    void *q = realloc(p, want * elem);
    if (q)
        *cap = want;
    return q;
}

static tnl_status keep_text(run *r, const eng_event *ev, tnl_error *err) {
    char *text = grow(r->answer, &r->answer_cap, r->answer_len, ev->text_len + 1, 1);
    if (!text)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    r->answer = text;
    if (ev->text_len)
        memcpy(r->answer + r->answer_len, ev->text, ev->text_len);
    r->answer_len += ev->text_len;
    return TNL_OK;
}

static tnl_status keep_token(run *r, const eng_event *ev, tnl_error *err) {
    size_t cap = r->cap_out;
    int32_t *ids = grow(r->out_ids, &cap, r->n_out, 1, sizeof *ids);
    if (ids)
        r->out_ids = ids;
    float *lp = ids ? grow(r->out_logprobs, &r->cap_out, r->n_out, 1, sizeof *lp) : NULL;
    if (!lp)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    r->out_logprobs = lp;
    r->out_ids[r->n_out] = ev->id;
    r->out_logprobs[r->n_out++] = ev->logprob;
    return TNL_OK;
}

static tnl_status take_token(run *r, const eng_event *ev, tnl_error *err) {
    if (r->o->json)
        TNL_TRY(keep_token(r, ev, err));
    if (!r->o->stream || r->o->json)
        return r->tok || r->o->json ? keep_text(r, ev, err)
                                    : (printf("%s%d", ev->index ? " " : "", ev->id), TNL_OK);
    if (r->tok)
        fwrite(ev->text, 1, ev->text_len, stdout);
    else
        printf("%s%d", ev->index ? " " : "", ev->id);
    if (fflush(stdout))
        return tnl_fail(err, TNL_E_IO, "cannot write standard output");
    return TNL_OK;
}

/* Events until DONE. A failure of ours cancels the request; its DONE still follows. */
static tnl_status follow(run *r, tnl_error *err) {
    tnl_status s = TNL_OK;
    bool cancelled = false;
    for (;;) {
        eng_event ev;
        if ((interrupted || s != TNL_OK) && !cancelled) {
            eng_request_cancel(r->request);
            cancelled = true;
        }
        if (!eng_request_wait(r->request, &ev, 100))
            continue;
        if (ev.kind == ENG_EV_DONE) {
            s = s == TNL_OK ? keep_text(r, &ev, err) : s; /* what a stop string held back */
            if (s == TNL_OK && r->o->stream && !r->o->json && r->tok)
                fwrite(ev.text, 1, ev.text_len, stdout);
            r->done = ev;
            r->done.text = NULL;
            eng_event_clear(&ev);
            return s;
        }
        if (s == TNL_OK)
            s = take_token(r, &ev, err);
        eng_event_clear(&ev);
    }
}

static double per_second(int64_t n, double ms) {
    return ms > 0 ? 1000.0 * (double)n / ms : 0;
}

static void print_json(const run *r) {
    fputs("{\"text\":", stdout);
    cli_json_string(stdout, r->answer, r->answer_len);
    fputs(",\"tokens\":[", stdout);
    for (size_t i = 0; i < r->n_out; i++)
        printf("%s{\"id\":%d,\"logprob\":%.9g}", i ? "," : "", r->out_ids[i],
               (double)r->out_logprobs[i]);
    const eng_event *d = &r->done;
    printf("],\"finish_reason\":\"%s\",\"usage\":{\"prompt_tokens\":%" PRId64
           ",\"completion_tokens\":%" PRId64 "},\"timings\":{\"queue_ms\":%.3f,\"prefill_ms\":%.3f,"
           "\"decode_ms\":%.3f,\"prefill_tokens_per_s\":%.2f,\"decode_tokens_per_s\":%.2f}}\n",
           eng_finish_names[d->finish], d->prompt_tokens, d->completion_tokens, d->queue_ms,
           d->prefill_ms, d->decode_ms, per_second(d->prompt_tokens, d->prefill_ms),
           per_second(d->completion_tokens, d->decode_ms));
}

static void print_end(const run *r) {
    const eng_event *d = &r->done;
    if (r->o->json) {
        print_json(r);
    } else {
        if (!r->o->stream && r->tok)
            fwrite(r->answer, 1, r->answer_len, stdout);
        putchar('\n');
    }
    fflush(stdout);
    if (r->o->verbose)
        fprintf(stderr,
                "prompt: %" PRId64 " tokens, %.1f ms, %.1f tokens/s\n"
                "output: %" PRId64 " tokens, %.1f ms, %.1f tokens/s, ended by %s\n",
                d->prompt_tokens, d->prefill_ms, per_second(d->prompt_tokens, d->prefill_ms),
                d->completion_tokens, d->decode_ms, per_second(d->completion_tokens, d->decode_ms),
                eng_finish_names[d->finish]);
}

static tnl_status submit(run *r, const eng_params *params, tnl_error *err) {
    if (r->n_ids == 0)
        return tnl_fail(err, TNL_E_USAGE, "the prompt is empty");
    eng_open_params p;
    eng_open_params_default(&p);
    p.model = r->model;
    p.tokenizer = r->tok;
    p.parallel = 1;
    p.queue = 1;
    p.speculate = (int)r->o->speculate;
    p.prefix_cache = 0; /* there is one request */
    TNL_TRY(eng_open(&r->engine, &p, err));
    eng_job job = {.tokens = r->ids, .n_tokens = r->n_ids, .params = params};
    return eng_submit(&r->request, r->engine, &job, err);
}

static tnl_status generate(run *r, const char *dir, const eng_params *params, tnl_error *err) {
    TNL_TRY(cli_open_model(&r->model, &r->o->model, dir, err));
    TNL_TRY(read_prompt(r, dir, err));
    TNL_TRY(submit(r, params, err));
    struct sigaction act = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &act, NULL); /* a second Ctrl-C kills */
    TNL_TRY(follow(r, err));
    print_end(r);
    if (r->done.finish == ENG_FINISH_ERROR)
        return tnl_fail(err, r->done.error, "generation stopped after %" PRId64 " tokens: %s",
                        r->done.completion_tokens, tnl_status_str(r->done.error));
    return TNL_OK;
}

static void run_clear(run *r) {
    if (r->request)
        eng_request_release(r->request);
    eng_close(r->engine);
    cli_close_tokenizer(r->tok);
    mdl_close(r->model);
    free(r->text);
    free(r->ids);
    free(r->answer);
    free(r->out_ids);
    free(r->out_logprobs);
}

int cli_generate(int argc, char **argv) {
    settings o;
    cli_args a;
    int code;
    tnl_error err = {0};
    if (!cli_begin(&a, &spec, &o, argc, argv, &code)) {
        cli_args_clear(&a);
        return code;
    }
    if (cli_source_of(&a, &spec, "stream") == CLI_FROM_DEFAULT)
        o.stream = isatty(STDOUT_FILENO) == 1;
    run r = {.o = &o};
    eng_params *params = calloc(1, sizeof *params);
    bool has_seed = cli_source_of(&a, &spec, "seed") != CLI_FROM_DEFAULT;
    tnl_status s = params ? fill_params(params, &o, has_seed, &err)
                          : tnl_fail(&err, TNL_E_NOMEM, "out of memory");
    if (s == TNL_OK)
        s = generate(&r, a.v[0], params, &err);
    code = s == TNL_OK ? 0 : cli_report(&spec, s, &err);
    free(params);
    run_clear(&r);
    cli_args_clear(&a);
    return code;
}
