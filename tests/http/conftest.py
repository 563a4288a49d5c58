"""Fixtures of the HTTP tests: the real binary on a tiny random model, over real sockets.

TNL_BIN names the binary (default build/tnl). Only pytest and the standard library are needed. After
every test the shared server is held to the invariants of `Server.settled`."""

import os
import random
import shutil
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
sys.path.insert(0, os.path.join(HERE, "..", "support"))
sys.path.insert(0, HERE)

import tiny_model  # noqa: E402
from harness import BIN, Server  # noqa: E402

SEED = int(os.environ.get("TNL_SEED", "20250601"))


def pytest_report_header():
    return "binary %s, seed %d (TNL_SEED)" % (BIN, SEED)


@pytest.fixture
def rng(request):
    return random.Random("%d %s" % (SEED, request.node.name))


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A tiny model with a tokenizer that keeps every byte of a text."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model.TOKENIZERS.insert(0, os.path.join(HERE, "..", "data", "tok_bpe", "tokenizer.model"))
    tiny_model.write_model(str(path), tokenizer=True)
    return str(path)


@pytest.fixture(scope="session")
def model_ids(tmp_path_factory, model):
    """The same without tokenizer.model: token ids only."""
    path = tmp_path_factory.mktemp("model") / "ids"
    shutil.copytree(model, path)
    os.remove(path / "tokenizer.model")
    return str(path)


@pytest.fixture(scope="session")
def shared(model):
    if not os.path.exists(BIN):
        pytest.fail("no binary at %s (set TNL_BIN)" % BIN)
    s = Server(model)
    s.warm_up()
    s.baseline()
    yield s
    s.close()


@pytest.fixture
def server(shared):
    """The shared server; the invariants are checked afterwards."""
    yield shared
    shared.settled()


@pytest.fixture
def start(model):
    """start(*flags, env={}, model=...): a server of one's own, stopped afterwards."""
    running = []

    def go(*flags, env=None, folder=None, ready=True):
        s = Server(folder or model, *flags, env=env, ready=ready)
        running.append(s)
        if ready:
            s.baseline()
        return s

    yield go
    for s in running:
        s.close()
