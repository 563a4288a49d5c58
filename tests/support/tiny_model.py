"""Writes a tiny random model as an ordinary model folder. Standard library only, so every test
suite can use it: cli, http, hostile.

    from tiny_model import write_model
    write_model(path)                                  # v2 form, F32, token ids only
    write_model(path, variant="v3", bias=True, norm="layernorm", dtype="BF16")
    write_model(path, tokenizer=True)                  # adds tokenizer.model; vocabulary follows it
    write_model(path, config={"decoder_layers": 2})    # override any config.json field

or from a shell: python3 tests/support/tiny_model.py DIR [--variant v3] [--tokenizer] ...
Everything follows from `seed`."""

import argparse
import json
import math
import os
import random
import shutil
import struct

HERE = os.path.dirname(os.path.abspath(__file__))
# Tokenizers to borrow, first found wins: the tests' own, then the bundled model's.
TOKENIZERS = [os.path.join(HERE, "..", "data", "tok_bpe", "tokenizer.model"),
              os.path.join(HERE, "..", "..", "configs", "tales", "tokenizer.model")]
BASE = {"v1": {"no_scale_embedding": False}, "v2": {"no_scale_embedding": True},
        "v3": {"no_scale_embedding": False, "gate_dim": 4}}


def find_tokenizer():
    """Path of a tokenizer.model to borrow, or None."""
    return next((p for p in TOKENIZERS if os.path.exists(p)), None)


def varint(raw, at):
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def count_pieces(path):
    """Entries of field 1 (pieces) of a SentencePiece ModelProto."""
    with open(path, "rb") as f:
        raw = f.read()
    at = pieces = 0
    while at < len(raw):
        key, at = varint(raw, at)
        if key & 7 == 2:
            size, at = varint(raw, at)
            at += size
        elif key & 7 == 5:
            at += 4
        elif key & 7 == 1:
            at += 8
        else:
            _, at = varint(raw, at)
        pieces += key >> 3 == 1
    return pieces


def make_config(variant="v2", vocab=97, layers=3, width=24, heads=3, head_dim=8, glu=40,
                bias=False, norm="simplermsnorm", tied=True, act="swish"):
    config = {
        "architectures": ["TransnormerForCausalLM"],
        "model_type": "transnormer",
        "vocab_size": vocab,
        "decoder_layers": layers,
        "decoder_embed_dim": width,
        "decoder_attention_heads": heads,
        "hidden_dim": heads * head_dim,
        "glu_dim": glu,
        "linear_use_lrpe_list": [1] + [0] * (layers - 1),
        "linear_act_fun": act,
        "norm_type": norm,
        "bias": bias,
        "add_bos_token": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "float32",
        "tie_word_embeddings": tied,
    }
    config.update(BASE[variant])
    return config


def layer_shapes(config, layer, affine):
    """(name, shape) of one layer, in the published storage order."""
    d, h = config["decoder_embed_dim"], config["hidden_dim"]
    g = d if config["glu_dim"] == -1 else config["glu_dim"]
    heads = config["decoder_attention_heads"]
    p = "model.layers.%d." % layer
    v3 = "gate_dim" in config
    linears = [("token_mixer.out_proj", d, h)]
    linears.append(("token_mixer.qkv_proj", 3 * h, d) if v3 else
                   ("token_mixer.qkvu_proj", 4 * h, d))
    if v3:
        linears += [("token_mixer.output_gate.0", config["gate_dim"], d),
                    ("token_mixer.output_gate.1", h, config["gate_dim"])]
    linears += [("channel_mixer.l1", g, d), ("channel_mixer.l2", g, d), ("channel_mixer.l3", d, g)]
    for name, rows, cols in linears:
        yield p + name + ".weight", [rows, cols]
        if config["bias"]:
            yield p + name + ".bias", [rows]
    lrpe = config["linear_use_lrpe_list"]
    if layer < len(lrpe) and lrpe[layer]:
        yield p + "token_mixer.lrpe.theta", [heads, 1, h // heads]
    if affine:
        for name, n in (("token_norm", d), ("channel_norm", d), ("token_mixer.norm", h)):
            yield p + name + ".weight", [n]
            yield p + name + ".bias", [n]


def tensor_shapes(config):
    affine = config["norm_type"] != "simplermsnorm"
    shapes = [("model.embed_tokens.weight", [config["vocab_size"], config["decoder_embed_dim"]])]
    for layer in range(config["decoder_layers"]):
        shapes += layer_shapes(config, layer, affine)
    if affine:
        shapes += [("model.final_norm.weight", [config["decoder_embed_dim"]]),
                   ("model.final_norm.bias", [config["decoder_embed_dim"]])]
    if not config.get("tie_word_embeddings", True):
        shapes.append(("lm_head.weight", [config["vocab_size"], config["decoder_embed_dim"]]))
    return shapes


def draw(rng, name, shape):
    """Values of one tensor as floats: about unit gain through every product."""
    n = math.prod(shape)
    if name.endswith("theta"):
        return [10000.0 ** (-2.0 * i / n) for i in range(n)]
    if "norm" in name and name.endswith("weight"):
        return [1.0 + 0.1 * rng.uniform(-1, 1) for _ in range(n)]
    scale = 0.1 if len(shape) == 1 else math.sqrt(3.0 / shape[-1])
    if name.startswith(("model.embed", "lm_head")):
        scale = 1.0
    return [scale * rng.uniform(-1, 1) for _ in range(n)]


def encode(values, dtype):
    if dtype == "F32":
        return struct.pack("<%df" % len(values), *values)
    if dtype == "F16":
        return struct.pack("<%de" % len(values), *values)
    bits = struct.unpack("<%dI" % len(values), struct.pack("<%df" % len(values), *values))
    return struct.pack("<%dH" % len(values),
                       *((b + 0x7FFF + ((b >> 16) & 1)) >> 16 for b in bits))  # nearest, ties even


def safetensors_bytes(tensors, dtype):
    """tensors: [(name, shape, values)] -> a whole file."""
    header, blobs, at = {}, [], 0
    for name, shape, values in tensors:
        raw = encode(values, dtype)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(raw)]}
        blobs.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(blobs)


def write_model(path, variant="v2", dtype="F32", seed=1, tokenizer=False, config=None, **shape):
    """Write the folder `path`; returns its config. `config` overrides single config.json fields,
    `shape` are arguments of make_config."""
    os.makedirs(path, exist_ok=True)
    source = find_tokenizer() if tokenizer else None
    if tokenizer and not source:
        raise FileNotFoundError("no tokenizer.model to borrow in tests/data or configs/tales")
    if source:
        shape.setdefault("vocab", count_pieces(source))
        shutil.copyfile(source, os.path.join(path, "tokenizer.model"))
    made = make_config(variant, **shape)
    made["torch_dtype"] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype]
    made.update(config or {})
    rng = random.Random(seed)
    tensors = [(name, dims, draw(rng, name, dims)) for name, dims in tensor_shapes(made)]
    with open(os.path.join(path, "config.json"), "w", encoding="utf-8") as f:
        json.dump(made, f, indent=2)
    with open(os.path.join(path, "model.safetensors"), "wb") as f:
        f.write(safetensors_bytes(tensors, dtype))
    return made


def main():
    p = argparse.ArgumentParser(description="Write a tiny random model folder.")
    p.add_argument("path")
    p.add_argument("--variant", choices=sorted(BASE), default="v2")
    p.add_argument("--dtype", choices=["F32", "F16", "BF16"], default="F32")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--tokenizer", action="store_true", help="borrow a tokenizer.model")
    p.add_argument("--bias", action="store_true")
    p.add_argument("--norm", default="simplermsnorm")
    p.add_argument("--untied", action="store_true")
    a = p.parse_args()
    made = write_model(a.path, a.variant, a.dtype, a.seed, a.tokenizer, bias=a.bias, norm=a.norm,
                       tied=not a.untied)
    print(json.dumps(made))


if __name__ == "__main__":
    main()
