"""What the server listens on: a unix socket, a base path."""

import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys

import pytest

from harness import BIN, HANG, Reply, Server, clean_env, wait_until

ASK = {"prompt": [5, 6, 7], "max_tokens": 4, "seed": 1}


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=HANG)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(HANG)
        self.sock.connect(self.path)


class UnixServer(Server):
    """On a unix socket alone."""

    def __init__(self, model, path, *flags, **kw):
        self.path = str(path)
        super().__init__(model, "--unix", self.path, *flags, **kw)

    def arguments(self, flags):
        return flags

    def find_port(self):
        assert self.process.poll() is None, self.logged()
        return "listening on unix socket" in self.logged() and 1

    def connect(self):
        return UnixConnection(self.path)


@pytest.fixture
def unix(model, tmp_path):
    running = []

    def go(*flags, path=None):
        s = UnixServer(model, path or tmp_path / "tnl.sock", *flags)
        running.append(s)
        return s

    yield go
    for s in running:
        s.close()


def refused(model, *flags):
    """Start a server that must not start; the line it says."""
    r = subprocess.run([BIN, "serve", model, "--threads", "1", *flags], env=clean_env(),
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=HANG)
    assert r.returncode not in (0, 99) and r.returncode > 0, r.stderr
    return r.stderr.decode()


# ---- a unix socket


def test_unix_alone(unix):
    s = unix()
    assert stat.S_IMODE(os.stat(s.path).st_mode) == 0o660
    s.baseline()
    assert s.generate(**ASK)["text"]
    # Any name in Host: no browser gets here, and proxies pass on what they were asked for.
    assert s.get("/v1/models", Host="llm.example").status == 200
    s.settled()
    assert " port " not in s.logged()
    assert "client=unix" in s.logged()
    s.process.send_signal(signal.SIGTERM)
    assert s.process.wait(60) == 0
    assert not os.path.exists(s.path)


def test_unix_beside_tcp(start, tmp_path):
    path = str(tmp_path / "both.sock")
    s = start("--unix", path, "--unix-mode", "600")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    c = UnixConnection(path)
    c.request("POST", "/generate", json.dumps(ASK), {"Content-Type": "application/json"})
    over_unix = c.getresponse().read()
    c.close()
    assert over_unix.splitlines()[:-1] == \
        s.post("/generate", ASK).body.splitlines()[:-1]
    s.settled()


def test_leaving_is_seen_on_unix(unix):
    s = unix()
    s.baseline()
    body = json.dumps({**ASK, "max_tokens": 1000000, "ignore_eos": True}).encode()
    c = UnixConnection(s.path)
    c.request("POST", "/generate", body)
    c.getresponse().read(50)
    c.sock.close()
    c.close()
    name = 'tnl_requests_cancelled_total{phase="decode"}'
    wait_until(lambda: s.metric(name) == 1, "it is cancelled")
    s.settled()


def test_refusal_midway_on_unix(unix):
    s = unix("--max-body", "2000")
    c = UnixConnection(s.path)
    c.connect()
    c.sock.sendall(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n{")
    got = c.sock.recv(65536)
    assert got.startswith(b"HTTP/1.1 413 ") and b"body_too_large" in got
    c.close()


def test_file_left_behind(unix, tmp_path):
    """A server that was killed leaves its socket; the next one takes the place."""
    s = unix()
    s.process.kill()
    s.process.wait()
    assert os.path.exists(s.path)
    assert unix(path=s.path).get("/health").status == 200


def test_file_in_use(unix, model):
    s = unix()
    before = os.stat(s.path).st_ino
    assert "another server listens there" in refused(model, "--unix", s.path)
    assert os.stat(s.path).st_ino == before and s.get("/health").status == 200


def test_not_our_file_at_the_end(unix, tmp_path):
    """Somebody put another socket in its place: that one stays."""
    s = unix()
    os.unlink(s.path)
    other = socket.socket(socket.AF_UNIX)
    other.bind(s.path)
    s.process.send_signal(signal.SIGTERM)
    assert s.process.wait(60) == 0
    assert os.path.exists(s.path)
    other.close()


def test_file_is_removed_at_every_end(model, tmp_path):
    """While loading, with a model that cannot be loaded, at the second signal."""
    path = str(tmp_path / "s")
    s = UnixServer(model, path, ready=False)
    s.process.send_signal(signal.SIGTERM)
    assert s.process.wait(60) == 0 and not os.path.exists(path)
    s.close()
    s = UnixServer(model, path)
    c = UnixConnection(path)
    c.request("POST", "/generate", json.dumps({**ASK, "max_tokens": 1000000, "ignore_eos": True}))
    c.getresponse().read(10)
    s.process.send_signal(signal.SIGTERM)
    wait_until(lambda: not os.path.exists(path), "the place is free as soon as it drains")
    s.process.send_signal(signal.SIGTERM)
    assert s.process.wait(60) == 1
    c.close()
    s.close()
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    os.truncate(broken / "model.safetensors", 5000)
    assert "model.safetensors" in refused(str(broken), "--unix", path)
    assert not os.path.exists(path)


def test_bad_paths(model, tmp_path):
    plain = tmp_path / "file"
    plain.write_text("precious")
    assert "something else than a socket" in refused(model, "--unix", str(plain))
    assert plain.read_text() == "precious"
    assert "expected 1 to 107" in refused(model, "--unix", "/tmp/" + "x" * 120)
    assert "expected 1 to 107" in refused(model, "--unix", "")
    assert "No such file" in refused(model, "--unix", str(tmp_path / "none" / "s"))
    for mode in ["", "9", "rw", "1777", "0660x", "77777"]:
        assert "octal" in refused(model, "--unix", str(tmp_path / "s"), "--unix-mode", mode)
    assert not os.path.exists(tmp_path / "s")


# ---- a base path


def test_base_path(model):
    s = Server(model, "--base-path", "/models/one", ready=False)
    wait_until(lambda: s.get("/models/one/health").status == 200, "the server is ready")
    for path in ["/generate", "/", "", "/modelsgenerate", "/models/onegenerate", "/models",
                 "/models/one/models/one/generate", "/models/one/../generate"]:
        assert s.post(path, ASK).status == 404, path
    assert s.get("/models/one/ready").json == {"status": "ready"}
    assert s.get("/ready").code == "unknown_route"
    r = s.post("/models/one/generate", ASK)
    assert r.status == 200
    assert s.post("/models/one", {"inputs": "x", "parameters": {"max_new_tokens": 1}}).status == 200
    assert s.get("/models/one/v1/models/tiny").status == 200
    assert s.get("/models/one/openapi.json").json["servers"] == [{"url": "/models/one"}]
    r = s.get("/models/one")
    assert r.status == 308 and r.headers["location"] == "one/"
    assert s.get("/models/one/").status == 200
    s.close()


def test_no_base_path(server):
    assert server.get("/openapi.json").json["servers"] == [{"url": "/"}]


def test_bad_base_paths(model):
    for base in ["x", "/", "/x/", "//x", "/a//b", "/a b", "/a%20b", "/a/../b", "/" + "x" * 200,
                 "/\N{SNOWMAN}"]:
        assert "--base-path" in refused(model, "--port", "0", "--base-path", base), base


# ---- sockets that are handed over


class HandedServer(Server):
    """As systemd starts it: with listening sockets from descriptor 3 on."""

    def __init__(self, model, sockets, *flags, **kw):
        self.sockets = sockets
        super().__init__(model, *flags, **kw)

    def arguments(self, flags):
        return flags

    LAUNCH = """import os, sys
fds = sys.argv[1].split(",")
for i, fd in enumerate(fds):
    os.dup2(int(fd), 3 + i)
os.environ.update(LISTEN_FDS=str(len(fds)), LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])"""

    def start(self, command, **kw):
        fds = [s.fileno() for s in self.sockets]
        return subprocess.Popen([sys.executable, "-c", self.LAUNCH, ",".join(map(str, fds)),
                                 *command], pass_fds=fds, **kw)


def lifted(s):
    """Out of the way of the descriptors that the server looks at."""
    high = socket.socket(fileno=fcntl.fcntl(s.fileno(), fcntl.F_DUPFD, 50))
    s.close()
    return high


def listening(address, family=socket.AF_INET):
    s = socket.socket(family)
    s.bind(address)
    s.listen(16)
    return lifted(s)


def test_sockets_handed_over(model, tmp_path):
    tcp, unix = listening(("127.0.0.1", 0)), listening(str(tmp_path / "s"), socket.AF_UNIX)
    s = HandedServer(model, [tcp, unix])
    assert s.port == tcp.getsockname()[1]
    s.baseline()
    c = UnixConnection(str(tmp_path / "s"))
    c.request("GET", "/ready")
    assert c.getresponse().status == 200
    c.close()
    s.settled()
    s.process.send_signal(signal.SIGTERM)
    assert s.process.wait(60) == 0
    # The sockets are not ours to close: who comes now waits for the next server.
    with s.raw() as waiting:
        waiting.request(["GET /health HTTP/1.1", "Host: localhost"])
        n = HandedServer(model, [tcp, unix], ready=False)
        assert waiting.reply().status in (200, 503)
        n.close()
    assert os.path.exists(tmp_path / "s")
    s.close()
    tcp.close()
    unix.close()


def test_handed_over_in_public(model):
    tcp = listening(("0.0.0.0", 0))
    for flags, starts in [([], False), (["--insecure-no-auth"], True)]:
        try:
            s = HandedServer(model, [tcp], *flags)
        except AssertionError as e:
            assert not starts and "no API key is set" in str(e)
        else:
            assert starts
            s.close()
    tcp.close()


def test_handed_over_wrongly(model, tmp_path):
    plain = lifted(socket.socket())
    good = [listening(("127.0.0.1", 0)) for _ in range(3)]
    for sockets, word in [([plain], "not a listening socket"), (good, "at most 2")]:
        with pytest.raises(AssertionError, match=word):
            HandedServer(model, sockets)
    # Meant for another process: as if it were not there.
    s = Server(model, env={"LISTEN_PID": "1", "LISTEN_FDS": "1"})
    assert s.get("/ready").status == 200
    s.close()
    for x in good + [plain]:
        x.close()
