/* tnl chat: a conversation in the terminal, with a model here or a server there. */
#include "server/cli/chat/chat.h"

#include <string.h>

#include "server/cli/client/client_key.h"

#define AT(member) .offset = offsetof(cli_chat_settings, member)
#define INTEGER(member, lo, hi, preset)                                                            \
    .type = CLI_INT, AT(member), .min = lo, .max = hi, .dflt = preset, .arg = "N"

/* clang-format off */
static const cli_opt rows[] = {
    {.help = "Conversation:"},
    {.flag = "system", .type = CLI_STRING, AT(system), .arg = "TEXT", .help = "system message"},
    {.flag = "plain", .type = CLI_BOOL, AT(plain),
     .help = "no turns: what you write and what comes back is one text, for base models; the "
             "default for a folder, or a server of ours, without a chat template (--no-plain: turns)"},
    {.flag = "chat-template", .type = CLI_STRING, AT(template_name), .arg = "NAME",
     .help = "MODEL_DIR: plain, transnormer, chatml, llama-2, llama-3, zephyr, vicuna or alpaca; "
             "default: as tokenizer_config.json says"},
    {.flag = "model", .type = CLI_STRING, AT(model_name), .arg = "NAME",
     .help = "URL: model to name; default: the first of /v1/models"},
    {.flag = "stats", .type = CLI_BOOL, AT(stats), .help = "tokens and speed after each answer, on standard error"},
    {.help = "Sampling (/set changes these; a server's defaults stand for what is not given):"},
    {.flag = "max-tokens", .letter = 'n', INTEGER(max_tokens, 1, 1e6, "1024"), .help = "tokens of an answer at most"},
    CLI_SAMPLING_ROWS(cli_chat_settings, sampling),
    {.flag = "seed", .type = CLI_U64, AT(seed), .arg = "N", .help = "the same seed gives the same answer; drawn when absent"},
    {.flag = "ignore-eos", .type = CLI_BOOL, AT(ignore_eos), .help = "go on after the end-of-text token"},
    {.help = "MODEL_DIR:"},
    CLI_MODEL_ROWS(cli_chat_settings, model),
    {.flag = "prefix-cache-mb", INTEGER(prefix_cache_mb, 0, 16777216, "256"),
     .help = "MiB for states of what was read, so that a turn reads only what is new"},
    {.help = "URL:"},
    CLI_CLIENT_ROWS(cli_chat_settings, client),
};
/* clang-format on */

static const cli_spec spec = {
    .name = "tnl chat",
    .args = "MODEL_DIR|URL",
    .about = "Talk with a model: one in a folder, or one that a server has (ours, or any with\n"
             "OpenAI's /v1/chat/completions): http://HOST:PORT, https://HOST or unix:PATH[:/BASE].",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .min_args = 1,
    .max_args = 1,
    .examples = "  tnl chat configs/tales\n"
                "  tnl chat http://127.0.0.1:8080 --system 'Answer in one sentence.'\n"
                "  echo 'Once upon a time' | tnl chat configs/tales -n 60 --seed 7\n",
    .notes =
        "Lines that begin with / are commands; /help lists them. In a pipe, too, each line is a\n"
        "message (\"\"\" begins one of several lines), and the first error ends the program.\n"
        "Answers go to standard output, without control characters; prompts and notes go to\n"
        "standard error. Ctrl-C stops an answer; again, or Ctrl-D, leaves. A pipe that is stopped\n"
        "by Ctrl-C exits with 130. The API key comes from --api-key-file or TNL_API_KEY.\n",
};

static int row_of(const char *flag) {
    int i = 0;
    while (i < spec.n_rows && !(rows[i].flag && strcmp(rows[i].flag, flag) == 0))
        i++;
    return i;
}

const cli_opt *cli_chat_set_rows(int *n, int *first) {
    *first = row_of("max-tokens");
    *n = row_of("seed") + 1 - *first;
    return rows + *first;
}

bool cli_chat_given(const cli_chat_settings *o, const char *flag) {
    return o->given[row_of(flag)];
}

/* An option of the other kind would have no effect: say so. */
static tnl_status check(const cli_args *a, bool url, tnl_error *err) {
    static const char *const of_folder[] = {"chat-template", "device", "threads", "weights",
                                            "load", "prefix-cache-mb", NULL};
    static const char *const of_url[] = {"model", "ca-file", "silence-seconds", "connect-seconds",
                                         NULL};
    for (const char *const *f = url ? of_folder : of_url; *f; f++)
        if (a->source[row_of(*f)] == CLI_FROM_FLAG)
            return tnl_fail(err, TNL_E_USAGE, "--%s is for a %s", *f, url ? "MODEL_DIR" : "URL");
    return TNL_OK;
}

int cli_chat(int argc, char **argv) {
    cli_chat_settings o;
    cli_args a;
    int code;
    tnl_error err = {0};
    memset(&o, 0, sizeof o);
    if (cli_begin(&a, &spec, &o, argc, argv, &code)) {
        bool url = cli_is_url(a.v[0]);
        cli_voice voice;
        for (int i = 0; i < spec.n_rows; i++)
            o.given[i] = a.source[i] != CLI_FROM_DEFAULT;
        tnl_status s = check(&a, url, &err);
        if (s == TNL_OK)
            s = url ? cli_voice_remote(&voice, &o, a.v[0], &err)
                    : cli_voice_local(&voice, &o, a.v[0], &err);
        if (s != TNL_OK) {
            code = cli_report(&spec, s, &err);
        } else {
            code = cli_talk(&voice, &o, &spec);
            voice.close(voice.self);
        }
    }
    cli_args_clear(&a);
    return code;
}
