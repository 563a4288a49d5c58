"""Reads packed matrices, written from the description of the layout in kernels/quant.h alone, and
rounds activations as products with q8 and q4 do."""

import json
import os
import struct

import numpy as np

import tnl_reference as ref

OUTS, GROUP, UNIT, RUN = 64, 128, 32, 16


def groups(cols):
    """(first input, inputs, inputs with filling) of each group of a row."""
    for at in range(0, cols, GROUP):
        n = min(GROUP, cols - at)
        yield at, n, -(-n // UNIT) * UNIT


def signed4(x):
    return (x.astype(np.int64) ^ 8) - 8


def unpack_group(raw, kind, g):
    """Integers [64][g], scales [64] and the bytes used, of one group of one tile."""
    d = ref.bf16_to_f32(np.frombuffer(raw, "<u2", OUTS)).astype(np.float64)
    at = 2 * OUTS
    if kind == "q8":
        codes = np.frombuffer(raw, np.uint8, g * OUTS, at).reshape(g // 4, OUTS, 4)
        w = codes.astype(np.int64).transpose(1, 0, 2).reshape(OUTS, g) - 128
        return w, d, at + g * OUTS
    subs = np.frombuffer(raw, np.uint8, 2 * g, at).reshape(g // 32, OUTS)
    factor = np.stack([signed4(subs & 15), signed4(subs >> 4)], axis=1)  # [pairs][2][64]
    factor = np.repeat(factor.reshape(g // RUN, OUTS).T, RUN, axis=1)
    at += 2 * g
    pairs = np.frombuffer(raw, np.uint8, g // 2 * OUTS, at).reshape(g // 8, OUTS, 4)
    both = np.stack([pairs & 15, pairs >> 4], axis=2)  # [g/8][64][2][4]: inputs 8t+i, 8t+4+i
    codes = both.astype(np.int64).transpose(1, 0, 2, 3).reshape(OUTS, g) - 8
    return factor * codes, d, at + g // 2 * OUTS


def e4m3(codes):
    """Sign, four bits of exponent, three of mantissa; no code may be NaN."""
    c = codes.astype(np.int64)
    assert ((c & 0x7F) != 0x7F).all(), "a code is NaN"
    exponent, mantissa = c >> 3 & 15, c & 7
    size = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0**-9)
    return np.where(c & 0x80, -size, size)


def unpack_f8(raw, rows, cols):
    """The same of f8: one scale a row."""
    padded = -(-cols // 16) * 16
    table = np.frombuffer(raw, np.uint8).reshape(-(-rows // OUTS) * OUTS, padded + 16)
    d = np.ascontiguousarray(table[:, padded:padded + 4]).view("<f4").astype(np.float64)
    assert not table[:, cols:padded].any() and not table[:, padded + 4:].any()
    assert not table[rows:, :cols].any() and (d[rows:] == 1).all() and (d > 0).all()
    return (e4m3(table[:, :cols]) * d)[:rows], d[:rows]


def unpack(raw, kind, rows, cols):
    """(weights [rows][cols], scales [rows][groups]) of a packed matrix; filling must be zero."""
    if kind == "f8":
        return unpack_f8(raw, rows, cols)
    raw, tiles = memoryview(raw), -(-rows // OUTS)
    w = np.zeros((tiles * OUTS, cols))
    d = np.zeros((tiles * OUTS, -(-cols // GROUP)))
    at = 0
    for tile in range(tiles):
        o = slice(tile * OUTS, (tile + 1) * OUTS)
        for k, (first, n, g) in enumerate(groups(cols)):
            ints, d[o, k], used = unpack_group(raw[at:], kind, g)
            assert not ints[:, n:].any(), "filling of the inputs is not zero"
            w[o, first:first + n] = ints[:, :n] * d[o, k][:, None]
            at += used
    assert at == len(raw), "%d bytes, expected %d" % (len(raw), at)
    assert not w[rows:].any(), "filling of the outputs is not zero"
    return w[:rows], d[:rows]


def read_folder(folder, shapes):
    """(weights by plain name, scales of the packed ones) of a one-file folder; `shapes` are those
    of the plain tensors."""
    with open(os.path.join(folder, "model.safetensors"), "rb") as f:
        blob = f.read()
    (n,) = struct.unpack("<Q", blob[:8])
    weights, scales = {}, {}
    for name, row in json.loads(blob[8:8 + n]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + n + x for x in row["data_offsets"])
        stem, kind = name.rsplit(".", 1)
        if row["dtype"] == "U8":
            plain = stem + ".weight"
            assert begin % 64 == 0
            weights[plain], scales[plain] = unpack(blob[begin:end], kind, *shapes[plain])
        else:
            a = {"F32": lambda r: np.frombuffer(r, "<f4"), "F16": lambda r: np.frombuffer(r, "<f2"),
                 "BF16": lambda r: ref.bf16_to_f32(np.frombuffer(r, "<u2"))}[row["dtype"]](
                     blob[begin:end])
            weights[name] = a.astype(np.float64).reshape(row["shape"])
    return weights, scales


def round_rows(x):
    """Activations as 127 steps of the largest of each row and group."""
    y = np.array(x, dtype=np.float64)
    for at, n, _ in groups(x.shape[-1]):
        part = y[..., at:at + n]
        scale = np.abs(part).max(axis=-1, keepdims=True) / 127
        part[...] = np.rint(np.divide(part, scale, where=scale > 0, out=np.zeros_like(part))) * scale
    return y


class PackedModel(ref.Model):
    """The reference model over a quantised folder."""

    def __init__(self, source, folder, kind):
        super().__init__(source)
        self.rounds = kind != "f8"  # its products take activations as they are
        shapes = {name: a.shape for name, a in self.w.items()}
        self.w, self.scales = read_folder(folder, shapes)
        self.head_name = ("lm_head.weight" if "lm_head.weight" in self.w
                          else "model.embed_tokens.weight")

    def linear(self, x, name):
        if self.rounds and name + ".weight" in self.scales:
            x = round_rows(x)
        return super().linear(x, name)

    def logits(self, tokens, keep=None):
        self.head = np.eye(self.width)
        x = super().logits(tokens, keep)  # the final norm
        rounds = self.rounds and self.head_name in self.scales
        return (round_rows(x) if rounds else x) @ self.w[self.head_name].T
