/* One step: ask the scheduler who computes what, run the model, turn logits into events. */
#include <math.h>
#include <string.h>

#include "kernels/base/log.h"
#include "server/engine/core.h"
#include "server/engine/sampling/picks.h"
#include "server/engine/states/session_impl.h"

/* ---- entering and leaving a slot ---- */

/* Write the state's memory when it is handed out and when it is given back: a reader of stale
 * memory finds zeros, or NaNs in poisoned builds, never somebody's conversation. */
static void scrub(eng_engine *e, eng_slot *slot) {
    if (e->poison)
        mdl_state_poison(e->open.model, slot->state);
    else if (mdl_state_pos(slot->state) != 0)
        mdl_state_reset(e->open.model, slot->state);
    eng_history_clear(&slot->history);
    eng_draft_end(&slot->draft);
}

/* A request that ended well is part of its session from here on. A slot that was not entered has no
 * state of its own; then there was one token at most, and none to keep. */
static void commit_session(eng_engine *e, eng_slot *slot, eng_finish *finish, tnl_status *error) {
    eng_request *r = slot->req;
    if (r->lease && *finish != ENG_FINISH_CANCELLED && *finish != ENG_FINISH_ERROR) {
        tnl_status st = TNL_E_NOMEM;
        if (r->tokens)
            st = eng_lease_commit(r->lease, e->open.model, r->serial ? slot->state : NULL,
                                  r->tokens, r->n_tokens);
        if (st == TNL_OK) {
            r->session_tokens = r->n_tokens;
        } else {
            *finish = ENG_FINISH_ERROR;
            *error = st;
        }
    }
    eng_request_leave_session(r);
}

void eng_end_running(eng_engine *e, eng_slot *slot, eng_finish finish, tnl_status error) {
    eng_request *r = slot->req;
    eng_reuse_end(e, slot, finish != ENG_FINISH_ERROR);
    commit_session(e, slot, &finish, &error);
    scrub(e, slot);
    pthread_mutex_lock(&e->lock);
    slot->req = NULL;
    e->metrics.running--;
    eng_metrics_ended(e, r, finish, error);
    pthread_mutex_unlock(&e->lock);
    eng_request_finish(r, finish, error);
    eng_request_unref(r);
}

/* One prompt token as an event. The last one flushes the text when nothing will follow it. */
static tnl_status echo_token(eng_request *r, const eng_pick *pick) {
    char text[ENG_TEXT_ROOM];
    size_t n = eng_text_prompt(&r->text, pick->id, text);
    if (r->params.max_tokens == 0 && r->n_events == r->n_prompt - 1)
        eng_text_finish(&r->text, text, &n);
    return eng_request_push(r, pick, true, text, n);
}

static tnl_status echo_first(eng_request *r) {
    const eng_pick pick = {.id = r->tokens[0], .logprob = NAN};
    return echo_token(r, &pick);
}

/* Tokens that may be guessed ahead of this request. */
static int most_guesses(const eng_engine *e, const eng_request *r) {
    int asked = r->params.speculate, most = e->open.speculate;
    return asked < 0 || asked > most ? most : asked;
}

void eng_step_enter(eng_engine *e, eng_slot *slot) {
    eng_request *r = slot->req;
    tnl_status st = TNL_OK;
    r->phase = ENG_PHASE_PREFILL;
    r->admitted = eng_now();
    if (r->params.echo)
        st = echo_first(r);
    if (st != TNL_OK) {
        eng_end_running(e, slot, ENG_FINISH_ERROR, st);
    } else if (r->n_feed == 0) {
        eng_end_running(e, slot, ENG_FINISH_LENGTH, TNL_OK);
    } else {
        mdl_state_reset(e->open.model, slot->state);
        eng_history_clear(&slot->history);
        if (most_guesses(e, r) > 0)
            eng_draft_begin(&slot->draft, r->n_prompt);
        eng_reuse_begin(e, slot);
        if (r->fed >= r->n_feed) /* a session that only takes note, of what was known */
            eng_end_running(e, slot, ENG_FINISH_LENGTH, TNL_OK);
    }
}

/* ---- planning ---- */

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Guess what follows the newest token. A guess must be one that can be forgotten again once the
 * newest token itself is absorbed, and one whose row is of use: not behind the last token wanted,
 * nor behind the end of the text. */
static void plan_guesses(eng_engine *e, eng_slot *slot, eng_sched_slot *plan) {
    const eng_request *r = slot->req;
    if (r->generated == 1) /* put off until the first token was out */
        eng_reuse_keep(e, slot);
    int64_t most = min64(most_guesses(e, r), r->params.max_tokens - r->generated - 1);
    most = min64(most, plan->most - 1);
    most = min64(most, mdl_state_spare(e->open.model, mdl_state_pos(slot->state) + 1));
    int64_t n = eng_draft_propose(&slot->draft, most);
    for (int64_t i = 0; i < n && !r->params.ignore_eos; i++)
        n = slot->draft.guess[i] == e->eos_id ? i : n;
    plan->guesses = n;
    plan->chance = eng_draft_chance(&slot->draft);
}

/* An echoed slice of n tokens makes at most n events; together with the first generated one it
 * must fit the ring. */
static eng_sched_slot plan_slot(eng_engine *e, eng_slot *slot) {
    eng_request *r = slot->req;
    int64_t most = r->fed < r->n_feed ? eng_reuse_most(e, slot) : INT64_MAX;
    int64_t left = r->n_feed - r->fed;
    bool echoing = r->params.echo && left > 0;
    int room = eng_request_room(r, echoing ? 2 : 1);
    /* an echo, whose slices the reader's pace cuts, has none that is whole */
    if (echoing && e->slice > 0 && room > e->slice)
        room = (int)e->slice;
    return (eng_sched_slot){.used = true,
                            .paused = room == 0,
                            .all_rows = echoing,
                            .prompt_left = left,
                            .slice = echoing ? 0 : e->slice,
                            .at = mdl_state_pos(slot->state),
                            .most = echoing    ? room - 1
                                    : left > 0 ? most
                                               : room};
}

/* Fills plan and give; returns the number of tokens in the step. */
static int64_t plan_step(eng_engine *e, int *paused) {
    *paused = 0;
    for (int i = 0; i < e->open.parallel; i++) {
        eng_request *r = e->slots[i].req;
        e->plan[i] = r ? plan_slot(e, &e->slots[i]) : (eng_sched_slot){0};
        *paused += e->plan[i].paused;
        if (r && !e->plan[i].paused && e->plan[i].prompt_left == 0)
            plan_guesses(e, &e->slots[i], &e->plan[i]);
    }
    eng_pace_deal(&e->pace, e->plan, e->open.parallel,
                  eng_sched_spare(e->plan, e->open.parallel, &e->budget));
    return eng_sched_step(e->give, e->plan, e->open.parallel, &e->budget, &e->cursor);
}

static mdl_seg segment(eng_slot *slot, const eng_sched_slot *plan, int64_t n) {
    const eng_request *r = slot->req;
    mdl_seg seg = {.state = slot->state, .n_tokens = n, .want = MDL_WANT_LAST};
    if (plan->prompt_left == 0) {
        slot->feed[0] = r->last;
        memcpy(slot->feed + 1, slot->draft.guess, (size_t)(n - 1) * sizeof slot->feed[0]);
        seg.tokens = slot->feed;
        seg.want = MDL_WANT_ALL;
        return seg;
    }
    seg.tokens = r->tokens + r->fed;
    if (plan->all_rows)
        seg.want = MDL_WANT_ALL;
    else if (n < plan->prompt_left)
        seg.want = MDL_WANT_NONE;
    return seg;
}

/* Ask the device for the tokens of a segment's rows, of which `picks` has room. Returns how many.
 */
static int64_t plan_picks(const eng_engine *e, const eng_request *r, const eng_sched_slot *plan,
                          mdl_seg *seg, kn_pick_how *picks) {
    int64_t n = seg->want == MDL_WANT_ALL ? seg->n_tokens : seg->want == MDL_WANT_LAST;
    if (!e->can_pick || plan->all_rows || r->match || !eng_can_pick(&r->params))
        return 0;
    seg->picks = picks;
    for (int64_t i = 0; i < n; i++)
        picks[i] = eng_pick_how(&r->params, r->seed, r->n_prompt + r->generated + i);
    return n;
}

/* ---- results ---- */

/* Why the request ends with this token, if it does; text gets what the token releases. */
static eng_finish take_token(const eng_engine *e, eng_request *r, int32_t id, char *text,
                             size_t *n) {
    eng_finish finish = ENG_FINISH_NONE;
    *n = 0;
    if (id == e->eos_id)
        finish = r->params.ignore_eos ? ENG_FINISH_NONE : ENG_FINISH_EOS;
    else if (eng_text_push(&r->text, id, text, n))
        return ENG_FINISH_STOP;
    if (finish == ENG_FINISH_NONE && r->match && eng_match_complete(r->match))
        finish = ENG_FINISH_EOS;
    if (finish == ENG_FINISH_NONE && r->generated >= r->params.max_tokens)
        finish = ENG_FINISH_LENGTH;
    if (finish != ENG_FINISH_NONE && eng_text_finish(&r->text, text, n))
        finish = ENG_FINISH_STOP;
    return finish;
}

static void count_token(eng_engine *e, eng_request *r, bool guessed) {
    double now = eng_now();
    r->generated++;
    if (r->generated == 1) {
        r->phase = ENG_PHASE_DECODE;
        r->decoding = now;
    }
    eng_metrics_token(e, r, now, guessed);
    r->last_token = now;
}

static tnl_status take_picked(const kn_picked *picked, eng_pick *pick) {
    pick->id = picked->id;
    pick->logprob = picked->logprob;
    pick->n_alts = 0;
    return picked->finite ? TNL_OK : TNL_E_NONFINITE;
}

/* Sample what the grammar allows, if there is one, and go on in it; `row` is one of the segment's,
 * which may have been sampled before. */
static tnl_status sample(eng_engine *e, eng_slot *slot, const mdl_seg *seg, int64_t row,
                         eng_pick *pick) {
    eng_request *r = slot->req;
    if (seg->picked)
        return take_picked(&seg->picked[row], pick);
    const eng_row_job *ready = slot->ready;
    slot->ready = NULL;
    if (ready) {
        *pick = ready->pick;
        return ready->status;
    }
    if (r->match)
        slot->history.allowed =
            eng_vocab_mask(e->texts, r->match, r->params.ignore_eos ? -1 : e->eos_id);
    tnl_status st = eng_sample(e->sampler, pick, seg->logits + row * e->vocab, &r->params,
                               &slot->history, r->seed, r->n_prompt + r->generated);
    slot->history.allowed = NULL;
    if (st == TNL_OK && r->match && pick->id != e->eos_id &&
        !eng_vocab_take(e->texts, r->match, pick->id))
        st = TNL_E_INTERNAL;
    return st;
}

/* Sample from a row, keep the token for the reader (wake him), end the request when it is complete.
 * False: it has ended. `guessed`: the row comes from a guess that is true. */
static bool generate(eng_engine *e, eng_slot *slot, const mdl_seg *seg, int64_t row, bool guessed) {
    eng_request *r = slot->req;
    eng_pick pick;
    char text[ENG_TEXT_ROOM];
    size_t n = 0;
    tnl_status st = sample(e, slot, seg, row, &pick);
    if (st != TNL_OK) {
        eng_end_running(e, slot, ENG_FINISH_ERROR, st);
        return false;
    }
    eng_history_add(&slot->history, pick.id, true);
    eng_draft_add(&slot->draft, pick.id);
    eng_reuse_token(e, r, pick.id);
    count_token(e, r, guessed);
    r->last = pick.id;
    eng_finish finish = take_token(e, r, pick.id, text, &n);
    st = eng_request_push(r, &pick, false, text, n);
    if (st != TNL_OK)
        eng_end_running(e, slot, ENG_FINISH_ERROR, st);
    else if (finish != ENG_FINISH_NONE)
        eng_end_running(e, slot, finish, TNL_OK);
    return st == TNL_OK && finish == ENG_FINISH_NONE;
}

/* Rows after tokens fed .. fed+n-1 of the prompt give the logprobs of tokens fed+1 .. fed+n. */
static tnl_status echo_slice(eng_engine *e, eng_request *r, const mdl_seg *seg) {
    for (int64_t i = 0; i < seg->n_tokens && r->fed + i + 1 < r->n_prompt; i++) {
        eng_pick pick;
        TNL_TRY(eng_score(e->sampler, &pick, seg->logits + i * e->vocab, r->tokens[r->fed + i + 1],
                          r->params.logprobs));
        TNL_TRY(echo_token(r, &pick));
    }
    eng_request_wake(r);
    return TNL_OK;
}

static void absorb_prompt(eng_engine *e, eng_slot *slot, const mdl_seg *seg) {
    eng_request *r = slot->req;
    tnl_status st = TNL_OK;
    for (int64_t i = 0; i < seg->n_tokens; i++) {
        eng_history_add(&slot->history, seg->tokens[i], false);
        eng_draft_add(&slot->draft, seg->tokens[i]);
    }
    if (r->params.echo)
        st = echo_slice(e, r, seg);
    r->fed += seg->n_tokens;
    eng_reuse_slice(e, slot);
    if (st != TNL_OK)
        eng_end_running(e, slot, ENG_FINISH_ERROR, st);
    else if (r->fed < r->n_feed)
        return;
    else if (r->params.max_tokens == 0)
        eng_end_running(e, slot, ENG_FINISH_LENGTH, TNL_OK);
    else if (generate(e, slot, seg, seg->want == MDL_WANT_ALL ? seg->n_tokens - 1 : 0, false))
        eng_request_wake(r);
}

static void end_nonfinite(eng_engine *e, eng_slot *slot) {
    tnl_log(TNL_LOG_ERROR, "non-finite value in a sequence of %lld tokens: request ended",
            (long long)mdl_state_pos(slot->state));
    eng_end_running(e, slot, ENG_FINISH_ERROR, TNL_E_NONFINITE);
}

/* What came of a proposal; the first guess is looked at even when the model was not asked. */
static void learn(eng_draft *d, const eng_request *r, int checked, int agreed, int proposed) {
    if (checked > 0)
        eng_draft_learn(d, checked, agreed);
    else if (proposed > 0)
        eng_draft_learn(d, 1, d->guess[0] == r->last);
}

/* A row after the newest token and each guess. They are taken in order, each as a step of its own
 * would, up to the first guess that is not what was sampled; what lies behind is forgotten. */
static void absorb_decoded(eng_engine *e, eng_slot *slot, const mdl_seg *seg) {
    eng_request *r = slot->req;
    int64_t i = 0, last = seg->n_tokens - 1;
    int proposed = slot->draft.n_guess;
    for (;; i++) {
        if (i >= seg->n_finite) {
            end_nonfinite(e, slot);
            return;
        }
        if (!generate(e, slot, seg, i, i > 0))
            return;
        if (i == last || r->last != seg->tokens[i + 1])
            break;
    }
    /* cannot fail: plan_guesses left the block unfilled */
    (void)mdl_state_truncate(e->open.model, slot->state, mdl_state_pos(slot->state) - (last - i));
    learn(&slot->draft, r, (int)last, (int)i, proposed);
    eng_request_wake(r);
}

static void absorb(eng_engine *e, eng_slot *slot, const mdl_seg *seg) {
    if (slot->req->fed >= slot->req->n_feed)
        absorb_decoded(e, slot, seg);
    else if (seg->nonfinite)
        end_nonfinite(e, slot);
    else
        absorb_prompt(e, slot, seg);
}

/* ---- the step ---- */

/* Fills segs, seg_slot and picks from the plan; counts tokens of prompts and guessed ones. */
static int64_t build_segments(eng_engine *e, int64_t *prompt_tokens, int64_t *drafted) {
    int64_t n = 0, rows = 0;
    *prompt_tokens = *drafted = 0;
    for (int i = 0; i < e->open.parallel; i++) {
        if (e->give[i] == 0)
            continue;
        e->segs[n] = segment(&e->slots[i], &e->plan[i], e->give[i]);
        rows += plan_picks(e, e->slots[i].req, &e->plan[i], &e->segs[n], e->picks + rows);
        e->seg_slot[n++] = i;
        *(e->plan[i].prompt_left > 0 ? prompt_tokens : drafted) += e->give[i];
        *drafted -= e->plan[i].prompt_left == 0;
    }
    return n;
}

/* The next token of each decoding sequence that the device has not sampled, on all threads. What a
 * grammar allows is worked out in one place, so such sequences wait for their turn. */
static void sample_side_by_side(eng_engine *e, int64_t n_segs) {
    int64_t n = 0;
    for (int64_t i = 0; i < n_segs; i++) {
        eng_slot *slot = &e->slots[e->seg_slot[i]];
        const eng_request *r = slot->req;
        if (r->fed < r->n_feed || r->match || e->segs[i].picked || e->segs[i].n_finite == 0)
            continue;
        slot->ready = &e->jobs[n++];
        *slot->ready = (eng_row_job){.row = e->segs[i].logits,
                                     .p = &r->params,
                                     .h = &slot->history,
                                     .seed = r->seed,
                                     .position = r->n_prompt + r->generated};
    }
    eng_rows_sample(e->rows, e->jobs, n);
}

/* Its requests end with an error. A device that is lost stays so: requests are refused from then
 * on, and whoever asks if we are ready hears it. */
static void note_failure(eng_engine *e, const tnl_error *err) {
    tnl_log(TNL_LOG_ERROR, "a step failed: %s", err->msg);
    if (err->code != TNL_E_INTERNAL)
        return;
    tnl_log(TNL_LOG_ERROR, "no more requests are taken: start tnl again once the device is back");
    pthread_mutex_lock(&e->lock);
    e->lost = true;
    pthread_mutex_unlock(&e->lock);
}

bool eng_step(eng_engine *e) {
    int paused;
    int64_t prompt_tokens, drafted;
    int64_t n_tokens = plan_step(e, &paused);
    eng_metrics_paused(e, paused);
    if (n_tokens == 0)
        return false;
    double start = eng_now();
    int64_t n_segs = build_segments(e, &prompt_tokens, &drafted);
    tnl_error err;
    tnl_status st = mdl_forward(e->ctx, e->segs, n_segs, &err);
    if (st != TNL_OK)
        note_failure(e, &err);
    else if (prompt_tokens == 0)
        eng_pace_observe(&e->pace, n_tokens, eng_now() - start);
    eng_metrics_step(e, prompt_tokens, drafted);
    if (st == TNL_OK)
        sample_side_by_side(e, n_segs);
    for (int64_t i = 0; i < n_segs; i++) {
        eng_slot *slot = &e->slots[e->seg_slot[i]];
        if (st == TNL_OK)
            absorb(e, slot, &e->segs[i]);
        else
            eng_end_running(e, slot, ENG_FINISH_ERROR, TNL_E_INTERNAL);
    }
    eng_metrics_busy(e, eng_now() - start);
    return true;
}
