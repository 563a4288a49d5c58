"""The server held to /openapi.json: requests generated from the document, good ones and bad ones.
No answer may be a server error, of an undocumented status or type, or not of its schema."""

import os

import hypothesis
import pytest
import schemathesis
from schemathesis.specs.openapi import checks

EXAMPLES = int(os.environ.get("TNL_EXAMPLES", "10"))  # for each route
SEED = int(os.environ.get("TNL_SEED", "20250601"))
CHECKS = [checks.status_code_conformance, checks.content_type_conformance,
          checks.response_schema_conformance]
LIMITS = ("max_tokens", "max_completion_tokens", "max_new_tokens")


@pytest.fixture
def api(shared):
    return schemathesis.openapi.from_url("http://127.0.0.1:%d/openapi.json" % shared.port)


schema = schemathesis.pytest.from_fixture("api")


def shorten(body):
    """Whatever the request says, only a few tokens are generated."""
    if not isinstance(body, dict):
        return
    for name in LIMITS:
        if isinstance(body.get(name), int) and body[name] > 8:
            body[name] = 8
    if "parameters" in body:
        shorten(body["parameters"])
        if isinstance(body["parameters"], dict):
            body["parameters"].setdefault("max_new_tokens", 4)
    elif "inputs" in body:
        body["parameters"] = {"max_new_tokens": 4}
    elif "max_completion_tokens" not in body and ("prompt" in body or "messages" in body):
        body.setdefault("max_tokens", 4)


@schema.parametrize()
@hypothesis.seed(SEED)
@hypothesis.settings(max_examples=EXAMPLES, deadline=None, database=None,
                     suppress_health_check=list(hypothesis.HealthCheck))
def test_document(server_alive, case):
    shorten(case.body)
    response = case.call(timeout=60)
    case.validate_response(response, checks=CHECKS)
    if response.status_code >= 500:
        assert (response.status_code, case.path) == (501, "/v1/embeddings")


@pytest.fixture(scope="module")
def server_alive(shared):
    yield shared
    shared.settled()
