"""Seeded random mutants of sound files, each with one to three edits that know the structure (plain
byte flips die at the first check). Whatever the answer: no crash, no hang, no sanitizer report; a
refusal is one line with a documented exit code. TNL_SEED picks other mutants, TNL_MUTANTS more."""

import json
import os
import random
import re
import struct

import pytest

import forge
from conftest import REFUSALS

SEED = int(os.environ.get("TNL_SEED", "20240211"))
COUNT = int(os.environ.get("TNL_MUTANTS", "40"))
EDGE = [0, 1, 2, 3, 4, 7, 8, 63, 64, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**16, 2**31 - 1, 2**31,
        2**32 - 1, 2**32, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -1, -2**31, -2**63]
WORDS = ["null", "true", "[]", "{}", '""', '"F32"', "1e999", "0.5", "-0", "[[]]", '"\\u0000"', "1"]


def flip(rng, raw):
    out = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def splice(rng, raw):
    """Cut, repeat or drop a run."""
    a, n = rng.randrange(len(raw)), rng.choice([1, 2, 4, 8, 64, 4096])
    return rng.choice([raw[:a], raw[:a] + raw[a + n :], raw[:a] + raw[a : a + n] + raw[a:]])


def number(rng, text):
    """Replace a number in JSON text by an edge, or a value by another kind of value."""
    spots = list(re.finditer(rb"-?\d+", text))
    if not spots:
        return text
    m = rng.choice(spots)
    new = str(rng.choice(EDGE)) if rng.random() < 0.7 else rng.choice(WORDS)
    return text[: m.start()] + new.encode() + text[m.end() :]


def structure(rng, text):
    """Drop, double or swap a quote, brace, comma or colon."""
    spots = [i for i, c in enumerate(text) if c in b'{}[]",:']
    i = rng.choice(spots)
    new = rng.choice([b"", text[i : i + 1] * 2, bytes([rng.choice(b'{}[]",:\\')])])
    return text[:i] + new + text[i + 1 :]


def edits(rng, raw, kinds):
    for _ in range(rng.randint(1, 3)):
        raw = rng.choice(kinds)(rng, raw) or b"\0"
    return raw


def integer(rng, raw):
    """Overwrite an aligned-or-not little-endian field with an edge."""
    fmt = rng.choice(["<H", "<I", "<Q"])
    n = struct.calcsize(fmt)
    at = rng.randrange(len(raw) - n)
    return raw[:at] + struct.pack(fmt, rng.choice(EDGE) % (1 << 8 * n)) + raw[at + n :]


def mutate_safetensors(rng, sound, path):
    header = forge.pad8(forge.st_header(forge.st_entries(sound[1])))
    data = b"".join(t[2] for t in sound[1].values())
    header = edits(rng, header, [number] * 9 + [structure, flip, splice])
    length = len(header) if rng.random() < 0.9 else rng.choice(EDGE) % 2**64
    if rng.random() < 0.2:
        data = splice(rng, data)
    forge.write(path / "model.safetensors", forge.st_file(header, data, length))


def mutate_config(rng, sound, path):
    c = forge.config(rng.choice([1, 2, 3]))
    if rng.random() < 0.3:
        c.pop(rng.choice(list(c)))
    raw = edits(rng, json.dumps(c).encode(), [number] * 9 + [structure, flip, splice])
    forge.write(path / "config.json", raw)


def mutate_pickle(rng, sound, path):
    raw = forge.torch_pickle(forge.torch_rows(sound[1]))
    raw = edits(rng, raw, [flip, splice, integer])
    os.unlink(path / "model.safetensors")
    forge.write(path / "pytorch_model.bin", forge.torch_bytes(sound[1], raw))


def mutate_zip(rng, sound, path):
    raw = forge.torch_bytes(sound[1])
    directory = raw.index(b"PK\1\2")
    head, tail = raw[:directory], raw[directory:]
    if rng.random() < 0.8:
        tail = edits(rng, tail, [flip, integer, integer, splice])
    else:
        head = edits(rng, head, [flip, integer, splice])
    os.unlink(path / "model.safetensors")
    forge.write(path / "pytorch_model.bin", head + tail)


def mutate_index(rng, sound, path):
    os.unlink(path / "model.safetensors")
    files = {"model-%05d-of-00002.safetensors" % i: p
             for i, p in enumerate(forge.split(sound[1], 2))}
    for file, part in files.items():
        forge.write(path / file, forge.st_bytes(part))
    raw = edits(rng, forge.shard_index(files), [number, structure, flip, splice])
    forge.write(path / "model.safetensors.index.json", raw)


def mutate_tokenizer(rng, sound, path):
    raw = edits(rng, forge.spm_bytes(), [flip, flip, splice, integer])
    forge.write(path / "tokenizer.model", raw)


KINDS = {f.__name__[7:]: f for f in (mutate_safetensors, mutate_config, mutate_pickle, mutate_zip,
                                     mutate_index, mutate_tokenizer)}


@pytest.mark.parametrize("kind", KINDS)
def test_mutants(tnl, sound, tmp_path, kind):
    refused = 0
    for i in range(COUNT):
        rng = random.Random("%d %s %d" % (SEED, kind, i))
        path = tmp_path / str(i)
        forge.folder(path, *sound)
        KINDS[kind](rng, sound, path)
        args = ("tokenize", path, "the an a") if kind == "tokenizer" else ("inspect", path)
        code, _, err = tnl.run(*args)
        what = "seed %d, %s mutant %d: " % (SEED, kind, i)
        assert code == 0 or code in REFUSALS, what + "exit %d: %s" % (code, err)
        assert code == 0 or len(err.splitlines()) == 1, what + err
        refused += code != 0
    print("%s: %d of %d refused" % (kind, refused, COUNT))
    assert refused > COUNT // 4, "the edits hardly change anything"
