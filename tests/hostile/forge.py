"""Builds small model folders byte by byte, sound ones and broken ones. Standard library only.

Every writer takes its parts separately (header, offsets, pickle opcodes, zip members, proto
fields), so that a test can bend exactly one of them. Nothing here knows how the C code reads."""

import io
import json
import os
import random
import struct
import zipfile

# ----------------------------------------------------------------------------------------------
# Configs and tensors


def config(version=1, **changes):
    """A sound tiny config; `changes` with value DROP remove a key."""
    c = {
        "architectures": ["TransnormerForCausalLM"],
        "model_type": "transnormer",
        "vocab_size": 300,
        "decoder_layers": 2,
        "decoder_embed_dim": 8,
        "decoder_attention_heads": 2,
        "hidden_dim": 8,
        "glu_dim": 12,
        "linear_use_lrpe_list": [1, 0],
        "linear_act_fun": "swish",
        "norm_type": "simplermsnorm",
        "bias": False,
        "no_scale_embedding": version == 2,
        "add_bos_token": False,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "torch_dtype": "float32",
        "use_cache": True,
        "init_std": 0.02,
    }
    if version == 3:
        c["gate_dim"] = 3
    c.update(changes)
    return {k: v for k, v in c.items() if v is not DROP}


class Drop:
    pass


DROP = Drop()


def shapes(c):
    """Names and shapes in storage order."""
    d, h, n, v = (c[k] for k in ("decoder_embed_dim", "hidden_dim", "decoder_attention_heads",
                                 "vocab_size"))
    g = d if c["glu_dim"] == -1 else c["glu_dim"]
    out = {"model.embed_tokens.weight": [v, d]}

    def linear(name, rows, cols):
        out[name + ".weight"] = [rows, cols]
        if c.get("bias"):
            out[name + ".bias"] = [rows]

    def norm(name, dim):
        if c["norm_type"] != "simplermsnorm":
            out[name + ".weight"], out[name + ".bias"] = [dim], [dim]

    for i in range(c["decoder_layers"]):
        p = "model.layers.%d." % i
        linear(p + "token_mixer.out_proj", d, h)
        if c["linear_use_lrpe_list"][i]:
            out[p + "token_mixer.lrpe.theta"] = [n, 1, h // n]
        if "gate_dim" in c:
            linear(p + "token_mixer.qkv_proj", 3 * h, d)
            linear(p + "token_mixer.output_gate.0", c["gate_dim"], d)
            linear(p + "token_mixer.output_gate.1", h, c["gate_dim"])
        else:
            linear(p + "token_mixer.qkvu_proj", 4 * h, d)
        norm(p + "token_mixer.norm", h)
        norm(p + "token_norm", d)
        norm(p + "channel_norm", d)
        linear(p + "channel_mixer.l1", g, d)
        linear(p + "channel_mixer.l2", g, d)
        linear(p + "channel_mixer.l3", d, g)
    norm("model.final_norm", d)
    if c.get("tie_word_embeddings", True) is False:
        out["lm_head.weight"] = [v, d]
    return out


def count(shape):
    n = 1
    for d in shape:
        n *= d
    return n


def f32_to(values, dtype):
    """Pack floats: F32, F16, or BF16 by truncation."""
    if dtype == "F32":
        return struct.pack("<%df" % len(values), *values)
    if dtype == "F16":
        return struct.pack("<%de" % len(values), *values)
    raw = struct.pack("<%df" % len(values), *values)
    return b"".join(raw[i + 2 : i + 4] for i in range(0, len(raw), 4))


def tensors(c, dtype="F32", seed=1):
    """Sound random tensors: name -> [dtype, shape, bytes]."""
    rng = random.Random(seed)
    out = {}
    for name, shape in shapes(c).items():
        values = [rng.uniform(-0.5, 0.5) for _ in range(count(shape))]
        out[name] = [dtype, shape, f32_to(values, dtype)]
    return out


# ----------------------------------------------------------------------------------------------
# safetensors


def st_entries(ts):
    """Header rows [(name, {dtype, shape, data_offsets})] of tensors laid out one after another."""
    rows, at = [], 0
    for name, (dtype, shape, raw) in ts.items():
        rows.append((name, {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(raw)]}))
        at += len(raw)
    return rows


def st_header(rows, metadata=None):
    """JSON text of header rows; a list keeps order and may hold a name twice."""
    items = [] if metadata is None else ['"__metadata__":' + json.dumps(metadata)]
    for name, row in rows:
        text = row if isinstance(row, str) else json.dumps(row, separators=(",", ":"))
        items.append(json.dumps(name, ensure_ascii=False) + ":" + text)
    return ("{" + ",".join(items) + "}").encode("utf-8", "surrogateescape")


def pad8(header):
    return header + b" " * (-len(header) % 8)


def st_file(header, data, length=None):
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def st_bytes(ts):
    return st_file(pad8(st_header(st_entries(ts))), b"".join(t[2] for t in ts.values()))


# ----------------------------------------------------------------------------------------------
# torch zip archives


class Pickle:
    """Writes protocol 2 opcodes by hand."""

    def __init__(self, protocol=2):
        self.out = bytearray(b"\x80" + bytes([protocol]))
        self.memo = 0

    def raw(self, b):
        self.out += b
        return self

    def put(self):
        op = b"q" + bytes([self.memo]) if self.memo < 256 else b"r" + struct.pack("<I", self.memo)
        self.memo += 1
        return self.raw(op)

    def text(self, s):
        b = s if isinstance(s, bytes) else s.encode()
        return self.raw(b"X" + struct.pack("<I", len(b)) + b).put()

    def int(self, n):
        if 0 <= n < 256:
            return self.raw(b"K" + bytes([n]))
        if 0 <= n < 65536:
            return self.raw(b"M" + struct.pack("<H", n))
        if -(2**31) <= n < 2**31:
            return self.raw(b"J" + struct.pack("<i", n))
        b = n.to_bytes((n.bit_length() + 8) // 8, "little", signed=True)
        return self.raw(b"\x8a" + bytes([len(b)]) + b)

    def tuple(self, numbers):
        if not numbers:
            return self.raw(b")")
        if len(numbers) > 3:
            self.raw(b"(")
        for n in numbers:
            self.int(n)
        return self.raw({1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(numbers), b"t")).put()

    def globl(self, module, name):
        return self.raw(b"c" + module.encode() + b"\n" + name.encode() + b"\n").put()

    def storage(self, kind, key, numel, device="cpu"):
        self.raw(b"(").text("storage").globl("torch", kind).text(key).text(device).int(numel)
        return self.raw(b"t").put().raw(b"Q")

    def tensor(self, kind, key, numel, offset, shape, stride):
        self.globl("torch._utils", "_rebuild_tensor_v2").raw(b"(")
        self.storage(kind, key, numel).int(offset).tuple(shape).tuple(stride)
        self.raw(b"\x89").globl("collections", "OrderedDict").raw(b")R").put()
        return self.raw(b"t").put().raw(b"R").put()

    def open_dict(self):
        return self.globl("collections", "OrderedDict").raw(b")R").put().raw(b"(")

    def close_dict(self):
        return bytes(self.raw(b"u.").out)


STORAGE = {"F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage"}
WIDTH = {"F32": 4, "F16": 2, "BF16": 2}


def strides(shape):
    out, n = [], 1
    for d in reversed(shape):
        out.insert(0, n)
        n *= d
    return out


def torch_rows(ts, tie=()):
    """name -> keyword arguments of Pickle.tensor, one storage each; `tie` maps a name to another
    name whose storage it shares."""
    rows = {}
    for i, (name, (dtype, shape, raw)) in enumerate(ts.items()):
        rows[name] = dict(kind=STORAGE[dtype], key=str(i), numel=len(raw) // WIDTH[dtype],
                          offset=0, shape=shape, stride=strides(shape))
    for name, other in dict(tie).items():
        rows[name] = dict(rows[other])
    return rows


def torch_pickle(rows):
    p = Pickle().open_dict()
    for name, row in rows.items():
        p.text(name).tensor(**row)
    return p.close_dict()


def zip_bytes(members, compression=zipfile.ZIP_STORED, align=64):
    """members: [(name, bytes)]. Data is aligned through the extra field, as torch does."""
    f = io.BytesIO()
    with zipfile.ZipFile(f, "w", compression) as z:
        for name, raw in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            start = f.tell() + 30 + len(name.encode()) + 4
            info.extra = struct.pack("<2sH", b"FB", -start % align) + b"Z" * (-start % align)
            z.writestr(info, raw)
    return f.getvalue()


def torch_members(ts, pickle=None, root="archive"):
    out = [(root + "/data.pkl", torch_pickle(torch_rows(ts)) if pickle is None else pickle),
           (root + "/byteorder", b"little")]
    out += [(root + "/data/%d" % i, t[2]) for i, t in enumerate(ts.values())]
    return out + [(root + "/version", b"3\n")]


def torch_bytes(ts, pickle=None):
    return zip_bytes(torch_members(ts, pickle))


# ----------------------------------------------------------------------------------------------
# SentencePiece protos

NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6


def varint(n):
    out = b""
    n &= (1 << 64) - 1
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    """One proto field: int (varint), float (32 bit) or bytes."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text, score=0.0, kind=NORMAL):
    raw = text if isinstance(text, bytes) else text.encode()
    return field(1, field(1, raw) + field(2, float(score)) + field(3, kind))


def base_pieces():
    """<unk> <s> </s>, 256 bytes, then letters: 300 pieces in all, scores falling."""
    out = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    out += [("<0x%02X>" % i, 0.0, BYTE) for i in range(256)]
    out += [(t, -float(i), NORMAL) for i, t in enumerate(
        ["\u2581", "th", "\u2581the", "an", "in", "on", "er"])]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [".", ",", "!", "?", "\n", "A",
                                                                 "T", "I"]
    out += [(t, -10.0 - i, NORMAL) for i, t in enumerate(letters)]
    return out


def trainer(model_type=2, byte_fallback=1, vocab=300, **ids):
    n = {"unk": 0, "bos": 1, "eos": 2, "pad": -1, **ids}
    raw = field(3, model_type) + field(4, vocab) + field(35, byte_fallback)
    raw += field(40, n["unk"]) + field(41, n["bos"]) + field(42, n["eos"]) + field(43, n["pad"])
    return field(2, raw)


def normalizer(charsmap=b"", dummy_prefix=1):
    raw = field(1, b"identity") + (field(2, charsmap) if charsmap else b"")
    return field(3, raw + field(3, dummy_prefix) + field(4, 0) + field(5, 1))


def spm_bytes(pieces=None, trainer_spec=None, normalizer_spec=None):
    pieces = base_pieces() if pieces is None else pieces
    return (b"".join(piece(*p) for p in pieces)
            + (trainer(vocab=len(pieces)) if trainer_spec is None else trainer_spec)
            + (normalizer() if normalizer_spec is None else normalizer_spec))


# ----------------------------------------------------------------------------------------------
# Folders


def write(path, raw):
    with open(path, "wb") as f:
        f.write(raw)


def folder(path, c=None, ts=None, weights="safetensors", tokenizer=True, config_raw=None):
    """A sound folder, unless a part says otherwise. weights: safetensors, torch or None."""
    os.makedirs(path, exist_ok=True)
    c = config() if c is None else c
    ts = tensors(c) if ts is None else ts
    raw = json.dumps(c).encode() if config_raw is None else config_raw
    write(os.path.join(path, "config.json"), raw)
    if weights == "safetensors":
        write(os.path.join(path, "model.safetensors"), st_bytes(ts))
    elif weights == "torch":
        write(os.path.join(path, "pytorch_model.bin"), torch_bytes(ts))
    if tokenizer:
        write(os.path.join(path, "tokenizer.model"), spm_bytes())
    return path


def shard_index(files, total_size=None, **changes):
    """Index text of {file: tensors}."""
    weight_map = {name: file for file, ts in files.items() for name in ts}
    size = sum(len(t[2]) for ts in files.values() for t in ts.values())
    c = {"metadata": {"total_size": size if total_size is None else total_size},
         "weight_map": weight_map}
    c.update(changes)
    return json.dumps(c).encode()


def split(ts, n):
    """n parts of a tensor dict."""
    names = list(ts)
    return [{k: ts[k] for k in names[i::n]} for i in range(n)]
