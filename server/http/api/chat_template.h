/* Chat templates: how a conversation becomes a prompt. Rows of data, no template language.
 *
 * A row's texts surround the parts of a conversation. What a user wrote is only ever text: markers
 * of the template that are pieces of the vocabulary become their ids, the same marks inside a
 * message do not (a piece that SentencePiece itself matches in text excepted). Rows are constants;
 * all functions are pure; any thread. */
#ifndef TNL_HTTP_CHAT_TEMPLATE_H
#define TNL_HTTP_CHAT_TEMPLATE_H

#include "model/spec.h"
#include "server/http/api/fields.h"
#include "server/http/errors.h"
#include "server/http/http.h"

/* By name, or NULL. NULL finds the plain one. */
const srv_chat_template *srv_chat_find(const char *name);
const char *srv_chat_name(const srv_chat_template *t);
/* The names, comma-separated. */
void srv_chat_names(char *out, size_t cap);

/* The template of a model folder: `name` if given, else the one whose text tokenizer_config.json
 * holds, else the plain one. An unknown name is TNL_E_USAGE, a text we do not know TNL_E_DATA; both
 * lines name the option. */
tnl_status srv_chat_choose(const srv_chat_template **out, const char *name, const char *dir,
                           tnl_error *err);

/* The row whose Jinja text this is, by its SHA-256, or NULL. */
const srv_chat_template *srv_chat_recognise(const char *jinja, size_t n);

/* Ids of a conversation that ends where the assistant's answer begins. t NULL: plain. */
bool srv_chat_prompt(srv_prompt *out, const srv_chat_template *t, const srv_message *m, size_t n,
                     const tok_model *tok, const mdl_spec *spec, srv_problem *p);

/* Ids of what comes behind a conversation that is there already, up to and with an answer: what the
 * row puts behind an answer, as far as the text does not say it yet, then the new messages. `past`
 * are the last ids of the text (SRV_CHAT_PAST of them are enough). */
enum { SRV_CHAT_PAST = 64 };
bool srv_chat_more(srv_prompt *out, const srv_chat_template *t, const int32_t *past, size_t n_past,
                   const srv_message *m, size_t n, const tok_model *tok, const mdl_spec *spec,
                   srv_problem *p);

/* Add the template's stop strings. */
bool srv_chat_stops(eng_params *params, const srv_chat_template *t, const tok_model *tok,
                    srv_problem *p);

/* json_template.c: the chat_template of DIR/tokenizer_config.json; *out NULL: there is none. */
tnl_status srv_chat_read(char **out, const char *dir, tnl_error *err);

#endif
