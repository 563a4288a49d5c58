/* Config file to option rows. Every JSON value becomes text and goes through cli_set, so a range is
 * stated once and checked in one place, whatever the source. */
#include "server/cli/options/options_file.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/json_scan.h"

enum { MAX_FILE = 1 << 20 };

static tnl_status keep(cli_args *a, const char *text, const char **out, tnl_error *err) {
    char **grown = realloc(a->owned, (size_t)(a->n_owned + 1) * sizeof *grown);
    if (grown)
        a->owned = grown;
    char *copy = grown ? strdup(text) : NULL;
    if (!copy)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    a->owned[a->n_owned++] = copy;
    *out = copy;
    return TNL_OK;
}

static bool is_text(cli_type t) {
    return t == CLI_STRING || t == CLI_STRINGS || t == CLI_CHOICE;
}

/* Set a row from one JSON scalar. */
static tnl_status set_scalar(cli_args *a, const cli_opt *o, void *out, const cJSON *v,
                             const char *where, tnl_error *err) {
    char number[40];
    const char *text = NULL;
    if (is_text(o->type) && cJSON_IsString(v)) {
        TNL_TRY(keep(a, v->valuestring, &text, err));
    } else if (o->type == CLI_BOOL && cJSON_IsBool(v)) {
        text = cJSON_IsTrue(v) ? "true" : "false";
    } else if (!is_text(o->type) && o->type != CLI_BOOL && cJSON_IsNumber(v)) {
        snprintf(number, sizeof number, "%.17g", v->valuedouble);
        if (v->valuedouble > -1e15 && v->valuedouble < 1e15 &&
            v->valuedouble == (double)(int64_t)v->valuedouble)
            snprintf(number, sizeof number, "%lld", (long long)v->valuedouble);
        text = number;
    } else {
        return tnl_fail(err, TNL_E_USAGE, "%s: wrong type, expected %s", where,
                        is_text(o->type)      ? "a string"
                        : o->type == CLI_BOOL ? "true or false"
                                              : "a number");
    }
    return cli_set(o, out, text, where, err);
}

/* A list may be an array; numbers are joined with commas for cli_set. */
static tnl_status set_array(cli_args *a, const cli_opt *o, void *out, const cJSON *v,
                            const char *where, tnl_error *err) {
    char joined[CLI_MAX_LIST * 24] = "";
    const cJSON *item;
    cJSON_ArrayForEach(item, v) {
        if (o->type == CLI_STRINGS) {
            TNL_TRY(set_scalar(a, o, out, item, where, err));
            continue;
        }
        size_t used = strlen(joined);
        if (!cJSON_IsNumber(item) || used + 26 > sizeof joined)
            return tnl_fail(err, TNL_E_USAGE, "%s: expected at most %d numbers", where,
                            CLI_MAX_LIST);
        snprintf(joined + used, sizeof joined - used, "%s%.17g", used ? "," : "",
                 item->valuedouble);
    }
    return o->type == CLI_STRINGS ? TNL_OK : cli_set(o, out, joined, where, err);
}

static const cli_opt *row_by_key(const cli_spec *spec, const char *key, int *index) {
    for (int i = 0; i < spec->n_rows; i++) {
        const cli_opt *o = &spec->rows[i];
        if (o->flag && o->key && !strcmp(o->key, key)) {
            *index = i;
            return o;
        }
    }
    return NULL;
}

static tnl_status unknown_key(const cli_spec *spec, const char *file, const char *key,
                              tnl_error *err) {
    const char *names[CLI_MAX_ROWS + 1];
    int n = 0;
    for (int i = 0; i < spec->n_rows; i++)
        if (spec->rows[i].flag && spec->rows[i].key)
            names[n++] = spec->rows[i].key;
    names[n] = NULL;
    const char *near = cli_nearest(key, names);
    return near ? tnl_fail(err, TNL_E_USAGE, "%s: unknown key \"%.64s\"; did you mean \"%s\"?",
                           file, key, near)
                : tnl_fail(err, TNL_E_USAGE, "%s: unknown key \"%.64s\"", file, key);
}

static tnl_status apply_object(cli_args *a, const cli_spec *spec, void *out, const cJSON *root,
                               const char *name, tnl_error *err) {
    if (!cJSON_IsObject(root))
        return tnl_fail(err, TNL_E_USAGE, "%s: expected a JSON object", name);
    const cJSON *v;
    cJSON_ArrayForEach(v, root) {
        if (v->string[0] == '_') /* a comment: JSON has no other */
            continue;
        int i = 0;
        const cli_opt *o = row_by_key(spec, v->string, &i);
        if (!o)
            return unknown_key(spec, name, v->string, err);
        char where[320];
        snprintf(where, sizeof where, "%.200s: \"%s\"", name, o->key);
        bool list = o->type == CLI_INT_LIST || o->type == CLI_STRINGS;
        a->source[i] = CLI_FROM_FILE;
        TNL_TRY(list && cJSON_IsArray(v) ? set_array(a, o, out, v, where, err)
                                         : set_scalar(a, o, out, v, where, err));
    }
    return TNL_OK;
}

tnl_status cli_apply_json(cli_args *a, const cli_spec *spec, void *out, const char *text, size_t n,
                          const char *name, tnl_error *err) {
    static const tnl_json_limits limits = {
        .max_bytes = MAX_FILE, .max_values = 10000, .max_depth = 8, .max_keys = 1000};
    tnl_error why;
    tnl_status s = tnl_json_check(text, n, &limits, NULL, &why);
    if (s != TNL_OK)
        return tnl_fail(err, s, "%s: %s", name, why.msg);
    cJSON *root = cJSON_ParseWithLength(text, n);
    if (!root)
        return tnl_fail(err, TNL_E_NOMEM, "%s: out of memory", name);
    s = apply_object(a, spec, out, root, name, err);
    cJSON_Delete(root);
    return s;
}

tnl_status cli_apply_file(cli_args *a, const cli_spec *spec, void *out, const char *path,
                          tnl_error *err) {
    FILE *f = fopen(path, "rb");
    if (!f)
        return tnl_fail(err, TNL_E_NO_INPUT, "%s: %s", path, strerror(errno));
    tnl_status s = TNL_OK;
    char *text = malloc(MAX_FILE + 1);
    size_t n = text ? fread(text, 1, MAX_FILE + 1, f) : 0;
    if (!text)
        s = tnl_fail(err, TNL_E_NOMEM, "%s: out of memory", path);
    else if (ferror(f))
        s = tnl_fail(err, TNL_E_IO, "%s: cannot read", path);
    else if (n > MAX_FILE)
        s = tnl_fail(err, TNL_E_LIMIT, "%s: larger than %d bytes", path, MAX_FILE);
    else
        s = cli_apply_json(a, spec, out, text, n, path, err);
    free(text);
    fclose(f);
    return s;
}
