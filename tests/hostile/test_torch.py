"""Torch zip archives: what torch writes is read in place; anything else in the pickle or in the zip
is refused, and nothing is ever executed."""

import os
import pickle
import pickletools
import struct
import zipfile

import pytest

import forge
from forge import Pickle

FILE = "pytorch_model.bin"
NAME = "model.embed_tokens.weight"


def place(tmp_path, raw, c=None):
    forge.folder(tmp_path, c, weights=None)
    forge.write(tmp_path / FILE, raw)


# ---- accepted ----


@pytest.mark.parametrize("root", ["archive", "pytorch_model", "a b", "x" * 60, "model.bin"])
def test_ok_root_names(tnl, sound, tmp_path, root):
    place(tmp_path, forge.zip_bytes(forge.torch_members(sound[1], root=root)))
    tnl.accepts(tmp_path)


def test_ok_tied_storage(tnl, tmp_path):
    """Two names, one storage: as every release has it."""
    c = forge.config()
    ts = forge.tensors(c)
    rows = forge.torch_rows(ts, tie={"lm_head.weight": NAME})
    place(tmp_path, forge.torch_bytes(ts, forge.torch_pickle(rows)))
    tnl.accepts(tmp_path)


def test_ok_views_into_one_storage(tnl, tmp_path):
    """All tensors at offsets of a single storage."""
    ts = forge.tensors(forge.config())
    data = b"".join(t[2] for t in ts.values())
    rows, at = {}, 0
    for name, row in forge.torch_rows(ts).items():
        rows[name] = {**row, "key": "0", "numel": len(data) // 4, "offset": at}
        at += row["numel"]
    members = [("archive/data.pkl", forge.torch_pickle(rows)), ("archive/data/0", data),
               ("archive/version", b"3\n")]
    place(tmp_path, forge.zip_bytes(members))
    tnl.accepts(tmp_path)


def test_ok_written_by_pickle_itself(tnl, sound, tmp_path):
    """The opcodes Python's own pickler chooses for the same objects, protocol 2."""
    import collections
    import io
    import sys
    import types

    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    class FloatStorage:
        pass

    def _rebuild_tensor_v2(*args):
        raise AssertionError("never called")

    FloatStorage.__module__, FloatStorage.__qualname__ = "torch", "FloatStorage"
    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    torch.FloatStorage, torch._utils = FloatStorage, utils
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    saved = {k: sys.modules.get(k) for k in ("torch", "torch._utils")}

    class Storage:
        def __init__(self, key, numel):
            self.key, self.numel = key, numel

    class Tensor:
        def __init__(self, row):
            self.row = row

        def __reduce_ex__(self, protocol):
            r = self.row
            return (_rebuild_tensor_v2,
                    (Storage(r["key"], r["numel"]), r["offset"], tuple(r["shape"]),
                     tuple(r["stride"]), False, collections.OrderedDict()))

    class Pickler(pickle._Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Storage):
                return ("storage", FloatStorage, obj.key, "cpu", obj.numel)
            return None

    f = io.BytesIO()
    try:
        sys.modules.update({"torch": torch, "torch._utils": utils})
        d = collections.OrderedDict((n, Tensor(r)) for n, r in forge.torch_rows(sound[1]).items())
        d._metadata = collections.OrderedDict({"": {"version": 1}})  # as state_dict() leaves it
        Pickler(f, 2).dump(d)
    finally:
        for k, v in saved.items():
            if v is None:
                del sys.modules[k]
            else:
                sys.modules[k] = v
    place(tmp_path, forge.torch_bytes(sound[1], f.getvalue()))
    tnl.accepts(tmp_path)


def test_ok_plain_dict(tnl, sound, tmp_path):
    p = Pickle().raw(b"}").put().raw(b"(")
    for name, row in forge.torch_rows(sound[1]).items():
        p.text(name).tensor(**row)
    place(tmp_path, forge.torch_bytes(sound[1], p.close_dict()))
    tnl.accepts(tmp_path)


def test_ok_cuda_device_names(tnl, sound, tmp_path):
    p = Pickle().open_dict()
    for name, row in forge.torch_rows(sound[1]).items():
        p.text(name).globl("torch._utils", "_rebuild_tensor_v2").raw(b"(")
        p.storage(row["kind"], row["key"], row["numel"], device="cuda:3").int(0)
        p.tuple(row["shape"]).tuple(row["stride"]).raw(b"\x89")
        p.globl("collections", "OrderedDict").raw(b")R").put().raw(b"t").put().raw(b"R").put()
    place(tmp_path, forge.torch_bytes(sound[1], p.close_dict()))
    tnl.accepts(tmp_path)


# ---- pickles that must not run ----


def calls(module, name, argument):
    return b"\x80\x02c" + module + b"\n" + name + b"\nX" + struct.pack("<I", len(argument)) \
        + argument + b"\x85R."


CODE = {
    "os_system": calls(b"os", b"system", b"touch pwned"),
    "posix_system": calls(b"posix", b"system", b"touch pwned"),
    "builtins_eval": calls(b"builtins", b"eval", b"1"),
    "builtin_exec": calls(b"__builtin__", b"exec", b"1"),
    "subprocess": calls(b"subprocess", b"getoutput", b"id"),
    "torch_load": calls(b"torch", b"load", b"x"),
    "torch_hub": calls(b"torch.hub", b"load", b"x"),
    "rebuild_v3": calls(b"torch._utils", b"_rebuild_tensor_v3", b"x"),
    "rebuild_parameter": calls(b"torch._utils", b"_rebuild_parameter", b"x"),
    "int_storage_name": b"\x80\x02ctorch\nIntStorage\n.",
    "prefix_of_allowed": calls(b"torch._utils", b"_rebuild_tensor_v", b"x"),
    "allowed_plus_suffix": calls(b"torch._utils", b"_rebuild_tensor_v22", b"x"),
    "allowed_split_elsewhere": calls(b"torch", b"_utils._rebuild_tensor_v2", b"x"),
    "stack_global": b"\x80\x04\x8c\x02os\x8c\x06system\x93X\x01\0\0\0x\x85R.",
    "inst": b"\x80\x02(X\x01\0\0\0xios\nsystem\n.",
    "obj": b"\x80\x02(cos\nsystem\nX\x01\0\0\0xo.",
    "newobj": b"\x80\x02cos\nsystem\n)\x81.",
    "newobj_ex": b"\x80\x04cos\nsystem\n)}\x92.",
    "build": b"\x80\x02ccollections\nOrderedDict\n)Rcos\nsystem\nb.",
    "extension_registry": b"\x80\x02\x82\x01.",
    "ordered_dict_with_arguments": b"\x80\x02ccollections\nOrderedDict\n(X\x01\0\0\0xtR.",
    "persistent_id_text": b"\x80\x02Pstorage\n.",
    "call_of_a_string": b"\x80\x02X\x01\0\0\0x)R.",
    "global_as_result": b"\x80\x02ccollections\nOrderedDict\n.",
}


@pytest.mark.parametrize("case", CODE)
def test_code(tnl, sound, tmp_path, case):
    place(tmp_path, forge.torch_bytes(sound[1], CODE[case]))
    tnl.refuses(tmp_path, FILE)
    assert not os.path.exists("pwned")


@pytest.mark.parametrize("where", ["as_value", "as_shape", "as_storage_type", "as_hooks"])
def test_code_inside_a_sound_pickle(tnl, sound, tmp_path, where):
    row = next(iter(forge.torch_rows(sound[1]).values()))
    p = Pickle().open_dict().text(NAME)
    bad = ("os", "system")
    if where == "as_value":
        p.globl(*bad).text("touch pwned").raw(b"\x85R")
    else:
        p.globl("torch._utils", "_rebuild_tensor_v2").raw(b"((").text("storage")
        p.globl(*(bad if where == "as_storage_type" else ("torch", "FloatStorage")))
        p.text("0").text("cpu").int(row["numel"]).raw(b"tQ").int(0)
        if where == "as_shape":
            p.globl(*bad).text("touch pwned").raw(b"\x85R")
        else:
            p.tuple(row["shape"])
        p.tuple(row["stride"]).raw(b"\x89")
        if where == "as_hooks":
            p.globl(*bad).text("touch pwned").raw(b"\x85R")
        else:
            p.globl("collections", "OrderedDict").raw(b")R")
        p.raw(b"tR")
    place(tmp_path, forge.torch_bytes(sound[1], p.close_dict()))
    tnl.refuses(tmp_path, FILE)
    assert not os.path.exists("pwned")


MACHINE = {
    "empty": b"",
    "only_stop": b".",
    "protocol_0": b"(dp0\n.",
    "protocol_5": b"\x80\x05}.",
    "protocol_255": b"\x80\xff}.",
    "no_stop": b"\x80\x02}",
    "none": b"\x80\x02N.",
    "list": b"\x80\x02].",
    "int": b"\x80\x02K\x01.",
    "empty_stack_tuple": b"\x80\x02\x87.",
    "empty_stack_reduce": b"\x80\x02R.",
    "empty_stack_persid": b"\x80\x02Q.",
    "no_mark": b"\x80\x02}u.",
    "no_mark_tuple": b"\x80\x02t.",
    "odd_setitems": b"\x80\x02}(X\x01\0\0\0au.",
    "setitems_without_dict": b"\x80\x02K\x01(X\x01\0\0\0aK\x02u.",
    "memo_get_unknown": b"\x80\x02h\x07.",
    "memo_long_get_unknown": b"\x80\x02j\xff\xff\xff\xff.",
    "memo_long_put_huge": b"\x80\x02}r\xff\xff\xff\xff.",
    "text_past_end": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "text_length_max": b"\x80\x02X\xff\xff\xff\xffabc.",
    "text8_length_wraps": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.",
    "text_not_utf8": b"\x80\x02}(X\x01\0\0\0\xffK\x01u.",
    "long1_past_end": b"\x80\x02\x8a\xff\x01.",
    "long4_negative_length": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "long1_of_255_bytes": b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".",
    "global_unterminated": b"\x80\x02cos",
    "global_of_1_mib": b"\x80\x02c" + b"a" * (1 << 20) + b"\nb\n.",
    "frame_lies": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
    "marks": b"\x80\x02" + b"(" * 1000000 + b".",
    "empty_tuples": b"\x80\x02" + b")" * 1000000 + b".",
    "nested_tuples": b"\x80\x02)" + b"\x85" * 1000000 + b".",
    "nested_lists": b"\x80\x02" + b"]" * 100000 + b"a" * 99999 + b".",
    "dup": b"\x80\x02}" + b"2" * 1000000 + b".",
    "tuple_bomb": b"\x80\x02)" + b"q\0h\0\x86" * 60 + b".",
    "pop_empty": b"\x80\x020.",
    "unknown_opcode": b"\x80\x02\xf7.",
    "value_is_number": b"\x80\x02}(X\x01\0\0\0aK\x02u.",
}


@pytest.mark.parametrize("case", MACHINE)
def test_machine(tnl, sound, tmp_path, case):
    place(tmp_path, forge.torch_bytes(sound[1], MACHINE[case]))
    tnl.refuses(tmp_path, (FILE, NAME))  # a sound pickle without tensors: the first is missed


def test_key_is_number(tnl, sound, tmp_path):
    row = next(iter(forge.torch_rows(sound[1]).values()))
    p = Pickle().open_dict().int(7).tensor(**row)
    place(tmp_path, forge.torch_bytes(sound[1], p.close_dict()))
    tnl.refuses(tmp_path, FILE)


@pytest.mark.parametrize("step", range(7))
def test_cut_pickle(tnl, sound, tmp_path, step):
    raw = forge.torch_pickle(forge.torch_rows(sound[1]))
    for n in range(step + 1, len(raw), 7 * 41):
        place(tmp_path, forge.torch_bytes(sound[1], raw[:n]))
        tnl.refuses(tmp_path, FILE)


# ---- tensors that lie ----


def bent(ts, **changes):
    rows = forge.torch_rows(ts)
    rows[NAME] = {**rows[NAME], **changes}
    return forge.torch_bytes(ts, forge.torch_pickle(rows))


ROWS = {
    "offset_1": dict(offset=1),
    "offset_negative": dict(offset=-1),
    "offset_2_31": dict(offset=2**31),
    "offset_2_62": dict(offset=2**62),
    "offset_2_63": dict(offset=2**63),
    "offset_2_64": dict(offset=2**64),
    "numel_too_large": dict(numel=2401),
    "numel_too_small": dict(numel=2399),
    "numel_0": dict(numel=0),
    "numel_negative": dict(numel=-2400),
    "numel_2_62": dict(numel=2**62),
    "numel_2_64": dict(numel=2**64),
    "shape_too_large": dict(shape=[301, 8]),
    "shape_product_wraps": dict(shape=[2**32, 2**32], stride=[2**32, 1]),
    "shape_negative": dict(shape=[-300, -8]),
    "shape_zero": dict(shape=[0, 8]),
    "shape_rank_0": dict(shape=[], stride=[]),
    "shape_rank_9": dict(shape=[300] + [1] * 7 + [8], stride=[8] * 8 + [1]),
    "shape_2_64": dict(shape=[2**64, 8]),
    "stride_transposed": dict(stride=[1, 300]),
    "stride_zero": dict(stride=[0, 0]),
    "stride_broadcast": dict(stride=[0, 1]),
    "stride_negative": dict(stride=[-8, 1]),
    "stride_huge": dict(stride=[2**61, 1]),
    "stride_short": dict(stride=[1]),
    "stride_long": dict(stride=[8, 1, 1]),
    "storage_absent": dict(key="999"),
    "storage_path": dict(key="../data/0"),
    "storage_empty_name": dict(key=""),
    "storage_long_name": dict(key="0" * 70000),
    "storage_nul_name": dict(key="0\0x"),
    "storage_double": dict(kind="DoubleStorage"),
    "storage_half_of_float": dict(kind="HalfStorage"),
    "storage_long_kind": dict(kind="LongStorage"),
    "storage_byte": dict(kind="ByteStorage"),
    "storage_quantised": dict(kind="QInt8Storage"),
}


@pytest.mark.parametrize("case", ROWS)
def test_row(tnl, sound, tmp_path, case):
    place(tmp_path, bent(sound[1], **ROWS[case]))
    tnl.refuses(tmp_path, FILE)


def test_one_storage_under_two_types(tnl, tmp_path):
    """Torch never writes this. The bytes exist, so either answer is sound."""
    ts = forge.tensors(forge.config())
    rows = forge.torch_rows(ts, tie={"lm_head.weight": NAME})
    rows["lm_head.weight"].update(kind="BFloat16Storage", numel=4800)
    place(tmp_path, forge.torch_bytes(ts, forge.torch_pickle(rows)))
    code, _, err = tnl.run("inspect", tmp_path)
    assert code == 0 or FILE in err or "lm_head.weight" in err


def test_duplicate_name(tnl, sound, tmp_path):
    p = Pickle().open_dict()
    for name, row in list(forge.torch_rows(sound[1]).items()) * 2:
        p.text(name).tensor(**row)
    place(tmp_path, forge.torch_bytes(sound[1], p.close_dict()))
    tnl.refuses(tmp_path, FILE)


def test_missing_tensor(tnl, sound, tmp_path):
    rows = forge.torch_rows(sound[1])
    del rows[NAME]
    place(tmp_path, forge.torch_bytes(sound[1], forge.torch_pickle(rows)))
    tnl.refuses(tmp_path, NAME)


@pytest.mark.parametrize("value", [b"\0\0\x80\x7f", b"\0\0\xc0\xff"])
def test_nonfinite(tnl, sound, tmp_path, value):
    ts = dict(sound[1])
    dtype, shape, raw = ts[NAME]
    ts[NAME] = [dtype, shape, raw[:-4] + value]
    place(tmp_path, forge.torch_bytes(ts))
    tnl.refuses(tmp_path, NAME)


# ---- zips that lie ----

EOCD, CENTRAL, LOCAL = b"PK\5\6", b"PK\1\2", b"PK\3\4"


def zip_patch(raw, signature, offset, fmt, value, nth=0):
    """Overwrite a field at `offset` of the nth record with that signature."""
    at = -1
    for _ in range(nth + 1):
        at = raw.index(signature, at + 1)
    out = bytearray(raw)
    struct.pack_into(fmt, out, at + offset, value)
    return bytes(out)


def central_at(raw):
    return struct.unpack_from("<I", raw, raw.rindex(EOCD) + 16)[0]


ZIPS = {
    "empty": lambda raw: b"",
    "not_a_zip": lambda raw: b"hello, world" * 100,
    "old_torch_format": lambda raw: b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
    "only_end_record": lambda raw: EOCD + bytes(18),
    "cut_end": lambda raw: raw[:-1],
    "cut_half": lambda raw: raw[: len(raw) // 2],
    "cut_front": lambda raw: raw[64:],
    "no_end_record": lambda raw: raw[: raw.rindex(EOCD)],
    "comment_lies": lambda raw: zip_patch(raw, EOCD, 20, "<H", 1000),
    "entries_0": lambda raw: zip_patch(zip_patch(raw, EOCD, 8, "<H", 0), EOCD, 10, "<H", 0),
    "entries_too_many": lambda raw: zip_patch(zip_patch(raw, EOCD, 8, "<H", 60000), EOCD, 10,
                                              "<H", 60000),
    "directory_offset_past_end": lambda raw: zip_patch(raw, EOCD, 16, "<I", len(raw)),
    "directory_offset_max": lambda raw: zip_patch(raw, EOCD, 16, "<I", 0xFFFFFFFF),
    "directory_offset_minus_1": lambda raw: zip_patch(raw, EOCD, 16, "<I", central_at(raw) - 1),
    "directory_size_max": lambda raw: zip_patch(raw, EOCD, 12, "<I", 0xFFFFFFFE),
    "central_signature": lambda raw: zip_patch(raw, CENTRAL, 0, "<I", 0, 2),
    "central_name_length_max": lambda raw: zip_patch(raw, CENTRAL, 28, "<H", 65535, 1),
    "central_extra_length_max": lambda raw: zip_patch(raw, CENTRAL, 30, "<H", 65535, 1),
    "central_comment_length_max": lambda raw: zip_patch(raw, CENTRAL, 32, "<H", 65535, 1),
    "central_size_larger": lambda raw: zip_patch(raw, CENTRAL, 24, "<I", 1 << 30, 2),
    "central_sizes_disagree": lambda raw: zip_patch(raw, CENTRAL, 20, "<I", 12, 2),
    "central_size_max": lambda raw: zip_patch(raw, CENTRAL, 24, "<I", 0xFFFFFFFF, 2),
    "local_offset_past_end": lambda raw: zip_patch(raw, CENTRAL, 42, "<I", 0x7FFFFFFF, 2),
    "local_offset_max": lambda raw: zip_patch(raw, CENTRAL, 42, "<I", 0xFFFFFFFF, 2),
    "local_offset_at_directory": lambda raw: zip_patch(raw, CENTRAL, 42, "<I", central_at(raw), 2),
    "local_signature": lambda raw: zip_patch(raw, LOCAL, 0, "<I", 0, 2),
    "local_name_length": lambda raw: zip_patch(raw, LOCAL, 26, "<H", 60000, 2),
    "local_extra_length": lambda raw: zip_patch(raw, LOCAL, 28, "<H", 65535,
                                                raw.count(LOCAL) - 1),
    "method_deflate_in_directory": lambda raw: zip_patch(raw, CENTRAL, 10, "<H", 8, 2),
    "encrypted_flag": lambda raw: zip_patch(raw, CENTRAL, 8, "<H", 1, 2),
}


@pytest.mark.parametrize("case", ZIPS)
def test_zip(tnl, sound, tmp_path, case):
    place(tmp_path, ZIPS[case](forge.torch_bytes(sound[1])))
    tnl.refuses(tmp_path, FILE)


def members_of(ts, change):
    members = dict(forge.torch_members(ts))
    change(members)
    return forge.zip_bytes(list(members.items()))


def test_deflated(tnl, sound, tmp_path):
    place(tmp_path, forge.zip_bytes(forge.torch_members(sound[1]), zipfile.ZIP_DEFLATED))
    tnl.refuses(tmp_path, FILE)


def test_deflate_bomb(tnl, sound, tmp_path):
    members = forge.torch_members(sound[1], pickle=bytes(200 << 20))
    place(tmp_path, forge.zip_bytes(members, zipfile.ZIP_DEFLATED))
    tnl.refuses(tmp_path, FILE)


def test_no_pickle(tnl, sound, tmp_path):
    place(tmp_path, members_of(sound[1], lambda m: m.pop("archive/data.pkl")))
    tnl.refuses(tmp_path, FILE, "data.pkl")


def test_two_pickles(tnl, sound, tmp_path):
    place(tmp_path, members_of(sound[1], lambda m: m.update({"other/data.pkl": b"\x80\x02}."})))
    tnl.refuses(tmp_path, FILE)


def test_member_missing(tnl, sound, tmp_path):
    place(tmp_path, members_of(sound[1], lambda m: m.pop("archive/data/0")))
    tnl.refuses(tmp_path, FILE)


def test_member_short(tnl, sound, tmp_path):
    place(tmp_path, members_of(sound[1], lambda m: m.update({"archive/data/0": bytes(9596)})))
    tnl.refuses(tmp_path, FILE)


def test_big_endian(tnl, sound, tmp_path):
    place(tmp_path, members_of(sound[1], lambda m: m.update({"archive/byteorder": b"big"})))
    tnl.refuses(tmp_path, FILE)


def test_duplicate_member(tnl, sound, tmp_path):
    members = forge.torch_members(sound[1])
    with pytest.warns(UserWarning):
        raw = forge.zip_bytes(members + [("archive/data/0", bytes(9600))])
    place(tmp_path, raw)
    tnl.refuses(tmp_path, FILE)


@pytest.mark.parametrize("name", ["../evil", "/abs", "archive/../../x", "a\0b", "archive/data/",
                                  "x" * 65000])
def test_strange_members_are_never_written(tnl, sound, tmp_path, name):
    """Nothing is extracted, so a stray member is harmless: either answer, no crash."""
    place(tmp_path, forge.zip_bytes(forge.torch_members(sound[1]) + [(name, b"x")]))
    code, _, err = tnl.run("inspect", tmp_path)
    assert code == 0 or FILE in err
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_unaligned_data(tnl, sound, tmp_path, shift):
    """An archive whose tensors start off their element's alignment: refused or copied."""
    c, ts = sound
    place(tmp_path, forge.zip_bytes([("p", bytes(shift))] + forge.torch_members(ts), align=1))
    code, _, err = tnl.run("inspect", tmp_path)
    assert code == 0 or FILE in err


def test_ok_zip64_end_record(tnl, sound, tmp_path):
    """Archives beyond 4 GiB carry these records; small ones may too."""
    raw = forge.torch_bytes(sound[1])
    end = raw.rindex(EOCD)
    entries, = struct.unpack_from("<H", raw, end + 10)
    size, offset = struct.unpack_from("<II", raw, end + 12)
    z64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, size, offset)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    marker = struct.pack("<4sHHHHIIH", EOCD, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    place(tmp_path, raw[:end] + z64 + locator + marker)
    tnl.accepts(tmp_path)


ZIP64 = {
    "locator_past_end": ("locator", 1 << 40),
    "locator_max": ("locator", 2**64 - 1),
    "offset_max": ("offset", 2**64 - 1),
    "size_max": ("size", 2**64 - 1),
    "entries_max": ("entries", 2**64 - 1),
    "entries_2_32": ("entries", 2**32),
}


@pytest.mark.parametrize("case", ZIP64)
def test_zip64_lies(tnl, sound, tmp_path, case):
    raw = forge.torch_bytes(sound[1])
    end = raw.rindex(EOCD)
    v = {"locator": end, "entries": struct.unpack_from("<H", raw, end + 10)[0],
         "size": struct.unpack_from("<I", raw, end + 12)[0], "offset": central_at(raw)}
    key, value = ZIP64[case]
    v[key] = value
    z64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, v["entries"], v["entries"],
                      v["size"], v["offset"])
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, v["locator"], 1)
    marker = struct.pack("<4sHHHHIIH", EOCD, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    place(tmp_path, raw[:end] + z64 + locator + marker)
    tnl.refuses(tmp_path, FILE)


def test_the_forged_pickle_is_what_python_reads(sound):
    """Guards the forge itself: the standard disassembler accepts its opcodes."""
    raw = forge.torch_pickle(forge.torch_rows(sound[1]))
    names = [arg for op, arg, _ in pickletools.genops(raw) if op.name == "GLOBAL"]
    assert set(names) == {"collections OrderedDict", "torch._utils _rebuild_tensor_v2",
                          "torch FloatStorage"}
