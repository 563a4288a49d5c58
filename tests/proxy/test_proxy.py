"""Through nginx, Caddy and HAProxy: the same bytes, unbuffered; clients that leave; servers that are
full, stop or are away."""

import http.server
import json
import signal
import threading

import pytest

from harness import Raw, wait_until
from proxies import NAME, Proxy, free_port

LONG = {"prompt": [5], "max_tokens": 1000000, "ignore_eos": True}


def post(port, fields, *head, path="/generate"):
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    c = Raw(port)
    c.request(["POST %s HTTP/1.1" % path, "Host: " + NAME, "Content-Length: %d" % len(body), *head],
              body)
    return c


def ask(port, fields, *head, path="/generate"):
    with post(port, fields, *head, path=path) as c:
        return c.reply()


def get(port, path, *head):
    with Raw(port) as c:
        c.request(["GET %s HTTP/1.1" % path, "Host: " + NAME, *head])
        return c.reply()


def test_same_bytes(pair, proxy):
    control = pair.servers[0].CONTROL
    lines = ask(proxy.port, control).lines
    lines[-1].pop("timings")
    assert lines == pair.golden
    events = ask(proxy.port, control, "Accept: text/event-stream").events
    events[-1].pop("timings")
    assert events == pair.golden
    assert len(ask(proxy.port, {**control, "stream": False}).json["tokens"]) == 24
    r = ask(proxy.port, {"prompt": 1})
    assert (r.status, r.code) == (400, "invalid_type")
    assert get(proxy.port, "/v1/models").json["data"][0]["id"] == "tiny"
    assert get(proxy.port, "/metrics").status == 404


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
def test_stream_while_it_runs(pair, proxy, accept):
    """The first token arrives while the generation, far too long to wait for, still runs."""
    with post(proxy.port, LONG, "Accept: " + accept) as c:
        c.until(b'"index":0')
        assert pair.running() == 1
        c.until(b'"index":40')
        assert pair.running() == 1
    pair.wait_running(0)


def test_short_answers_are_whole(pair, proxy):
    """An answer that is there with the last byte of the request must not be cut."""
    tokens = [x["token"]["id"] for x in pair.golden if "token" in x]
    for i in range(60):
        r = ask(proxy.port, pair.servers[0].CONTROL)
        assert r.status == 200 and [x["token"]["id"] for x in r.lines if "token" in x] == tokens, i
        assert r.lines[-1]["finish_reason"] == "length"
        pair.wait_running(0)


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_ends_the_generation(pair, proxy, stream):
    phase = 'tnl_requests_cancelled_total{phase="decode"}'
    before = pair.metric(phase)
    with post(proxy.port, {**LONG, "stream": stream}) as c:
        if stream:
            c.until(b'"index":3')
        else:
            tokens = pair.metric("tnl_generated_tokens_total")
            wait_until(lambda: pair.metric("tnl_generated_tokens_total") > tokens + 3, "it runs")
    pair.wait_running(0)
    assert pair.metric(phase) == before + 1


def test_request_id(pair, proxy):
    r = ask(proxy.port, {"prompt": [1], "max_tokens": 1}, "X-Request-Id: from-the-client-17")
    assert r.headers["x-request-id"] == "from-the-client-17"
    wait_until(lambda: "from-the-client-17" in pair.logged(), "it is logged")
    made = ask(proxy.port, {"prompt": [1], "max_tokens": 1}).headers["x-request-id"]
    assert len(made) >= 32
    wait_until(lambda: made in pair.logged(), "it is logged")


def test_origin(pair, proxy):
    """The Host goes through: a page of this site may ask, one of another may not."""
    fields = {"prompt": [1], "max_tokens": 1}
    assert ask(proxy.port, fields, "Origin: http://" + NAME).status == 200
    assert ask(proxy.port, fields, "Origin: http://evil.example").status == 403


def test_keep_alive(pair, proxy):
    """One connection of the client, and few behind the proxy."""
    with Raw(proxy.port) as c:
        for _ in range(30):
            c.request(["GET /health HTTP/1.1", "Host: " + NAME])
            assert c.reply().json == {"status": "ok"}
            c.got = b""
    assert pair.metric("tnl_http_connections") <= 10


def test_large_bodies(pair, proxy):
    fields = json.dumps({"prompt": [5], "max_tokens": 2, "stream": False}).encode()
    r = ask(proxy.port, fields + b" " * (4100000 - len(fields)))
    assert r.status == 200 and len(r.json["tokens"]) == 2
    # beyond the limit; an answer before the whole body is there may close the connection
    for length, sent in (4194305, 4194305), (99999999, 200000):
        with Raw(proxy.port) as c:
            c.request(["POST /generate HTTP/1.1", "Host: " + NAME, "Content-Length: %d" % length])
            try:
                c.send(b" " * sent)
            except (BrokenPipeError, ConnectionResetError):
                pass
            r = c.reply()
            assert r.status == 413, r.body


def fill(server):
    """The server's only slot, taken."""
    c = server.begin(LONG)
    c.until(b'"index":1')
    return c


def test_full_server_is_passed_over(pair, proxy):
    for full, other in pair.servers, pair.servers[::-1]:
        accepted = other.metric("tnl_requests_accepted_total")
        with fill(full):
            for i in range(6):
                r = ask(proxy.port, {"prompt": [1, i], "max_tokens": 2, "stream": i % 2 == 0})
                assert r.status == 200, (i, r.body)
                wait_until(lambda: other.metric("tnl_requests_running") == 0, "its slot is free")
            assert other.metric("tnl_requests_accepted_total") == accepted + 6
            assert full.metric("tnl_requests_running") == 1
        wait_until(lambda: full.metric("tnl_requests_running") == 0, "it has left")


def test_both_are_full(pair, proxy):
    a, b = pair.servers
    with fill(a), fill(b):
        for _ in range(3):
            r = ask(proxy.port, {"prompt": [1], "max_tokens": 2})
            assert r.status == 503 and int(r.headers["retry-after"]) >= 1
            assert r.json["error"]["type"] == "overloaded_error"
        assert pair.running() == 2
    pair.wait_running(0)

    def works():
        return ask(proxy.port, {"prompt": [1], "max_tokens": 2}).status == 200

    wait_until(works, "there is room again")


def test_drain(start, proxy_to):
    """A server that is told to stop finishes its stream; new requests go to the other one."""
    flags = ["--allowed-host", NAME]
    a, b = start(*flags), start(*flags)
    proxy = proxy_to(*("127.0.0.1:%d" % s.port for s in (a, b)))
    ends = {**LONG, "max_tokens": 3000 if a.rss_base < 1 << 28 else 300}
    with post(proxy.port, ends) as c:
        c.until(b'"index":1')
        going, other = (a, b) if a.metric("tnl_requests_running") else (b, a)
        going.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in going.logged(), "it drains")
        for i in range(6):
            r = ask(proxy.port, {"prompt": [1, i], "max_tokens": 2, "stream": False})
            assert r.status == 200, (i, r.body)
        r = c.reply()
        assert r.lines[-1]["finish_reason"] == "length"
    assert going.process.wait(30) == 0
    assert ask(proxy.port, {"prompt": [1], "max_tokens": 2}).status == 200
    wait_until(other.at_rest, "the other one is at rest")


def test_unix_sockets(start, proxy_to, tmp_path):
    """The same over unix sockets, on which the servers know the client by what the proxy says."""
    paths = [str(tmp_path / name) for name in ("a.sock", "b.sock")]
    flags = ["--parallel", "1", "--queue", "0", "--allowed-host", NAME, "--trust-proxy", "unix"]
    a, b = (start("--unix", path, *flags) for path in paths)
    proxy = proxy_to(*paths)
    for full, other in (a, b), (b, a):
        with fill(full):
            for i in range(3):
                r = ask(proxy.port, {"prompt": [1, i], "max_tokens": 2, "stream": False})
                assert r.status == 200, (i, r.body)
                wait_until(lambda: other.metric("tnl_requests_running") == 0, "its slot is free")
        wait_until(lambda: full.metric("tnl_requests_running") == 0, "it has left")
    with post(proxy.port, LONG) as c:
        c.until(b'"index":40')
        assert sum(s.metric("tnl_requests_running") for s in (a, b)) == 1
    for s in a, b:
        wait_until(lambda: s.metric("tnl_requests_running") == 0, "leaving is seen")
    name = "through-unix-%s" % proxy.kind
    assert ask(proxy.port, {"prompt": [1], "max_tokens": 1}, "X-Request-Id: " + name,
               "X-Forwarded-For: 10.9.9.9").status == 200
    line = name + " POST /generate 200"
    wait_until(lambda: line in a.logged() + b.logged(), "it is logged")
    logged = [x for x in (a.logged() + b.logged()).splitlines() if line in x]
    assert "client=127.0.0.1 " in logged[0], logged


def test_base_path(start, proxy_to):
    flags = ["--base-path", "/llm/x", "--allowed-host", NAME, "--parallel", "1", "--queue", "0"]
    a, b = (start(*flags, ready=False) for _ in range(2))
    for s in a, b:
        wait_until(lambda: s.get("/llm/x/ready").status == 200, "it is ready")
    proxy = proxy_to("127.0.0.1:%d" % a.port, "127.0.0.1:%d" % b.port, base="/llm/x")
    here = {"path": "/llm/x/generate"}
    with post(proxy.port, LONG, **here) as c:
        c.until(b'"index":3')
        for i in range(4):  # one is full
            r = ask(proxy.port, {"prompt": [1, i], "max_tokens": 2, "stream": False}, **here)
            assert r.status == 200, (i, r.body)
    assert get(proxy.port, "/llm/x/v1/models").status == 200
    assert get(proxy.port, "/llm/x/metrics").status == 404
    assert ask(proxy.port, {"prompt": [1]}).code == "unknown_route"


def test_both_are_away(proxy_to):
    proxy = proxy_to("127.0.0.1:%d" % free_port(), "127.0.0.1:%d" % free_port())
    assert ask(proxy.port, {"prompt": [1]}).status in (502, 503)
    assert get(proxy.port, "/health").status in (502, 503)


def test_one_server_is_away(start, proxy_to):
    s = start("--allowed-host", NAME)
    proxy = proxy_to("127.0.0.1:%d" % s.port, "127.0.0.1:%d" % free_port())
    for i in range(6):
        assert ask(proxy.port, {"prompt": [i], "max_tokens": 1}).status == 200
        assert get(proxy.port, "/health").status == 200


class Upstream(http.server.BaseHTTPRequestHandler):
    """GET and POST answer with the header they were sent. POST /stream answers with `head` and then
    one line each time that `gate` is released."""
    protocol_version = "HTTP/1.1"
    head, gate = {}, None

    def do_GET(self):
        body = json.dumps([[k.lower(), v] for k, v in self.headers.items()]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/stream":
            self.do_GET()
            return
        self.send_response(200)
        for name, value in self.head.items():
            self.send_header(name, value)
        self.end_headers()
        for i in range(8):
            self.gate.acquire()
            line = b"line %d.\n" % i
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def upstream():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.handle_error = lambda *_: None  # a proxy that drops a connection
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield "127.0.0.1:%d" % server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def before_upstream(kind, upstream, tmp_path_factory):
    p = Proxy(kind, tmp_path_factory.mktemp(kind), [upstream, upstream])
    yield p
    p.close()


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
def test_nothing_is_held_back(pair, before_upstream, accept):
    """Each line is read before the next one is written, so none can wait in a buffer. The header is
    that of a real stream."""
    real = pair.servers[0].post("/generate", pair.servers[0].CONTROL, Accept=accept)
    assert real.headers["content-type"].startswith(accept)
    Upstream.head = {k: v for k, v in real.headers.items() if k not in ("date", "connection")}
    assert Upstream.head["transfer-encoding"] == "chunked"
    Upstream.gate = threading.Semaphore(0)
    with post(before_upstream.port, {}, path="/stream") as c:
        for i in range(8):
            Upstream.gate.release()
            c.until(b"line %d.\n" % i)
            assert b"line %d." % (i + 1) not in c.got


def test_what_is_forwarded(before_upstream):
    for send in (lambda *h: get(before_upstream.port, "/x", *h),
                 lambda *h: ask(before_upstream.port, {}, *h)):
        head = send("X-Forwarded-For: 10.9.9.9", "Authorization: Bearer k",
                    "Accept: text/event-stream").json
        named = dict(head)
        # what a client claims may stay, but the last hop is the one the proxy saw
        last = [v for k, v in head if k == "x-forwarded-for"][-1]
        assert last.split(",")[-1].strip() == "127.0.0.1"
        assert named["host"] == NAME and named["x-forwarded-proto"] == "http"
        assert named["authorization"] == "Bearer k" and named["accept"] == "text/event-stream"
        assert len(named["x-request-id"]) >= 32
