/* Bodies out, items in. */
#include "server/cli/client/client_dialect.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/json_scan.h"
#include "kernels/base/utf8.h"

const cli_dialect cli_dialects[CLI_DIALECTS] = {
    {.name = "generate", .path = "/generate", .framing = CLI_FRAME_NDJSON},
    {.name = "completions", .path = "/v1/completions", .framing = CLI_FRAME_SSE, .named = true},
    {.name = "chat",
     .path = "/v1/chat/completions",
     .framing = CLI_FRAME_SSE,
     .named = true,
     .turns = true},
};
const char *const cli_dialect_names[] = {"generate", "completions", "chat", NULL};

/* ---- asking ---- */

static const char *const role_names[] = {"system", "user", "assistant"};

static void write_message(srv_buf *b, srv_role role, const char *text, size_t n) {
    srv_buf_printf(b, "{\"role\":\"%s\",\"content\":", role_names[role]);
    srv_json_string(b, text, n);
    srv_buf_puts(b, "}");
}

static void write_turns(srv_buf *b, const cli_ask *ask) {
    srv_buf_puts(b, "\"messages\":[");
    if (!ask->messages)
        write_message(b, SRV_ROLE_USER, ask->text, ask->text_len);
    for (size_t i = 0; i < ask->n_messages; i++) {
        srv_buf_puts(b, i ? "," : "");
        write_message(b, ask->messages[i].role, ask->messages[i].text, ask->messages[i].text_len);
    }
    srv_buf_puts(b, "]");
}

void cli_ask_write(srv_buf *b, cli_dialect_id id, const cli_ask *ask) {
    const cli_dialect *d = &cli_dialects[id];
    srv_buf_puts(b, "{");
    if (d->turns) {
        write_turns(b, ask);
    } else {
        srv_buf_puts(b, "\"prompt\":");
        srv_json_string(b, ask->text, ask->text_len);
    }
    srv_buf_printf(b, ",\"max_tokens\":%lld,\"stream\":true", (long long)ask->max_tokens);
    if (d->named && ask->model) {
        srv_buf_puts(b, ",\"model\":");
        srv_json_string(b, ask->model, strlen(ask->model));
    }
    if (d->framing == CLI_FRAME_SSE)
        srv_buf_puts(b, ",\"stream_options\":{\"include_usage\":true}");
    srv_buf_puts(b, ask->extra ? ask->extra : "");
    srv_buf_puts(b, "}");
}

/* ---- listening ---- */

static const char nul_escape[] = "\\u0000";

void cli_json_forgive_nul(char *s, size_t n) {
    for (size_t i = 0; i + 1 < n; i++) {
        if (s[i] != '\\')
            continue;
        if (i + 6 <= n && memcmp(s + i, nul_escape, 6) == 0)
            memcpy(s + i, "\\ufffd", 6);
        i++; /* what a backslash escapes begins nothing */
    }
}

static cJSON *parse_text(const char *s, size_t n, tnl_error *err) {
    static const tnl_json_limits limits = {
        .max_bytes = CLI_ITEM_MAX, .max_values = 1 << 16, .max_depth = 32, .max_keys = 1 << 12};
    tnl_error why = {0};
    if (tnl_json_check(s, n, &limits, NULL, &why) != TNL_OK) {
        tnl_fail(err, TNL_E_DATA, "the server's answer is not JSON: %.200s", why.msg);
        return NULL;
    }
    cJSON *root = cJSON_ParseWithLength(s, n);
    if (!cJSON_IsObject(root)) {
        cJSON_Delete(root);
        tnl_fail(err, TNL_E_DATA, "the server's answer is not a JSON object");
        return NULL;
    }
    return root;
}

static cJSON *parse(const char *s, size_t n, tnl_error *err) {
    if (!memmem(s, n, nul_escape, 6))
        return parse_text(s, n, err);
    char *copy = malloc(n);
    if (!copy) {
        tnl_fail(err, TNL_E_NOMEM, "out of memory");
        return NULL;
    }
    memcpy(copy, s, n);
    cli_json_forgive_nul(copy, n);
    cJSON *root = parse_text(copy, n, err);
    free(copy);
    return root;
}

static const cJSON *member(const cJSON *o, const char *name) {
    return cJSON_GetObjectItemCaseSensitive(o, name);
}

static const char *string_of(const cJSON *o, const char *name) {
    return cJSON_GetStringValue(member(o, name));
}

static int64_t count_of(const cJSON *o, const char *name) {
    const cJSON *v = member(o, name);
    return cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble < 1e15
               ? (int64_t)v->valuedouble
               : -1;
}

static double ms_of(const cJSON *o, const char *name) {
    const cJSON *v = member(o, name);
    return cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble < 1e12 ? v->valuedouble : -1;
}

void cli_copy_line(char *out, size_t cap, const char *s) {
    snprintf(out, cap, "%.*s", (int)cap - 1, s ? s : "");
    out[strlen(out) - tnl_utf8_incomplete_tail(out, strlen(out))] = 0;
    tnl_utf8_make_printable(out);
}

/* {"error": {"message", "type", "code"}}, {"error": "text"} and {"message": "text"} are about. */
static bool read_problem(char code[48], char message[256], const cJSON *root) {
    const cJSON *e = member(root, "error");
    const cJSON *from = cJSON_IsObject(e) ? e : root;
    const char *text = cJSON_IsString(e) ? e->valuestring : string_of(from, "message");
    const char *word = string_of(from, "code");
    if (!word)
        word = string_of(from, cJSON_IsObject(e) ? "type" : "error_type");
    if (!e && !cJSON_IsString(member(root, "message")))
        return false;
    cli_copy_line(code, 48, word ? word : "error");
    cli_copy_line(message, 256, text ? text : "");
    return true;
}

void cli_problem_read(char code[48], char message[256], const char *body, size_t n) {
    code[0] = message[0] = 0;
    cJSON *root = parse(body, n, NULL);
    if (!root || !read_problem(code, message, root))
        code[0] = message[0] = 0;
    cJSON_Delete(root);
}

static void read_usage(cli_piece *p, const cJSON *root) {
    const cJSON *u = member(root, "usage");
    if (!cJSON_IsObject(u))
        return;
    p->has_usage = true;
    p->prompt_tokens = count_of(u, "prompt_tokens");
    p->completion_tokens = count_of(u, "completion_tokens");
    p->cached_tokens = count_of(member(u, "prompt_tokens_details"), "cached_tokens");
}

/* POST /generate: a line per token, then one with the usage. */
static void read_generate(cli_piece *p, const cJSON *root) {
    const cJSON *token = member(root, "token"), *t = member(root, "timings");
    const char *finish = string_of(root, "finish_reason");
    read_usage(p, root);
    p->tokens = cJSON_IsObject(token);
    p->text = string_of(token, "text");
    if (!token)
        p->text = string_of(root, "text");
    if (finish) {
        cli_copy_line(p->finish, sizeof p->finish, finish);
        p->last = true;
        p->cached_tokens = count_of(t, "cached_tokens");
        p->queue_ms = ms_of(t, "queue_ms");
        p->prefill_ms = ms_of(t, "prefill_ms");
        p->decode_ms = ms_of(t, "decode_ms");
    }
}

/* OpenAI's chunks. One with text or a part of a hidden thought stands for a token. */
static void read_openai(cli_piece *p, const cJSON *root) {
    const cJSON *choices = member(root, "choices");
    const cJSON *c = cJSON_IsArray(choices) ? choices->child : NULL;
    const cJSON *delta = member(c, "delta");
    const char *thought = string_of(delta, "reasoning_content");
    p->text = delta ? string_of(delta, "content") : string_of(c, "text");
    p->tokens = (p->text && *p->text) || (thought && *thought);
    const char *finish = string_of(c, "finish_reason");
    if (finish)
        cli_copy_line(p->finish, sizeof p->finish, finish);
    read_usage(p, root);
}

tnl_status cli_piece_read(cli_piece *p, cli_dialect_id id, const char *item, size_t n,
                          tnl_error *err) {
    *p = (cli_piece){.prompt_tokens = -1,
                     .completion_tokens = -1,
                     .cached_tokens = -1,
                     .queue_ms = -1,
                     .prefill_ms = -1,
                     .decode_ms = -1};
    if (cli_dialects[id].framing == CLI_FRAME_SSE && n == 6 && memcmp(item, "[DONE]", 6) == 0) {
        p->last = true;
        return TNL_OK;
    }
    cJSON *root = parse(item, n, err);
    if (!root)
        return TNL_E_DATA;
    p->held = root;
    if (read_problem(p->problem, p->message, root))
        p->last = true;
    else if (id == CLI_DIALECT_GENERATE)
        read_generate(p, root);
    else
        read_openai(p, root);
    return TNL_OK;
}

void cli_piece_clear(cli_piece *p) {
    cJSON_Delete(p->held);
    p->held = NULL;
    p->text = NULL;
}

tnl_status cli_model_name(char **out, bool *plain, const char *body, size_t n, tnl_error *err) {
    *out = NULL;
    cJSON *root = parse(body, n, err);
    if (!root)
        return TNL_E_DATA;
    const cJSON *list = member(root, "data");
    const char *id = cJSON_IsArray(list) ? string_of(list->child, "id") : NULL;
    tnl_status s =
        id ? TNL_OK
           : tnl_fail(err, TNL_E_DATA, "the server names no model at /v1/models: give --model");
    const char *chat = id ? string_of(member(list->child, "meta"), "chat_template") : NULL;
    if (plain)
        *plain = chat && strcmp(chat, "plain") == 0;
    if (id && !(*out = strdup(id)))
        s = tnl_fail(err, TNL_E_NOMEM, "out of memory");
    cJSON_Delete(root);
    return s;
}
