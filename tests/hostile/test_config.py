"""config.json: each field against each kind of wrong value, by the numbers of our own notes. What
is refused names the file and the key; what is legal but odd is accepted."""

import json

import pytest

import forge
from forge import DROP

FILE = "config.json"
REQUIRED = ["decoder_layers", "decoder_embed_dim", "decoder_attention_heads", "vocab_size"]
SIZES = REQUIRED + ["hidden_dim", "glu_dim"]


def refused(tnl, path, raw=None, words=(), **changes):
    if raw is None:
        raw = json.dumps(forge.config(**changes)).encode()
    forge.folder(path, config_raw=raw)
    return tnl.refuses(path, FILE, *words)


def accepted(tnl, path, version=1, **changes):
    """The folder is written for the changed config, tensors included."""
    c = forge.config(version, **changes)
    forge.folder(path, c, forge.tensors({**forge.config(version), **c}))
    return tnl.accepts(path)


def by_key(key):
    """A value that is wrong is named by its key; text that is wrong already as JSON (1e999, whoever
    holds it) by its byte."""
    return key, "byte "


def with_text(key, text):
    """The config with raw JSON text as the value of key."""
    c = forge.config(**{key: "@@"})
    return json.dumps(c).replace('"@@"', text).encode()


# ---- the file ----


def test_C1_missing(tnl, tmp_path):
    forge.folder(tmp_path)
    (tmp_path / FILE).unlink()
    tnl.refuses(tmp_path, FILE)


GOOD = json.dumps(forge.config()).encode()
TEXTS = {
    "C2_empty": b"",
    "C2_spaces": b"  \n",
    "C3_cut": GOOD[: len(GOOD) // 2],
    "C3_cut_by_one": GOOD[:-1],
    "C4_array": b"[" + GOOD + b"]",
    "C4_string": b'"transnormer"',
    "C4_number": b"1",
    "C5_duplicate": GOOD[:-1] + b',"vocab_size":300}',
    "C5_duplicate_escaped": GOOD[:-1] + b',"voc\\u0061b_size":300}',
    "C6_bom": b"\xef\xbb\xbf" + GOOD,
    "C7_depth_arrays": GOOD[:-1] + b',"x":' + b"[" * 100000 + b"]" * 100000 + b"}",
    "C7_depth_objects": b'{"a":' * 100000 + b"1" + b"}" * 100000,
    "not_utf8": GOOD[:-1] + b',"x":"\xff"}',
    "nul_byte": GOOD[:-1] + b"\0}",
    "nul_escape_in_key": GOOD[:-1] + b',"a\\u0000b":1}',
    "junk_after": GOOD + b"x",
    "two_documents": GOOD + GOOD,
    "trailing_comma": GOOD[:-1] + b",}",
    "nan_literal": GOOD[:-1] + b',"x":NaN}',
    "utf16": GOOD.decode().encode("utf-16"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_text(tnl, tmp_path, case):
    refused(tnl, tmp_path, TEXTS[case])


def test_C8_64_mib(tnl, tmp_path):
    refused(tnl, tmp_path, GOOD + b" " * (64 << 20))


def test_ok_white_space_after(tnl, tmp_path):
    forge.folder(tmp_path, config_raw=GOOD + b"\n\n ")
    tnl.accepts(tmp_path)


# ---- fields ----


@pytest.mark.parametrize("changes", [
    {"model_type": "llama"},
    {"model_type": "Transnormer"},
    {"model_type": 7},
    {"model_type": DROP, "architectures": ["LlamaForCausalLM"]},
    {"model_type": DROP, "architectures": []},
    {"model_type": DROP, "architectures": "TransnormerForCausalLM"},
    {"model_type": DROP, "architectures": DROP},
])
def test_C9_unknown_architecture(tnl, tmp_path, changes):
    refused(tnl, tmp_path, **changes)


@pytest.mark.parametrize("key", REQUIRED)
def test_C10_missing_key(tnl, tmp_path, key):
    refused(tnl, tmp_path, words=[key], **{key: DROP})


BAD_SIZES = {"C11_zero": "0", "C12_minus_2": "-2", "C13_fraction": "1.5", "C14_string": '"16"',
             "C15_true": "true", "C17_infinite": "1e999", "C17_minus_infinite": "-1e999",
             "C18_2_31": "2147483648", "C18_2_32": "4294967296", "C18_2_53": "9007199254740992",
             "C18_2_53_plus_1": "9007199254740993", "C18_2_64": "18446744073709551616",
             "list": "[2]", "object": "{}", "tiny_fraction": "1e-300"}


@pytest.mark.parametrize("key", SIZES)
@pytest.mark.parametrize("case", BAD_SIZES)
def test_bad_size(tnl, tmp_path, key, case):
    refused(tnl, tmp_path, with_text(key, BAD_SIZES[case]), [by_key(key)])


@pytest.mark.parametrize("key", REQUIRED)
def test_C16_null(tnl, tmp_path, key):
    refused(tnl, tmp_path, with_text(key, "null"), [key])


@pytest.mark.parametrize("key", [k for k in SIZES if k != "glu_dim"])
def test_C12_minus_1(tnl, tmp_path, key):
    refused(tnl, tmp_path, with_text(key, "-1"), [key])


def test_C12_ok_glu_dim_minus_1(tnl, tmp_path):
    accepted(tnl, tmp_path, glu_dim=-1)


def test_C19_a_billion_layers(tnl, tmp_path):
    refused(tnl, tmp_path, words=["decoder_layers"], decoder_layers=10**9)


@pytest.mark.parametrize("layers", [3, 1000, 100000])
def test_C19_more_layers_than_tensors(tnl, tmp_path, layers):
    """Named by the key, the list of the wrong length or the first missing tensor."""
    forge.folder(tmp_path, forge.config(decoder_layers=layers,
                                        linear_use_lrpe_list=[1] + [0] * (layers - 1)),
                 forge.tensors(forge.config()))
    tnl.refuses(tmp_path, ("decoder_layers", "model.layers.2.", "too many values"))


def test_fewer_layers_than_tensors_is_accepted_or_named(tnl, tmp_path):
    forge.folder(tmp_path, forge.config(decoder_layers=1, linear_use_lrpe_list=[1]),
                 forge.tensors(forge.config()))
    code, _, err = tnl.run("inspect", tmp_path)
    assert code == 0 or "model.layers.1." in err


@pytest.mark.parametrize("heads", [3, 5, 16])
def test_C20_heads_do_not_divide(tnl, tmp_path, heads):
    refused(tnl, tmp_path, words=["decoder_attention_heads"], decoder_attention_heads=heads)


@pytest.mark.parametrize("heads", [1, 3, 6, 20])
def test_C21_ok_odd_head_counts(tnl, tmp_path, heads):
    accepted(tnl, tmp_path, decoder_attention_heads=heads, hidden_dim=4 * heads)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_C22_ok_one_layer(tnl, tmp_path, version):
    accepted(tnl, tmp_path, version, decoder_layers=1, linear_use_lrpe_list=[1])


BAD_LISTS = {"short": "[1]", "long": "[1,0,0]", "two": "[1,2]", "minus_1": "[1,-1]",
             "number": "1", "string": '"10"', "strings": '["1","0"]', "nested": "[[1],[0]]",
             "fraction": "[1,0.5]", "object": '{"0":1}', "null_inside": "[1,null]",
             "infinite": "[1,1e999]"}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_C23_lrpe_list(tnl, tmp_path, case):
    refused(tnl, tmp_path, with_text("linear_use_lrpe_list", BAD_LISTS[case]),
            [by_key("linear_use_lrpe_list")])


BAD_IDS = {"vocab": "300", "minus_2": "-2", "string": '"2"', "fraction": "1.5", "huge": "1e30",
           "2_31": "2147483648", "object": "{}", "true": "true", "infinite": "1e999"}


@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id", "pad_token_id"])
@pytest.mark.parametrize("case", BAD_IDS)
def test_C25_token_ids(tnl, tmp_path, key, case):
    refused(tnl, tmp_path, with_text(key, BAD_IDS[case]), [by_key(key)])


@pytest.mark.parametrize("ids", [
    {"bos_token_id": 2, "eos_token_id": 2},
    {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None},
    {"pad_token_id": DROP, "bos_token_id": DROP, "eos_token_id": DROP},
    {"eos_token_id": 299},
])
def test_C25_ok_token_ids(tnl, tmp_path, ids):
    accepted(tnl, tmp_path, **ids)


@pytest.mark.parametrize("text", ['"softmax"', '""', '"Swish"', '"silu "', "1", "null", "[]",
                                  "true", '"leaky"'])
def test_C26_unknown_activation(tnl, tmp_path, text):
    if text == "null":
        pytest.skip("null means absent, and the default is silu")
    refused(tnl, tmp_path, with_text("linear_act_fun", text), ["linear_act_fun"])


@pytest.mark.parametrize("act", ["gelu", "relu", "elu", "sigmoid", "exp", "leak", "1+elu", "2+elu",
                                 "silu", "swish", "sine", "none", DROP])
@pytest.mark.parametrize("version", [2, 3])
def test_C26_ok_activations(tnl, tmp_path, act, version):
    accepted(tnl, tmp_path, version, linear_act_fun=act)


@pytest.mark.parametrize("text", ['"rmsnorm"', '"batchnorm"', '""', "1", "true", "[]"])
def test_C27_unknown_norm(tnl, tmp_path, text):
    refused(tnl, tmp_path, with_text("norm_type", text), ["norm_type"])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_C27_ok_layernorm(tnl, tmp_path, version, bias):
    accepted(tnl, tmp_path, version, norm_type="layernorm", bias=bias)


@pytest.mark.parametrize("key", ["bias", "no_scale_embedding", "tie_word_embeddings",
                                 "add_bos_token"])
@pytest.mark.parametrize("text", ['"true"', "2", "[]", "{}", "0.5", "1e999"])
def test_flags(tnl, tmp_path, key, text):
    refused(tnl, tmp_path, with_text(key, text), [by_key(key)])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_C28_ok_torch_dtype_disagrees(tnl, tmp_path, dtype):
    accepted(tnl, tmp_path, torch_dtype=dtype)


def test_C29_tie_flag_false_without_head(tnl, tmp_path):
    """The head is then missing; naming it or falling back to the embedding are both sound."""
    forge.folder(tmp_path, forge.config(tie_word_embeddings=False), forge.tensors(forge.config()))
    code, _, err = tnl.run("inspect", tmp_path)
    assert code == 0 or "lm_head.weight" in err


def test_C29_ok_untied(tnl, tmp_path):
    accepted(tnl, tmp_path, tie_word_embeddings=False)


@pytest.mark.parametrize("flag", [DROP, True])
def test_C29_ok_head_equal_to_the_embedding(tnl, tmp_path, flag):
    """Torch archives list the tied head under its own name; a converter may write both."""
    c = forge.config(tie_word_embeddings=flag)
    ts = forge.tensors(forge.config())
    ts["lm_head.weight"] = ts["model.embed_tokens.weight"]
    forge.folder(tmp_path, c, ts)
    tnl.accepts(tmp_path)


def test_C29_head_differs_although_tied(tnl, tmp_path):
    c = forge.config(tie_word_embeddings=True)
    ts = forge.tensors(forge.config())
    dtype, shape, raw = ts["model.embed_tokens.weight"]
    ts["lm_head.weight"] = [dtype, shape, raw[4:] + raw[:4]]
    forge.folder(tmp_path, c, ts)
    tnl.refuses(tmp_path, "lm_head.weight")


def test_C30_state_overflows(tnl, tmp_path):
    """Sizes each within range whose product is not: refused before anything is allocated."""
    refused(tnl, tmp_path, hidden_dim=2**30, decoder_attention_heads=1, decoder_embed_dim=2**20)


def test_C31_ok_code_references_are_ignored(tnl, tmp_path):
    accepted(tnl, tmp_path, auto_map={"AutoModel": "modeling.Model"},
             trust_remote_code=True, custom_pipelines={"x": {"impl": "evil.py"}})


@pytest.mark.parametrize("value", [{"quant_method": "gptq", "bits": 4}, {}, "int8"])
def test_C32_quantization(tnl, tmp_path, value):
    refused(tnl, tmp_path, words=["quantization_config"], quantization_config=value)


@pytest.mark.parametrize("changes", [
    {"chunk_size": 128}, {"glu_act": "None"}, {"use_lrpe": 0}, {"x": {"y": [1, 2, {"z": None}]}},
    {"k%d" % i: i for i in range(200)}, {"model_type": DROP}, {"linear_use_lrpe": 0},
    {"hidden_dim": 8, "transformers_version": "4.30.2"},
])
def test_C35_ok_unknown_keys(tnl, tmp_path, changes):
    accepted(tnl, tmp_path, **changes)


@pytest.mark.parametrize("key", REQUIRED)
def test_C36_other_case_is_another_key(tnl, tmp_path, key):
    value = forge.config()[key]
    refused(tnl, tmp_path, words=[key], **{key: DROP, key.title(): value, key.upper(): value})


@pytest.mark.parametrize("text", ["0", "-1", "1.5", '"16"', "true", "2147483648", "1e999", "[]"])
def test_gate_dim(tnl, tmp_path, text):
    c = json.dumps(forge.config(3, gate_dim="@@")).replace('"@@"', text).encode()
    forge.folder(tmp_path, forge.config(3), config_raw=c)
    tnl.refuses(tmp_path, FILE, by_key("gate_dim"))


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("weights", ["safetensors", "torch"])
def test_ok_versions(tnl, tmp_path, version, dtype, weights):
    c = forge.config(version)
    forge.folder(tmp_path, c, forge.tensors(c, dtype), weights=weights)
    tnl.accepts(tmp_path)
