"""A server that says what a test wants it to say, however wrong, over TCP, TLS or a unix socket."""

import json
import os
import socket
import ssl
import threading

STREAMS = {
    "/generate": ("application/x-ndjson", lambda words: b"".join(
        json.dumps({"index": i, "token": {"id": i, "text": w, "logprob": -1}}).encode() + b"\n"
        for i, w in enumerate(words)) + json.dumps(
            {"finish_reason": "length", "usage": {"prompt_tokens": 7, "completion_tokens": len(words)},
             "timings": {"cached_tokens": 2, "queue_ms": 1.5}}).encode() + b"\n"),
    "/v1/completions": ("text/event-stream", lambda words: events(
        [{"choices": [{"text": w}]} for w in words], len(words))),
    "/v1/chat/completions": ("text/event-stream", lambda words: events(
        [{"choices": [{"delta": {"content": w}}]} for w in words], len(words))),
}


def events(chunks, n):
    end = [{"choices": [{"delta": {}, "text": "", "finish_reason": "stop"}]},
           {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": n,
                                     "prompt_tokens_details": {"cached_tokens": 2}}}]
    lines = [json.dumps(c) for c in chunks + end] + ["[DONE]"]
    return b": ok\n\n" + b"".join(b"data: " + x.encode() + b"\n\n" for x in lines)


def reply(body, status="200 OK", kind="application/json", more=""):
    return ("HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n"
            % (status, kind, len(body), more)).encode() + body


def refusal(status, code, message):
    return reply(json.dumps({"error": {"message": message, "code": code}}).encode(), status)


def stream(path, words):
    kind, body = next(v for k, v in STREAMS.items() if path.endswith(k))
    return reply(body(words), kind=kind)


class Fake:
    """`answer(fake, path, head, body)` gives bytes to send, or an iterator of bytes that it sends
    until the client is gone; None closes."""

    def __init__(self, answer=None, unix=None, cert=None):
        self.answer = answer or (lambda fake, path, head, body: stream(path, [" one", " two"]))
        self.requests = []  # (path, head, body)
        self.gone = 0       # clients that left in the middle of an iterator
        self.lock = threading.Lock()
        self.tls = None
        if cert:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(cert)
        if unix:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.bind(str(unix))
            self.url = "unix:%s" % unix
        else:
            self.sock = socket.socket()
            self.sock.bind(("127.0.0.1", 0))
            self.url = "http%s://127.0.0.1:%d" % ("s" if cert else "", self.sock.getsockname()[1])
        self.sock.listen(64)
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    @property
    def bodies(self):
        return [json.loads(body) for path, _, body in self.requests if path in STREAMS]

    def accept(self):
        while True:
            try:
                c, _ = self.sock.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(c,), daemon=True).start()

    def serve(self, c):
        try:
            if self.tls:
                c = self.tls.wrap_socket(c, server_side=True)
            with c, c.makefile("rb") as f:
                while self.one(c, f):
                    pass
        except (OSError, ValueError):
            pass

    def one(self, c, f):
        first = f.readline().decode()
        if not first:
            return False
        head = {}
        for line in iter(f.readline, b"\r\n"):
            k, v = line.decode().split(":", 1)
            head[k.lower()] = v.strip()
        body = f.read(int(head.get("content-length", 0)))
        path = first.split()[1]
        with self.lock:
            self.requests.append((path, head, body))
        if path == "/v1/models":
            c.sendall(reply(b'{"data":[{"id":"fake"}]}'))
            return True
        data = self.answer(self, path, head, body)
        if data is None:
            return False
        if isinstance(data, bytes):
            c.sendall(data)
            return True
        try:
            for part in data:
                c.sendall(part)
        except OSError:
            with self.lock:
                self.gone += 1
        return False


def endless(first, part, limit=1 << 30):
    """`first`, then `part` again and again; a guard ends it."""
    yield first
    for _ in range(limit // len(part)):
        yield part


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
HOSTILE = {  # name: what the server sends
    "endless header": lambda: endless(OK, b"X-Filler: " + b"x" * 1000 + b"\r\n"),
    "endless header line": lambda: endless(OK + b"X: ", b"x" * 4096),
    "endless status line": lambda: endless(b"HTTP/1.1 200 ", b"K" * 4096),
    "endless line": lambda: endless(OK + b"\r\n", b"data: " + b"x" * 8192),
    "endless event": lambda: endless(OK + b"\r\n", (b"data: " + b"x" * 100 + b"\n") * 80),
    "endless refusal": lambda: endless(b"HTTP/1.1 500 Oops\r\n\r\n", b"<html>" * 1000),
    "bad chunk size": lambda: CHUNKED + b"xyz\r\nhello\r\n0\r\n\r\n",
    "huge chunk size": lambda: CHUNKED + b"ffffffffffffffffff\r\nhello",
    "not JSON": lambda: reply(b"data: {oops\n\n{oops\n"),
    "not an object": lambda: reply(b"data: [1]\n\n[1]\n"),
    "not UTF-8": lambda: reply(b'data: {"a":"\xff"}\n\n{"a":"\xff"}\n'),
    "a list of lists": lambda: reply(b"data: " + b"[" * 10000 + b"\n\n" + b"[" * 10000 + b"\n"),
    "not HTTP": lambda: iter([b"SSH-2.0-OpenSSH_9.2\r\n" * 3]),
    "nothing": lambda: None,
    "a short body": lambda: iter([OK + b"Content-Length: 1000\r\n\r\ndata: {}\n\n"]),
    "no last item": lambda: reply(b'data: {"choices":[]}\n\n{"index":0}\n'),
    "another place": lambda: reply(b"", "302 Found", more="Location: /elsewhere\r\n"),
    "an error in the stream": lambda: reply(
        b'data: {"error":{"message":"lost","code":"internal"}}\n\n'
        b'{"error":{"message":"lost","code":"internal"}}\n'),
}


def hostile(name):
    return Fake(lambda fake, path, head, body: HOSTILE[name]())


def make_cert(folder):
    """A self-signed certificate for 127.0.0.1, or None without openssl."""
    path = os.path.join(str(folder), "cert.pem")
    command = ("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
               "-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout %s -out %s.crt "
               "2>/dev/null && cat %s.crt >> %s" % (path, path, path, path))
    return path if os.system(command) == 0 else None
