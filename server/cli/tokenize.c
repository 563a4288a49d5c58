/* tnl tokenize: text to ids and pieces, ids to text. */
#include "server/cli/cli.h"

#ifdef TNL_HAVE_TOKENIZER

#include <stdlib.h>
#include <string.h>

typedef struct settings {
    bool json, decode, ids_only;
    const char *file;
} settings;

#define AT(field) .offset = offsetof(settings, field)

static const cli_opt rows[] = {
    {.flag = "file",
     .letter = 'f',
     .type = CLI_STRING,
     AT(file),
     .arg = "FILE",
     .help = "the text from a file, \"-\" for standard input"},
    {.flag = "decode",
     .letter = 'd',
     .type = CLI_BOOL,
     AT(decode),
     .help = "the operands are ids; print their text"},
    {.flag = "ids", .type = CLI_BOOL, AT(ids_only), .help = "only the ids, on one line"},
    {.flag = "json", .type = CLI_BOOL, AT(json), .help = "one JSON object"},
};

static const cli_spec spec = {
    .name = "tnl tokenize",
    .args = "MODEL_DIR [TEXT | ID...]",
    .about = "The tokens of a text: id and piece, one a line. Nothing is added in front.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .min_args = 1,
    .max_args = -1,
    .examples = "  tnl tokenize configs/tales 'Once upon a time'\n"
                "  tnl tokenize configs/tales --decode 5 17 200\n",
};

static void print_piece(const tok_model *t, int32_t id) {
    const char *name = tok_piece_name(t, id);
    cli_json_string(stdout, name ? name : "", name ? strlen(name) : 0);
}

static void print_tokens(const tok_model *t, const settings *o, const int32_t *ids, size_t n) {
    if (o->ids_only || o->json) {
        fputs(o->json ? "{\"ids\":[" : "", stdout);
        for (size_t i = 0; i < n; i++)
            printf("%s%d", i ? "," : "", ids[i]);
        if (!o->json) {
            putchar('\n');
            return;
        }
        fputs("],\"pieces\":[", stdout);
        for (size_t i = 0; i < n; i++) {
            fputs(i ? "," : "", stdout);
            print_piece(t, ids[i]);
        }
        puts("]}");
        return;
    }
    for (size_t i = 0; i < n; i++) {
        printf("%7d  ", ids[i]);
        print_piece(t, ids[i]);
        putchar('\n');
    }
}

static tnl_status encode(const tok_model *t, const settings *o, const cli_args *a, tnl_error *err) {
    if ((a->n == 2) == (o->file != NULL) || a->n > 2)
        return tnl_fail(err, TNL_E_USAGE, "give one TEXT or --file");
    char *text = NULL;
    size_t n = 0, n_ids = 0;
    int32_t *ids = NULL;
    if (o->file)
        TNL_TRY(cli_read_file(o->file, &text, &n, err));
    mdl_spec plain = {.add_bos = false, .bos_id = -1};
    tnl_status s = cli_encode(t, &plain, o->file ? text : a->v[1], o->file ? n : strlen(a->v[1]),
                              &ids, &n_ids, err);
    if (s == TNL_OK)
        print_tokens(t, o, ids, n_ids);
    free(ids);
    free(text);
    return s;
}

static tnl_status join_operands(char **out, const cli_args *a, tnl_error *err) {
    size_t n = 1;
    for (int i = 1; i < a->n; i++)
        n += strlen(a->v[i]) + 1;
    char *p = malloc(n);
    if (!p)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    *out = p;
    for (int i = 1; i < a->n; i++) {
        size_t len = strlen(a->v[i]);
        memcpy(p, a->v[i], len);
        p += len;
        *p++ = ' ';
    }
    *p = 0;
    return TNL_OK;
}

static tnl_status decode(const tok_model *t, const settings *o, const cli_args *a, tnl_error *err) {
    char *joined = NULL, *text = NULL;
    size_t n = 0, n_ids = 0;
    int32_t *ids = NULL;
    if ((a->n > 1) == (o->file != NULL))
        return tnl_fail(err, TNL_E_USAGE, "give ids or --file");
    if (o->file)
        TNL_TRY(cli_read_file(o->file, &joined, &n, err));
    else
        TNL_TRY(join_operands(&joined, a, err));
    tnl_status s = cli_parse_ids(joined, &ids, &n_ids, err);
    if (s == TNL_OK)
        s = tok_decode(t, ids, n_ids, &text, &n, err);
    if (s == TNL_OK && o->json) {
        fputs("{\"text\":", stdout);
        cli_json_string(stdout, text, n);
        puts("}");
    } else if (s == TNL_OK) {
        fwrite(text, 1, n, stdout);
        putchar('\n');
    }
    free(text);
    free(ids);
    free(joined);
    return s;
}

int cli_tokenize(int argc, char **argv) {
    settings o;
    cli_args a;
    int code;
    if (cli_begin(&a, &spec, &o, argc, argv, &code)) {
        tnl_error err = {0};
        const tok_model *t = NULL;
        tnl_status s = cli_open_tokenizer(&t, a.v[0], NULL, &err);
        if (s == TNL_OK)
            s = o.decode ? decode(t, &o, &a, &err) : encode(t, &o, &a, &err);
        if (s != TNL_OK)
            code = cli_report(&spec, s, &err);
        cli_close_tokenizer(t);
    }
    cli_args_clear(&a);
    return code;
}

#else

int cli_tokenize(int argc, char **argv) {
    (void)argc;
    (void)argv;
    fputs("tnl tokenize: built without a tokenizer\n", stderr);
    return tnl_status_exit_code(TNL_E_UNSUPPORTED);
}

#endif
