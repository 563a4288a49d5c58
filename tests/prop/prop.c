/* Helpers of the property tests. */
#include "prop.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/arch.h"
#include "model/internal.h"
#include "model/weights_memory.h"

/* ---- generator: splitmix64 ---- */

uint64_t prop_seed(void) {
    static uint64_t seed; /* chosen once per process */
    if (seed == 0) {
        const char *text = getenv("TNL_SEED");
        seed = text ? strtoull(text, NULL, 10) : 20240211;
        seed += seed == 0;
        print_message("seed %" PRIu64 "\n", seed);
    }
    return seed;
}

uint64_t prop_next(prop_rng *r) {
    uint64_t z = (r->s += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

int64_t prop_below(prop_rng *r, int64_t n) {
    return (int64_t)(prop_next(r) % (uint64_t)n);
}

double prop_uniform(prop_rng *r) {
    return (double)(prop_next(r) >> 11) * 0x1p-53;
}

double prop_normal(prop_rng *r) {
    double u = 1.0 - prop_uniform(r), v = prop_uniform(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

/* ---- models ---- */

static const char *const isas[] = {"ref", "avx2", "avx512"};

bool prop_isa(const char *isa) {
    const char *only = getenv("TNL_CPU");
    if (only && strcmp(only, isa) != 0)
        return false;
    kn_backend *be = NULL;
    tnl_error err;
    bool ok = kn_cpu_open(&be, 1, isa, &err) == TNL_OK;
    kn_backend_close(be);
    return ok;
}

static const prop_case forms[] = {
    {"v2 f32", false, KN_F32, NULL, 3, 20, 3, 8, 33, 51},
    {"v2 bf16", false, KN_BF16, NULL, 3, 20, 3, 8, 33, 51},
    {"v3 f32", true, KN_F32, NULL, 2, 23, 2, 12, 40, 37},
    {"v3 bf16", true, KN_BF16, NULL, 2, 23, 2, 12, 40, 37},
    {"v2 q8", false, KN_Q8, NULL, 3, 20, 3, 8, 33, 51},
    {"v3 q4", true, KN_Q4, NULL, 2, 23, 2, 12, 40, 37},
    {"v2 f8", false, KN_F8, NULL, 3, 20, 3, 8, 33, 51},
    {"wide f32", false, KN_F32, NULL, 1, 288, 2, 64, 600, 260},
    {"wide bf16", true, KN_BF16, NULL, 1, 288, 2, 64, 600, 260},
    {"wide q8", true, KN_Q8, NULL, 1, 288, 2, 64, 600, 260},
    {"wide q4", false, KN_Q4, NULL, 1, 288, 2, 64, 600, 260},
    {"wide f8", true, KN_F8, NULL, 1, 288, 2, 64, 600, 260},
};

/* The portable bodies have no tiles to cross, and are slow: small forms only. Under a sanitizer,
 * which looks for other things than bits, one form of each size. */
static bool too_slow(const prop_case *c, const char *isa) {
    bool wide = c->width > 100, ref = strcmp(isa, "ref") == 0;
    return (wide && ref) || (PROP_SANITIZED && c->v3 != (c->dtype == KN_BF16)) ||
           (PROP_SANITIZED && (wide || ref) && !c->v3);
}

static int fill_cases(prop_case *cases) {
    int n = 0;
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        if (!prop_isa(isas[i]))
            continue;
        for (size_t f = 0; f < sizeof forms / sizeof *forms; f++)
            if (!too_slow(&forms[f], isas[i])) {
                cases[n] = forms[f];
                cases[n++].isa = isas[i];
            }
    }
    return n;
}

const prop_case *prop_cases(int *n) {
    static prop_case cases[sizeof forms / sizeof *forms * (sizeof isas / sizeof *isas)];
    static int filled; /* once per process */
    if (filled == 0)
        filled = fill_cases(cases);
    *n = filled;
    return cases;
}

/* config.json of a case in a temporary file; the caller removes it. */
static void write_config(const prop_case *c, char path[64]) {
    snprintf(path, 64, "/tmp/tnl-prop-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    assert_non_null(f);
    fprintf(f,
            "{\"architectures\":[\"TransnormerForCausalLM\"],\"model_type\":\"transnormer\","
            "\"vocab_size\":%d,\"decoder_layers\":%d,\"decoder_embed_dim\":%d,"
            "\"decoder_attention_heads\":%d,\"hidden_dim\":%d,\"glu_dim\":%d,"
            "\"linear_act_fun\":\"silu\",\"norm_type\":\"%s\",\"bias\":%s,%s"
            "\"linear_use_lrpe_list\":[1",
            c->vocab, c->layers, c->width, c->heads, c->heads * c->head_dim, c->glu,
            c->v3 ? "layernorm" : "simplermsnorm", c->v3 ? "true" : "false",
            c->v3 ? "\"gate_dim\":5," : "");
    for (int i = 1; i < c->layers; i++)
        fprintf(f, ",0");
    fprintf(f, "]}\n");
    assert_int_equal(fclose(f), 0);
}

/* Random weights come with zero biases and norms that do nothing. Make them do something: sums that
 * never happen cannot differ. */
static tnl_status stir_vector(void *ctx, const mdl_role_row *row, int layer) {
    mdl_model *m = ctx;
    int64_t dims[3], n = 1;
    if (row->matrix || row->role == MDL_R_THETA)
        return TNL_OK;
    int rank = mdl_role_dims(row, &m->spec, layer, dims);
    for (int i = 0; i < rank; i++)
        n *= dims[i];
    prop_rng r = {(uint64_t)row->role * 1000 + (uint64_t)(layer + 1)};
    float *v = (float *)(uintptr_t)mdl_weights_of(&m->weights, layer)->v[row->role];
    for (int64_t i = 0; i < n; i++)
        v[i] += (float)(0.2 * prop_normal(&r));
    return TNL_OK;
}

prop_model prop_open_sized(const prop_case *c, int threads, int64_t max_tokens) {
    char path[64];
    tnl_error err = {0};
    prop_model p = {0};
    prop_seed();
    write_config(c, path);
    tnl_status s = mdl_open_random(&p.m, path, c->dtype, NULL, threads, c->isa, 7, &err);
    unlink(path);
    if (s == TNL_OK)
        s = mdl_weights_each_role(&p.m->spec, stir_vector, p.m);
    if (s == TNL_OK)
        s = mdl_ctx_open(&p.ctx, p.m, max_tokens, max_tokens, &err);
    if (s != TNL_OK)
        fail_msg("%s: %s", c->label, err.msg);
    p.vocab = mdl_model_spec(p.m)->vocab;
    p.block = mdl_model_backend(p.m)->block;
    return p;
}

prop_model prop_open(const prop_case *c, int threads) {
    return prop_open_sized(c, threads, PROP_MAX_TOKENS);
}

void prop_close(prop_model *p) {
    mdl_ctx_close(p->ctx);
    mdl_close(p->m);
}

mdl_state *prop_state(const prop_model *p) {
    mdl_state *s = mdl_state_new(p->m);
    assert_non_null(s);
    return s;
}

void prop_drop(const prop_model *p, mdl_state *s) {
    mdl_state_free(p->m, s);
}

/* ---- sequences and runs ---- */

static void *need(void *p) {
    assert_non_null(p);
    return p;
}

void prop_tokens(prop_rng *r, int32_t *tokens, int64_t n, int64_t vocab) {
    for (int64_t i = 0; i < n; i++)
        tokens[i] = (int32_t)prop_below(r, vocab);
}

mdl_seg prop_step(const prop_model *p, mdl_state *s, const int32_t *tokens, int64_t n,
                  mdl_want want) {
    tnl_error err = {0};
    mdl_seg seg = {.state = s, .tokens = tokens, .n_tokens = n, .want = want};
    if (mdl_forward(p->ctx, &seg, 1, &err) != TNL_OK)
        fail_msg("%s", err.msg);
    return seg;
}

void *prop_export(const prop_model *p, const mdl_state *s) {
    void *buf = need(malloc(mdl_state_export_bytes(p->m)));
    mdl_state_export(p->m, s, buf);
    return buf;
}

prop_run prop_oracle_of(const prop_model *p, const int32_t *tokens, int64_t n) {
    size_t row = (size_t)p->vocab * sizeof(float);
    prop_run run = {.n = n};
    run.tokens = need(malloc((size_t)n * sizeof *run.tokens + 1));
    run.logits = need(malloc((size_t)n * row + 1));
    memcpy(run.tokens, tokens, (size_t)n * sizeof *tokens);
    mdl_state *s = prop_state(p);
    for (int64_t i = 0; i < n; i++) {
        mdl_seg seg = prop_step(p, s, tokens + i, 1, MDL_WANT_LAST);
        assert_false(seg.nonfinite);
        memcpy(run.logits + i * p->vocab, seg.logits, row);
    }
    assert_int_equal(mdl_state_pos(s), n);
    run.state = prop_export(p, s);
    prop_drop(p, s);
    return run;
}

prop_run prop_oracle(const prop_model *p, prop_rng *r, int64_t n) {
    int32_t *tokens = need(malloc((size_t)n * sizeof *tokens + 1));
    prop_tokens(r, tokens, n, p->vocab);
    prop_run run = prop_oracle_of(p, tokens, n);
    free(tokens);
    return run;
}

void prop_run_free(prop_run *run) {
    free(run->tokens);
    free(run->logits);
    free(run->state);
}

void prop_same_rows(const prop_model *p, const prop_run *want, int64_t first, const mdl_seg *seg,
                    const char *what) {
    if (seg->n_tokens == 0 || seg->want == MDL_WANT_NONE)
        return;
    int64_t rows = seg->want == MDL_WANT_LAST ? 1 : seg->n_tokens;
    int64_t from = first + seg->n_tokens - rows;
    assert_non_null(seg->logits);
    for (int64_t i = 0; i < rows; i++) {
        const float *a = want->logits + (from + i) * p->vocab, *b = seg->logits + i * p->vocab;
        for (int64_t j = 0; j < p->vocab; j++)
            if (memcmp(a + j, b + j, sizeof *a) != 0)
                fail_msg("%s: token %" PRId64 " of %" PRId64 ", logit %" PRId64
                         ": %.9g, alone %.9g",
                         what, from + i, want->n, j, (double)b[j], (double)a[j]);
    }
}

void prop_same_state(const prop_model *p, const void *want, const mdl_state *s, const char *what) {
    void *got = prop_export(p, s);
    size_t n = mdl_state_export_bytes(p->m);
    const unsigned char *a = want, *b = got;
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i])
            fail_msg("%s: byte %zu of the state's %zu differs", what, i, n);
    free(got);
}

void prop_same_memory(const prop_model *p, const mdl_state *a, const mdl_state *b) {
    assert_int_equal(a->pos, b->pos);
    assert_memory_equal(a->data, b->data, p->m->state_floats * sizeof *a->data);
}

/* ---- poison ---- */

static const uint32_t nan_pattern = 0x7FA5A5A5;

static void fill_nan(void *p, size_t bytes) {
    for (size_t i = 0; i + sizeof nan_pattern <= bytes; i += sizeof nan_pattern)
        memcpy((char *)p + i, &nan_pattern, sizeof nan_pattern);
}

float *prop_element(const prop_model *p, mdl_state *s, int layer, int head, prop_part part, int row,
                    int col) {
    const kn_linattn_dims *d = &p->m->spec.layers[layer].dims;
    size_t Dk = (size_t)d->Dk, Dv = (size_t)d->Dv, B = (size_t)p->block;
    size_t per_head = Dk * Dv + B * (Dk + Dv);
    float *at = s->data + p->m->layer_offset[layer] + (size_t)head * per_head;
    if (part == PROP_S)
        return at + (size_t)row * Dv + (size_t)col;
    at += Dk * Dv;
    if (part == PROP_K)
        return at + (size_t)row * Dk + (size_t)col;
    return at + B * Dk + (size_t)row * Dv + (size_t)col;
}

void prop_poison_unused(const prop_model *p, mdl_state *s) {
    int used = (int)(mdl_state_pos(s) % p->block);
    size_t rows = (size_t)(p->block - used) * sizeof(float);
    for (int l = 0; l < p->m->spec.n_layers; l++) {
        const kn_linattn_dims *d = &p->m->spec.layers[l].dims;
        for (int h = 0; h < d->H; h++) {
            fill_nan(prop_element(p, s, l, h, PROP_K, used, 0), rows * (size_t)d->Dk);
            fill_nan(prop_element(p, s, l, h, PROP_V, used, 0), rows * (size_t)d->Dv);
        }
    }
}

void prop_poison_state(const prop_model *p, mdl_state *s) {
    fill_nan(s->data, p->m->state_floats * sizeof(float));
    s->pos = 12345;
}

void prop_poison_ctx(const prop_model *p) {
    fill_nan(p->ctx->memory, p->ctx->bytes[KN_ON_DEVICE]);
    fill_nan(p->ctx->host_memory, p->ctx->bytes[KN_ON_HOST]);
}
