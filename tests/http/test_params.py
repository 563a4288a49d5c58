"""Every field of POST /generate against its row of the server's own table."""

import json
import subprocess

import pytest

from harness import BIN, clean_env

FIELDS = json.loads(subprocess.run([BIN, "serve", "--fields"], capture_output=True, check=True,
                                   env=clean_env()).stdout)
NUMERIC = [f for f in FIELDS if "min" in f]
IDS = [f["name"] for f in NUMERIC]
ISSUE = ("prompt max_tokens temperature top_k top_p min_p typical_p repetition_penalty "
         "presence_penalty frequency_penalty logit_bias seed stop stream logprobs ignore_eos "
         "echo speculate cache_prompt session_id").split()


def ask(server, **fields):
    """Small and quick whatever the fields say: every answer is cut after a few tokens."""
    body = {"prompt": [5, 6], "stream": False, "max_tokens": 1, **fields}
    if body["max_tokens"] not in (0, 1):
        body.update(logit_bias={"2": 100})  # ends at once
    return server.post("/generate", body)


def refused(server, name, value, code):
    steps = server.metric("tnl_engine_steps_total")
    r = ask(server, **{name: value})
    assert (r.status, r.code, r.param) == (400, code, name), r.body
    assert server.metric("tnl_engine_steps_total") == steps


def test_table_is_the_contract():
    assert [f["name"] for f in FIELDS] == ISSUE
    assert [f["name"] for f in FIELDS if f["required"]] == ["prompt"]


@pytest.mark.parametrize("f", NUMERIC, ids=IDS)
def test_range_ends(server, f):
    low = f["min"] if not f.get("min_open") else 1e-6
    assert ask(server, **{f["name"]: low}).status == 200
    assert ask(server, **{f["name"]: f["max"]}).status == 200
    assert ask(server, **{f["name"]: f["default"]}).status == 200
    assert ask(server, **{f["name"]: None}).status == 200


@pytest.mark.parametrize("f", NUMERIC, ids=IDS)
def test_beyond_range(server, f):
    step = 1 if f["type"] == "integer" else 1e-6
    beyond = [f["min"] - step, f["max"] + step, -1e30, 1e30]
    if f.get("min_open"):
        beyond += [f["min"], 1e-60]
    for v in beyond:
        refused(server, f["name"], v, "out_of_range")


@pytest.mark.parametrize("f", NUMERIC, ids=IDS)
def test_wrong_type(server, f):
    wrong = ["1", "", True, False, [1], {}, [], {"a": 1}]
    if f["type"] == "integer":
        wrong += [0.5, 1.5]
    for v in wrong:
        refused(server, f["name"], v, "invalid_type")


@pytest.mark.parametrize("f", NUMERIC, ids=IDS)
def test_number_forms(server, f):
    for raw, status, code in [("1e999", 400, "out_of_range"), ("-1e999", 400, "out_of_range"),
                              ("9" * 100000, 400, None), ("1.0", 200, None), ("1e0", 200, None),
                              ("10e-1", 200, None)]:
        body = '{"prompt":[5],"stream":false,"ignore_eos":true,"logit_bias":{},' \
               '"%s":%s%s}' % (f["name"], raw, "" if f["name"] == "max_tokens" else
                               ',"max_tokens":1')
        r = server.post("/generate", body)
        assert r.status == status, (raw, r.body)
        if code:
            assert r.code == code
    if not f.get("min_open") and f["min"] <= 0:
        assert ask(server, **{f["name"]: -0.0}).status == 200
        r = server.post("/generate", '{"prompt":[5],"stream":false,"%s":1e-999%s}' % (
            f["name"], "" if f["name"] == "max_tokens" else ',"max_tokens":1'))
        assert r.status == 200, r.body


@pytest.mark.parametrize("name", ["stream", "ignore_eos", "echo"])
def test_booleans(server, name):
    for v in [True, False, None]:
        assert ask(server, **{name: v}).status == 200
    for v in [0, 1, "true", "", [], {}]:
        refused(server, name, v, "invalid_type")


@pytest.mark.parametrize("value,code", [
    (-1, "out_of_range"), (2 ** 53, "out_of_range"), (2 ** 64, "out_of_range"),
    ("18446744073709551616", "out_of_range"), ("", "out_of_range"), ("-1", "out_of_range"),
    ("01", "out_of_range"), ("1e3", "out_of_range"), (" 1", "out_of_range"),
    (1.5, "invalid_type"), (True, "invalid_type"), ([1], "invalid_type"), ({}, "invalid_type")])
def test_seed(server, value, code):
    refused(server, "seed", value, code)


@pytest.mark.parametrize("value,code", [
    ("x", "invalid_type"), (1, "invalid_type"), ([1], "invalid_type"), ([None], "invalid_type"),
    (["a", None], "invalid_type"), ([["a"]], "invalid_type"), ({}, "invalid_type"),
    ([""], "out_of_range"), (["a", ""], "out_of_range"), (["x"] * 17, "out_of_range"),
    (["x" * 257], "out_of_range"), (["é" * 129], "out_of_range"),
    ([str(i) for i in range(10 ** 4)], "out_of_range")])
def test_stop(server, value, code):
    refused(server, "stop", value, code)


def test_stop_fits(server):
    for v in [[], ["x"] * 16, ["x" * 256], ["é" * 128], None, ["\u0001"], [" "]]:
        assert ask(server, stop=v).status == 200


@pytest.mark.parametrize("value,code", [
    ([], "invalid_type"), ("x", "invalid_type"), (1, "invalid_type"), ({"1": "a"}, "invalid_type"),
    ({"1": None}, "invalid_type"), ({"1": True}, "invalid_type"), ({"700": 1}, "out_of_range"),
    ({"-1": 1}, "out_of_range"), ({"abc": 1}, "out_of_range"), ({"1e2": 1}, "out_of_range"),
    ({"": 1}, "out_of_range"), ({"01": 1}, "out_of_range"), ({"1.0": 1}, "out_of_range"),
    ({"99999999999999999999": 1}, "out_of_range"), ({"1": 100.5}, "out_of_range"),
    ({"1": -101}, "out_of_range")])
def test_logit_bias(server, value, code):
    refused(server, "logit_bias", value, code)


def test_logit_bias_forms(server):
    for v in [{}, {"0": 0}, {"699": -100, "0": 100}, None]:
        assert ask(server, logit_bias=v).status == 200
    r = server.post("/generate", '{"prompt":[5],"max_tokens":1,"logit_bias":{"1":1e999}}')
    assert r.status == 400 and r.code == "out_of_range"


@pytest.mark.parametrize("value,code", [
    (None, "missing_parameter"), ("", "prompt_empty"), ([], "prompt_empty"), (1, "invalid_type"),
    (True, "invalid_type"), ({}, "invalid_type"), (["a"], "invalid_type"), ([[1]], "invalid_type"),
    ([1, None], "invalid_type"), ([1.5], "invalid_type"), ([-1], "out_of_range"),
    ([700], "out_of_range"), ([2 ** 31], "out_of_range"), ([2 ** 63], "out_of_range"),
    ([1, 2, 3, 10 ** 30], "out_of_range"), ([1e300], "out_of_range"), ([True], "invalid_type")])
def test_prompt(server, value, code):
    refused(server, "prompt", value, code)


def test_prompt_forms(server):
    for raw in ["[1.0, 2]", "[ 1 ,\n2\t]", "[0]", "[699]", "[1e0]", "[-0]"]:
        r = server.post("/generate", '{"prompt":%s,"max_tokens":1,"stream":false}' % raw)
        assert r.status == 200, (raw, r.body)
    r = server.post("/generate", b'{"max_tokens":1}')
    assert (r.status, r.code, r.param) == (400, "missing_parameter", "prompt")


def test_too_many_tokens(start):
    s = start("--max-prompt-tokens", "100")
    assert s.post("/generate", {"prompt": [1] * 100, "max_tokens": 1}).status == 200
    for prompt in [[1] * 101, "word " * 200, [1] * 100000]:
        r = s.post("/generate", {"prompt": prompt})
        assert (r.status, r.code, r.param) == (400, "prompt_too_long", "prompt")
    s.settled()


@pytest.mark.parametrize("name", ["Prompt", "maxTokens", "n", "best_of", "messages", "tools",
                                  "response_format", "inputs", "", "x" * 64, "prompt ", "é"])
def test_unknown_field(server, name):
    r = ask(server, **{name: 1})
    assert (r.status, r.code, r.param) == (400, "unsupported_parameter", name or None)


def test_long_unknown_field_is_cut(server):
    r = ask(server, **{"é" * 100: 1})
    assert r.status == 400 and r.param == "é" * 32
    r = ask(server, **{"a" + "é" * 100: 1})
    assert r.param == "a" + "é" * 31
