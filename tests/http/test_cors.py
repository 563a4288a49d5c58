"""Pages of other sites: who may ask, what they are told, and what stays closed."""

import json

from harness import Server

SITE = "https://app.example"
BODY = {"prompt": [5], "max_tokens": 1}
PREFLIGHT = {"Access-Control-Request-Method": "POST",
             "Access-Control-Request-Headers": "authorization,content-type"}


def cors(r):
    return {k: v for k, v in r.headers.items() if k.startswith("access-control-")}


def test_closed_by_default(server):
    for origin in (SITE, "null", "http://localhost"):
        r = server.post("/generate", BODY, Origin=origin)
        assert r.status == 403 and r.code == "origin" and cors(r) == {}
        r = server.ask("OPTIONS", "/generate", headers={"Origin": origin, **PREFLIGHT})
        assert r.status == 405 and cors(r) == {}
        r = server.get("/v1/models", Origin=origin)
        assert r.status == 200 and cors(r) == {} and "vary" not in r.headers


def test_listed_sites(start):
    s = start("--cors-origin", SITE + ",http://localhost:3000")
    for origin in (SITE, "HTTPS://APP.example", "http://localhost:3000"):
        r = s.post("/generate", BODY, Origin=origin)
        assert r.status == 200 and r.headers["vary"] == "Origin"
        assert r.headers["access-control-allow-origin"] == origin.lower()
        exposed = r.headers["access-control-expose-headers"]
        assert "X-Request-Id" in exposed and "Retry-After" in exposed
        assert "access-control-allow-credentials" not in r.headers
        # refusals can be read as well
        for reply in (s.post("/generate", "{", Origin=origin), s.get("/nope", Origin=origin),
                      s.post("/generate", {"prompt": []}, Origin=origin)):
            assert reply.status >= 400
            assert reply.headers["access-control-allow-origin"] == origin.lower()
    for origin in ("https://app.example:444", "http://app.example", "https://evil.example", "null",
                   "https://app.example.evil.com", "", "*"):
        r = s.post("/generate", BODY, Origin=origin)
        assert r.status == 403 and cors(r) == {} and r.headers["vary"] == "Origin"
        r = s.ask("OPTIONS", "/generate", headers={"Origin": origin, **PREFLIGHT})
        assert r.status == 405 and cors(r) == {}
    # our own page, and programs
    r = s.post("/generate", BODY, Host="localhost:8080", Origin="http://localhost:8080")
    assert r.status == 200 and cors(r) == {} and r.headers["vary"] == "Origin"
    assert s.post("/generate", BODY).status == 200


def test_streams_can_be_read(start):
    s = start("--cors-origin", SITE)
    for path, body in [("/generate", {**BODY, "max_tokens": 3}),
                       ("/v1/completions", {**BODY, "stream": True})]:
        r = s.post(path, body, Origin=SITE)
        assert r.status == 200 and r.headers["access-control-allow-origin"] == SITE
        assert len(r.body) > 10


def test_preflight(start):
    s = start("--cors-origin", SITE)
    for path in ("/generate", "/v1/chat/completions", "/v1/models", "/nope"):
        r = s.ask("OPTIONS", path, headers={"Origin": SITE, **PREFLIGHT})
        assert r.status == 204 and r.body == b""
        assert r.headers["access-control-allow-origin"] == SITE
        assert "POST" in r.headers["access-control-allow-methods"]
        assert "DELETE" in r.headers["access-control-allow-methods"]
        allowed = r.headers["access-control-allow-headers"].lower()
        assert allowed == "authorization, *"
        assert int(r.headers["access-control-max-age"]) > 0
        assert r.headers["vary"] == "Origin" and "content-type" not in r.headers
    # an OPTIONS that is none
    r = s.ask("OPTIONS", "/generate", headers={"Origin": SITE})
    assert r.status == 405 and r.headers["access-control-allow-origin"] == SITE
    r = s.ask("OPTIONS", "/generate", headers=PREFLIGHT)
    assert r.status == 405 and cors(r) == {}
    r = s.ask("OPTIONS", "/generate", headers={"Origin": SITE, "Host": "evil.com", **PREFLIGHT})
    assert r.status == 403 and cors(r) == {}
    s.settled()


def test_a_connection_goes_on_after_a_preflight(start):
    s = start("--cors-origin", SITE)
    body = json.dumps({**BODY, "stream": False}).encode()
    with s.raw() as c:
        for _ in range(2):
            c.request(["OPTIONS /generate HTTP/1.1", "Host: localhost", "Origin: " + SITE,
                       "Access-Control-Request-Method: POST"])
            c.until(b"\r\n\r\n")
            head, c.got = c.got.split(b"\r\n\r\n", 1)
            assert b" 204 " in head.split(b"\r\n")[0] and b"close" not in head.lower()
            c.request(["POST /generate HTTP/1.1", "Host: localhost", "Origin: " + SITE,
                       "Content-Length: %d" % len(body)], body)
            assert c.reply().status == 200


def test_refusals_in_the_middle_of_a_body(start):
    s = start("--cors-origin", SITE, "--max-body", "1024")
    with s.raw() as c:
        c.request(["POST /generate HTTP/1.1", "Host: localhost", "Origin: " + SITE,
                   "Transfer-Encoding: chunked"], b"800\r\n" + b" " * 0x800 + b"\r\n0\r\n\r\n")
        r = c.reply()
        assert r.status == 413 and r.headers["access-control-allow-origin"] == SITE
        assert r.headers["vary"] == "Origin"


def test_any_site(start):
    s = start("--cors-origin", "*")
    for origin in (SITE, "null", "http://x"):
        r = s.post("/generate", BODY, Origin=origin)
        assert r.status == 200 and r.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in r.headers
    assert "any site's pages may ask, and no key is set" in s.logged()
    r = s.ask("OPTIONS", "/generate", headers={"Origin": "http://x", **PREFLIGHT})
    assert r.status == 204 and r.headers["access-control-allow-origin"] == "*"


def test_keys_and_other_sites(model):
    """A preflight carries no key; what follows needs one, and a refusal can be read."""
    key = "k" * 32
    s = Server(model, "--cors-origin", SITE, "--cors-origin", "https://b.example",
               env={"TNL_API_KEY": key})
    for site in (SITE, "https://b.example"):
        r = s.ask("OPTIONS", "/generate", headers={"Origin": site, **PREFLIGHT})
        assert r.status == 204
        r = s.post("/generate", BODY, Origin=site)
        assert r.status == 401 and r.headers["access-control-allow-origin"] == site
        r = s.post("/generate", BODY, Origin=site, Authorization="Bearer " + key)
        assert r.status == 200
    assert s.ask("OPTIONS", "/generate", headers=PREFLIGHT).status == 401
    assert s.ask("OPTIONS", "/generate", headers={"Origin": "http://x", **PREFLIGHT}).status == 401
    s.close()
