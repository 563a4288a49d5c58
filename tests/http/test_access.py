"""Keys, Host, Origin, and what refuses to start."""

import os
import subprocess
import tempfile

import pytest

from harness import BIN, CANARY, clean_env

KEY = "key-" + CANARY + "-0123456789"


def exit_of(*args, env=None):
    p = subprocess.run([BIN, "serve", *args], capture_output=True, timeout=60,
                       stdin=subprocess.DEVNULL, env=clean_env(env))
    return p.returncode, p.stderr.decode()


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"

    def write(text, mode=0o600):
        path.write_bytes(text.encode())
        path.chmod(mode)
        return str(path)

    return write


@pytest.mark.parametrize("host,ok", [
    ("localhost", True), ("LOCALHOST:8080", True), ("127.0.0.1", True), ("127.0.0.1:1", True),
    ("127.8.8.8", True), ("[::1]", True), ("[::1]:80", True), ("evil.com", False), ("", False),
    ("localhost.", False), ("localhost.evil.com", False), ("evil.com:80", False),
    ("user@localhost", False), ("127.0.0.1.evil.com", False), ("[::1", False), ("[::2]", False),
    ("localhost:80x", False), ("localhost:", False), ("10.0.0.1", False), ("2130706433", False),
    ("a" * 300, False)])
def test_host(server, host, ok):
    with server.raw() as c:
        c.request(["GET /health HTTP/1.1", "Host: " + host])
        r = c.reply()
    assert (r.status == 200) if ok else (r.status == 403 and r.code == "host"), r.body


def test_allowed_host(start):
    s = start("--allowed-host", "llm.example.org,other.example")
    for host, status in [("llm.example.org", 200), ("LLM.example.org:443", 200),
                         ("other.example", 200), ("example.org", 403), ("localhost", 200)]:
        assert s.get("/health", Host=host).status == status
    s = start("--allowed-host", "*")
    assert s.get("/health", Host="anything.example").status == 200


@pytest.mark.parametrize("origin,status", [
    ("http://localhost:8080", 200), ("https://localhost:8080", 200), ("http://localhost", 403),
    ("http://localhost:9", 403), ("http://evil.com", 403), ("null", 403), ("", 403)])
def test_origin(server, origin, status):
    r = server.post("/generate", {"prompt": [5], "max_tokens": 1}, Host="localhost:8080",
                    Origin=origin)
    assert r.status == status and (status == 200 or r.code == "origin")
    assert "access-control-allow-origin" not in r.headers


def keyed(s):
    """All routes with no key, wrong keys and the right one."""
    routes = [("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/nope"), ("PUT", "/generate"),
              ("POST", "/generate"), ("POST", "/tokenize"), ("POST", "/detokenize")]
    wrong = [None, "", "Bearer", "Bearer ", "Bearer x", "Bearer " + KEY[:-1], "Bearer " + KEY + "x",
             "Basic " + KEY, KEY, "Bearer  " + KEY, "Bearer " + KEY.upper(), "Bearer " + "k" * 9000]
    for method, path in routes:
        for value in wrong:
            r = s.ask(method, path, headers={"Authorization": value} if value is not None else {})
            assert r.status == 401, (method, path, value)
            assert r.code == ("missing_key" if value is None else "invalid_key")
            assert r.headers["www-authenticate"] == "Bearer"
            assert r.json["error"]["message"] == "A valid API key is required."
    assert s.ask("GET", "/nope", headers={"Authorization": "Bearer " + KEY}).status == 404
    for value in ["Bearer " + KEY, "bearer " + KEY]:
        r = s.post("/generate", {"prompt": [5], "max_tokens": 1}, Authorization=value)
        assert r.status == 200
    assert s.get("/health").status == 200 and s.get("/ready").status == 200
    assert KEY not in s.logged()


def test_key_from_file(model, key_file):
    from harness import Server
    s = Server(model, "--api-key-file", key_file("# the key\n\n" + KEY + "\r\n"))
    s.headers = {}
    keyed(s)
    s.close()


def test_key_from_environment(model):
    from harness import Server
    s = Server(model, env={"TNL_API_KEY": KEY})
    keyed(s)
    with open("/proc/%d/environ" % s.process.pid, "rb") as f:
        assert KEY.encode() not in f.read()
    with open("/proc/%d/cmdline" % s.process.pid, "rb") as f:
        assert KEY.encode() not in f.read()
    s.close()


@pytest.mark.parametrize("text,mode", [(KEY, 0o644), (KEY, 0o640), ("", 0o600), ("# c\n", 0o600),
                                       ("short", 0o600), ("a b" * 10, 0o600), ("é" * 20, 0o600),
                                       ("x" * 70000, 0o600)])
def test_bad_key_file(model, key_file, text, mode):
    code, err = exit_of(model, "--port", "0", "--api-key-file", key_file(text, mode))
    assert code == 2 and err.startswith("tnl serve: ") and KEY not in err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_key_file_of_root():
    """Root may hand a file over through the group, as systemd and Kubernetes do."""
    nobody = 65534
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = os.path.join(folder, "key")
        with open(path, "w") as f:
            f.write(KEY)
        for owner, mode, good in [(0, 0o440, True), (0, 0o444, False), (0, 0o460, False),
                                  (nobody, 0o400, True), (nobody, 0o440, False)]:
            os.chown(path, owner, nobody)
            os.chmod(path, mode)
            p = subprocess.run([BIN, "serve", folder, "--port", "0", "--api-key-file", path],
                               capture_output=True, env=clean_env(None), timeout=60, user=nobody,
                               group=nobody, extra_groups=[])
            # with a good key, the model that is not there is missed
            assert (b"the key file has mode" in p.stderr) != good, (owner, oct(mode), p.stderr)
            assert (b"config.json" in p.stderr) == good and p.returncode != 0


def test_odd_key_files(model, tmp_path, key_file):
    link = tmp_path / "link"
    link.symlink_to(key_file(KEY))
    for path, codes in [(tmp_path / "missing", {66}), (tmp_path, {2}), (link, {66})]:
        code, err = exit_of(model, "--port", "0", "--api-key-file", str(path))
        assert code in codes and len(err.splitlines()) <= 2
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    assert exit_of(model, "--port", "0", "--api-key-file", str(fifo))[0] == 2


def test_public_address_needs_a_key(model):
    for host in ["0.0.0.0", "::"]:
        code, err = exit_of(model, "--port", "0", "--host", host)
        assert code == 2 and "--api-key-file" in err


def test_public_address_with_a_key(start):
    s = start("--host", "0.0.0.0", "--insecure-no-auth")
    assert s.get("/health").status == 200
    assert s.get("/health", Host="10.1.2.3").status == 200  # an address, not a name
    assert s.get("/health", Host="evil.com").status == 403


def test_no_secret_in_logs(start):
    s = start("--log-level", "debug")
    s.post("/generate", {"prompt": CANARY * 3, "max_tokens": 2, "stop": [CANARY]})
    s.post("/generate", {"prompt": CANARY, "x" + CANARY: 1})
    s.post("/tokenize", {"text": CANARY * 5000})
    s.settled()
