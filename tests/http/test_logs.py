"""The log as JSON: every line an object with the same names, whatever clients send."""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest

from harness import BIN, CANARY, HANG, SANITIZED, Server, clean_env, wait_until

ALWAYS = {"time": str, "level": str, "msg": str}
REQUEST = {**ALWAYS, "request_id": str, "trace_id": str, "client": str, "key": str, "method": str, "path": str,
           "route": str, "status": int, "bytes": int, "ms": int}
GENERATION = {**REQUEST, "prompt_tokens": int, "completion_tokens": int, "cached_tokens": int,
              "finish": str, "queue_ms": float, "prefill_ms": float, "decode_ms": float}


def strict(line):
    def once(pairs):
        assert len(pairs) == len(dict(pairs)), line
        return dict(pairs)

    return json.loads(line, object_pairs_hook=once)


def objects(s):
    """All lines, each parsed and held to its form."""
    with open(s.log.name, "rb") as f:
        raw = f.read()
    assert raw.endswith(b"\n")
    found = []
    for line in raw.decode("ascii").splitlines():
        x = strict(line)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", x["time"])
        assert x["level"] in ("error", "warn", "info", "debug")
        form = ALWAYS
        if x["msg"] == "request":
            form = GENERATION if "finish" in x else REQUEST
        assert {k: type(v) for k, v in x.items()} == form, line
        found.append(x)
    return found


def request_of(s, name):
    return wait_until(lambda: [x for x in objects(s) if x.get("request_id") == name],
                      "the request is logged")[0]


@pytest.fixture(scope="module")
def logging(model):
    s = Server(model, "--log-format", "json", "--log-level", "debug")
    yield s
    s.close()


def test_a_generation(logging):
    r = logging.post("/generate", {"prompt": [5, 6, 7], "max_tokens": 9, "ignore_eos": True},
                     **{"X-Request-Id": "one"})
    x = request_of(logging, "one")
    assert (x["method"], x["path"], x["route"], x["status"]) == \
        ("POST", "/generate", "/generate", 200)
    assert (x["prompt_tokens"], x["completion_tokens"], x["finish"]) == (3, 9, "length")
    assert x["client"] == "127.0.0.1" and x["key"] == "" and x["bytes"] == len(r.body)


def test_a_refusal(logging):
    logging.post("/generate", {"prompt": CANARY, "max_tokens": -1}, **{"X-Request-Id": "two"})
    x = request_of(logging, "two")
    assert x["status"] == 400 and "finish" not in x


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize("value, logged", [
    ("00-%s-00f067aa0ba902b7-01" % TRACE, TRACE), ("01-%s-00f067aa0ba902b7-01" % TRACE, ""),
    ("00-%s-00f067aa0ba902b7-01" % TRACE.upper(), ""), ("00-%s-00f067aa0ba902b7" % TRACE, ""),
    ("00-%s-00f067aa0ba902b7-01" % ("0" * 32), ""), ("00-%s-00f067aa0ba902b7-01x" % TRACE, "")])
def test_trace(logging, value, logged):
    name = "trace %s" % value
    logging.get("/health", traceparent=value, **{"X-Request-Id": name})
    assert request_of(logging, name)["trace_id"] == logged


HOSTILE = [b"/\"quote\"", b"/back\\slash", b"/\"}\n{\"level\":\"error\"", b"/\xff\xfe\x80", b"/%0d%0a",
           b"/\xf0\x9f\x98\x80", b"/" + b"\"" * 4000, b"/" + b"\\" * 250, b"/\x01\x02\x7f",
           b"/\xe2\x80\xa8\xe2\x80\xa9", b"/</script>", b"/\\u0000", b"/%00", b"/'", b"*", b"\"",
           b"/" + b"\xff" * 300]


@pytest.mark.parametrize("path", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_paths(logging, path):
    before = len(objects(logging))
    with logging.raw() as c:
        c.send(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        c.until(b"\r\n\r\n")
    wait_until(lambda: len(objects(logging)) > before, "something is logged")


def test_hostile_names(logging, rng):
    """Ids and methods of printable ASCII, all of it."""
    printable = "".join(chr(c) for c in range(0x20, 0x7F))
    for _ in range(20):
        name = "".join(rng.choice(printable) for _ in range(rng.randrange(1, 129))).strip() or "x"
        logging.get("/health", **{"X-Request-Id": name})
        request_of(logging, name)
    with logging.raw() as c:
        c.send(b"G\"\\{T /health HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: " +
               b"\"" * 128 + b"\r\n\r\n")
        c.until(b"\r\n\r\n")
    assert request_of(logging, "\"" * 128)["status"] == 400


def test_whole_life(start):
    """From the first line to the last, with a reload that fails and one that does not."""
    s = start("--log-format", "json")
    for n in range(1, 3):
        s.process.send_signal(signal.SIGHUP)
        wait_until(lambda: s.metric('tnl_model_reloads_total{result="success"}') == n, "reloaded")
    s.process.send_signal(signal.SIGTERM)
    assert s.process.wait(60) == 0
    assert objects(s)[-1]["msg"] == "stopped"
    assert s.process.stdout.read() == b""


def test_no_folder():
    r = subprocess.run([BIN, "serve", "--log-format", "json"], env=clean_env(), timeout=HANG,
                       capture_output=True)
    assert r.returncode == 2 and "no model folder" in strict(r.stderr.decode())["msg"]


def test_a_start_that_fails(tmp_path):
    r = subprocess.run([BIN, "serve", str(tmp_path / 'no"ne'), "--log-format", "json", "--port",
                        "0"], env=clean_env(), capture_output=True, timeout=HANG)
    lines = [strict(x) for x in r.stderr.decode().splitlines()]
    assert r.returncode == 66 and lines[-1]["level"] == "error" and 'no"ne' in lines[-1]["msg"]


@pytest.mark.skipif(SANITIZED, reason="the sanitizer has its own handler")
def test_the_last_words(start, model, tmp_path):
    path = str(tmp_path / 'qu"ote')
    shutil.copytree(model, path)
    s = start("--log-format", "json", folder=path)
    os.truncate(os.path.join(path, "model.safetensors"), 4096)
    try:
        s.post("/generate", {"prompt": [5], "max_tokens": 100000, "ignore_eos": True})
    except Exception:  # the connection breaks with the process
        pass
    assert s.process.wait(60) == 74
    assert "model.safetensors" in strict(s.logged().splitlines()[-1])["msg"]
