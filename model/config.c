/* Reading config.json and its companions: bounded text, strict scan, then cJSON, then the rows of
 * an architecture. The only file of model/ besides the tensor index that sees cJSON. */
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "kernels/base/checked.h"
#include "kernels/base/json_scan.h"
#include "kernels/base/log.h"
#include "model/arch.h"
#include "model/config_keys.h"
#include "model/file.h"

static const tnl_json_limits config_limits = {
    .max_bytes = 1 << 20, .max_values = 1 << 16, .max_depth = 32, .max_keys = 1024};
/* tokenizer_config.json lists every added token, and v3 folders have many. */
static const tnl_json_limits tokenizer_limits = {
    .max_bytes = 8 << 20, .max_values = 1 << 20, .max_depth = 32, .max_keys = 1 << 18};

/* ---- values in words ---- */

typedef struct words {
    char text[80];
} words;

static words found(const cJSON *v) {
    words w = {"nothing"};
    if (cJSON_IsString(v)) {
        char quoted[60];
        tnl_log_escape(quoted, sizeof quoted, v->valuestring, strlen(v->valuestring));
        snprintf(w.text, sizeof w.text, "\"%s\"", quoted);
    } else if (cJSON_IsNumber(v)) {
        snprintf(w.text, sizeof w.text, "%.17g", v->valuedouble);
    } else if (v) {
        const char *kind = cJSON_IsBool(v)    ? (cJSON_IsTrue(v) ? "true" : "false")
                           : cJSON_IsNull(v)  ? "null"
                           : cJSON_IsArray(v) ? "a list"
                                              : "an object";
        snprintf(w.text, sizeof w.text, "%s", kind);
    }
    return w;
}

static tnl_status bad_value(const char *file, const char *key, const cJSON *v, const char *expected,
                            tnl_error *err) {
    return tnl_fail(err, TNL_E_DATA, "%s: %s: found %s, expected %s", file, key, found(v).text,
                    expected);
}

static bool is_integer(const cJSON *v, int64_t min, int64_t max) {
    return cJSON_IsNumber(v) && trunc(v->valuedouble) == v->valuedouble &&
           v->valuedouble >= (double)min && v->valuedouble <= (double)max;
}

/* ---- rows ---- */

static tnl_status read_int(void *at, const cfg_key *row, const cJSON *v, const char *file,
                           tnl_error *err) {
    char expected[80];
    if (!is_integer(v, row->min, row->max)) {
        snprintf(expected, sizeof expected,
                 row->min == row->max ? "%lld" : "a whole number from %lld to %lld",
                 (long long)row->min, (long long)row->max);
        return bad_value(file, row->key, v, expected, err);
    }
    int64_t value = (int64_t)v->valuedouble;
    memcpy(at, &value, sizeof value);
    return TNL_OK;
}

static tnl_status read_id(void *at, const cfg_key *row, const cJSON *v, const char *file,
                          tnl_error *err) {
    int32_t id = -1;
    if (!cJSON_IsNull(v)) {
        if (!is_integer(v, 0, row->max))
            return bad_value(file, row->key, v, "a token id (a whole number, 0 or more) or null",
                             err);
        id = (int32_t)v->valuedouble;
    }
    memcpy(at, &id, sizeof id);
    return TNL_OK;
}

static tnl_status read_bool(void *at, const cfg_key *row, const cJSON *v, const char *file,
                            tnl_error *err) {
    if (!cJSON_IsBool(v))
        return bad_value(file, row->key, v, "true or false", err);
    bool value = cJSON_IsTrue(v);
    memcpy(at, &value, sizeof value);
    return TNL_OK;
}

/* null is taken for "absent" where -1 stands for absent. */
static tnl_status read_word(void *at, const cfg_key *row, const cJSON *v, const char *file,
                            tnl_error *err) {
    int index = -1;
    for (int i = 0; cJSON_IsString(v) && row->words[i]; i++)
        if (strcmp(row->words[i], v->valuestring) == 0)
            index = i;
    if (index < 0 && !(row->fallback == -1 && cJSON_IsNull(v))) {
        char expected[256] = "one of";
        size_t n = strlen(expected);
        for (int i = 0; row->words[i] && n < sizeof expected; i++)
            n += (size_t)snprintf(expected + n, sizeof expected - n, " %s", row->words[i]);
        return bad_value(file, row->key, v, expected, err);
    }
    memcpy(at, &index, sizeof index);
    return TNL_OK;
}

static void put_fallback(void *at, const cfg_key *row) {
    int32_t small = (int32_t)row->fallback;
    bool flag = row->fallback != 0;
    if (row->type == CFG_INT)
        memcpy(at, &row->fallback, sizeof row->fallback);
    else if (row->type == CFG_BOOL)
        memcpy(at, &flag, sizeof flag);
    else
        memcpy(at, &small, sizeof small);
}

static tnl_status read_row(void *out, const cfg_key *row, const cJSON *v, const char *file,
                           tnl_error *err) {
    void *at = (char *)out + row->offset;
    if (row->type == CFG_NOTE)
        return TNL_OK;
    if (!v && row->required)
        return tnl_fail(err, TNL_E_DATA, "%s: %s: missing", file, row->key);
    if (!v) {
        put_fallback(at, row);
        return TNL_OK;
    }
    switch (row->type) {
    case CFG_INT:
        return read_int(at, row, v, file, err);
    case CFG_ID:
        return read_id(at, row, v, file, err);
    case CFG_BOOL:
        return read_bool(at, row, v, file, err);
    case CFG_WORD:
        return read_word(at, row, v, file, err);
    case CFG_NOTE:
        break;
    }
    return TNL_OK;
}

static bool knows(const cfg_key *rows, size_t n_rows, const char *key) {
    for (size_t i = 0; i < n_rows; i++)
        if (strcmp(rows[i].key, key) == 0)
            return true;
    return false;
}

tnl_status mdl_config_keys(void *out, const cfg_key *rows, size_t n_rows, const cJSON *config,
                           const char *file, tnl_error *err) {
    for (size_t i = 0; i < n_rows; i++)
        TNL_TRY(read_row(out, &rows[i], cJSON_GetObjectItemCaseSensitive(config, rows[i].key), file,
                         err));
    const cJSON *v;
    cJSON_ArrayForEach(v, config) {
        char key[65];
        if (knows(rows, n_rows, v->string))
            continue;
        tnl_log_escape(key, sizeof key, v->string, strlen(v->string));
        tnl_log(TNL_LOG_DEBUG, "%s: the key \"%s\" is not used", file, key);
    }
    return TNL_OK;
}

tnl_status mdl_config_flags(bool *out, int64_t n, const cJSON *config, const char *key,
                            const char *file, tnl_error *err) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(config, key), *v;
    if (!list)
        return tnl_fail(err, TNL_E_DATA, "%s: %s: missing", file, key);
    if (!cJSON_IsArray(list))
        return bad_value(file, key, list, "a list of zeros and ones, one per layer", err);
    int64_t i = 0;
    cJSON_ArrayForEach(v, list) {
        if (!is_integer(v, 0, 1))
            return tnl_fail(err, TNL_E_DATA, "%s: %s[%lld]: found %s, expected 0 or 1", file, key,
                            (long long)i, found(v).text);
        if (i < n)
            out[i] = v->valuedouble == 1;
        i++;
    }
    if (i != n)
        return tnl_fail(err, TNL_E_DATA, "%s: %s: found %lld entries, expected one per layer, %lld",
                        file, key, (long long)i, (long long)n);
    return TNL_OK;
}

bool mdl_config_has(const cJSON *config, const char *key) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(config, key);
    return v && !cJSON_IsNull(v);
}

bool mdl_config_is_true(const cJSON *config, const char *key) {
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(config, key));
}

static bool is_text(const cJSON *v, const char *text) {
    return cJSON_IsString(v) && strcmp(v->valuestring, text) == 0;
}

bool mdl_config_is_text(const cJSON *config, const char *key, const char *text) {
    return is_text(cJSON_GetObjectItemCaseSensitive(config, key), text);
}

bool mdl_config_lists(const cJSON *config, const char *key, const char *text) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(config, key), *v;
    if (!cJSON_IsArray(list))
        return false;
    cJSON_ArrayForEach(v, list) if (is_text(v, text)) return true;
    return false;
}

/* ---- documents ---- */

/* Text to an object; *out belongs to the caller. */
static tnl_status parse_object(cJSON **out, const char *json, size_t n,
                               const tnl_json_limits *limits, const char *file, tnl_error *err) {
    tnl_error why;
    *out = NULL;
    tnl_status s = tnl_json_check(json, n, limits, NULL, &why);
    if (s != TNL_OK)
        return tnl_fail(err, s, "%s: %s", file, why.msg);
    *out = cJSON_ParseWithLength(json, n);
    if (!*out)
        return tnl_fail(err, TNL_E_NOMEM, "%s: no memory to parse it", file);
    if (cJSON_IsObject(*out))
        return TNL_OK;
    s = tnl_fail(err, TNL_E_DATA, "%s: found %s, expected an object", file, found(*out).text);
    cJSON_Delete(*out);
    *out = NULL;
    return s;
}

static tnl_status unknown_arch(const cJSON *config, const char *file, tnl_error *err) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(config, "architectures");
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(config, "model_type");
    const cJSON *first = cJSON_IsArray(list) && list->child ? list->child : list;
    return tnl_fail(err, TNL_E_UNSUPPORTED,
                    "%s: architectures: found %s with model_type %s, expected "
                    "\"TransnormerForCausalLM\" with model_type \"transnormer\" or none",
                    file, found(first).text, found(type).text);
}

/* One sequence's state, so that a mistyped size is refused here with a number and not later by
 * the allocator. */
static tnl_status check_state(const mdl_spec *spec, const char *file, tnl_error *err) {
    uint64_t total = 0;
    for (int i = 0; i < spec->n_layers; i++) {
        const kn_linattn_dims *d = &spec->layers[i].dims;
        uint64_t bytes;
        if (!tnl_mul_u64(&bytes, (uint64_t)d->H * sizeof(float), (uint64_t)d->Dk) ||
            !tnl_mul_u64(&bytes, bytes, (uint64_t)d->Dv) || !tnl_add_u64(&total, total, bytes))
            return tnl_fail(err, TNL_E_DATA, "%s: the size of the state overflows", file);
    }
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page > 0 && total > (uint64_t)pages * (uint64_t)page)
        return tnl_fail(err, TNL_E_LIMIT,
                        "%s: the state of one sequence takes %llu bytes, this machine has %llu",
                        file, (unsigned long long)total,
                        (unsigned long long)pages * (uint64_t)page);
    return TNL_OK;
}

static tnl_status fill(mdl_spec *spec, const cJSON *config, const char *file, tnl_error *err) {
    TNL_TRY(mdl_config_quant(spec, config, file, err));
    for (int i = 0; i < mdl_arch_count; i++) {
        if (!mdl_arch_list[i]->match(config))
            continue;
        spec->arch = mdl_arch_list[i]->name;
        TNL_TRY(mdl_arch_list[i]->fill_spec(spec, config, file, err));
        return check_state(spec, file, err);
    }
    return unknown_arch(config, file, err);
}

tnl_status mdl_config_parse(mdl_spec *spec, const char *json, size_t n, const char *name,
                            tnl_error *err) {
    cJSON *config;
    memset(spec, 0, sizeof *spec);
    TNL_TRY(parse_object(&config, json, n, &config_limits, name, err));
    tnl_status s = fill(spec, config, name, err);
    cJSON_Delete(config);
    if (s != TNL_OK)
        mdl_spec_clear(spec);
    return s;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

tnl_status mdl_config_load_file(mdl_spec *spec, const char *path, tnl_error *err) {
    char *text;
    size_t n;
    memset(spec, 0, sizeof *spec);
    TNL_TRY(mdl_file_text(&text, &n, path, config_limits.max_bytes, err));
    tnl_status s = mdl_config_parse(spec, text, n, base_name(path), err);
    free(text);
    return s;
}

/* ---- companions ---- */

static tnl_status flag_of(bool *flag, const cJSON *config, const char *key, const char *file,
                          tnl_error *err) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(config, key);
    if (!v || cJSON_IsNull(v))
        return TNL_OK;
    if (!cJSON_IsBool(v))
        return bad_value(file, key, v, "true or false", err);
    *flag = cJSON_IsTrue(v);
    return TNL_OK;
}

static tnl_status apply_tokenizer(mdl_spec *spec, const cJSON *config, const char *file,
                                  tnl_error *err) {
    TNL_TRY(flag_of(&spec->add_bos, config, "add_bos_token", file, err));
    return flag_of(&spec->add_eos, config, "add_eos_token", file, err);
}

/* Generation settings win over the model's, as in the published code. A list of ends of sequence
 * is beyond a spec: it is reported and left alone. */
static tnl_status apply_generation(mdl_spec *spec, const cJSON *config, const char *file,
                                   tnl_error *err) {
    const struct {
        const char *key;
        int32_t *id;
    } ids[] = {{"bos_token_id", &spec->bos_id},
               {"eos_token_id", &spec->eos_id},
               {"pad_token_id", &spec->pad_id}};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        const cJSON *v = cJSON_GetObjectItemCaseSensitive(config, ids[i].key);
        if (!v || cJSON_IsNull(v))
            continue;
        if (cJSON_IsArray(v)) {
            tnl_log(TNL_LOG_WARN, "%s: %s: a list is not used, id %d stays", file, ids[i].key,
                    *ids[i].id);
            continue;
        }
        if (!is_integer(v, 0, spec->vocab - 1))
            return bad_value(file, ids[i].key, v, "a token id within the vocabulary", err);
        *ids[i].id = (int32_t)v->valuedouble;
    }
    return TNL_OK;
}

/* A file that need not exist. */
static tnl_status companion(mdl_spec *spec, const char *dir, const char *file,
                            tnl_status (*apply)(mdl_spec *, const cJSON *, const char *,
                                                tnl_error *),
                            tnl_error *err) {
    if (!mdl_file_exists(dir, file))
        return TNL_OK;
    char *text = NULL, *path = mdl_file_path(dir, file);
    cJSON *config = NULL;
    size_t n = 0;
    tnl_status s = path ? mdl_file_text(&text, &n, path, tokenizer_limits.max_bytes, err)
                        : tnl_fail(err, TNL_E_NOMEM, "%s: no memory to read it", file);
    if (s == TNL_OK)
        s = parse_object(&config, text, n, &tokenizer_limits, file, err);
    if (s == TNL_OK)
        s = apply(spec, config, file, err);
    cJSON_Delete(config);
    free(text);
    free(path);
    return s;
}

tnl_status mdl_config_load(mdl_spec *spec, const char *dir, tnl_error *err) {
    memset(spec, 0, sizeof *spec);
    char *path = mdl_file_path(dir, "config.json");
    if (!path)
        return tnl_fail(err, TNL_E_NOMEM, "config.json: no memory to read it");
    tnl_status s = mdl_config_load_file(spec, path, err);
    free(path);
    if (s == TNL_OK)
        s = companion(spec, dir, "tokenizer_config.json", apply_tokenizer, err);
    if (s == TNL_OK)
        s = companion(spec, dir, "generation_config.json", apply_generation, err);
    if (s != TNL_OK)
        mdl_spec_clear(spec);
    return s;
}
