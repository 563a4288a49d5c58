/* Token ids to releasable text: see text.h. */
#include "server/engine/text.h"

#ifdef TNL_HAVE_TOKENIZER

_Static_assert((int)ENG_TEXT_ROOM >= (int)ENG_MAX_STOP_BYTES + (int)TOK_STREAM_MAX + 8,
               "room for one token");
_Static_assert((int)ENG_TEXT_ROOM <= (int)ENG_TEXT_MAX,
               "an event carries what one token can release");

void eng_text_init(eng_text *t, const tok_model *tokenizer, const eng_params *p) {
    t->on = tokenizer != NULL;
    if (t->on)
        tok_stream_init(&t->stream, tokenizer, !p->echo);
    eng_stop_init(&t->stop, p);
}

size_t eng_text_prompt(eng_text *t, int32_t id, char *out) {
    return t->on ? tok_stream_push(&t->stream, id, out, TOK_STREAM_MAX) : 0;
}

bool eng_text_push(eng_text *t, int32_t id, char *out, size_t *n_out) {
    char piece[TOK_STREAM_MAX];
    *n_out = 0;
    if (!t->on)
        return false;
    size_t n = tok_stream_push(&t->stream, id, piece, sizeof piece);
    return eng_stop_push(&t->stop, piece, n, out, n_out);
}

bool eng_text_finish(eng_text *t, char *out, size_t *n_out) {
    char piece[8];
    if (!t->on)
        return false;
    size_t n = tok_stream_finish(&t->stream, piece, sizeof piece), more;
    bool found = eng_stop_push(&t->stop, piece, n, out + *n_out, &more);
    *n_out += more;
    if (!found)
        *n_out += eng_stop_flush(&t->stop, out + *n_out);
    return found;
}

int32_t eng_text_eos(const tok_model *tokenizer) {
    return tokenizer ? tok_eos(tokenizer) : -1;
}

#else

void eng_text_init(eng_text *t, const tok_model *tokenizer, const eng_params *p) {
    (void)tokenizer;
    t->on = false;
    eng_stop_init(&t->stop, p);
}

size_t eng_text_prompt(eng_text *t, int32_t id, char *out) {
    (void)t, (void)id, (void)out;
    return 0;
}

bool eng_text_push(eng_text *t, int32_t id, char *out, size_t *n_out) {
    (void)t, (void)id, (void)out;
    *n_out = 0;
    return false;
}

bool eng_text_finish(eng_text *t, char *out, size_t *n_out) {
    (void)t, (void)out, (void)n_out;
    return false;
}

int32_t eng_text_eos(const tok_model *tokenizer) {
    (void)tokenizer;
    return -1;
}

#endif
