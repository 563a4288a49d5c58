"""The scripts for a GPU machine, without one: the table of tests/bench/gpu_targets from lines made
up here, what tests/bench/gpu_peers.py says where there is nothing to time, and the steps of
scripts/gpu-check with programs that do nothing in the place of the real ones."""

import json
import os
import stat
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TARGETS = os.path.join(ROOT, "tests", "bench", "gpu_targets")
PEERS = os.path.join(ROOT, "tests", "bench", "gpu_peers.py")
CHECK = os.path.join(ROOT, "scripts", "gpu-check")

COPY, RATE = 2e12, 600e12
LENGTHS = (512, 2048, 8192, 32768, 131072)


def run(*command, code=0, env=None):
    p = subprocess.run(command, capture_output=True, text=True, timeout=120,
                       env={**os.environ, **(env or {})})
    assert p.returncode == code, (p.returncode, p.stdout[-2000:], p.stderr[-2000:])
    return p


# ---- the table ----


def kernels(moving=1.5):
    """What checkcuda --bench prints of a device of round limits."""
    lines = [{"test": "place", "name": "a device", "emulated": False},
             {"test": "copy", "bytes_per_s": COPY}, {"test": "mma", "ops_per_s": RATE / 2},
             {"test": "blaslt", "version": 130000, "ops_per_s": RATE}]
    for batch, heads in ((4, 32), (1, 16)):
        for n in LENGTHS:
            size = 4 * 2 * batch * heads * 128 * n
            lines.append({"test": "attention_prefill", "batch": batch, "heads": heads, "dim": 128,
                          "tokens": n, "bytes": size, "seconds": moving * size / COPY})
    return lines


def decodes(weights, share, batch_share=0.7, **more):
    lines = []
    for batch, s in ((1, share), (64, batch_share)):
        for context in (0, 1000000):
            lines.append({"test": "decode", "weights": weights, "batch": batch, "context": context,
                          "needed_per_token": 1e9, "tokens_per_s": s * COPY / 1e9, **more})
    return lines


def prefills(share, state=5, **more):
    return [{"test": "prefill", "weights": "bf16", "tokens": n, "from": at, "state_bytes": state,
             "working_bytes": 7, "needed_per_token": 1e10, "tokens_per_s": share * RATE / 1e10,
             **more} for n, at in ((2048, 0), (2048, 1000000), (1000000, 0))]


def peer_lines(factor):
    return [{"test": "peer", "peer": p, "batch": x["batch"], "heads": x["heads"], "dim": 128,
             "tokens": x["tokens"], "seconds": factor * x["seconds"]}
            for p in ("lightning2", "fla") for x in kernels()[4:]]


def table(tmp_path, lines, *more):
    path = tmp_path / "lines.json"
    path.write_text("".join(json.dumps(x) + "\n" for x in lines))
    out = run(sys.executable, TARGETS, "--lines", str(path), *more).stdout.splitlines()
    rows = {}
    for line in out:
        cells = [c.strip() for c in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0] != "work" and not cells[0].startswith("---"):
            assert cells[0] not in rows or cells[0].startswith("time"), line
            rows[cells[0]] = cells[1:]
    return rows, out[-1]


def verdicts(rows):
    return {work: (target, word) for work, (target, _, word) in rows.items() if target}


def test_all_met(tmp_path):
    lines = kernels() + peer_lines(6)
    for weights, share in (("bf16", 0.92), ("q8", 0.86), ("q4", 0.76), ("f8", 0.5)):
        lines += decodes(weights, share, host_share=0.01)
    rows, last = table(tmp_path, lines + prefills(0.65))
    words = verdicts(rows)
    assert set(w for _, w in words.values()) == {"met"}, words
    assert last == "%d targets met, 0 missed, 0 not measured" % len(words)
    assert rows["limit: copy bandwidth, reads and writes"][1] == "2000 GB/s"
    assert rows["limit: bf16 matrix rate"][1] == "600 Tflop/s, cuBLASLt 130000"
    assert rows["attention, 4 x 32 heads, 512 tokens"][1].startswith("1.50 x")
    assert rows["decode 7B q8, batch 1, context 0"][:2] == [">= 85% of bandwidth",
                                                           "86.0%, 1720 tokens/s"]
    assert rows["decode 7B f8, batch 1, context 0"][0] == ""


@pytest.mark.parametrize("lines, work", [
    (kernels(moving=1.7), "attention, 4 x 32 heads, 8192 tokens"),
    (kernels() + peer_lines(1.9),
     "against published Triton Lightning Attention-2, 4 x 32, 512"),
    (kernels() + peer_lines(4.9),
     "against published Triton Lightning Attention-2, 1 x 16, 32768"),
    (kernels() + peer_lines(1.2), "against fla chunk_simple_gla, 4 x 32, 131072"),
    (kernels() + decodes("bf16", 0.89), "decode 7B bf16, batch 1, context 1000000"),
    (kernels() + decodes("q8", 0.84), "decode 7B q8, batch 1, context 0"),
    (kernels() + decodes("q4", 0.74), "decode 7B q4, batch 1, context 0"),
    (kernels() + decodes("bf16", 0.95, 0.59), "decode 7B bf16, batch 64, context 0"),
    (kernels() + decodes("bf16", 0.95)[:1] + decodes("bf16", 0.91)[1:],
     "context 0 and 1000000, bf16"),
    (kernels() + decodes("bf16", 0.95, host_share=0.031), "host time between steps, bf16, batch 1"),
    (kernels() + prefills(0.59), "prefill 7B bf16, 1000000 tokens from 0"),
    (kernels() + prefills(0.65)[:2] + prefills(0.7)[2:], "fastest and slowest of these"),
    (kernels() + prefills(0.65)[:2] + prefills(0.65, state=6)[2:], "their memory"),
])
def test_missed(tmp_path, lines, work):
    rows, last = table(tmp_path, lines)
    assert rows[work][2] == "MISSED", rows[work]
    assert " 0 missed" not in last


def test_not_flat(tmp_path):
    lines = kernels(1.0)
    lines[4]["seconds"] *= 1.2
    assert table(tmp_path, lines)[0]["time per token"][1:] == ["20.0% apart", "MISSED"]


def test_nothing_measured(tmp_path):
    """Every target is still there, with a word why."""
    everything = kernels() + peer_lines(6) + prefills(0.65)
    for weights in ("bf16", "q8", "q4", "f8"):
        everything += decodes(weights, 0.9, host_share=0)
    full = verdicts(table(tmp_path, everything)[0])
    rows, last = table(tmp_path, [{"test": "part", "name": "kernels", "seconds": 1,
                                   "failed": "exit status 2: no memory"}])
    none = verdicts(rows)
    assert set(none) == set(full)
    assert rows["attention, 4 x 32 heads, 512 tokens"][1:] == [
        "not measured: exit status 2: no memory", ""]
    assert last == "0 targets met, 0 missed, %d not measured" % len(none)
    assert len(none) > 30


def test_long_prompt_cut_short(tmp_path):
    lines = kernels() + prefills(0.65)
    lines[-1]["measured_tokens"] = 400000
    row = table(tmp_path, lines)[0]["prefill 7B bf16, 1000000 tokens from 0"]
    assert row[1].endswith("the first 400000") and row[2] == "met"


def test_peers_that_are_not_there(tmp_path):
    lines = kernels() + [{"test": "peer", "peer": "fla", "missing": "torch is not here"}]
    rows = table(tmp_path, lines)[0]
    assert rows["against fla chunk_simple_gla, 4 x 32, 512"][1] == "not measured: torch is not here"
    bad = dict(peer_lines(6)[0], missing="OutOfMemoryError: no memory")
    del bad["seconds"]
    row = table(tmp_path, kernels() + [bad])[0][
        "against published Triton Lightning Attention-2, 4 x 32, 512"]
    assert row[1] == "not measured: OutOfMemoryError: no memory"


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_parts_that_fail(tmp_path):
    """A part that hangs, one that dies and one that prints a broken line do not hide the rest."""
    lines = tmp_path / "kernels.json"
    lines.write_text("".join(json.dumps(x) + "\n" for x in kernels()) + '{"test": "cut o')
    check = script(tmp_path / "checkcuda", "cat %s\n" % lines)
    tnl = script(tmp_path / "tnl", "case \"$*\" in\n*q8*) echo 'tnl: no luck' >&2; exit 70;;\n"
                 "*) sleep 60;;\nesac\n")
    p = run(sys.executable, TARGETS, "--checkcuda", check, "--tnl", tnl, "--weights", "q8,q4",
            "--seconds", "4", "--json", str(tmp_path / "out.json"), code=1)
    assert "| not measured: exit status 70: tnl: no luck" in p.stdout
    assert "| not measured: stopped after " in p.stdout
    assert "| met" in p.stdout
    kept = [json.loads(x) for x in (tmp_path / "out.json").read_text().splitlines()]
    assert {"test": "copy", "bytes_per_s": COPY} in kept


def test_wrong_arguments():
    assert "--build" in run(sys.executable, TARGETS, code=2).stderr
    assert "q9" in run(sys.executable, TARGETS, "--build", ".", "--weights", "q9", code=2).stderr
    assert "no such folder" in run(sys.executable, PEERS, "--fla", "/none", code=2).stderr


# ---- other people's kernels ----

FAKE_TORCH = """
__version__ = "0"
class cuda:
    @staticmethod
    def is_available():
        return False
"""


def test_no_torch(tmp_path):
    for text, words in (("raise ImportError('no')", "torch is not here"),
                        (FAKE_TORCH, "torch finds no GPU")):
        (tmp_path / "torch.py").write_text(text)
        out = run(sys.executable, "-B", PEERS, env={"PYTHONPATH": str(tmp_path)}).stdout
        rows = [json.loads(x) for x in out.splitlines()]
        assert rows == [{"test": "peer", "peer": p, "missing": words}
                        for p in ("lightning2", "fla")]


# ---- scripts/gpu-check ----


TNL = """case "$*" in *:99*) exit 69;; eval*) echo '"nll":7.5,';; *) echo 1 2 3;; esac"""


def check(tmp_path, *args, code=0, **programs):
    """With these scripts as its tools and as what a build would make."""
    tools, build = tmp_path / "tools", tmp_path / "build"
    cuda = build / "tests" / "checkcuda"
    made = {"checkcuda": "exit 0", "cuda_model": "exit 0", "cuda_engine": "exit 0", "tnl": TNL,
            "meson": "echo 1.0", "ninja": "echo 1.0", **programs}
    for name, text in made.items():
        if text is None:
            continue
        script((tools if name in ("meson", "ninja") else build if name == "tnl" else cuda) / name,
               text)
    script(tools / "timeout",
           'shift 3; case $1 in *cuda_model) n=2;; *) n=60;; esac; exec /usr/bin/timeout $n "$@"')
    script(tools / "nvcc", "echo sm_90")
    script(tools / "nvidia-smi", "echo 9.0")
    env = {"PATH": "%s:%s" % (tools, os.environ["PATH"]), "CJSON_DIR": "", "CUDA_HOME": ""}
    return run(CHECK, "--build", str(build), *args, code=code, env=env)


def summary(p):
    return [x for x in p.stdout.splitlines() if x.startswith(("== summary", "FAILED"))]


def test_check_passes(tmp_path):
    told = tmp_path / "told"
    p = check(tmp_path, "--no-bench", meson='echo "$@" >>%s' % told)
    assert summary(p)[0].startswith("== summary: 9 steps passed, 0 failed")
    assert "-Dgpu_archs=sm_90a" in told.read_text()
    assert "-Dserver=disabled" in told.read_text()


def test_check_goes_on(tmp_path):
    p = check(tmp_path, "--no-bench", code=1, checkcuda="exit 3", cuda_model="sleep 30")
    assert summary(p)[1:] == ["FAILED: kernels against float64 (exit status 3)",
                              "FAILED: the model against the CPU (stopped after 120 s)"]
    assert "-- the engine on the GPU: ok" in p.stdout


def test_check_compares(tmp_path):
    for loss, same in (("12.0", True), ("$([ $7 = cpu ] && echo 1.0 || echo 1.02)", False)):
        p = check(tmp_path, "--no-bench", code=0 if same else 1,
                  tnl="case \"$*\" in *:99*) exit 69;; eval*) echo \"\\\"nll\\\":%s,\";; esac" % loss)
        assert ("FAILED: the same loss (exit status 1)" in summary(p)) != same, p.stdout


def test_check_counts_the_benchmark(tmp_path):
    p = check(tmp_path, "--quick", code=1, checkcuda='[ "$1" != --bench ]')
    assert summary(p)[1:] == ["FAILED: benchmark (exit status 1)"]
    assert "| attention, 4 x 32 heads, 512 tokens" in p.stdout


def test_check_without_a_gpu(tmp_path):
    p = check(tmp_path, code=69, checkcuda="exit 77")
    assert "no GPU that can be used" in p.stderr
    assert "== the model against the CPU" not in p.stdout


def test_check_with_half_a_build(tmp_path):
    """What was built is checked all the same."""
    p = check(tmp_path, "--no-bench", code=1, ninja='[ "$1" = --version ]', cuda_engine=None)
    assert summary(p)[1:] == ["FAILED: build (exit status 1)",
                              "FAILED: the engine on the GPU (exit status 127)"]


def test_check_without_a_build(tmp_path):
    p = check(tmp_path, code=1, ninja='[ "$1" = --version ]', checkcuda=None, tnl=None)
    assert "nothing was built" in p.stderr
    assert summary(p)[1:] == ["FAILED: build (exit status 1)"]


def test_check_arguments():
    assert "--rehearse" in run(CHECK, "--help").stdout
    assert "unknown argument" in run(CHECK, "--fast", code=2).stderr
    assert "expected a value" in run(CHECK, "--peers", code=2).stderr
