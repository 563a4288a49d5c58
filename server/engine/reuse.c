/* Where known prefixes are used and states are kept, in the life of a request.
 *
 * Kept: the state at the end of the prompt and at the end of the answer, for the next turn of a
 * conversation; a few along a long prompt, at slices' ends whose distances to its end grow by a
 * factor of four, for another question about the same document; and the place where a prompt parts
 * from a known text, for a third one that shares it. Only that last one costs a step of its own;
 * the others are as of the last block boundary of a state that is there anyway. */
#include <stdlib.h>

#include "server/engine/core.h"

/* A shared prefix is worth a slice of its own when it is so much longer than the known one. */
enum { WORTH_A_SLICE = 32 };

static bool remembers(const eng_engine *e, const eng_request *r) {
    return e->prefix && r->params.cache_prompt && r->tokens;
}

void eng_reuse_begin(eng_engine *e, eng_slot *slot) {
    eng_request *r = slot->req;
    if (!remembers(e, r) || r->params.echo) /* an echo needs the logits of every token */
        return;
    const eng_prefix_hit hit =
        eng_prefix_load(e->prefix, slot->state, r->key, r->tokens, r->n_prompt);
    r->fed = r->cached = hit.cached;
    r->store_at = hit.shared - hit.cached >= WORTH_A_SLICE ? hit.shared : 0;
    for (int64_t i = 0; i < hit.cached; i++) {
        eng_history_add(&slot->history, r->tokens[i], false);
        eng_draft_add(&slot->draft, r->tokens[i]);
    }
    eng_metrics_prefix(e, hit.cached);
}

int64_t eng_reuse_most(const eng_request *r) {
    return r->store_at > r->fed ? r->store_at - r->fed : INT64_MAX;
}

void eng_reuse_keep(eng_engine *e, const eng_slot *slot) {
    const eng_request *r = slot->req;
    if (!remembers(e, r))
        return;
    eng_prefix_store(e->prefix, slot->state, r->key, r->tokens);
    eng_metrics_prefix_size(e);
}

/* 0, 1-3, 4-15, 16-63, ... */
static int level(int64_t distance) {
    int n = 0;
    for (; distance > 0; distance /= 4)
        n++;
    return n;
}

/* This is the last slice's end in front of a level, as far as can be told. */
static bool marks_a_level(const eng_engine *e, const eng_request *r) {
    int64_t left = r->n_prompt - r->fed, next = left - e->budget.tokens;
    return left > 0 && level(left) != level(next > 0 ? next : 0);
}

void eng_reuse_slice(eng_engine *e, const eng_slot *slot) {
    const eng_request *r = slot->req;
    if (r->fed == r->store_at || marks_a_level(e, r))
        eng_reuse_keep(e, slot);
}

void eng_reuse_token(eng_engine *e, eng_request *r, int32_t id) {
    if (!remembers(e, r))
        return;
    if (r->n_tokens == r->tokens_room) {
        int64_t room = r->tokens_room + r->tokens_room / 2 + 64;
        int32_t *more = realloc(r->tokens, (size_t)room * sizeof *more);
        if (!more) { /* nothing more of this request is remembered */
            free(r->tokens);
            r->tokens = NULL;
            return;
        }
        r->tokens = more;
        r->tokens_room = room;
    }
    r->tokens[r->n_tokens++] = id;
}
