"""Every route's contract, 404, 405, headers that every answer carries."""

import os
import re

import pytest

GETS = ["/health", "/ready", "/v1/models", "/v1/models/tiny", "/info", "/metrics",
        "/openapi.json", "/ui/app.js"]
POSTS = ["/generate", "/generate_stream", "/v1/completions", "/v1/chat/completions",
         "/v1/embeddings", "/tokenize", "/detokenize"]


def test_health_and_ready(server):
    r = server.get("/health")
    assert (r.status, r.json) == (200, {"status": "ok"})
    r = server.get("/ready")
    assert (r.status, r.json) == (200, {"status": "ready"})


def test_models(server):
    r = server.get("/v1/models")
    assert r.status == 200 and r.json["object"] == "list"
    row = r.json["data"][0]
    assert row["id"] == "tiny" and row["object"] == "model"
    assert row["meta"]["vocab"] == 700 and row["meta"]["text"] is True


def test_empty_alias_is_none(start, model):
    s = start(env={"TNL_ALIAS": ""})
    assert s.get("/v1/models").json["data"][0]["id"] == os.path.basename(model)


def test_alias(start):
    s = start("--alias", "my \"model\"")
    assert s.get("/v1/models").json["data"][0]["id"] == 'my "model"'


@pytest.mark.parametrize("text", ["hello world", "", " ", "żółw 🐢 日本", "a\nb\tc", "</s><s>"])
def test_tokenize_round_trip(server, text):
    r = server.post("/tokenize", {"text": text})
    assert r.status == 200
    tokens, pieces = r.json["tokens"], r.json["pieces"]
    assert len(tokens) == len(pieces)
    assert all(isinstance(t, int) for t in tokens)
    back = server.post("/detokenize", {"tokens": tokens})
    assert back.status == 200 and back.json == {"text": text}


def test_tokenize_large_by_worker(server):
    text = "once upon a time " * 4000
    r = server.post("/tokenize", {"text": text})
    assert r.status == 200
    back = server.post("/detokenize", {"tokens": r.json["tokens"]})
    assert back.json["text"] == text


@pytest.mark.parametrize("path,body,code,param", [
    ("/tokenize", {}, "missing_parameter", "text"),
    ("/tokenize", {"text": None}, "missing_parameter", "text"),
    ("/tokenize", {"text": 1}, "invalid_type", "text"),
    ("/tokenize", {"text": "a", "x": 1}, "unsupported_parameter", "x"),
    ("/tokenize", [], "invalid_type", None),
    ("/detokenize", {}, "missing_parameter", "tokens"),
    ("/detokenize", {"tokens": "1"}, "invalid_type", "tokens"),
    ("/detokenize", {"tokens": [1, "a"]}, "invalid_type", "tokens"),
    ("/detokenize", {"tokens": [1.5]}, "invalid_type", "tokens"),
    ("/detokenize", {"tokens": [[1]]}, "invalid_type", "tokens"),
    ("/detokenize", {"tokens": [-1]}, "out_of_range", "tokens"),
    ("/detokenize", {"tokens": [700]}, "out_of_range", "tokens"),
    ("/detokenize", {"tokens": [2 ** 64]}, "out_of_range", "tokens"),
])
def test_text_routes_refuse(server, path, body, code, param):
    r = server.post(path, body)
    assert (r.status, r.code, r.param) == (400, code, param)


def test_detokenize_nothing(server):
    assert server.post("/detokenize", {"tokens": []}).json == {"text": ""}


@pytest.mark.parametrize("path", ["/x", "/generate/", "//generate", "/Generate", "/generate;x",
                                  "/v1", "/v1/models/", "/../etc/passwd", "/%2e%2e/%2fetc",
                                  "/generate?x=1", "/health/?" + "q" * 8000])
def test_unknown_path(server, path):
    r = server.post(path, {"prompt": "x"})
    if path == "/generate?x=1":  # a query is ignored
        assert r.status == 200
        return
    assert (r.status, r.code) == (404, "unknown_route")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_method_on_post_route(server, path, method):
    r = server.ask(method, path)
    assert r.status == 405 and r.headers["allow"] == "POST"


@pytest.mark.parametrize("path", GETS)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_method_on_get_route(server, path, method):
    r = server.ask(method, path)
    assert r.status == 405 and r.headers["allow"] == "GET, HEAD"
    assert r.code == "method_not_allowed"


@pytest.mark.parametrize("path", GETS)
def test_head(server, path):
    r = server.ask("HEAD", path)
    assert r.status == 200 and r.body == b"" and int(r.headers["content-length"]) > 0


def test_common_headers(server):
    for r in [server.get("/health"), server.get("/nope"), server.post("/generate", "{"),
              server.post("/generate", {"prompt": "x", "max_tokens": 1})]:
        assert r.headers["x-content-type-options"] == "nosniff"
        assert "no-store" in r.headers["cache-control"]
        assert re.fullmatch("[0-9a-f]{32}", r.headers["x-request-id"])
        assert "access-control-allow-origin" not in r.headers


@pytest.mark.parametrize("given,kept", [
    ("abc-123", True), ("x" * 128, True), ("a b", True), ("x" * 129, False), ("t\tab", False),
    ("ümlaut".encode(), False)])
def test_request_id(server, given, kept):
    for path in ["/health", "/nope"]:
        r = server.ask("GET", path, headers={"X-Request-Id": given})
        assert (r.headers["x-request-id"] == given) is kept
    r = server.post("/generate", {"prompt": "x", "max_tokens": 1}, **{"X-Request-Id": given})
    assert (r.headers["x-request-id"] == given) is kept
    if kept:
        assert given in server.logged()


def test_errors_have_one_shape(server):
    for r in [server.get("/nope"), server.post("/generate", "{"), server.ask("PUT", "/health"),
              server.post("/generate", {"prompt": "a", "top_p": 7})]:
        assert r.headers["content-type"] == "application/json; charset=utf-8"
        assert set(r.json) == {"error"}
        assert set(r.json["error"]) == {"message", "type", "param", "code"}


def test_without_tokenizer(start, model_ids):
    s = start(folder=model_ids)
    r = s.post("/generate", {"prompt": "text"})
    assert (r.status, r.code, r.param) == (400, "no_tokenizer", "prompt")
    r = s.post("/generate", {"prompt": [1], "stop": ["x"]})
    assert (r.status, r.code, r.param) == (400, "no_tokenizer", "stop")
    assert s.post("/tokenize", {"text": "a"}).code == "no_tokenizer"
    assert s.post("/detokenize", {"tokens": [1]}).code == "no_tokenizer"
    a = s.generate(prompt=[1, 2], max_tokens=4, ignore_eos=True)
    assert len(a["tokens"]) == 4 and a["text"] == ""
    s.settled()
