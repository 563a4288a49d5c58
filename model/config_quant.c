/* quantization_config: what a folder says about its packed matrices. It repeats the figures of the
 * layout (kernels/quant.h), so that a reader need not guess and a changed layout is refused. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "kernels/base/log.h"
#include "kernels/quant.h"
#include "model/config.h"
#include "model/config_keys.h"

#define METHOD "tnl"
enum { VERSION = 1 };

typedef struct quant_keys {
    int method, type, scale, code;
    int64_t version, bits, group, run, tile;
} quant_keys;

static const char *const method_words[] = {METHOD, NULL};
static const char *const type_words[] = {"q8", "q4", "f8", NULL};
static const char *const scale_words[] = {"bfloat16", "float32", NULL};
static const char *const code_words[] = {"integer", "float8_e4m3fn", NULL};

/* What the keys must say for each word of type_words; 0 is a key that is not there. */
typedef struct quant_layout {
    kn_dtype type;
    int64_t bits, group, run;
    int scale, code;
    const char *words; /* for people */
} quant_layout;

static const quant_layout layouts[] = {
    {KN_Q8, 8, KN_Q_GROUP, 0, 0, 0,
     "tiles of 64 outputs; per group of inputs: scales, codes of 4 inputs by 64 outputs"},
    {KN_Q4, 4, KN_Q_GROUP, KN_Q4_RUN, 0, 0,
     "tiles of 64 outputs; per group of inputs: scales, factors, codes of 4 inputs by 64 outputs"},
    {KN_F8, 8, 0, 0, 1, 1,
     "tiles of 64 rows; per row: codes, zeros up to a multiple of 16 bytes, scale, 12 zero bytes"},
};
enum { N_LAYOUTS = sizeof layouts / sizeof layouts[0] };

#define AT(field) offsetof(quant_keys, field)
#define WORD(name, field, list)                                                                    \
    { .key = name, .type = CFG_WORD, .required = true, .offset = AT(field), .words = list }
#define FIXED(name, field, value)                                                                  \
    {                                                                                              \
        .key = name, .type = CFG_INT, .required = true, .min = value, .max = value,                \
        .offset = AT(field)                                                                        \
    }

static const cfg_key key_rows[] = {
    WORD("quant_method", method, method_words),
    FIXED("version", version, VERSION),
    WORD("type", type, type_words),
    {.key = "bits", .type = CFG_INT, .required = true, .min = 4, .max = 8, .offset = AT(bits)},
    FIXED("tile_outputs", tile, KN_Q_OUTS),
    {.key = "group_size", .type = CFG_INT, .min = 0, .max = 1 << 20, .offset = AT(group)},
    {.key = "run_size", .type = CFG_INT, .min = 0, .max = KN_Q_GROUP, .offset = AT(run)},
    WORD("scale_dtype", scale, scale_words),
    {.key = "code_dtype", .type = CFG_WORD, .offset = AT(code), .words = code_words},
    {.key = "layout", .type = CFG_NOTE}, /* words for people */
};

static tnl_status check_method(const cJSON *quant, const char *file, tnl_error *err) {
    char shown[60];
    const cJSON *method = cJSON_GetObjectItemCaseSensitive(quant, "quant_method");
    const char *text = cJSON_IsString(method) ? method->valuestring : "";
    if (strcmp(text, METHOD) == 0)
        return TNL_OK;
    tnl_log_escape(shown, sizeof shown, text, strlen(text));
    return tnl_fail(err, TNL_E_UNSUPPORTED,
                    "%s: quantization_config: quant_method: found %s%s%s, expected \"" METHOD
                    "\": weights quantised by other programs are not read",
                    file, *text ? "\"" : "", *text ? shown : "none", *text ? "\"" : "");
}

static tnl_status check_int(const char *key, int64_t value, int64_t expected, const quant_keys *k,
                            const char *where, tnl_error *err) {
    if (value == expected)
        return TNL_OK;
    return tnl_fail(err, TNL_E_DATA, "%s: %s: found %lld, expected %lld for %s", where, key,
                    (long long)value, (long long)expected, type_words[k->type]);
}

static tnl_status check_word(const char *key, int value, int expected, const char *const *words,
                             const quant_keys *k, const char *where, tnl_error *err) {
    if (value == expected)
        return TNL_OK;
    return tnl_fail(err, TNL_E_DATA, "%s: %s: found \"%s\", expected \"%s\" for %s", where, key,
                    words[value], words[expected], type_words[k->type]);
}

tnl_status mdl_config_quant(mdl_spec *spec, const cJSON *config, const char *file, tnl_error *err) {
    char where[256];
    quant_keys k = {0};
    if (!mdl_config_has(config, "quantization_config"))
        return TNL_OK;
    const cJSON *quant = cJSON_GetObjectItemCaseSensitive(config, "quantization_config");
    if (!cJSON_IsObject(quant))
        return tnl_fail(err, TNL_E_DATA, "%s: quantization_config: expected an object", file);
    TNL_TRY(check_method(quant, file, err));
    snprintf(where, sizeof where, "%s: quantization_config", file);
    TNL_TRY(mdl_config_keys(&k, key_rows, sizeof key_rows / sizeof key_rows[0], quant, where, err));
    const quant_layout *l = &layouts[k.type];
    spec->quantized = true;
    spec->packed = l->type;
    TNL_TRY(check_int("bits", k.bits, l->bits, &k, where, err));
    TNL_TRY(check_int("group_size", k.group, l->group, &k, where, err));
    TNL_TRY(check_int("run_size", k.run, l->run, &k, where, err));
    TNL_TRY(check_word("scale_dtype", k.scale, l->scale, scale_words, &k, where, err));
    return check_word("code_dtype", k.code, l->code, code_words, &k, where, err);
}

/* One member and a comma, or nothing where the layout has no such key. */
static void put_int(char *out, size_t cap, const char *key, int64_t value) {
    size_t n = strlen(out);
    if (value)
        snprintf(out + n, cap - n, "    \"%s\": %lld,\n", key, (long long)value);
}

static void put_word(char *out, size_t cap, const char *key, const char *value) {
    size_t n = strlen(out);
    snprintf(out + n, cap - n, "    \"%s\": \"%s\",\n", key, value);
}

static void put_layout(char *out, size_t cap, const quant_layout *l) {
    put_word(out, cap, "quant_method", METHOD);
    put_int(out, cap, "version", VERSION);
    put_word(out, cap, "type", kn_dtypes[l->type].name);
    put_int(out, cap, "bits", l->bits);
    put_int(out, cap, "tile_outputs", KN_Q_OUTS);
    put_int(out, cap, "group_size", l->group);
    put_int(out, cap, "run_size", l->run);
    put_word(out, cap, "scale_dtype", scale_words[l->scale]);
    if (l->code)
        put_word(out, cap, "code_dtype", code_words[l->code]);
    put_word(out, cap, "layout", l->words);
}

/* The object goes before the last brace; everything else stays as it is. */
tnl_status mdl_config_add_quant(char **out, const char *config, size_t n, kn_dtype type,
                                tnl_error *err) {
    static const char begin[] = ",\n  \"quantization_config\": {\n", tail[] = "\n  }\n}\n";
    char members[640] = "";
    size_t end = n;
    while (end > 0 && config[end - 1] != '}')
        end--;
    size_t body = end ? end - 1 : 0;
    while (body > 0 && strchr(" \t\r\n", config[body - 1]))
        body--;
    for (int i = 0; i < N_LAYOUTS; i++)
        if (layouts[i].type == type)
            put_layout(members, sizeof members, &layouts[i]);
    const int len = (int)strlen(members) - 2; /* without the last comma and line end */
    const size_t size = body + sizeof begin + sizeof members + sizeof tail;
    *out = malloc(size);
    if (!*out)
        return tnl_fail(err, TNL_E_NOMEM, "config.json: no memory to write it");
    memcpy(*out, config, body);
    snprintf(*out + body, size - body, "%s%.*s%s", begin, len, members, tail);
    return TNL_OK;
}
