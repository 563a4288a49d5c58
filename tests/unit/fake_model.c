/* See fake_model.h. */
#include "fake_model.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/utf8.h"
#include "model/forward.h"
#include "model/state.h"

struct mdl_model {
    mdl_spec spec;
    bool chain;
    int contexts;
    int32_t bomb;
    int64_t bomb_pos;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    int64_t permits; /* -1: open */
    int64_t begun;
    uint8_t identity;
};

/* What a state is after each token. */
typedef struct moment {
    uint64_t hash;
    int32_t last;
    bool nan;
} moment;

/* As with a real state, only tokens since the last block boundary can be forgotten. */
struct mdl_state {
    int64_t pos;
    moment now;
    moment before[FAKE_BLOCK]; /* as of each position of the current block */
    bool dirty;                /* poisoned, not yet reset */
    bool in_step;
};

struct mdl_ctx {
    mdl_model *m;
    int64_t max_tokens, max_rows;
    float *logits;
};

#define REQUIRE(cond)                                                                              \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "fake model: %s, line %d\n", #cond, __LINE__);                         \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

mdl_model *fake_model_new(void) {
    mdl_model *m = calloc(1, sizeof *m);
    REQUIRE(m);
    m->spec.vocab = FAKE_VOCAB;
    m->spec.eos_id = FAKE_EOS;
    m->spec.bos_id = m->spec.pad_id = -1;
    m->permits = -1;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->moved, NULL);
    return m;
}

void fake_model_free(mdl_model *m) {
    pthread_cond_destroy(&m->moved);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

void fake_model_chain(mdl_model *m, bool on) {
    m->chain = on;
}

void fake_model_repeat(mdl_model *m, int contexts) {
    m->contexts = contexts;
}

void fake_model_identity(mdl_model *m, uint8_t identity) {
    m->identity = identity;
}

void fake_model_bomb(mdl_model *m, int32_t id, int64_t pos) {
    m->bomb = id;
    m->bomb_pos = pos;
}

static void set_permits(mdl_model *m, int64_t n, bool add) {
    pthread_mutex_lock(&m->lock);
    m->permits = add ? m->permits + n : n;
    pthread_cond_broadcast(&m->moved);
    pthread_mutex_unlock(&m->lock);
}

void fake_model_hold(mdl_model *m) {
    set_permits(m, 0, false);
}

void fake_model_let(mdl_model *m, int64_t n) {
    set_permits(m, n, true);
}

void fake_model_open(mdl_model *m) {
    set_permits(m, -1, false);
}

void fake_model_wait_begun(mdl_model *m, int64_t n) {
    pthread_mutex_lock(&m->lock);
    while (m->begun < n)
        pthread_cond_wait(&m->moved, &m->lock);
    pthread_mutex_unlock(&m->lock);
}

int64_t fake_model_begun(mdl_model *m) {
    pthread_mutex_lock(&m->lock);
    int64_t n = m->begun;
    pthread_mutex_unlock(&m->lock);
    return n;
}

static void pass_gate(mdl_model *m) {
    pthread_mutex_lock(&m->lock);
    m->begun++;
    pthread_cond_broadcast(&m->moved);
    while (m->permits == 0)
        pthread_cond_wait(&m->moved, &m->lock);
    if (m->permits > 0)
        m->permits--;
    pthread_mutex_unlock(&m->lock);
}

static uint64_t mix(uint64_t z) {
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static void absorb(const mdl_model *m, mdl_state *s, int32_t token) {
    s->before[s->pos % FAKE_BLOCK] = s->now;
    s->now.hash = mix(s->now.hash ^ (uint64_t)(token + 1));
    s->now.last = token;
    s->now.nan |= token == FAKE_NAN || (token == m->bomb && token && s->pos >= m->bomb_pos);
    s->pos++;
}

/* -4 .. 4 */
static float noise(uint64_t h, int i) {
    return (float)(mix(h + (uint64_t)i) >> 40) * 0x1p-21f - 4.0f;
}

static void write_row(const mdl_model *m, const mdl_state *s, float *row) {
    const moment *now = &s->now;
    for (int i = 0; i < FAKE_VOCAB; i++)
        row[i] = now->nan ? NAN : noise(now->hash, i);
    if (m->contexts > 0) { /* favourites by the last token, a little by all tokens */
        uint64_t context = mix((uint64_t)(now->last % m->contexts));
        for (int i = 0; i < FAKE_VOCAB; i++)
            row[i] = 0x1p-14f * row[i] + 6.0f * noise(context, i);
    }
    row[FAKE_NAN] -= 200.0f; /* such a token is only ever given, never chosen */
    row[FAKE_BREAK] -= 200.0f;
    if (m->chain && !now->nan) {
        int next = now->last + 1 >= FAKE_NAN - 1 ? FAKE_EOS : now->last + 1;
        row[next] = 60.0f;
    }
}

void fake_model_row(mdl_model *m, float *row, const int32_t *tokens, int64_t n) {
    mdl_state s = {0};
    for (int64_t i = 0; i < n; i++)
        absorb(m, &s, tokens[i]);
    write_row(m, &s, row);
}

void fake_state_feed(mdl_model *m, mdl_state *s, const int32_t *tokens, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        absorb(m, s, tokens[i]);
}

uint64_t fake_state_hash(const mdl_state *s) {
    REQUIRE(!s->dirty);
    return s->now.hash;
}

/* ---- model/model.h, state.h, forward.h ---- */

const mdl_spec *mdl_model_spec(const mdl_model *m) {
    return &m->spec;
}

kn_backend *mdl_model_backend(const mdl_model *m) {
    (void)m;
    return NULL; /* no threads to lend */
}

size_t mdl_state_bytes(const mdl_model *m) {
    (void)m;
    return sizeof(mdl_state);
}

mdl_state *mdl_state_new(mdl_model *m) {
    (void)m;
    return calloc(1, sizeof(mdl_state));
}

void mdl_state_free(mdl_model *m, mdl_state *s) {
    (void)m;
    free(s);
}

void mdl_state_reset(mdl_model *m, mdl_state *s) {
    (void)m;
    memset(s, 0, sizeof *s);
}

void mdl_state_poison(mdl_model *m, mdl_state *s) {
    (void)m;
    s->dirty = true;
}

int64_t mdl_state_pos(const mdl_state *s) {
    return s->pos;
}

int64_t mdl_state_spare(const mdl_model *m, int64_t pos) {
    (void)m;
    return FAKE_BLOCK - 1 - pos % FAKE_BLOCK;
}

int64_t mdl_prompt_slice(const mdl_model *m) {
    (void)m;
    return 0;
}

bool mdl_can_pick(const mdl_model *m) {
    (void)m;
    return false;
}

int64_t mdl_state_block(const mdl_model *m) {
    (void)m;
    return FAKE_BLOCK;
}

size_t mdl_state_core_bytes(const mdl_model *m) {
    (void)m;
    return sizeof(moment);
}

void mdl_state_core_save(mdl_model *m, const mdl_state *s, void *buf) {
    (void)m;
    REQUIRE(!s->dirty && !s->in_step);
    memcpy(buf, s->pos % FAKE_BLOCK ? &s->before[0] : &s->now, sizeof(moment));
}

void mdl_state_core_load(mdl_model *m, mdl_state *s, const void *buf, int64_t pos) {
    (void)m;
    REQUIRE(!s->dirty && s->pos == 0 && pos % FAKE_BLOCK == 0);
    memcpy(&s->now, buf, sizeof(moment));
    s->pos = pos;
}

bool mdl_state_core_finite(const void *buf, size_t n) {
    (void)buf;
    (void)n; /* not floats */
    return true;
}

void mdl_model_identity(const mdl_model *m, uint8_t out[MDL_IDENTITY_BYTES]) {
    memset(out, (int)m->identity, MDL_IDENTITY_BYTES);
}

tnl_status mdl_state_truncate(mdl_model *m, mdl_state *s, int64_t pos) {
    (void)m;
    REQUIRE(pos <= s->pos && pos >= s->pos - s->pos % FAKE_BLOCK);
    if (pos < s->pos)
        s->now = s->before[pos % FAKE_BLOCK];
    s->pos = pos;
    return TNL_OK;
}

tnl_status mdl_ctx_open(mdl_ctx **out, mdl_model *m, int64_t max_tokens, int64_t max_logits,
                        tnl_error *err) {
    (void)err;
    *out = calloc(1, sizeof **out);
    REQUIRE(*out);
    (*out)->m = m;
    (*out)->max_tokens = max_tokens;
    (*out)->max_rows = max_logits;
    (*out)->logits = calloc((size_t)max_logits, FAKE_VOCAB * sizeof(float));
    REQUIRE((*out)->logits);
    return TNL_OK;
}

void mdl_ctx_close(mdl_ctx *ctx) {
    if (ctx)
        free(ctx->logits);
    free(ctx);
}

static int64_t run_segment(const mdl_ctx *ctx, mdl_seg *seg, int64_t row) {
    const mdl_model *m = ctx->m;
    mdl_state *s = seg->state;
    seg->logits = ctx->logits + row * FAKE_VOCAB;
    seg->n_finite = seg->n_tokens;
    for (int64_t t = 0; t < seg->n_tokens; t++) {
        REQUIRE(seg->tokens[t] >= 0 && seg->tokens[t] < FAKE_VOCAB);
        absorb(m, s, seg->tokens[t]);
        if (s->now.nan && t < seg->n_finite)
            seg->n_finite = t;
        bool last = t == seg->n_tokens - 1;
        if (seg->want == MDL_WANT_ALL || (seg->want == MDL_WANT_LAST && last)) {
            REQUIRE(row < ctx->max_rows);
            write_row(m, s, ctx->logits + row++ * FAKE_VOCAB);
        }
    }
    seg->nonfinite = s->now.nan;
    s->in_step = false;
    return row;
}

tnl_status mdl_forward(mdl_ctx *ctx, mdl_seg *segs, int64_t n_segs, tnl_error *err) {
    int64_t tokens = 0, row = 0;
    pass_gate(ctx->m);
    for (int64_t i = 0; i < n_segs; i++) {
        REQUIRE(segs[i].n_tokens > 0);
        REQUIRE(!segs[i].state->dirty && !segs[i].state->in_step);
        segs[i].state->in_step = true;
        tokens += segs[i].n_tokens;
        if (segs[i].tokens[0] == FAKE_BREAK) {
            for (int64_t k = 0; k <= i; k++)
                segs[k].state->in_step = false;
            return tnl_fail(err, TNL_E_USAGE, "broken on purpose");
        }
    }
    REQUIRE(tokens <= ctx->max_tokens);
    for (int64_t i = 0; i < n_segs; i++)
        row = run_segment(ctx, &segs[i], row);
    return TNL_OK;
}

/* ---- tokenizer/tok.h ---- */

struct tok_model {
    char piece[FAKE_VOCAB][16];
};

tok_model *fake_tok_new(void) {
    tok_model *t = calloc(1, sizeof *t);
    REQUIRE(t);
    return t;
}

void fake_tok_free(tok_model *t) {
    free(t);
}

void fake_tok_set(tok_model *t, int32_t id, const char *bytes) {
    snprintf(t->piece[id], sizeof t->piece[id], "%s", bytes);
}

#ifdef TNL_HAVE_TOKENIZER

int32_t tok_vocab(const tok_model *t) {
    (void)t;
    return FAKE_VOCAB;
}

int32_t tok_unk(const tok_model *t) {
    (void)t;
    return -1;
}

const char *tok_piece(const tok_model *t, int32_t id, size_t *n) {
    *n = strlen(t->piece[id]);
    return t->piece[id];
}

int32_t tok_eos(const tok_model *t) {
    (void)t;
    return FAKE_EOS;
}

void tok_stream_init(tok_stream *s, const tok_model *model, bool continuing) {
    memset(s, 0, sizeof *s);
    s->model = model;
    s->at_start = !continuing;
}

size_t tok_stream_push(tok_stream *s, int32_t id, char *out, size_t cap) {
    REQUIRE(cap >= TOK_STREAM_MAX);
    const char *piece = s->model->piece[id];
    size_t n = strlen(piece), skip = s->at_start && piece[0] == ' ';
    s->at_start = s->at_start && n == 0;
    memcpy(out, s->held, s->n_held);
    memcpy(out + s->n_held, piece + skip, n - skip);
    n = s->n_held + n - skip;
    s->n_held = (uint8_t)tnl_utf8_incomplete_tail(out, n);
    memcpy(s->held, out + n - s->n_held, s->n_held);
    return n - s->n_held;
}

size_t tok_stream_finish(tok_stream *s, char *out, size_t cap) {
    REQUIRE(cap >= 3);
    if (s->n_held == 0)
        return 0;
    s->n_held = 0;
    memcpy(out, "\xEF\xBF\xBD", 3);
    return 3;
}

#endif
