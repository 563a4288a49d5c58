"""A running server, raw sockets to it, and what must hold after whatever a client did."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
BIN = os.path.abspath(os.environ.get("TNL_BIN", os.path.join(ROOT, "build", "tnl")))
HANG = 60  # seconds; a guard against hanging, not a measurement
CANARY = "canary-3f9a"  # part of prompts and keys; must never reach a log


def sanitized():
    with open(BIN, "rb") as f:
        raw = f.read()
    return b"__asan_init" in raw or b"__tsan_init" in raw


SANITIZED = sanitized() if os.path.exists(BIN) else False
SCALE = 10 if SANITIZED else 1  # long prompts are that much shorter


def wait_until(check, what):
    """Poll `check` until it is true; fails after HANG seconds."""
    end = time.monotonic() + HANG
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < end, "never came true: " + what
        time.sleep(0.01)


class Reply:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        return self.json["error"]["code"]

    @property
    def param(self):
        return self.json["error"]["param"]

    @property
    def lines(self):
        """The objects of an NDJSON body."""
        assert self.body.endswith(b"\n")
        return [json.loads(x) for x in self.body.split(b"\n")[:-1] if x]

    @property
    def events(self):
        """The objects of an SSE body."""
        assert self.body.endswith(b"\n\n")
        blocks = self.body.decode().split("\n\n")[:-1]
        data = [b for b in blocks if not b.startswith(":")]
        assert all(b.startswith("data: ") and "\n" not in b for b in data)
        return [json.loads(b[len("data: "):]) for b in data]


class Raw:
    """One TCP connection, spoken by hand."""

    def __init__(self, port, rcvbuf=None):
        self.sock = socket.socket()
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(HANG)
        self.sock.connect(("127.0.0.1", port))
        self.got = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        self.sock.sendall(data if isinstance(data, bytes) else data.encode())

    def request(self, head, body=b""):
        """head: lines without the blank one; Host and Content-Length are not added."""
        lines = head if isinstance(head, (list, tuple)) else [head]
        self.send(b"\r\n".join(x if isinstance(x, bytes) else x.encode() for x in lines) +
                  b"\r\n\r\n" + body)

    def until(self, mark):
        while mark not in self.got:
            data = self.sock.recv(65536)
            assert data, "closed before %r; got %r" % (mark, self.got[-200:])
            self.got += data

    def rest(self):
        """Everything until the server closes."""
        try:
            while True:
                data = self.sock.recv(65536)
                if not data:
                    break
                self.got += data
        except ConnectionResetError:
            pass
        return self.got

    def reply(self):
        """The next whole reply with a Content-Length (or chunked) body."""
        self.until(b"\r\n\r\n")
        head, self.got = self.got.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, v in (x.split(":", 1) for x in lines[1:])}
        status = int(lines[0].split()[1])
        if headers.get("transfer-encoding") == "chunked":
            return Reply(status, headers, self.chunked())
        n = int(headers.get("content-length", 0))
        while len(self.got) < n:
            data = self.sock.recv(65536)
            assert data, "body cut short"
            self.got += data
        body, self.got = self.got[:n], self.got[n:]
        return Reply(status, headers, body)

    def chunked(self):
        body = b""
        while True:
            self.until(b"\r\n")
            size, self.got = self.got.split(b"\r\n", 1)
            n = int(size, 16)
            while len(self.got) < n + 2:
                data = self.sock.recv(65536)
                assert data, "chunk cut short"
                self.got += data
            body += self.got[:n]
            self.got = self.got[n + 2:]
            if n == 0:
                return body

    def closed(self):
        """True when the server has closed the connection (waits for it)."""
        try:
            while True:
                data = self.sock.recv(65536)
                if not data:
                    return True
                self.got += data
        except ConnectionResetError:
            return True

    def reset(self):
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def close(self):
        self.sock.close()


def clean_env(extra=None):
    env = {k: v for k, v in os.environ.items() if not k.startswith("TNL_") or k == "TNL_CPU"}
    env.update(extra or {})
    return env


def post_head(path, n, *more):
    return ["POST %s HTTP/1.1" % path, "Host: localhost", "Content-Length: %d" % n, *more]


class Server:
    def __init__(self, model, *flags, env=None, ready=True):
        self.log = tempfile.NamedTemporaryFile(mode="w+b", suffix=".log")
        flags = self.arguments(list(flags))
        if not any(f.startswith("--threads") for f in flags):
            flags += ["--threads", "1"]
        self.process = self.start([BIN, "serve", model, *flags], stderr=self.log,
                                  stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
                                  env=clean_env(env))
        self.headers = {}
        self.port = int(wait_until(self.find_port, "the server listens"))
        if ready:
            wait_until(lambda: self.get("/health").status == 200, "the server is ready")

    # ---- plumbing

    def arguments(self, flags):
        return flags if any(f.startswith("--port") for f in flags) else flags + ["--port", "0"]

    def start(self, command, **kw):
        return subprocess.Popen(command, **kw)

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG)

    def logged(self):
        with open(self.log.name, "rb") as f:
            return f.read().decode("utf-8", "replace")

    def find_port(self):
        assert self.process.poll() is None, self.logged()
        m = re.search(r"listening on \S+ port (\d+)", self.logged())
        return m and m.group(1)

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(2)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self.no_report()
        self.log.close()

    def no_report(self):
        text = self.logged()
        assert "Sanitizer" not in text and "runtime error" not in text, text[-4000:]
        assert CANARY not in text, "client text reached the log"

    # ---- requests

    def raw(self, **kw):
        return Raw(self.port, **kw)

    def ask(self, method, path, body=None, headers=None):
        c = self.connect()
        try:
            c.request(method, path, body, {**self.headers, **(headers or {})})
            r = c.getresponse()
            return Reply(r.status, {k.lower(): v for k, v in r.getheaders()}, r.read())
        finally:
            c.close()

    def get(self, path, **headers):
        return self.ask("GET", path, None, headers)

    def post(self, path, body, **headers):
        if not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        data = body if isinstance(body, bytes) else body.encode("utf-8")
        return self.ask("POST", path, data, {"Content-Type": "application/json", **headers})

    def generate(self, **fields):
        """One gathered answer."""
        r = self.post("/generate", {"stream": False, **fields})
        assert r.status == 200, r.body
        return r.json

    def begin(self, fields, *head, rcvbuf=None):
        """A raw connection on which POST /generate has been sent."""
        body = json.dumps(fields, separators=(",", ":")).encode()
        c = self.raw(rcvbuf=rcvbuf)
        c.request(post_head("/generate", len(body), *head), body)
        return c

    # ---- figures

    def metrics(self):
        text = self.get("/metrics").body.decode()
        return {k: float(v) for k, v in
                (line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")}

    def metric(self, name):
        return self.metrics()[name]

    def fds(self):
        return len(os.listdir("/proc/%d/fd" % self.process.pid))

    def rss(self):
        with open("/proc/%d/statm" % self.process.pid) as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    # ---- invariants

    CONTROL = {"prompt": [5, 6, 7, 8], "max_tokens": 24, "seed": 11, "logprobs": 3}

    def control(self):
        r = self.post("/generate", self.CONTROL)
        assert r.status == 200
        lines = r.lines
        lines[-1].pop("timings")
        return lines

    def warm_up(self):
        """Let the allocator's heaps grow to what large prompts need, so that growth later is a
        leak."""
        if SANITIZED:
            return
        for text in ["the old man went down to the sea " * 4000, "\U0001f422" * 30000] * 2:
            together([lambda: self.post("/generate", {"prompt": text, "max_tokens": 1})] * 2)

    def baseline(self):
        for _ in range(8):
            self.golden = self.control()
        wait_until(self.at_rest, "the server comes to rest")
        self.fd_base = self.fds()
        self.rss_base = self.rss() - self.kept(self.metrics())

    @staticmethod
    def kept(m):
        """Bytes of what the server remembers on purpose."""
        return m["tnl_prefix_cache_bytes"] + m["tnl_session_bytes"]

    def at_rest(self):
        m = self.metrics()
        # the request that asks is itself active
        return (m["tnl_requests_running"] == 0 and m["tnl_requests_waiting"] == 0 and
                m["tnl_http_connections_suspended"] == 0 and m["tnl_http_requests_active"] == 1 and
                m["tnl_http_upload_bytes"] == 0)

    def settled(self, memory=8 << 20):
        """Alive, at rest, nothing leaked, every request accounted for, same golden bytes."""
        assert self.process.poll() is None, "the server died: " + self.logged()[-2000:]
        wait_until(self.at_rest, "no request is left anywhere")
        assert self.control() == self.golden
        wait_until(self.at_rest, "the server comes to rest")
        m = self.metrics()
        ended = sum(v for k, v in m.items() if k.startswith("tnl_requests_finished_total"))
        assert m["tnl_requests_accepted_total"] == ended
        wait_until(lambda: self.fds() <= self.fd_base + 1, "descriptors are closed")
        self.no_report()
        grown = self.rss() - self.kept(m) - self.rss_base
        if not SANITIZED and grown > memory:
            self.rss_base += grown  # blame this test only
            raise AssertionError("%.1f MB more resident than before" % (grown / 1e6))


def together(calls):
    """Run callables at the same time; their results in order."""
    results = [None] * len(calls)

    def run(i):
        try:
            results[i] = calls[i]()
        except BaseException as e:  # noqa: BLE001 - reported by the caller
            results[i] = e

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for r in results:
        if isinstance(r, BaseException):
            raise r
    return results
