"""Clients that leave, stall or trickle; full queues; deadlines; pings; shutting down.

No test measures time: deadlines are set to a second and the tests wait for what must follow."""

import json
import os
import shutil
import signal
import struct
import subprocess
import threading

import pytest

from harness import BIN, SANITIZED, Server, clean_env, together, wait_until

LONG = {"prompt": [5, 6, 7], "max_tokens": 1000000, "ignore_eos": True, "seed": 1}
GATHERED = {**LONG, "stream": False}
PROMPT = {"prompt": [3 + i % 6 for i in range(1300000)], "max_tokens": 1, "seed": 1}


def leave(c, how):
    if how == "half-close":
        c.sock.shutdown(1)
    elif how == "reset":
        c.reset()
    else:
        c.close()


def cancelled(s, phase):
    return s.metric('tnl_requests_cancelled_total{phase="%s"}' % phase)


def held(s):
    """The reader of a stream is behind: its sequence is paused and stays so."""
    seen = []

    def steady():
        seen.append((s.metric("tnl_requests_paused"), s.metric("tnl_generated_tokens_total")))
        return len(seen) >= 20 and seen[-1][0] == 1 and len(set(seen[-20:])) == 1

    wait_until(steady, "the reader is behind")


def busy(s, n=1):
    wait_until(lambda: s.metric("tnl_requests_running") == n, "%d run" % n)


WAYS = ["close", "half-close", "reset"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("stream", [True, False])
def test_leave_in_decode(server, how, stream):
    before = cancelled(server, "decode")
    with server.begin({**LONG, "stream": stream}) as c:
        if stream:
            c.until(b'"index":3')
        else:
            busy(server)
            wait_until(lambda: server.metric("tnl_generated_tokens_total") > 50, "it decodes")
        leave(c, how)
        wait_until(lambda: cancelled(server, "decode") == before + 1, "it is cancelled")


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("stream", [True, False])
def test_leave_in_prefill(server, how, stream):
    before = cancelled(server, "prefill")
    tokens = server.metric("tnl_prompt_tokens_total")
    with server.begin({**PROMPT, "stream": stream}) as c:
        busy(server)
        leave(c, how)
        wait_until(lambda: cancelled(server, "prefill") == before + 1, "it is cancelled")
    assert server.metric("tnl_prompt_tokens_total") - tokens < len(PROMPT["prompt"])


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("stream", [True, False])
def test_leave_in_queue(start, how, stream):
    s = start("--parallel", "1", "--queue", "4")
    with s.begin(GATHERED):
        busy(s)
        with s.begin({**LONG, "stream": stream}) as c:
            wait_until(lambda: s.metric("tnl_requests_waiting") == 1, "it waits")
            leave(c, how)
            wait_until(lambda: s.metric("tnl_requests_waiting") == 0, "it leaves the queue")
            assert cancelled(s, "queue") == 1 and s.metric("tnl_requests_running") == 1
    s.settled()


@pytest.mark.parametrize("how", WAYS)
def test_leave_while_tokenising(server, how):
    text = "once upon a time there was " * 60000
    for path, body in [("/generate", {"prompt": text, "max_tokens": 1}),
                       ("/tokenize", {"text": text})]:
        raw = json.dumps(body).encode()
        with server.raw() as c:
            c.request(["POST %s HTTP/1.1" % path, "Host: localhost",
                       "Content-Length: %d" % len(raw)], raw)
            wait_until(lambda: server.metric("tnl_http_connections_suspended") == 1, "it works")
            leave(c, how)
            wait_until(lambda: server.metric("tnl_http_connections_suspended") == 0, "it stops")
    server.settled(memory=64 << 20)  # the allocator keeps some of the tokenizer's memory
    server.rss_base = server.rss()


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("sent", [b"", b"POST /gen", b"POST /generate HTTP/1.1\r\nHost: localhost\r\n",
                                  b"POST /generate HTTP/1.1\r\nHost: localhost\r\n"
                                  b"Content-Length: 1000\r\n\r\n{\"prompt\":"])
def test_leave_in_upload(server, how, sent):
    with server.raw() as c:
        if sent:
            c.send(sent)
        leave(c, how)


@pytest.mark.parametrize("how", WAYS)
def test_leave_when_paused(server, how):
    before = cancelled(server, "decode")
    with server.begin(LONG, rcvbuf=4096) as c:
        wait_until(lambda: server.metric("tnl_requests_paused") == 1, "the reader is behind")
        leave(c, how)
        wait_until(lambda: cancelled(server, "decode") == before + 1, "it is cancelled")


def test_many_leave_at_once(server, rng):
    """A crowd that leaves at random moments; those who stay get the bytes they always get."""
    def one(i):
        if i % 4 == 0:
            assert server.control() == server.golden
            return
        with server.begin({**LONG, "stream": i % 2 == 0}) as c:
            if i % 2 == 0:
                c.until(b'"index":%d' % (i % 7))
            leave(c, WAYS[i % 3])

    for _ in range(4):
        together([lambda i=i: one(i) for i in range(24)])


def test_slow_reader_holds_back_only_itself(server):
    with server.begin(LONG, rcvbuf=4096) as c:
        held(server)
        generated = server.metric("tnl_generated_tokens_total")
        for _ in range(5):
            assert server.control() == server.golden
        held(server)
        grown = server.metric("tnl_generated_tokens_total") - generated
        assert 5 * 24 <= grown <= 5 * 24 + 512  # socket buffers may take a ring or two more
        c.until(b'"index":2000')  # it goes on where it was


def test_slow_reader_gets_everything(server):
    ask = {**LONG, "max_tokens": 6000}
    want = server.post("/generate", ask).lines
    with server.begin(ask, rcvbuf=4096) as c:
        wait_until(lambda: server.metric("tnl_requests_paused") == 1, "the reader is behind")
        lines = [json.loads(x) for x in c.reply().body.splitlines()]
    assert lines[:-1] == want[:-1] and lines[-1]["usage"] == want[-1]["usage"]


def test_stalled_reader_is_dropped(start):
    s = start("--stall-seconds", "1")
    with s.begin(LONG, rcvbuf=4096) as c:
        wait_until(lambda: cancelled(s, "decode") == 1, "it is dropped")
        assert c.closed()
    s.settled()


# ---- the queue


def test_queue_full(start):
    s = start("--parallel", "1", "--queue", "1")
    with s.begin(GATHERED), s.begin({**GATHERED, "seed": 2}):
        wait_until(lambda: s.metric("tnl_requests_waiting") == 1, "one waits")
        steps = s.metric("tnl_engine_steps_total")
        for ask in [LONG, GATHERED, {"prompt": "x" * 100000}]:
            r = s.post("/generate", ask)
            assert (r.status, r.code) == (503, "queue_full")
            assert 1 <= int(r.headers["retry-after"]) <= 60
        assert s.get("/ready").status == 503 and s.get("/health").status == 200
        assert s.metric('tnl_requests_rejected_total{reason="queue_full"}') == 3
        assert steps <= s.metric("tnl_engine_steps_total")
    s.settled()


def test_crowd(start):
    """Exactly slots + queue of a simultaneous crowd are taken."""
    s = start("--parallel", "2", "--queue", "3")
    gate = threading.Barrier(20)

    def one():
        gate.wait()
        c = s.begin(LONG)
        c.until(b"\r\n\r\n")
        return c

    crowd = together([one] * 20)
    codes = sorted(int(c.got.split()[1]) for c in crowd)
    assert codes == [200] * 5 + [503] * 15
    for c in crowd:
        c.close()
    s.settled()


def test_no_queue(start):
    s = start("--parallel", "1", "--queue", "0")
    with s.begin(GATHERED):
        busy(s)
        assert s.post("/generate", LONG).code == "queue_full"
    s.settled()


def test_queue_timeout(start):
    s = start("--parallel", "1", "--queue-seconds", "1")
    with s.begin(LONG, rcvbuf=4096):
        wait_until(lambda: s.metric("tnl_requests_paused") == 1, "the slot is held")
        r = s.post("/generate", {**LONG, "stream": False})
        assert (r.status, r.code) == (503, "queue_timeout") and "retry-after" in r.headers
        last = s.post("/generate", LONG).lines[-1]
        assert last["finish_reason"] == "error" and last["error"]["code"] == "queue_timeout"
    s.settled()


# ---- deadlines


def test_header_deadline(start):
    s = start("--header-seconds", "1")
    with s.raw() as silent, s.raw() as half, s.raw() as trickle:
        half.send("GET /health HTTP/1.1\r\nHost:")
        stop = threading.Event()

        def drip():
            while not stop.wait(0.2):
                try:
                    trickle.send("X")
                except OSError:
                    return

        t = threading.Thread(target=drip)
        t.start()
        for c in (silent, half, trickle):
            assert c.closed()
        stop.set()
        t.join()
    with s.raw() as c:  # the second request on a connection is held to it as well
        c.request(["GET /health HTTP/1.1", "Host: localhost"])
        assert c.reply().status == 200
        c.send("GET /health HTTP/1.1\r\nHost: loc")
        assert c.closed()
    s.settled()


def test_body_deadline(start):
    s = start("--body-seconds", "1")
    with s.raw() as c:
        c.send("POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        r = c.reply()
        assert (r.status, r.code) == (408, "timeout") and c.closed()
    with s.raw() as c:
        c.send("POST /generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                c.send("1\r\n \r\n")
                if threading.Event().wait(0.1) or b"408" in peek(c):
                    break
        except OSError:
            pass
        assert c.closed() and c.got.startswith(b"HTTP/1.1 408")
    s.settled()


def peek(c):
    c.sock.settimeout(0.01)
    try:
        c.got += c.sock.recv(4096)
    except TimeoutError:
        pass
    c.sock.settimeout(60)
    return c.got


def test_idle_timeout(start):
    s = start("--idle-timeout", "1")
    with s.raw() as c:
        c.request(["GET /health HTTP/1.1", "Host: localhost"])
        assert c.reply().status == 200
        assert c.closed() and c.got == b""
    s.settled()


@pytest.mark.parametrize("stream", [True, False])
def test_request_deadline(start, stream):
    s = start("--request-seconds", "1")
    with s.begin({**LONG, "stream": stream}) as c:
        r = c.reply()
        last = r.lines[-1] if stream else r.json
        assert last["finish_reason"] == "cancelled" and last["usage"]["completion_tokens"] > 0
    s.settled()


@pytest.fixture(scope="module")
def hurried(model):
    s = Server(model, "--request-seconds", "1")
    yield s
    s.close()


OPENAI = {"prompt": "once", "max_tokens": 1000000, "ignore_eos": True}
TGI = {"inputs": "once", "parameters": {"max_new_tokens": 1000000}}


@pytest.mark.parametrize("path, body, code", [
    ("/v1/completions", OPENAI, "request_timeout"),
    ("/v1/chat/completions", {**OPENAI, "prompt": None, "messages": [
        {"role": "user", "content": "once"}]}, "request_timeout"),
    ("/", TGI, None)])
def test_request_deadline_elsewhere(hurried, path, body, code):
    """The other dialects have no word for it: an error, not an answer that looks whole."""
    body = {k: v for k, v in body.items() if v is not None}
    flow = "/generate_stream" if path == "/" else path
    r, stream = together([lambda: hurried.post(path, body),
                          lambda: hurried.post(flow, {**body, "stream": True})])
    assert r.status == 504 and b"longer than is allowed" in r.body
    assert not code or r.code == code
    last = [x for x in stream.body.decode().split("\n\n") if x.startswith("data: {")][-1]
    assert stream.status == 200 and "longer than is allowed" in last and "[DONE]" not in last


# ---- pings


@pytest.mark.parametrize("sse", [True, False])
def test_ping(start, sse):
    """A queued stream is silent: its header comes at once, then pings."""
    s = start("--parallel", "1", "--ping-seconds", "1")
    accept = ["Accept: text/event-stream"] if sse else []
    with s.begin(LONG, rcvbuf=4096) as first:
        wait_until(lambda: s.metric("tnl_requests_paused") == 1, "the slot is held")
        with s.begin({**LONG, "max_tokens": 3}, *accept) as c:
            if sse:
                c.until(b": ping\n\n")
            else:
                c.until(b"\r\n\r\n1\r\n\n\r\n")
            first.close()
            r = c.reply()
            assert r.status == 200
            objects = r.events if sse else r.lines
            assert objects[-1]["usage"]["completion_tokens"] == 3
    s.settled()


# ---- starting and stopping


def slow_folder(tmp_path, model):
    """A folder that takes a moment to load: half a gigabyte of zeros that occupies no disk."""
    path = str(tmp_path / "slow")
    shutil.copytree(model, path)
    with open(os.path.join(path, "config.json")) as f:
        config = json.load(f)
    with open(os.path.join(path, "model.safetensors"), "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(size))
    config.update(vocab_size=3 << 20)
    name, at = "model.embed_tokens.weight", 0
    header[name]["shape"][0] = 3 << 20
    for row in header.values():
        n = 4
        for d in row["shape"]:
            n *= d
        row["data_offsets"] = [at, at + n]
        at += n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(path, "config.json"), "w") as f:
        json.dump(config, f)
    with open(os.path.join(path, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + at)
    return path


def test_answers_while_loading(start, tmp_path, model):
    s = start(folder=slow_folder(tmp_path, model), ready=False)
    r = s.get("/health")
    assert r.status == 503 and r.json["status"] == "loading" and 0 <= r.json["progress"] <= 1
    assert "retry-after" in r.headers
    r = s.post("/generate", LONG)
    assert (r.status, r.code) == (503, "loading") and "retry-after" in r.headers
    assert s.get("/metrics").status == 200 and s.get("/v1/models").status == 503
    s.process.send_signal(signal.SIGTERM)
    assert s.process.wait(60) == 0


def test_load_failure_ends_the_process(tmp_path, model):
    path = str(tmp_path / "bad")
    shutil.copytree(model, path)
    os.truncate(os.path.join(path, "model.safetensors"), 5000)
    p = subprocess.run([BIN, "serve", path, "--port", "0"], capture_output=True, timeout=60,
                       env=clean_env())
    assert p.returncode == 65 and b"model.safetensors" in p.stderr and p.stdout == b""


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_stop_when_idle(start, sig):
    s = start()
    with s.raw() as idle:
        idle.request(["GET /health HTTP/1.1", "Host: localhost"])
        assert idle.reply().status == 200
        s.process.send_signal(sig)
        assert s.process.wait(60) == 0
        assert idle.closed()


def test_drain(start):
    """What runs and waits is finished, new work is refused, exit 0."""
    s = start("--parallel", "1")
    ask = {**LONG, "max_tokens": 3000}
    want = s.post("/generate", ask).lines[:-1]
    with s.begin(ask, rcvbuf=4096) as c, s.begin(ask) as waiting, s.raw() as kept:
        wait_until(lambda: s.metric("tnl_requests_waiting") == 1, "one waits")
        kept.request(["GET /health HTTP/1.1", "Host: localhost"])
        assert kept.reply().status == 200
        s.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses_connections(s), "the listening socket is closed")
        kept.request(["GET /ready HTTP/1.1", "Host: localhost"])
        r = kept.reply()
        assert (r.status, r.json["status"]) == (503, "draining")
        for stream in (c, waiting):
            lines = [json.loads(x) for x in stream.reply().body.splitlines()]
            assert lines[:-1] == want and lines[-1]["finish_reason"] == "length"
        assert s.process.wait(60) == 0


def refuses_connections(s):
    """A reset is a connection that was in the queue when it closed: ask again."""
    try:
        s.raw().close()
        return False
    except ConnectionResetError:
        return False
    except ConnectionRefusedError:
        return True


def test_draining_refuses_work_on_open_connections(start):
    s = start()
    body = json.dumps(GATHERED).encode()
    with s.begin(LONG, rcvbuf=4096), s.raw() as kept:
        busy(s)
        kept.request(["GET /health HTTP/1.1", "Host: localhost"])
        kept.reply()
        s.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses_connections(s), "the listening socket is closed")
        kept.request(["POST /generate HTTP/1.1", "Host: localhost",
                      "Content-Length: %d" % len(body)], body)
        r = kept.reply()
        assert (r.status, r.code) == (503, "draining") and kept.closed()
        s.process.send_signal(signal.SIGTERM)
        assert s.process.wait(60) == 1


@pytest.mark.parametrize("stream", [True, False])
def test_drain_time_is_bounded(start, stream):
    s = start("--drain-seconds", "0", "--parallel", "1")
    with s.begin({**LONG, "stream": stream}) as c, s.begin(GATHERED) as waiting:
        wait_until(lambda: s.metric("tnl_requests_waiting") == 1, "one waits")
        s.process.send_signal(signal.SIGTERM)
        r = c.reply()
        assert (r.lines[-1] if stream else r.json)["finish_reason"] == "cancelled"
        assert waiting.reply().json["finish_reason"] == "cancelled"
        assert s.process.wait(60) == 0


def test_stop_with_a_stuck_reader(start):
    """A client that never reads cannot hold the process."""
    s = start("--drain-seconds", "0")
    with s.begin(LONG, rcvbuf=4096):
        wait_until(lambda: s.metric("tnl_requests_paused") == 1, "the reader is behind")
        s.process.send_signal(signal.SIGTERM)
        assert s.process.wait(60) == 0


def test_stop_while_tokenising(start):
    s = start("--drain-seconds", "0")
    raw = json.dumps({"text": "once upon a time there was " * 60000}).encode()
    with s.raw() as c:
        c.request(["POST /tokenize HTTP/1.1", "Host: localhost", "Content-Length: %d" % len(raw)],
                  raw)
        wait_until(lambda: s.metric("tnl_http_connections_suspended") == 1, "it works")
        s.process.send_signal(signal.SIGTERM)
        assert s.process.wait(60) == 0


@pytest.mark.skipif(SANITIZED, reason="the sanitizer has its own handler")
def test_weight_file_cut_while_serving(start, tmp_path, model):
    path = str(tmp_path / "cut")
    shutil.copytree(model, path)
    s = start(folder=path)
    os.truncate(os.path.join(path, "model.safetensors"), 4096)
    try:
        s.post("/generate", LONG)
    except (OSError, Exception):  # the connection breaks with the process
        pass
    assert s.process.wait(60) == 74
    assert "model.safetensors" in s.logged()


def test_weight_file_cut_when_read_into_memory(start, tmp_path, model):
    path = str(tmp_path / "cut")
    shutil.copytree(model, path)
    s = start("--load", "read", folder=path)
    os.truncate(os.path.join(path, "model.safetensors"), 4096)
    s.settled()


# ---- limits


def test_connection_limit(start):
    """At the limit further clients wait; when somebody leaves they are served."""
    s = start("--connections", "4", "--http-threads", "1")
    crowd = [s.raw() for _ in range(8)]
    for c in crowd:
        c.request(["GET /health HTTP/1.1", "Host: localhost"])
    for c in crowd:
        assert c.reply().status == 200
        c.close()
    s.settled()


def test_body_and_header_limits(start):
    s = start("--max-body", "2000", "--max-header", "4096")
    assert s.post("/generate", {"prompt": "x" * 1500, "max_tokens": 1}).status == 200
    assert s.post("/generate", {"prompt": "x" * 2500}).code == "body_too_large"
    with s.raw() as c:
        c.request(["GET /health HTTP/1.1", "Host: localhost", "X: " + "a" * 5000])
        assert c.rest().startswith(b"HTTP/1.1 431")
    s.settled()


def test_upload_budget(start):
    s = start("--upload-budget", "1048576")
    with s.raw() as c:
        c.send("POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{")
        wait_until(lambda: s.metric("tnl_http_upload_bytes") >= 1000000, "it is reserved")
        r = s.post("/generate", {"prompt": "x" * 100000})
        assert (r.status, r.code) == (503, "upload_budget") and "retry-after" in r.headers
        with s.raw() as d:
            d.request(["POST /generate HTTP/1.1", "Host: localhost", "Transfer-Encoding: chunked"],
                      b"ea60\r\n" + b"x" * 60000 + b"\r\n0\r\n\r\n")
            r = d.reply()
            assert (r.status, r.code) == (503, "upload_budget") and d.closed()
    s.settled()


def test_many_idle_connections(server):
    idle = [server.raw() for _ in range(300)]
    for c in idle[:100]:
        c.request(["GET /health HTTP/1.1", "Host: localhost"])
        assert c.reply().status == 200
    assert server.control() == server.golden
    for c in idle:
        c.close()
