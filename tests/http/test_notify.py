"""What the service manager is told: ready when the model answers, reloading, stopping."""

import os
import signal
import socket

import pytest

from harness import HANG, Server, wait_until


class Manager:
    """Stands for systemd: a datagram socket, and the words that come."""

    def __init__(self, name):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(name)
        self.sock.settimeout(HANG)

    def next(self):
        return dict(x.split("=", 1) for x in self.sock.recv(4096).decode().splitlines())

    def until(self, word):
        while True:
            got = self.next()
            if word in got:
                return got


@pytest.mark.parametrize("abstract", [False, True])
def test_life(model, tmp_path, abstract):
    path = str(tmp_path / "notify")
    m = Manager("\0" + path if abstract else path)
    s = Server(model, env={"NOTIFY_SOCKET": "@" + path if abstract else path}, ready=False)
    got = m.next()
    assert got["STATUS"] == "loading a model" and int(got["EXTEND_TIMEOUT_USEC"]) > 0
    assert m.until("READY")["STATUS"] == "serving tiny"
    assert s.get("/ready").status == 200  # and not later than the word
    s.process.send_signal(signal.SIGHUP)
    got = m.next()
    assert got["RELOADING"] == "1" and int(got["MONOTONIC_USEC"]) > 0
    assert m.next()["READY"] == "1"
    os.rename(model, model + ".away")
    try:
        s.process.send_signal(signal.SIGHUP)
        assert m.next()["RELOADING"] == "1"
        assert m.next()["READY"] == "1"  # the model before goes on
    finally:
        os.rename(model + ".away", model)
    s.process.send_signal(signal.SIGTERM)
    assert m.next()["STOPPING"] == "1"
    assert s.process.wait(60) == 0
    s.close()


@pytest.mark.parametrize("name", ["", "relative", "@", "/" + "x" * 200, "/nobody/listens/here"])
def test_nobody_there(model, name):
    """A server is no worse off for a variable that leads nowhere."""
    s = Server(model, env={"NOTIFY_SOCKET": name})
    assert s.generate(prompt=[5], max_tokens=2)["finish_reason"]
    wait_until(lambda: s.get("/ready").status == 200, "it is ready")
    s.close()
