/* response_format, and TGI's grammar: what an answer must look like. */
#include <stdio.h>
#include <string.h>

#include "server/http/json_parts.h"

bool srv_json_format(srv_reading *r, const srv_field *f, const cJSON *v) {
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(v, "type");
    if (!cJSON_IsObject(v) || !cJSON_IsString(type))
        return srv_json_refuse(r->p, SRV_ERR_INVALID_TYPE, f);
    if (strcmp(type->valuestring, "text") == 0)
        return true;
    return srv_refuse(r->p, SRV_ERR_UNSUPPORTED, f->name);
}

bool srv_json_grammar(srv_reading *r, const srv_field *f, const cJSON *v) {
    (void)v;
    return srv_refuse(r->p, SRV_ERR_UNSUPPORTED, f->name);
}
