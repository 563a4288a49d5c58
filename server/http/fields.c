/* The table of fields.h. */
#include "server/http/fields.h"

#include <string.h>

#define AT(f) offsetof(srv_gen, params) + offsetof(eng_params, f)
#define F_INT "integer"
#define F_NUM "number"

/* clang-format off */
const srv_field srv_fields[] = {
    {"prompt", SRV_FIELD_PROMPT, 0, 0, false, 0, "string or array of token ids", NULL, "the text to continue"},
    {"max_tokens", SRV_FIELD_INT, 0, 1000000, false, AT(max_tokens), F_INT, "256", "most tokens to generate; 0 reads the prompt only"},
    {"temperature", SRV_FIELD_FLOAT, 0, 100, false, AT(temperature), F_NUM, "1", "0: always the most likely token"},
    {"top_k", SRV_FIELD_INT32, 0, 2147483647, false, AT(top_k), F_INT, "0", "keep the k most likely tokens; 0: off"},
    {"top_p", SRV_FIELD_FLOAT, 0, 1, false, AT(top_p), F_NUM, "1", "keep the smallest set with this probability; 0: the most likely token"},
    {"min_p", SRV_FIELD_FLOAT, 0, 1, false, AT(min_p), F_NUM, "0", "drop tokens below this share of the most likely one; 0: off"},
    {"typical_p", SRV_FIELD_FLOAT, 0, 1, true, AT(typical_p), F_NUM, "1", "locally typical sampling; 1: off"},
    {"repetition_penalty", SRV_FIELD_FLOAT, 0, 100, true, AT(repetition_penalty), F_NUM, "1", "over prompt and completion; 1: off"},
    {"presence_penalty", SRV_FIELD_FLOAT, -2, 2, false, AT(presence_penalty), F_NUM, "0", "once for each token of the completion"},
    {"frequency_penalty", SRV_FIELD_FLOAT, -2, 2, false, AT(frequency_penalty), F_NUM, "0", "for each occurrence in the completion"},
    {"logit_bias", SRV_FIELD_BIAS, -100, 100, false, 0, "object of token id to number", "{}", "added to logits; -100 forbids; at most 1024 entries"},
    {"seed", SRV_FIELD_SEED, 0, 9007199254740991.0, false, 0, "integer, or string of digits up to 2^64-1", "null", "same seed, same text; absent: drawn anew"},
    {"stop", SRV_FIELD_STOP, 0, 16, false, 0, "array of strings", "[]", "generation ends before the first of these; at most 16, each 1 to 256 bytes"},
    {"stream", SRV_FIELD_BOOL, 0, 1, false, offsetof(srv_gen, stream), "boolean", "true", "one JSON object a line as tokens come, or one answer at the end"},
    {"logprobs", SRV_FIELD_INT32, 0, ENG_MAX_LOGPROBS, false, AT(logprobs), F_INT, "0", "alternatives reported with each token"},
    {"ignore_eos", SRV_FIELD_BOOL, 0, 1, false, AT(ignore_eos), "boolean", "false", "go on after the end-of-text token"},
    {"echo", SRV_FIELD_BOOL, 0, 1, false, AT(echo), "boolean", "false", "report the prompt's tokens first"},
};
/* clang-format on */

const int srv_field_count = (int)(sizeof srv_fields / sizeof srv_fields[0]);

_Static_assert(sizeof(int) == sizeof(int32_t), "logprobs is an int");

const srv_field *srv_field_find(const char *name) {
    for (int i = 0; i < srv_field_count; i++)
        if (strcmp(srv_fields[i].name, name) == 0)
            return &srv_fields[i];
    return NULL;
}

static void pair(srv_buf *b, const char *key, const char *text) {
    srv_json_string(b, key, strlen(key));
    srv_buf_puts(b, ":");
    srv_json_string(b, text, strlen(text));
    srv_buf_puts(b, ",");
}

static bool is_number(srv_field_kind k) {
    return k == SRV_FIELD_INT || k == SRV_FIELD_INT32 || k == SRV_FIELD_FLOAT;
}

void srv_fields_json(srv_buf *b) {
    srv_buf_puts(b, "[");
    for (int i = 0; i < srv_field_count; i++) {
        const srv_field *f = &srv_fields[i];
        srv_buf_puts(b, i ? ",\n {" : "\n {");
        pair(b, "name", f->name);
        pair(b, "type", f->type);
        if (is_number(f->kind)) {
            srv_buf_puts(b, "\"min\":");
            srv_json_double(b, f->min);
            srv_buf_puts(b, f->min_open ? ",\"min_open\":true,\"max\":" : ",\"max\":");
            srv_json_double(b, f->max);
            srv_buf_puts(b, ",");
        }
        srv_buf_printf(b, "\"required\":%s,\"default\":%s,", f->preset ? "false" : "true",
                       f->preset ? f->preset : "null");
        srv_buf_puts(b, "\"doc\":");
        srv_json_string(b, f->doc, strlen(f->doc));
        srv_buf_puts(b, "}");
    }
    srv_buf_puts(b, "\n]\n");
}
