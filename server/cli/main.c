/* tnl: one binary, one subcommand a row. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "server/cli/cli.h"
#include "server/cli/options/options.h"

typedef struct command {
    const char *name;
    int (*run)(int argc, char **argv); /* NULL: left out of this build */
    const char *about;
} command;

static const command commands[] = {
#ifdef TNL_HAVE_SERVER
    {"serve", cli_serve, "serve a model over HTTP"},
    {"key", cli_key, "make an API key for serve"},
#else
    {"serve", NULL, "serve a model over HTTP (not in this build: -Dserver=disabled)"},
    {"key", NULL, "make an API key for serve (not in this build)"},
#endif
    {"chat", cli_chat, "talk with a model, or with a server, in the terminal"},
#ifdef TNL_HAVE_CLIENT
    {"load", cli_load, "put load on a server and measure it"},
#else
    {"load", NULL, "put load on a server (not in this build: needs libcurl)"},
#endif
    {"generate", cli_generate, "continue a prompt in the terminal"},
    {"eval", cli_eval, "perplexity and bits per byte of a text file"},
    {"inspect", cli_inspect, "hyperparameters, tensors and memory needs of a model"},
    {"quantize", cli_quantize, "write a model folder with 8-bit or 4-bit matrices"},
    {"tokenize", cli_tokenize, "text to token ids, and back"},
    {"bench", cli_bench, "speed, and the share of what this machine can do"},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static void print_usage(FILE *f) {
    fputs("usage: tnl COMMAND [options]\n"
          "tnl " TNL_VERSION " runs TransNormerLLM models (Lightning Attention): text in, tokens\n"
          "out, at a cost that does not grow with the text.\n\nCommands:\n",
          f);
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(f, "  %-12s%s\n", commands[i].name, commands[i].about);
    fputs("\nMODEL_DIR is a Hugging Face model folder: config.json, tokenizer.model, and\n"
          "model.safetensors or pytorch_model.bin (or shards of either with their index).\n"
          "'tnl COMMAND --help' lists a command's options; 'tnl --version' prints the version.\n"
          "\nEnvironment:\n"
          "  TNL_CPU     kernels: ref, avx2, avxvnni, avx512 or avx512vnni (default: the best)\n"
          "  TNL_THREADS TNL_WEIGHTS TNL_LOAD: as the options; serve has one for each option\n"
          "\nExamples:\n"
          "  tnl generate configs/tales -p 'Once upon a time' -n 100\n"
          "  tnl serve configs/tales --port 8080\n"
          "  tnl bench --random configs/shapes/tnl-385m.json --weights bf16\n"
          "\nExit codes:\n"
          "   0  success                        70  internal error\n"
          "   2  usage error                    71  out of memory\n"
          "  65  malformed data, or a limit     74  input/output error\n"
          "  66  cannot open input              75  busy\n"
          "  69  service unavailable            78  not supported\n",
          f);
}

static const command *find(const char *name) {
    for (int i = 0; i < N_COMMANDS; i++)
        if (!strcmp(commands[i].name, name))
            return &commands[i];
    return NULL;
}

static int unknown(const char *word) {
    const char *names[N_COMMANDS + 1];
    for (int i = 0; i < N_COMMANDS; i++)
        names[i] = commands[i].name;
    names[N_COMMANDS] = NULL;
    const char *near = *word == '-' ? NULL : cli_nearest(word, names);
    fprintf(stderr, "tnl: unknown %s \"%.64s\"", *word == '-' ? "option" : "command", word);
    fprintf(stderr, near ? "; did you mean \"%s\"?\n" : "\n", near);
    fputs("Try 'tnl --help'.\n", stderr);
    return tnl_status_exit_code(TNL_E_USAGE);
}

/* A write error on a pipe or a full disk shows only when the buffer is flushed. */
static int flush(int code) {
    if ((fflush(stdout) || ferror(stdout)) && code == 0) {
        fputs("tnl: cannot write standard output\n", stderr);
        return tnl_status_exit_code(TNL_E_IO);
    }
    return code;
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is a write error, reported once, at the end */
    if (argc < 2) {
        print_usage(stderr);
        return tnl_status_exit_code(TNL_E_USAGE);
    }
    const char *word = argv[1];
    if (!strcmp(word, "--version")) {
        puts("tnl " TNL_VERSION);
        return flush(0);
    }
    if (!strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help")) {
        print_usage(stdout);
        return flush(0);
    }
    const command *c = find(word);
    if (!c)
        return unknown(word);
    if (!c->run) {
        fprintf(stderr, "tnl: %s is not part of this build\n", c->name);
        return tnl_status_exit_code(TNL_E_UNSUPPORTED);
    }
    return flush(c->run(argc - 1, argv + 1));
}
