/* The chat_template of a model folder's tokenizer_config.json. */
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/json_scan.h"
#include "model/file.h"
#include "server/http/api/chat_template.h"

enum { MAX_FILE = 8 << 20 }; /* added tokens make some of these files large */

static const tnl_json_limits limits = {
    .max_bytes = MAX_FILE, .max_values = 4 << 20, .max_depth = 32, .max_keys = 1 << 20};

/* A string, or an array of {name, template}, of which "default" counts. */
static const char *template_of(const cJSON *v) {
    const cJSON *item;
    if (cJSON_IsString(v))
        return v->valuestring;
    cJSON_ArrayForEach(item, v) {
        const cJSON *name = cJSON_GetObjectItemCaseSensitive(item, "name");
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(item, "template");
        if (cJSON_IsString(name) && cJSON_IsString(text) &&
            strcmp(name->valuestring, "default") == 0)
            return text->valuestring;
    }
    return NULL;
}

static tnl_status take(char **out, const cJSON *root, tnl_error *err) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(root, "chat_template");
    const char *text = template_of(v);
    if (!v || cJSON_IsNull(v))
        return TNL_OK;
    if (!text)
        return tnl_fail(err, TNL_E_DATA,
                        "tokenizer_config.json: chat_template is neither a string nor a list with "
                        "a \"default\"; choose one with --chat-template");
    *out = strdup(text);
    return *out ? TNL_OK : tnl_fail(err, TNL_E_NOMEM, "out of memory for a chat template");
}

static tnl_status parse(char **out, const char *text, size_t n, tnl_error *err) {
    tnl_error why = {0};
    if (tnl_json_check(text, n, &limits, NULL, &why) != TNL_OK)
        return tnl_fail(err, TNL_E_DATA, "tokenizer_config.json: %.200s", why.msg);
    cJSON *root = cJSON_ParseWithLength(text, n);
    if (!root)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory for tokenizer_config.json");
    tnl_status s = take(out, root, err);
    cJSON_Delete(root);
    return s;
}

tnl_status srv_chat_read(char **out, const char *dir, tnl_error *err) {
    *out = NULL;
    if (!mdl_file_exists(dir, "tokenizer_config.json"))
        return TNL_OK;
    char *path = mdl_file_path(dir, "tokenizer_config.json"), *text = NULL;
    size_t n = 0;
    if (!path)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory for a path");
    tnl_status s = mdl_file_text(&text, &n, path, MAX_FILE, err);
    if (s == TNL_OK)
        s = parse(out, text, n, err);
    free(text);
    free(path);
    return s;
}
