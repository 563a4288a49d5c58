"""response_format and TGI's grammar: every answer that ends is of the form asked for, whatever the
model (here a random one) would rather say; what is not supported is refused by name."""

import json

import pytest

TEXT = "Once upon a time"


def schema_of(schema):
    return {"type": "json_schema", "json_schema": {"name": "form", "schema": schema,
                                                   "strict": True}}


def ask(server, form, status=200, path="/v1/completions", **fields):
    r = server.post(path, {"prompt": TEXT, "max_tokens": 400, "response_format": form, **fields})
    assert r.status == status, r.body
    return r.json


def answers(server, schema, n=6):
    """Parsed answers of several draws; a draw may also run into its limit of tokens."""
    out = []
    for seed in range(n):
        c = ask(server, schema_of(schema), seed=seed, temperature=2)["choices"][0]
        if c["finish_reason"] == "stop":
            out.append(json.loads(c["text"]))
    assert out
    return out


def obj(properties, required=None, **more):
    return {"type": "object", "properties": properties,
            "required": list(properties) if required is None else required, **more}


SHORT = {"type": "string", "maxLength": 5}


def test_object(server):
    schema = obj({"name": SHORT, "n": {"type": "integer"}, "ok": {"type": "boolean"},
                  "x": {"type": "null"}}, additionalProperties=False, title="T",
                 description="d")
    for got in answers(server, schema):
        assert list(got) == ["name", "n", "ok", "x"]
        assert len(got["name"]) <= 5 and isinstance(got["n"], int)
        assert isinstance(got["ok"], bool) and got["x"] is None


def test_optional_properties(server):
    seen = set()
    for got in answers(server, obj({c: {"type": "null"} for c in "abc"}, required=["b"]), 12):
        assert "b" in got and list(got) == sorted(got)
        seen.add(tuple(got))
    assert len(seen) > 1


def test_enum(server):
    values = ["cat", "category", 1, 12, -3.5, True, None, "ä\n\"", "日本"]
    for got in answers(server, obj({"v": {"enum": values}, "c": {"const": "x"}}), 12):
        assert got["v"] in values and got["c"] == "x"


def test_array(server):
    schema = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 4}
    for got in answers(server, schema):
        assert 2 <= len(got) <= 4 and set(got) <= {1, 2}


def test_alternatives(server):
    schema = obj({"a": {"anyOf": [SHORT, {"type": "null"}]}, "b": {"type": ["integer", "null"]},
                  "c": {"oneOf": [{"const": "x"}, {"const": "y"}]},
                  "d": {"allOf": [{"type": "boolean"}]}})
    for got in answers(server, schema):
        assert got["a"] is None or len(got["a"]) <= 5
        assert got["b"] is None or isinstance(got["b"], int)
        assert got["c"] in ("x", "y") and isinstance(got["d"], bool)


def test_length_counts_characters(server):
    for got in answers(server, {"type": "string", "minLength": 3, "maxLength": 3}, 12):
        assert len(got) == 3


def test_recursion(server):
    node = obj({"v": {"enum": [1]}, "next": {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]}})
    for got in answers(server, {"$defs": {"N": node}, "$ref": "#/$defs/N"}):
        while got:
            assert got["v"] == 1
            got = got["next"]


def test_map(server):
    schema = {"type": "object", "additionalProperties": {"enum": [7]}}
    assert all(set(got.values()) <= {7} for got in answers(server, schema, 12))
    assert answers(server, {"type": "object", "additionalProperties": False}) == [{}] * 6


def test_json_object(server):
    for seed in range(6):
        c = ask(server, {"type": "json_object"}, seed=seed,
                logit_bias={"93": 4, "125": 4})["choices"][0]
        assert c["text"].lstrip().startswith("{")
        if c["finish_reason"] == "stop":
            assert isinstance(json.loads(c["text"]), dict)


def test_it_is_the_same_every_time(server):
    form = schema_of(obj({"a": SHORT, "b": {"type": "integer"}}))
    first = ask(server, form, seed=5, n=3)
    assert ask(server, form, seed=5, n=3)["choices"] == first["choices"]
    greedy = [ask(server, form, temperature=0)["choices"] for _ in range(2)]
    assert greedy[0] == greedy[1]


def test_chat_and_tgi(server):
    schema = obj({"a": SHORT})
    r = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": TEXT}],
                                             "max_tokens": 400, "seed": 1,
                                             "response_format": schema_of(schema)})
    assert set(json.loads(r.json["choices"][0]["message"]["content"])) == {"a"}
    for grammar in [{"type": "json", "value": schema},
                    {"type": "json_schema", "value": {"name": "n", "schema": schema}}]:
        parameters = {"max_new_tokens": 400, "grammar": grammar, "details": True}
        r = server.post("/generate", {"inputs": TEXT, "parameters": parameters})
        assert set(json.loads(r.json["generated_text"])) == {"a"}
        assert r.json["details"]["finish_reason"] == "eos_token"
        r = server.post("/generate_stream", {"inputs": TEXT, "parameters": parameters})
        assert set(json.loads(r.events[-1]["generated_text"])) == {"a"}


UNSUPPORTED = [
    ({"type": "string", "pattern": "a"}, "pattern"), ({"type": "string", "format": "date"}, "format"),
    ({"type": "integer", "minimum": 1}, "minimum"), ({"not": {}}, "not"), ({"if": {}}, "if"),
    ({"type": "object", "patternProperties": {}}, "patternProperties"),
    ({"type": "array", "prefixItems": []}, "prefixItems"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"type": "thing"}, "type"), ({"type": []}, "type"), ({"type": [1]}, "type"),
    ({"enum": []}, "enum"), ({"enum": [{}]}, "enum"), ({"enum": [1], "const": 1}, "const"),
    ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength"),
    ({"type": "array", "minItems": -1}, "minItems"), ({"type": "array", "maxItems": 1.5}, "maxItems"),
    ({"type": "object", "required": ["a"]}, "required"), ({"properties": 1}, "properties"),
    ({"type": "string", "maxItems": 1}, "type"), (False, "object"),
    ({"$ref": "#/nowhere"}, "$ref"), ({"$ref": "http://x/y"}, "$ref"), ({"$ref": 1}, "$ref"),
    ({"anyOf": []}, "anyOf"), ({"allOf": [{}, {}]}, "allOf"),
    ({"anyOf": [{"type": "string"}, {"enum": ["a"]}]}, "begin differently"),
    ({"type": ["integer", "number"]}, "begin differently"),
    ({"type": "string", "anyOf": [{}]}, "alone"),
    ({"$defs": {"N": obj({"n": {"$ref": "#/$defs/N"}})}, "$ref": "#/$defs/N"}, "never end"),
    ({"$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}, "$ref": "#/$defs/A"},
     "circle"),
    ({"$defs": {"A": {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}]}}, "$ref": "#/$defs/A"},
     "begin differently"),
    (obj({"p%d" % i: {} for i in range(65)}), "too many"),
    ({"enum": list(range(1025))}, "too many"), ({"enum": ["x" * 70000]}, "too many"),
]


@pytest.mark.parametrize("schema,word", UNSUPPORTED)
def test_outside_the_subset(server, schema, word):
    steps = server.metric("tnl_engine_steps_total")
    error = ask(server, schema_of(schema), status=400)["error"]
    assert error["code"] == "unsupported_schema" and error["param"] == "response_format"
    assert word in error["message"]
    assert server.metric("tnl_engine_steps_total") == steps


@pytest.mark.parametrize("form,code", [
    (1, "invalid_type"), ({}, "invalid_type"), ({"type": "xml"}, "out_of_range"),
    ({"type": "json_schema"}, "invalid_type"),
    ({"type": "json_schema", "json_schema": {"name": "x"}}, "invalid_type"),
    ({"type": "json_object", "more": 1}, "unsupported_parameter"),
    ({"type": "json_schema", "json_schema": {"schema": {}, "x": 1}}, "unsupported_parameter")])
def test_forms(server, form, code):
    assert ask(server, form, status=400)["error"]["code"] == code


def test_conflicts(server, start, model_ids):
    assert ask(server, {"type": "json_object"}, status=400,
               ignore_eos=True)["error"]["code"] == "conflict"
    r = server.post("/generate", {"inputs": TEXT, "parameters": {
        "grammar": {"type": "regex", "value": "a*"}}})
    assert r.status == 422 and "grammar" in r.json["error"]
    s = start(folder=model_ids)
    r = s.post("/v1/completions", {"prompt": [1], "response_format": {"type": "json_object"}})
    assert (r.status, r.code) == (400, "no_tokenizer")


def test_hostile_schemas(server):
    """Wide, deep and tangled: refused or answered, in bounded time and memory."""
    chain = {"D%d" % i: {"$ref": "#/$defs/D%d" % (i + 1)} for i in range(300)}
    ladder = {"D%d" % i: obj({"a": {"$ref": "#/$defs/D%d" % (i + 1)},
                              "b": {"$ref": "#/$defs/D%d" % (i + 1)}}) for i in range(250)}
    ladder["D250"] = {"type": "null"}
    for schema in [{"$defs": chain, "$ref": "#/$defs/D0"}, {"$defs": ladder, "$ref": "#/$defs/D0"},
                   {"anyOf": [{"enum": [i]} for i in range(5000)]},
                   {"anyOf": [{}] * 5000}, {"type": ["null"] * 5000},
                   {"type": "array", "items": {"type": "array", "items": {}}, "minItems": 10 ** 9},
                   {"type": "string", "minLength": 10 ** 9},
                   {"properties": {"x" * 4000 + str(i): {"enum": ["y" * 900]} for i in range(60)}}]:
        r = server.post("/v1/completions", {"prompt": TEXT, "max_tokens": 5,
                                            "response_format": schema_of(schema)})
        assert r.status in (200, 400), r.body
    deep = "{\"type\":\"array\",\"items\":" * 10000 + "{}" + "}" * 10000
    r = server.post("/v1/completions", '{"prompt":"a","response_format":{"type":"json_object",'
                                       '"schema":%s}}' % deep)
    assert (r.status, r.code) == (400, "json_limit")
