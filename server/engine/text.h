/* The text of one answer: token ids in, releasable text out. Joins the incremental detokeniser
 * (whole UTF-8 only) and the stop-string scanner. The only place of the engine that knows whether
 * a tokenizer is built in; without one every text is empty. No allocation; one thread. */
#ifndef TNL_SERVER_ENGINE_TEXT_H
#define TNL_SERVER_ENGINE_TEXT_H

#include "server/engine/engine.h"
#include "server/engine/stop.h"

typedef struct eng_text {
    bool on; /* there is a tokenizer */
#ifdef TNL_HAVE_TOKENIZER
    tok_stream stream;
#endif
    eng_stop stop;
} eng_text;

/* Room that each call below needs in `out`: a hold-back, a token, an unfinished character. */
enum { ENG_TEXT_ROOM = ENG_MAX_STOP_BYTES + 1024 + 8 };

/* p must outlive t. With echo the prompt's tokens are pushed first and begin the text. */
void eng_text_init(eng_text *t, const tok_model *tokenizer, const eng_params *p);

/* An echoed token: no stop string is looked for. Returns bytes written. */
size_t eng_text_prompt(eng_text *t, int32_t id, char *out);

/* A generated token. True if it completes a stop string; the text then ends with out. */
bool eng_text_push(eng_text *t, int32_t id, char *out, size_t *n_out);

/* The end: everything held comes out, appended to out[0..*n_out); what eng_text_push wrote may
 * stand there already. True if the last character completes a stop string. */
bool eng_text_finish(eng_text *t, char *out, size_t *n_out);

/* End-of-sequence id of the tokenizer, -1: none. */
int32_t eng_text_eos(const tok_model *tokenizer);

#endif
