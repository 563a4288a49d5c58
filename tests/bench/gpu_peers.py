#!/usr/bin/env python3
"""Times other people's Lightning Attention on this GPU, for tests/bench/gpu_targets to compare with.

    tests/bench/gpu_peers.py --lightning ~/lightning-attention    the published Triton kernel
    tests/bench/gpu_peers.py --fla ~/flash-linear-attention       fla's chunk_simple_gla
    tests/bench/gpu_peers.py                                      whichever of them is installed

Needs torch and triton, which nothing else here does. Shapes, type (bf16), decays and operands that
do not stay in a cache are those of `checkcuda --bench`; calls are captured in a CUDA graph where
that works, so that no time of Python's counts. Each kernel's output is first held against a plain
computation in float64. One JSON object a line; what could not be measured says why. Exit status 0,
2 for wrong arguments."""

import argparse
import importlib
import importlib.util
import inspect
import json
import os
import statistics
import sys
import time

HEADS_OF = {4: 32, 1: 16}  # batch: heads
TOKENS = {4: (512, 2048, 8192, 32768, 131072), 1: (32768,)}
DIM = 128
ROUND_BYTES = 256 << 20  # before the same operands come again
MOST_SETS = 16
RUNS, LEAST_SECONDS = 7, 0.01
OFF = 0.02  # of the size of the output, that a kernel may be from float64


class Missing(Exception):
    """Why something is not measured, in one line."""


def one_line(e):
    text = " ".join(("%s: %s" % (type(e).__name__, e)).split())
    return text if len(text) <= 200 else text[:197] + "..."


# ---- the kernels: q, k, v [batch][heads][tokens][dim], slopes [heads] -> the same shape ----


def load_file(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def use_copy(folder, package):
    """A user's copy comes before what is installed."""
    if not folder:
        return
    if not os.path.isdir(os.path.join(folder, package)):
        raise Missing("%s: found no folder %s in it" % (folder, package))
    sys.path.insert(0, folder)


def open_lightning(torch, folder):
    """lightning_attn_func(q, k, v, s) of OpenNLPLab/lightning-attention, s [heads] the slopes."""
    use_copy(folder, "lightning_attn")
    try:
        function = importlib.import_module("lightning_attn.ops").lightning_attn_func
    except Exception as e:  # a part of the package that we do not need may not load
        kernel = os.path.join(folder or "", "lightning_attn", "ops", "triton", "lightning_attn2.py")
        if not folder or not os.path.isfile(kernel):
            raise Missing("not here: " + one_line(e)) from e
        function = load_file("lightning_attn2", kernel).lightning_attn2

    def prepare(q, k, v, slopes):
        s = slopes.to(torch.float32)
        return lambda: function(q, k, v, s)

    return prepare, lambda o: o


def open_fla(torch, folder):
    """fla's chunk_simple_gla(q, k, v, ...), [batch][tokens][heads][dim], log decays per head."""
    use_copy(folder, "fla")
    try:
        function = importlib.import_module("fla.ops.simple_gla").chunk_simple_gla
    except Exception as e:
        raise Missing("not here: " + one_line(e)) from e
    takes = inspect.signature(function).parameters
    options = {"scale": 1.0}
    if "head_first" in takes:  # versions whose rows were [batch][heads][tokens] unless told
        options["head_first"] = False

    def prepare(q, k, v, slopes):
        q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
        decay = dict(options)
        if "g_gamma" in takes:
            decay["g_gamma"] = -slopes.to(torch.float32)
        else:
            g = -slopes.to(torch.float32)
            decay["g"] = g.expand(q.shape[0], q.shape[1], q.shape[2]).contiguous()
        return lambda: function(q, k, v, **decay)[0]

    return prepare, lambda o: o.transpose(1, 2)


PEERS = (("lightning2", open_lightning), ("fla", open_fla))

# ---- measuring ----


def operands(torch, device, batch, heads, tokens):
    shape = (batch, heads, tokens, DIM)
    return [torch.randn(shape, dtype=torch.bfloat16, device=device) for _ in range(3)]


def slopes_of(torch, device, heads):
    return torch.tensor([2.0 ** (-8.0 * (h + 1) / heads) for h in range(heads)], device=device,
                        dtype=torch.float64)


def expected(torch, q, k, v, slopes):
    n = q.shape[2]
    at = torch.arange(n, device=q.device, dtype=torch.float64)
    ago = at[:, None] - at[None, :]
    decay = torch.exp(-slopes[:, None, None] * ago.clamp(min=0)) * (ago >= 0)
    q, k, v = (x.to(torch.float64) for x in (q, k, v))
    return ((q @ k.transpose(-1, -2)) * decay) @ v


def check(torch, device, peer):
    prepare, unpack = peer
    q, k, v = operands(torch, device, 1, 4, 320)
    slopes = slopes_of(torch, device, 4)
    got = unpack(prepare(q, k, v, slopes)()).to(torch.float64)
    want = expected(torch, q, k, v, slopes)
    if got.shape != want.shape:
        raise Missing("its output has the shape %s, expected %s" % (tuple(got.shape),
                                                                   tuple(want.shape)))
    off = ((got - want).norm() / want.norm()).item()
    if not off <= OFF:
        raise Missing("its output is off by %.3g of its size: another computation than ours" % off)


class Clock:
    """Seconds of work on the device, by its own events; on the CPU (to try this script) by ours."""

    def __init__(self, torch, device):
        self.torch, self.cuda = torch, device == "cuda"

    def wait(self):
        if self.cuda:
            self.torch.cuda.synchronize()

    def of(self, work, times):
        if not self.cuda:
            begin = time.perf_counter()
            for _ in range(times):
                work()
            return time.perf_counter() - begin
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(times):
            work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


def capture(torch, calls):
    """All calls as one graph's replay; None where that does not work."""
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        graph.replay()
        torch.cuda.synchronize()
        return graph.replay
    except Exception as e:
        print("gpu_peers: no graph: " + one_line(e), file=sys.stderr)
        return None


def measure(torch, device, peer, batch, heads, tokens):
    set_bytes = 4 * 2 * batch * heads * tokens * DIM
    n_sets = min(MOST_SETS, -(-ROUND_BYTES // set_bytes)) if device == "cuda" else 1
    slopes = slopes_of(torch, device, heads)
    calls = [peer[0](*operands(torch, device, batch, heads, tokens), slopes)
             for _ in range(n_sets)]
    for call in calls[:1] * 2 + calls:
        call()
    clock = Clock(torch, device)
    clock.wait()
    graph = capture(torch, calls) if clock.cuda else None

    def one_by_one():
        for call in calls:
            call()

    work, times = graph or one_by_one, 1
    while clock.of(work, times) < LEAST_SECONDS and times < 1 << 16:
        times *= 2
    seconds = statistics.median(clock.of(work, times) for _ in range(RUNS)) / times / n_sets
    return {"seconds": seconds, "bytes": set_bytes, "graph": bool(graph)}


def rows_of(a, torch, device, name, opened):
    for batch, heads in HEADS_OF.items():
        for tokens in TOKENS[batch]:
            row = {"test": "peer", "peer": name, "batch": batch, "heads": heads, "dim": DIM,
                   "tokens": tokens}
            if time.monotonic() > a.end:
                row["missing"] = "no time left of %g s" % a.seconds
            else:
                try:
                    row.update(measure(torch, device, opened, batch, heads, tokens))
                except Exception as e:
                    row["missing"] = one_line(e)
                if device == "cuda":
                    torch.cuda.empty_cache()
            yield row


def say(row):
    print(json.dumps(row), flush=True)


def open_torch(device):
    try:
        torch = importlib.import_module("torch")
    except ImportError as e:
        raise Missing("torch is not here") from e
    if device == "cuda" and not torch.cuda.is_available():
        raise Missing("torch finds no GPU")
    return torch


def run(a):
    folders = {"lightning2": a.lightning, "fla": a.fla}
    try:
        torch = open_torch(a.device)
        name = torch.cuda.get_device_name() if a.device == "cuda" else "cpu"
        say({"test": "peers", "torch": torch.__version__, "device": name})
    except Missing as e:
        for name, _ in PEERS:
            say({"test": "peer", "peer": name, "missing": str(e)})
        return
    with torch.no_grad():
        for name, opener in PEERS:
            try:
                opened = opener(torch, folders[name])
                check(torch, a.device, opened)
            except Missing as e:
                say({"test": "peer", "peer": name, "missing": str(e)})
                continue
            except Exception as e:
                say({"test": "peer", "peer": name, "missing": one_line(e)})
                continue
            for row in rows_of(a, torch, a.device, name, opened):
                say(row)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ap.add_argument("--lightning", metavar="DIR", help="a copy of OpenNLPLab/lightning-attention")
    ap.add_argument("--fla", metavar="DIR", help="a copy of fla-org/flash-linear-attention")
    ap.add_argument("--device", choices=("cuda", "cpu"), default="cuda",
                    help="cpu: to try this script, with tiny sizes")
    ap.add_argument("--seconds", type=float, default=120, help="begin no row after so many")
    a = ap.parse_args()
    for folder in (a.lightning, a.fla):
        if folder and not os.path.isdir(folder):
            ap.error("%s: no such folder" % folder)
    if a.device == "cpu":
        TOKENS.update({4: (64,), 1: (128,)})
    a.end = time.monotonic() + a.seconds
    run(a)


if __name__ == "__main__":
    main()
