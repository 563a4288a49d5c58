#!/usr/bin/env python3
"""Turn a folder of PyTorch checkpoints into safetensors.

    scripts/convert.py SOURCE_DIR TARGET_DIR [--shard-gb 5]

Reads pytorch_model.bin or the shards of pytorch_model.bin.index.json (archives of torch.save since
1.6). Needs no packages: the pickle inside is read with a closed list of three globals, so nothing
in it can run. Tensors are copied byte for byte; a head that is the embedding again is stored once
(the loader knows). Configuration and tokenizer files are copied along. Writes model.safetensors, or
shards with an index when they are larger than --shard-gb."""

import argparse
import collections
import json
import os
import pickle
import shutil
import struct
import sys
import zipfile

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DTYPES = {"FloatStorage": ("F32", 4), "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2)}
# What a loader needs besides weights; code (*.py) is never copied.
COMPANIONS = (".json", ".model", ".tiktoken", ".txt", ".md", "LICENSE", "NOTICE")
CHUNK = 16 << 20


class Refused(Exception):
    """The folder is not what we convert; the text is one line."""


Storage = collections.namedtuple("Storage", "dtype size key numel")
# One tensor: where its bytes are in which file.
Tensor = collections.namedtuple("Tensor", "name dtype shape path offset bytes")


# ---- reading archives ----


def rebuild(storage, offset, shape, stride, *_):
    """Stands in for torch._utils._rebuild_tensor_v2: only notes what is asked for."""
    return storage, offset, tuple(shape), tuple(stride)


class Unpickler(pickle.Unpickler):
    """Knows an ordered dict, a rebuilt tensor and three storage types. Nothing else exists."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return rebuild
        if module == "torch" and name in DTYPES:
            return name
        raise Refused("data.pkl: the global %s.%s is not allowed" % (module, name))

    def persistent_load(self, pid):
        kind, storage, key, _location, numel = pid
        if kind != "storage" or storage not in DTYPES:
            raise Refused("data.pkl: a persistent id that is not a storage")
        return Storage(*DTYPES[storage], key, numel)


def row_major(shape, stride):
    step = 1
    for n, s in zip(reversed(shape), reversed(stride)):
        if n != 1 and s != step:
            return False
        step *= n
    return True


def data_offset(f, info):
    """Where a stored member's bytes begin: behind its local header."""
    f.seek(info.header_offset)
    local = f.read(30)
    if len(local) != 30 or local[:4] != b"PK\3\4":
        raise Refused("%s: a local header is missing" % info.filename)
    name, extra = struct.unpack("<HH", local[26:30])
    return info.header_offset + 30 + name + extra


def locate(name, value, path, prefix, members, f):
    """A pickled tensor to a Tensor."""
    storage, offset, shape, stride = value
    info = members.get("%s/data/%s" % (prefix, storage.key))
    if info is None:
        raise Refused("tensor %s: its storage data/%s is missing" % (name, storage.key))
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != storage.numel * storage.size:
        raise Refused("tensor %s: its storage has an unexpected size" % name)
    count = 1
    for n in shape:
        count *= n
    if count and not row_major(shape, stride):
        raise Refused("tensor %s: found strides with gaps or transposed, expected row-major" % name)
    if min((offset,) + shape) < 0 or (offset + count) * storage.size > info.file_size:
        raise Refused("tensor %s: ends beyond its storage" % name)
    return Tensor(name, storage.dtype, list(shape), path,
                  data_offset(f, info) + offset * storage.size, count * storage.size)


def read_archive(path):
    """The tensors of one checkpoint, in its order."""
    if not zipfile.is_zipfile(path):
        raise Refused("not a zip archive: save it again with torch 1.6 or newer")
    with zipfile.ZipFile(path) as z, open(path, "rb") as f:
        pickles = [n for n in z.namelist() if n.endswith("/data.pkl") and n.count("/") == 1]
        if len(pickles) != 1:
            raise Refused("found %d entries data.pkl, expected one" % len(pickles))
        prefix = pickles[0].split("/")[0]
        members = {i.filename: i for i in z.infolist()}
        order = members.get(prefix + "/byteorder")
        if order is not None and z.read(order) != b"little":
            raise Refused("byteorder: expected little")
        with z.open(pickles[0]) as p:
            state = Unpickler(p).load()
        if not isinstance(state, dict):
            raise Refused("data.pkl: expected a dict of tensors")
        return [locate(k, v, path, prefix, members, f) for k, v in state.items()
                if isinstance(v, tuple) and len(v) == 4 and isinstance(v[0], Storage)]


def source_files(folder):
    index = os.path.join(folder, "pytorch_model.bin.index.json")
    if not os.path.exists(index):
        return ["pytorch_model.bin"]
    with open(index, encoding="utf-8") as f:
        names = sorted(set(json.load(f)["weight_map"].values()))
    for n in names:
        if n != os.path.basename(n) or n.startswith("."):
            raise Refused("%s: %r is not a file in the same folder" % (index, n))
    return names


def read_folder(folder):
    tensors, seen = [], set()
    for name in source_files(folder):
        path = os.path.join(folder, name)
        try:
            found = read_archive(path)
        except (Refused, OSError, zipfile.BadZipFile, pickle.UnpicklingError, EOFError, ValueError,
                TypeError, KeyError, IndexError, AttributeError, struct.error) as e:
            raise Refused("%s: %s" % (name, e)) from e
        for t in found:
            if t.name in seen:
                raise Refused("%s: tensor %s: found twice" % (name, t.name))
            seen.add(t.name)
            tensors.append(t)
    if not tensors:
        raise Refused("%s: no tensors" % folder)
    return tensors


# ---- tied heads ----


def same_bytes(a, b):
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    if (a.path, a.offset) == (b.path, b.offset):
        return True
    with open(a.path, "rb") as f, open(b.path, "rb") as g:
        f.seek(a.offset)
        g.seek(b.offset)
        left = a.bytes
        while left:
            n = min(left, CHUNK)
            if f.read(n) != g.read(n):
                return False
            left -= n
    return True


def without_tied_head(tensors):
    by_name = {t.name: t for t in tensors}
    if HEAD in by_name and EMBED in by_name and same_bytes(by_name[EMBED], by_name[HEAD]):
        print("%s is the embedding: stored once" % HEAD, file=sys.stderr)
        return [t for t in tensors if t.name != HEAD]
    return tensors


# ---- writing ----


class Progress:
    """A bar on a terminal, a line per tenth elsewhere."""

    def __init__(self, total):
        self.total, self.done, self.shown = max(total, 1), 0, -1

    def add(self, n):
        self.done += n
        part = self.done * 40 // self.total
        if sys.stderr.isatty():
            print("\r[%-40s] %5.1f%%  %.2f of %.2f GB" % ("#" * part, 100 * self.done / self.total,
                  self.done / 1e9, self.total / 1e9), end="", file=sys.stderr, flush=True)
        elif part // 4 > self.shown:
            self.shown = part // 4
            print("%d%%" % (100 * self.done // self.total), file=sys.stderr)

    def end(self):
        if sys.stderr.isatty():
            print(file=sys.stderr)


def shards(tensors, limit):
    """Groups of at most `limit` bytes (a larger tensor stands alone), in order."""
    groups, size = [[]], 0
    for t in tensors:
        if groups[-1] and size + t.bytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(t)
        size += t.bytes
    return groups


def write_file(path, tensors, progress):
    # Wide elements first, so that every tensor is aligned to its element.
    tensors = sorted(tensors, key=lambda t: -4 if t.dtype == "F32" else -2)
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for t in tensors:
        header[t.name] = {"dtype": t.dtype, "shape": t.shape, "data_offsets": [at, at + t.bytes]}
        at += t.bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path + ".part", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for t in tensors:
            with open(t.path, "rb") as f:
                f.seek(t.offset)
                left = t.bytes
                while left:
                    piece = f.read(min(left, CHUNK))
                    if not piece:
                        raise Refused("%s: became shorter while it was read" % t.path)
                    out.write(piece)
                    left -= len(piece)
                    progress.add(len(piece))
        out.flush()
        os.fsync(out.fileno())
    os.replace(path + ".part", path)


def write_folder(folder, tensors, limit):
    total = sum(t.bytes for t in tensors)
    groups, progress = shards(tensors, limit), Progress(total)
    if len(groups) == 1:
        write_file(os.path.join(folder, "model.safetensors"), tensors, progress)
    else:
        weight_map = {}
        for i, group in enumerate(groups):
            name = "model-%05d-of-%05d.safetensors" % (i + 1, len(groups))
            write_file(os.path.join(folder, name), group, progress)
            weight_map.update((t.name, name) for t in group)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        with open(os.path.join(folder, "model.safetensors.index.json"), "w", encoding="utf-8") as f:
            json.dump(index, f, indent=2)
            f.write("\n")
    progress.end()


def copy_companions(source, target):
    for name in sorted(os.listdir(source)):
        if name.endswith(COMPANIONS) and not name.endswith(".index.json"):
            path = os.path.join(source, name)
            if os.path.isfile(path):
                shutil.copyfile(path, os.path.join(target, name))


def convert(source, target, limit):
    tensors = without_tied_head(read_folder(source))
    os.makedirs(target, exist_ok=True)
    for name in os.listdir(target):
        if name.endswith((".safetensors", ".safetensors.index.json")):
            raise Refused("%s: already has %s" % (target, name))
    write_folder(target, tensors, limit)
    if os.path.realpath(source) != os.path.realpath(target):
        copy_companions(source, target)
    print("%d tensors, %.2f GB in %s" % (len(tensors), sum(t.bytes for t in tensors) / 1e9, target))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("source", help="folder with pytorch_model.bin or its shards")
    p.add_argument("target", help="folder to write; may be the same")
    p.add_argument("--shard-gb", type=float, default=5, help="largest file, default 5")
    a = p.parse_args()
    if not a.shard_gb > 0:
        p.error("--shard-gb must be more than 0")
    try:
        convert(a.source, a.target, int(a.shard_gb * 1e9))
    except (Refused, OSError) as e:
        sys.exit("convert.py: %s" % e)


if __name__ == "__main__":
    main()
