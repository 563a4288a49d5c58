"""What the subcommands print, on tiny random models."""

import json
import math
import os
import pathlib

import pytest

from conftest import ROOT, needs_tokenizer

TEXT = "Once upon a time there was a king, and he had three daughters.\n"


# ---- inspect ----

def test_inspect(tnl, model):
    r = tnl("inspect", model, "--json", "--tensors").json
    config = json.loads((model / "config.json").read_text())
    assert r["layers"] == config["decoder_layers"]
    assert r["width"] == config["decoder_embed_dim"]
    assert r["vocab"] == config["vocab_size"]
    assert r["heads"] == config["decoder_attention_heads"]
    assert r["activation"] == "silu" and r["gate"] == "linear" and r["tied_embeddings"] is True
    sizes = [math.prod(t["shape"]) for t in r["tensor_list"]]
    assert r["parameters"] == sum(sizes) and r["tensors"] == len(sizes)
    assert all(t["bytes"] == 4 * n for t, n in zip(r["tensor_list"], sizes))
    assert r["file_bytes"] == os.path.getsize(model / "model.safetensors")
    # memory grows with the sequences by the constant bytes of a state (and a row of logits each)
    more = tnl("inspect", model, "--json", "--parallel", 16).json
    grown = more["memory_bytes"] - r["memory_bytes"]
    assert more["state_bytes"] == r["state_bytes"] > 0
    assert grown >= 8 * r["state_bytes"]


def test_inspect_v3(tnl, bare):
    r = tnl("inspect", bare, "--json").json
    assert (r["gate"], r["gate_rank"], r["activation_on_v"]) == ("low-rank sigmoid", 4, True)
    assert (r["norm"], r["bias"], r["tied_embeddings"]) == ("layernorm", True, False)
    assert r["weights"] == "bf16"


def test_inspect_table(tnl, bare):
    out = tnl("inspect", bare, "--tensors").out
    for words in ("parameters", "state_bytes", "memory_bytes", "lm_head.weight", "[97,24]"):
        assert words in out
    assert tnl("inspect", bare, "--load", "read").out


# ---- generate ----

def generate(tnl, folder, *args, **kw):
    return tnl("generate", folder, "--json", *args, **kw).json


def test_generate_ids(tnl, bare):
    r = generate(tnl, bare, "--tokens", "1,2,3", "-n", 12, "--temperature", 0, "--ignore-eos")
    assert r["finish_reason"] == "length"
    assert r["usage"] == {"prompt_tokens": 3, "completion_tokens": 12}
    assert len(r["tokens"]) == 12
    assert all(0 <= t["id"] < 97 and t["logprob"] <= 0 for t in r["tokens"])
    assert r["timings"]["prefill_ms"] >= 0
    # ids beyond a tokenizer's reach are printed as ids
    out = tnl("generate", bare, "--tokens", "1 2 3", "-n", 12, "--temperature", 0, "--ignore-eos").out
    assert [int(x) for x in out.split()] == [t["id"] for t in r["tokens"]]


def test_generate_is_deterministic(tnl, bare):
    args = ("--tokens", "5,6", "-n", 20, "--ignore-eos")
    ids = [[t["id"] for t in generate(tnl, bare, *args, "--seed", s)["tokens"]] for s in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2]
    greedy = [generate(tnl, bare, *args, "--temperature", 0, "--seed", s)["tokens"] for s in (1, 2)]
    assert greedy[0] == greedy[1]
    for threads in (1, 2):
        same = generate(tnl, bare, *args, "--seed", 1, "--threads", threads)
        assert [t["id"] for t in same["tokens"]] == ids[0]


@pytest.mark.parametrize("device, code, words", [
    ("gpu", 2, 'device: found "gpu", expected auto, cpu, cuda or cuda:N'),
    ("cuda:-1", 2, "expected auto, cpu, cuda or cuda:N"),
    ("cuda:1000", 69, "cuda:1000: "),  # whatever this machine lacks: build, driver, or that GPU
])
def test_device_that_is_not_there(tnl, bare, device, code, words):
    r = tnl("generate", bare, "--tokens", "1", "--device", device, code=code)
    assert words in r.err and r.err.count("\n") <= 2


def test_device_by_name(tnl, bare):
    args = ("--tokens", "5,6", "-n", 3, "--temperature", 0, "--ignore-eos")
    assert generate(tnl, bare, *args, "--device", "cpu")["tokens"] == \
        generate(tnl, bare, *args)["tokens"]


def test_generate_logit_bias(tnl, bare):
    r = generate(tnl, bare, "--tokens", "1", "-n", 4, "--temperature", 0, "--logit-bias", "42:100")
    assert [t["id"] for t in r["tokens"]] == [42] * 4


def test_generate_stops_at_eos(tnl, bare):
    r = generate(tnl, bare, "--tokens", "1", "-n", 4, "--temperature", 0, "--logit-bias", "2:100")
    assert r["finish_reason"] == "eos"


@needs_tokenizer
def test_generate_text(tnl, model):
    args = ("-p", TEXT, "-n", 30, "--seed", 3, "--ignore-eos")
    r = generate(tnl, model, *args)
    plain = tnl("generate", model, *args, "-v")
    assert plain.out == r["text"] + "\n"
    assert "tokens/s" in plain.err and "30 tokens" in plain.err
    assert tnl("generate", model, *args, "--stream").out == r["text"] + "\n"
    assert tnl("generate", model, *args, "--echo").out == TEXT + r["text"] + "\n"


@needs_tokenizer
def test_generate_prompt_file(tnl, model, tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text(TEXT)
    tail = ("-n", 10, "--seed", 3)
    want = generate(tnl, model, "-p", TEXT, *tail)["text"]
    assert generate(tnl, model, "--prompt-file", path, *tail)["text"] == want
    assert generate(tnl, model, "-f", "-", *tail, stdin=TEXT.encode())["text"] == want
    tnl("generate", model, "-f", tmp_path / "none", code=66)
    path.write_bytes(b"\xff\xfe")
    assert "UTF-8" in tnl("generate", model, "-f", path, code=65).err


@needs_tokenizer
def test_generate_stop_string(tnl, model):
    args = ("-p", TEXT, "-n", 60, "--seed", 3, "--ignore-eos")
    whole = generate(tnl, model, *args)["text"]
    stop = next(whole[i:i + 3] for i in range(15, 99) if "\ufffd" not in whole[i:i + 3])
    r = generate(tnl, model, *args, "--stop", stop)
    assert r["finish_reason"] == "stop" and r["text"] == whole[:whole.index(stop)]


@pytest.mark.parametrize("args, words", [
    ((), "--prompt"),
    (("-p", "a", "--tokens", "1"), "one of"),
    (("--tokens", ""), "empty"),
    (("--tokens", "1,x"), "entry 1"),
    (("--tokens", "1,-2"), "entry 1"),
    (("--tokens", "99999999999"), "entry 0"),
    (("--tokens", "1", "--temperature", "101"), "--temperature"),
    (("--tokens", "1", "--top-p", "1.5"), "--top-p"),
    (("--tokens", "1", "--stop", ""), "--stop"),
    (("--tokens", "1", "--logit-bias", "5"), "ID:X"),
    (("--tokens", "1", "--logit-bias", "5:101"), "ID:X"),
    (("--tokens", "1", "-n", "-1"), "out of range"),
])
def test_generate_refuses(tnl, bare, args, words):
    r = tnl("generate", bare, *args, code=2)
    assert words in r.err and r.out == ""


def test_generate_token_out_of_range(tnl, bare):
    r = tnl("generate", bare, "--tokens", "1,97", code=None)
    assert r.code in (2, 65) and "97" in r.err


def test_generate_without_tokenizer(tnl, bare):
    r = tnl("generate", bare, "-p", "text", code=None)
    assert r.code in (66, 78) and len(r.err.splitlines()) == 1


# ---- tokenize and eval ----

@needs_tokenizer
def test_tokenize(tnl, model):
    text = "Once upon a time, \u00e9\u4e2d\U0001F600."
    r = tnl("tokenize", model, text, "--json").json
    assert len(r["ids"]) == len(r["pieces"]) > 3
    ids = tnl("tokenize", model, text, "--ids").out.strip()
    assert ids == ",".join(map(str, r["ids"]))
    table = tnl("tokenize", model, text).out.splitlines()
    assert [int(line.split()[0]) for line in table] == r["ids"]
    assert tnl("tokenize", model, "--decode", *r["ids"]).out == text + "\n"
    assert tnl("tokenize", model, "--decode", ids, "--json").json == {"text": text}
    assert tnl("tokenize", model, "--file", "-", "--ids", stdin=text.encode()).out.strip() == ids
    assert tnl("tokenize", model, "", "--json").json == {"ids": [], "pieces": []}


@needs_tokenizer
def test_tokenize_refuses(tnl, model, bare):
    tnl("tokenize", model, code=2)
    tnl("tokenize", model, "a", "b", code=2)
    tnl("tokenize", model, "--decode", "x", code=2)
    assert tnl("tokenize", model, "--decode", "999999", code=None).code in (2, 65)
    tnl("tokenize", bare, "a", code=66)


@needs_tokenizer
def test_eval(tnl, model, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 20)
    r = tnl("eval", model, path, "--json").json
    assert r["bytes"] == 20 * len(TEXT) and r["predicted"] == r["tokens"] - 1
    assert math.isclose(r["perplexity"], math.exp(r["nll"] / r["predicted"]), rel_tol=1e-6)
    assert math.isclose(r["bits_per_byte"], r["nll"] / math.log(2) / r["bytes"], rel_tol=1e-6)
    # a random model is no better than guessing
    config = json.loads((model / "config.json").read_text())
    assert r["perplexity"] > 0.5 * config["vocab_size"]
    out = tnl("eval", model, path).out
    assert "perplexity" in out and "%.4f" % r["perplexity"] in out
    assert tnl("eval", model, "-", "--json", stdin=(TEXT * 20).encode()).json["nll"] == r["nll"]


@needs_tokenizer
def test_eval_agrees_with_generate(tnl, model, tmp_path):
    """The same chain rule from two commands: eval's sum and generate's first logprob."""
    path = tmp_path / "two.txt"
    ids = tnl("tokenize", model, "a b", "--json").json["ids"]
    text = tnl("tokenize", model, "--decode", *ids[:2]).out[:-1]
    path.write_text(text)
    nll = tnl("eval", model, path, "--json").json["nll"]
    back = tnl("tokenize", model, text, "--json").json["ids"]
    assert len(back) == 2
    r = generate(tnl, model, "--tokens", back[0], "-n", 1, "--temperature", 0,
                 "--logit-bias", "%d:100" % back[1])
    assert r["tokens"][0]["id"] == back[1]
    assert math.isclose(-r["tokens"][0]["logprob"], nll, rel_tol=1e-4)


@needs_tokenizer
def test_eval_refuses(tnl, model, tmp_path):
    tnl("eval", model, code=2)
    tnl("eval", model, tmp_path / "none", code=66)
    path = tmp_path / "empty.txt"
    path.write_text("")
    assert "tokens" in tnl("eval", model, path, code=65).err
    assert tnl("eval", model, tmp_path, code=None).code in (66, 74)


def test_eval_ids(tnl, bare, tmp_path):
    """Without a tokenizer, and against the sum of what generate says of the same tokens."""
    path = tmp_path / "ids.txt"
    ids = [5, 17, 3, 40, 9]
    path.write_text(" ".join(map(str, ids)) + "\n")
    r = tnl("eval", bare, path, "--ids", "--json").json
    assert r["tokens"] == 5 and r["predicted"] == 4 and "bytes" not in r
    assert math.isclose(r["perplexity"], math.exp(r["nll"] / 4), rel_tol=1e-6)
    assert tnl("eval", bare, "-", "--ids", "--json", stdin=b"5,17,3,40,9").json["nll"] == r["nll"]
    assert "bits per byte" not in tnl("eval", bare, path, "--ids").out
    parts = [tnl("eval", bare, "-", "--ids", "--json", stdin=b"5,17,3").json["nll"],
             tnl("eval", bare, "-", "--ids", "--json", stdin=b"5,17,3,40").json["nll"]]
    assert 0 < parts[0] < parts[1] < r["nll"]


def test_eval_ids_refuses(tnl, bare):
    for text, code, words in ((b"1", 65, "1 tokens"), (b"1,2,x", 2, "entry 2"),
                              (b"1,99999999", 65, "found token 99999999"), (b"1,-2", 2, "entry 1"),
                              (b"1,2\0,3", 65, "zero byte")):
        assert words in tnl("eval", bare, "-", "--ids", stdin=text, code=code).err


# ---- shapes ----

def test_published_shapes():
    """The shapes have the published parameter counts (a multiply for each tensor's size)."""
    import tiny_model
    counts = {}
    for path in sorted(pathlib.Path(ROOT, "configs", "shapes").glob("*.json")):
        config = json.loads(path.read_text())
        counts[path.stem] = sum(math.prod(s) for _, s in tiny_model.tensor_shapes(config)) / 1e9
    want = {"tnl-385m": 0.396, "tnl-1b": 1.02, "tnl-3b": 2.86, "tnl-7b": 6.83, "tnl-15b": 15.1}
    assert set(counts) == set(want)
    for name, billions in want.items():
        assert abs(counts[name] / billions - 1) < 0.02, (name, counts[name])
