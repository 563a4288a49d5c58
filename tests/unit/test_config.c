/* config.json: each key against each kind of wrong value, and what the right ones become. The
 * labels C1..C36 are the cases of our list of hostile configurations. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <cmocka.h>

#include "model/config.h"
#include "tests/unit/folder.h"

static const struct {
    const char *key, *value;
} base[] = {
    {"architectures", "[\"TransnormerForCausalLM\"]"},
    {"vocab_size", "100"},
    {"decoder_layers", "3"},
    {"decoder_embed_dim", "16"},
    {"decoder_attention_heads", "2"},
    {"hidden_dim", "24"},
    {"glu_dim", "20"},
    {"linear_use_lrpe_list", "[1,0,0]"},
};

/* The base with one key replaced (value NULL: left out), or added when it is not in the base. */
static buf config_with(const char *key, const char *value) {
    buf b = {0};
    bool seen = false;
    const char *comma = "{";
    for (size_t i = 0; i < sizeof base / sizeof base[0]; i++) {
        bool this = key && strcmp(key, base[i].key) == 0;
        const char *v = this ? value : base[i].value;
        seen |= this;
        if (!v)
            continue;
        put_text(&b, comma), put_text(&b, "\""), put_text(&b, base[i].key), put_text(&b, "\":");
        put_text(&b, v);
        comma = ",";
    }
    if (key && !seen && value)
        put_text(&b, ",\""), put_text(&b, key), put_text(&b, "\":"), put_text(&b, value);
    put_text(&b, "}");
    return b;
}

static tnl_status parse(mdl_spec *spec, const char *key, const char *value, tnl_error *err) {
    buf b = config_with(key, value);
    tnl_status s = mdl_config_parse(spec, (const char *)b.p, b.n, "config.json", err);
    drop(&b);
    return s;
}

/* ---- refused ---- */

static const struct {
    const char *key, *value, *words;
} refused[] = {
    /* C9 */
    {"architectures", NULL, "architectures: found nothing"},
    {"architectures", "[\"LlamaForCausalLM\"]", "found \"LlamaForCausalLM\""},
    {"architectures", "[]", "architectures"},
    {"architectures", "\"TransnormerForCausalLM\"", "architectures"},
    {"architectures", "[1]", "found 1"},
    {"model_type", "\"llama\"", "model_type \"llama\""},
    {"model_type", "7", "model_type 7"},
    /* C10 to C18, C36: generated below; these need other words */
    {"glu_dim", "0", "glu_dim: found 0"},
    {"glu_dim", "-2", "glu_dim: found -2, expected a whole number from -1"},
    {"decoder_layers", "1000000000", "decoder_layers: found 1000000000"},    /* C19 */
    {"decoder_attention_heads", "5", "expected a divisor of hidden_dim 24"}, /* C20 */
    /* C23 */
    {"linear_use_lrpe_list", NULL, "linear_use_lrpe_list: missing"},
    {"linear_use_lrpe_list", "[1,0]", "found 2 entries, expected one per layer, 3"},
    {"linear_use_lrpe_list", "[1,0,0,0]", "found 4 entries"},
    {"linear_use_lrpe_list", "[]", "found 0 entries"},
    {"linear_use_lrpe_list", "[1,2,0]", "linear_use_lrpe_list[1]: found 2"},
    {"linear_use_lrpe_list", "[1,0,-1]", "linear_use_lrpe_list[2]: found -1"},
    {"linear_use_lrpe_list", "[true,false,false]", "linear_use_lrpe_list[0]: found true"},
    {"linear_use_lrpe_list", "[0.5,0,0]", "found 0.5"},
    {"linear_use_lrpe_list", "1", "linear_use_lrpe_list: found 1"},
    {"linear_use_lrpe_list", "{}", "linear_use_lrpe_list: found an object"},
    /* C25 */
    {"bos_token_id", "100", "bos_token_id: found 100, expected less than vocab_size 100"},
    {"eos_token_id", "-1", "eos_token_id: found -1"},
    {"eos_token_id", "[1,2]", "eos_token_id: found a list"},
    {"pad_token_id", "1.5", "pad_token_id: found 1.5"},
    {"pad_token_id", "4294967296", "pad_token_id"},
    {"pad_token_id", "\"1\"", "pad_token_id: found \"1\""},
    /* C26, C27 */
    {"linear_act_fun", "\"tanh\"", "linear_act_fun: found \"tanh\", expected one of gelu"},
    {"linear_act_fun", "\"SiLU\"", "linear_act_fun"},
    {"linear_act_fun", "null", "linear_act_fun: found null"},
    {"norm_type", "\"rmsnorm\"", "expected one of simplermsnorm layernorm"},
    {"norm_type", "1", "norm_type: found 1"},
    {"torch_dtype", "\"float64\"", "torch_dtype: found \"float64\""},
    {"torch_dtype", "\"int8\"", "torch_dtype"},
    {"bias", "1", "bias: found 1, expected true or false"},
    {"no_scale_embedding", "\"true\"", "no_scale_embedding"},
    {"no_scale_embedding", "null", "no_scale_embedding: found null"},
    {"tie_word_embeddings", "0", "tie_word_embeddings"},
    {"add_bos_token", "{}", "add_bos_token: found an object"},
    {"gate_dim", "0", "gate_dim: found 0"},
    {"gate_dim", "\"16\"", "gate_dim: found \"16\""},
    {"gate_dim", "1e9", "gate_dim"},
    {"quantization_config", "{\"bits\":4}", "quantization_config"}, /* C32 */
};

static void refuses(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        mdl_spec spec;
        tnl_error err = {0};
        tnl_status s = parse(&spec, refused[i].key, refused[i].value, &err);
        if (s == TNL_OK || !strstr(err.msg, refused[i].words) || spec.layers ||
            strncmp(err.msg, "config.json: ", 13) != 0)
            fail_msg("%s = %s: status %d, \"%s\", expected \"%s\"", refused[i].key,
                     refused[i].value, s, err.msg, refused[i].words);
    }
}

/* C10 to C18: every required size with every wrong value names its key. */
static void sizes(void **state) {
    (void)state;
    static const char *const keys[] = {"vocab_size",        "decoder_layers",
                                       "decoder_embed_dim", "decoder_attention_heads",
                                       "hidden_dim",        "glu_dim"};
    static const char *const values[] = {NULL,
                                         "0",
                                         "-2",
                                         "1.5",
                                         "\"16\"",
                                         "true",
                                         "null",
                                         "1e999",
                                         "-1e999",
                                         "2147483648",
                                         "4294967296",
                                         "9007199254740992",
                                         "18446744073709551615",
                                         "[16]",
                                         "{}"};
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++)
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
            mdl_spec spec;
            tnl_error err = {0};
            if (parse(&spec, keys[k], values[v], &err) == TNL_OK || !strstr(err.msg, keys[k]))
                fail_msg("%s = %s: \"%s\"", keys[k], values[v], err.msg);
        }
}

/* C36: another case of letters is another key, so the real one is missing. */
static void key_case(void **state) {
    (void)state;
    mdl_spec spec;
    tnl_error err = {0};
    const char *text = "{\"architectures\":[\"TransnormerForCausalLM\"],\"Vocab_Size\":100}";
    assert_int_equal(mdl_config_parse(&spec, text, strlen(text), "config.json", &err), TNL_E_DATA);
    assert_string_equal(err.msg, "config.json: vocab_size: missing");
}

/* C2 to C8: the text itself. The scanner has its own tests; this proves that it is asked. */
static void texts(void **state) {
    (void)state;
    static const struct {
        const char *text, *words;
    } bad[] = {
        {"", "ends too early"},
        {"[]", "found a list, expected an object"},
        {"7", "found 7, expected an object"},
        {"{\"a\":1,\"a\":2}", "duplicate key"},
        {"\xEF\xBB\xBF{}", "byte order mark"},
        {"{} {}", "text after the end"},
        {"{\"a\":\"\\u0000\"}", "\\u0000"},
        {"{\"a\":\"\xFF\"}", "UTF-8"},
    };
    mdl_spec spec;
    tnl_error err;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_not_equal(
            mdl_config_parse(&spec, bad[i].text, strlen(bad[i].text), "config.json", &err), TNL_OK);
        assert_non_null(strstr(err.msg, bad[i].words));
    }
    buf b = {0};
    put_fill(&b, '[', 100000);
    assert_int_equal(mdl_config_parse(&spec, (char *)b.p, b.n, "c", &err), TNL_E_LIMIT);
    b.n = 0;
    put_text(&b, "{");
    put_fill(&b, ' ', 2 << 20);
    assert_int_equal(mdl_config_parse(&spec, (char *)b.p, b.n, "c", &err), TNL_E_LIMIT);
    drop(&b);
    buf whole = config_with(NULL, NULL);
    for (size_t n = 0; n < whole.n; n++) /* C3 */
        assert_int_equal(mdl_config_parse(&spec, (char *)whole.p, n, "c", &err), TNL_E_DATA);
    drop(&whole);
}

/* ---- accepted ---- */

/* Parse with one change; the caller clears the spec. */
static mdl_spec good(const char *key, const char *value) {
    mdl_spec spec;
    tnl_error err = {0};
    if (parse(&spec, key, value, &err) != TNL_OK)
        fail_msg("%s = %s: \"%s\"", key, value, err.msg);
    return spec;
}

static void defaults(void **state) {
    (void)state;
    mdl_spec s = good(NULL, NULL);
    assert_string_equal(s.arch, "transnormer-v1");
    assert_int_equal(s.vocab, 100);
    assert_int_equal(s.width, 16);
    assert_int_equal(s.hidden, 24);
    assert_int_equal(s.n_layers, 3);
    assert_int_equal(s.norm, MDL_NORM_SRMS);
    assert_true(s.norm_eps == 1e-6f);
    assert_true(s.embed_scale == 4.0f);
    assert_false(s.bias);
    assert_true(s.tied);
    assert_false(s.tie_stated);
    assert_false(s.add_bos);
    assert_false(s.has_torch_dtype);
    assert_int_equal(s.bos_id, 1);
    assert_int_equal(s.eos_id, 2);
    assert_int_equal(s.pad_id, 0);
    for (int i = 0; i < 3; i++) {
        const mdl_layer_spec *l = &s.layers[i];
        assert_int_equal(l->dims.H, 2);
        assert_int_equal(l->dims.Dk, i == 0 ? 24 : 12);
        assert_int_equal(l->dims.Dv, 12);
        assert_int_equal(l->head_dim, 12);
        assert_int_equal(l->lrpe, i == 0);
        assert_int_equal(l->act, KN_ACT_SILU);
        assert_int_equal(l->gate, MDL_GATE_LINEAR);
        assert_false(l->act_on_v);
        assert_int_equal(l->glu, 20);
    }
    mdl_spec_clear(&s);
}

static void versions(void **state) {
    (void)state;
    mdl_spec s = good("no_scale_embedding", "true");
    assert_string_equal(s.arch, "transnormer-v2");
    assert_true(s.embed_scale == 1.0f);
    mdl_spec_clear(&s);
    s = good("gate_dim", "16");
    assert_string_equal(s.arch, "transnormer-v3");
    assert_int_equal(s.layers[2].gate, MDL_GATE_LOW_RANK_SIGMOID);
    assert_int_equal(s.layers[2].gate_rank, 16);
    assert_true(s.layers[2].act_on_v);
    assert_true(s.embed_scale == 4.0f);
    mdl_spec_clear(&s);
    s = good("model_type", "\"transnormer\"");
    mdl_spec_clear(&s);
}

static void values(void **state) {
    (void)state;
    static const struct {
        const char *word;
        kn_act act;
    } acts[] = {{"gelu", KN_ACT_GELU},       {"relu", KN_ACT_RELU},   {"elu", KN_ACT_ELU},
                {"sigmoid", KN_ACT_SIGMOID}, {"exp", KN_ACT_EXP},     {"leak", KN_ACT_LEAK},
                {"1+elu", KN_ACT_1PELU},     {"2+elu", KN_ACT_2PELU}, {"silu", KN_ACT_SILU},
                {"swish", KN_ACT_SILU},      {"sine", KN_ACT_SINE},   {"none", KN_ACT_NONE}};
    for (size_t i = 0; i < sizeof acts / sizeof acts[0]; i++) {
        char quoted[32];
        snprintf(quoted, sizeof quoted, "\"%s\"", acts[i].word);
        mdl_spec s = good("linear_act_fun", quoted);
        assert_int_equal(s.layers[0].act, acts[i].act);
        mdl_spec_clear(&s);
    }
    mdl_spec s = good("glu_dim", "-1");
    assert_int_equal(s.layers[1].glu, 16);
    mdl_spec_clear(&s);
    s = good("norm_type", "\"layernorm\"");
    assert_int_equal(s.norm, MDL_NORM_LAYERNORM);
    assert_true(s.norm_eps == 1e-5f);
    mdl_spec_clear(&s);
    s = good("tie_word_embeddings", "false");
    assert_false(s.tied);
    mdl_spec_clear(&s);
    s = good("tie_word_embeddings", "true");
    assert_true(s.tied && s.tie_stated);
    mdl_spec_clear(&s);
    s = good("torch_dtype", "\"bfloat16\"");
    assert_true(s.has_torch_dtype && s.torch_dtype == KN_BF16);
    mdl_spec_clear(&s);
    s = good("pad_token_id", "null");
    assert_int_equal(s.pad_id, -1);
    mdl_spec_clear(&s);
}

/* C21, C22, C31, C33 to C35: odd, but legal. */
static void legal(void **state) {
    (void)state;
    static const char *const heads[] = {"1", "3", "6", "24"};
    for (size_t i = 0; i < 4; i++) {
        mdl_spec s = good("decoder_attention_heads", heads[i]);
        assert_int_equal(s.layers[0].dims.H, strtol(heads[i], NULL, 10));
        mdl_spec_clear(&s);
    }
    static const struct {
        const char *key, *value;
    } ignored[] = {{"auto_map", "{\"AutoModel\":\"evil.py\"}"},
                   {"linear_use_lrpe", "0"},
                   {"norm_eps", "-1"},
                   {"rope_theta", "0"},
                   {"chunk_size", "[null]"},
                   {"quantization_config", "null"},
                   {"torch_dtype", "null"},
                   {"", "0"}};
    for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++) {
        mdl_spec s = good(ignored[i].key, ignored[i].value);
        mdl_spec_clear(&s);
    }
}

/* What is written is what is read, and the rest of the text stays. */
static void quantized(void **state) {
    (void)state;
    static const kn_dtype types[] = {KN_Q8, KN_Q4, KN_F8};
    for (int k = 0; k < 3; k++) {
        mdl_spec spec;
        tnl_error err = {0};
        char *text;
        buf plain = config_with("torch_dtype", "\"bfloat16\"");
        assert_int_equal(mdl_config_add_quant(&text, (char *)plain.p, plain.n, types[k], &err),
                         TNL_OK);
        if (mdl_config_parse(&spec, text, strlen(text), "config.json", &err) != TNL_OK)
            fail_msg("%s in %s", err.msg, text);
        assert_true(spec.quantized);
        assert_int_equal(spec.packed, types[k]);
        assert_int_equal(spec.width, 16);
        mdl_spec_clear(&spec);
        free(text);
        drop(&plain);
        spec = good(NULL, NULL);
        assert_false(spec.quantized);
        mdl_spec_clear(&spec);
    }
}

/* C30: sizes in range whose product is not what a machine has. */
static void state_size(void **state) {
    (void)state;
    const char *text =
        "{\"architectures\":[\"TransnormerForCausalLM\"],\"vocab_size\":8,\"decoder_layers\":1,"
        "\"decoder_embed_dim\":1,\"decoder_attention_heads\":1,\"hidden_dim\":131072,\"glu_dim\":1,"
        "\"linear_use_lrpe_list\":[1]}";
    mdl_spec spec;
    tnl_error err = {0};
    tnl_status s = mdl_config_parse(&spec, text, strlen(text), "config.json", &err);
    if (s != TNL_OK) /* 128 GiB; a machine that has more may take it */
        assert_non_null(strstr(err.msg, "137438953472 bytes"));
    mdl_spec_clear(&spec);
}

/* ---- companions ---- */

static tnl_status load(mdl_spec *spec, const char *name, const char *text, tnl_error *err) {
    char *dir = folder_new();
    buf b = config_with(NULL, NULL);
    folder_write(dir, "config.json", b.p, b.n);
    drop(&b);
    if (name)
        folder_text(dir, name, text);
    tnl_status s = mdl_config_load(spec, dir, err);
    folder_free(dir);
    return s;
}

static void companions(void **state) {
    (void)state;
    mdl_spec s;
    tnl_error err = {0};
    assert_int_equal(load(&s, NULL, NULL, &err), TNL_OK);
    mdl_spec_clear(&s);
    const char *tok = "tokenizer_config.json", *gen = "generation_config.json";
    assert_int_equal(load(&s, tok, "{\"add_bos_token\":true,\"x\":[1]}", &err), TNL_OK);
    assert_true(s.add_bos && !s.add_eos);
    mdl_spec_clear(&s);
    assert_int_equal(load(&s, tok, "{\"add_eos_token\":true,\"add_bos_token\":null}", &err),
                     TNL_OK);
    assert_true(!s.add_bos && s.add_eos);
    mdl_spec_clear(&s);
    assert_int_equal(load(&s, tok, "{\"add_bos_token\":1}", &err), TNL_E_DATA);
    assert_non_null(strstr(err.msg, "tokenizer_config.json: add_bos_token: found 1"));
    assert_int_equal(load(&s, tok, "{", &err), TNL_E_DATA);
    assert_non_null(strstr(err.msg, "tokenizer_config.json"));
    assert_int_equal(load(&s, gen, "{\"eos_token_id\":7,\"bos_token_id\":[1,2]}", &err), TNL_OK);
    assert_int_equal(s.eos_id, 7);
    assert_int_equal(s.bos_id, 1);
    mdl_spec_clear(&s);
    assert_int_equal(load(&s, gen, "{\"eos_token_id\":100}", &err), TNL_E_DATA);
    assert_non_null(strstr(err.msg, "generation_config.json: eos_token_id: found 100"));
}

/* C1, C8 */
static void files(void **state) {
    (void)state;
    mdl_spec s;
    tnl_error err = {0};
    char *dir = folder_new();
    assert_int_equal(mdl_config_load(&s, dir, &err), TNL_E_NO_INPUT);
    assert_non_null(strstr(err.msg, "config.json: cannot open"));
    must(truncate(folder_path(dir, "config.json"), 0) != 0, "no file yet");
    folder_text(dir, "config.json", "");
    must(truncate(folder_path(dir, "config.json"), 64 << 20) == 0, "sparse file");
    assert_int_equal(mdl_config_load(&s, dir, &err), TNL_E_LIMIT);
    assert_non_null(strstr(err.msg, "67108864 bytes"));
    folder_free(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses),    cmocka_unit_test(sizes),    cmocka_unit_test(key_case),
        cmocka_unit_test(texts),      cmocka_unit_test(defaults), cmocka_unit_test(versions),
        cmocka_unit_test(values),     cmocka_unit_test(legal),    cmocka_unit_test(state_size),
        cmocka_unit_test(companions), cmocka_unit_test(files),    cmocka_unit_test(quantized),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
