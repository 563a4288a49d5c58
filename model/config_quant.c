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
    int method, type, scale;
    int64_t version, bits, group, run, tile;
} quant_keys;

static const char *const method_words[] = {METHOD, NULL};
static const char *const type_words[] = {"q8", "q4", NULL};
static const char *const scale_words[] = {"bfloat16", NULL};

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
    FIXED("group_size", group, KN_Q_GROUP),
    {.key = "run_size", .type = CFG_INT, .min = 0, .max = KN_Q_GROUP, .offset = AT(run)},
    WORD("scale_dtype", scale, scale_words),
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
    const bool q8 = k.type == 0;
    spec->quantized = true;
    spec->packed = q8 ? KN_Q8 : KN_Q4;
    TNL_TRY(check_int("bits", k.bits, q8 ? 8 : 4, &k, where, err));
    return check_int("run_size", k.run, q8 ? 0 : KN_Q4_RUN, &k, where, err);
}

/* The object goes before the last brace; everything else stays as it is. */
tnl_status mdl_config_add_quant(char **out, const char *config, size_t n, kn_dtype type,
                                tnl_error *err) {
    char object[512];
    size_t end = n;
    while (end > 0 && config[end - 1] != '}')
        end--;
    size_t body = end ? end - 1 : 0;
    while (body > 0 && strchr(" \t\r\n", config[body - 1]))
        body--;
    int len =
        snprintf(object, sizeof object,
                 ",\n  \"quantization_config\": {\n    \"quant_method\": \"" METHOD "\",\n"
                 "    \"version\": %d,\n    \"type\": \"%s\",\n    \"bits\": %d,\n"
                 "    \"tile_outputs\": %d,\n    \"group_size\": %d,\n%s"
                 "    \"scale_dtype\": \"bfloat16\",\n    \"layout\": \"tiles of 64 outputs; "
                 "per group of inputs: scales, %scodes of 4 inputs by 64 outputs\"\n  }\n}\n",
                 VERSION, kn_dtypes[type].name, type == KN_Q8 ? 8 : 4, KN_Q_OUTS, KN_Q_GROUP,
                 type == KN_Q4 ? "    \"run_size\": 16,\n" : "", type == KN_Q4 ? "factors, " : "");
    *out = malloc(body + (size_t)len + 1);
    if (!*out)
        return tnl_fail(err, TNL_E_NOMEM, "config.json: no memory to write it");
    memcpy(*out, config, body);
    memcpy(*out + body, object, (size_t)len + 1);
    return TNL_OK;
}
