"""Draws small random models that together cover every field of the published configs, and writes
them as ordinary model folders. Everything follows from the seed, which the tests print."""

import json
import os
import struct

import numpy as np

ACTS = ["silu", "swish", "none", "gelu", "relu", "elu", "sigmoid", "exp", "leak", "1+elu",
        "2+elu", "sine"]
DTYPES = ["F32", "BF16", "F16"]


def encode(a, dtype):
    """Bytes of a float array in a safetensors dtype; bf16 rounds to nearest even."""
    a = np.ascontiguousarray(a, dtype="<f4")
    if dtype == "F32":
        return a.tobytes()
    if dtype == "F16":
        return a.astype("<f2").tobytes()
    u = a.view("<u4").astype(np.uint64)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype("<u2").tobytes()


def write_safetensors(path, tensors, dtype):
    header, blobs, at = {}, [], 0
    for name, a in tensors.items():
        raw = encode(a, dtype)
        header[name] = {"dtype": dtype, "shape": list(a.shape), "data_offsets": [at, at + len(raw)]}
        blobs.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def write_folder(folder, config, tensors, dtype="F32", shards=1):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)
    if shards == 1:
        write_safetensors(os.path.join(folder, "model.safetensors"), tensors, dtype)
        return
    names, weight_map = list(tensors), {}
    for i in range(shards):
        file = "model-%05d-of-%05d.safetensors" % (i + 1, shards)
        part = names[i::shards]
        write_safetensors(os.path.join(folder, file), {n: tensors[n] for n in part}, dtype)
        weight_map.update({n: file for n in part})
    with open(os.path.join(folder, "model.safetensors.index.json"), "w", encoding="utf-8") as f:
        json.dump({"metadata": {}, "weight_map": weight_map}, f)


def draw_config(rng, i):
    """Config i of a series: what must all be covered cycles with i, the rest is drawn."""
    layers = [1, 2, 3, 4][i % 4]
    heads = [1, 3, 2, 5, 4, 6, 8][i % 7]
    head_dim = int(rng.choice([4, 5, 8, 12, 16]))
    c = {
        "architectures": ["TransnormerForCausalLM"],
        "vocab_size": int(rng.integers(17, 70)),
        "decoder_layers": layers,
        "decoder_embed_dim": int(rng.integers(6, 40)),
        "decoder_attention_heads": heads,
        "hidden_dim": heads * head_dim,
        "glu_dim": -1 if i % 5 == 0 else int(rng.integers(5, 60)),
        "linear_use_lrpe_list": [int(b) for b in rng.integers(0, 2, layers)],
        "no_scale_embedding": bool(i // 2 % 2),
        "linear_act_fun": ACTS[i % len(ACTS)],
        "norm_type": "layernorm" if i % 3 == 1 else "simplermsnorm",
        "bias": i % 4 in (1, 2),
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "add_bos_token": False,
    }
    if i % 3:
        c["model_type"] = "transnormer"
    if (i + i // 12) % 2 == 0:  # each activation once with, once without
        c["gate_dim"] = int(rng.integers(1, 9))  # v3
    if i % 4 == 0:
        c["linear_use_lrpe_list"] = [1] + [0] * (layers - 1)  # as published
    if i % 5 == 2:
        c["tie_word_embeddings"] = False
    elif i % 5 == 3:
        c["tie_word_embeddings"] = True
    if i % 7 == 6:
        c["chunk_size"], c["glu_act"], c["use_lrpe"] = 128, "None", 0  # leftovers, to be ignored
    return c


def draw_tensors(rng, c):
    """Weights of that config, scaled so that activations stay of order one."""
    width, hidden, heads = c["decoder_embed_dim"], c["hidden_dim"], c["decoder_attention_heads"]
    glu = width if c["glu_dim"] == -1 else c["glu_dim"]
    v3 = "gate_dim" in c
    t = {}

    def linear(name, rows, cols):
        t[name + ".weight"] = rng.standard_normal((rows, cols)) / np.sqrt(cols)
        if c["bias"]:
            t[name + ".bias"] = 0.3 * rng.standard_normal(rows)

    def norm(name, dim):
        if c["norm_type"] != "simplermsnorm":
            t[name + ".weight"] = 1.0 + 0.2 * rng.standard_normal(dim)
            t[name + ".bias"] = 0.2 * rng.standard_normal(dim)

    t["model.embed_tokens.weight"] = rng.standard_normal((c["vocab_size"], width))
    for i in range(c["decoder_layers"]):
        layer = "model.layers.%d." % i
        linear(layer + "token_mixer.out_proj", width, hidden)
        if c["linear_use_lrpe_list"][i]:
            m = np.arange(hidden).reshape(heads, 1, hidden // heads)
            noise = 1.0 + 0.1 * rng.standard_normal(m.shape)
            t[layer + "token_mixer.lrpe.theta"] = noise * 10000.0 ** (-2.0 * m / hidden)
        linear(layer + "token_mixer.qkv%s_proj" % ("" if v3 else "u"), (3 if v3 else 4) * hidden,
               width)
        if v3:
            linear(layer + "token_mixer.output_gate.0", c["gate_dim"], width)
            linear(layer + "token_mixer.output_gate.1", hidden, c["gate_dim"])
        norm(layer + "token_mixer.norm", hidden)
        norm(layer + "token_norm", width)
        norm(layer + "channel_norm", width)
        linear(layer + "channel_mixer.l1", glu, width)
        linear(layer + "channel_mixer.l2", glu, width)
        linear(layer + "channel_mixer.l3", width, glu)
    norm("model.final_norm", width)
    if c.get("tie_word_embeddings") is False:
        t["lm_head.weight"] = rng.standard_normal((c["vocab_size"], width))
    return t


def draw_folder(folder, seed, i):
    """Draw config i of the series and write it; returns the config and the stored dtype."""
    rng = np.random.default_rng([seed, i])
    config = draw_config(rng, i)
    dtype = DTYPES[(i + i // 3) % 3]
    write_folder(folder, config, draw_tensors(rng, config), dtype, shards=1 + i % 3)
    return config, dtype
