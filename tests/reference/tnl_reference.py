"""TransNormerLLM in float64, written from the formulas and for truth, not for speed.

Attention is the quadratic form over the whole sequence: every (query, key) product times its
decay, masked to the past. There is no tile, no block and no recurrence, so nothing here can share
a mistake with the engine. Weights come from the folder's safetensors files through a reader of our
own; bf16 and f16 values are widened exactly, so the model computed is the one that was stored.

Letters: N tokens, C width, H heads, D head size, h = H * D, F GLU width, V vocabulary.
"""

import json
import math
import os
import struct

import numpy as np

# ----------------------------------------------------------------------------------------------
# Files


def bf16_to_f32(raw):
    """A bf16 is the upper half of a float32."""
    return (raw.astype(np.uint32) << 16).view(np.float32)


def read_safetensors(path):
    """name -> float64 array, of one file."""
    with open(path, "rb") as f:
        blob = f.read()
    (n,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + n].decode("utf-8"))
    data = memoryview(blob)[8 + n :]
    out = {}
    for name, row in header.items():
        if name == "__metadata__":
            continue
        begin, end = row["data_offsets"]
        raw = data[begin:end]
        if row["dtype"] == "BF16":
            a = bf16_to_f32(np.frombuffer(raw, dtype="<u2"))
        else:
            a = np.frombuffer(raw, dtype={"F32": "<f4", "F16": "<f2"}[row["dtype"]])
        out[name] = a.astype(np.float64).reshape(row["shape"])
    return out


def read_weights(folder):
    """All tensors of a folder: one model.safetensors, or its shards through the index."""
    index = os.path.join(folder, "model.safetensors.index.json")
    if not os.path.exists(index):
        return read_safetensors(os.path.join(folder, "model.safetensors"))
    with open(index, encoding="utf-8") as f:
        names = sorted(set(json.load(f)["weight_map"].values()))
    out = {}
    for name in names:
        out.update(read_safetensors(os.path.join(folder, name)))
    return out


# ----------------------------------------------------------------------------------------------
# Decays


def base_slopes(heads):
    """The ALiBi series in double. For a head count that is no power of two: the series of the
    power below, then every other entry of the series of the power above."""
    def series(n):
        ratio = 2.0 ** (-(2.0 ** (3.0 - math.log2(n))))
        return [ratio ** (i + 1) for i in range(n)]

    below = 1 << (heads.bit_length() - 1)
    if below == heads:
        return series(heads)
    return series(below) + series(2 * below)[0::2][: heads - below]


def layer_factor(layer, layers):
    """1 - l/(L-1) + 1e-5; a single layer counts as the first."""
    return 1.0 - (layer / (layers - 1) if layers > 1 else 0.0) + 1e-5


def layer_slopes(heads, layer, layers):
    """As published: both factors rounded to f32, their product formed in f32; used in double."""
    slopes = np.array(base_slopes(heads), dtype=np.float32)
    return (slopes * np.float32(layer_factor(layer, layers))).astype(np.float64)


# ----------------------------------------------------------------------------------------------
# Pieces


def _elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0.0)))


def _sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0 / (1.0 + e), e / (1.0 + e))


_erf = np.frompyfunc(math.erf, 1, 1)

ACTIVATIONS = {
    "none": lambda x: x,
    "gelu": lambda x: 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0)).astype(np.float64)),
    "relu": lambda x: np.maximum(x, 0.0),
    "elu": _elu,
    "sigmoid": _sigmoid,
    # x is [N, H, D]: the maximum is taken over the columns of one head
    "exp": lambda x: np.exp(x - x.max(axis=-1, keepdims=True)),
    "leak": lambda x: np.where(x > 0, x, 0.01 * x),
    "1+elu": lambda x: 1.0 + _elu(x),
    "2+elu": lambda x: 2.0 + _elu(x),
    "silu": lambda x: x * _sigmoid(x),
    "swish": lambda x: x * _sigmoid(x),
    "sine": np.sin,
}


def srms(x, eps=1e-6):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


def layer_norm(x, w, b, eps=1e-5):
    mean = np.mean(x, axis=-1, keepdims=True)
    var = np.mean((x - mean) ** 2, axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * w + b


def lrpe(x, theta):
    """x [N, H, D], theta [H, D]: [x cos | x sin], the phase being theta times the position."""
    phase = np.arange(x.shape[0], dtype=np.float64)[:, None, None] * theta[None]
    return np.concatenate([x * np.cos(phase), x * np.sin(phase)], axis=-1)


def attention(q, k, v, slopes):
    """q, k [N, H, K], v [N, H, D]: o_t = sum over s <= t of exp(-slope (t-s)) (q_t . k_s) v_s."""
    n, heads, _ = q.shape
    t = np.arange(n, dtype=np.float64)
    distance = t[:, None] - t[None, :]
    out = np.empty((n, heads, v.shape[2]))
    for h in range(heads):
        decay = np.where(distance >= 0, np.exp(-slopes[h] * np.maximum(distance, 0.0)), 0.0)
        out[:, h] = ((q[:, h] @ k[:, h].T) * decay) @ v[:, h]
    return out


# ----------------------------------------------------------------------------------------------
# The model


class Model:
    """A folder's config and weights. `logits(tokens)` gives one row per token."""

    def __init__(self, folder):
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            c = json.load(f)
        self.config = c
        self.w = read_weights(folder)
        self.layers = c["decoder_layers"]
        self.heads = c["decoder_attention_heads"]
        self.width = c["decoder_embed_dim"]
        self.hidden = c["hidden_dim"]
        self.lrpe_list = c.get("linear_use_lrpe_list", [])
        self.act = ACTIVATIONS[c.get("linear_act_fun", "silu")]
        self.simple = c.get("norm_type", "simplermsnorm") == "simplermsnorm"
        self.scale = 1.0 if c.get("no_scale_embedding", False) else math.sqrt(self.width)
        tied = c.get("tie_word_embeddings", True) or "lm_head.weight" not in self.w
        self.head = self.w["model.embed_tokens.weight" if tied else "lm_head.weight"]
        # what the weights say, not the config: v3 has no u in its projection
        self.v3 = "model.layers.0.token_mixer.qkv_proj.weight" in self.w

    def linear(self, x, name):
        y = x @ self.w[name + ".weight"].T
        return y + self.w[name + ".bias"] if self.config.get("bias", False) else y

    def norm(self, x, name):
        if self.simple:
            return srms(x)
        return layer_norm(x, self.w[name + ".weight"], self.w[name + ".bias"])

    def qkv(self, a, i):
        """Heads of q, k, v as attention sees them (activated, LRPE applied), and u or None."""
        name = "model.layers.%d.token_mixer." % i
        parts = self.linear(a, name + ("qkv_proj" if self.v3 else "qkvu_proj"))
        parts = np.split(parts, 3 if self.v3 else 4, axis=-1)
        q, k, v = (p.reshape(len(a), self.heads, -1) for p in parts[:3])
        q, k = self.act(q), self.act(k)
        if self.v3:
            v = self.act(v)
        if i < len(self.lrpe_list) and self.lrpe_list[i]:
            theta = self.w[name + "lrpe.theta"].reshape(self.heads, -1)
            q, k = lrpe(q, theta), lrpe(k, theta)
        return q, k, v, None if self.v3 else parts[3]

    def mixer(self, a, i, keep=None):
        name = "model.layers.%d.token_mixer." % i
        q, k, v, u = self.qkv(a, i)
        if keep is not None:
            keep.append((k, v))
        o = attention(q, k, v, layer_slopes(self.heads, i, self.layers))
        o = self.norm(o.reshape(len(a), -1), name + "norm")
        if self.v3:
            gate = self.linear(self.linear(a, name + "output_gate.0"), name + "output_gate.1")
            u = _sigmoid(gate)
        return self.linear(u * o, name + "out_proj")

    def glu(self, b, i):
        name = "model.layers.%d.channel_mixer." % i
        return self.linear(self.linear(b, name + "l1") * self.linear(b, name + "l2"), name + "l3")

    def logits(self, tokens, keep=None):
        """[N, V] in float64. `keep`, a list, receives the (k, v) of every layer."""
        x = self.w["model.embed_tokens.weight"][np.asarray(tokens)] * self.scale
        for i in range(self.layers):
            name = "model.layers.%d." % i
            x = x + self.mixer(self.norm(x, name + "token_norm"), i, keep)
            x = x + self.glu(self.norm(x, name + "channel_norm"), i)
        return self.norm(x, "model.final_norm") @ self.head.T

    def state(self, kept, block):
        """The canonical state after all tokens, from what logits() kept: per layer (S, K, V), S
        [H, Dk, Dv] as of the last block boundary b, K and V the rows of tokens b..N-1."""
        out = []
        for i, (k, v) in enumerate(kept):
            b = len(k) // block * block
            slopes = layer_slopes(self.heads, i, self.layers)
            decay = np.exp(-slopes[None, :] * (b - 1 - np.arange(b, dtype=np.float64))[:, None])
            s = np.einsum("nh,nhk,nhv->hkv", decay, k[:b], v[:b])
            out.append((s, k[b:], v[b:]))
        return out
