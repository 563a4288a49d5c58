"""Behind nginx with configs/nginx.conf: unbuffered streams, request ids, clients that leave."""

import json
import os
import shutil
import socket
import subprocess

import pytest

from harness import ROOT, Raw, Reply, wait_until

pytestmark = pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def proxy(server, tmp_path):
    """Port of an nginx in front of the shared server."""
    port = free_port()
    with open(os.path.join(ROOT, "configs", "nginx.conf")) as f:
        text = f.read()
    for old, new in [("127.0.0.1:8080", "127.0.0.1:%d" % server.port),
                     ("127.0.0.1:8088", "127.0.0.1:%d" % port), ("/tmp/tnl-nginx", str(tmp_path / "n"))]:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "nginx.conf"
    path.write_text(text)
    p = subprocess.Popen(["nginx", "-p", str(tmp_path), "-c", str(path), "-g",
                          "daemon off; master_process off;"], stderr=subprocess.DEVNULL)

    def up():
        assert p.poll() is None
        try:
            Raw(port).close()
            return True
        except ConnectionRefusedError:
            return False

    wait_until(up, "nginx listens")
    yield port
    p.terminate()
    p.wait()


def post(port, fields, *head):
    body = json.dumps(fields).encode()
    c = Raw(port)
    c.request(["POST /generate HTTP/1.1", "Host: any.example", "Content-Length: %d" % len(body),
               *head], body)
    return c


def test_same_bytes(server, proxy):
    with post(proxy, server.CONTROL) as c:
        r = c.reply()
    lines = r.lines
    lines[-1].pop("timings")
    assert r.status == 200 and lines == server.golden
    rid = r.headers["x-request-id"]
    assert len(rid) == 32 and rid in server.logged()
    with post(proxy, {**server.CONTROL, "stream": False}) as c:
        assert len(c.reply().json["tokens"]) == 24
    with post(proxy, {"prompt": 1}) as c:
        r = c.reply()
        assert isinstance(r, Reply) and (r.status, r.code) == (400, "invalid_type")


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
def test_stream_is_not_buffered(server, proxy, accept):
    """The first token arrives while the generation, far too long to wait for, still runs."""
    ask = {"prompt": [5], "max_tokens": 1000000, "ignore_eos": True}
    with post(proxy, ask, "Accept: " + accept) as c:
        c.until(b'"index":5')
        assert server.metric("tnl_requests_running") == 1
    wait_until(lambda: server.metric("tnl_requests_running") == 0, "leaving reaches the server")


def test_leave_before_the_answer(server, proxy):
    ask = {"prompt": [5], "max_tokens": 1000000, "ignore_eos": True, "stream": False}
    with post(proxy, ask):
        wait_until(lambda: server.metric("tnl_requests_running") == 1, "it runs")
    wait_until(lambda: server.metric("tnl_requests_running") == 0, "leaving reaches the server")
