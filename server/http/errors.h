/* Every refusal a client can meet, as rows: HTTP status, type, code word, text.
 *
 * Texts are constants; the only client bytes that come back are the name of the field at fault. */
#ifndef TNL_HTTP_ERRORS_H
#define TNL_HTTP_ERRORS_H

#include "server/http/json/json_out.h"

#define SRV_INVALID "invalid_request_error"
#define SRV_OVERLOADED "overloaded_error"
#define SRV_LIMITED "rate_limit_error"

/* clang-format off */
#define SRV_ERR_LIST(X)                                                                                          \
    X(NONE, 200, "", "", "")                                                                                     \
    X(INVALID_JSON, 400, SRV_INVALID, "invalid_json", "The body is not valid JSON.")                             \
    X(INVALID_UTF8, 400, SRV_INVALID, "invalid_utf8", "The body is not valid UTF-8.")                            \
    X(DUPLICATE_KEY, 400, SRV_INVALID, "duplicate_key", "A key appears twice in one object.")                    \
    X(JSON_LIMIT, 400, SRV_INVALID, "json_limit", "The body has too many values, keys or levels.")               \
    X(INVALID_TYPE, 400, SRV_INVALID, "invalid_type", "A field has the wrong type.")                             \
    X(OUT_OF_RANGE, 400, SRV_INVALID, "out_of_range", "A value is out of range.")                                \
    X(UNSUPPORTED, 400, SRV_INVALID, "unsupported_parameter", "This field is not supported here.")               \
    X(MISSING, 400, SRV_INVALID, "missing_parameter", "A required field is missing.")                            \
    X(CONFLICT, 400, SRV_INVALID, "conflict", "Two fields contradict each other.")                               \
    X(SCHEMA, 400, SRV_INVALID, "unsupported_schema", "The schema is outside the supported subset.")             \
    X(TEMPLATE, 400, SRV_INVALID, "template", "The chat template cannot express these messages.")                \
    X(PROMPT_EMPTY, 400, SRV_INVALID, "prompt_empty", "The prompt is empty.")                                    \
    X(PROMPT_TOO_LONG, 400, SRV_INVALID, "prompt_too_long", "The prompt has too many tokens.")                   \
    X(NO_TOKENIZER, 400, SRV_INVALID, "no_tokenizer", "This model has no tokenizer: send token ids.")            \
    X(TEXT_REFUSED, 400, SRV_INVALID, "invalid_text", "The tokenizer does not accept this text.")                \
    X(BAD_FRAMING, 400, SRV_INVALID, "bad_framing", "The request's framing is ambiguous or malformed.")          \
    X(MISSING_KEY, 401, "authentication_error", "missing_key", "A valid API key is required.")                   \
    X(INVALID_KEY, 401, "authentication_error", "invalid_key", "A valid API key is required.")                   \
    X(HOST, 403, "permission_error", "host", "This Host is not served here.")                                    \
    X(ORIGIN, 403, "permission_error", "origin", "Requests of this origin are not served.")                      \
    X(UNKNOWN_ROUTE, 404, "not_found_error", "unknown_route", "There is nothing at this path.")                  \
    X(UNKNOWN_MODEL, 404, "not_found_error", "unknown_model", "This model is not served here.")                  \
    X(UNKNOWN_SESSION, 404, "not_found_error", "unknown_session", "There is no such session.")                   \
    X(METHOD, 405, SRV_INVALID, "method_not_allowed", "This path does not answer this method.")                  \
    X(TIMEOUT, 408, SRV_INVALID, "timeout", "The request took too long to arrive.")                              \
    X(SESSION_BUSY, 409, "conflict_error", "session_busy", "Another request uses this session.")                 \
    X(BODY_TOO_LARGE, 413, SRV_INVALID, "body_too_large", "The body is too large.")                              \
    X(MEDIA_TYPE, 415, SRV_INVALID, "unsupported_media_type", "The body must be application/json in UTF-8.")     \
    X(EXPECT, 417, SRV_INVALID, "expectation_failed", "Only 100-continue can be expected.")                      \
    X(TOO_MANY_HEADERS, 431, SRV_INVALID, "too_many_headers", "The request has too many header fields.")         \
    X(LIMIT_REQUESTS, 429, SRV_LIMITED, "rate_limit_exceeded", "Too many requests a minute: try again later.")   \
    X(LIMIT_TOKENS, 429, SRV_LIMITED, "rate_limit_exceeded", "Too many tokens a minute: try again later.")       \
    X(LIMIT_PARALLEL, 429, SRV_LIMITED, "rate_limit_exceeded", "Too many requests at once: try again later.")    \
    X(INTERNAL, 500, "server_error", "internal", "An internal error occurred.")                                  \
    X(NONFINITE, 500, "server_error", "nonfinite_logits", "The model produced a value that is not finite.")      \
    X(NOMEM, 500, "server_error", "out_of_memory", "Memory is short.")                                           \
    X(NO_TOKEN, 400, SRV_INVALID, "no_token_left", "The request leaves no token to choose from.")                \
    X(NOT_BUILT, 501, "not_supported_error", "not_supported", "This server does not do this.")                   \
    X(LOADING, 503, SRV_OVERLOADED, "loading", "The model is still loading.")                                    \
    X(DRAINING, 503, SRV_OVERLOADED, "draining", "The server is shutting down.")                                 \
    X(QUEUE_FULL, 503, SRV_OVERLOADED, "queue_full", "The queue is full: try again later.")                      \
    X(TOO_SLOW, 504, "server_error", "request_timeout", "The request took longer than is allowed here.")         \
    X(QUEUE_TIMEOUT, 503, SRV_OVERLOADED, "queue_timeout", "The request waited too long in the queue.")          \
    X(SESSION_LIMIT, 503, SRV_OVERLOADED, "session_limit", "There is no room for a session: try again later.")   \
    X(UPLOAD_BUDGET, 503, SRV_OVERLOADED, "upload_budget", "Too many uploads at once: try again later.")
/* clang-format on */

typedef enum srv_err {
#define X(name, status, type, code, text) SRV_ERR_##name,
    SRV_ERR_LIST(X)
#undef X
        SRV_ERR_COUNT
} srv_err;

enum { SRV_PARAM_MAX = 68 };

/* One refusal. */
typedef struct srv_problem {
    srv_err err;
    char param[SRV_PARAM_MAX]; /* field at fault, "" for none; valid UTF-8 */
    char text[160];            /* "": the row's text */
    int retry_after;           /* seconds; 0: as the status has it */
} srv_problem;

int srv_err_status(srv_err e);
const char *srv_err_code(srv_err e);
const char *srv_err_text(const srv_problem *p);

/* Fill *p and return false, so that `return srv_refuse(...)` reads well. `param` (NULL: none) is
 * cut at 64 bytes on a character boundary. */
bool srv_refuse(srv_problem *p, srv_err e, const char *param);

/* The same for a field that does not go together with another: "PARAM RULE." */
bool srv_conflict(srv_problem *p, const char *param, const char *rule);

/* Append {"message":..,"type":..,"param":..,"code":..}. */
void srv_err_object(srv_buf *b, const srv_problem *p);

#endif
