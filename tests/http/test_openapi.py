"""The document at /openapi.json against the routes and field tables. tests/clients holds the server
to it with generated requests."""

import json
import subprocess

import pytest

from harness import BIN, clean_env


@pytest.fixture(scope="module")
def document(shared):
    r = shared.get("/openapi.json")
    assert r.status == 200 and r.headers["content-type"].startswith("application/json")
    return r.json


def references(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_references_lead_somewhere(document):
    used = set(references(document))
    known = {"#/components/schemas/" + name for name in document["components"]["schemas"]}
    assert used and used <= known and known == used


def test_every_path_is_served(server, document):
    """And answers the method that is described, with a status that is described."""
    for path, item in document["paths"].items():
        name = "app.js" if path.startswith("/ui/") else "tiny"
        for method, operation in item.items():
            body = b"{}" if method == "post" else None
            if "{id}" in path:
                name = server.post("/sessions", "").json["session_id"]
            real = path.replace("{name}", name).replace("{id}", name)
            r = server.ask(method.upper(), real, body)
            assert str(r.status) in operation["responses"], (path, r.status)
            assert r.status not in (404, 405)


def test_fields_are_those_of_the_table(document):
    fields = json.loads(subprocess.run([BIN, "serve", "--fields"], capture_output=True, check=True,
                                       env=clean_env()).stdout)
    schema = document["components"]["schemas"]["GenerateRequest"]
    assert list(schema["properties"]) == [f["name"] for f in fields]
    assert schema["required"] == ["prompt"]
    for f in fields:
        got = schema["properties"][f["name"]]
        assert got["description"] == f["doc"]
        if "max" in f:
            assert got["maximum"] == f["max"]


def test_it_answers_while_loading_or_not(server, document):
    assert document["openapi"] == "3.1.0"
    assert server.ask("HEAD", "/openapi.json").status == 200
