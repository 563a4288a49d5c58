"""POST /generate: the three forms of an answer, and what each field does to it."""

import json
import math

import pytest

from harness import SCALE

BASE = {"prompt": "Once upon a time", "max_tokens": 40, "seed": 3, "ignore_eos": True}


def text_of(lines):
    return "".join(x["token"]["text"] for x in lines if "token" in x)


def test_ndjson_is_the_default(server):
    r = server.post("/generate", BASE)
    assert r.status == 200
    assert r.headers["content-type"] == "application/x-ndjson"
    assert r.headers["x-accel-buffering"] == "no"
    assert "no-cache" in r.headers["cache-control"]
    *tokens, last = r.lines
    assert [t["index"] for t in tokens] == list(range(40))
    for t in tokens:
        assert set(t) == {"index", "token"}
        assert set(t["token"]) == {"id", "text", "logprob"}
        assert isinstance(t["token"]["id"], int) and t["token"]["logprob"] <= 0
    assert set(last) == {"finish_reason", "usage", "timings"}
    assert last["finish_reason"] == "length"
    n = len(server.post("/tokenize", {"text": BASE["prompt"]}).json["tokens"])
    assert last["usage"] == {"prompt_tokens": n, "completion_tokens": 40}
    assert set(last["timings"]) == {"cached_tokens", "queue_ms", "prefill_ms", "decode_ms",
                                    "prefill_tokens_per_s", "decode_tokens_per_s"}
    assert all(v >= 0 for v in last["timings"].values())


def test_sse(server):
    r = server.post("/generate", BASE, Accept="text/event-stream")
    assert r.headers["content-type"].startswith("text/event-stream")
    plain = server.post("/generate", BASE).lines
    a, b = r.events, plain
    a[-1].pop("timings"), b[-1].pop("timings")
    assert a == b


def test_gathered(server):
    r = server.post("/generate", {**BASE, "stream": False})
    assert r.headers["content-type"].startswith("application/json")
    got = r.json
    assert set(got) == {"text", "tokens", "finish_reason", "usage", "timings"}
    lines = server.post("/generate", BASE).lines
    assert got["tokens"] == [x["token"] for x in lines[:-1]]
    assert got["text"] == text_of(lines)
    assert got["usage"] == lines[-1]["usage"]


def test_http_1_0(server):
    body = json.dumps(BASE).encode()
    with server.raw() as c:
        c.request(["POST /generate HTTP/1.0", "Content-Length: %d" % len(body)], body)
        head, data = c.rest().split(b"\r\n\r\n", 1)
    assert b" 200 " in head and b"chunked" not in head.lower()
    lines = [json.loads(x) for x in data.splitlines()]
    assert text_of(lines) == server.generate(**BASE)["text"]


def test_seed_decides(server):
    a, b = server.generate(**BASE), server.generate(**BASE)
    assert a["tokens"] == b["tokens"]
    assert server.generate(**{**BASE, "seed": 4})["tokens"] != a["tokens"]
    free = {k: v for k, v in BASE.items() if k != "seed"}
    assert server.generate(**free)["tokens"] != server.generate(**free)["tokens"]


def test_large_seeds(server):
    for seed in [0, 2 ** 53 - 1, str(2 ** 53), str(2 ** 64 - 1), "0"]:
        assert server.generate(**{**BASE, "seed": seed})["finish_reason"] == "length"
    assert (server.generate(**{**BASE, "seed": 7})["tokens"] ==
            server.generate(**{**BASE, "seed": "7"})["tokens"])


def test_greedy_forms_agree(server):
    base = {**BASE, "logprobs": 1}
    first = server.generate(**base, temperature=0)["tokens"]
    for extra in [{"temperature": 1e-40}, {"top_k": 1}, {"top_p": 0}, {"temperature": 0, "seed": 9}]:
        assert server.generate(**{**base, **extra})["tokens"] == first
    for t in first:
        assert t["id"] == t["top_logprobs"][0]["id"]


def test_top_k_keeps_k(server):
    for t in server.generate(**BASE, top_k=3, logprobs=3)["tokens"]:
        assert t["id"] in [x["id"] for x in t["top_logprobs"]]


@pytest.mark.parametrize("n", [1, 5, 20])
def test_logprobs(server, n):
    for t in server.generate(**BASE, logprobs=n)["tokens"]:
        top = t["top_logprobs"]
        assert len(top) == n and all(set(x) == {"id", "text", "logprob"} for x in top)
        assert [x["logprob"] for x in top] == sorted((x["logprob"] for x in top), reverse=True)
        assert sum(math.exp(x["logprob"]) for x in top) <= 1 + 1e-5
        same = [x["logprob"] for x in top if x["id"] == t["id"]]
        assert not same or same[0] == t["logprob"]


def test_echo(server):
    ids = [5, 9, 300, 41]
    got = server.generate(prompt=ids, max_tokens=6, seed=1, echo=True, ignore_eos=True, logprobs=2)
    plain = server.generate(prompt=ids, max_tokens=6, seed=1, ignore_eos=True, logprobs=2)
    first, rest = got["tokens"][:4], got["tokens"][4:]
    assert [t["id"] for t in first] == ids and all(t["prompt"] for t in first)
    assert first[0]["logprob"] is None and all(t["logprob"] <= 0 for t in first[1:])
    assert [t["id"] for t in rest] == [t["id"] for t in plain["tokens"]]
    assert got["usage"] == {"prompt_tokens": 4, "completion_tokens": 6}


def test_echo_only(server):
    """Scoring a text: the logprobs of a prompt and nothing else."""
    got = server.generate(prompt="once upon a time", max_tokens=0, echo=True)
    assert got["finish_reason"] == "length" and got["usage"]["completion_tokens"] == 0
    assert got["text"] == "once upon a time"


def test_no_tokens(server):
    got = server.generate(prompt="x", max_tokens=0)
    assert (got["text"], got["tokens"], got["finish_reason"]) == ("", [], "length")


def test_text_and_ids_agree(server):
    ids = server.post("/tokenize", {"text": BASE["prompt"]}).json["tokens"]
    assert server.generate(**BASE)["tokens"] == server.generate(**{**BASE, "prompt": ids})["tokens"]


def test_eos(server):
    got = server.generate(prompt=[5], max_tokens=10, logit_bias={"2": 100})
    assert got["finish_reason"] == "eos" and [t["id"] for t in got["tokens"]] == [2]
    got = server.generate(prompt=[5], max_tokens=10, logit_bias={"2": 100}, ignore_eos=True)
    assert got["finish_reason"] == "length" and len(got["tokens"]) == 10


def test_logit_bias_forbids(server):
    plain = server.generate(prompt=[5], max_tokens=1, temperature=0)["tokens"][0]["id"]
    other = server.generate(prompt=[5], max_tokens=1, temperature=0,
                            logit_bias={str(plain): -100})["tokens"][0]["id"]
    assert other != plain


def test_every_token_forbidden(server):
    r = server.post("/generate", {"prompt": [5], "stream": False,
                                  "logit_bias": {str(i): -100 for i in range(700)}})
    assert (r.status, r.code) == (400, "no_token_left")
    r = server.post("/generate", {"prompt": [5], "logit_bias": {str(i): -100 for i in range(700)}})
    assert r.status == 200
    assert r.lines[-1]["finish_reason"] == "error"
    assert r.lines[-1]["error"]["code"] == "no_token_left"


def plain_stretch(server):
    """A long completion in whole characters, to cut stop strings from."""
    got = server.generate(prompt=[5, 6], max_tokens=60, seed=2, ignore_eos=True,
                          logit_bias={str(i): -100 for i in range(3, 259)})
    text = got["text"]
    assert len(text) > 40 and "\ufffd" not in text
    return text


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 12])
def test_stop_strings(server, rng, stream, length):
    """A stop string ends the text before it and never leaks, not even in part."""
    text = plain_stretch(server)
    ask = {"prompt": [5, 6], "max_tokens": 60, "seed": 2, "ignore_eos": True,
           "logit_bias": {str(i): -100 for i in range(3, 259)}}
    for _ in range(4):
        at = rng.randrange(len(text) - length)
        stop = text[at:at + length]
        want = text[:text.index(stop)]
        if stream:
            lines = server.post("/generate", {**ask, "stop": [stop]}).lines
            got, finish = text_of(lines), lines[-1]["finish_reason"]
        else:
            r = server.generate(**ask, stop=["never there", stop])
            got, finish = r["text"], r["finish_reason"]
        assert (got, finish) == (want, "stop")


def test_stop_that_never_comes(server):
    """Held-back text comes out when the stop string does not."""
    text = plain_stretch(server)
    got = server.generate(prompt=[5, 6], max_tokens=60, seed=2, ignore_eos=True,
                          stop=[text[-3:] + "\u1234"],
                          logit_bias={str(i): -100 for i in range(3, 259)})
    assert got["text"] == text and got["finish_reason"] == "length"


def test_utf8_is_whole(server):
    """Random bytes from a random model: every piece of text is still whole UTF-8."""
    only_bytes = {str(i): -100 for i in range(700) if not 3 <= i < 259}
    for seed in range(6):
        r = server.post("/generate", {"prompt": [5], "max_tokens": 200, "seed": seed,
                                      "temperature": 3, "logit_bias": only_bytes})
        text = "".join(json.loads(x)["token"]["text"] for x in r.body.split(b"\n")
                       if b'"token"' in x)
        r.body.decode("utf-8")
        assert text


def test_characters_of_several_tokens(server):
    """A character that takes several byte tokens arrives in one piece."""
    ids = server.post("/tokenize", {"text": "🐢ż日"}).json["tokens"]
    lines = server.post("/generate", {"prompt": ids, "echo": True, "max_tokens": 0}).lines
    pieces = [x["token"]["text"] for x in lines[:-1]]
    assert "".join(pieces) == "🐢ż日" and all(len(p) <= 1 for p in pieces if p != " ")


def test_long_prompt_of_ids(server):
    ids = [3 + i % 690 for i in range(300000 // SCALE)]
    body = json.dumps({"prompt": ids, "max_tokens": 3, "stream": False, "seed": 1})
    r = server.post("/generate", body)
    assert r.status == 200 and r.json["usage"]["prompt_tokens"] == len(ids)


def test_long_text_by_worker(server):
    text = "the old man went down to the sea " * 2000
    n = len(server.post("/tokenize", {"text": text}).json["tokens"])
    got = server.generate(prompt=text, max_tokens=2, seed=1)
    assert got["usage"]["prompt_tokens"] == n


def test_unicode_in_and_out(server):
    for text in ["\U0001F600 é", "\u200b", "   ", "a\\u0000b", "\ud7ff\ue000"]:
        assert server.post("/generate", {"prompt": text, "max_tokens": 1}).status == 200
    raw = b'{"prompt":"\\ud83d\\ude00","max_tokens":0,"echo":true,"stream":false}'
    assert server.post("/generate", raw).json["text"] == "\U0001F600"


def test_keep_alive_many_requests(server):
    with server.raw() as c:
        body = json.dumps({**BASE, "max_tokens": 3}).encode()
        for _ in range(50):
            c.request(["POST /generate HTTP/1.1", "Host: localhost",
                       "Content-Length: %d" % len(body)], body)
            assert c.reply().status == 200
            c.request(["GET /health HTTP/1.1", "Host: localhost"])
            assert c.reply().status == 200
