"""Runs the real binary. TNL_BIN names it (default build/tnl); a build without a tokenizer or
without a server skips the tests that need them."""

import json
import os
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))

import tiny_model  # noqa: E402

BIN = os.path.abspath(os.environ.get("TNL_BIN", os.path.join(ROOT, "build", "tnl")))
HANG_SECONDS = 300  # a guard against hanging, not a measurement


class Result:
    def __init__(self, p):
        self.code = p.returncode
        self.out = p.stdout.decode("utf-8")
        self.err = p.stderr.decode("utf-8")

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]


def run(*args, stdin=b"", env=None, code=0):
    """Run tnl; the exit code must be `code` (None: any), and no sanitizer may have spoken."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TNL_") or k == "TNL_CPU"}
    p = subprocess.run([BIN, *map(str, args)], input=stdin, capture_output=True,
                       timeout=HANG_SECONDS, env={**clean, **(env or {})})
    r = Result(p)
    assert "Sanitizer" not in r.err and "runtime error" not in r.err, r.err
    assert code is None or r.code == code, (args, r.code, r.out[-500:], r.err[-500:])
    return r


@pytest.fixture
def tnl():
    return run


def has_tokenizer():
    return run("tokenize", "--help", code=None).code == 0


def has_server():
    return "serve       serve a model over HTTP\n" in run("--help").out


def has_client():
    return "load        put load on a server and measure it\n" in run("--help").out


needs_tokenizer = pytest.mark.skipif(not has_tokenizer(), reason="built without a tokenizer")
needs_server = pytest.mark.skipif(not has_server(), reason="built without a server")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A v2 model with a tokenizer.model beside it."""
    path = tmp_path_factory.mktemp("models") / "v2"
    tiny_model.write_model(str(path), tokenizer=True)
    return path


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """A v3 model with biases and LayerNorm, BF16, without a tokenizer."""
    path = tmp_path_factory.mktemp("models") / "v3"
    tiny_model.write_model(str(path), variant="v3", bias=True, norm="layernorm", dtype="BF16",
                           tied=False)
    return path
