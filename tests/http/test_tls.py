"""HTTPS: the same server behind TLS, and the certificates it takes."""

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess

import pytest

from harness import BIN, HANG, Raw, Server, clean_env, together, wait_until

if not shutil.which("openssl"):
    pytest.skip("no openssl", allow_module_level=True)

LONG = {"prompt": [5, 6, 7], "max_tokens": 1000000, "ignore_eos": True, "seed": 1}


def make(folder, name, *options):
    """A self-signed certificate of localhost; its files."""
    cert, key = str(folder / (name + ".pem")), str(folder / (name + ".key"))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-keyout", key, "-out", cert, "-days", "2",
                    "-subj", "/CN=" + name, "-addext",
                    "subjectAltName=DNS:localhost,IP:127.0.0.1", *(options or ["-nodes"])],
                   check=True, capture_output=True)
    os.chmod(key, 0o600)
    return cert, key


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    return [make(folder, "one"), make(folder, "two")]


class TlsRaw(Raw):
    def __init__(self, port, context, rcvbuf=None):
        super().__init__(port, rcvbuf)
        self.sock = context.wrap_socket(self.sock, server_hostname="localhost")


class TlsServer(Server):
    def __init__(self, model, pair, *flags):
        self.context = ssl.create_default_context(cafile=pair[0])
        super().__init__(model, "--tls-cert", pair[0], "--tls-key", pair[1], *flags)

    def connect(self):
        return http.client.HTTPSConnection("localhost", self.port, timeout=HANG,
                                           context=self.context)

    def raw(self, **kw):
        return TlsRaw(self.port, self.context, **kw)

    def name(self):
        """What the certificate of a new handshake is for."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", self.port), HANG) as plain:
            with context.wrap_socket(plain) as s:
                der = s.getpeercert(True)
        return "one" if b"one" in der else "two" if b"two" in der else None


@pytest.fixture(scope="module")
def tls_shared(model, pairs):
    s = TlsServer(model, pairs[0])
    s.baseline()
    yield s
    s.close()


@pytest.fixture
def tls(tls_shared):
    yield tls_shared
    tls_shared.settled()


@pytest.fixture
def start_tls(model):
    running = []

    def go(pair, *flags):
        running.append(TlsServer(model, pair, *flags))
        return running[-1]

    yield go
    for s in running:
        s.close()


def test_same_bytes(tls, shared):
    assert tls.control() == shared.control()
    r = tls.post("/generate", {"prompt": [5] * 20000, "max_tokens": 1})
    assert r.status == 200


def test_keep_alive_and_stream(tls):
    with tls.raw() as c:
        for _ in range(3):
            body = json.dumps({**LONG, "max_tokens": 40}).encode()
            c.request(["POST /generate HTTP/1.1", "Host: localhost",
                       "Content-Length: %d" % len(body)], body)
            lines = c.reply().lines
            assert len(lines) == 41 and lines[-1]["finish_reason"] == "length"


@pytest.mark.parametrize("how", ["close", "reset", "unwrap"])
def test_leave(tls, how):
    name = 'tnl_requests_cancelled_total{phase="decode"}'
    before = tls.metric(name)
    c = tls.begin(LONG)
    c.until(b'"index":3')
    if how == "reset":
        c.reset()
    elif how == "close":
        c.close()
    else:
        c.sock = socket.socket(fileno=c.sock.detach())  # without a word of TLS
        c.sock.shutdown(socket.SHUT_WR)
    wait_until(lambda: tls.metric(name) == before + 1, "it is cancelled")
    c.close()


def test_slow_reader(tls):
    with tls.begin(LONG, rcvbuf=4096):
        wait_until(lambda: tls.metric("tnl_requests_paused") == 1, "the reader is behind")
        assert tls.control() == tls.golden


def test_refusal_midway_is_encrypted(start_tls, pairs):
    """The body is still on its way when the answer must go out."""
    s = start_tls(pairs[0], "--max-body", "2000")
    with s.raw() as c:
        c.send("POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n{")
        r = c.reply()
        assert (r.status, r.code) == (413, "body_too_large") and c.closed()
    with s.raw() as c:
        c.request(["POST /generate HTTP/1.1", "Host: localhost", "Transfer-Encoding: chunked"],
                  b"bb8\r\n" + b"x" * 3000 + b"\r\n")
        r = c.reply()
        assert (r.status, r.code) == (413, "body_too_large") and c.closed()
    s.baseline()
    s.settled()


def test_late_body(start_tls, pairs):
    """Past its time the connection ends; not a byte that is not TLS is written."""
    s = start_tls(pairs[0], "--body-seconds", "1")
    with s.raw() as c:
        c.send("POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")
        try:
            assert c.rest() == b""
        except ssl.SSLEOFError:
            pass  # the end came without a word of TLS
    assert s.get("/health").status == 200


def test_plain_http_gets_no_answer(tls):
    with Raw(tls.port) as c:
        c.request(["GET /health HTTP/1.1", "Host: localhost"])
        assert b"HTTP" not in c.rest()


def test_noise_instead_of_a_handshake(tls, rng):
    for n in [1, 5, 200, 20000]:
        with Raw(tls.port) as c:
            try:
                c.send(b"\x16\x03\x01" + bytes(rng.randrange(256) for _ in range(n)))
                c.sock.shutdown(socket.SHUT_WR)
                c.rest()
            except OSError:
                pass


def test_handshake_that_never_ends(start_tls, pairs):
    s = start_tls(pairs[0], "--header-seconds", "1")
    with Raw(s.port) as c:
        c.send(b"\x16\x03\x01")
        assert c.closed()


def test_old_versions(tls):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", tls.port), HANG) as plain:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(plain)


def test_many_handshakes(tls):
    together([lambda: tls.get("/v1/models") for _ in range(16)])


def test_stop_with_a_stream(start_tls, pairs):
    s = start_tls(pairs[0], "--drain-seconds", "0")
    with s.begin(LONG) as c:
        c.until(b'"index":3')
        s.process.send_signal(signal.SIGTERM)
        c.until(b'"cancelled"')
        assert s.process.wait(60) == 0


# ---- certificates


def test_certificate_replaced(start_tls, pairs, tmp_path):
    """SIGHUP reads both files again; a pair that does not fit changes nothing."""
    own = [str(tmp_path / "cert"), str(tmp_path / "key")]

    def put(cert, key):
        for source, target in zip([cert, key], own):
            shutil.copy(source, target + ".new")
            os.replace(target + ".new", target)

    put(*pairs[0])
    s = start_tls(own)
    assert s.name() == "one"
    with s.begin(LONG) as c:
        c.until(b'"index":3')
        put(*pairs[1])
        s.process.send_signal(signal.SIGHUP)
        wait_until(lambda: s.name() == "two", "the new certificate is used")
        c.until(b'"index":40')
    put(pairs[0][0], pairs[1][1])
    s.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "the certificate stays as it was" in s.logged(), "it is refused")
    assert s.name() == "two"


def refused(model, *flags):
    r = subprocess.run([BIN, "serve", model, "--port", "0", "--threads", "1", *flags],
                       env=clean_env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       timeout=HANG)
    assert r.returncode not in (0, 99) and r.returncode > 0, r.stderr
    return r.stderr.decode()


def test_bad_files(model, pairs, tmp_path):
    (cert, key), (_, other) = pairs

    def line(c, k):
        return refused(model, "--tls-cert", str(c), "--tls-key", str(k))

    assert "go together" in refused(model, "--tls-cert", cert)
    assert "go together" in refused(model, "--tls-key", key)
    assert "No such file" in line(tmp_path / "none", key)
    assert "No such file" in line(cert, tmp_path / "none")
    assert "is not the key of the certificate" in line(cert, other)
    assert "--tls-cert" in line(key, key) and "--tls-key" in line(cert, cert).replace(
        "mode", "--tls-key")
    noise = tmp_path / "noise"
    noise.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    os.chmod(noise, 0o600)
    assert "--tls-cert" in line(noise, key) and "--tls-key" in line(cert, noise)
    empty = tmp_path / "empty"
    empty.touch(0o600)
    assert "0 bytes" in line(empty, key) and "0 bytes" in line(cert, empty)
    assert "not a regular file" in line(tmp_path, key)
    locked = make(tmp_path, "locked", "-passout", "pass:secret")
    assert "encrypted" in line(*locked)
    unix = ["--unix", str(tmp_path / "s")]
    r = subprocess.run([BIN, "serve", model, *unix, "--tls-cert", cert, "--tls-key", key],
                       env=clean_env(), capture_output=True, timeout=HANG)
    assert r.returncode not in (0, 99) and b"TLS is for TCP" in r.stderr


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
def test_key_open_to_others(model, pairs, tmp_path, mode):
    key = str(tmp_path / "key")
    shutil.copy(pairs[0][1], key)
    os.chmod(key, mode)
    assert "%04o" % mode in refused(model, "--tls-cert", pairs[0][0], "--tls-key", key)


def test_expired(model, tmp_path):
    """Served, but not without a word."""
    cert, key = make(tmp_path, "old")
    request = str(tmp_path / "request")
    for command in [["req", "-new", "-key", key, "-subj", "/CN=old", "-out", request],
                    ["ca", "-batch", "-config", authority(tmp_path), "-in", request, "-out", cert,
                     "-selfsign", "-keyfile", key, "-notext", "-startdate", "20200101000000Z",
                     "-enddate", "20200102000000Z"]]:
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    s = Server(model, "--tls-cert", cert, "--tls-key", key, ready=False)
    assert "has expired" in s.logged()
    s.close()


def authority(folder):
    (folder / "index").touch()
    (folder / "serial").write_text("01")
    path = folder / "ca.cnf"
    path.write_text("[ca]\ndefault_ca=x\n[x]\ndatabase={0}/index\nserial={0}/serial\n"
                    "new_certs_dir={0}\ndefault_md=sha256\npolicy=p\n[p]\n"
                    "commonName=supplied\n".format(folder))
    return str(path)
