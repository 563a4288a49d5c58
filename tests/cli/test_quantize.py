"""tnl quantize, and --weights q8, q4 and f8: what is written, what is read, and what it costs."""

import filecmp
import json
import lzma
import os
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import tiny_model
from conftest import BIN, ROOT, needs_tokenizer

sys.path.insert(0, os.path.join(ROOT, "tests", "hostile"))
import forge  # noqa: E402

TALES = Path(ROOT) / "configs" / "tales"
TYPES = ["q8", "q4", "f8"]
# Odd sizes: rows that fill no tile, inputs that fill no group, a gate too narrow to be packed.
ODD = {"decoder_embed_dim": 150, "hidden_dim": 140, "decoder_attention_heads": 5, "glu_dim": 205,
       "decoder_layers": 2, "linear_use_lrpe_list": [1, 0]}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    path = tmp_path_factory.mktemp("odd") / "v3"
    tiny_model.write_model(str(path), variant="v3", bias=True, norm="layernorm", dtype="BF16",
                           tied=False, config=ODD)
    return path


@pytest.fixture(scope="module", params=TYPES)
def packed(request, tnl_module, odd, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / request.param
    tnl_module("quantize", odd, path, "--type", request.param)
    return request.param, path


@pytest.fixture(scope="module")
def tnl_module():
    from conftest import run
    return run


# A process begins with the peak of the one it was forked from: start from a small one.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def header(path):
    raw = path.read_bytes()
    (n,) = struct.unpack("<Q", raw[:8])
    rows = json.loads(raw[8:8 + n])
    rows.pop("__metadata__")
    return 8 + n, rows


def ids(tnl, folder, *args, prompt="1,2,3,4,5"):
    r = tnl("generate", folder, "--json", "--tokens", prompt, "-n", 24, "--temperature", 0,
            "--ignore-eos", *args).json
    return [(t["id"], t.get("logprob")) for t in r["tokens"]]


def leftovers(folder):
    return [p.name for p in folder.iterdir() if "partial" in p.name]


# ---- what is written ----


def test_folder(tnl, odd, packed):
    kind, path = packed
    begin, rows = header(path / "model.safetensors")
    config = json.loads((path / "config.json").read_text())
    quant = config.pop("quantization_config")
    assert config == json.loads((odd / "config.json").read_text())
    assert quant["quant_method"] == "tnl" and quant["type"] == kind
    assert quant["bits"] == int(kind[1])
    assert quant.get("group_size") == (None if kind == "f8" else 128)
    assert begin % 64 == 0
    packed_rows = [n for n, r in rows.items() if r["dtype"] == "U8"]
    assert "model.embed_tokens." + kind in packed_rows and "lm_head." + kind in packed_rows
    assert all(rows[n]["data_offsets"][0] % 64 == 0 for n in packed_rows)
    plain = {n: r["dtype"] for n, r in rows.items() if r["dtype"] != "U8"}
    assert set(plain.values()) == {"BF16"}
    assert any("output_gate.0.weight" in n for n in plain)  # four outputs: not worth a tile
    assert not any(n.endswith((".q8", ".q4", ".f8")) for n in plain)
    assert not leftovers(path.parent)


def test_inspect(tnl, odd, packed):
    kind, path = packed
    got = tnl("inspect", path, "--tensors", "--json").json
    assert got["weights"] == kind and got["quantized_folder"] is True
    assert got["parameters"] == tnl("inspect", odd, "--json").json["parameters"]
    by_type = {t["dtype"] for t in got["tensor_list"]}
    assert by_type == {kind, "BF16"}
    assert sum(t["bytes"] for t in got["tensor_list"]) < got["file_bytes"]
    table = tnl("inspect", path, "--tensors").out
    assert "model.embed_tokens." + kind in table


def test_same_bytes_again(tnl, odd, packed, tmp_path):
    kind, path = packed
    tnl("quantize", odd, tmp_path / "again", "--type", kind, env={"TNL_THREADS": "1"})
    for name in ("config.json", "model.safetensors"):
        assert filecmp.cmp(path / name, tmp_path / "again" / name, shallow=False)


def test_companions(tnl, model, tmp_path):
    (model / "generation_config.json").write_text('{"eos_token_id": 2}')
    tnl("quantize", model, tmp_path / "out")
    for name in ("tokenizer.model", "generation_config.json"):
        assert filecmp.cmp(model / name, tmp_path / "out" / name, shallow=False)
    (model / "generation_config.json").unlink()


def test_shards(tnl, tmp_path):
    c = forge.config(2, vocab_size=3000, decoder_embed_dim=256, hidden_dim=256, glu_dim=512,
                     decoder_layers=2)
    ts = {n: ["BF16", s, b"\x00\x3d" * forge.count(s)] for n, s in forge.shapes(c).items()}
    forge.folder(tmp_path / "src", c, ts, tokenizer=False)
    tnl("quantize", tmp_path / "src", tmp_path / "one")
    tnl("quantize", tmp_path / "src", tmp_path / "many", "--shard-mb", 1)
    files = sorted(p.name for p in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) >= 3 and files[0] == "model-00001-of-%05d.safetensors" % len(files)
    assert ids(tnl, tmp_path / "one") == ids(tnl, tmp_path / "many")
    tnl("quantize", tmp_path / "src", tmp_path / "many", "--force")
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == ["config.json",
                                                                     "model.safetensors"]
    assert ids(tnl, tmp_path / "one") == ids(tnl, tmp_path / "many")


def test_torch_source(tnl, tmp_path):
    """The same tensors from either format give the same file, a tied head is left out."""
    c = forge.config(1, decoder_embed_dim=64, hidden_dim=64, glu_dim=96)
    ts = forge.tensors(c, "F16")
    forge.folder(tmp_path / "st", c, ts, tokenizer=False)
    forge.folder(tmp_path / "pt", c, weights=None, tokenizer=False)
    rows = forge.torch_rows(ts, tie={"lm_head.weight": "model.embed_tokens.weight"})
    forge.write(tmp_path / "pt" / "pytorch_model.bin",
                forge.torch_bytes(ts, forge.torch_pickle(rows)))
    for name in ("st", "pt"):
        tnl("quantize", tmp_path / name, tmp_path / (name + "-q4"), "--type", "q4")
    assert filecmp.cmp(tmp_path / "st-q4" / "model.safetensors",
                       tmp_path / "pt-q4" / "model.safetensors", shallow=False)


def test_random(tnl, tmp_path):
    shape = tmp_path / "shape.json"
    shape.write_text(json.dumps(tiny_model.make_config("v1", width=128, heads=2, head_dim=64,
                                                       glu=256)))
    for kind in TYPES:
        tnl("quantize", "--random", shape, tmp_path / kind, "--type", kind)
        assert tnl("inspect", tmp_path / kind, "--json").json["weights"] == kind
        got = tnl("generate", tmp_path / kind, "--json", "--tokens", "1,2,3", "-n", 24, "--temperature",
                  1, "--seed", 1, "--ignore-eos").json
        assert len({t["id"] for t in got["tokens"]}) > 1  # greedily one token would go on and on


def test_memory(tnl, tmp_path):
    """The source passes through in parts: neither it nor the result is ever held whole."""
    c = forge.config(2, vocab_size=24000, decoder_embed_dim=1024, hidden_dim=1024, glu_dim=2048,
                     decoder_layers=4, linear_use_lrpe_list=[0] * 4)
    ts = {n: ["BF16", s, b"\x00\x3d" * forge.count(s)] for n, s in forge.shapes(c).items()}
    forge.folder(tmp_path / "src", c, ts, tokenizer=False)
    size = (tmp_path / "src" / "model.safetensors").stat().st_size
    peak = 1024 * int(subprocess.check_output(
        [sys.executable, "-c", PEAK, BIN, "quantize", tmp_path / "src", tmp_path / "dst"]))
    print("source %d MB, peak %d MB" % (size >> 20, peak >> 20))
    assert peak < size / 2


# ---- what is read ----


def test_load_equals_folder(tnl, odd, packed):
    """Quantised while loading, or before: the same tokens and the same probabilities."""
    kind, path = packed
    want = ids(tnl, odd, "--weights", kind)
    assert want != ids(tnl, odd)
    assert ids(tnl, path) == want
    assert ids(tnl, path, "--weights", kind) == want
    assert ids(tnl, path, "--load", "read", "--threads", 3) == want


@pytest.mark.parametrize("weights", ["f32", "bf16", "q8", "q4", "f8"])
def test_other_weights_are_refused(tnl, packed, weights):
    kind, path = packed
    if weights != kind:
        err = tnl("inspect", path, "--weights", weights, code=78).err
        assert kind in err and "auto" in err and len(err.splitlines()) == 1


@pytest.fixture(scope="module")
def figures(tnl_module, tmp_path_factory):
    """Evaluations of the bundled model on an excerpt of its held-out text."""
    folder = tmp_path_factory.mktemp("tales")
    text = folder / "excerpt.txt"
    raw = lzma.open(Path(ROOT) / "tests" / "data" / "tales-valid.txt.xz").read()
    text.write_bytes(raw[:40000])
    got = {w: tnl_module("eval", TALES, text, "--json", "--weights", w).json
           for w in ["f32"] + TYPES}
    for kind in TYPES:
        tnl_module("quantize", TALES, folder / kind, "--type", kind)
        got["folder " + kind] = tnl_module("eval", folder / kind, text, "--json").json
    return got


@needs_tokenizer
@pytest.mark.parametrize("kind, budget", [("q8", 0.001), ("q4", 0.03), ("f8", 0.005)])
def test_quality_budget(figures, kind, budget):
    f32, q = figures["f32"]["perplexity"], figures[kind]["perplexity"]
    print("f32 %.4f, %s %.4f: %+.3f %%" % (f32, kind, q, 100 * (q / f32 - 1)))
    assert q <= f32 * (1 + budget)
    assert figures[kind]["weights"] == figures["folder " + kind]["weights"] == kind
    assert figures["folder " + kind]["nll"] == figures[kind]["nll"]


# ---- what is refused ----


def test_source_is_quantised(tnl, packed, tmp_path):
    err = tnl("quantize", packed[1], tmp_path / "out", code=78).err
    assert "quantised as " + packed[0] in err and not list(tmp_path.iterdir())


def test_targets(tnl, odd, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "note").write_text("mine")
    assert "--force" in tnl("quantize", odd, full, code=2).err
    (tmp_path / "file").write_text("")
    assert "expected a folder" in tnl("quantize", odd, tmp_path / "file", code=2).err
    assert "same folder" in tnl("quantize", odd, str(odd) + "/", "--force", code=2).err
    assert "cannot create" in tnl("quantize", odd, tmp_path / "no" / "where", code=74).err
    tnl("quantize", odd, tmp_path / "none", "more", code=2)
    tnl("quantize", odd, code=2)
    (tmp_path / "empty").mkdir()
    tnl("quantize", odd, str(tmp_path / "empty") + "/")
    tnl("quantize", odd, full, "--force")
    assert (full / "note").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "full"]
    assert ids(tnl, full) == ids(tnl, tmp_path / "empty")


def test_bad_values(tnl, tmp_path):
    """Infinity, and a finite value beyond what a packed group can hold: named, nothing left."""
    c = forge.config(1, decoder_embed_dim=64, hidden_dim=64, glu_dim=96)
    for value, words in ((float("inf"), "infinity"), (3e38, "overflows q8")):
        ts = forge.tensors(c)
        name = "model.layers.1.channel_mixer.l2.weight"
        raw = bytearray(ts[name][2])
        raw[400:404] = struct.pack("<f", value)
        ts[name][2] = bytes(raw)
        forge.folder(tmp_path / "src", c, ts, tokenizer=False)
        err = tnl("quantize", tmp_path / "src", tmp_path / "dst", code=65).err
        assert name in err and words in err and len(err.splitlines()) == 1
        assert [p.name for p in tmp_path.iterdir()] == ["src"]


def limit_file_size():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))


def test_full_disk(odd, tmp_path):
    p = subprocess.run([BIN, "quantize", odd, tmp_path / "dst"], capture_output=True, text=True,
                       preexec_fn=limit_file_size, timeout=60)
    assert p.returncode == 74 and "cannot write" in p.stderr and p.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
