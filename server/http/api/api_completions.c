/* POST /v1/completions. Logprobs are four parallel arrays; a choice keeps them as four pieces of
 * JSON. A token that is not whole UTF-8 is spelled "bytes:\xNN..", as OpenAI does. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/base/utf8.h"
#include "server/http/api/openai_out.h"

enum { TOKENS, LOGPROBS, TOP, OFFSETS };

static bool prepare(srv_req *req, srv_problem *p) {
    srv_gen *g = &req->gen;
    g->want_logprobs = g->logprobs >= 0;
    g->params.logprobs = g->want_logprobs ? g->logprobs : 0;
    if (!srv_openai_check(g, p))
        return false;
    srv_openai_head(&req->head, req, "cmpl-", "text_completion");
    return true;
}

/* ---- logprobs ---- */

static void put_piece(srv_buf *b, const srv_req *req, int32_t id) {
    size_t n;
    bool special;
    char spare[32];
    const char *piece = srv_gen_piece(req, id, &n, &special, spare);
    if (tnl_utf8_valid(piece, n)) {
        srv_json_string(b, piece, n);
        return;
    }
    srv_buf_puts(b, "\"bytes:");
    for (size_t i = 0; i < n; i++)
        srv_buf_printf(b, "\\\\x%02x", (unsigned char)piece[i]);
    srv_buf_puts(b, "\"");
}

static bool same_piece(const srv_req *req, int32_t a, int32_t b) {
    size_t n, m;
    bool special;
    char s[32], t[32];
    const char *x = srv_gen_piece(req, a, &n, &special, s);
    const char *y = srv_gen_piece(req, b, &m, &special, t);
    return n == m && memcmp(x, y, n) == 0;
}

/* A map cannot hold two tokens of one spelling: the likelier one stands. */
static bool spelled_before(const srv_req *req, const eng_event *ev, int n, int32_t id) {
    for (int i = 0; i < n; i++)
        if (same_piece(req, ev->alts[i].id, id))
            return true;
    return false;
}

static void put_pair(srv_buf *b, const srv_req *req, bool first, int32_t id, float logprob) {
    if (!first)
        srv_buf_puts(b, ",");
    put_piece(b, req, id);
    srv_buf_puts(b, ":");
    srv_json_float(b, logprob);
}

/* The alternatives, and the token itself where it is not among them. */
static void put_top(srv_buf *b, const srv_req *req, const eng_event *ev) {
    srv_buf_puts(b, "{");
    for (int i = 0; i < ev->n_alts; i++)
        if (!spelled_before(req, ev, i, ev->alts[i].id))
            put_pair(b, req, i == 0, ev->alts[i].id, ev->alts[i].logprob);
    if (!spelled_before(req, ev, ev->n_alts, ev->id))
        put_pair(b, req, ev->n_alts == 0, ev->id, ev->logprob);
    srv_buf_puts(b, "}");
}

static bool continues(char byte) {
    return ((unsigned char)byte & 0xC0) == 0x80;
}

/* Offset of a token in characters; one that goes on with a character begun before has that
 * character's. */
static int64_t offset_of(const srv_req *req, srv_choice *c, const eng_event *ev) {
    size_t n;
    bool special;
    char spare[32];
    const char *piece = srv_gen_piece(req, ev->id, &n, &special, spare);
    int64_t at = c->chars;
    if (special)
        return at;
    if (ev->index == 0 && piece[0] == ' ' && ev->text_len && ev->text[0] != ' ')
        c->chars--; /* the space that a text's first piece carries is not in the text */
    for (size_t i = 0; i < n; i++)
        c->chars += !continues(piece[i]);
    return n && continues(piece[0]) && at > 0 ? at - 1 : at;
}

static void add_logprobs(const srv_req *req, srv_choice *c, const eng_event *ev) {
    if (!req->gen.want_logprobs)
        return;
    for (int k = 0; k < SRV_CHOICE_PARTS; k++)
        if (c->part[k].len)
            srv_buf_puts(&c->part[k], ",");
    put_piece(&c->part[TOKENS], req, ev->id);
    srv_json_float(&c->part[LOGPROBS], ev->logprob);
    if (req->gen.logprobs == 0 || isnan(ev->logprob))
        srv_buf_puts(&c->part[TOP], "null");
    else
        put_top(&c->part[TOP], req, ev);
    srv_json_int(&c->part[OFFSETS], offset_of(req, c, ev));
}

static void put_logprobs(srv_buf *b, const srv_req *req, const srv_choice *c) {
    static const char *const names[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};
    srv_buf_puts(b, ",\"logprobs\":");
    if (!req->gen.want_logprobs) {
        srv_buf_puts(b, "null");
        return;
    }
    for (int k = 0; k < SRV_CHOICE_PARTS; k++) {
        srv_buf_printf(b, "%s\"%s\":[", k ? "," : "{", names[k]);
        srv_buf_put(b, c->part[k].data, c->part[k].len);
        srv_buf_puts(b, "]");
    }
    srv_buf_puts(b, "}");
}

/* ---- choices ---- */

static void put_choice(srv_buf *b, const srv_req *req, const srv_choice *c, int index,
                       const char *text, size_t n, const char *finish) {
    srv_buf_printf(b, "{\"index\":%d,\"text\":", index);
    srv_json_string(b, text, n);
    put_logprobs(b, req, c);
    if (finish)
        srv_buf_printf(b, ",\"finish_reason\":\"%s\"}", finish);
    else
        srv_buf_puts(b, ",\"finish_reason\":null}");
}

static void on_token(srv_req *req, srv_choice *c, const eng_event *ev) {
    if (ev->text_len == 0 && !req->gen.want_logprobs && !req->gen.continuous_usage)
        return; /* held back: nothing to say yet */
    for (int k = 0; k < SRV_CHOICE_PARTS; k++)
        srv_buf_clear(&c->part[k]);
    add_logprobs(req, c, ev);
    srv_openai_chunk_begin(req);
    put_choice(&req->out, req, c, c->index, ev->text ? ev->text : "", ev->text_len, NULL);
    srv_openai_chunk_end(req);
}

static void on_done(srv_req *req, srv_choice *c, const eng_event *ev) {
    (void)ev;
    for (int k = 0; k < SRV_CHOICE_PARTS; k++)
        srv_buf_clear(&c->part[k]);
    srv_openai_chunk_begin(req);
    put_choice(&req->out, req, c, c->index, "", 0, srv_openai_finish(c->finish));
    srv_openai_chunk_end(req);
}

static void gather(srv_req *req, srv_choice *c, const eng_event *ev) {
    add_logprobs(req, c, ev);
    srv_buf_put(&c->text, ev->text, ev->text_len);
}

static void answer(srv_req *req, srv_buf *b, const eng_event *last) {
    (void)last;
    size_t keep = (size_t)req->gen.n;
    size_t last_prompt = req->choices[atomic_load(&req->n_choices) - 1].prompt;
    srv_buf_put(b, req->head.data, req->head.len);
    for (size_t i = 0; i <= last_prompt; i++) {
        srv_choice *best[SRV_MAX_N];
        srv_gen_pick(best, keep, req, i);
        for (size_t k = 0; k < keep; k++) {
            const srv_choice *c = best[k];
            if (i + k)
                srv_buf_puts(b, ",");
            put_choice(b, req, c, (int)(i * keep + k), c->text.data, c->text.len,
                       srv_openai_finish(c->finish));
        }
    }
    srv_openai_answer_end(b, req);
}

const srv_dialect srv_dialect_completions = {.sse = true,
                                             .prepare = prepare,
                                             .token = on_token,
                                             .done = on_done,
                                             .end = srv_openai_end,
                                             .gather = gather,
                                             .answer = answer,
                                             .problem = srv_openai_problem};
