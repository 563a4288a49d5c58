/* Where known prefixes are used and states are kept, in the life of a request.
 *
 * Kept: the state at the end of the prompt and at the end of the answer, for the next turn of a
 * conversation; a few along a long prompt, at slices' ends whose distances to its end grow by a
 * factor of four, for another question about the same document; and the place where a prompt parts
 * from a known text, for a third one that shares it. Only that last one costs a step of its own;
 * the others are as of the last block boundary of a state that is there anyway.
 *
 * Where a model wants a prompt's slices whole, states are kept at the ends of such slices only, in
 * prompts only, and a session goes on from its own state alone: so that a hit changes no byte.
 *
 * Requests with a beginning in common that are there at the same time (several answers to one
 * prompt, say) read it once: those that came later wait for the first to get there. */
#include <stdlib.h>

#include "server/engine/core.h"
#include "server/engine/states/session_impl.h"

enum {
    WORTH_A_SLICE = 32, /* a shared prefix that is so much longer than the known one is kept */
    WORTH_WAITING = 64, /* one that another request is reading is waited for */
};

/* Not before the request has entered: until then the slot's state is not its own. */
static bool remembers(const eng_engine *e, const eng_request *r) {
    return e->prefix && r->params.cache_prompt && r->tokens && r->serial != 0;
}

/* The largest place <= n at which a state may be kept. */
static int64_t keepable(const eng_engine *e, int64_t n) {
    return n - n % (e->slice > 0 ? e->slice : mdl_state_block(e->open.model));
}

/* Later turns of a session are kept by the session alone. */
static bool keeps(const eng_engine *e, const eng_request *r) {
    if (e->slice > 0 && (r->params.echo || r->fed % e->slice != 0 || r->generated > 0))
        return false;
    return remembers(e, r) && r->n_session == 0;
}

/* ---- waiting for another ---- */

static bool reads(const eng_request *r) {
    return r && r->phase == ENG_PHASE_PREFILL && r->fed < r->n_prompt;
}

/* Tokens, up to a block boundary, that both prompts begin with; the last of r is not counted. */
static int64_t in_common(const eng_engine *e, const eng_request *r, const eng_request *other) {
    int64_t most = r->n_prompt - 1 < other->n_prompt ? r->n_prompt - 1 : other->n_prompt, n = 0;
    while (n < most && r->tokens[n] == other->tokens[n])
        n++;
    return keepable(e, n);
}

/* Whether o keeps what r would read. */
static bool leads(const eng_engine *e, const eng_request *o) {
    return reads(o) && !o->params.echo && remembers(e, o) && o->n_session == 0;
}

/* Look for a request that will soon have read much more of this prompt than is known. */
static bool find_leader(eng_engine *e, eng_request *r) {
    r->leader = 0;
    r->wait_at = r->cached + WORTH_WAITING - 1;
    for (int i = 0; i < e->open.parallel; i++) {
        const eng_request *o = e->slots[i].req;
        if (o == r || !leads(e, o) || o->key != r->key || o->serial > r->serial)
            continue;
        int64_t n = in_common(e, r, o);
        if (n > r->wait_at && o->fed < n) {
            r->leader = o->serial;
            r->wait_at = n;
        }
    }
    return r->leader != 0;
}

static bool still_waits(const eng_engine *e, const eng_request *r) {
    for (int i = 0; i < e->open.parallel; i++) {
        const eng_request *o = e->slots[i].req;
        if (reads(o) && o->serial == r->leader)
            return o->fed < r->wait_at;
    }
    return false;
}

/* The nearest place in front of r at which somebody waits for its state; INT64_MAX: none. */
static int64_t awaited_at(const eng_engine *e, const eng_request *r) {
    int64_t at = INT64_MAX;
    for (int i = 0; i < e->open.parallel && e->followers > 0; i++) {
        const eng_request *o = e->slots[i].req;
        if (o && o->leader == r->serial && o->wait_at > r->fed && o->wait_at < at)
            at = o->wait_at;
    }
    return at;
}

/* ---- beginning ---- */

/* Counts of tokens, for penalties and for guesses, begin anew: after waiting, another prefix may be
 * known than before. */
static void load(eng_engine *e, eng_slot *slot) {
    eng_request *r = slot->req;
    if (mdl_state_pos(slot->state) != 0)
        mdl_state_reset(e->open.model, slot->state);
    eng_prefix_hit hit = {0};
    const bool goes_on = r->lease && eng_lease_pos(r->lease) > 0;
    if (remembers(e, r) && !(e->slice > 0 && goes_on))
        hit = eng_prefix_load(e->prefix, slot->state, r->key, r->tokens, r->n_prompt);
    if (r->lease && eng_lease_pos(r->lease) > hit.cached) {
        if (hit.cached > 0)
            mdl_state_reset(e->open.model, slot->state);
        eng_lease_load(r->lease, e->open.model, slot->state);
        hit.cached = eng_lease_pos(r->lease);
    }
    r->fed = r->cached = hit.cached;
    const int64_t shared = keepable(e, hit.shared);
    r->store_at = shared - hit.cached >= WORTH_A_SLICE ? shared : 0;
    eng_history_clear(&slot->history);
    if (slot->draft.n > 0)
        eng_draft_begin(&slot->draft, r->n_prompt);
    for (int64_t i = 0; i < hit.cached; i++) {
        eng_history_add(&slot->history, r->tokens[i], false);
        eng_draft_add(&slot->draft, r->tokens[i]);
    }
}

void eng_reuse_begin(eng_engine *e, eng_slot *slot) {
    eng_request *r = slot->req;
    r->serial = ++e->serials;
    if (r->params.echo || (!remembers(e, r) && !r->lease))
        return; /* an echo needs the logits of every token */
    load(e, slot);
    if (!remembers(e, r))
        return;
    if (r->params.max_tokens > 0 && find_leader(e, r))
        e->followers++;
    else
        eng_metrics_prefix(e, r);
}

int64_t eng_reuse_most(eng_engine *e, eng_slot *slot) {
    eng_request *r = slot->req;
    if (r->leader != 0) {
        if (still_waits(e, r))
            return 0;
        load(e, slot);
        if (find_leader(e, r)) /* the first one left; those that waited follow the next */
            return 0;
        e->followers--;
        eng_metrics_prefix(e, r);
    }
    int64_t at = awaited_at(e, r);
    at = r->store_at > r->fed && r->store_at < at ? r->store_at : at;
    return at < INT64_MAX ? at - r->fed : at;
}

/* ---- keeping ---- */

void eng_reuse_keep(eng_engine *e, const eng_slot *slot) {
    const eng_request *r = slot->req;
    if (!keeps(e, r))
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

static bool is_awaited(const eng_engine *e, const eng_request *r) {
    for (int i = 0; i < e->open.parallel && e->followers > 0; i++) {
        const eng_request *o = e->slots[i].req;
        if (o && o->leader == r->serial && o->wait_at == r->fed)
            return true;
    }
    return false;
}

void eng_reuse_slice(eng_engine *e, const eng_slot *slot) {
    const eng_request *r = slot->req;
    const bool last = e->slice > 0 && r->n_feed - r->fed < e->slice; /* the end keeps none */
    if (last || r->fed == r->store_at || marks_a_level(e, r) || is_awaited(e, r))
        eng_reuse_keep(e, slot);
}

void eng_reuse_end(eng_engine *e, const eng_slot *slot, bool keep) {
    e->followers -= slot->req->leader != 0;
    if (keep && !slot->req->lease) /* else the session keeps it */
        eng_reuse_keep(e, slot);
}

void eng_reuse_token(eng_engine *e, eng_request *r, int32_t id) {
    if (!r->tokens || (!remembers(e, r) && !r->lease))
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
