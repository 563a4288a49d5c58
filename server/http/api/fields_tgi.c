/* The table of text-generation-inference bodies: POST /generate with "inputs", /generate_stream
 * and /. Unlike TGI we refuse names we do not know. */
#include "server/http/api/field_rows.h"

/* clang-format off */
static const srv_field parameter_rows[] = {
    {"best_of", SRV_FIELD_INT32, 1, SRV_MAX_N, false, OF(best_of), F_INT, "null", "draw this many, report the likeliest; not when streaming", NO_SUB},
    {"temperature", SRV_FIELD_FLOAT, 0, 100, true, AT(temperature), F_NUM, "1", "given: sampling is on", NULL, OF(has_sampling)},
    {"repetition_penalty", SRV_FIELD_FLOAT, 0, 100, true, AT(repetition_penalty), F_NUM, "1", "over prompt and completion; 1: off", NO_SUB},
    {"frequency_penalty", SRV_FIELD_FLOAT, -2, 2, false, AT(frequency_penalty), F_NUM, "0", "for each occurrence in the completion", NO_SUB},
    {"top_k", SRV_FIELD_INT32, 1, 2147483647, false, AT(top_k), F_INT, "null", "keep the k likeliest tokens; given: sampling is on", NULL, OF(has_sampling)},
    {"top_p", SRV_FIELD_FLOAT, 0, 1, true, AT(top_p), F_NUM, "1", "keep the smallest set with this probability; given: sampling is on", NULL, OF(has_sampling)},
    {"typical_p", SRV_FIELD_FLOAT, 0, 1, true, AT(typical_p), F_NUM, "1", "locally typical sampling; given: sampling is on", NULL, OF(has_sampling)},
    {"do_sample", SRV_FIELD_BOOL, 0, 1, false, OF(do_sample), F_BOOL, "false", "draw, rather than take the most likely token", NO_SUB},
    {"max_new_tokens", SRV_FIELD_INT, 1, 1000000, false, AT(max_tokens), F_INT, "256", "most tokens to generate", NO_SUB},
    {"return_full_text", SRV_FIELD_BOOL, 0, 1, false, OF(full_text), F_BOOL, "false", "put the prompt in front of the text", NO_SUB},
    {"stop", SRV_FIELD_STOP, 0, 16, false, 0, "array of strings", "[]", "ends the text; at most 16, of 1 to 256 bytes", NO_SUB},
    {"truncate", SRV_FIELD_INT, 1, 2147483647, false, OF(truncate), F_INT, "null", "keep the last tokens of the prompt only", NO_SUB},
    {"watermark", SRV_FIELD_NEUTRAL, 0, 0, false, 0, "false", "false", "watermarking", NO_SUB},
    {"details", SRV_FIELD_BOOL, 0, 1, false, OF(details), F_BOOL, "false", "report tokens and how the text ended", NO_SUB},
    {"decoder_input_details", SRV_FIELD_BOOL, 0, 1, false, OF(prefill), F_BOOL, "false", "report the prompt's tokens; with details; not streaming", NO_SUB},
    {"seed", SRV_FIELD_SEED, 0, 9007199254740991.0, false, 0, F_SEED, "null", "same seed, same text; absent: drawn anew", NO_SUB},
    {"top_n_tokens", SRV_FIELD_INT32, 0, 5, false, AT(logprobs), F_INT, "0", "alternatives reported with each token", NO_SUB},
    {"grammar", SRV_FIELD_GRAMMAR, 0, 0, false, 0, "object", "null", "{\"type\": \"json\", \"value\": a JSON Schema}", NO_SUB},
    {"adapter_id", SRV_FIELD_NEUTRAL, 0, 0, false, 0, "null", "null", "adapters", NO_SUB},
};
static const srv_table parameters = {.name = "TgiParameters", .rows = parameter_rows, .n = COUNT(parameter_rows)};

static const srv_field tgi_rows[] = {
    {"inputs", SRV_FIELD_TEXT, 0, 0, false, 0, "string", NULL, "the text to continue", NO_SUB},
    {"parameters", SRV_FIELD_OBJECT, 0, 0, false, 0, "object", "null", "absent: sampling is on", &parameters, OF(has_parameters)},
    {"stream", SRV_FIELD_BOOL, 0, 1, false, OF(stream), F_BOOL, "false", "server-sent events as tokens come", NO_SUB},
    {"model", SRV_FIELD_ANY, 0, 0, false, 0, "string", "null", "without effect", NO_SUB},
};
/* clang-format on */

const srv_table srv_table_tgi = {.name = "TgiRequest",
                                 .dialect = SRV_DIALECT_TGI,
                                 .rows = tgi_rows,
                                 .n = COUNT(tgi_rows),
                                 .prompt = "inputs"};
