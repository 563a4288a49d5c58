"""Requests whose framing two parsers could read differently, and other odd HTTP, over raw sockets.
What a framing check refuses closes the connection: nothing behind it is ever read as a request."""

import json

import pytest

BODY = b'{"prompt":[5],"max_tokens":1,"stream":false}'
SECOND = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


def refused(server, head, body=b"", status=400, code="bad_framing"):
    with server.raw() as c:
        c.request(head, body)
        r = c.reply()
        assert r.status == status, r.body
        if code:
            assert r.code == code
        assert c.closed() and c.got == b"", "something followed the refusal"
    assert "smuggled" not in server.logged()


@pytest.mark.parametrize("head", [
    ["POST /generate HTTP/1.1", "Content-Length: 44"],
    ["POST /generate HTTP/1.1", "Host: localhost", "Host: localhost", "Content-Length: 44"],
    ["POST /generate HTTP/1.1", "Host: localhost", "Content-Length: 44", "Content-Length: 5"],
    ["POST /generate HTTP/1.1", "Host: localhost", "Content-Length: 44", "Content-Length: 44"],
    ["POST /generate HTTP/1.1", "Host: localhost", "Content-Length : 44"],
    ["POST /generate HTTP/1.1", "Host: localhost", "Content-Length: 44", "X y: 1"],
    ["POST /generate HTTP/1.1", "Host: localhost", "Content-Length: 44", "X(y): 1"],
    ["POST /generate HTTP/1.1", "Host: localhost", "Content-Length: 44", b"X\xc3\xa9: 1"],
    ["POST /generate HTTP/1.1", "Host: localhost", "Content-Length: 44",
     "Transfer-Encoding: chunked"],
    ["POST /generate HTTP/1.1", "Host: localhost", "Transfer-Encoding: gzip, chunked"],
    ["POST /generate HTTP/1.1", "Host: localhost", "Transfer-Encoding: xchunked"],
    ["POST /generate HTTP/1.1", "Host: localhost", "Transfer-Encoding: identity"],
    ["POST /generate HTTP/1.1", "Host: localhost", "Transfer-Encoding: chunked",
     "Transfer-Encoding: chunked"],
    ["POST /generate HTTP/1.0", "Transfer-Encoding: chunked"],
    ["post /generate HTTP/1.1", "Host: localhost", "Content-Length: 44"],
    [b"PO\x01ST /generate HTTP/1.1", "Host: localhost", "Content-Length: 44"],
    ["POST /generate%00 HTTP/1.1", "Host: localhost", "Content-Length: 44"],
    ["POST http://evil/generate HTTP/1.1", "Host: localhost", "Content-Length: 44"],
    ["POST * HTTP/1.1", "Host: localhost", "Content-Length: 44"],
    ["CONNECT localhost:80 HTTP/1.1", "Host: localhost"],
    ["POST /generate HTTP/1.1", "Host: localhost", "Content-Length: 44", "Authorization: a",
     "Authorization: b"],
])
def test_ambiguous(server, head):
    refused(server, head, BODY + SECOND)


def test_chunked_and_length_with_smuggled_request(server):
    refused(server, ["POST /generate HTTP/1.1", "Host: localhost", "Content-Length: 5",
                     "Transfer-Encoding: chunked"], b"0\r\n\r\n" + SECOND)


@pytest.mark.parametrize("value", ["-1", "+3", "0x3", "3, 3", "3 3", "abc"])
def test_bad_length(server, value):
    with server.raw() as c:
        c.request(["POST /generate HTTP/1.1", "Host: localhost", "Content-Length: " + value],
                  b"abc" + SECOND)
        text = c.rest()
    assert text.startswith(b"HTTP/1.1 400") and b" 200 " not in text and b" 404 " not in text


@pytest.mark.parametrize("value", ["4194305", "999999999999", "18446744073709551615",
                                   "18446744073709551616", "9" * 60])
def test_length_too_large(server, value):
    with server.raw() as c:
        c.request(["POST /generate HTTP/1.1", "Host: localhost", "Content-Length: " + value], b"x")
        text = c.rest()
    assert text.startswith(b"HTTP/1.1 413")


def test_leading_zeros_of_a_length(server):
    with server.raw() as c:
        c.request(["POST /generate HTTP/1.1", "Host: localhost", "Content-Length: 00000000000044"],
                  BODY)
        assert c.reply().status == 200


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


CHUNKED = ["POST /generate HTTP/1.1", "Host: localhost", "Transfer-Encoding: chunked"]


def test_chunked(server):
    for parts in [[BODY], [BODY[:7], BODY[7:]], [bytes([b]) for b in BODY]]:
        with server.raw() as c:
            c.request(CHUNKED, b"".join(map(chunk, parts)) + b"0\r\n\r\n")
            assert c.reply().status == 200
            c.request(CHUNKED, chunk(BODY) + b"0\r\nX-Trailer: 1\r\n\r\n")
            assert c.reply().status == 200
            c.request(CHUNKED, b"%x;ext=1\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
            assert c.reply().status == 200


def test_many_tiny_chunks(server):
    body = b'{"prompt":"' + b"a" * 20000 + b'","max_tokens":1,"stream":false}'
    with server.raw() as c:
        c.request(CHUNKED, b"".join(chunk(body[i:i + 1]) for i in range(len(body))) + b"0\r\n\r\n")
        assert c.reply().status == 200


@pytest.mark.parametrize("data", [b"-1\r\n", b"zz\r\n", b"5\r\nabcdeXX", b"\r\n"])
def test_bad_chunks(server, data):
    with server.raw() as c:
        c.request(CHUNKED, data + SECOND)
        c.sock.shutdown(1)
        text = c.rest()
    assert b" 200 " not in text and b" 404 " not in text
    assert "smuggled" not in server.logged()


def test_chunked_too_large(server):
    """413 in the middle of an upload, with the usual body, and the connection ends."""
    with server.raw() as c:
        c.request(CHUNKED)
        piece = chunk(b"x" * 65536)
        try:
            for _ in range(80):
                c.send(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        r = c.reply()
        assert (r.status, r.code) == (413, "body_too_large")
        c.closed()


def test_declared_too_large_is_refused_unread(server):
    with server.raw() as c:
        c.request(["POST /generate HTTP/1.1", "Host: localhost", "Content-Length: 4194305"])
        r = c.reply()
        assert (r.status, r.code) == (413, "body_too_large")
        assert c.closed()
        with server.raw() as d:
            d.request(["POST /generate HTTP/1.1", "Host: localhost", "Content-Length: 4194305",
                       "Expect: 100-continue"])
            assert d.reply().status == 413


def test_expect(server):
    with server.raw() as c:
        c.request(["POST /generate HTTP/1.1", "Host: localhost", "Content-Length: %d" % len(BODY),
                   "Expect: 100-continue"])
        c.until(b"100 Continue\r\n\r\n")
        c.got = c.got.split(b"\r\n\r\n", 1)[1]
        c.send(BODY)
        assert c.reply().status == 200
    refused(server, ["POST /generate HTTP/1.1", "Host: localhost", "Content-Length: 44",
                     "Expect: junk"], status=417, code="expectation_failed")


@pytest.mark.parametrize("kind,status", [
    ("application/json", 200), ("application/json; charset=utf-8", 200),
    ("Application/JSON;charset=UTF-8", 200), ('application/json; charset="utf-8"', 200),
    ("application/x-www-form-urlencoded", 200),  # what curl -d says
    ("application/json; charset=utf-16", 415), ("text/plain", 415), ("text/json", 415),
    ("multipart/form-data; boundary=x", 415), ("application/jsonx", 415), ("", 415)])
def test_content_type(server, kind, status):
    r = server.post("/generate", BODY, **{"Content-Type": kind})
    assert r.status == status


def test_no_content_type(server):
    with server.raw() as c:
        c.request(["POST /generate HTTP/1.1", "Host: localhost", "Content-Length: 44"], BODY)
        assert c.reply().status == 200


@pytest.mark.parametrize("encoding,status", [("gzip", 415), ("deflate", 415), ("identity", 200)])
def test_content_encoding(server, encoding, status):
    assert server.post("/generate", BODY, **{"Content-Encoding": encoding}).status == status


def test_header_count(server):
    head = ["GET /health HTTP/1.1", "Host: localhost"]
    with server.raw() as c:
        c.request(head + ["X-%d: a" % i for i in range(63)])
        assert c.reply().status == 200
        c.request(head + ["X-%d: a" % i for i in range(64)])
        r = c.reply()
        assert (r.status, r.code) == (431, "too_many_headers")


def test_refusals_keep_the_connection_where_they_can(server):
    """Without a body on its way there is nothing to lose track of."""
    with server.raw() as c:
        for head, status in [(["GET /nope HTTP/1.1", "Host: localhost"], 404),
                             (["GET /generate HTTP/1.1", "Host: localhost"], 405),
                             (["GET /health HTTP/1.1", "Host: evil"], 403),
                             (["GET /health HTTP/1.1", "Host: localhost"], 200)]:
            c.request(head)
            assert c.reply().status == status


@pytest.mark.parametrize("head,status", [
    (["POST /nope HTTP/1.1", "Host: localhost"], 404),
    (["PUT /generate HTTP/1.1", "Host: localhost"], 405),
    (["POST /generate HTTP/1.1", "Host: evil.com"], 403),
    (["POST /generate HTTP/1.1", "Host: localhost", "Content-Type: text/plain"], 415)])
def test_refusal_reaches_a_client_that_is_still_sending(server, head, status):
    """A large body behind a refused header is dropped, not reset away together with the answer."""
    body = b"x" * 3000000
    with server.raw() as c:
        c.request(head + ["Content-Length: %d" % len(body)], body)
        assert c.reply().status == status
        assert c.closed()


@pytest.mark.parametrize("head,status", [
    (["GET /" + "a" * 40000 + " HTTP/1.1", "Host: localhost"], b"414"),
    (["GET /health HTTP/1.1", "Host: localhost", "X: " + "a" * 60000], b"431"),
    (["GET /health HTTP/1.1", "Host: localhost"] + ["X: a"] * 20000, b"431")])
def test_header_memory(server, head, status):
    """libmicrohttpd's own refusals: a status, not our body."""
    with server.raw() as c:
        try:
            c.request(head)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert c.rest().startswith(b"HTTP/1.1 " + status) or c.got == b""


def test_pipelined(server):
    with server.raw() as c:
        one = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        post = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 44\r\n\r\n" + BODY
        c.send((one + post) * 50)
        for _ in range(50):
            assert c.reply().json == {"status": "ok"}
            assert c.reply().json["finish_reason"] in ("length", "eos")


def test_old_http(server):
    with server.raw() as c:
        c.request(["GET /health HTTP/1.0"])
        assert c.rest().startswith(b"HTTP/1.")
    with server.raw() as c:
        c.request(["GET /health HTTP/1.0", "Connection: keep-alive"])
        assert c.reply().status == 200
    for head in ["GET /health HTTP/2.0", "GET /health HTTP/0.9", "GET /health HTTP/1.2"]:
        with server.raw() as c:
            c.request([head, "Host: localhost"])
            assert not c.rest().startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("raw", [
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
    b"\x00" * 100 + b"\r\n\r\n", b"\r\n" * 50 + b"junk\r\n\r\n", b"GET\r\n\r\n", b"\xff" * 64])
def test_not_http(server, raw):
    with server.raw() as c:
        c.send(raw)
        c.sock.shutdown(1)
        assert b" 200 " not in c.rest()


def test_upgrade_is_ignored(server):
    for what in ["websocket", "h2c"]:
        r = server.get("/health", Upgrade=what, Connection="Upgrade")
        assert r.status == 200


def test_forwarding_headers_are_ignored(server):
    for v in ["", ",,,", "unknown", "x" * 3000, "1.2.3.4, evil\t"]:
        assert server.get("/health", **{"X-Forwarded-For": v, "Forwarded": v}).status == 200


def test_log_lines_cannot_be_forged(server):
    server.get("/a%0d%0a2026-01-01T00:00:00.000Z%20info%20forged")
    with server.raw() as c:
        c.request([b"GET /b\x1b[31m\xffforged HTTP/1.1", "Host: localhost"])
        assert c.reply().status in (400, 404)
    for line in server.logged().splitlines():
        assert not line.startswith("2026-01-01") and "\x1b" not in line


def test_body_shorter_than_declared(server):
    with server.raw() as c:
        c.request(["POST /generate HTTP/1.1", "Host: localhost", "Content-Length: 100"], BODY)
        c.sock.shutdown(1)
        assert b" 200 " not in c.rest()


def test_json_after_refusal_is_served_on_a_new_connection(server):
    r = server.post("/generate", BODY)
    assert r.status == 200 and json.loads(r.body)
