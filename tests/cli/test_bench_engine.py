"""tnl bench --speculate and --prefix: whole requests through the engine. No test asserts a time."""

import os

from conftest import ROOT, run

TALES = os.path.join(ROOT, "configs", "tales")
QUICK = ("--machine-seconds", 0.05, "--repeats", 1, "--json")


def test_speculate():
    machine, *rows = run("bench", TALES, "--speculate", 15, *QUICK).lines
    assert machine["test"] == "machine"
    assert [r["text"] for r in rows] == ["loop", "sample", "chance"]
    for r in rows:
        assert r["test"] == "speculate" and r["tokens"] == 300
        assert r["tokens_per_s_without"] > 0 and r["tokens_per_s_with"] > 0
        assert 0 <= r["true"] <= r["checked"]
    loop, sample, chance = rows
    assert loop["true"] > 0.1  # the likeliest continuation does loop
    assert chance["true"] < 0.1


def test_prefix():
    lines = run("bench", TALES, "--prefix", 3000, *QUICK).lines
    rows = [r for r in lines if r["test"] == "prefix"]
    assert [r["question"] for r in rows] == list(range(1, 12))
    assert rows[0]["cached_tokens"] == 0 and rows[0]["share_of_first"] == 1
    for r in rows[1:]:
        assert r["document"] == 3000 and 2500 < r["cached_tokens"] < 3032
    kept = lines[-1]
    assert kept["test"] == "prefix_cache" and kept["states"] > 1 and kept["bytes"] > 0
