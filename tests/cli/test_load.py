"""tnl load against the real server, and against servers that misbehave."""

import csv
import json
import os
import pty
import select
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from conftest import BIN, HANG_SECONDS, ROOT, has_client, needs_server, needs_tokenizer
from fake_server import HOSTILE, Fake, hostile, make_cert, refusal, stream

sys.path.insert(0, os.path.join(ROOT, "tests", "http"))

import harness  # noqa: E402

pytestmark = pytest.mark.skipif(not has_client(), reason="built without libcurl")


@pytest.fixture(scope="module")
def server(model):
    s = harness.Server(str(model), "--parallel", "4", "--queue", "64")
    yield s
    s.close()


@pytest.fixture
def url(server):
    return "http://127.0.0.1:%d" % server.port


ANSWER = stream("/generate", [" word"] * 64)


def load(tnl, url, *args, code=0, **kw):
    return tnl("load", url, "--json", *args, code=code, **kw).json


# ---- the real server ----

@needs_server
@needs_tokenizer
@pytest.mark.parametrize("dialect", ["generate", "completions", "chat"])
def test_dialects(tnl, url, dialect, tmp_path):
    r = load(tnl, url, "-d", dialect, "-n", 12, "-c", 3, "--max-tokens", 8, "--ignore-eos",
             "--csv", tmp_path / "samples.csv", "--prompt-words", "4..9")
    assert (r["answered"], r["failed"], r["cancelled"], r["errors"]) == (12, 0, 0, {})
    assert (r["loop"], r["clients"], r["dialect"]) == ("closed", 3, dialect)
    assert r["generated_tokens"] == 12 * 8 and r["prompt_tokens"] >= 12 * 4
    assert r["ttft_ms"]["count"] == 12 == r["request_ms"]["count"]
    if dialect == "generate":
        assert r["inter_token_ms"]["count"] == 12 * 7 and r["queue_ms"]["count"] == 12
    else:
        assert r["queue_ms"] is None
    for key in ("ttft_ms", "request_ms"):
        t = r[key]
        assert 0 < t["p50"] <= t["p90"] <= t["p99"] <= t["max"] and t["mean"] <= t["max"]
    rows = list(csv.DictReader((tmp_path / "samples.csv").open()))
    assert len(rows) == 12
    for row in rows:
        assert row["outcome"] == "ok" and row["http"] == "200"
        assert float(row["ttft_ms"]) <= float(row["total_ms"])
        assert float(row["due_s"]) == float(row["sent_s"])


@needs_server
@needs_tokenizer
def test_base_url_of_other_clients(tnl, url):
    assert load(tnl, url + "/v1/", "-n", 1, "--max-tokens", 1)["answered"] == 1


@needs_server
@needs_tokenizer
def test_table_and_plot(tnl, url, tmp_path):
    plot = tmp_path / "load.svg"
    r = tnl("load", url, "-n", 6, "-c", 2, "--max-tokens", 4, "--warmup", 2, "--plot", plot)
    for words in ("closed loop, 2 clients", "6 answered, 0 failed", "generated tokens/s",
                  "time to first token", "between tokens", "whole request", "p99"):
        assert words in r.out
    assert "\x1b" not in r.out + r.err and "\r" not in r.out + r.err
    root = ET.parse(plot).getroot()
    text = plot.read_text()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme:dark" in text and len(root.findall(".//{*}circle")) == 6
    assert "href" not in text and text.count("http") == 2  # the name space, and the title
    assert "nan" not in text and "inf" not in text


@needs_server
@needs_tokenizer
def test_sweep(tnl, url):
    r = tnl("load", url, "--sweep", "1,3", "-n", 4, "--max-tokens", 4)
    lines = r.out.splitlines()
    assert lines[0].split()[:2] == ["clients", "answered"]
    assert [x.split()[:3] for x in lines[1:]] == [["1", "4", "0"], ["3", "4", "0"]]
    rows = tnl("load", url, "--sweep", "1,3", "-n", 4, "--max-tokens", 4, "--json").lines
    assert [x["clients"] for x in rows] == [1, 3]


@needs_server
@needs_tokenizer
def test_cancel(tnl, url, server):
    before = server.metric("tnl_requests_accepted_total")
    r = load(tnl, url, "-n", 8, "-c", 4, "--max-tokens", 5000, "--ignore-eos", "--cancel", 1)
    assert r["cancelled"] + r["answered"] == 8 and r["cancelled"] > 0 and r["failed"] == 0
    assert server.metric("tnl_requests_accepted_total") == before + 8
    harness.wait_until(lambda: server.metric("tnl_requests_running") == 0, "nothing runs")


@needs_server
@needs_tokenizer
def test_open_loop(tnl, url):
    r = load(tnl, url, "--rate", 200, "-n", 20, "--max-tokens", 2)
    assert (r["loop"], r["answered"], r["rate"]) == ("open", 20, 200)


@needs_server
@needs_tokenizer
def test_interrupt(url):
    """Ctrl-C ends the run and prints what was measured."""
    p = subprocess.Popen([BIN, "load", url, "--seconds", "1000", "--max-tokens", "4", "--json",
                          "--csv", "/dev/stderr"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(3):
        assert p.stderr.readline()
    p.send_signal(signal.SIGINT)
    out, _ = p.communicate(timeout=HANG_SECONDS)
    assert p.returncode == 0 and json.loads(out)["answered"] >= 0


@needs_server
@needs_tokenizer
def test_progress_on_a_terminal(url):
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(BIN, [BIN, "load", url, "--seconds", "0.7", "--max-tokens", "4"])
    out = b""
    while select.select([fd], [], [], HANG_SECONDS)[0]:
        try:
            out += os.read(fd, 65536)
        except OSError:
            break
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"under way" in out and out.index(b"under way") < out.index(b"\r\x1b[K")


# ---- what it asks ----

def asked(tnl, *args, path="/generate", **kw):
    with Fake() as fake:
        r = load(tnl, fake.url, "-c", 1, *args, **kw)
        assert r["failed"] == 0
        return [json.dumps(b) for b in fake.bodies], fake


def test_the_same_seed_asks_the_same(tnl):
    args = ("-n", 6, "--prompt-words", "5..30", "--temperature", 0.25, "--ignore-eos")
    one, _ = asked(tnl, *args, "--seed", 5)
    two, _ = asked(tnl, *args, "--seed", 5)
    three, _ = asked(tnl, *args, "--seed", 6)
    assert one == two != three
    bodies = [json.loads(b) for b in one]
    words = [len(b["prompt"].split()) for b in bodies]
    assert all(5 <= n <= 30 for n in words) and len(set(words)) > 1
    assert all(b["temperature"] == 0.25 and b["ignore_eos"] and b["max_tokens"] == 64 for b in bodies)
    # each with a number of its own, so that no cache knows it
    assert len(set(b["prompt"] for b in bodies)) == 6


def test_shared_prefixes(tnl):
    bodies, _ = asked(tnl, "-n", 12, "--prefix-words", 40, "--prefixes", 2, "--prompt-words", 3)
    prompts = [json.loads(b)["prompt"] for b in bodies]
    heads = {" ".join(p.split()[:40]) for p in prompts}
    assert len(heads) == 2 and all(len(p.split()) == 43 for p in prompts)
    assert len(set(prompts)) == 12


def test_prompts_of_a_file(tnl, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text('plain line\r\n\n{"prompt": "two\\nlines \\u00e9"}\n  indented')
    bodies, _ = asked(tnl, "-n", 4, "--prompts", path)
    assert [json.loads(b)["prompt"] for b in bodies] == \
        ["plain line", "two\nlines \u00e9", "  indented", "plain line"]


@pytest.mark.parametrize("text, words", [
    (b"", "no prompts"), (b"\n\n", "no prompts"), (b"\xff", "UTF-8"), (b"{\n", "line 1"),
    (b'a\n{"prompt": 3}', "line 2"), (b'{"prompt": ""}', "line 1"), (b"a\0b", "UTF-8"),
])
def test_bad_prompt_files(tnl, tmp_path, text, words):
    path = tmp_path / "prompts.txt"
    path.write_bytes(text)
    r = tnl("load", "http://127.0.0.1:1", "--prompts", path, code=65)
    assert words in r.err and len(r.err.splitlines()) == 1


def test_key(tnl, tmp_path):
    with Fake() as fake:
        load(tnl, fake.url, "-n", 1, env={"TNL_API_KEY": "sesame-1234567890"})
        path = tmp_path / "key"
        path.write_text("# mine\nother-1234567890\n")
        path.chmod(0o600)
        load(tnl, fake.url, "-n", 1, "--api-key-file", path)
        load(tnl, fake.url, "-n", 1)
        keys = [head.get("authorization") for _, head, _ in fake.requests]
        assert keys == ["Bearer sesame-1234567890", "Bearer other-1234567890", None]
        path.chmod(0o644)
        assert "0644" in tnl("load", fake.url, "--api-key-file", path, code=2).err
        r = tnl("load", fake.url, env={"TNL_API_KEY": "a\nX-Evil: 1"}, code=2)
        assert "printable" in r.err


def test_unix_socket(tnl, tmp_path):
    with Fake(unix=tmp_path / "s") as fake:
        r = load(tnl, fake.url, "-n", 3, "-d", "chat")
        assert r["answered"] == 3 and fake.bodies[0]["model"] == "fake"
        load(tnl, fake.url + ":/base/v1/", "-n", 1)
        assert fake.requests[-1][0] == "/base/generate"
    assert "connect to /nonexistent" in tnl("load", "unix:/nonexistent", "-n", 1, code=69).err


def test_memory_does_not_grow_with_the_run():
    """Twenty times the requests, the same peak."""
    if harness.SANITIZED:
        pytest.skip("a sanitizer keeps what is freed")

    def peak(n):
        with Fake(lambda *_: ANSWER) as fake, open(os.devnull, "w") as out:
            p = subprocess.Popen([BIN, "load", fake.url, "-n", str(n), "-c", "8"], stdout=out)
            _, status, usage = os.wait4(p.pid, 0)
            p.returncode = os.waitstatus_to_exitcode(status)
            assert p.returncode == 0
            return usage.ru_maxrss

    assert peak(4000) < peak(200) + 2048  # KiB


def test_tls(tnl, tmp_path):
    cert = make_cert(tmp_path)
    if not cert:
        pytest.skip("no openssl")
    with Fake(cert=cert) as fake:
        assert load(tnl, fake.url, "-n", 2, "--ca-file", cert)["answered"] == 2
        r = tnl("load", fake.url, "-n", 1, code=69)
        assert "certificate" in r.err and len(fake.requests) == 2


def test_keeps_connections(tnl):
    ports = set()

    def answer(fake, path, head, body):
        ports.add(head.get("host"))
        return stream(path, [" a"])

    with Fake(answer) as fake:
        seen = []
        accept = fake.serve
        fake.serve = lambda c: (seen.append(1), accept(c))
        assert load(tnl, fake.url, "-n", 20, "-c", 2)["answered"] == 20
        assert len(seen) == 2


# ---- what goes wrong ----

def test_coordinated_omission(tnl, tmp_path):
    """One connection, a server that stalls once: the requests that were due meanwhile count the
    wait, though they were sent late."""
    def answer(fake, path, head, body):
        if len(fake.requests) == 1:
            select.select([], [], [], 0.3)
        return stream(path, [" a"])

    path = tmp_path / "samples.csv"
    with Fake(answer) as fake:
        r = load(tnl, fake.url, "--rate", 100, "--connections", 1, "-n", 15, "--csv", path)
    rows = list(csv.DictReader(path.open()))
    assert r["answered"] == 15 == len(rows) and r["late"] > 0
    waits = [1000 * (float(x["sent_s"]) - float(x["due_s"])) for x in rows]
    assert sum(w > 10 for w in waits) == r["late"]
    assert all(float(x["ttft_ms"]) >= w - 0.01 for x, w in zip(rows, waits))
    due = [float(x["due_s"]) for x in rows]
    assert due == sorted(due) and len(set(due)) == 15


def test_a_rate_that_is_not_sustained(tnl):
    def answer(fake, path, head, body):
        select.select([], [], [], 0.1)
        return stream(path, [" a"])

    with Fake(answer) as fake:
        args = ("--rate", 200, "--connections", 2, "--seconds", 0.5)
        r = load(tnl, fake.url, *args)
        assert r["failed"] == 0 and r["answered"] == len(fake.bodies) < 50 < r["unsent"]
        assert "does not sustain" in tnl("load", fake.url, *args).out


def test_errors_by_code(tnl):
    def answer(fake, path, head, body):
        n = len(fake.requests)
        if n % 3 == 1:
            return refusal("503 Service Unavailable", "queue_full", "try later")
        return refusal("400 Bad Request", "out_of_range", "no") if n == 3 else stream(path, [" a"])

    with Fake(answer) as fake:
        r = load(tnl, fake.url, "-n", 7, "-c", 1)
        assert r["errors"] == {"503 queue_full": 3, "400 out_of_range": 1}
        assert (r["answered"], r["failed"]) == (3, 4)


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_servers(tnl, name):
    with hostile(name) as fake:
        r = tnl("load", fake.url, "-n", 2, "-c", 2, "-d", "chat", "--model", "m", code=69)
        assert "2 failed" in r.out and "no request was answered" in r.err
        assert "/elsewhere" not in [path for path, _, _ in fake.requests]
        assert all(c >= " " or c == "\n" for c in r.out + r.err)


def test_silence(tnl):
    with Fake(lambda *_: wait_forever(b"HTTP/1.1 200 OK\r\n\r\n")) as fake:
        r = tnl("load", fake.url, "-n", 1, "--silence-seconds", 1, code=69)
        assert "timeout" in r.out
    with Fake(lambda *_: drip()) as fake:
        r = tnl("load", fake.url, "-n", 1, "--request-seconds", 0.5, "-d", "chat", "--model", "m", code=69)
        assert "timeout" in r.out


def wait_forever(first):
    yield first
    for _ in range(HANG_SECONDS):
        select.select([], [], [], 1)
        yield b""


def drip():
    yield b"HTTP/1.1 200 OK\r\n\r\n"
    for _ in range(200):
        select.select([], [], [], 0.02)
        yield b": ping\n\n"


def test_no_server(tnl):
    r = tnl("load", "http://127.0.0.1:1", "-n", 3, code=69)
    assert "3 failed" in r.out and "connect" in r.err
    assert "connect" in tnl("load", "http://127.0.0.1:1", "-d", "chat", code=69).err


@pytest.mark.parametrize("args, words", [
    ((), "expected"),
    (("configs/tales",), "no URL"),
    (("http://u:p@h",), "TNL_API_KEY"),
    (("http://h/?a=b",), "query"),
    (("http://",), "not a URL"),
    (("unix:",), "path"),
    (("http://h", "--rate", "5", "--clients", "2"), "--rate"),
    (("http://h", "--sweep", "1,2", "--plot", "x.svg"), "--plot"),
    (("http://h", "--prompt-words", "9..3"), "--prompt-words"),
    (("http://h", "--prompt-words", "0"), "--prompt-words"),
    (("http://h", "--prompt-words", "3x"), "--prompt-words"),
    (("http://h", "--cancel", "2"), "--cancel"),
    (("http://h", "--prompts", "x", "--prompt-words", "3"), "one of"),
    (("http://h", "--api-key", "secret"), "api-key"),
])
def test_usage(tnl, args, words):
    r = tnl("load", *args, code=2)
    assert words in r.err and r.out == ""


def test_help_is_honest(tnl):
    out = tnl("load", "--help").out
    assert "coordinated omission" in out and "prefix cache" in out


def test_unwritable_outputs(tnl, tmp_path):
    with Fake() as fake:
        tnl("load", fake.url, "-n", 1, "--csv", tmp_path / "none" / "x", code=74)
        assert fake.requests == []
        if os.path.exists("/dev/full"):
            r = tnl("load", fake.url, "-n", 1, "--plot", "/dev/full", code=74)
            assert "/dev/full: cannot be written" in r.err and "1 answered" in r.out
