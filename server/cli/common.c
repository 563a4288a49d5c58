/* What the subcommands share: help pages, error lines, opening a model, reading text. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/log.h"
#include "kernels/base/utf8.h"
#include "server/cli/cli.h"
#include "server/cli/progress.h"

const char *const cli_weight_names[] = {"auto", "f32", "bf16", "q8", "q4", "f8", NULL};
const char *const cli_load_names[] = {"map", "read", NULL};

int cli_report(const cli_spec *spec, tnl_status status, const tnl_error *err) {
    fflush(stdout);
    if (tnl_log_is_json()) {
        tnl_log(TNL_LOG_ERROR, "%s: %s", spec->name, err->msg);
        return tnl_status_exit_code(status);
    }
    fprintf(stderr, "%s: %s\n", spec->name, err->msg);
    if (status == TNL_E_USAGE)
        fprintf(stderr, "Try '%s --help'.\n", spec->name);
    return tnl_status_exit_code(status);
}

bool cli_begin(cli_args *a, const cli_spec *spec, void *settings, int argc, char **argv,
               int *exit_code) {
    tnl_error err = {0};
    tnl_status s = cli_parse(a, spec, settings, argc, argv, &err);
    *exit_code = 0;
    if (s != TNL_OK) {
        *exit_code = cli_report(spec, s, &err);
        return false;
    }
    if (a->help)
        cli_print_help(stdout, spec);
    else if (a->version)
        puts("tnl " TNL_VERSION);
    return !a->help && !a->version;
}

/* ---- model and tokenizer ---- */

static void show_loading(void *ctx, uint64_t done, uint64_t total) {
    cli_progress_update(ctx, done, total);
}

tnl_status cli_open_model(mdl_model **out, const cli_model_opts *o, const char *dir,
                          tnl_error *err) {
    cli_progress bar;
    cli_progress_begin(&bar, "loading", "MB", 1e6);
    mdl_open_params p = {.dir = dir,
                         .weights = (mdl_weight_mode)o->weights,
                         .load = (mdl_load_mode)o->load,
                         .device = o->device,
                         .threads = (int)o->threads,
                         .progress = show_loading,
                         .progress_ctx = &bar};
    tnl_status s = mdl_open(out, &p, err);
    cli_progress_end(&bar);
    return s;
}

#ifdef TNL_HAVE_TOKENIZER
tnl_status cli_check_tokenizer(const tok_model *t, const mdl_model *m, tnl_error *err) {
    return mdl_check_tokenizer(m, tok_vocab(t), err);
}

tnl_status cli_open_tokenizer(const tok_model **out, const char *dir, const mdl_model *m,
                              tnl_error *err) {
    *out = NULL;
    tok_model *t;
    TNL_TRY(tok_open(&t, dir, err));
    tnl_status s = m ? cli_check_tokenizer(t, m, err) : TNL_OK;
    if (s == TNL_OK)
        *out = t;
    else
        tok_close(t);
    return s;
}

tnl_status cli_open_tried_tokenizer(const tok_model **out, const char *dir, tnl_error *err) {
    tok_model *t = NULL;
    *out = NULL;
    TNL_TRY(tok_open_tried(&t, dir, err));
    *out = t;
    return TNL_OK;
}

void cli_close_tokenizer(const tok_model *t) {
    tok_close((tok_model *)t); /* opened above, so not const */
}

static tnl_status encode(const tok_model *t, const char *text, size_t n, int32_t **ids,
                         size_t *n_ids, tnl_error *err) {
    return tok_encode(t, text, n, ids, n_ids, err);
}
#else
tnl_status cli_check_tokenizer(const tok_model *t, const mdl_model *m, tnl_error *err) {
    (void)t, (void)m, (void)err;
    return TNL_OK;
}

tnl_status cli_open_tokenizer(const tok_model **out, const char *dir, const mdl_model *m,
                              tnl_error *err) {
    (void)dir;
    (void)m;
    *out = NULL;
    return tnl_fail(err, TNL_E_UNSUPPORTED,
                    "built without a tokenizer: give token ids (--tokens 1,2,3)");
}

tnl_status cli_open_tried_tokenizer(const tok_model **out, const char *dir, tnl_error *err) {
    return cli_open_tokenizer(out, dir, NULL, err);
}

void cli_close_tokenizer(const tok_model *t) {
    (void)t;
}

static tnl_status encode(const tok_model *t, const char *text, size_t n, int32_t **ids,
                         size_t *n_ids, tnl_error *err) {
    (void)t, (void)text, (void)n, (void)ids, (void)n_ids;
    return tnl_fail(err, TNL_E_UNSUPPORTED, "built without a tokenizer");
}
#endif

tnl_status cli_encode(const tok_model *t, const mdl_spec *spec, const char *text, size_t n,
                      int32_t **ids, size_t *n_ids, tnl_error *err) {
    if (!tnl_utf8_valid(text, n))
        return tnl_fail(err, TNL_E_DATA, "the text is not valid UTF-8");
    TNL_TRY(encode(t, text, n, ids, n_ids, err));
    if (!spec->add_bos || spec->bos_id < 0)
        return TNL_OK;
    int32_t *grown = realloc(*ids, (*n_ids + 1) * sizeof *grown);
    if (!grown) {
        free(*ids);
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    }
    memmove(grown + 1, grown, *n_ids * sizeof *grown);
    grown[0] = spec->bos_id;
    *ids = grown;
    *n_ids += 1;
    return TNL_OK;
}

tnl_status cli_parse_ids(const char *text, int32_t **ids, size_t *n_ids, tnl_error *err) {
    size_t n = 0;
    int32_t *v = malloc((strlen(text) / 2 + 1) * sizeof *v); /* an id and its comma: two bytes */
    if (!v)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    for (const char *p = text + strspn(text, ", \n"); *p; p += strspn(p, ", \n")) {
        char *end;
        errno = 0;
        long id = *p >= '0' && *p <= '9' ? strtol(p, &end, 10) : -1;
        if (id < 0 || errno || id > INT32_MAX || (*end && !strchr(", \n", *end))) {
            free(v);
            return tnl_fail(err, TNL_E_USAGE, "token ids: entry %zu (\"%.16s\") is not an id", n,
                            p);
        }
        v[n++] = (int32_t)id;
        p = end;
    }
    *ids = v;
    *n_ids = n;
    return TNL_OK;
}

/* ---- files and JSON ---- */

static tnl_status read_all(FILE *f, char **text, size_t *n, tnl_error *err, const char *path) {
    size_t cap = 1 << 16, used = 0;
    char *buf = malloc(cap);
    while (buf) {
        size_t got = fread(buf + used, 1, cap - used - 1, f);
        used += got;
        if (got == 0)
            break;
        if (cap - used > 1)
            continue;
        char *grown = realloc(buf, cap *= 2);
        if (!grown)
            free(buf);
        buf = grown;
    }
    if (!buf)
        return tnl_fail(err, TNL_E_NOMEM, "%s: out of memory", path);
    if (ferror(f)) {
        free(buf);
        return tnl_fail(err, TNL_E_IO, "%s: %s", path, strerror(errno));
    }
    buf[used] = 0;
    *text = buf;
    *n = used;
    return TNL_OK;
}

tnl_status cli_read_file(const char *path, char **text, size_t *n, tnl_error *err) {
    if (!strcmp(path, "-"))
        return read_all(stdin, text, n, err, "standard input");
    FILE *f = fopen(path, "rb");
    if (!f)
        return tnl_fail(err, TNL_E_NO_INPUT, "%s: %s", path, strerror(errno));
    tnl_status s = read_all(f, text, n, err, path);
    fclose(f);
    return s;
}

void cli_json_string(FILE *f, const char *s, size_t n) {
    putc('"', f);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\')
            fprintf(f, "\\%c", c);
        else if (c == '\n')
            fputs("\\n", f);
        else if (c < 0x20 || c == 0x7F)
            fprintf(f, "\\u%04x", c);
        else
            putc(c, f);
    }
    putc('"', f);
}
