/* tnl eval: how well a model predicts a text file. The file is one sequence; the state is carried
 * over the steps, so every token is predicted from everything before it. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/forward.h"
#include "server/cli/cli.h"
#include "server/cli/progress.h"

typedef struct settings {
    cli_model_opts model;
    bool json, ids;
} settings;

static const cli_opt rows[] = {
    {.flag = "json",
     .type = CLI_BOOL,
     .offset = offsetof(settings, json),
     .help = "one JSON object instead of lines"},
    {.flag = "ids",
     .type = CLI_BOOL,
     .offset = offsetof(settings, ids),
     .help = "the file holds token ids, 1,2,3 or 1 2 3, instead of text"},
    CLI_MODEL_ROWS(settings, model),
};

static const cli_spec spec = {
    .name = "tnl eval",
    .args = "MODEL_DIR FILE.txt",
    .about = "Perplexity and bits per byte of a text: lower is better. The text is one sequence;\n"
             "its tokens from the second on are predicted, each from all before it.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .min_args = 2,
    .max_args = 2,
    .examples = "  tnl eval configs/tales story.txt\n"
                "  tnl eval configs/tales - --json < story.txt\n",
};

typedef struct eval {
    mdl_model *model;
    const tok_model *tok;
    mdl_ctx *ctx;
    mdl_state *state;
    char *text;
    size_t n_bytes; /* of text; 0: token ids were given */
    int32_t *ids;
    size_t n_ids;
    double nll, seconds; /* nats */
} eval;

/* -log softmax(row)[id], summed in double. */
static double token_nll(const float *row, int64_t vocab, int32_t id) {
    float top = row[0];
    for (int64_t i = 1; i < vocab; i++)
        top = row[i] > top ? row[i] : top;
    double sum = 0;
    for (int64_t i = 0; i < vocab; i++)
        sum += exp((double)row[i] - (double)top);
    return log(sum) + (double)top - (double)row[id];
}

/* Rows of logits dominate the working memory: 32 MiB of them, at least 16 tokens a step. */
static int64_t step_tokens(const mdl_spec *s) {
    int64_t n = (INT64_C(32) << 20) / (s->vocab * (int64_t)sizeof(float));
    return n < 16 ? 16 : n > 256 ? 256 : n;
}

static tnl_status run_steps(eval *e, tnl_error *err) {
    int64_t vocab = mdl_model_spec(e->model)->vocab;
    int64_t step = step_tokens(mdl_model_spec(e->model));
    int64_t last = (int64_t)e->n_ids - 1; /* the last token is predicted, never fed */
    cli_progress bar;
    cli_progress_begin(&bar, "evaluating", "tokens", 1);
    for (int64_t at = 0; at < last;) {
        int64_t n = last - at < step ? last - at : step;
        mdl_seg seg = {
            .state = e->state, .tokens = e->ids + at, .n_tokens = n, .want = MDL_WANT_ALL};
        TNL_TRY(mdl_forward(e->ctx, &seg, 1, err));
        if (seg.nonfinite)
            return tnl_fail(err, TNL_E_NONFINITE,
                            "logits are not finite in tokens %" PRId64 "..%" PRId64, at,
                            at + n - 1);
        for (int64_t i = 0; i < n; i++)
            e->nll += token_nll(seg.logits + i * vocab, vocab, e->ids[at + i + 1]);
        at += n;
        cli_progress_update(&bar, (uint64_t)at, (uint64_t)last);
    }
    cli_progress_end(&bar);
    e->seconds = cli_now() - bar.started;
    return TNL_OK;
}

static tnl_status read_ids(eval *e, const char *path, tnl_error *err) {
    const int64_t vocab = mdl_model_spec(e->model)->vocab;
    if (strlen(e->text) != e->n_bytes)
        return tnl_fail(err, TNL_E_DATA, "%s: found a zero byte, expected token ids", path);
    TNL_TRY(cli_parse_ids(e->text, &e->ids, &e->n_ids, err));
    for (size_t i = 0; i < e->n_ids; i++)
        if (e->ids[i] >= vocab)
            return tnl_fail(err, TNL_E_DATA, "%s: entry %zu: found token %d, expected 0..%lld",
                            path, i, (int)e->ids[i], (long long)vocab - 1);
    e->n_bytes = 0;
    return TNL_OK;
}

static tnl_status read_tokens(eval *e, bool ids, char const *const *operand, tnl_error *err) {
    if (ids)
        return read_ids(e, operand[1], err);
    TNL_TRY(cli_open_tokenizer(&e->tok, operand[0], e->model, err));
    return cli_encode(e->tok, mdl_model_spec(e->model), e->text, e->n_bytes, &e->ids, &e->n_ids,
                      err);
}

static tnl_status evaluate(eval *e, const settings *o, char const *const *operand, tnl_error *err) {
    TNL_TRY(cli_read_file(operand[1], &e->text, &e->n_bytes, err));
    TNL_TRY(cli_open_model(&e->model, &o->model, operand[0], err));
    TNL_TRY(read_tokens(e, o->ids, operand, err));
    const mdl_spec *s = mdl_model_spec(e->model);
    if (e->n_ids < 2)
        return tnl_fail(err, TNL_E_DATA, "%s: %zu tokens, expected at least 2", operand[1],
                        e->n_ids);
    TNL_TRY(mdl_ctx_open(&e->ctx, e->model, step_tokens(s), step_tokens(s), err));
    e->state = mdl_state_new(e->model);
    if (!e->state)
        return tnl_fail(err, TNL_E_NOMEM, "no memory for a state of %zu bytes",
                        mdl_state_bytes(e->model));
    return run_steps(e, err);
}

static void print_result(const eval *e, const settings *o) {
    double predicted = (double)(e->n_ids - 1);
    double ppl = exp(e->nll / predicted), bits = e->nll / log(2.0);
    const char *weights = kn_dtypes[mdl_model_weights(e->model)->dtype].name;
    if (o->json) {
        printf("{\"weights\":\"%s\",\"tokens\":%zu,\"predicted\":%zu,", weights, e->n_ids,
               e->n_ids - 1);
        if (e->n_bytes > 0)
            printf("\"bytes\":%zu,\"bits_per_byte\":%.9g,", e->n_bytes, bits / (double)e->n_bytes);
        printf("\"nll\":%.17g,\"perplexity\":%.9g,\"bits_per_token\":%.9g,\"tokens_per_s\":%.2f}\n",
               e->nll, ppl, bits / predicted, predicted / e->seconds);
        return;
    }
    printf("weights         %s\ntokens          %zu", weights, e->n_ids);
    if (e->n_bytes > 0)
        printf(" (%.2f bytes each)", (double)e->n_bytes / (double)e->n_ids);
    printf("\nperplexity      %.4f\n", ppl);
    if (e->n_bytes > 0)
        printf("bits per byte   %.5f\n", bits / (double)e->n_bytes);
    printf("speed           %.0f tokens/s\n", predicted / e->seconds);
}

int cli_eval(int argc, char **argv) {
    settings o;
    cli_args a;
    int code;
    if (cli_begin(&a, &spec, &o, argc, argv, &code)) {
        eval e = {0};
        tnl_error err = {0};
        tnl_status s = evaluate(&e, &o, a.v, &err);
        if (s == TNL_OK)
            print_result(&e, &o);
        else
            code = cli_report(&spec, s, &err);
        if (e.model)
            mdl_state_free(e.model, e.state);
        mdl_ctx_close(e.ctx);
        cli_close_tokenizer(e.tok);
        mdl_close(e.model);
        free(e.text);
        free(e.ids);
    }
    cli_args_clear(&a);
    return code;
}
