/* Parsing of option rows: text to typed values, and the order of precedence. Values are applied in
 * the order default, file, environment, flag, so the strongest source is simply the last one. */
#include "server/cli/options/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/cli/options/options_file.h"

/* ---- one value ---- */

static tnl_status set_bool(bool *out, const char *text, const char *where, tnl_error *err) {
    if (!strcmp(text, "true") || !strcmp(text, "1")) {
        *out = true;
        return TNL_OK;
    }
    if (!strcmp(text, "false") || !strcmp(text, "0")) {
        *out = false;
        return TNL_OK;
    }
    return tnl_fail(err, TNL_E_USAGE, "%s: \"%.64s\" is not true or false", where, text);
}

/* Decimal digits with an optional sign; *end is the first byte not used. */
static bool scan_int(int64_t *out, const char *text, const char **end) {
    const char *digits = text + (*text == '-');
    if (*digits < '0' || *digits > '9')
        return false;
    char *e;
    errno = 0;
    long long v = strtoll(text, &e, 10);
    *end = e;
    *out = v;
    return errno == 0;
}

static tnl_status check_range(const cli_opt *row, int64_t v, const char *where, tnl_error *err) {
    if ((double)v >= row->min && (double)v <= row->max)
        return TNL_OK;
    return tnl_fail(err, TNL_E_USAGE, "%s: %lld is out of range, expected %.0f..%.0f", where,
                    (long long)v, row->min, row->max);
}

static tnl_status set_int(const cli_opt *row, int64_t *out, const char *text, const char *where,
                          tnl_error *err) {
    const char *end;
    int64_t v;
    if (!scan_int(&v, text, &end) || *end)
        return tnl_fail(err, TNL_E_USAGE,
                        "%s: \"%.64s\" is not a whole number, expected %.0f..%.0f", where, text,
                        row->min, row->max);
    TNL_TRY(check_range(row, v, where, err));
    *out = v;
    return TNL_OK;
}

static tnl_status set_u64(uint64_t *out, const char *text, const char *where, tnl_error *err) {
    char *end = NULL;
    errno = 0;
    unsigned long long v = *text >= '0' && *text <= '9' ? strtoull(text, &end, 10) : 0;
    if (!end || *end || errno)
        return tnl_fail(err, TNL_E_USAGE,
                        "%s: \"%.64s\" is not a whole number, expected 0..18446744073709551615",
                        where, text);
    *out = v;
    return TNL_OK;
}

static tnl_status set_real(const cli_opt *row, double *out, const char *text, const char *where,
                           tnl_error *err) {
    char *end;
    double v = strtod(text, &end);
    bool numeric = end != text && !*end && strspn(text, "+-.0123456789eE") == strlen(text);
    if (!numeric || !isfinite(v))
        return tnl_fail(err, TNL_E_USAGE, "%s: \"%.64s\" is not a number, expected %g..%g", where,
                        text, row->min, row->max);
    if (v < row->min || v > row->max)
        return tnl_fail(err, TNL_E_USAGE, "%s: %g is out of range, expected %g..%g", where, v,
                        row->min, row->max);
    *out = v;
    return TNL_OK;
}

static tnl_status set_choice(const cli_opt *row, int *out, const char *text, const char *where,
                             tnl_error *err) {
    char known[160] = "";
    for (int i = 0; row->choices[i]; i++) {
        if (!strcmp(text, row->choices[i])) {
            *out = i;
            return TNL_OK;
        }
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", row->choices[i]);
    }
    return tnl_fail(err, TNL_E_USAGE, "%s: unknown value \"%.64s\", expected one of: %s", where,
                    text, known);
}

static tnl_status set_list(const cli_opt *row, cli_list *out, const char *text, const char *where,
                           tnl_error *err) {
    cli_list list = {0};
    for (const char *p = text; *p;) {
        if (list.n == CLI_MAX_LIST)
            return tnl_fail(err, TNL_E_USAGE, "%s: more than %d values", where, CLI_MAX_LIST);
        int64_t v;
        if (!scan_int(&v, p, &p) || (*p != ',' && *p) || (*p == ',' && !p[1]))
            return tnl_fail(err, TNL_E_USAGE,
                            "%s: \"%.64s\" is not a list of whole numbers such as 1,2,3", where,
                            text);
        TNL_TRY(check_range(row, v, where, err));
        list.v[list.n++] = v;
        p += *p == ',';
    }
    *out = list;
    return TNL_OK;
}

static tnl_status add_string(cli_strings *out, const char *text, const char *where,
                             tnl_error *err) {
    if (out->n == CLI_MAX_STRINGS)
        return tnl_fail(err, TNL_E_USAGE, "%s: given more than %d times", where, CLI_MAX_STRINGS);
    out->v[out->n++] = text;
    return TNL_OK;
}

tnl_status cli_set(const cli_opt *row, void *out, const char *text, const char *where,
                   tnl_error *err) {
    void *at = (char *)out + row->offset;
    switch (row->type) {
    case CLI_BOOL:
        return set_bool(at, text, where, err);
    case CLI_INT:
        return set_int(row, at, text, where, err);
    case CLI_U64:
        return set_u64(at, text, where, err);
    case CLI_REAL:
        return set_real(row, at, text, where, err);
    case CLI_CHOICE:
        return set_choice(row, at, text, where, err);
    case CLI_INT_LIST:
        return set_list(row, at, text, where, err);
    case CLI_STRINGS:
        return add_string(at, text, where, err);
    case CLI_STRING:
        break;
    }
    *(const char **)at = text;
    return TNL_OK;
}

static void clear_value(const cli_opt *row, void *out) {
    static const size_t size[] = {
        [CLI_BOOL] = sizeof(bool),           [CLI_INT] = sizeof(int64_t),
        [CLI_U64] = sizeof(uint64_t),        [CLI_REAL] = sizeof(double),
        [CLI_STRING] = sizeof(const char *), [CLI_CHOICE] = sizeof(int),
        [CLI_INT_LIST] = sizeof(cli_list),   [CLI_STRINGS] = sizeof(cli_strings),
    };
    memset((char *)out + row->offset, 0, size[row->type]);
}

/* ---- the command line as (row, text) pairs ---- */

typedef struct flag_use {
    int row;
    const char *text; /* the value as written */
    char where[48];   /* "--port" for messages */
} flag_use;

typedef struct scanner {
    const cli_spec *spec;
    cli_args *args;
    flag_use *uses; /* [argc] */
    int n_uses;
} scanner;

static int row_by_flag(const cli_spec *spec, const char *flag, size_t n) {
    for (int i = 0; i < spec->n_rows; i++) {
        const char *name = spec->rows[i].flag;
        if (name && strlen(name) == n && !memcmp(name, flag, n))
            return i;
    }
    return -1;
}

static int row_by_letter(const cli_spec *spec, char letter) {
    for (int i = 0; i < spec->n_rows; i++)
        if (spec->rows[i].flag && spec->rows[i].letter == letter)
            return i;
    return -1;
}

static tnl_status unknown_flag(const cli_spec *spec, const char *word, tnl_error *err) {
    const char *names[CLI_MAX_ROWS + 3];
    int n = 0;
    for (int i = 0; i < spec->n_rows; i++)
        if (spec->rows[i].flag)
            names[n++] = spec->rows[i].flag;
    names[n++] = "help";
    names[n++] = "version";
    names[n] = NULL;
    char bare[64];
    snprintf(bare, sizeof bare, "%.*s", (int)strcspn(word, "="), word);
    const char *near = cli_nearest(bare + strspn(bare, "-"), names);
    if (near)
        return tnl_fail(err, TNL_E_USAGE, "unknown option %s; did you mean --%s?", bare, near);
    return tnl_fail(err, TNL_E_USAGE, "unknown option %s", bare);
}

static void use_flag(scanner *s, int row, const char *text) {
    flag_use *u = &s->uses[s->n_uses++];
    u->row = row;
    u->text = text;
    snprintf(u->where, sizeof u->where, "--%s", s->spec->rows[row].flag);
}

/* "--name", "--name=value", "--name value", "--no-name"; returns how many arguments were used. */
static tnl_status scan_long(scanner *s, char **argv, int left, int *used, tnl_error *err) {
    const char *name = argv[0] + 2;
    size_t n = strcspn(name, "=");
    const char *value = name[n] ? name + n + 1 : NULL;
    int row = row_by_flag(s->spec, name, n);
    *used = 1;
    if (row < 0 && !value && !strncmp(name, "no-", 3)) {
        row = row_by_flag(s->spec, name + 3, n - 3);
        if (row >= 0 && s->spec->rows[row].type == CLI_BOOL) {
            use_flag(s, row, "false");
            return TNL_OK;
        }
        row = -1;
    }
    if (row < 0)
        return unknown_flag(s->spec, argv[0], err);
    if (!value && s->spec->rows[row].type == CLI_BOOL)
        value = "true";
    if (!value) {
        if (left < 2)
            return tnl_fail(err, TNL_E_USAGE, "--%s needs a value (%s)", s->spec->rows[row].flag,
                            s->spec->rows[row].arg);
        value = argv[1];
        *used = 2;
    }
    use_flag(s, row, value);
    return TNL_OK;
}

/* "-n value", "-nvalue" and, for a bool, "-v". */
static tnl_status scan_short(scanner *s, char **argv, int left, int *used, tnl_error *err) {
    int row = row_by_letter(s->spec, argv[0][1]);
    *used = 1;
    if (row < 0)
        return unknown_flag(s->spec, argv[0], err);
    const cli_opt *o = &s->spec->rows[row];
    const char *value = argv[0] + 2;
    if (o->type == CLI_BOOL) {
        if (*value)
            return unknown_flag(s->spec, argv[0], err);
        use_flag(s, row, "true");
        return TNL_OK;
    }
    if (!*value) {
        if (left < 2)
            return tnl_fail(err, TNL_E_USAGE, "-%c needs a value (%s)", o->letter, o->arg);
        value = argv[1];
        *used = 2;
    }
    use_flag(s, row, value);
    return TNL_OK;
}

static tnl_status scan_args(scanner *s, int argc, char **argv, tnl_error *err) {
    bool only_operands = false;
    for (int i = 1; i < argc;) {
        const char *a = argv[i];
        int used = 1;
        if (only_operands || a[0] != '-' || !a[1]) /* "-" alone is standard input */
            s->args->v[s->args->n++] = a;
        else if (!strcmp(a, "--"))
            only_operands = true;
        else if (a[1] == '-')
            TNL_TRY(scan_long(s, argv + i, argc - i, &used, err));
        else
            TNL_TRY(scan_short(s, argv + i, argc - i, &used, err));
        i += used;
    }
    return TNL_OK;
}

static bool wants_page(cli_args *a, int argc, char **argv) {
    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++) {
        a->help |= !strcmp(argv[i], "--help") || !strcmp(argv[i], "-h");
        a->version |= !strcmp(argv[i], "--version");
    }
    return a->help || a->version;
}

/* ---- precedence ---- */

static tnl_status apply_defaults(const cli_spec *spec, void *out, tnl_error *err) {
    for (int i = 0; i < spec->n_rows; i++) {
        const cli_opt *o = &spec->rows[i];
        if (!o->flag)
            continue;
        clear_value(o, out);
        if (o->dflt)
            TNL_TRY(cli_set(o, out, o->dflt, o->flag, err));
    }
    return TNL_OK;
}

/* A list of strings starts anew with each source. */
static void begin_source(cli_args *a, const cli_opt *o, int row, cli_source source, void *out) {
    if (o->type == CLI_STRINGS && a->source[row] != source)
        clear_value(o, out);
    a->source[row] = (uint8_t)source;
}

static tnl_status apply_env(cli_args *a, const cli_spec *spec, void *out, tnl_error *err) {
    for (int i = 0; i < spec->n_rows; i++) {
        const cli_opt *o = &spec->rows[i];
        const char *text = o->flag && o->env ? getenv(o->env) : NULL;
        if (!text || !*text) /* an empty variable is an unset one */
            continue;
        begin_source(a, o, i, CLI_FROM_ENV, out);
        TNL_TRY(cli_set(o, out, text, o->env, err));
    }
    return TNL_OK;
}

static tnl_status apply_flags(scanner *s, void *out, tnl_error *err) {
    for (int i = 0; i < s->n_uses; i++) {
        const flag_use *u = &s->uses[i];
        const cli_opt *o = &s->spec->rows[u->row];
        begin_source(s->args, o, u->row, CLI_FROM_FLAG, out);
        TNL_TRY(cli_set(o, out, u->text, u->where, err));
    }
    return TNL_OK;
}

/* The config file itself is named by a flag or by the environment. */
static const char *config_path(const scanner *s) {
    int row = row_by_flag(s->spec, "config", strlen("config"));
    if (row < 0)
        return NULL;
    const char *env = s->spec->rows[row].env;
    const char *path = env ? getenv(env) : NULL;
    for (int i = 0; i < s->n_uses; i++)
        if (s->uses[i].row == row)
            path = s->uses[i].text;
    return path && *path ? path : NULL;
}

static tnl_status check_operands(const cli_spec *spec, const cli_args *a, tnl_error *err) {
    if (a->n < spec->min_args)
        return tnl_fail(err, TNL_E_USAGE, "missing operand: expected %s", spec->args);
    if (spec->max_args >= 0 && a->n > spec->max_args)
        return tnl_fail(err, TNL_E_USAGE, "unexpected operand \"%.64s\"", a->v[spec->max_args]);
    return TNL_OK;
}

static tnl_status parse_all(scanner *s, void *out, int argc, char **argv, tnl_error *err) {
    TNL_TRY(scan_args(s, argc, argv, err));
    TNL_TRY(apply_defaults(s->spec, out, err));
    const char *path = config_path(s);
    if (path)
        TNL_TRY(cli_apply_file(s->args, s->spec, out, path, err));
    TNL_TRY(apply_env(s->args, s->spec, out, err));
    TNL_TRY(apply_flags(s, out, err));
    return check_operands(s->spec, s->args, err);
}

tnl_status cli_parse(cli_args *a, const cli_spec *spec, void *out, int argc, char **argv,
                     tnl_error *err) {
    memset(a, 0, sizeof *a);
    if (spec->n_rows > CLI_MAX_ROWS)
        return tnl_fail(err, TNL_E_INTERNAL, "%s: too many option rows", spec->name);
    if (wants_page(a, argc, argv))
        return TNL_OK;
    size_t n = argc > 0 ? (size_t)argc : 1;
    scanner s = {.spec = spec, .args = a, .uses = calloc(n, sizeof *s.uses)};
    a->v = calloc(n, sizeof *a->v);
    tnl_status status = s.uses && a->v ? parse_all(&s, out, argc, argv, err)
                                       : tnl_fail(err, TNL_E_NOMEM, "out of memory");
    free(s.uses);
    return status;
}

void cli_args_clear(cli_args *a) {
    for (int i = 0; i < a->n_owned; i++)
        free(a->owned[i]);
    free(a->owned);
    free(a->v);
    memset(a, 0, sizeof *a);
}

cli_source cli_source_of(const cli_args *a, const cli_spec *spec, const char *flag) {
    int row = row_by_flag(spec, flag, strlen(flag));
    return row < 0 ? CLI_FROM_DEFAULT : (cli_source)a->source[row];
}
