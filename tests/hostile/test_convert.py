"""scripts/convert.py: the same bytes under the same names, the tied head once, and no pickle that
reaches for anything."""

import json
import os
import struct
import subprocess
import sys

import pytest

import forge

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "convert.py")
EMBED = "model.embed_tokens.weight"


def run(source, target, *args):
    p = subprocess.run([sys.executable, SCRIPT, str(source), str(target), *args],
                       capture_output=True, text=True, timeout=120)
    assert "Traceback" not in p.stderr, p.stderr
    return p


def torch_folder(path, config, archive):
    forge.folder(path, config)
    for name in os.listdir(path):
        if name.endswith(".safetensors"):
            os.remove(os.path.join(path, name))
    forge.write(path / "pytorch_model.bin", archive)
    return path


def read_back(folder):
    """name -> [dtype, shape, bytes] of every safetensors file of a folder."""
    out = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            raw = (folder / name).read_bytes()
            n = struct.unpack("<Q", raw[:8])[0]
            for key, row in json.loads(raw[8 : 8 + n]).items():
                if key != "__metadata__":
                    a, b = row["data_offsets"]
                    out[key] = [row["dtype"], row["shape"], raw[8 + n + a : 8 + n + b]]
    return out


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_same_bytes(tnl, tmp_path, version, dtype):
    c = forge.config(version)
    ts = forge.tensors(c, dtype)
    source = torch_folder(tmp_path / "in", c, forge.torch_bytes(ts))
    assert run(source, tmp_path / "out").returncode == 0
    assert read_back(tmp_path / "out") == ts
    assert (tmp_path / "out/config.json").read_bytes() == (source / "config.json").read_bytes()
    tnl.accepts(tmp_path / "out")


def test_shards(tnl, tmp_path):
    c = forge.config()
    ts = forge.tensors(c)
    source = torch_folder(tmp_path / "in", c, forge.torch_bytes(ts))
    assert run(source, tmp_path / "out", "--shard-gb", "0.000004").returncode == 0
    assert (tmp_path / "out/model.safetensors.index.json").exists()
    assert read_back(tmp_path / "out") == ts
    tnl.accepts(tmp_path / "out")


def test_tied_head_is_stored_once(tnl, tmp_path):
    c = forge.config()
    ts = forge.tensors(c)
    rows = forge.torch_rows(ts, tie={"lm_head.weight": EMBED})
    source = torch_folder(tmp_path / "in", c, forge.torch_bytes(ts, forge.torch_pickle(rows)))
    assert run(source, tmp_path / "out").returncode == 0
    assert read_back(tmp_path / "out") == ts
    tnl.accepts(tmp_path / "out")


def test_refuses_to_overwrite(tmp_path):
    c = forge.config()
    source = torch_folder(tmp_path / "in", c, forge.torch_bytes(forge.tensors(c)))
    assert run(source, tmp_path / "out").returncode == 0
    p = run(source, tmp_path / "out")
    assert p.returncode == 1 and "already has" in p.stderr


PICKLES = {
    "call": b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.",
    "eval": b"\x80\x02cbuiltins\neval\nX\x01\0\0\x001\x85R.",
    "cut": b"\x80\x02}(",
    "empty": b"",
    "list": b"\x80\x02].",
    "persistent": b"\x80\x02K\x01Q.",
    "short_tensor": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
}


@pytest.mark.parametrize("case", PICKLES)
def test_pickles_refused(tmp_path, case):
    c = forge.config()
    source = torch_folder(tmp_path / "in", c, forge.torch_bytes(forge.tensors(c), PICKLES[case]))
    p = run(source, tmp_path / "out")
    assert p.returncode == 1 and "pytorch_model.bin" in p.stderr, p.stderr
    assert len(p.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
