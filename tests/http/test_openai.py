"""POST /v1/completions: shapes, streams, several answers, refusals. The official client is in
tests/clients."""

import json
import threading

import pytest

from harness import wait_until

BASE = {"prompt": "Once upon a time", "max_tokens": 12, "seed": 3, "ignore_eos": True}
WORDS = {str(i): -100 for i in range(3, 259)}  # no byte pieces: whole characters only


def spent(answer):
    """Usage without what a known prefix spared, which depends on what was asked before."""
    usage = dict(answer["usage"])
    assert set(usage.pop("prompt_tokens_details")) == {"cached_tokens"}
    return usage


def ask(server, **fields):
    r = server.post("/v1/completions", {**BASE, **fields})
    assert r.status == 200, r.body
    return r.json


def chunks(r):
    """The objects of a stream that ended well."""
    assert r.status == 200, r.body
    assert r.headers["content-type"].startswith("text/event-stream")
    blocks = [b for b in r.body.decode().split("\n\n")[:-1] if not b.startswith(":")]
    assert all(b.startswith("data: ") for b in blocks) and blocks[-1] == "data: [DONE]"
    return [json.loads(b[6:]) for b in blocks[:-1]]


def stream(server, path="/v1/completions", **fields):
    return chunks(server.post(path, {**BASE, "stream": True, **fields}))


def test_answer(server):
    got = ask(server)
    assert set(got) == {"id", "object", "created", "model", "system_fingerprint", "choices",
                        "usage"}
    assert got["object"] == "text_completion" and got["id"].startswith("cmpl-")
    n = len(server.post("/tokenize", {"text": BASE["prompt"]}).json["tokens"])
    assert spent(got) == {"prompt_tokens": n, "completion_tokens": 12, "total_tokens": n + 12}
    (choice,) = got["choices"]
    assert choice == {"index": 0, "text": server.generate(**BASE)["text"], "logprobs": None,
                      "finish_reason": "length"}


def test_defaults(server):
    r = server.post("/v1/completions", {"prompt": [5], "ignore_eos": True})
    assert r.json["usage"]["completion_tokens"] == 16


def test_stream_is_the_answer(server):
    got = stream(server)
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in got}) == 1
    assert all("usage" not in c for c in got)
    reasons = [c["choices"][0]["finish_reason"] for c in got]
    assert reasons == [None] * (len(got) - 1) + ["length"]
    assert "".join(c["choices"][0]["text"] for c in got) == ask(server)["choices"][0]["text"]


def test_stream_usage(server):
    *rest, last = stream(server, stream_options={"include_usage": True})
    assert all(c["usage"] is None for c in rest)
    assert last["choices"] == [] and spent(last) == spent(ask(server))
    got = stream(server, stream_options={"continuous_usage_stats": True})
    counts = [c["usage"]["completion_tokens"] for c in got]
    assert counts == sorted(counts) and counts[-1] == 12


@pytest.mark.parametrize("streamed", [False, True])
def test_several(server, streamed):
    """Choice k is what seed + k gives alone, whatever runs beside it."""
    single = [ask(server, seed=3 + k)["choices"][0]["text"] for k in range(3)]
    if streamed:
        texts = ["", "", ""]
        for c in stream(server, n=3):
            texts[c["choices"][0]["index"]] += c["choices"][0]["text"]
    else:
        got = ask(server, n=3)
        assert [c["index"] for c in got["choices"]] == [0, 1, 2]
        assert got["usage"]["completion_tokens"] == 36
        texts = [c["text"] for c in got["choices"]]
    assert texts == single


def test_prompts(server):
    ids = server.post("/tokenize", {"text": BASE["prompt"]}).json["tokens"]
    one = ask(server)["choices"][0]["text"]
    assert ask(server, prompt=ids)["choices"][0]["text"] == one
    for prompt in [[BASE["prompt"]] * 2, [ids, ids], [BASE["prompt"], ids]]:
        got = ask(server, prompt=prompt, n=2)
        assert [c["index"] for c in got["choices"]] == [0, 1, 2, 3]
        assert got["choices"][0]["text"] == got["choices"][2]["text"] == one
        assert got["usage"]["prompt_tokens"] == 2 * len(ids)


def test_best_of(server):
    draws = [ask(server, seed=3 + k, logprobs=0)["choices"][0] for k in range(4)]

    def mean(c):
        return sum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["token_logprobs"])

    draws.sort(key=mean, reverse=True)
    got = ask(server, best_of=4, n=2)
    assert [c["text"] for c in got["choices"]] == [c["text"] for c in draws[:2]]
    assert got["usage"]["completion_tokens"] == 48


@pytest.mark.parametrize("echo", [False, True])
def test_logprobs(server, echo):
    got = ask(server, logprobs=3, echo=echo, logit_bias=WORDS)["choices"][0]
    lp = got["logprobs"]
    assert set(lp) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert "".join(lp["tokens"]).lstrip() == got["text"].lstrip()
    assert len({len(v) for v in lp.values()}) == 1
    for i, (token, logprob, top, at) in enumerate(zip(*lp.values())):
        if echo and i == 0:
            assert logprob is None and top is None and at == 0
            continue
        assert got["text"][at:].startswith(token)
        assert top[token] == logprob and 3 <= len(top) <= 4
    pieces = [c["choices"][0]["logprobs"]
              for c in stream(server, logprobs=3, echo=echo, logit_bias=WORDS)[:-1]]
    for key, values in lp.items():
        assert [v for p in pieces for v in p[key]] == values


def test_logprobs_of_bytes(server):
    """Pieces that are no whole character are spelled by their bytes, and keys stay unique."""
    got = server.post("/v1/completions", {**BASE, "prompt": "\U0001f422", "echo": True,
                                          "logprobs": 20, "max_tokens": 3})
    lp = json.loads(got.body, object_pairs_hook=unique)["choices"][0]["logprobs"]
    assert [t for t in lp["tokens"] if t.startswith("bytes:\\x")]


def unique(pairs):
    assert len({k for k, _ in pairs}) == len(pairs)
    return dict(pairs)


def test_no_alternatives(server):
    lp = ask(server, logprobs=0)["choices"][0]["logprobs"]
    assert lp["top_logprobs"] == [None] * 12 and len(lp["token_logprobs"]) == 12


def test_echo_only(server):
    got = ask(server, echo=True, max_tokens=0, logprobs=1)
    assert got["choices"][0]["text"] == BASE["prompt"]
    assert got["choices"][0]["logprobs"]["token_logprobs"][0] is None


def test_stop(server):
    text = ask(server, logit_bias=WORDS, max_tokens=40)["choices"][0]["text"]
    stop = text[10:13]
    for form in [stop, [stop], ["never this", stop]]:
        c = ask(server, logit_bias=WORDS, max_tokens=40, stop=form)["choices"][0]
        assert c["finish_reason"] == "stop" and c["text"] == text[:text.index(stop)]


def test_eos_is_stop(server):
    c = server.post("/v1/completions", {"prompt": [5], "logit_bias": {"2": 100}}).json["choices"][0]
    assert (c["finish_reason"], c["text"]) == ("stop", "")


REFUSED = [
    ({"model": "other"}, 404, "unknown_model", "model"),
    ({"model": 1}, 400, "invalid_type", "model"),
    ({"suffix": "x"}, 400, "unsupported_parameter", "suffix"),
    ({"nonsense": 1}, 400, "unsupported_parameter", "nonsense"),
    ({"max_new_tokens": 1}, 400, "unsupported_parameter", "max_new_tokens"),
    ({"prompt": None}, 400, "missing_parameter", "prompt"),
    ({"prompt": ""}, 400, "prompt_empty", "prompt"),
    ({"prompt": []}, 400, "prompt_empty", "prompt"),
    ({"prompt": ["a", ""]}, 400, "prompt_empty", "prompt"),
    ({"prompt": [[1], []]}, 400, "prompt_empty", "prompt"),
    ({"prompt": ["a", 1]}, 400, "invalid_type", "prompt"),
    ({"prompt": [1, "a"]}, 400, "invalid_type", "prompt"),
    ({"prompt": [[1], [[1]]]}, 400, "invalid_type", "prompt"),
    ({"prompt": [[700]]}, 400, "out_of_range", "prompt"),
    ({"prompt": ["a"] * 33}, 400, "out_of_range", "prompt"),
    ({"prompt": ["a"] * 32, "n": 3}, 400, "out_of_range", "n"),
    ({"n": 0}, 400, "out_of_range", "n"),
    ({"n": 9}, 400, "out_of_range", "n"),
    ({"n": 10 ** 6}, 400, "out_of_range", "n"),
    ({"best_of": 10 ** 6}, 400, "out_of_range", "best_of"),
    ({"n": 3, "best_of": 2}, 400, "conflict", "best_of"),
    ({"best_of": 2, "stream": True}, 400, "conflict", "best_of"),
    ({"stream_options": {"include_usage": True}}, 400, "conflict", "stream_options"),
    ({"stream_options": {"other": 1}}, 400, "unsupported_parameter", "other"),
    ({"stream_options": 1}, 400, "invalid_type", "stream_options"),
    ({"stop": [""]}, 400, "out_of_range", "stop"),
    ({"stop": 1}, 400, "invalid_type", "stop"),
    ({"temperature": 2.5}, 400, "out_of_range", "temperature"),
    ({"logprobs": 21}, 400, "out_of_range", "logprobs"),
    ({"logprobs": True}, 400, "invalid_type", "logprobs"),
    ({"logit_bias": {"700": 1}}, 400, "out_of_range", "logit_bias"),
    ({"seed": -1}, 400, "out_of_range", "seed"),
]


@pytest.mark.parametrize("fields,status,code,param", REFUSED)
def test_refused(server, fields, status, code, param):
    steps = server.metric("tnl_engine_steps_total")
    r = server.post("/v1/completions", {**BASE, **fields})
    assert (r.status, r.code, r.param) == (status, code, param), r.body
    assert set(r.json["error"]) == {"message", "type", "param", "code"}
    if code == "conflict":
        assert r.json["error"]["message"].startswith(param + " ")
    assert server.metric("tnl_engine_steps_total") == steps


def test_cached_tokens(server):
    """A prompt read before is not read again, and the answer is the same."""
    fields = {"prompt": [7, 8, 9] * 100, "cache_prompt": True}
    first, again = ask(server, **fields), ask(server, **fields)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 200
    plain = ask(server, **{**fields, "cache_prompt": False})
    assert plain["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert first["choices"] == again["choices"] == plain["choices"]


def test_neutral_values(server):
    ask(server, suffix="", user="somebody", model="tiny", stream_options=None, n=None,
        best_of=None, logprobs=None, response_format={"type": "text"}, stop=None)


def test_failure_in_a_stream_has_no_done(server):
    ban = {str(i): -100 for i in range(700)}
    r = server.post("/v1/completions", {**BASE, "logit_bias": ban, "n": 2})
    assert (r.status, r.code) == (400, "no_token_left")
    r = server.post("/v1/completions", {**BASE, "logit_bias": ban, "stream": True})
    assert r.status == 200 and b"[DONE]" not in r.body
    assert r.events[-1]["error"]["code"] == "no_token_left"


def test_all_or_none(start):
    """More draws than there are places: refused whole, and nothing stays behind."""
    s = start("--parallel", "2", "--queue", "1")
    r = s.post("/v1/completions", {**BASE, "n": 4, "max_tokens": 5000})
    assert (r.status, r.code) == (503, "queue_full") and "retry-after" in r.headers
    wait_until(lambda: s.metric("tnl_requests_running") + s.metric("tnl_requests_waiting") == 0,
               "what was submitted is cancelled")
    assert s.post("/v1/completions", {**BASE, "n": 3}).status == 200
    s.settled()


def test_leaving_cancels_every_draw(server):
    body = json.dumps({**BASE, "max_tokens": 10 ** 5, "n": 4, "stream": True}).encode()
    with server.raw() as c:
        c.request(["POST /v1/completions HTTP/1.1", "Host: localhost",
                   "Content-Length: %d" % len(body)], body)
        c.until(b"\"index\":3")
        wait_until(lambda: server.metric("tnl_requests_running") == 4, "all draws run")
    wait_until(lambda: server.metric("tnl_requests_running") == 0, "all draws are cancelled")


def test_drain_ends_a_stream_with_an_error(start):
    s = start("--drain-seconds", "1")
    got = []
    body = {**BASE, "max_tokens": 10 ** 6, "stream": True}
    t = threading.Thread(target=lambda: got.append(s.post("/v1/completions", body)))
    t.start()
    wait_until(lambda: s.metric("tnl_requests_running") == 1, "it runs")
    s.process.terminate()
    t.join()
    assert got[0].events[-1]["error"]["code"] == "draining" and b"[DONE]" not in got[0].body
    assert s.process.wait(30) == 0


def test_embeddings(server):
    r = server.post("/v1/embeddings", {"input": "x", "model": "tiny"})
    assert (r.status, r.code) == (501, "not_supported")


def test_models(server):
    assert server.get("/v1/models/tiny").json == server.get("/v1/models").json["data"][0]
    r = server.get("/v1/models/other")
    assert (r.status, r.code) == (404, "unknown_model")
