#!/usr/bin/env python3
"""Writes a GGUF file of random weights: a softmax model of the shape of one of ours.

    tests/bench/make_gguf.py configs/shapes/tnl-385m.json OUT.gguf --type q8_0

The architecture is `llama`: RMS norm, rotary positions, full attention with as many key heads as
query heads, gated feed-forward. Layers, width, heads, feed-forward width and vocabulary are those of
SHAPE.json; every matrix, the head and the embedding included, has the type asked for, so that both
programs read the same bits per weight. Our layers have one matrix of width x width more, the output
gate. The vocabulary is made up, and all layers carry the same numbers: only speed can be measured.

Needs numpy and gguf: pip install gguf
"""
import argparse
import json
import sys

import gguf
import numpy as np

TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0"]
CONTEXT = 1 << 17


def parse():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("shape", help="a config.json of ours")
    p.add_argument("out", help="the file to write")
    p.add_argument("--type", choices=TYPES, default="q8_0")
    p.add_argument("--seed", type=int, default=1)
    return p.parse_args()


def add_header(w, shape, kind):
    heads = shape["decoder_attention_heads"]
    w.add_name("random-" + kind.name.lower())
    w.add_block_count(shape["decoder_layers"])
    w.add_context_length(CONTEXT)
    w.add_embedding_length(shape["decoder_embed_dim"])
    w.add_feed_forward_length(shape["glu_dim"])
    w.add_head_count(heads)
    w.add_head_count_kv(heads)
    w.add_rope_dimension_count(shape["decoder_embed_dim"] // heads)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(shape["vocab_size"])


def add_vocabulary(w, size):
    """Every program wants one: unknown, begin, end, the bytes, then made-up words."""
    kinds = gguf.TokenType
    tokens = [b"<unk>", b"<s>", b"</s>"] + [b"<0x%02X>" % i for i in range(256)]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL] + [kinds.BYTE] * 256
    tokens += [b"w%d" % i for i in range(size - len(tokens))]
    types += [kinds.NORMAL] * (size - len(types))
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens)
    w.add_token_scores([-float(i) for i in range(size)])
    w.add_token_types(types)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)


def matrices(shape):
    """Of one layer: name, rows (outputs), columns (inputs)."""
    c, f = shape["decoder_embed_dim"], shape["glu_dim"]
    return [
        ("attn_q", c, c),
        ("attn_k", c, c),
        ("attn_v", c, c),
        ("attn_output", c, c),
        ("ffn_gate", f, c),
        ("ffn_up", f, c),
        ("ffn_down", c, f),
    ]


def main():
    args = parse()
    with open(args.shape, encoding="utf-8") as f:
        shape = json.load(f)
    if shape["vocab_size"] < 259:
        sys.exit("vocab_size: %d, at least 259 is needed" % shape["vocab_size"])
    kind = gguf.GGMLQuantizationType[args.type.upper()]
    rng = np.random.default_rng(args.seed)
    width = shape["decoder_embed_dim"]

    def matrix(rows, columns):
        x = rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(columns**-0.5)
        return x if kind == gguf.GGMLQuantizationType.F32 else gguf.quants.quantize(x, kind)

    w = gguf.GGUFWriter(args.out, "llama")
    add_header(w, shape, kind)
    add_vocabulary(w, shape["vocab_size"])
    gain = np.ones(width, dtype=np.float32)

    def add(name, data):
        plain = data.dtype in (np.float32, np.float16)
        w.add_tensor(name, data, raw_dtype=None if plain else kind)

    add("token_embd.weight", matrix(shape["vocab_size"], width))
    add("output.weight", matrix(shape["vocab_size"], width))
    add("output_norm.weight", gain)
    layer = [(name, matrix(rows, columns)) for name, rows, columns in matrices(shape)]
    for i in range(shape["decoder_layers"]):
        for name, data in layer:
            add("blk.%d.%s.weight" % (i, name), data)
        add("blk.%d.attn_norm.weight" % i, gain)
        add("blk.%d.ffn_norm.weight" % i, gain)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main()
