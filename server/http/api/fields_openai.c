/* The tables of POST /v1/completions and /v1/chat/completions: OpenAI's fields, then ours under
 * their names in other servers. Fields that OpenAI's own clients may send are known even where they
 * have no effect or only their neutral value is accepted; any other name is refused. */
#include "server/http/api/field_rows.h"

/* clang-format off */
static const srv_field stream_rows[] = {
    {"include_usage", SRV_FIELD_BOOL, 0, 1, false, OF(include_usage), F_BOOL, "false", "a last chunk without choices carries the usage", NO_SUB},
    {"continuous_usage_stats", SRV_FIELD_BOOL, 0, 1, false, OF(continuous_usage), F_BOOL, "false", "every chunk carries the usage so far", NO_SUB},
    {"include_obfuscation", SRV_FIELD_NEUTRAL, 0, 0, false, 0, F_BOOL, "false", "padding of chunks", NO_SUB},
};
static const srv_table stream_table = {.name = "StreamOptions", .rows = stream_rows, .n = COUNT(stream_rows)};

#define SAMPLING \
    {"temperature", SRV_FIELD_FLOAT, 0, 2, false, AT(temperature), F_NUM, "1", "0: always the most likely token", NO_SUB}, \
    {"top_p", SRV_FIELD_FLOAT, 0, 1, false, AT(top_p), F_NUM, "1", "keep the smallest set with this probability", NO_SUB}, \
    {"n", SRV_FIELD_INT32, 1, SRV_MAX_N, false, OF(n), F_INT, "1", "answers to draw for each prompt", NO_SUB}, \
    {"stream", SRV_FIELD_BOOL, 0, 1, false, OF(stream), F_BOOL, "false", "server-sent events as tokens come", NO_SUB}, \
    {"stream_options", SRV_FIELD_OBJECT, 0, 0, false, 0, "object", "null", "only with stream", &stream_table, 0}, \
    {"stop", SRV_FIELD_STOPS, 0, 16, false, 0, "string, or array of strings", "null", "ends the text; at most 16, of 1 to 256 bytes", NO_SUB}, \
    {"presence_penalty", SRV_FIELD_FLOAT, -2, 2, false, AT(presence_penalty), F_NUM, "0", "once for each token of the completion", NO_SUB}, \
    {"frequency_penalty", SRV_FIELD_FLOAT, -2, 2, false, AT(frequency_penalty), F_NUM, "0", "for each occurrence in the completion", NO_SUB}, \
    {"logit_bias", SRV_FIELD_BIAS, -100, 100, false, 0, "object of token id to number", "null", "added to logits; -100 forbids; at most 1024", NO_SUB}, \
    {"seed", SRV_FIELD_SEED, 0, 9007199254740991.0, false, 0, F_SEED, "null", "same seed, same text; absent: drawn anew", NO_SUB}, \
    {"response_format", SRV_FIELD_FORMAT, 0, 0, false, 0, "object", "null", "text, json_object or json_schema", NO_SUB}, \
    {"user", SRV_FIELD_ANY, 0, 0, false, 0, "string", "null", "without effect", NO_SUB}, \
    {"top_k", SRV_FIELD_INT32, 0, 2147483647, false, AT(top_k), F_INT, "0", "keep the k most likely tokens; 0: off", NO_SUB}, \
    {"min_p", SRV_FIELD_FLOAT, 0, 1, false, AT(min_p), F_NUM, "0", "drop tokens below this share of the likeliest; 0: off", NO_SUB}, \
    {"typical_p", SRV_FIELD_FLOAT, 0, 1, true, AT(typical_p), F_NUM, "1", "locally typical sampling; 1: off", NO_SUB}, \
    {"repetition_penalty", SRV_FIELD_FLOAT, 0, 100, true, AT(repetition_penalty), F_NUM, "1", "over prompt and completion; 1: off", NO_SUB}, \
    {"ignore_eos", SRV_FIELD_BOOL, 0, 1, false, AT(ignore_eos), F_BOOL, "false", "go on after the end-of-text token", NO_SUB}, \
    {"speculate", SRV_FIELD_INT32, 0, ENG_SPECULATE_MAX, false, AT(speculate), F_INT, "null", "tokens guessed ahead, up to --speculate", NO_SUB}, \
    {"cache_prompt", SRV_FIELD_BOOL, 0, 1, false, AT(cache_prompt), F_BOOL, "true", "start from a known prefix, remember this one", NO_SUB}

static const srv_field completion_rows[] = {
    {"model", SRV_FIELD_MODEL, 0, 0, false, 0, "string", "null", "must be the served model's name, where given", NO_SUB},
    {"prompt", SRV_FIELD_PROMPTS, 0, 0, false, 0, "string, token ids, or array of either", NULL, "what to continue; at most 32 prompts", NO_SUB},
    {"max_tokens", SRV_FIELD_INT, 0, 1000000, false, AT(max_tokens), F_INT, "16", "most tokens to generate; 0 with echo scores the prompt", NO_SUB},
    {"best_of", SRV_FIELD_INT32, 1, SRV_MAX_N, false, OF(best_of), F_INT, "null", "draw this many, report the likeliest n; not with stream", NO_SUB},
    {"logprobs", SRV_FIELD_INT32, 0, ENG_MAX_LOGPROBS, false, OF(logprobs), F_INT, "null", "alternatives reported with each token", NO_SUB},
    {"echo", SRV_FIELD_BOOL, 0, 1, false, AT(echo), F_BOOL, "false", "the prompt comes first", NO_SUB},
    {"suffix", SRV_FIELD_NEUTRAL, 0, 0, false, 0, "null", "null", "text behind it: these models read forward only", NO_SUB},
    SAMPLING,
    {"session_id", SRV_FIELD_SESSION, 0, 0, false, 0, "string", "null", SRV_DOC_SESSION, NO_SUB},
};

static const srv_field chat_rows[] = {
    {"model", SRV_FIELD_MODEL, 0, 0, false, 0, "string", "null", "must be the served model's name, where given", NO_SUB},
    {"messages", SRV_FIELD_MESSAGES, 0, 0, false, 0, "array of {role, content}", NULL, "the conversation, through the chat template", NO_SUB},
    {"max_tokens", SRV_FIELD_INT, 0, 1000000, false, AT(max_tokens), F_INT, "2048", "most tokens to generate", NO_SUB},
    {"max_completion_tokens", SRV_FIELD_INT, 0, 1000000, false, AT(max_tokens), F_INT, "null", "the same under its newer name", NO_SUB},
    {"logprobs", SRV_FIELD_BOOL, 0, 1, false, OF(want_logprobs), F_BOOL, "false", "report the logprob of each token", NO_SUB},
    {"top_logprobs", SRV_FIELD_INT32, 0, ENG_MAX_LOGPROBS, false, OF(top_logprobs), F_INT, "null", "alternatives for each token; needs logprobs", NO_SUB},
    {"metadata", SRV_FIELD_ANY, 0, 0, false, 0, "object", "null", "without effect", NO_SUB},
    {"safety_identifier", SRV_FIELD_ANY, 0, 0, false, 0, "string", "null", "without effect", NO_SUB},
    {"prompt_cache_key", SRV_FIELD_ANY, 0, 0, false, 0, "string", "null", "without effect", NO_SUB},
    {"parallel_tool_calls", SRV_FIELD_ANY, 0, 0, false, 0, F_BOOL, "null", "without effect", NO_SUB},
    {"service_tier", SRV_FIELD_NEUTRAL, 0, 0, false, 0, "\"auto\" or \"default\"", "\"auto\"", "service tiers", NO_SUB},
    {"store", SRV_FIELD_NEUTRAL, 0, 0, false, 0, "false", "false", "keeping answers", NO_SUB},
    {"tools", SRV_FIELD_NEUTRAL, 0, 0, false, 0, "empty array", "null", "tool calls", NO_SUB},
    {"tool_choice", SRV_FIELD_NEUTRAL, 0, 0, false, 0, "\"none\" or \"auto\"", "null", "tool calls", NO_SUB},
    {"functions", SRV_FIELD_NEUTRAL, 0, 0, false, 0, "empty array", "null", "function calls", NO_SUB},
    {"function_call", SRV_FIELD_NEUTRAL, 0, 0, false, 0, "\"none\" or \"auto\"", "null", "function calls", NO_SUB},
    {"modalities", SRV_FIELD_NEUTRAL, 0, 0, false, 0, "[\"text\"]", "null", "other outputs than text", NO_SUB},
    {"audio", SRV_FIELD_NEUTRAL, 0, 0, false, 0, "null", "null", "audio", NO_SUB},
    {"prediction", SRV_FIELD_NEUTRAL, 0, 0, false, 0, "null", "null", "predicted output", NO_SUB},
    {"reasoning_effort", SRV_FIELD_NEUTRAL, 0, 0, false, 0, "\"none\"", "null", "reasoning", NO_SUB},
    {"verbosity", SRV_FIELD_NEUTRAL, 0, 0, false, 0, "null", "null", "verbosity", NO_SUB},
    {"web_search_options", SRV_FIELD_NEUTRAL, 0, 0, false, 0, "null", "null", "web search", NO_SUB},
    SAMPLING,
    {"session_id", SRV_FIELD_SESSION, 0, 0, false, 0, "string", "null", "messages are new ones only, the session has the others; \"new\": begins one", NO_SUB},
};
/* clang-format on */

const srv_table srv_table_completions = {.name = "CompletionRequest",
                                         .dialect = SRV_DIALECT_COMPLETIONS,
                                         .rows = completion_rows,
                                         .n = COUNT(completion_rows),
                                         .prompt = "prompt"};

const srv_table srv_table_chat = {.name = "ChatCompletionRequest",
                                  .dialect = SRV_DIALECT_CHAT,
                                  .rows = chat_rows,
                                  .n = COUNT(chat_rows),
                                  .prompt = "messages"};

_Static_assert(COUNT(chat_rows) <= 64, "a body's fields fit a bit set");
