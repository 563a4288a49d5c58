/* TransNormerLLM v1, v2 and v3 as rows.
 *
 * v1 and v2 differ in one flag (the embedding is scaled or not). v3 has a low-rank sigmoid gate
 * instead of the fused linear one and activates v too; its config is told apart by gate_dim.
 * Sources: the published configuration and modelling code of the OpenNLPLab releases. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>

#include "model/arch.h"
#include "model/config_keys.h"

/* ---- config.json ---- */

typedef struct tnl_keys {
    int64_t vocab, layers, width, heads, hidden, glu, gate_dim;
    int32_t bos, eos, pad;
    bool no_scale, bias, add_bos, tied;
    int act, norm, dtype;
} tnl_keys;

static const char *const act_words[] = {"gelu", "relu",  "elu",   "sigmoid", "exp",
                                        "leak", "1+elu", "2+elu", "silu",    "swish",
                                        "sine", "none",  NULL};
static const kn_act act_of_word[] = {KN_ACT_GELU, KN_ACT_RELU, KN_ACT_ELU,   KN_ACT_SIGMOID,
                                     KN_ACT_EXP,  KN_ACT_LEAK, KN_ACT_1PELU, KN_ACT_2PELU,
                                     KN_ACT_SILU, KN_ACT_SILU, KN_ACT_SINE,  KN_ACT_NONE};
enum { WORD_SILU = 8 }; /* the published default */
static const char *const norm_words[] = {"simplermsnorm", "layernorm", NULL};
static const mdl_norm_kind norm_of_word[] = {MDL_NORM_SRMS, MDL_NORM_LAYERNORM};
static const char *const dtype_words[] = {"float32", "float16", "bfloat16", NULL};
static const kn_dtype dtype_of_word[] = {KN_F32, KN_F16, KN_BF16};

#define AT(field) offsetof(tnl_keys, field)
#define SIZE(name, field, lo, hi)                                                                  \
    { .key = name, .type = CFG_INT, .required = true, .min = lo, .max = hi, .offset = AT(field) }
#define FLAG(name, field, value)                                                                   \
    { .key = name, .type = CFG_BOOL, .fallback = value, .offset = AT(field) }
#define ID(name, field, value)                                                                     \
    { .key = name, .type = CFG_ID, .max = INT32_MAX, .fallback = value, .offset = AT(field) }
#define WORD(name, field, list, value)                                                             \
    { .key = name, .type = CFG_WORD, .fallback = value, .offset = AT(field), .words = list }
#define NOTE(name)                                                                                 \
    { .key = name, .type = CFG_NOTE }

/* Upper bounds are far above any published model; they keep every later product small. */
static const cfg_key key_rows[] = {
    SIZE("vocab_size", vocab, 1, 1 << 24),
    SIZE("decoder_layers", layers, 1, 1024),
    SIZE("decoder_embed_dim", width, 1, 1 << 17),
    SIZE("decoder_attention_heads", heads, 1, 4096),
    SIZE("hidden_dim", hidden, 1, 1 << 17),
    SIZE("glu_dim", glu, -1, 1 << 20),
    {.key = "gate_dim", .type = CFG_INT, .min = 1, .max = 1 << 16, .offset = AT(gate_dim)},
    WORD("linear_act_fun", act, act_words, WORD_SILU),
    WORD("norm_type", norm, norm_words, 0),
    WORD("torch_dtype", dtype, dtype_words, -1),
    FLAG("no_scale_embedding", no_scale, false),
    FLAG("bias", bias, false),
    FLAG("add_bos_token", add_bos, false),
    FLAG("tie_word_embeddings", tied, true),
    ID("bos_token_id", bos, 1),
    ID("eos_token_id", eos, 2),
    ID("pad_token_id", pad, 0),
    NOTE("linear_use_lrpe_list"),
    NOTE("architectures"),
    NOTE("model_type"),
    NOTE("quantization_config"),
};

static bool is_family(const struct cJSON *config) {
    if (mdl_config_has(config, "model_type") &&
        !mdl_config_is_text(config, "model_type", "transnormer"))
        return false;
    if (mdl_config_has(config, "architectures"))
        return mdl_config_lists(config, "architectures", "TransnormerForCausalLM");
    return mdl_config_has(config, "model_type");
}

static bool match_v3(const struct cJSON *config) {
    return is_family(config) && mdl_config_has(config, "gate_dim");
}

static bool match_v2(const struct cJSON *config) {
    return is_family(config) && mdl_config_is_true(config, "no_scale_embedding");
}

/* ---- spec ---- */

static tnl_status check_ids(const tnl_keys *k, const char *file, tnl_error *err) {
    const struct {
        const char *key;
        int32_t id;
    } ids[] = {{"bos_token_id", k->bos}, {"eos_token_id", k->eos}, {"pad_token_id", k->pad}};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        if (ids[i].id >= k->vocab)
            return tnl_fail(err, TNL_E_DATA, "%s: %s: found %d, expected less than vocab_size %lld",
                            file, ids[i].key, ids[i].id, (long long)k->vocab);
    return TNL_OK;
}

static tnl_status check_keys(const tnl_keys *k, const char *file, tnl_error *err) {
    if (k->glu == 0)
        return tnl_fail(err, TNL_E_DATA,
                        "%s: glu_dim: found 0, expected 1 or more, or -1 for decoder_embed_dim",
                        file);
    if (k->hidden % k->heads != 0)
        return tnl_fail(err, TNL_E_DATA,
                        "%s: decoder_attention_heads: found %lld, expected a divisor of hidden_dim "
                        "%lld",
                        file, (long long)k->heads, (long long)k->hidden);
    return check_ids(k, file, err);
}

static void fill_layer(mdl_layer_spec *l, const tnl_keys *k, bool lrpe) {
    int head_dim = (int)(k->hidden / k->heads);
    bool v3 = k->gate_dim > 0;
    *l = (mdl_layer_spec){
        .dims = {.H = (int)k->heads, .Dk = lrpe ? 2 * head_dim : head_dim, .Dv = head_dim},
        .head_dim = head_dim,
        .lrpe = lrpe,
        .act_on_v = v3,
        .act = act_of_word[k->act],
        .gate = v3 ? MDL_GATE_LOW_RANK_SIGMOID : MDL_GATE_LINEAR,
        .gate_rank = (int)k->gate_dim,
        .glu = (int)(k->glu == -1 ? k->width : k->glu),
    };
}

static tnl_status fill_layers(mdl_spec *s, const tnl_keys *k, const struct cJSON *config,
                              const char *file, tnl_error *err) {
    bool *lrpe = calloc((size_t)k->layers, sizeof *lrpe);
    s->layers = calloc((size_t)k->layers, sizeof *s->layers);
    s->n_layers = (int)k->layers;
    tnl_status st =
        lrpe && s->layers
            ? mdl_config_flags(lrpe, k->layers, config, "linear_use_lrpe_list", file, err)
            : tnl_fail(err, TNL_E_NOMEM, "%s: no memory for the layers", file);
    for (int i = 0; st == TNL_OK && i < s->n_layers; i++)
        fill_layer(&s->layers[i], k, lrpe[i]);
    free(lrpe);
    return st;
}

static tnl_status fill_spec(mdl_spec *s, const struct cJSON *config, const char *file,
                            tnl_error *err) {
    tnl_keys k = {0};
    TNL_TRY(mdl_config_keys(&k, key_rows, sizeof key_rows / sizeof key_rows[0], config, file, err));
    TNL_TRY(check_keys(&k, file, err));
    s->vocab = k.vocab;
    s->width = k.width;
    s->hidden = k.hidden;
    s->norm = norm_of_word[k.norm];
    s->norm_eps = s->norm == MDL_NORM_SRMS ? 1e-6f : 1e-5f;
    s->embed_scale = k.no_scale ? 1.0f : (float)sqrt((double)k.width);
    s->bias = k.bias;
    s->tied = k.tied;
    s->tie_stated = mdl_config_has(config, "tie_word_embeddings");
    s->add_bos = k.add_bos;
    s->bos_id = k.bos;
    s->eos_id = k.eos;
    s->pad_id = k.pad;
    s->has_torch_dtype = k.dtype >= 0;
    if (s->has_torch_dtype)
        s->torch_dtype = dtype_of_word[k.dtype];
    return fill_layers(s, &k, config, file, err);
}

/* ---- tensors ---- */

static int64_t dim_V(const mdl_spec *s, const mdl_layer_spec *l) {
    (void)l;
    return s->vocab;
}
static int64_t dim_C(const mdl_spec *s, const mdl_layer_spec *l) {
    (void)l;
    return s->width;
}
static int64_t dim_h(const mdl_spec *s, const mdl_layer_spec *l) {
    (void)l;
    return s->hidden;
}
static int64_t dim_3h(const mdl_spec *s, const mdl_layer_spec *l) {
    (void)l;
    return 3 * s->hidden;
}
static int64_t dim_4h(const mdl_spec *s, const mdl_layer_spec *l) {
    (void)l;
    return 4 * s->hidden;
}
static int64_t dim_F(const mdl_spec *s, const mdl_layer_spec *l) {
    (void)s;
    return l->glu;
}
static int64_t dim_G(const mdl_spec *s, const mdl_layer_spec *l) {
    (void)s;
    return l->gate_rank;
}
static int64_t dim_H(const mdl_spec *s, const mdl_layer_spec *l) {
    (void)s;
    return l->dims.H;
}
static int64_t dim_head(const mdl_spec *s, const mdl_layer_spec *l) {
    (void)s;
    return l->head_dim;
}
static int64_t dim_1(const mdl_spec *s, const mdl_layer_spec *l) {
    (void)s, (void)l;
    return 1;
}

static bool when_untied(const mdl_spec *s, const mdl_layer_spec *l) {
    (void)l;
    return !s->tied;
}
static bool when_bias(const mdl_spec *s, const mdl_layer_spec *l) {
    (void)l;
    return s->bias;
}
static bool when_layernorm(const mdl_spec *s, const mdl_layer_spec *l) {
    (void)l;
    return s->norm == MDL_NORM_LAYERNORM;
}
static bool when_lrpe(const mdl_spec *s, const mdl_layer_spec *l) {
    (void)s;
    return l->lrpe;
}

#define MATRIX(r, name, rows, cols, cond)                                                          \
    { r, name, {rows, cols}, true, cond }
#define VECTOR(r, name, dim, cond)                                                                 \
    { r, name, {dim}, false, cond }
#define LAYER(name) "model.layers.%d." name
#define LINEAR(r, name, rows, cols)                                                                \
    MATRIX(r, LAYER(name ".weight"), rows, cols, NULL),                                            \
        VECTOR(r##_B, LAYER(name ".bias"), rows, when_bias)
#define NORM(r, name, dim)                                                                         \
    VECTOR(r##_W, name ".weight", dim, when_layernorm),                                            \
        VECTOR(r##_B, name ".bias", dim, when_layernorm)

#define COMMON_ROLES                                                                               \
    MATRIX(MDL_R_EMBED, "model.embed_tokens.weight", dim_V, dim_C, NULL),                          \
        MATRIX(MDL_R_HEAD, "lm_head.weight", dim_V, dim_C, when_untied),                           \
        NORM(MDL_R_FINAL_NORM, "model.final_norm", dim_C),                                         \
        LINEAR(MDL_R_OUT, "token_mixer.out_proj", dim_C, dim_h),                                   \
        {MDL_R_THETA,                                                                              \
         LAYER("token_mixer.lrpe.theta"),                                                          \
         {dim_H, dim_1, dim_head},                                                                 \
         false,                                                                                    \
         when_lrpe},                                                                               \
        NORM(MDL_R_TOKEN_NORM, LAYER("token_norm"), dim_C),                                        \
        NORM(MDL_R_CHANNEL_NORM, LAYER("channel_norm"), dim_C),                                    \
        NORM(MDL_R_MIXER_NORM, LAYER("token_mixer.norm"), dim_h),                                  \
        LINEAR(MDL_R_L1, "channel_mixer.l1", dim_F, dim_C),                                        \
        LINEAR(MDL_R_L2, "channel_mixer.l2", dim_F, dim_C),                                        \
        LINEAR(MDL_R_L3, "channel_mixer.l3", dim_C, dim_F)

static const mdl_role_row roles_v1[] = {
    COMMON_ROLES,
    LINEAR(MDL_R_IN, "token_mixer.qkvu_proj", dim_4h, dim_C),
};

static const mdl_role_row roles_v3[] = {
    COMMON_ROLES,
    LINEAR(MDL_R_IN, "token_mixer.qkv_proj", dim_3h, dim_C),
    LINEAR(MDL_R_GATE0, "token_mixer.output_gate.0", dim_G, dim_C),
    LINEAR(MDL_R_GATE1, "token_mixer.output_gate.1", dim_h, dim_G),
};

enum { N_V1 = sizeof roles_v1 / sizeof roles_v1[0], N_V3 = sizeof roles_v3 / sizeof roles_v3[0] };

const mdl_arch mdl_arch_transnormer_v1 = {"transnormer-v1", is_family, fill_spec, roles_v1, N_V1};
const mdl_arch mdl_arch_transnormer_v2 = {"transnormer-v2", match_v2, fill_spec, roles_v1, N_V1};
const mdl_arch mdl_arch_transnormer_v3 = {"transnormer-v3", match_v3, fill_spec, roles_v3, N_V3};
