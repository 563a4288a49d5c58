/* A body of any generating route, /tokenize and /detokenize of any bytes: refused with a named
 * problem, or every field is in its range, the engine's own check agrees, and a second parse gives
 * the same. */
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <string.h>

#include "kernels/base/utf8.h"
#include "server/http/json/json_in.h"

enum { VOCAB = 700, MAX_PROMPT = 1000 };
static const srv_in_limits limits = {
    .vocab = VOCAB, .max_prompt_tokens = MAX_PROMPT, .alias = "tiny"};

/* The readers work in place, so each gets a copy of its own, exactly as large as the input. */
static char *copy_of(const uint8_t *data, size_t size) {
    char *copy = malloc(size ? size : 1);
    FUZZ_CHECK(copy != NULL);
    if (size)
        memcpy(copy, data, size);
    return copy;
}

static void check_problem(const srv_problem *p) {
    FUZZ_CHECK(p->err > SRV_ERR_NONE && p->err < SRV_ERR_COUNT);
    FUZZ_CHECK(srv_err_status(p->err) == (p->err == SRV_ERR_UNKNOWN_MODEL ? 404 : 400));
    FUZZ_CHECK(strlen(p->param) <= 64 && tnl_utf8_valid(p->param, strlen(p->param)));
    srv_buf b = {0};
    srv_err_object(&b, p);
    FUZZ_CHECK(!b.failed && tnl_utf8_valid(b.data, b.len));
    srv_buf_free(&b);
}

static double value_of(const srv_gen *g, const srv_field *f) {
    const void *at = (const char *)g + f->offset;
    if (f->kind == SRV_FIELD_INT)
        return (double)*(const int64_t *)at;
    if (f->kind == SRV_FIELD_INT32)
        return (double)*(const int32_t *)at;
    return (double)*(const float *)at;
}

/* What a body may leave out lies outside the range of its row. */
static bool absent(const srv_field *f, double v) {
    return f->preset && strcmp(f->preset, "null") == 0 && v <= 0;
}

static void check_rows(const srv_gen *g, const srv_table *t) {
    for (int i = 0; i < t->n; i++) {
        const srv_field *f = &t->rows[i];
        if (f->sub)
            check_rows(g, f->sub);
        if (f->kind > SRV_FIELD_FLOAT)
            continue;
        double v = value_of(g, f);
        FUZZ_CHECK(absent(f, v) || (v >= f->min && v <= f->max && !(f->min_open && v == f->min)));
    }
}

static void check_fields(const srv_gen *g) {
    check_rows(g, g->table);
    const eng_params *p = &g->params;
    FUZZ_CHECK(p->n_bias >= 0 && p->n_bias <= ENG_MAX_BIAS);
    for (int i = 0; i < p->n_bias; i++)
        FUZZ_CHECK(p->bias_id[i] >= 0 && p->bias_id[i] < VOCAB && fabsf(p->bias[i]) <= 100);
    FUZZ_CHECK(p->n_stop >= 0 && p->n_stop <= ENG_MAX_STOP);
    for (int i = 0; i < p->n_stop; i++) {
        size_t n = strlen(p->stop[i]);
        FUZZ_CHECK(n >= 1 && n <= ENG_MAX_STOP_BYTES && tnl_utf8_valid(p->stop[i], n));
    }
}

static void check_prompt(const srv_prompt *p, bool may_be_empty) {
    FUZZ_CHECK(!p->text == !!p->ids || (may_be_empty && p->n_ids == 0));
    if (p->text)
        FUZZ_CHECK((p->text_len > 0 || may_be_empty) && strlen(p->text) == p->text_len &&
                   tnl_utf8_valid(p->text, p->text_len));
    FUZZ_CHECK(p->text || ((p->n_ids >= 1 || may_be_empty) && p->n_ids <= MAX_PROMPT));
    for (size_t i = 0; i < p->n_ids; i++)
        FUZZ_CHECK(p->ids[i] >= 0 && p->ids[i] < VOCAB);
}

static void check_prompts(const srv_gen *g) {
    FUZZ_CHECK((g->n_prompts > 0) != (g->n_messages > 0) && g->n_prompts <= SRV_MAX_PROMPTS);
    for (size_t i = 0; i < g->n_prompts; i++)
        check_prompt(&g->prompts[i], g->session[0] != 0);
    for (size_t i = 0; i < g->n_messages; i++)
        FUZZ_CHECK(strlen(g->messages[i].text) == g->messages[i].text_len);
}

static void check_same(const srv_gen *a, const srv_gen *b) {
    FUZZ_CHECK(memcmp(&a->params, &b->params, sizeof a->params) == 0 && a->stream == b->stream);
    FUZZ_CHECK(a->n_prompts == b->n_prompts && a->n_messages == b->n_messages && a->n == b->n);
    for (size_t i = 0; i < a->n_prompts; i++) {
        const srv_prompt *p = &a->prompts[i], *q = &b->prompts[i];
        FUZZ_CHECK(p->n_ids == q->n_ids && p->text_len == q->text_len);
        FUZZ_CHECK(!p->n_ids || memcmp(p->ids, q->ids, p->n_ids * sizeof *p->ids) == 0);
        FUZZ_CHECK(!p->text || memcmp(p->text, q->text, p->text_len) == 0);
    }
}

static void try_generate(const srv_table *t, const uint8_t *data, size_t size) {
    static srv_gen a, b; /* 12 KiB each */
    srv_problem p = {0};
    char *body = copy_of(data, size);
    bool ok = srv_gen_parse(&a, t, body, size, &limits, &p);
    free(body);
    if (!ok) {
        check_problem(&p);
        return;
    }
    check_fields(&a);
    check_prompts(&a);
    body = copy_of(data, size);
    FUZZ_CHECK(srv_gen_parse(&b, t, body, size, &limits, &p));
    free(body);
    check_same(&a, &b);
    srv_gen_clear(&a);
    srv_gen_clear(&b);
}

static void try_text(const uint8_t *data, size_t size) {
    srv_problem p = {0};
    char *text = NULL, *body = copy_of(data, size);
    size_t n = 0;
    if (srv_text_parse(&text, &n, body, size, &p))
        FUZZ_CHECK(strlen(text) == n && tnl_utf8_valid(text, n));
    else
        check_problem(&p);
    free(text);
    free(body);
}

static void try_tokens(const uint8_t *data, size_t size) {
    srv_problem p = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    char *body = copy_of(data, size);
    if (srv_tokens_parse(&ids, &n, body, size, &limits, &p))
        for (size_t i = 0; i < n; i++)
            FUZZ_CHECK(ids[i] >= 0 && ids[i] < VOCAB);
    else
        check_problem(&p);
    free(ids);
    free(body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const srv_table *const tables[] = {&srv_table_generate, &srv_table_completions,
                                              &srv_table_chat, &srv_table_tgi};
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++)
        try_generate(tables[i], data, size);
    try_text(data, size);
    try_tokens(data, size);
    return 0;
}
