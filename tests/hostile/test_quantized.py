"""Quantised folders: quantization_config field by field, packed tensors of the wrong name, type,
shape or size, scales that are not finite, and NaN among the codes of f8. The sound folder is written by tnl quantize."""

import json
import struct

import pytest

import forge

FILE = "config.json"
WEIGHTS = "model.safetensors"
L1 = "model.layers.1.channel_mixer.l1"
KINDS = ("q8", "q4", "f8")
SHAPE = dict(decoder_embed_dim=64, hidden_dim=64, glu_dim=200)


def read_st(path):
    """Tensors of a file in the order of their data: name -> [dtype, shape, bytes]."""
    raw = path.read_bytes()
    (n,) = struct.unpack("<Q", raw[:8])
    rows = json.loads(raw[8:8 + n])
    rows.pop("__metadata__", None)
    out = {}
    for name, r in sorted(rows.items(), key=lambda x: x[1]["data_offsets"][0]):
        a, b = r["data_offsets"]
        out[name] = [r["dtype"], r["shape"], raw[8 + n + a:8 + n + b]]
    return out


@pytest.fixture(scope="module")
def quantised(tnl, tmp_path_factory):
    """type -> (config, tensors)."""
    path = tmp_path_factory.mktemp("quantised")
    c = forge.config(1, **SHAPE)
    forge.folder(path / "src", c, forge.tensors(c), tokenizer=False)
    out = {}
    for kind in KINDS:
        code, _, err = tnl.run("quantize", path / "src", path / kind, "--type", kind)
        assert code == 0, err
        out[kind] = json.loads((path / kind / FILE).read_text()), read_st(path / kind / WEIGHTS)
    out["plain"] = c, forge.tensors(c)
    return out


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def place(path, quantised, kind, quant=None, **tensors):
    """A copy with changed quantization_config keys and tensors (DROP removes)."""
    c, ts = json.loads(json.dumps(quantised[kind][0])), dict(quantised[kind][1])
    for key, value in (quant or {}).items():
        c["quantization_config"][key] = value
        if value is forge.DROP:
            del c["quantization_config"][key]
    for name, t in tensors.items():
        ts[name] = t
        if t is forge.DROP:
            del ts[name]
    return forge.folder(path, c, ts, tokenizer=False)


def test_sound(tnl, quantised, tmp_path, kind):
    place(tmp_path, quantised, kind)
    tnl.accepts(tmp_path, kind)
    # 8 bytes and a header that is no multiple of 64: copied to where kernels can read it
    raw = (tmp_path / WEIGHTS).read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    for pad in (1, 8, 33):
        forge.write(tmp_path / WEIGHTS,
                    forge.st_file(raw[8:8 + n] + b" " * (64 - (8 + n) % 64 + pad), raw[8 + n:]))
        code, out, err = tnl.run("generate", tmp_path, "--tokens", "1,2", "-n", "2")
        assert code == 0, err


# ---- quantization_config ----

BAD = {
    "quant_method": ["gptq", "awq", "bitsandbytes", "fp8", "TNL", "", None, 1, ["tnl"], forge.DROP],
    "version": [0, 2, -1, 1.5, "1", None, 1e300, forge.DROP],
    "type": ["q5", "Q8", "", 8, None, forge.DROP],
    "bits": [2, 6, 16, 0, -8, "8", None, forge.DROP],
    "tile_outputs": [32, 65, 0, 2**40, None, forge.DROP],
    "group_size": [64, 129, -1, 0, True, forge.DROP],
    "run_size": [8, 32, -16, 1e30, "16"],
    "scale_dtype": ["float16", 16, None, forge.DROP],
    "code_dtype": ["e4m3", "float8_e5m2", 8, ["integer"]],
}


@pytest.mark.parametrize("key", BAD)
def test_config_key(tnl, quantised, tmp_path, kind, key):
    for value in BAD[key]:
        if kind == "f8" and key == "group_size" and value in (0, forge.DROP):
            continue  # rows have one scale: there is no such key
        place(tmp_path, quantised, kind, {key: value})
        tnl.refuses(tmp_path, FILE, "quantization_config", key)


def test_config_run_size_belongs_to_q4(tnl, quantised, tmp_path, kind):
    place(tmp_path, quantised, kind, {"run_size": forge.DROP if kind == "q4" else 16})
    tnl.refuses(tmp_path, FILE, "run_size")


def test_config_dtypes_belong_to_types(tnl, quantised, tmp_path, kind):
    other = {"scale_dtype": "bfloat16", "code_dtype": "integer"}
    if kind != "f8":
        other = {"scale_dtype": "float32", "code_dtype": "float8_e4m3fn"}
    for key, value in other.items():
        place(tmp_path, quantised, kind, {key: value})
        tnl.refuses(tmp_path, FILE, key, "expected", kind)
    if kind == "f8":
        place(tmp_path, quantised, kind, {"group_size": 128})
        tnl.refuses(tmp_path, FILE, "group_size")
        place(tmp_path, quantised, kind, {"code_dtype": forge.DROP})
        tnl.refuses(tmp_path, FILE, "code_dtype")


@pytest.mark.parametrize("value", [1, "tnl", [], [{"quant_method": "tnl"}], True])
def test_config_is_no_object(tnl, quantised, tmp_path, value):
    c, ts = quantised["q8"]
    forge.folder(tmp_path, {**c, "quantization_config": value}, ts, tokenizer=False)
    tnl.refuses(tmp_path, FILE, "quantization_config")


def test_config_extra_keys(tnl, quantised, tmp_path, kind):
    place(tmp_path, quantised, kind, {"layout": {"x": [1]}, "made_by": "me", "k" * 300: None})
    tnl.accepts(tmp_path)


def test_config_of_plain_tensors(tnl, quantised, tmp_path, kind):
    """Exceptions are allowed, so all plain is too; packed tensors without the config are not."""
    forge.folder(tmp_path / "a", quantised[kind][0], quantised["plain"][1], tokenizer=False)
    tnl.accepts(tmp_path / "a")
    forge.folder(tmp_path / "b", quantised["plain"][0], quantised[kind][1], tokenizer=False)
    tnl.refuses(tmp_path / "b", WEIGHTS, "missing", "weight")


def test_config_of_the_other_type(tnl, quantised, tmp_path):
    """q8 among q4 is allowed (a tensor may be worth it), q4 among q8 is not what it says."""
    forge.folder(tmp_path / "a", quantised["q4"][0], quantised["q8"][1], tokenizer=False)
    tnl.accepts(tmp_path / "a")
    for says, has in (("q8", "q4"), ("q8", "f8"), ("q4", "f8"), ("f8", "q8"), ("f8", "q4")):
        forge.folder(tmp_path / says / has, quantised[says][0], quantised[has][1], tokenizer=False)
        tnl.refuses(tmp_path / says / has, WEIGHTS, "missing")


@pytest.mark.parametrize("key, value", [("decoder_embed_dim", 128), ("glu_dim", 201 + 64),
                                        ("glu_dim", 100), ("vocab_size", 400), ("vocab_size", 64)])
def test_config_of_another_shape(tnl, quantised, tmp_path, kind, key, value):
    c, ts = quantised[kind]
    forge.folder(tmp_path, {**c, key: value}, ts, tokenizer=False)
    tnl.refuses(tmp_path, WEIGHTS, "found shape")


# ---- tensors ----


def bent(t, dtype=None, shape=None, raw=None):
    return [dtype or t[0], shape or t[1], t[2] if raw is None else raw]


def test_tensor_missing(tnl, quantised, tmp_path, kind):
    place(tmp_path, quantised, kind, **{L1 + "." + kind: forge.DROP})
    tnl.refuses(tmp_path, L1, "missing")


def test_tensor_shapes(tnl, quantised, tmp_path, kind):
    """Other tilings of the same bytes; one tile more and one less."""
    name = L1 + "." + kind
    t = quantised[kind][1][name]
    tiles, size = t[1]
    for shape, raw in (([tiles * size], t[2]), ([size, tiles], t[2]), ([1, tiles * size], t[2]),
                       ([tiles, size, 1], t[2]), ([tiles + 1, size], t[2] + t[2][:size]),
                       ([tiles - 1, size], t[2][:-size]), ([tiles, size - 64], t[2][:-64 * tiles]),
                       ([0, size], b""), ([], b"x")):
        place(tmp_path, quantised, kind, **{name: bent(t, shape=shape, raw=raw)})
        tnl.refuses(tmp_path, WEIGHTS, name, "shape")


def test_tensor_bytes(tnl, quantised, tmp_path, kind):
    """Fewer or more bytes than the shape says, and sizes that overflow."""
    name = L1 + "." + kind
    t = quantised[kind][1][name]
    for raw in (t[2][:-1], t[2] + b"\0", b""):
        place(tmp_path, quantised, kind, **{name: bent(t, raw=raw)})
        tnl.refuses(tmp_path, WEIGHTS, name)
    for shape in ([2**63, 2], [2**32, 2**32], [2**64 - 1, 1], [2**62, 4]):
        place(tmp_path, quantised, kind, **{name: bent(t, shape=shape)})
        tnl.refuses(tmp_path, WEIGHTS, name)


def test_file_cut(tnl, quantised, tmp_path, kind):
    place(tmp_path, quantised, kind)
    raw = (tmp_path / WEIGHTS).read_bytes()
    for keep in (len(raw) - 1, len(raw) - 64, len(raw) // 2, 100, 8, 7, 0):
        forge.write(tmp_path / WEIGHTS, raw[:keep])
        tnl.refuses(tmp_path, WEIGHTS)


def test_tensor_types(tnl, quantised, tmp_path, kind):
    """U8 is for packed names only, and a packed name for U8 only."""
    name = L1 + "." + kind
    t = quantised[kind][1][name]
    for dtype in ("I8", "U16", "F8_E4M3", "BOOL", "u8"):
        place(tmp_path, quantised, kind, **{name: bent(t, dtype=dtype)})
        tnl.refuses(tmp_path, name, "dtype")
    place(tmp_path, quantised, kind, **{name: forge.DROP, L1 + ".weight": t})
    tnl.refuses(tmp_path, L1 + ".weight", "dtype")
    f32 = quantised["plain"][1][L1 + ".weight"]
    place(tmp_path, quantised, kind, **{name: f32})
    tnl.refuses(tmp_path, L1, "missing")
    for odd in (L1 + "." + kind.upper(), L1 + kind, L1 + "." + kind + ".weight", kind):
        place(tmp_path, quantised, kind, **{name: forge.DROP, odd: t})
        tnl.refuses(tmp_path)


def test_vectors_are_never_packed(tnl, quantised, tmp_path, kind):
    theta = "model.layers.0.token_mixer.lrpe.theta"
    t = quantised[kind][1][L1 + "." + kind]
    place(tmp_path, quantised, kind, **{theta: forge.DROP, theta + "." + kind: t})
    tnl.refuses(tmp_path, theta, "missing")


# ---- values ----


@pytest.mark.parametrize("kind", ["q8", "q4"])
@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF])
def test_scales(tnl, quantised, tmp_path, kind, bits):
    """The first, a middle and the last scale of a tensor, fillings included."""
    name = "model.layers.0.channel_mixer.l3." + kind  # 200 inputs: two groups
    t = quantised[kind][1][name]
    size = t[1][1]
    first = 128 + 128 * 64 if kind == "q8" else 128 + 256 + 128 * 32
    for at in (0, 2 * 17, 126, first, first + 126, (t[1][0] - 1) * size + first + 60):
        raw = bytearray(t[2])
        raw[at:at + 2] = struct.pack("<H", bits)
        place(tmp_path, quantised, kind, **{name: bent(t, raw=bytes(raw))})
        tnl.refuses(tmp_path, WEIGHTS, name, "scale", codes={65})


@pytest.mark.parametrize("kind", ["q8", "q4"])
@pytest.mark.parametrize("fill", [0, 0xFF, 0x80, 0x77])
def test_any_codes_are_safe(tnl, quantised, tmp_path, kind, fill):
    """Codes and factors of any bits compute; the largest finite scales may overflow cleanly."""
    name = L1 + "." + kind
    t = quantised[kind][1][name]
    raw = bytearray([fill]) * len(t[2])
    size = t[1][1]
    for tile in range(t[1][0]):
        for o in range(64):
            raw[tile * size + 2 * o:tile * size + 2 * o + 2] = b"\x7f\x7f" if o % 2 else b"\x00\x3c"
    place(tmp_path, quantised, kind, **{name: bent(t, raw=bytes(raw))})
    tnl.accepts(tmp_path)
    code, out, err = tnl.run("generate", tmp_path, "--tokens", "1,2,3", "-n", "3")
    assert code in (0, 65), err


# Rows of l3 of f8: 200 inputs, filled up to 208, and 16 bytes with the scale.
F8_L3, F8_ROW = "model.layers.0.channel_mixer.l3.f8", 208 + 16


@pytest.mark.parametrize("bits", [0x7F800000, 0xFF800000, 0x7FC00000, 0xFFFFFFFF, 0, 0x80000000,
                                  0xBF800000, 0x7B000001])
def test_f8_scales(tnl, quantised, tmp_path, bits):
    """Infinity, NaN, zero, below zero, and above the largest: first, middle and last row."""
    t = quantised["f8"][1][F8_L3]
    assert t[1] == [1, 64 * F8_ROW]
    for row in (0, 17, 63):
        raw = bytearray(t[2])
        raw[row * F8_ROW + 208:row * F8_ROW + 212] = struct.pack("<I", bits)
        place(tmp_path, quantised, "f8", **{F8_L3: bent(t, raw=bytes(raw))})
        tnl.refuses(tmp_path, WEIGHTS, F8_L3, "scale", codes={65})


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_f8_nan(tnl, quantised, tmp_path, code):
    """Among the weights, and in the filling of a row."""
    t = quantised["f8"][1][F8_L3]
    for at in (0, 199, 200, 31 * F8_ROW + 207, 63 * F8_ROW + 5):
        raw = bytearray(t[2])
        raw[at] = code
        place(tmp_path, quantised, "f8", **{F8_L3: bent(t, raw=bytes(raw))})
        tnl.refuses(tmp_path, WEIGHTS, F8_L3, "NaN", codes={65})


@pytest.mark.parametrize("fill", [0, 0x80, 1, 0x7E, 0xFE])
def test_f8_codes_are_safe(tnl, quantised, tmp_path, fill):
    """Any other codes compute, in the filling too; the largest scale may overflow cleanly."""
    name = L1 + ".f8"
    t = quantised["f8"][1][name]
    row = 64 + 16
    raw = bytearray([fill]) * len(t[2])
    for r in range(len(raw) // row):
        scale = 2.0**119 if r % 2 else 2.0**-149
        raw[r * row + 64:r * row + 68] = struct.pack("<f", scale)
    place(tmp_path, quantised, "f8", **{name: bent(t, raw=bytes(raw))})
    tnl.accepts(tmp_path)
    code, out, err = tnl.run("generate", tmp_path, "--tokens", "1,2,3", "-n", "3")
    assert code in (0, 65), err
