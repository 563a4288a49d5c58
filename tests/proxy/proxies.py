"""A proxy of configs/ in front of two addresses, and two servers to put there."""

import os
import socket
import subprocess

from harness import ROOT, Raw, Server, wait_until

os.environ["PATH"] += os.pathsep + "/usr/sbin"  # where Debian puts two of them
NAME = "tnl.example"  # what clients call the site


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# name: file, command; {} is the file with addresses changed
KINDS = {
    "nginx": ("nginx.conf", ["nginx", "-c", "{}", "-g", "daemon off; master_process off;"]),
    "caddy": ("Caddyfile", ["caddy", "run", "--adapter", "caddyfile", "--config", "{}"]),
    "haproxy": ("haproxy.cfg", ["haproxy", "-db", "-f", "{}"]),
}


UNIX = {"nginx": "unix:", "caddy": "unix/", "haproxy": "unix@"}  # before the path of a socket
BASED = {"nginx": [" /metrics"], "caddy": [" /metrics", "rewrite /ready"],
         "haproxy": ["path /metrics", "GET /health"]}  # what a base path changes


class Proxy:
    """One of the shipped files, running in front of two upstream addresses."""

    def __init__(self, kind, folder, upstreams, base=""):
        self.kind = kind
        self.port = free_port()
        name, command = KINDS[kind]
        with open(os.path.join(ROOT, "configs", name)) as f:
            text = f.read()
        for old, new in zip(("127.0.0.1:8080", "127.0.0.1:8081"), upstreams):
            assert old in text
            text = text.replace(old, UNIX[kind] + new if new[0] == "/" else new)
        for path in BASED[kind]:
            assert path in text
            text = text.replace(path, path.replace("/", base + "/"))
        if kind == "caddy":
            old, new = "http://:8088", "http://:%d" % self.port
        else:
            old, new = "127.0.0.1:8088", "127.0.0.1:%d" % self.port
        assert old in text
        text = text.replace(old, new).replace("/tmp/tnl-nginx", str(folder / "nginx"))
        path = folder / name
        path.write_text(text)
        self.log = open(folder / (kind + ".log"), "wb")
        env = {**os.environ, "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        self.process = subprocess.Popen([a.format(path) for a in command], cwd=folder, env=env,
                                        stdout=self.log, stderr=self.log)
        wait_until(self.listens, kind + " listens")

    def listens(self):
        with open(self.log.name) as f:
            assert self.process.poll() is None, f.read()
        try:
            Raw(self.port).close()
            return True
        except ConnectionRefusedError:
            return False

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


class Pair:
    """Two servers that have one slot each and no queue."""

    def __init__(self, model):
        flags = ["--parallel", "1", "--queue", "0", "--step-tokens", "64", "--allowed-host", NAME]
        self.servers = [Server(model, *flags) for _ in range(2)]
        for s in self.servers:
            s.baseline()
        self.golden = self.servers[0].golden

    def metric(self, name):
        return sum(s.metrics().get(name, 0) for s in self.servers)

    def running(self):
        return self.metric("tnl_requests_running")

    def wait_running(self, n):
        wait_until(lambda: self.running() == n, "%d run" % n)

    def logged(self):
        return "".join(s.logged() for s in self.servers)
