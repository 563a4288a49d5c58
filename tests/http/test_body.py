"""Bodies that are not what they should be. Every refusal names a code, costs no engine step, and
the server goes on (the fixture checks)."""

import json

import pytest

from harness import SCALE

GOOD = json.dumps({"prompt": "hello", "max_tokens": 2, "seed": 1, "stop": ["x", "y\n"],
                   "logit_bias": {"5": 1.5, "6": -2}, "temperature": 0.5, "stream": False,
                   "logprobs": 2, "echo": True}).encode()


def refuse(server, body, code, param=None, status=400):
    steps = server.metric("tnl_engine_steps_total")
    r = server.post("/generate", body)
    assert (r.status, r.code) == (status, code), (body[:80], r.body)
    if param is not None:
        assert r.param == param
    assert server.metric("tnl_engine_steps_total") == steps


@pytest.mark.parametrize("body", [
    b"", b" ", b"\n\t\r ", b"{", b"}", b'{"prompt":"x"}x', b'{"prompt":"x"}{"prompt":"x"}',
    b'{"prompt":"x",}', b'{,"prompt":"x"}', b'{"prompt" "x"}', b"{'prompt':'x'}", b'{prompt:"x"}',
    b'{"prompt":"x"} // c', b'/**/{"prompt":"x"}', b'{"prompt":"a\nb"}', b'{"prompt":"a\x01b"}',
    b'{"prompt":"\\q"}', b'{"prompt":"\\u12"}', b'{"prompt":"\\ud800"}', b'{"prompt":"\\udc00"}',
    b'{"prompt":"\\udc00\\ud800"}', b'{"prompt":"\\ud800\\ud800"}', b'{"prompt":"\\ud800x"}',
    b'{"prompt":"a\\u0000b"}', b'{"prom\\u0000pt":"x"}', b'{"prompt":"x","stop":["\\u0000"]}',
    b'{"prompt":"x"}\x00', b'\x00{"prompt":"x"}', b'{"prompt":"a\x00b"}',
    b'\xef\xbb\xbf{"prompt":"x"}', b'{"prompt":"x","top_k":NaN}', b'{"prompt":"x","top_k":Infinity}',
    b'{"prompt":"x","top_k":007}', b'{"prompt":"x","top_k":+1}', b'{"prompt":"x","top_p":.5}',
    b'{"prompt":"x","top_p":5.}', b'{"prompt":"x","top_k":0x10}', b'{"prompt":"x","top_k":1e}',
    b'{"prompt":"x","top_k":-}', b'{"prompt":"x","echo":True}', b'{"prompt":"x","echo":nul}',
    b'\x0b{"prompt":"x"}', b'{"prompt":[1,]}', b'{"prompt":[,1]}', b'{"prompt":[1 2]}',
    b'{"prompt":[01]}', b'{"prompt":[1', b'{"prompt":[1,2],', b'{"prompt":[1],"a', b'{"prompt":[-]}'])
def test_not_json(server, body):
    refuse(server, body, "invalid_json")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-32-be"])
def test_other_encodings(server, encoding):
    r = server.post("/generate", '{"prompt":"x"}'.encode(encoding))
    assert r.status == 400 and r.code in ("invalid_json", "invalid_utf8")


@pytest.mark.parametrize("bad", [b"\xff", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80",
                                 b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\x80", b"\xc3",
                                 b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\xbd\xed\xb8\x80"])
def test_not_utf8(server, bad):
    refuse(server, b'{"prompt":"a' + bad + b'"}', "invalid_utf8")
    refuse(server, b'{"prompt":"x","a' + bad + b'":1}', "invalid_utf8")


@pytest.mark.parametrize("body", [b"[]", b'["prompt"]', b'"x"', b"1", b"null", b"true", b"1e5"])
def test_top_level_type(server, body):
    refuse(server, body, "invalid_type")


@pytest.mark.parametrize("body,param", [
    (b'{"prompt":"x","prompt":"y"}', "prompt"), (b'{"seed":1,"prompt":"x","seed":1}', "seed"),
    (b'{"prompt":"x","\\u0070rompt":"y"}', None), (b'{"prompt":[1],"prompt":[2]}', "prompt"),
    (b'{"prompt":"x","prompt":[1,2]}', "prompt"),
    (b'{"prompt":"x","logit_bias":{"5":1,"5":2}}', "5"),
    (b'{"prompt":"x","foo":1,"foo":1}', "foo")])
def test_duplicate_keys(server, body, param):
    refuse(server, body, "duplicate_key", param)


@pytest.mark.parametrize("body", [
    b'{"prompt":' + b"[" * 33 + b"]" * 33 + b"}", b"[" * 100000 + b"]" * 100000, b"[" * 100000,
    b'{"a":' * 100000 + b"1" + b"}" * 100000, b'{"a":' * 100000,
    b'{"prompt":"x","stop":[' + b",".join([b'"a"'] * 66000) + b"]}",
    b'{"prompt":[' + b",".join([b"1.5"] * 66000) + b"]}",
    b'{"prompt":"x","logit_bias":{' + b",".join(b'"%d":0' % i for i in range(1025)) + b"}}"])
def test_limits(server, body):
    refuse(server, body, "json_limit")


def test_every_cut(server):
    """A body cut anywhere is refused, whole it is served."""
    assert server.post("/generate", GOOD).status == 200
    with server.raw() as c:
        for n in range(len(GOOD)):
            c.request(["POST /generate HTTP/1.1", "Host: localhost", "Content-Length: %d" % n],
                      GOOD[:n])
            r = c.reply()
            assert (r.status, r.code) == (400, "invalid_json"), GOOD[:n]


def test_random_edits(server, rng):
    """Seeded edits of a good body: 200 or a named refusal, never anything else."""
    table = bytes(range(256))
    with server.raw() as c:
        for _ in range(1500):
            raw = bytearray(GOOD)
            for _ in range(rng.randrange(1, 4)):
                at = rng.randrange(len(raw))
                what = rng.randrange(4)
                if what == 0:
                    raw[at] = rng.choice(table)
                elif what == 1:
                    del raw[at:at + rng.randrange(1, 5)]
                elif what == 2:
                    raw[at:at] = rng.choice([b'"', b",", b"{", b"[", b"\\", b"0", b"e", b"-"])
                else:
                    raw[at:at] = raw[at:at + rng.randrange(1, 9)]
            c.request(["POST /generate HTTP/1.1", "Host: localhost",
                       "Content-Length: %d" % len(raw)], bytes(raw))
            r = c.reply()
            assert r.status in (200, 400), (bytes(raw), r.body)
            assert r.status == 200 or r.code


def test_random_bodies(server, rng):
    """Bodies grown from a small grammar around the real field names."""
    names = ["prompt", "max_tokens", "temperature", "top_k", "seed", "stop", "logit_bias",
             "stream", "logprobs", "echo", "zzz"]

    def value(depth):
        kind = rng.randrange(9 if depth < 3 else 6)
        if kind == 0:
            return rng.choice([0, 1, -1, 2, 5, 0.5, 1e30, -1e-30, 2 ** 53, 700])
        if kind == 1:
            return rng.choice(["", "x", "5", "é🐢", "a" * 300])
        if kind == 2:
            return rng.choice([True, False, None])
        if kind < 6:
            return rng.choice([1, 2, 3, "hello"])
        if kind == 6:
            return {rng.choice(names + ["5", "6"]): value(depth + 1) for _ in range(rng.randrange(4))}
        return [value(depth + 1) for _ in range(rng.randrange(4))]

    answers = set()
    with server.raw() as c:
        for _ in range(1500):
            body = {n: value(0) for n in rng.sample(names, rng.randrange(1, 4))}
            if rng.random() < 0.8:
                body.setdefault("prompt", "x")
                body["max_tokens"] = 1
                body["stream"] = False
            raw = json.dumps(body).encode()
            if body.get("max_tokens", 1) != 1 or body.get("stream", True) is not False:
                body.update(logit_bias={"2": 100})
                raw = json.dumps(body).encode()
            c.request(["POST /generate HTTP/1.1", "Host: localhost",
                       "Content-Length: %d" % len(raw)], raw)
            r = c.reply()
            assert r.status in (200, 400), (raw, r.body)
            answers.add(r.status if r.status == 200 else r.code)
    assert {200, "invalid_type", "out_of_range", "unsupported_parameter"} <= answers


def test_sixteen_kib_boundary(server):
    """The same answer whether a worker or the polling thread does the work."""
    for n in [16300, 16383, 16384, 16385, 20000]:
        body = '{"prompt":"hello","max_tokens":3,"seed":1,"stream":false'
        body += " " * (n - len(body) - 1) + "}"
        assert len(body) == n
        ids = [t["id"] for t in server.post("/generate", body).json["tokens"]]
        assert ids == [t["id"] for t in
                       server.generate(prompt="hello", max_tokens=3, seed=1)["tokens"]]
    assert server.post("/generate", '{"prompt":"' + "x" * 20000 + '","a":1}').code == \
        "unsupported_parameter"


def test_prompt_of_one_letter(server):
    for letter in ["a", " ", "日", "🐢"]:
        r = server.post("/generate", {"prompt": letter * (30000 // SCALE), "max_tokens": 1, "stream": False})
        assert r.status == 200
