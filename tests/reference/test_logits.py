"""The engine's f32 logits against the float64 reference, on random small models that together cover
every config field. Prompts are fed whole, then 64 tokens one by one; every row is compared.

The models are causal, so one run of the reference over the longest sequence serves all prompts.
TNL_DUMP_LOGITS names the tool built from tests/prop/dump_logits.c (default: beside TNL_BIN, then
build/), TNL_SEED changes the draw."""

import json
import os
import subprocess

import numpy as np
import pytest

import folders
import tnl_reference as ref

SEED = int(os.environ.get("TNL_SEED", "20240211"))
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
BUILD = os.path.dirname(os.path.abspath(os.environ.get("TNL_BIN", ROOT + "/build/tnl")))
TOOL = os.environ.get("TNL_DUMP_LOGITS", BUILD + "/tests/prop/dump_logits")
CASES = 28
DECODE = 64
TOLERANCE = 1e-4


def dump(folder, tokens, slices, tmp, *flags):
    """Run the tool; returns its report and the logits [N, V]."""
    ids, out = os.path.join(tmp, "ids"), os.path.join(tmp, "logits")
    np.asarray(tokens, dtype="<i4").tofile(ids)
    cmd = [TOOL, *flags, "-s", ",".join(map(str, slices)), folder, ids, out]
    p = subprocess.run(cmd, capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr
    report = json.loads(p.stdout)
    return report, np.fromfile(out, dtype="<f4").reshape(len(tokens), -1).astype(np.float64)


def prompts(block):
    return [1, 7, block - 1, block, block + 1, 255, 256, 257, 1000]


def error(got, want):
    return float(np.max(np.abs(got - want)) / np.max(np.abs(want)))


def test_the_draw_covers_every_field():
    seen = {}
    lrpe_of_later_layer = False
    for i in range(CASES):
        c = folders.draw_config(np.random.default_rng([SEED, i]), i)
        for key, value in c.items():
            seen.setdefault(key, set()).add(json.dumps(value))
        seen.setdefault("v3", set()).add("gate_dim" in c)
        lrpe_of_later_layer |= any(c["linear_use_lrpe_list"][1:])
        seen.setdefault("v3 and act", set()).add(("gate_dim" in c, c["linear_act_fun"]))
        seen.setdefault("norm and bias", set()).add((c["norm_type"], c["bias"]))
    assert len(seen["linear_act_fun"]) == len(folders.ACTS)
    assert len(seen["norm and bias"]) == 4
    for key in ("no_scale_embedding", "tie_word_embeddings", "v3"):
        assert len(seen[key]) == 2, key
    assert {"1", "2", "3", "4"} == seen["decoder_layers"]
    assert {"1", "2", "3", "4", "5", "6", "8"} == seen["decoder_attention_heads"]
    assert "-1" in seen["glu_dim"] and len(seen["glu_dim"]) > 2
    assert lrpe_of_later_layer
    assert len(seen["v3 and act"]) == 2 * len(folders.ACTS)


@pytest.mark.parametrize("case", range(CASES))
def test_logits(case, tmp_path):
    folder = str(tmp_path / "model")
    config, dtype = folders.draw_folder(folder, SEED, case)
    print("seed", SEED, "case", case, dtype, json.dumps(config))
    rng = np.random.default_rng([SEED, case, 1])
    tokens = rng.integers(0, config["vocab_size"], 1000 + DECODE)
    want = ref.Model(folder).logits(tokens)
    report, _ = dump(folder, tokens[:1], [1], tmp_path)
    for n in prompts(report["block"]):
        # on this model's own storage, and for the longest prompt also widened to f32
        _, got = dump(folder, tokens[: n + DECODE], [n, 1], tmp_path)
        assert np.all(np.isfinite(got))
        e = error(got, want[: n + DECODE])
        print("prompt", n, "error %.2e" % e)
        assert e < TOLERANCE, (n, e)
    _, widened = dump(folder, tokens, [1000, 1], tmp_path, "-w", "f32")
    assert error(widened, want) < TOLERANCE


def read_state(path, layers, heads, block):
    """The exported state: position, and per layer (S, K, V) as the reference has them. Layout per
    head S [Dk][Dv], K [B][Dk], V [B][Dv]; a layer is rounded up to 16 floats."""
    with open(path, "rb") as f:
        raw = f.read()
    assert raw[:8] == b"TNLSTATE"
    pos = int.from_bytes(raw[32:40], "little")
    data, at, out = np.frombuffer(raw[48:], dtype="<f4").astype(np.float64), 0, []
    for dk, dv in layers:
        n = dk * dv + block * (dk + dv)
        per_head = data[at : at + heads * n].reshape(heads, n)
        s = per_head[:, : dk * dv].reshape(heads, dk, dv)
        k = per_head[:, dk * dv : dk * dv + block * dk].reshape(heads, block, dk)
        v = per_head[:, dk * dv + block * dk :].reshape(heads, block, dv)
        out.append((s, k.transpose(1, 0, 2), v.transpose(1, 0, 2)))
        at += -(-heads * n // 16) * 16
    assert at == len(data)
    return pos, out


@pytest.mark.parametrize("case", range(0, CASES, 3))
def test_state(case, tmp_path):
    """The exported state is what its definition says: S as of the last block boundary, then the
    pending rows, then zeros."""
    folder = str(tmp_path / "model")
    config, _ = folders.draw_folder(folder, SEED, case)
    rng = np.random.default_rng([SEED, case, 2])
    n = int(rng.integers(1, 700))
    tokens = rng.integers(0, config["vocab_size"], n)
    model, kept = ref.Model(folder), []
    model.logits(tokens, kept)
    exported = str(tmp_path / "state")
    report, _ = dump(folder, tokens, [17, 90, 1], tmp_path, "-e", exported)
    block, heads = report["block"], config["decoder_attention_heads"]
    shapes = [(k.shape[2], v.shape[2]) for k, v in kept]
    pos, got = read_state(exported, shapes, heads, block)
    assert pos == n
    for layer, ((s, k, v), (S, K, V)) in enumerate(zip(got, model.state(kept, block))):
        used = n % block
        assert len(K) == used and not k[used:].any() and not v[used:].any()
        for a, b in ((s, S), (k[:used], K), (v[:used], V)):
            assert a.shape == b.shape
            assert np.max(np.abs(a - b), initial=0) <= TOLERANCE * np.max(np.abs(b), initial=1e-6)


@pytest.mark.parametrize("case", [0, 1])
def test_the_comparison_can_fail(case, tmp_path):
    """One weight changed in its third decimal must be seen."""
    folder = str(tmp_path / "model")
    rng = np.random.default_rng([SEED, case])
    config = folders.draw_config(rng, case)
    tensors = folders.draw_tensors(rng, config)
    folders.write_folder(folder, config, tensors)
    tokens = list(range(16))
    want = ref.Model(folder).logits(tokens)
    tensors["model.layers.0.token_mixer.out_proj.weight"][0, 0] += 0.02
    folders.write_folder(folder, config, tensors)
    _, got = dump(folder, tokens, [16], tmp_path)
    assert error(got, want) > TOLERANCE


def test_bundled_model(tmp_path):
    """The real weights: trained values, all layers, more than one block."""
    folder = os.path.join(ROOT, "configs", "tales")
    model = ref.Model(folder)
    tokens = np.random.default_rng(SEED).integers(0, model.config["vocab_size"], 200)
    _, got = dump(folder, tokens, [130, 1], tmp_path)
    e = error(got, model.logits(tokens))
    print("error %.2e" % e)
    assert e < TOLERANCE
