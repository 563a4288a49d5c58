/* Binding tensors to roles. The tensor names and shapes below are written out from the published
 * description, not taken from the architecture's table, so the two check each other. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <cmocka.h>

#include "kernels/base/half.h"
#include "kernels/quant.h"
#include "model/config.h"
#include "model/weights.h"
#include "tests/unit/folder.h"

#define ST "model.safetensors"
#define EMBED "model.embed_tokens.weight"

enum { V = 11, C = 6, H = 2, HID = 8, F = 10, G = 3, L = 2, MAX_TENSORS = 48 };

typedef struct tensor {
    char name[64];
    int rank;
    int64_t dims[4];
    kn_dtype dtype;
    buf data;
} tensor;

typedef struct model {
    int version;
    bool bias, layernorm;
    const char *tie;   /* raw JSON value of tie_word_embeddings; NULL: absent */
    const char *dtype; /* torch_dtype; NULL: absent */
    tensor t[MAX_TENSORS];
    int n;
} model;

/* ---- building ---- */

static void put_value(buf *b, kn_dtype d, float v) {
    uint32_t bits = tnl_bits_from_f32(v);
    if (d == KN_F32)
        put_le(b, bits, 4);
    else if (d == KN_BF16)
        put_le(b, tnl_bf16_from_f32(v), 2);
    else /* the values used here are normal in f16 and exact: rebase the exponent, cut the mantissa
          */
        put_le(b,
               v == 0 ? 0
                      : (bits >> 16 & 0x8000) | (((bits >> 23 & 0xFF) - 112) << 10) |
                            (bits >> 13 & 0x3FF),
               2);
}

static void add(model *m, kn_dtype d, const char *name, int rank, int64_t a, int64_t b, int64_t c) {
    tensor *t = &m->t[m->n++];
    must(m->n <= MAX_TENSORS, "MAX_TENSORS");
    *t = (tensor){.rank = rank, .dims = {a, b, c}, .dtype = d};
    snprintf(t->name, sizeof t->name, "%s", name);
    int64_t count = a * (rank > 1 ? b : 1) * (rank > 2 ? c : 1);
    for (int64_t i = 0; i < count;
         i++) /* multiples of 1/8 in -2 .. 2, none the same as its neighbour */
        put_value(&t->data, d, (float)((i * 7 + m->n * 3) % 33 - 16) / 8);
}

static void add_linear(model *m, kn_dtype d, const char *prefix, const char *name, int64_t out,
                       int64_t in) {
    char full[96];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    add(m, d, full, 2, out, in, 1);
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    if (m->bias)
        add(m, d, full, 1, out, 1, 1);
}

static void add_norm(model *m, kn_dtype d, const char *prefix, const char *name, int64_t n) {
    char full[96];
    for (int i = 0; m->layernorm && i < 2; i++) {
        snprintf(full, sizeof full, "%s%s.%s", prefix, name, i ? "bias" : "weight");
        add(m, d, full, 1, n, 1, 1);
    }
}

static model make(int version, bool bias, bool layernorm, kn_dtype d) {
    model m = {.version = version, .bias = bias, .layernorm = layernorm};
    add(&m, d, EMBED, 2, V, C, 1);
    for (int i = 0; i < L; i++) {
        char p[48], full[96];
        snprintf(p, sizeof p, "model.layers.%d.", i);
        add_linear(&m, d, p, "token_mixer.out_proj", C, HID);
        snprintf(full, sizeof full, "%stoken_mixer.lrpe.theta", p);
        if (i == 0)
            add(&m, d, full, 3, H, 1, HID / H);
        if (version == 3) {
            add_linear(&m, d, p, "token_mixer.qkv_proj", 3 * HID, C);
            add_linear(&m, d, p, "token_mixer.output_gate.0", G, C);
            add_linear(&m, d, p, "token_mixer.output_gate.1", HID, G);
        } else {
            add_linear(&m, d, p, "token_mixer.qkvu_proj", 4 * HID, C);
        }
        add_norm(&m, d, p, "token_norm", C);
        add_norm(&m, d, p, "channel_norm", C);
        add_norm(&m, d, p, "token_mixer.norm", HID);
        add_linear(&m, d, p, "channel_mixer.l1", F, C);
        add_linear(&m, d, p, "channel_mixer.l2", F, C);
        add_linear(&m, d, p, "channel_mixer.l3", C, F);
    }
    add_norm(&m, d, "", "model.final_norm", C);
    return m;
}

static void unmake(model *m) {
    for (int i = 0; i < m->n; i++)
        drop(&m->t[i].data);
}

static void write_config(const model *m, const char *dir) {
    char text[1024];
    int n = snprintf(text, sizeof text,
                     "{\"architectures\":[\"TransnormerForCausalLM\"],\"vocab_size\":%d,"
                     "\"decoder_layers\":%d,\"decoder_embed_dim\":%d,"
                     "\"decoder_attention_heads\":%d,\"hidden_dim\":%d,\"glu_dim\":%d,"
                     "\"linear_use_lrpe_list\":[1,0],\"bias\":%s,\"norm_type\":\"%s\"",
                     V, L, C, H, HID, F, m->bias ? "true" : "false",
                     m->layernorm ? "layernorm" : "simplermsnorm");
    if (m->version == 2)
        n += snprintf(text + n, sizeof text - (size_t)n, ",\"no_scale_embedding\":true");
    if (m->version == 3)
        n += snprintf(text + n, sizeof text - (size_t)n, ",\"gate_dim\":%d", G);
    if (m->tie)
        n += snprintf(text + n, sizeof text - (size_t)n, ",\"tie_word_embeddings\":%s", m->tie);
    if (m->dtype)
        n += snprintf(text + n, sizeof text - (size_t)n, ",\"torch_dtype\":\"%s\"", m->dtype);
    snprintf(text + n, sizeof text - (size_t)n, "}");
    folder_text(dir, "config.json", text);
}

static void write_tensors(const model *m, const char *dir) {
    buf h = {0}, data = {0};
    char entry[256];
    put_text(&h, "{");
    for (int i = 0; i < m->n; i++) {
        const tensor *t = &m->t[i];
        int n = snprintf(entry, sizeof entry, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[",
                         i ? "," : "", t->name, kn_dtypes[t->dtype].st_name);
        for (int k = 0; k < t->rank; k++)
            n += snprintf(entry + n, sizeof entry - (size_t)n, "%s%lld", k ? "," : "",
                          (long long)t->dims[k]);
        snprintf(entry + n, sizeof entry - (size_t)n, "],\"data_offsets\":[%zu,%zu]}", data.n,
                 data.n + t->data.n);
        put_text(&h, entry);
        put(&data, t->data.p, t->data.n);
    }
    put_text(&h, "}");
    while (h.n % 8)
        put_text(&h, " ");
    put(&h, "", 1);
    buf b = st_file((char *)h.p, data.p, data.n);
    folder_write(dir, ST, b.p, b.n);
    drop(&b);
    drop(&h);
    drop(&data);
}

typedef struct bound {
    mdl_spec spec;
    mdl_tensors *t;
    mdl_weights w;
    tnl_status status;
    tnl_error err;
} bound;

static bound bind(const model *m, mdl_weight_mode mode) {
    bound b = {0};
    char *dir = folder_new();
    write_config(m, dir);
    write_tensors(m, dir);
    b.status = mdl_config_load(&b.spec, dir, &b.err);
    if (b.status == TNL_OK)
        b.status = mdl_tensors_open(&b.t, dir, MDL_LOAD_MAP, &b.err);
    if (b.status == TNL_OK)
        b.status = mdl_weights_bind(&b.w, &b.spec, b.t, mode, NULL, NULL, &b.err);
    folder_free(dir); /* the map outlives the name */
    return b;
}

static void unbind(bound *b) {
    mdl_weights_clear(&b->w, &b->spec);
    mdl_tensors_close(b->t);
    mdl_spec_clear(&b->spec);
}

static bound sound(const model *m, mdl_weight_mode mode) {
    bound b = bind(m, mode);
    if (b.status != TNL_OK)
        fail_msg("%s", b.err.msg);
    return b;
}

static void refused(const model *m, const char *name, const char *words) {
    bound b = bind(m, MDL_W_AUTO);
    if (b.status == TNL_OK || !strstr(b.err.msg, name) || !strstr(b.err.msg, words) ||
        !strstr(b.err.msg, ST))
        fail_msg("status %d, \"%s\", expected \"%s\" and \"%s\"", b.status, b.err.msg, name, words);
    assert_null(b.w.layers);
    assert_null(b.w.owned);
    unbind(&b);
}

/* ---- what is bound ---- */

static void check_matrix(const bound *b, const kn_tensor *m, const char *name) {
    const mdl_tensor_view *v = mdl_tensors_find(b->t, name);
    assert_non_null(v);
    assert_ptr_equal(m->data, v->data); /* a view, not a copy */
    assert_int_equal(m->rows, v->dims[0]);
    assert_int_equal(m->cols, v->dims[1]);
    assert_int_equal(m->dtype, v->dtype);
}

static void check_vector(const bound *b, const float *x, const char *name) {
    const mdl_tensor_view *v = mdl_tensors_find(b->t, name);
    assert_non_null(v);
    assert_non_null(x);
    size_t n = v->bytes / (size_t)kn_dtypes[v->dtype].elem_bytes;
    float want[64];
    must(n <= 64, "vector of the test");
    kn_dtype_to_f32(want, v->data, v->dtype, n);
    assert_memory_equal(x, want, n * sizeof *x);
}

static void views(void **state) {
    (void)state;
    static const kn_dtype dtypes[] = {KN_F32, KN_F16, KN_BF16};
    for (int i = 0; i < 3; i++) {
        model m = make(1, false, false, dtypes[i]);
        bound b = sound(&m, MDL_W_AUTO);
        const mdl_layer_weights *l = b.w.layers;
        check_matrix(&b, &b.w.global.m[MDL_R_EMBED], EMBED);
        check_matrix(&b, &b.w.global.m[MDL_R_HEAD], EMBED);
        check_matrix(&b, &l[1].m[MDL_R_IN], "model.layers.1.token_mixer.qkvu_proj.weight");
        check_matrix(&b, &l[0].m[MDL_R_OUT], "model.layers.0.token_mixer.out_proj.weight");
        check_matrix(&b, &l[1].m[MDL_R_L1], "model.layers.1.channel_mixer.l1.weight");
        check_matrix(&b, &l[1].m[MDL_R_L2], "model.layers.1.channel_mixer.l2.weight");
        check_matrix(&b, &l[0].m[MDL_R_L3], "model.layers.0.channel_mixer.l3.weight");
        check_vector(&b, l[0].v[MDL_R_THETA], "model.layers.0.token_mixer.lrpe.theta");
        assert_null(l[1].v[MDL_R_THETA]);
        assert_null(l[0].v[MDL_R_IN_B]);
        assert_null(l[0].m[MDL_R_GATE0].data);
        assert_null(l[0].v[MDL_R_TOKEN_NORM_W]);
        uint64_t per_layer = C * HID + 4 * HID * C + 3 * F * C, elem = dtypes[i] == KN_F32 ? 4 : 2;
        assert_int_equal(b.w.params, V * C + L * per_layer + HID);
        assert_int_equal(b.w.bytes_read_per_token, elem * (V * C + L * per_layer + C));
        assert_int_equal(b.w.bytes_owned, HID * sizeof(float));
        assert_int_equal(b.w.dtype, dtypes[i]);
        unbind(&b);
        unmake(&m);
    }
}

static void every_role(void **state) {
    (void)state;
    model m = make(3, true, true, KN_BF16);
    bound b = sound(&m, MDL_W_AUTO);
    for (int i = 0; i < L; i++) {
        const mdl_layer_weights *l = &b.w.layers[i];
        static const struct {
            mdl_role role;
            const char *name;
        } rows[] = {{MDL_R_IN, "token_mixer.qkv_proj"},
                    {MDL_R_OUT, "token_mixer.out_proj"},
                    {MDL_R_GATE0, "token_mixer.output_gate.0"},
                    {MDL_R_GATE1, "token_mixer.output_gate.1"},
                    {MDL_R_L1, "channel_mixer.l1"},
                    {MDL_R_L2, "channel_mixer.l2"},
                    {MDL_R_L3, "channel_mixer.l3"},
                    {MDL_R_TOKEN_NORM_W, "token_norm"},
                    {MDL_R_CHANNEL_NORM_W, "channel_norm"},
                    {MDL_R_MIXER_NORM_W, "token_mixer.norm"}};
        for (size_t k = 0; k < sizeof rows / sizeof rows[0]; k++) {
            char name[96];
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", i, rows[k].name);
            if (rows[k].role < MDL_R_TOKEN_NORM_W)
                check_matrix(&b, &l->m[rows[k].role], name);
            else
                check_vector(&b, l->v[rows[k].role], name);
            snprintf(name, sizeof name, "model.layers.%d.%s.bias", i, rows[k].name);
            check_vector(&b, l->v[rows[k].role + 1], name);
        }
    }
    check_vector(&b, b.w.global.v[MDL_R_FINAL_NORM_W], "model.final_norm.weight");
    check_vector(&b, b.w.global.v[MDL_R_FINAL_NORM_B], "model.final_norm.bias");
    unbind(&b);
    unmake(&m);
}

/* ---- conversion ---- */

static void modes(void **state) {
    (void)state;
    static const kn_dtype dtypes[] = {KN_F32, KN_F16, KN_BF16};
    for (int i = 0; i < 3; i++)
        for (int mode = MDL_W_F32; mode <= MDL_W_BF16; mode++) {
            model m = make(2, false, false, dtypes[i]);
            bound b = sound(&m, (mdl_weight_mode)mode);
            const kn_tensor *in = &b.w.layers[1].m[MDL_R_IN];
            const mdl_tensor_view *v =
                mdl_tensors_find(b.t, "model.layers.1.token_mixer.qkvu_proj.weight");
            float want[4 * HID * C], have[4 * HID * C];
            kn_dtype_to_f32(want, v->data, v->dtype, 4 * HID * C);
            kn_dtype_to_f32(have, in->data, in->dtype, 4 * HID * C);
            assert_int_equal(in->dtype, mode == MDL_W_F32 ? KN_F32 : KN_BF16);
            assert_memory_equal(want, have, sizeof want); /* these values are exact in all three */
            assert_ptr_equal(b.w.global.m[MDL_R_HEAD].data, b.w.global.m[MDL_R_EMBED].data);
            assert_int_equal((in->data == v->data), in->dtype == dtypes[i]);
            unbind(&b);
            unmake(&m);
        }
}

static void rounding(void **state) {
    (void)state;
    static const float values[] = {1.0f + 0x1p-8f, 1.0f + 0x1p-8f + 0x1p-20f, 1.0f + 3 * 0x1p-8f,
                                   -3e38f, 1e-40f};
    model m = make(2, false, false, KN_F32);
    memcpy(m.t[0].data.p, values, sizeof values);
    bound b = sound(&m, MDL_W_BF16);
    const uint16_t *x = b.w.global.m[MDL_R_EMBED].data;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        assert_int_equal(x[i], tnl_bf16_from_f32(values[i]));
    unbind(&b);
    const float huge = 0x1.fffffep127f; /* finite, but rounds up to infinity in bf16 */
    memcpy(m.t[0].data.p, &huge, sizeof huge);
    b = sound(&m, MDL_W_AUTO);
    unbind(&b);
    b = bind(&m, MDL_W_BF16);
    assert_int_equal(b.status, TNL_E_NONFINITE);
    assert_non_null(strstr(b.err.msg, EMBED));
    unbind(&b);
    unmake(&m);
}

/* ---- refused ---- */

static void missing_and_misshaped(void **state) {
    (void)state;
    for (int version = 1; version <= 3; version++) {
        model m = make(version, version == 3, version != 1, KN_F32);
        for (int i = 0; i < m.n; i++) { /* S47: each tensor in turn */
            tensor kept = m.t[i];
            snprintf(m.t[i].name, sizeof m.t[i].name, "elsewhere");
            refused(&m, kept.name, "missing, expected shape [");
            m.t[i] = kept;
            if (kept.rank == 1)
                continue;
            m.t[i].dims[0] = kept.dims[kept.rank - 1]; /* transposed */
            m.t[i].dims[kept.rank - 1] = kept.dims[0];
            refused(&m, kept.name, "found shape [");
            m.t[i] = kept;
            m.t[i].rank++, m.t[i].dims[kept.rank] = 1;
            refused(&m, kept.name, "1], expected [");
            m.t[i] = kept;
        }
        unmake(&m);
    }
}

static void vocabulary_off_by_one(void **state) {
    (void)state;
    model m = make(1, false, false, KN_F32);
    for (int more = 0; more < 2; more++) {
        unmake(&m);
        m = make(1, false, false, KN_F32);
        m.t[0].dims[0] = V + (more ? 1 : -1);
        if (more)
            put_fill(&m.t[0].data, 0, C * 4);
        else
            m.t[0].data.n -= C * 4;
        refused(&m, EMBED,
                more ? "found shape [12, 6], expected [11, 6]"
                     : "found shape [10, 6], expected [11, 6]");
    }
    unmake(&m);
}

/* S48: in every tensor, at its first and last element, in every format. */
static void nonfinite(void **state) {
    (void)state;
    static const struct {
        kn_dtype dtype;
        uint32_t bits;
        const char *words;
    } rows[] = {
        {KN_F32, 0x7F800000, "found infinity"},
        {KN_F32, 0xFF800000, "found -infinity"},
        {KN_F32, 0x7FC00000, "found NaN"},
        {KN_F32, 0x7F800001, "found NaN"},
        {KN_F32, 0xFFFFFFFF, "found NaN"},
        {KN_F32, 0x7F7FFFFF, NULL},
        {KN_F32, 0x00000001, NULL},
        {KN_F32, 0x80000000, NULL},
        {KN_F16, 0x7C00, "found infinity"},
        {KN_F16, 0xFC00, "found -infinity"},
        {KN_F16, 0x7C01, "found NaN"},
        {KN_F16, 0xFE00, "found NaN"},
        {KN_F16, 0x7BFF, NULL},
        {KN_F16, 0x8001, NULL},
        {KN_BF16, 0x7F80, "found infinity"},
        {KN_BF16, 0xFF80, "found -infinity"},
        {KN_BF16, 0x7F81, "found NaN"},
        {KN_BF16, 0xFFC0, "found NaN"},
        {KN_BF16, 0x7F7F, NULL},
        {KN_BF16, 0x0001, NULL},
    };
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        model m = make(r % 2 ? 3 : 1, false, true, rows[r].dtype);
        int elem = kn_dtypes[rows[r].dtype].elem_bytes;
        for (int i = 0; i < m.n; i++) {
            buf *d = &m.t[i].data;
            size_t at = i % 2 ? 0 : d->n - (size_t)elem;
            unsigned char kept[4];
            memcpy(kept, d->p + at, (size_t)elem);
            set_le(d, at, rows[r].bits, elem);
            if (rows[r].words) {
                char where[48];
                snprintf(where, sizeof where, "%s at element %zu", rows[r].words,
                         at / (size_t)elem);
                refused(&m, m.t[i].name, where);
            } else {
                bound b = sound(&m, MDL_W_AUTO);
                unbind(&b);
            }
            memcpy(d->p + at, kept, (size_t)elem);
        }
        unmake(&m);
    }
}

/* A long tensor, so that the vector part of the scan and its tail are both asked. */
static void nonfinite_anywhere(void **state) {
    (void)state;
    model m = make(1, false, false, KN_BF16);
    for (size_t at = 0; at < m.t[0].data.n; at += 2) {
        unsigned char kept[2] = {m.t[0].data.p[at], m.t[0].data.p[at + 1]};
        char where[48];
        snprintf(where, sizeof where, "found NaN at element %zu,", at / 2);
        set_le(&m.t[0].data, at, 0xFFC1, 2);
        refused(&m, EMBED, where);
        memcpy(m.t[0].data.p + at, kept, 2);
    }
    unmake(&m);
}

/* ---- heads, extras, progress ---- */

static void heads(void **state) {
    (void)state;
    static const struct {
        const char *tie;
        int head; /* 0 none, 1 the same values, 2 others */
        int want; /* 0 the embedding, 1 the head, 2 refused */
    } rows[] = {{NULL, 0, 0},   {NULL, 1, 0},    {NULL, 2, 0},    {"true", 0, 0}, {"true", 1, 0},
                {"true", 2, 2}, {"false", 0, 0}, {"false", 1, 1}, {"false", 2, 1}};
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        model m = make(2, false, false, KN_F32);
        m.tie = rows[r].tie;
        if (rows[r].head) {
            add(&m, KN_F32, "lm_head.weight", 2, V, C, 1);
            if (rows[r].head == 1)
                memcpy(m.t[m.n - 1].data.p, m.t[0].data.p, m.t[0].data.n);
        }
        if (rows[r].want == 2) {
            refused(&m, "lm_head.weight", "tie_word_embeddings is true");
        } else {
            bound b = sound(&m, MDL_W_AUTO);
            check_matrix(&b, &b.w.global.m[MDL_R_HEAD], rows[r].want ? "lm_head.weight" : EMBED);
            bool own = b.w.global.m[MDL_R_HEAD].data != b.w.global.m[MDL_R_EMBED].data;
            assert_int_equal(own, rows[r].want);
            uint64_t rest = L * (C * HID + 4 * HID * C + 3 * F * C) + HID;
            assert_int_equal(b.w.params, rest + V * C * (own ? 2 : 1));
            unbind(&b);
        }
        unmake(&m);
    }
}

static void extras(void **state) {
    (void)state;
    model m = make(1, false, false, KN_BF16);
    m.dtype = "float32"; /* C28: the tensors win */
    add(&m, KN_F32, "decoder.version", 1, 1, 1, 1);
    add(&m, KN_F32, "model.layers.0.unheard.of", 1, 3, 1, 1);
    bound b = sound(&m, MDL_W_AUTO);
    assert_int_equal(b.w.dtype, KN_BF16);
    unbind(&b);
    unmake(&m);
}

typedef struct meter {
    uint64_t done, total, calls;
} meter;

static void on_progress(void *ctx, uint64_t done, uint64_t total) {
    meter *p = ctx;
    assert_true(done > p->done && done <= total && (!p->calls || total == p->total));
    *p = (meter){done, total, p->calls + 1};
}

static void progress(void **state) {
    (void)state;
    model m = make(3, true, true, KN_F16);
    char *dir = folder_new();
    write_config(&m, dir);
    write_tensors(&m, dir);
    bound b = {0};
    meter p = {0};
    assert_int_equal(mdl_config_load(&b.spec, dir, &b.err), TNL_OK);
    assert_int_equal(mdl_tensors_open(&b.t, dir, MDL_LOAD_READ, &b.err), TNL_OK);
    assert_int_equal(mdl_weights_bind(&b.w, &b.spec, b.t, MDL_W_BF16, on_progress, &p, &b.err),
                     TNL_OK);
    assert_true(p.calls > 0);
    assert_int_equal(p.done, p.total);
    unbind(&b);
    unmake(&m);
    folder_free(dir);
}

/* ---- random ---- */

static mdl_spec random_spec(const char *tie) {
    char text[512];
    mdl_spec spec;
    tnl_error err = {0};
    snprintf(text, sizeof text,
             "{\"architectures\":[\"TransnormerForCausalLM\"],\"vocab_size\":300,"
             "\"decoder_layers\":2,\"decoder_embed_dim\":64,\"decoder_attention_heads\":4,"
             "\"hidden_dim\":64,\"glu_dim\":96,\"linear_use_lrpe_list\":[0,1],\"bias\":true,"
             "\"norm_type\":\"layernorm\",\"gate_dim\":8,\"tie_word_embeddings\":%s}",
             tie);
    if (mdl_config_parse(&spec, text, strlen(text), "shape", &err) != TNL_OK)
        fail_msg("%s", err.msg);
    return spec;
}

static void random_weights(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        mdl_spec spec = random_spec(k ? "true" : "false");
        kn_dtype d = k ? KN_BF16 : KN_F32;
        mdl_weights a, b, c;
        assert_int_equal(mdl_weights_random(&a, &spec, d, 1, NULL), TNL_OK);
        assert_int_equal(mdl_weights_random(&b, &spec, d, 1, NULL), TNL_OK);
        assert_int_equal(mdl_weights_random(&c, &spec, d, 2, NULL), TNL_OK);
        const kn_tensor *x = &a.layers[1].m[MDL_R_IN], *y = &b.layers[1].m[MDL_R_IN];
        size_t n = (size_t)(x->rows * x->cols), bytes = n * (size_t)kn_dtypes[d].elem_bytes;
        assert_memory_equal(x->data, y->data, bytes);
        assert_memory_not_equal(x->data, c.layers[1].m[MDL_R_IN].data, bytes);
        assert_memory_not_equal(x->data, a.layers[0].m[MDL_R_IN].data, bytes);
        float *f = malloc(n * sizeof *f);
        assert_non_null(f);
        kn_dtype_to_f32(f, x->data, d, n);
        double sum = 0, squares = 0;
        for (size_t i = 0; i < n; i++) {
            assert_true(isfinite(f[i]));
            sum += (double)f[i];
            squares += (double)f[i] * (double)f[i];
        }
        /* 12,288 draws of variance 1/64: the bounds are beyond five standard errors */
        assert_true(fabs(sum / (double)n) < 5 * 0.125 / sqrt((double)n));
        assert_true(fabs(squares / (double)n * 64 - 1) < 0.05);
        free(f);
        for (int i = 0; i < 64; i++)
            assert_true(fabsf(a.layers[1].v[MDL_R_THETA][i] - (float)pow(10000.0, -2.0 * i / 64)) <
                        1e-7f);
        assert_true(a.global.v[MDL_R_FINAL_NORM_W][5] == 1.0f);
        assert_true(a.layers[0].v[MDL_R_L3_B][5] == 0.0f);
        assert_int_equal(a.global.m[MDL_R_HEAD].data == a.global.m[MDL_R_EMBED].data, k);
        mdl_weights_clear(&a, &spec);
        mdl_weights_clear(&b, &spec);
        mdl_weights_clear(&c, &spec);
        tnl_error err = {0};
        assert_int_equal(mdl_weights_random(&a, &spec, KN_F16, 1, &err), TNL_E_USAGE);
        mdl_spec_clear(&spec);
    }
}

/* One spread for every type: variance 1/64 by the definition of the packed formats. */
static void random_packed(void **state) {
    (void)state;
    static const kn_dtype types[] = {KN_Q8, KN_Q4, KN_F8};
    for (int k = 0; k < 3; k++) {
        mdl_spec spec = random_spec("true");
        mdl_weights a, b, c;
        assert_int_equal(mdl_weights_random(&a, &spec, types[k], 1, NULL), TNL_OK);
        assert_int_equal(mdl_weights_random(&b, &spec, types[k], 1, NULL), TNL_OK);
        assert_int_equal(mdl_weights_random(&c, &spec, types[k], 2, NULL), TNL_OK);
        const kn_tensor *x = &a.global.m[MDL_R_EMBED], *gate = &a.layers[0].m[MDL_R_GATE0];
        uint64_t bytes;
        assert_int_equal(x->dtype, types[k]);
        assert_int_equal(gate->dtype, KN_BF16); /* eight outputs are not worth a tile */
        assert_int_equal(a.dtype, types[k]);
        assert_true(kn_dtype_matrix_bytes(&bytes, types[k], 300, 64));
        assert_memory_equal(x->data, b.global.m[MDL_R_EMBED].data, bytes);
        assert_memory_not_equal(x->data, c.global.m[MDL_R_EMBED].data, bytes);
        double sum = 0, squares = 0;
        for (int64_t r = 0; r < 320; r++) {
            float row[64];
            kn_q_row_to_f32(row, x->data, types[k], 64, r);
            for (int i = 0; i < 64; i++) {
                assert_true(isfinite(row[i]) && (r < 300 || row[i] == 0));
                sum += (double)row[i];
                squares += (double)row[i] * (double)row[i];
            }
        }
        assert_true(fabs(sum / 19200) < 5 * 0.125 / sqrt(19200) + 0.125 * 0.02);
        assert_true(fabs(squares / 19200 * 64 - 1) < 0.1);
        mdl_weights_clear(&a, &spec);
        mdl_weights_clear(&b, &spec);
        mdl_weights_clear(&c, &spec);
        mdl_spec_clear(&spec);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(views),
        cmocka_unit_test(every_role),
        cmocka_unit_test(modes),
        cmocka_unit_test(rounding),
        cmocka_unit_test(missing_and_misshaped),
        cmocka_unit_test(vocabulary_off_by_one),
        cmocka_unit_test(nonfinite),
        cmocka_unit_test(nonfinite_anywhere),
        cmocka_unit_test(heads),
        cmocka_unit_test(extras),
        cmocka_unit_test(progress),
        cmocka_unit_test(random_weights),
        cmocka_unit_test(random_packed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
