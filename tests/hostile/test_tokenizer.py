"""tokenizer.model, by the numbers of our own notes: files that SentencePiece refuses, accepts
silently or dies on. `tnl tokenize` must refuse each in one line."""

import os
import struct

import pytest

import forge
from forge import BYTE, CONTROL, NORMAL, UNKNOWN, USER

FILE = "tokenizer.model"


def place(tmp_path, raw, c=None):
    forge.folder(tmp_path, c, tokenizer=False)
    if raw is not None:
        forge.write(tmp_path / FILE, raw)


def refused(tnl, tmp_path, raw, c=None):
    place(tmp_path, raw, c)
    tnl.refuses(tmp_path, FILE, command="tokenize", args=["the an a"])


def accepted(tnl, tmp_path, raw, text="the an a", c=None):
    place(tmp_path, raw, c)
    code, out, err = tnl.run("tokenize", tmp_path, text)
    assert code == 0, err
    return out


def with_pieces(change):
    pieces = forge.base_pieces()
    change(pieces)
    return forge.spm_bytes(pieces)


def with_piece(*p):
    """The last piece replaced by p."""
    return with_pieces(lambda pieces: pieces.__setitem__(-1, p))


# ---- a normaliser trie with one rule ----


def charsmap(text, units=768, root=256, leaf=512, value=0):
    """Double array that maps the letter a to `text`. Units: label | has_leaf << 8 | offset << 10;
    leaves: value | 1 << 31. A unit nobody uses carries a label that leads nowhere."""
    array = [i & 255 ^ 1 for i in range(units)]
    array[0] = root << 10
    node = root ^ ord("a")
    if node < units:
        array[node] = ord("a") | 1 << 8 | (node ^ leaf) << 10
    if leaf < units:
        array[leaf] = value | 1 << 31
    blob = struct.pack("<%dI" % units, *array)
    return struct.pack("<I", len(blob)) + blob + text


def with_charsmap(raw):
    return forge.spm_bytes(normalizer_spec=forge.normalizer(raw))


GOOD = forge.spm_bytes()
BAD = {
    "T1_empty": b"",
    "T2_cut_in_a_piece": GOOD[:1000],
    "T2_cut_by_one": GOOD[:-1],
    "T3_junk_behind": GOOD + b"\xff\xff\xff",
    "T4_length_2_40": b"\x0a" + forge.varint(1 << 40) + GOOD,
    "T4_length_2_64_minus_1": b"\x0a" + forge.varint((1 << 64) - 1) + GOOD,
    "T4_varint_without_end": GOOD + b"\x0a" + b"\x80" * 20,
    "T4_group_wire_type": GOOD + b"\x0b",
    "T4_field_0": GOOD + b"\x02\x00",
    "T5_no_unk": with_pieces(lambda p: p.__setitem__(0, ("<unk>", 0.0, NORMAL))),
    "T6_two_unk": with_piece("<unk2>", 0.0, UNKNOWN),
    "T7_duplicate_piece": with_piece("th", -3.0, NORMAL),
    "T8_empty_piece": with_piece("", -3.0, NORMAL),
    "T9_partial_byte_fallback": with_pieces(lambda p: p.pop(100)),
    "T9_byte_twice": with_pieces(lambda p: p.__setitem__(100, ("<0x05>", 0.0, BYTE))),
    "T10_charsmap_too_short": with_charsmap(b"\1\0"),
    "T11_charsmap_length_lies": with_charsmap(struct.pack("<I", 1 << 20) + bytes(64)),
    "T11_charsmap_length_max": with_charsmap(struct.pack("<I", 0xFFFFFFFF) + bytes(64)),
    "T12_root_outside": with_charsmap(charsmap(b"b\0", root=1 << 20)),
    "T12_leaf_outside": with_charsmap(charsmap(b"b\0", leaf=1 << 19)),
    "T12_value_outside": with_charsmap(charsmap(b"b\0", value=1 << 20)),
    "T12_value_not_terminated": with_charsmap(charsmap(b"b")),
    "T13_charsmap_of_ff": with_charsmap(struct.pack("<I", 1024) + b"\xff" * 1024 + b"b\0"),
    "T14_nested_symbols": forge.spm_bytes(
        forge.base_pieces() + [("a" * n, 0.0, USER) for n in range(2, 120)]),
    "T15_piece_of_1_mb": with_piece("a" * 1000000, -3.0, NORMAL),
    "T16_piece_of_8_mb": with_piece("a" * 8000000, -3.0, NORMAL),
    "T17_piece_of_100_kb": with_piece("a" * 100000, -3.0, NORMAL),
    "T18_nan_score": with_piece("zz", float("nan"), NORMAL),
    "T19_minus_infinite_score": with_piece("zz", float("-inf"), NORMAL),
    "T19_infinite_score": with_piece("zz", float("inf"), NORMAL),
    "T20_type_77": with_piece("zz", -3.0, 77),
    "T20_type_0": with_piece("zz", -3.0, 0),
    "T21_nul_in_piece": with_piece(b"z\0z", -3.0, NORMAL),
    "T22_invalid_utf8_piece": with_piece(b"\xff\xfe", -3.0, NORMAL),
    "T22_surrogate_piece": with_piece(b"\xed\xa0\x80", -3.0, NORMAL),
    "T23_text_explosion": with_charsmap(charsmap(b"b" * 4096 + b"\0")),
    "T24_model_type_char": forge.spm_bytes(trainer_spec=forge.trainer(model_type=4)),
    "T24_model_type_word": forge.spm_bytes(trainer_spec=forge.trainer(model_type=3)),
    "T24_model_type_99": forge.spm_bytes(trainer_spec=forge.trainer(model_type=99)),
    "T26_byte_minus_1": with_pieces(lambda p: p.__setitem__(10, ("<0x-1>", 0.0, BYTE))),
    "T26_byte_zz": with_pieces(lambda p: p.__setitem__(10, ("<0xZZ>", 0.0, BYTE))),
    "T26_byte_100": with_pieces(lambda p: p.__setitem__(10, ("<0x100>", 0.0, BYTE))),
    "not_a_proto": b"hello, world\n" * 20,
    "random_bytes": bytes((i * 7919 + 13) & 255 for i in range(4096)),
    "no_pieces": forge.trainer() + forge.normalizer(),
}


@pytest.mark.parametrize("case", BAD)
def test_bad(tnl, tmp_path, case):
    refused(tnl, tmp_path, BAD[case])


def test_sound(tnl, tmp_path):
    assert accepted(tnl, tmp_path, GOOD)


@pytest.mark.parametrize("case", {
    "unigram": forge.spm_bytes(trainer_spec=forge.trainer(model_type=1)),
    "charsmap": with_charsmap(charsmap(b"b\0")),
    "no_dummy_prefix": forge.spm_bytes(normalizer_spec=forge.normalizer(dummy_prefix=0)),
    "some_nested_symbols": forge.spm_bytes(
        forge.base_pieces()[:-8] + [("a" * n, 0.0, USER) for n in range(2, 10)]),
}.items(), ids=lambda kv: kv[0])
def test_ok_variants(tnl, tmp_path, case):
    accepted(tnl, tmp_path, case[1])


def test_T24_more_pieces_than_the_vocabulary(tnl, tmp_path):
    place(tmp_path, forge.spm_bytes(forge.base_pieces() + [("zq", -99.0, NORMAL)]))
    tnl.refuses(tmp_path, FILE, "301", "300")


def test_ok_fewer_pieces_than_the_vocabulary(tnl, tmp_path):
    place(tmp_path, forge.spm_bytes(forge.base_pieces()[:-1]))
    tnl.accepts(tmp_path)


def test_T25_special_ids_outside_the_pieces(tnl, tmp_path):
    """The pieces' own types say which is which; the training record is not consulted."""
    out = accepted(tnl, tmp_path, forge.spm_bytes(trainer_spec=forge.trainer(unk=1000, eos=5000)))
    assert out == accepted(tnl, tmp_path, GOOD)


def test_T27_many_pieces_with_one_prefix(tnl, tmp_path):
    pieces = forge.base_pieces() + [("a" * 200 + "%04d" % i, -50.0, NORMAL) for i in range(2000)]
    accepted(tnl, tmp_path, forge.spm_bytes(pieces), "a" * 65000,
             forge.config(vocab_size=len(pieces)))


@pytest.mark.parametrize("how", ["missing", "directory", "fifo", "dangling", "device", "huge"])
def test_file(tnl, tmp_path, how):
    place(tmp_path, None)
    path = tmp_path / FILE
    if how == "directory":
        os.mkdir(path)
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "dangling":
        os.symlink("nowhere", path)
    elif how == "device":
        os.symlink("/dev/zero", path)
    elif how == "huge":
        with open(path, "wb") as f:
            f.truncate(65 << 20)
    tnl.refuses(tmp_path, FILE, command="tokenize", args=["a"])


TEXTS = {"letter": "a" * 100000, "spaces": " " * 100000, "cjk": "\u6f22" * 30000,
         "emoji": "\U0001f600" * 20000, "specials": "</s><s><unk>" * 100, "newlines": "\n" * 50000,
         "combining": "e" + "\u0301" * 30000, "replacement": "\ufffd" * 1000, "empty": ""}


@pytest.mark.parametrize("case", TEXTS)
def test_ok_texts(tnl, tmp_path, case):
    accepted(tnl, tmp_path, GOOD, TEXTS[case])


@pytest.mark.parametrize("case", [GOOD[:n] for n in range(7, len(GOOD), 401)], ids=len)
def test_cuts(tnl, tmp_path, case):
    """A cut at the end of a field leaves a sound, smaller proto; elsewhere it is an error. Either
    answer is right, a crash is not."""
    place(tmp_path, case)
    tnl.run("tokenize", tmp_path, "the an a")


def test_control_pieces_written_as_text_stay_text(tnl, tmp_path):
    pieces = forge.base_pieces()
    assert pieces[2] == ("</s>", 0.0, CONTROL)
    out = accepted(tnl, tmp_path, GOOD, "</s>")
    assert not any(line.split()[:1] == ["2"] for line in out.splitlines()), out
