/* Answers from the engine in this process, with the templates and the prefix cache of the server:
 * a turn reads only what is new in the conversation. */
#include <string.h>

#include "server/cli/chat/chat.h"

#ifdef TNL_HAVE_TOKENIZER
#include <stdlib.h>

#include "server/cli/progress.h"
#include "server/http/api/chat_template.h"
#include "server/http/api/text.h"

typedef struct local {
    const srv_chat_template *chat;
    mdl_model *model;
    const tok_model *tok;
    eng_engine *engine;
    eng_params params; /* large: not on the stack */
} local;

static void close_local(void *self) {
    local *l = self;
    eng_close(l->engine);
    cli_close_tokenizer(l->tok);
    mdl_close(l->model);
    free(l);
}

/* ---- the question ---- */

static void fill_params(eng_params *p, const cli_chat_settings *o) {
    eng_params_default(p);
    p->max_tokens = o->max_tokens;
    cli_set_sampling(p, &o->sampling);
    p->seed = o->seed;
    p->ignore_eos = o->ignore_eos;
    p->has_seed = cli_chat_given(o, "seed");
}

static tnl_status plain_prompt(srv_prompt *out, const local *l, const cli_chat_log *log,
                               tnl_error *err) {
    srv_buf b = {0};
    cli_chat_log_text(&b, log);
    tnl_status s = b.failed ? tnl_fail(err, TNL_E_NOMEM, "out of memory")
                            : srv_text_encode(l->tok, mdl_model_spec(l->model), b.data, b.len,
                                              &out->ids, &out->n_ids, err);
    srv_buf_free(&b);
    return s;
}

static tnl_status write_prompt(srv_prompt *out, local *l, const cli_question *q, tnl_error *err) {
    srv_problem p = {0};
    if (q->plain)
        return plain_prompt(out, l, q->log, err);
    if (srv_chat_prompt(out, l->chat, q->log->m, q->log->n, l->tok, mdl_model_spec(l->model), &p) &&
        srv_chat_stops(&l->params, l->chat, l->tok, &p))
        return TNL_OK;
    return tnl_fail(err, TNL_E_DATA, "%s", srv_err_text(&p));
}

/* ---- the answer ---- */

static void take_done(cli_answer *a, const eng_event *ev) {
    snprintf(a->finish, sizeof a->finish, "%s", eng_finish_names[ev->finish]);
    a->stopped = ev->finish == ENG_FINISH_CANCELLED;
    a->prompt_tokens = ev->prompt_tokens;
    a->cached_tokens = ev->cached_tokens;
    a->tokens = ev->completion_tokens;
}

/* Events until DONE; a failure of ours cancels, and DONE still follows. */
static tnl_status follow(eng_request *r, const cli_question *q, cli_answer *a, double began,
                         tnl_error *err) {
    tnl_status s = TNL_OK;
    for (bool done = false, cancelled = false; !done;) {
        eng_event ev;
        if ((*q->interrupts || s != TNL_OK) && !cancelled) {
            eng_request_cancel(r);
            cancelled = true;
        }
        if (!eng_request_wait(r, &ev, 50))
            continue;
        if (a->first_ms < 0 && ev.kind == ENG_EV_TOKEN)
            a->first_ms = 1000 * (cli_now() - began);
        if (s == TNL_OK && ev.text_len)
            s = q->text(q->user, ev.text, ev.text_len, err);
        done = ev.kind == ENG_EV_DONE;
        if (done)
            take_done(a, &ev);
        if (done && ev.finish == ENG_FINISH_ERROR && s == TNL_OK)
            s = tnl_fail(err, ev.error, "the answer broke off: %s", tnl_status_str(ev.error));
        eng_event_clear(&ev);
    }
    a->total_ms = 1000 * (cli_now() - began);
    return s;
}

static tnl_status answer(void *self, const cli_question *q, cli_answer *a, tnl_error *err) {
    local *l = self;
    double began = cli_now();
    srv_prompt prompt = {0};
    eng_request *r = NULL;
    fill_params(&l->params, q->o);
    tnl_status s = write_prompt(&prompt, l, q, err);
    if (s == TNL_OK && prompt.n_ids == 0)
        s = tnl_fail(err, TNL_E_USAGE, "there is no text to continue");
    if (s == TNL_OK) {
        eng_job job = {.tokens = prompt.ids, .n_tokens = prompt.n_ids, .params = &l->params};
        s = eng_submit(&r, l->engine, &job, err);
    }
    if (s == TNL_OK)
        s = follow(r, q, a, began, err);
    if (r)
        eng_request_release(r);
    free(prompt.ids);
    return s;
}

/* ---- opening ---- */

static tnl_status open_parts(local *l, const cli_chat_settings *o, const char *dir,
                             tnl_error *err) {
    eng_open_params p;
    TNL_TRY(srv_chat_choose(&l->chat, o->template_name, dir, err));
    TNL_TRY(cli_open_tokenizer(&l->tok, dir, NULL, err)); /* before there are threads */
    TNL_TRY(cli_open_model(&l->model, &o->model, dir, err));
    TNL_TRY(cli_check_tokenizer(l->tok, l->model, err));
    eng_open_params_default(&p);
    p.model = l->model;
    p.tokenizer = l->tok;
    p.parallel = 1;
    p.queue = 1;
    p.prefix_cache = (size_t)o->prefix_cache_mb << 20;
    return eng_open(&l->engine, &p, err);
}

tnl_status cli_voice_local(cli_voice *out, const cli_chat_settings *o, const char *dir,
                           tnl_error *err) {
    local *l = calloc(1, sizeof *l);
    if (!l)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    tnl_status s = open_parts(l, o, dir, err);
    if (s != TNL_OK) {
        close_local(l);
        return s;
    }
    const char *name = srv_chat_name(l->chat);
    *out = (cli_voice){.answer = answer, .close = close_local, .self = l};
    out->plain =
        cli_chat_given(o, "plain") ? o->plain : !o->template_name && strcmp(name, "plain") == 0;
    snprintf(out->name, sizeof out->name, "%.80s, %s%s", dir,
             out->plain ? "which continues text" : "template ", out->plain ? "" : name);
    return TNL_OK;
}

#else

tnl_status cli_voice_local(cli_voice *out, const cli_chat_settings *o, const char *dir,
                           tnl_error *err) {
    (void)out, (void)o, (void)dir;
    return tnl_fail(err, TNL_E_UNSUPPORTED, "built without a tokenizer: give the URL of a server");
}

#endif
