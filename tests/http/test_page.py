"""The files of the web page as HTTP sees them; tests/page opens it in a browser."""

import re

import pytest

FILES = {"": "text/html", "ui/index.html": "text/html", "ui/style.css": "text/css",
         "ui/app.js": "text/javascript", "ui/theme.js": "text/javascript",
         "ui/icon.svg": "image/svg+xml"}


@pytest.mark.parametrize("name,kind", FILES.items())
def test_file(server, name, kind):
    r = server.get("/" + name)
    assert r.status == 200 and r.headers["content-type"].split(";")[0] == kind
    assert r.headers["cache-control"] == "no-cache"
    assert r.headers["x-content-type-options"] == "nosniff"
    assert r.headers["referrer-policy"] == "no-referrer"
    policy = r.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy and "data:" not in policy


@pytest.mark.parametrize("form", ["%s", "W/%s", '"other", %s', "*"])
def test_held_files_are_not_sent_again(server, form):
    whole = server.get("/ui/app.js")
    tag = whole.headers["etag"]
    assert re.fullmatch('"[0-9a-f]{32}"', tag)
    r = server.ask("GET", "/ui/app.js", headers={"If-None-Match": form % tag if "%" in form else form})
    assert (r.status, r.body, r.headers["etag"]) == (304, b"", tag)
    assert r.headers["content-length"] == str(len(whole.body))
    again = server.ask("GET", "/ui/app.js", headers={"If-None-Match": '"0123"'})
    assert (again.status, again.body) == (200, whole.body)


def test_keep_alive_after_304(server):
    tag = server.get("/").headers["etag"]
    with server.raw() as c:
        for _ in range(3):
            c.request(["GET / HTTP/1.1", "Host: localhost", "If-None-Match: " + tag])
            c.until(b"\r\n\r\n")
            head, c.got = c.got.split(b"\r\n\r\n", 1)
            assert head.startswith(b"HTTP/1.1 304 ")
        c.request(["GET /health HTTP/1.1", "Host: localhost"])
        assert c.reply().status == 200


@pytest.mark.parametrize("path", ["/ui/", "/ui", "/ui/app", "/ui/../app.js", "/ui/app.js/",
                                  "/ui/%2e%2e/app.js", "/ui/embed.py", "/index.html"])
def test_nothing_else_is_there(server, path):
    r = server.get(path)
    assert (r.status, r.code) == (404, "unknown_route")


def test_page_beside_post(server):
    r = server.ask("DELETE", "/")
    assert r.status == 405 and r.headers["allow"] == "GET, HEAD, POST"
    assert server.ask("HEAD", "/").status == 200
    r = server.post("/", {"inputs": "x", "parameters": {"max_new_tokens": 1}})
    assert r.status == 200 and "generated_text" in r.json[0]
    paths = server.get("/openapi.json").json["paths"]
    assert set(paths["/"]) == {"get", "post"} and set(paths["/ui/{name}"]) == {"get"}
    text = server.get("/metrics").body.decode()
    rows = [x.rsplit(" ", 1)[0] for x in text.splitlines()]
    assert len(rows) == len(set(rows)), "one row for each path and code"


def test_page_needs_no_key(start):
    s = start("--page", env={"TNL_API_KEY": "canary-3f9a-of-sixteen"}, ready=False)
    s.headers = {"Authorization": "Bearer canary-3f9a-of-sixteen"}
    assert s.get("/", Authorization="").status == 200
    assert s.get("/ui/style.css", Authorization="").status == 200
    assert s.post("/", {"inputs": "x"}, Authorization="").status == 401
    assert s.get("/v1/models", Authorization="Bearer x").status == 401


def test_page_turned_off(start):
    s = start("--no-page")
    r = s.get("/")
    assert r.status == 405 and r.headers["allow"] == "POST"
    assert s.get("/ui/app.js").status == 404
    paths = s.get("/openapi.json").json["paths"]
    assert set(paths["/"]) == {"post"} and "/ui/{name}" not in paths
    s.settled()
