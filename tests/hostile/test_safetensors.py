"""Broken safetensors files, by the numbers of the list in our own notes: container, JSON, numbers,
meaning. Each case bends one thing of a sound folder. Cases named ok_ must be accepted."""

import json
import os
import struct

import pytest

import forge

FILE = "model.safetensors"
U64 = 1 << 64


def parts(ts):
    return forge.st_entries(ts), b"".join(t[2] for t in ts.values())


# ---- container: functions from tensors to the bytes of the file ----


def header_of(ts):
    return forge.pad8(forge.st_header(forge.st_entries(ts)))


def with_length(length):
    def build(ts):
        rows, data = parts(ts)
        header = forge.pad8(forge.st_header(rows))
        real = len(header) + len(data)
        return forge.st_file(header, data, length(real) if callable(length) else length)

    return build


CONTAINER = {
    "S1_empty": lambda ts: b"",
    "S2_one_byte": lambda ts: b"\x10",
    "S2_seven_bytes": lambda ts: b"\x10" + bytes(6),
    "S2_eight_bytes": lambda ts: struct.pack("<Q", 2),
    "S3_length_0": with_length(0),
    "S4_length_1": with_length(1),
    "S5_length_past_file": with_length(lambda real: real + 1),
    "S5_length_is_whole_file": with_length(lambda real: real),
    "S7_length_2_63": with_length(1 << 63),
    "S8_length_max": with_length(U64 - 1),
    "S9_length_wraps": with_length(U64 - 8),
    "S9_length_wraps_to_1": with_length(U64 - 7),
    "S10_header_cut": lambda ts: forge.st_bytes(ts)[: len(header_of(ts)) // 2],
    "S11_data_cut": lambda ts: forge.st_bytes(ts)[:-1],
    "S12_data_long": lambda ts: forge.st_bytes(ts) + b"\0",
    "S12_data_long_page": lambda ts: forge.st_bytes(ts) + bytes(4096),
}


@pytest.mark.parametrize("case", CONTAINER)
def test_container(tnl, sound, tmp_path, case):
    c, ts = sound
    forge.folder(tmp_path, c, ts, weights=None)
    forge.write(tmp_path / FILE, CONTAINER[case](ts))
    tnl.refuses(tmp_path, FILE)


def test_S6_header_of_100_mb_in_a_sparse_file(tnl, sound, tmp_path):
    forge.folder(tmp_path, *sound, weights=None)
    with open(tmp_path / FILE, "wb") as f:
        f.write(struct.pack("<Q", 100_000_001) + b"{")
        f.truncate(100_000_009)
    tnl.refuses(tmp_path, FILE, "100000001")


def test_S13_directory(tnl, sound, tmp_path):
    forge.folder(tmp_path, *sound, weights=None)
    os.mkdir(tmp_path / FILE)
    tnl.refuses(tmp_path, FILE)


def test_S13_fifo(tnl, sound, tmp_path):
    forge.folder(tmp_path, *sound, weights=None)
    os.mkfifo(tmp_path / FILE)
    tnl.refuses(tmp_path, FILE)


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/null"])
def test_S13_device(tnl, sound, tmp_path, target):
    forge.folder(tmp_path, *sound, weights=None)
    os.symlink(target, tmp_path / FILE)
    tnl.refuses(tmp_path, FILE)


def test_S13_socket(tnl, sound, tmp_path):
    import socket

    forge.folder(tmp_path, *sound, weights=None)
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as s:
        os.chdir(tmp_path)  # socket paths are short
        try:
            s.bind(FILE)
        finally:
            os.chdir(here)
        tnl.refuses(tmp_path, FILE)


def test_S14_ok_link_to_a_file_elsewhere(tnl, sound, tmp_path):
    """The Hugging Face cache is made of such links, so they are followed."""
    forge.folder(tmp_path / "m", *sound)
    os.rename(tmp_path / "m" / FILE, tmp_path / "blob")
    os.symlink("../blob", tmp_path / "m" / FILE)
    tnl.accepts(tmp_path / "m")


def test_S15_dangling_link(tnl, sound, tmp_path):
    forge.folder(tmp_path, *sound, weights=None)
    os.symlink("nowhere", tmp_path / FILE)
    tnl.refuses(tmp_path, FILE)


def test_S15_link_loop(tnl, sound, tmp_path):
    forge.folder(tmp_path, *sound, weights=None)
    os.symlink(FILE, tmp_path / FILE)
    tnl.refuses(tmp_path, FILE)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_S16_unreadable(tnl, sound, tmp_path):
    forge.folder(tmp_path, *sound)
    os.chmod(tmp_path / FILE, 0)
    tnl.refuses(tmp_path, FILE)


def test_S16_no_weights_at_all(tnl, sound, tmp_path):
    forge.folder(tmp_path, *sound, weights=None)
    tnl.refuses(tmp_path, FILE)


def test_no_such_folder(tnl, tmp_path):
    tnl.refuses(tmp_path / "absent", "absent")


def test_folder_is_a_file(tnl, tmp_path):
    forge.write(tmp_path / "file", b"x")
    tnl.refuses(tmp_path / "file", "file")


# ---- JSON: functions from header rows to header bytes ----


def first(rows, **changes):
    """The header with the first row's text replaced."""
    name, row = rows[0]
    text = json.dumps({**row, **changes})
    return forge.st_header([(name, text)] + rows[1:])


def without(rows, key):
    name, row = rows[0]
    return forge.st_header([(name, {k: v for k, v in row.items() if k != key})] + rows[1:])


def renamed(rows, name):
    """The last tensor under another name, written raw."""
    text = forge.st_header(rows).decode()
    return text.replace(json.dumps(rows[-1][0]), name).encode("utf-8", "surrogateescape")


HEADER = {
    "S20_not_utf8": lambda r: renamed(r, '"\udcff\udcfe"'),
    "S20_overlong_utf8": lambda r: renamed(r, '"\udcc0\udcaf"'),
    "S20_surrogate_utf8": lambda r: renamed(r, '"\udced\udca0\udc80"'),
    "S21_not_json": lambda r: b"hello, world",
    "S21_cut": lambda r: forge.st_header(r)[:-1],
    "S21_trailing_comma": lambda r: forge.st_header(r)[:-1] + b",}",
    "S21_single_quotes": lambda r: forge.st_header(r).replace(b'"', b"'"),
    "S21_comment": lambda r: b"/* x */" + forge.st_header(r),
    "S22_array": lambda r: b"[" + forge.st_header(r) + b"]",
    "S22_number": lambda r: b"12345678",
    "S22_string": lambda r: b'"abcdef"',
    "S22_null": lambda r: b"null",
    "S23_white_space_first": lambda r: b" " + forge.st_header(r),
    "S23_newline_first": lambda r: b"\n" + forge.st_header(r),
    "S23_bom": lambda r: b"\xef\xbb\xbf" + forge.st_header(r),
    "S24_nul_byte": lambda r: forge.st_header(r)[:-1] + b"\0}",
    "S24_nul_after": lambda r: forge.st_header(r) + b"\0",
    "S24_nul_escape_in_name": lambda r: renamed(r, '"a\\u0000b"'),
    "S25_junk_after": lambda r: forge.st_header(r) + b"x",
    "S25_second_document": lambda r: forge.st_header(r) + b"{}",
    "S26_duplicate_name": lambda r: forge.st_header(r + [r[0]]),
    "S26_duplicate_name_escaped": lambda r: forge.st_header(r)[:-1]
    + b',"\\u006dodel.embed_tokens.weight":' + json.dumps(r[0][1]).encode() + b"}",
    "S27_duplicate_key": lambda r: forge.st_header(
        [(r[0][0], json.dumps(r[0][1])[:-1] + ',"shape":[1]}')] + r[1:]),
    "S28_depth_arrays": lambda r: first(r, x=0).replace(b'"x": 0', b'"x":' + b"[" * 100000
                                                        + b"]" * 100000),
    "S28_depth_objects": lambda r: b'{"a":' * 100000 + b"1" + b"}" * 100000,
    "S29_a_million_tensors": lambda r: b"{" + b",".join(
        b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(10**6)) + b"}",
    "S30_name_of_1_mib": lambda r: renamed(r, '"' + "a" * (1 << 20) + '"'),
    "S30_name_with_newline": lambda r: renamed(r, '"a\\nb"'),
    "S30_name_with_raw_newline": lambda r: renamed(r, '"a\nb"'),
    "S30_name_with_escape_code": lambda r: renamed(r, '"\\u001b[2J"'),
    "S30_name_escaped": lambda r: forge.st_header(r).replace(b'"model.emb', b'"\\u006dodel.emb'),
    "S30_name_empty": lambda r: renamed(r, '""'),
    "S31_metadata_number": lambda r: forge.st_header(r, {"format": 1}),
    "S31_metadata_list": lambda r: forge.st_header(r, ["pt"]),
    "S31_metadata_nested": lambda r: forge.st_header(r, {"a": {"b": "c"}}),
    "S32_no_dtype": lambda r: without(r, "dtype"),
    "S32_no_shape": lambda r: without(r, "shape"),
    "S32_no_offsets": lambda r: without(r, "data_offsets"),
    "S32_empty_row": lambda r: forge.st_header([(r[0][0], {})] + r[1:]),
    "S32_row_is_null": lambda r: forge.st_header([(r[0][0], "null")] + r[1:]),
    "S32_row_is_list": lambda r: forge.st_header([(r[0][0], "[1,2]")] + r[1:]),
    "S33_unknown_key": lambda r: first(r, strides=[1]),
    "S45_dtype_f64": lambda r: first(r, dtype="F64"),
    "S45_dtype_i8": lambda r: first(r, dtype="I8"),
    "S45_dtype_lower_case": lambda r: first(r, dtype="bf16"),
    "S45_dtype_f8": lambda r: first(r, dtype="F8_E4M3"),
    "S45_dtype_f4": lambda r: first(r, dtype="F4"),
    "S45_dtype_bool": lambda r: first(r, dtype="BOOL"),
    "S45_dtype_number": lambda r: first(r, dtype=32),
    "S45_dtype_nul": lambda r: first(r, dtype="F32\0"),
    "S45_dtype_empty": lambda r: first(r, dtype=""),
}


@pytest.mark.parametrize("case", HEADER)
def test_header(tnl, sound, tmp_path, case):
    c, ts = sound
    rows, data = parts(ts)
    forge.folder(tmp_path, c, ts, weights=None)
    forge.write(tmp_path / FILE, forge.st_file(HEADER[case](rows), data))
    tnl.refuses(tmp_path, FILE)


ACCEPTED_HEADER = {
    "ok_spaces_after": lambda r: forge.st_header(r) + b" " * 777,
    "ok_metadata": lambda r: forge.st_header(r, {"format": "pt"}),
    "ok_metadata_of_1_mib": lambda r: forge.st_header(r, {"note": "x" * (1 << 20)}),
    "ok_metadata_empty": lambda r: forge.st_header(r, {}),
    "ok_rows_in_another_order": lambda r: forge.st_header(r[::-1]),
    "ok_white_space_inside": lambda r: json.dumps(dict(r), indent=3).encode(),
    "ok_keys_in_another_order": lambda r: forge.st_header(
        [(n, dict(reversed(row.items()))) for n, row in r]),
}


@pytest.mark.parametrize("case", ACCEPTED_HEADER)
def test_accepted_header(tnl, sound, tmp_path, case):
    c, ts = sound
    rows, data = parts(ts)
    forge.folder(tmp_path, c, ts, weights=None)
    forge.write(tmp_path / FILE, forge.st_file(forge.pad8(ACCEPTED_HEADER[case](rows)), data))
    tnl.accepts(tmp_path)


# ---- numbers: raw text put in place of one field of one row ----

LAST = -1


def number_case(field, text, row=LAST):
    return field, text, row


NUMBERS = {
    "S34_offsets_strings": number_case("data_offsets", '["0","8"]'),
    "S34_offsets_floats": number_case("data_offsets", "[0.0,2400.0]"),
    "S34_offsets_exponent": number_case("data_offsets", "[0,1e3]"),
    "S34_offsets_negative": number_case("data_offsets", "[-4,4]"),
    "S34_offsets_minus_zero": number_case("data_offsets", "[-0,9600]", 0),
    "S34_offsets_infinite": number_case("data_offsets", "[0,1e999]"),
    "S34_offsets_bool": number_case("data_offsets", "[false,true]"),
    "S34_offsets_null": number_case("data_offsets", "[null,null]"),
    "S34_offsets_leading_zero": number_case("data_offsets", "[00,9600]", 0),
    "S35_begin_after_end": number_case("data_offsets", "[9600,0]", 0),
    "S36_one_offset": number_case("data_offsets", "[0]", 0),
    "S36_three_offsets": number_case("data_offsets", "[0,9600,9600]", 0),
    "S36_no_offset": number_case("data_offsets", "[]", 0),
    "S36_object": number_case("data_offsets", '{"a":0}', 0),
    "S37_end_past_data": number_case("data_offsets", "[0,1073741824]", 0),
    "S38_offset_2_53_plus_1": number_case("data_offsets", "[9007199254740993,9007199254740997]"),
    "S38_offset_2_63": number_case("data_offsets", "[0,9223372036854775808]", 0),
    "S38_offset_2_64_minus_1": number_case("data_offsets", "[0,18446744073709551615]", 0),
    "S38_offset_2_64": number_case("data_offsets", "[0,18446744073709551616]", 0),
    "S38_offset_2_64_plus_9600": number_case("data_offsets", "[0,18446744073709561216]", 0),
    "S38_offset_of_1000_digits": number_case("data_offsets", "[0,%s]" % ("1" * 1000), 0),
    "S42_product_overflows": number_case("shape", "[4294967296,4294967296]"),
    "S42_product_wraps_to_size": number_case("shape", "[9223372036854775808,2,12]"),
    "S42_zero_times_overflow": number_case("shape", "[0,9223372036854775807,9223372036854775807]"),
    "S43_rank_0": number_case("shape", "[]"),
    "S43_rank_9": number_case("shape", "[1,1,1,1,1,1,1,8,12]"),
    "S43_dimension_0": number_case("shape", "[0,12]"),
    "S43_dimension_negative": number_case("shape", "[-8,-12]"),
    "S43_dimension_float": number_case("shape", "[8.0,12]"),
    "S43_dimension_string": number_case("shape", '["8",12]'),
    "S43_shape_number": number_case("shape", "96"),
    "S44_shape_too_large": number_case("shape", "[8,13]"),
    "S44_shape_too_small": number_case("shape", "[8,11]"),
    "S44_dtype_too_small": number_case("dtype", '"F16"'),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_number(tnl, sound, tmp_path, case):
    c, ts = sound
    rows, data = parts(ts)
    field, text, which = NUMBERS[case]
    name, row = rows[which]
    keys = ("dtype", "shape", "data_offsets")
    raw = "{" + ",".join('"%s":%s' % (k, text if k == field else json.dumps(row[k]))
                         for k in keys) + "}"
    rows[which] = (name, raw)
    forge.folder(tmp_path, c, ts, weights=None)
    forge.write(tmp_path / FILE, forge.st_file(forge.pad8(forge.st_header(rows)), data))
    tnl.refuses(tmp_path, FILE, (name, "header: byte "))


def relaid(ts, move):
    """The file with each row's offsets passed through move(i, begin, end)."""
    rows, data = parts(ts)
    out = []
    for i, (name, row) in enumerate(rows):
        out.append((name, {**row, "data_offsets": list(move(i, *row["data_offsets"]))}))
    return forge.pad8(forge.st_header(out)), data


def test_S39_overlap(tnl, sound, tmp_path):
    c, ts = sound
    header, data = relaid(ts, lambda i, b, e: (b - 4 * (i > 0), e - 4 * (i > 0)))
    forge.folder(tmp_path, c, ts, weights=None)
    forge.write(tmp_path / FILE, forge.st_file(header, data[:-4]))
    tnl.refuses(tmp_path, FILE)


def test_S40_two_names_one_range(tnl, tmp_path):
    c = forge.config(tie_word_embeddings=False)
    ts = forge.tensors(c)
    rows = forge.st_entries({k: t for k, t in ts.items() if k != "lm_head.weight"})
    rows.append(("lm_head.weight", rows[0][1]))
    data = b"".join(t[2] for k, t in ts.items() if k != "lm_head.weight")
    forge.folder(tmp_path, c, ts, weights=None)
    forge.write(tmp_path / FILE, forge.st_file(forge.pad8(forge.st_header(rows)), data))
    tnl.refuses(tmp_path, FILE)


def test_S41_hole(tnl, sound, tmp_path):
    c, ts = sound
    header, data = relaid(ts, lambda i, b, e: (b + 16 * (i > 2), e + 16 * (i > 2)))
    forge.folder(tmp_path, c, ts, weights=None)
    forge.write(tmp_path / FILE, forge.st_file(header, data + bytes(16)))
    tnl.refuses(tmp_path, FILE)


def test_S41_hole_in_front(tnl, sound, tmp_path):
    c, ts = sound
    header, data = relaid(ts, lambda i, b, e: (b + 16, e + 16))
    forge.folder(tmp_path, c, ts, weights=None)
    forge.write(tmp_path / FILE, forge.st_file(header, bytes(16) + data))
    tnl.refuses(tmp_path, FILE)


# ---- meaning ----


@pytest.mark.parametrize("shift", range(1, 8))
def test_S46_odd_header_length(tnl, sound, tmp_path, shift):
    """Data not aligned to its elements: refused in one line or copied, never a fault."""
    c, ts = sound
    rows, data = parts(ts)
    header = forge.pad8(forge.st_header(rows)) + b" " * shift
    forge.folder(tmp_path, c, ts, weights=None)
    forge.write(tmp_path / FILE, forge.st_file(header, data))
    code, _, err = tnl.run("inspect", tmp_path)
    if code != 0:
        tnl.refuses(tmp_path, FILE)


@pytest.mark.parametrize("name", list(forge.shapes(forge.config())))
def test_S47_missing_tensor(tnl, sound, tmp_path, name):
    c, ts = sound
    forge.folder(tmp_path, c, {k: t for k, t in ts.items() if k != name})
    tnl.refuses(tmp_path, name)


def test_S47_ok_extra_tensor(tnl, sound, tmp_path):
    c, ts = sound
    extra = {**ts, "model.decoder.version": ["F32", [1], bytes(4)]}
    forge.folder(tmp_path, c, extra)
    tnl.accepts(tmp_path)


def change_shape(ts, name, shape):
    n = forge.count(shape)
    return {**ts, name: [ts[name][0], shape, (ts[name][2] * 2)[: 4 * n]]}


SHAPES = {
    "transposed": ("model.layers.0.channel_mixer.l1.weight", [8, 12]),
    "one_row_less": ("model.layers.1.token_mixer.qkvu_proj.weight", [31, 8]),
    "one_row_more": ("model.layers.1.token_mixer.qkvu_proj.weight", [33, 8]),
    "vocabulary_minus_1": ("model.embed_tokens.weight", [299, 8]),
    "vocabulary_plus_1": ("model.embed_tokens.weight", [301, 8]),
    "theta_without_the_middle_1": ("model.layers.0.token_mixer.lrpe.theta", [8]),
    "matrix_of_rank_1": ("model.layers.0.token_mixer.out_proj.weight", [64]),
    "matrix_of_rank_3": ("model.layers.0.token_mixer.out_proj.weight", [8, 8, 1]),
    "swapped_heads": ("model.layers.0.token_mixer.lrpe.theta", [4, 1, 2]),
}


@pytest.mark.parametrize("case", SHAPES)
def test_S47_shape(tnl, sound, tmp_path, case):
    c, ts = sound
    name, shape = SHAPES[case]
    forge.folder(tmp_path, c, change_shape(ts, name, shape))
    tnl.refuses(tmp_path, name, FILE)


@pytest.mark.parametrize("dtypes", [("F32", "BF16"), ("BF16", "F32"), ("F16", "BF16")])
def test_ok_mixed_dtypes(tnl, tmp_path, dtypes):
    c = forge.config(3)
    a, b = (forge.tensors(c, d) for d in dtypes)
    mixed = {k: (a if i % 2 else b)[k] for i, k in enumerate(a)}
    # 16-bit tensors of odd length would leave later f32 tensors unaligned: sort as the format does
    mixed = dict(sorted(mixed.items(), key=lambda kv: kv[1][0] != "F32"))
    forge.folder(tmp_path, c, mixed)
    tnl.accepts(tmp_path)


def poke(ts, name, dtype, at, raw):
    data = bytearray(ts[name][2])
    data[at : at + len(raw)] = raw
    return {**ts, name: [dtype, ts[name][1], bytes(data)]}


NONFINITE = {"nan": struct.pack("<f", float("nan")), "inf": struct.pack("<f", float("inf")),
             "minus_inf": struct.pack("<f", float("-inf")), "signalling_nan": b"\1\0\x80\x7f"}


@pytest.mark.parametrize("name", ["model.embed_tokens.weight",
                                  "model.layers.0.token_mixer.lrpe.theta",
                                  "model.layers.1.channel_mixer.l3.weight"])
@pytest.mark.parametrize("value", NONFINITE)
def test_S48_nonfinite(tnl, sound, tmp_path, name, value):
    c, ts = sound
    last = len(ts[name][2]) - 4
    forge.folder(tmp_path, c, poke(ts, name, "F32", last, NONFINITE[value]))
    tnl.refuses(tmp_path, name)


@pytest.mark.parametrize("dtype, raw", [("F16", b"\x00\x7c"), ("F16", b"\x01\x7e"),
                                        ("BF16", b"\x80\x7f"), ("BF16", b"\xc0\xff")])
def test_S48_nonfinite_in_16_bits(tnl, tmp_path, dtype, raw):
    c = forge.config()
    ts = forge.tensors(c, dtype)
    name = "model.layers.1.channel_mixer.l3.weight"
    forge.folder(tmp_path, c, poke(ts, name, dtype, len(ts[name][2]) - 2, raw))
    tnl.refuses(tmp_path, name)


@pytest.mark.parametrize("value", [0.0, 1e-40, -1e-45])
def test_S48_ok_zeros_and_denormals(tnl, sound, tmp_path, value):
    c, ts = sound
    flat = {k: [t[0], t[1], struct.pack("<f", value) * forge.count(t[1])] for k, t in ts.items()}
    forge.folder(tmp_path, c, flat)
    tnl.accepts(tmp_path)
