"""Sharded folders: sound ones in both formats, and every way an index can lie."""

import json
import os

import pytest

import forge

KINDS = {
    "safetensors": ("model.safetensors.index.json", "model-%05d-of-%05d.safetensors",
                    forge.st_bytes),
    "torch": ("pytorch_model.bin.index.json", "pytorch_model-%05d-of-%05d.bin",
              forge.torch_bytes),
}


def sharded(path, kind, ts, n=3, c=None):
    """A folder of n shards; returns (index file name, {shard: tensors})."""
    index, pattern, pack = KINDS[kind]
    files = {pattern % (i + 1, n): part for i, part in enumerate(forge.split(ts, n))}
    forge.folder(path, c, ts, weights=None)
    for file, part in files.items():
        forge.write(path / file, pack(part))
    forge.write(path / index, forge.shard_index(files))
    return index, files


def edit(path, index, change):
    """Rewrite the index through change(dict)."""
    with open(path / index, "rb") as f:
        c = json.load(f)
    change(c)
    forge.write(path / index, json.dumps(c).encode())


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def test_ok_shards(tnl, sound, tmp_path, kind):
    sharded(tmp_path, kind, sound[1])
    tnl.accepts(tmp_path)


def test_ok_one_shard(tnl, sound, tmp_path, kind):
    sharded(tmp_path, kind, sound[1], n=1)
    tnl.accepts(tmp_path)


def test_ok_no_metadata(tnl, sound, tmp_path, kind):
    index, _ = sharded(tmp_path, kind, sound[1])
    edit(tmp_path, index, lambda c: c.pop("metadata"))
    tnl.accepts(tmp_path)


def test_ok_wrong_total_size(tnl, sound, tmp_path, kind):
    """Old torch indexes count shared storages twice: not a reason to refuse."""
    index, _ = sharded(tmp_path, kind, sound[1])
    edit(tmp_path, index, lambda c: c["metadata"].update(total_size=1))
    tnl.accepts(tmp_path)


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "directory", "fifo"])
def test_shard(tnl, sound, tmp_path, kind, how):
    _, files = sharded(tmp_path, kind, sound[1])
    path = tmp_path / list(files)[1]
    raw = path.read_bytes()
    path.unlink()
    if how == "empty":
        forge.write(path, b"")
    elif how == "cut":
        forge.write(path, raw[:-40])
    elif how == "directory":
        os.mkdir(path)
    elif how == "fifo":
        os.mkfifo(path)
    tnl.refuses(tmp_path, path.name)


PLACES = ["../%s", "./%s", "/%s", "sub/%s", "..", ".", "", "sub/../%s", "a\\..\\%s", "/dev/zero",
          "/etc/passwd"]


@pytest.mark.parametrize("place", PLACES)
def test_shard_path(tnl, sound, tmp_path, kind, place):
    """A shard is a file name beside the index, nothing else. The target exists, so that only the
    rule can refuse it."""
    folder = tmp_path / "model"
    index, files = sharded(folder, kind, sound[1])
    name = list(files)[0]
    raw = (folder / name).read_bytes()
    os.mkdir(folder / "sub")
    forge.write(tmp_path / name, raw)
    forge.write(folder / "sub" / name, raw)
    bad = place % name if "%s" in place else place
    if place == "/%s":
        bad = str(tmp_path / name)

    def change(c):
        c["weight_map"] = {k: bad if v == name else v for k, v in c["weight_map"].items()}

    edit(folder, index, change)
    tnl.refuses(folder, index)


def test_shard_name_nul(tnl, sound, tmp_path, kind):
    index, files = sharded(tmp_path, kind, sound[1])
    name = list(files)[0]
    text = (tmp_path / index).read_bytes()
    forge.write(tmp_path / index,
                text.replace(b'"%s"' % name.encode(), b'"%s\\u0000x"' % name.encode()))
    tnl.refuses(tmp_path, index)


def test_tensor_in_two_shards(tnl, sound, tmp_path, kind):
    index, pattern, pack = KINDS[kind]
    _, files = sharded(tmp_path, kind, sound[1])
    names = list(files)
    stray = next(iter(files[names[0]]))
    forge.write(tmp_path / names[1], pack({**files[names[1]], stray: files[names[0]][stray]}))
    tnl.refuses(tmp_path, stray)


def test_tensor_not_in_its_shard(tnl, sound, tmp_path, kind):
    index, files = sharded(tmp_path, kind, sound[1])
    names = list(files)
    lost = next(iter(files[names[0]]))
    edit(tmp_path, index, lambda c: c["weight_map"].update({lost: names[1]}))
    tnl.refuses(tmp_path, lost)


def test_tensor_of_no_shard(tnl, sound, tmp_path, kind):
    index, files = sharded(tmp_path, kind, sound[1])
    edit(tmp_path, index, lambda c: c["weight_map"].update({"no.such": list(files)[0]}))
    tnl.refuses(tmp_path, "no.such")


def test_shard_is_the_index(tnl, sound, tmp_path, kind):
    index, files = sharded(tmp_path, kind, sound[1])
    lost = next(iter(files[list(files)[0]]))
    edit(tmp_path, index, lambda c: c["weight_map"].update({lost: index}))
    tnl.refuses(tmp_path, index)


def test_ten_thousand_shards(tnl, sound, tmp_path, kind):
    index, files = sharded(tmp_path, kind, sound[1])
    _, pattern, _ = KINDS[kind]
    many = {"t%d" % i: pattern % (i + 1, 10000) for i in range(10000)}
    edit(tmp_path, index, lambda c: c.update(weight_map=many))
    tnl.refuses(tmp_path)


TEXTS = {
    "empty": b"",
    "not_json": b"hello",
    "not_utf8": b'{"weight_map":{"a":"\xff"}}',
    "array": b"[]",
    "null": b"null",
    "no_map": b"{}",
    "empty_map": b'{"weight_map":{}}',
    "map_is_list": b'{"weight_map":[]}',
    "map_is_string": b'{"weight_map":"model.safetensors"}',
    "shard_is_number": b'{"weight_map":{"a":1}}',
    "shard_is_null": b'{"weight_map":{"a":null}}',
    "shard_is_list": b'{"weight_map":{"a":["x"]}}',
    "duplicate_tensor": b'{"weight_map":{"a":"x","a":"y"}}',
    "duplicate_map": b'{"weight_map":{"a":"x"},"weight_map":{}}',
    "depth": b'{"weight_map":' + b"[" * 100000 + b"]" * 100000 + b"}",
    "junk_after": b'{"weight_map":{"a":"x"}}x',
    "key_case": b'{"Weight_Map":{"a":"x"}}',
}


@pytest.mark.parametrize("case", TEXTS)
def test_index_text(tnl, sound, tmp_path, kind, case):
    index, _ = sharded(tmp_path, kind, sound[1])
    forge.write(tmp_path / index, TEXTS[case])
    tnl.refuses(tmp_path, "model.embed_tokens.weight" if case == "empty_map" else index)


def test_index_of_64_mib(tnl, sound, tmp_path, kind):
    index, _ = sharded(tmp_path, kind, sound[1])
    text = (tmp_path / index).read_bytes()
    forge.write(tmp_path / index, text + b" " * (64 << 20))
    code, _, err = tnl.run("inspect", tmp_path)
    assert code == 0 or index in err
