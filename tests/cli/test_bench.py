"""tnl bench on tiny models: every option runs, and what it prints is consistent. No test asserts a
time."""

import os

import pytest

MACHINE = {"test", "threads", "read_gb_s", "fp32_gflop_s", "int8_gop_s"}
ROW = {"test", "weights", "threads", "turns", "tokens_per_s", "best_tokens_per_s", "ms_per_token",
       "best_ms_per_token", "limit", "limit_type", "limit_rate", "best_limit_rate",
       "measured_tokens", "needed_per_token", "share_of_limit", "best_share_of_limit", "state_bytes",
       "working_bytes", "rss_bytes"}
PREFILL = ROW | {"tokens", "from"}
DECODE = ROW | {"context", "batch", "plain_rate", "share_of_plain"}
PROFILE = {"test", "of", "weights", "threads", "op", "calls", "us", "share_of_step", "gb_s",
           "share_of_bandwidth", "gop_s", "limit", "share_of_peak"}
QUICK = ("--machine-seconds", 0.05, "--repeats", 2, "--slice", 0.001)


def of(lines, test):
    return [r for r in lines if r["test"] == test]


def check_machine(lines, threads):
    rows = of(lines, "machine")
    assert [r["threads"] for r in rows] == threads and lines[:len(rows)] == rows
    for row in rows:
        assert set(row) == MACHINE
        assert all(row[k] > 0 for k in MACHINE - {"test"})


def check_row(row, weights, extra):
    assert set(row) == (PREFILL if row["test"] == "prefill" else DECODE) | extra
    assert row["weights"] == weights and row["turns"] >= 2 and row["rss_bytes"] > 1 << 20
    assert 0 < row["tokens_per_s"] <= row["best_tokens_per_s"]
    assert 0 < row["limit_rate"] <= row["best_limit_rate"]
    assert row["share_of_limit"] > 0 and row["best_share_of_limit"] > 0
    assert row["ms_per_token"] * row["tokens_per_s"] == pytest.approx(1000, rel=1e-2)
    assert row["limit"] == ("multiply-add" if row["test"] == "prefill" else "bandwidth")
    assert row["limit_type"] == ("bytes" if row["test"] == "decode" else
                                 "int8" if weights in ("q8", "q4") else "fp32")


def check(lines, weights, prefill, decode, threads, extra=frozenset()):
    check_machine(lines, threads)
    for row in of(lines, "prefill") + of(lines, "decode"):
        check_row(row, weights, extra)
    assert [(r["tokens"], r["threads"]) for r in of(lines, "prefill")] == prefill
    assert [(r["context"], r["batch"], r["threads"]) for r in of(lines, "decode")] == decode


def test_model(tnl, bare):
    r = tnl("bench", bare, "--json", "--prefill", "1,70,600", "--decode", 4, "--context",
            "0,1000000000000", "--batch", "1,3", "--threads", 1, *QUICK)
    far = 10**12
    check(r.lines, "bf16", [(1, 1), (70, 1), (600, 1)],
          [(0, 1, 1), (0, 3, 1), (far, 1, 1), (far, 3, 1)], [1])
    assert r.err == ""


def test_prefill_from(tnl, bare):
    r = tnl("bench", bare, "--json", "--decode", 0, "--prefill", "5,40", "--prefill-from",
            "0,1000000", "--threads", 1, *QUICK)
    rows = of(r.lines, "prefill")
    assert [(x["tokens"], x["from"]) for x in rows] == [(5, 0), (5, 10**6), (40, 0), (40, 10**6)]
    assert {(x["by"], x["from"], x["to"]) for x in of(r.lines, "ratio")} == {
        ("from", 0, 10**6), ("tokens", 5, 40)}
    assert rows[2]["needed_per_token"] == rows[3]["needed_per_token"]


def test_memory_does_not_depend_on_the_context(tnl, bare):
    r = tnl("bench", bare, "--json", "--prefill", 0, "--context", "128,131072", "--batch", "1,2",
            *QUICK)
    near, near2, far, far2 = of(r.lines, "decode")
    for a, b in ((near, far), (near2, far2)):
        assert (a["state_bytes"], a["working_bytes"]) == (b["state_bytes"], b["working_bytes"])
        assert a["needed_per_token"] == pytest.approx(b["needed_per_token"], rel=0.2)
    assert near2["state_bytes"] == 2 * near["state_bytes"]


@pytest.mark.parametrize("weights", ["f32", "bf16"])
def test_random_and_threads(tnl, bare, weights):
    r = tnl("bench", "--random", bare / "config.json", "--weights", weights, "--json", "--prefill",
            "8", "--decode", 2, "--context", 5, "--batch", "1,2", "--threads", "1,2", *QUICK)
    check(r.lines, weights, [(8, 1), (8, 2)], [(5, 1, 1), (5, 1, 2), (5, 2, 1), (5, 2, 2)], [1, 2])
    ratios = {(x["of"], x["by"], x["from"], x["to"], x.get("batch")): x
              for x in of(r.lines, "ratio")}
    assert len(ratios) == len(of(r.lines, "ratio")) - 1  # batch 2 over 1: on one thread, and on two
    assert ("prefill", "threads", 1, 2, None) in ratios
    assert ("decode", "threads", 1, 2, 2) in ratios and ("decode", "batch", 1, 2, 2) in ratios
    rows = of(r.lines, "prefill")
    assert ratios["prefill", "threads", 1, 2, None]["speed"] == pytest.approx(
        rows[1]["tokens_per_s"] / rows[0]["tokens_per_s"], rel=1e-2)


def test_profile(tnl, bare):
    r = tnl("bench", bare, "--json", "--profile", "--prefill", 40, "--context", 64, "--batch", 2,
            *QUICK)
    rows = of(r.lines, "profile")
    for test, shape in (("prefill", {"tokens", "from"}), ("decode", {"context", "batch"})):
        mine = [x for x in rows if x["of"] == test]
        assert all(set(x) == PROFILE | shape for x in mine)
        assert sum(x["share_of_step"] for x in mine) == pytest.approx(1, abs=1e-2)
        ops = {x["op"].split()[0] for x in mine}
        assert {"embed", "norm", "gate", "attention", "finite", "between"} & ops >= {
            "embed", "norm", "attention", "between"}
        glu = next(x for x in mine if "glu" in x["op"])
        assert glu["calls"] == 3 and glu["gop_s"] > 0 and glu["gb_s"] > 0


@pytest.mark.skipif(os.sched_getscheduler(0) != os.SCHED_OTHER, reason="a neighbour would starve")
def test_neighbour(tnl, bare):
    r = tnl("bench", bare, "--json", "--neighbour", "--prefill", 40, "--context", 0, "--batch", 1,
            *QUICK)
    check_row(of(r.lines, "decode")[0], "bf16", {"kept", "best_kept"})
    assert all(x["kept"] > 0 for x in of(r.lines, "decode") + of(r.lines, "prefill"))


def test_table(tnl, bare):
    r = tnl("bench", "--random", bare / "config.json", "--prefill", 0, "--decode", 2, "--profile",
            *QUICK)
    assert "random state" in r.out and "GB/s" in r.out and "random weights" in r.out
    rows = [line.split() for line in r.out.splitlines() if line.startswith(("prefill", "decode"))]
    assert len(rows) == 4 and all(row[0] == "decode" for row in rows)
    assert r.out.count("between operations") == 4 and "profile of decode" in r.out


def test_refuses(tnl, bare, tmp_path):
    assert "either" in tnl("bench", code=2).err
    assert "either" in tnl("bench", bare, "--random", "x.json", code=2).err
    assert "threads" in tnl("bench", bare, "--threads", "1,2,1,2,1,2,1,2,1", code=2).err
    tnl("bench", "--random", tmp_path / "none.json", *QUICK, code=66)
