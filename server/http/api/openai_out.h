/* What the two OpenAI dialects have in common. Private to api_completions.c and api_chat.c. */
#ifndef TNL_HTTP_OPENAI_OUT_H
#define TNL_HTTP_OPENAI_OUT_H

#include "server/http/server.h"

/* {"id":..,"object":..,"created":..,"model":..,"system_fingerprint":..,"choices":[ */
void srv_openai_head(srv_buf *b, const srv_req *req, const char *prefix, const char *object);

/* "stop" or "length". */
const char *srv_openai_finish(eng_finish f);

/* {"prompt_tokens":..}: of the choices as far as they are. */
void srv_openai_usage(srv_buf *b, const srv_req *req);

/* What follows the choices of a gathered answer that began with req->head. */
void srv_openai_answer_end(srv_buf *b, const srv_req *req);

/* Streaming: frame and head, then after the caller's choice the rest and the blank line. */
void srv_openai_chunk_begin(srv_req *req);
void srv_openai_chunk_end(srv_req *req);
/* The last chunks: usage, if asked for, and [DONE]. */
void srv_openai_end(srv_req *req);

void srv_openai_problem(srv_buf *b, const srv_problem *p);

/* Rules for n, best_of and stream_options. */
bool srv_openai_check(const srv_gen *g, srv_problem *p);

#endif
