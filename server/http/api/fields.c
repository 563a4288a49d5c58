/* The table of POST /generate, and what tables have in common. The others are in fields_openai.c
 * and fields_tgi.c. */
#include "server/http/api/fields.h"

#include <string.h>

#include "server/http/api/field_rows.h"

/* clang-format off */
static const srv_field rows[] = {
    {"prompt", SRV_FIELD_PROMPT, 0, 0, false, 0, "string or array of token ids", NULL, "the text to continue", NO_SUB},
    {"max_tokens", SRV_FIELD_INT, 0, 1000000, false, AT(max_tokens), F_INT, "256", "most tokens to generate; 0 reads the prompt only", NO_SUB},
    {"temperature", SRV_FIELD_FLOAT, 0, 100, false, AT(temperature), F_NUM, "1", "0: always the most likely token", NO_SUB},
    {"top_k", SRV_FIELD_INT32, 0, 2147483647, false, AT(top_k), F_INT, "0", "keep the k most likely tokens; 0: off", NO_SUB},
    {"top_p", SRV_FIELD_FLOAT, 0, 1, false, AT(top_p), F_NUM, "1", "keep the smallest set of this probability; 0: the likeliest", NO_SUB},
    {"min_p", SRV_FIELD_FLOAT, 0, 1, false, AT(min_p), F_NUM, "0", "drop tokens below this share of the likeliest; 0: off", NO_SUB},
    {"typical_p", SRV_FIELD_FLOAT, 0, 1, true, AT(typical_p), F_NUM, "1", "locally typical sampling; 1: off", NO_SUB},
    {"repetition_penalty", SRV_FIELD_FLOAT, 0, 100, true, AT(repetition_penalty), F_NUM, "1", "over prompt and completion; 1: off", NO_SUB},
    {"presence_penalty", SRV_FIELD_FLOAT, -2, 2, false, AT(presence_penalty), F_NUM, "0", "once for each token of the completion", NO_SUB},
    {"frequency_penalty", SRV_FIELD_FLOAT, -2, 2, false, AT(frequency_penalty), F_NUM, "0", "for each occurrence in the completion", NO_SUB},
    {"logit_bias", SRV_FIELD_BIAS, -100, 100, false, 0, "object of token id to number", "{}", "added to logits; -100 forbids; at most 1024", NO_SUB},
    {"seed", SRV_FIELD_SEED, 0, 9007199254740991.0, false, 0, F_SEED, "null", "same seed, same text; absent: drawn anew", NO_SUB},
    {"stop", SRV_FIELD_STOP, 0, 16, false, 0, "array of strings", "[]", "ends the text; at most 16, of 1 to 256 bytes", NO_SUB},
    {"stream", SRV_FIELD_BOOL, 0, 1, false, offsetof(srv_gen, stream), "boolean", "true", "an object a line as tokens come, or one answer at the end", NO_SUB},
    {"logprobs", SRV_FIELD_INT32, 0, ENG_MAX_LOGPROBS, false, AT(logprobs), F_INT, "0", "alternatives reported with each token", NO_SUB},
    {"ignore_eos", SRV_FIELD_BOOL, 0, 1, false, AT(ignore_eos), "boolean", "false", "go on after the end-of-text token", NO_SUB},
    {"echo", SRV_FIELD_BOOL, 0, 1, false, AT(echo), "boolean", "false", "report the prompt's tokens first", NO_SUB},
    {"speculate", SRV_FIELD_INT32, 0, ENG_SPECULATE_MAX, false, AT(speculate), F_INT, "null", "tokens guessed ahead, up to --speculate", NO_SUB},
    {"cache_prompt", SRV_FIELD_BOOL, 0, 1, false, AT(cache_prompt), "boolean", "true", "start from a known prefix, remember this one", NO_SUB},
    {"session_id", SRV_FIELD_SESSION, 0, 0, false, 0, "string", "null", SRV_DOC_SESSION, NO_SUB},
};
/* clang-format on */

const srv_table srv_table_generate = {.name = "GenerateRequest",
                                      .dialect = SRV_DIALECT_OURS,
                                      .rows = rows,
                                      .n = (int)(sizeof rows / sizeof rows[0]),
                                      .prompt = "prompt",
                                      .instead = &srv_table_tgi};

_Static_assert(sizeof(int) == sizeof(int32_t), "logprobs is an int");

const srv_field *srv_field_find(const srv_table *t, const char *name) {
    for (int i = 0; i < t->n; i++)
        if (strcmp(t->rows[i].name, name) == 0)
            return &t->rows[i];
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
    for (int i = 0; i < srv_table_generate.n; i++) {
        const srv_field *f = &rows[i];
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
